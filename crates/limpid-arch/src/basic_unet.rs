//! BasicUNet: a U-Net with five scales and two convolutions on each (Falk et al. 2019,
//! doi:10.1038/s41592-018-0261-2).
//!
//! Reference: MONAI `BasicUNet` (Apache-2.0), transposed-convolution upsampling.
//!
//! ```text
//! x [N, in, s…] → conv_0 (f0) → down_1 (f1) → … → down_4 (f4)
//!   → upcat_4 (f3) → upcat_3 (f2) → upcat_2 (f1) → upcat_1 (f5) → final_conv → [N, out, s…]
//! ```

use crate::adn::{check_norm, norm_of};
use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{ConvTransposeSpec, Pad, PoolSpec};
use limpid_nn::layers::{Activation, ActivationConfig, Conv, ConvTranspose, Norm, NormConfig};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of a BasicUNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the five scales, then of the last block.
    pub features: [usize; 6],
    /// Normalisation after each convolution.
    pub norm: NormConfig,
    /// Activation after each normalisation.
    pub activation: ActivationConfig,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// MONAI's defaults.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 1,
            out_channels: 1,
            features: [32, 32, 64, 128, 256, 32],
            norm: NormConfig::Instance { affine: true },
            activation: ActivationConfig::LeakyRelu { slope: 0.1 },
            residual: false,
        }
    }
}

impl Config {
    /// A narrow one for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self { features: [16, 16, 32, 64, 128, 16], ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let conv = |block: &str| size_of(shapes, &format!("{block}.conv_1.conv.weight"), 0);
        let first = "conv_0.conv_0.conv.weight";
        let norm = norm_of(shapes, "conv_0.conv_0.adn.N");
        let activation = if shapes.contains_key("conv_0.conv_0.adn.A.weight") {
            ActivationConfig::Prelu {}
        } else {
            ActivationConfig::LeakyRelu { slope: 0.1 }
        };
        Some(Self {
            dims: rank_of(shapes, first)?,
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, "final_conv.weight", 0)?,
            features: [
                conv("conv_0")?,
                conv("down_1.convs")?,
                conv("down_2.convs")?,
                conv("down_3.convs")?,
                conv("down_4.convs")?,
                conv("upcat_1.convs")?,
            ],
            norm,
            activation,
            residual: false,
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "basic_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        BasicUNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(BasicUNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 16: the image is halved four times. (Odd sizes work too, at a loss on the border.)
    fn divisor(&self) -> Vec<usize> {
        vec![16; self.dims]
    }

    /// Upsampled images are padded to the skip connection's odd size; the coarsest level must keep more
    /// than a pixel.
    fn any_size_from(&self) -> Option<usize> {
        Some(32)
    }

    /// 140 per axis: two 3×3 convolutions on the way down and up at each of five scales.
    fn receptive_field(&self) -> Vec<usize> {
        let down: usize = (0..5).map(|l| (if l > 0 { 1 << (l - 1) } else { 0 }) + (4 << l)).sum();
        let up: usize = (0..4).map(|l| 4 << l).sum();
        vec![1 + down + up; self.dims]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        let f = &self.features;
        let shrink = 1usize << self.dims;
        4 * (4 * f[0] + f[5] + f[1] * 3 / shrink + f[2] * 3 / shrink.pow(2))
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (i, &f) in self.features.iter().enumerate() {
            if f == 0 || (i > 1 && i < 5 && f % 2 == 1) {
                at.problem(format!("features.{i}"), format!("must be even and above 0, got {f}"));
            }
        }
        check_norm(self.norm, &self.features, at);
        if self.in_channels == 0 || self.out_channels == 0 {
            at.problem("in_channels", "and `out_channels` must be at least 1");
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// Convolution, normalisation, activation, twice (`TwoConv`).
#[derive(Debug)]
struct TwoConv([(Conv, Norm, Activation); 2]);

impl TwoConv {
    fn new(c: &Config, inputs: usize, outputs: usize, scope: &Scope) -> Result<Self> {
        let one = |name: &str, inputs: usize| -> Result<_> {
            let scope = scope.pp(name);
            Ok((
                Conv::same(c.dims, inputs, outputs, 3, true, &scope.pp("conv"))?,
                Norm::new(c.norm, outputs, &scope.pp("adn").pp("N"))?,
                Activation::new(c.activation, &scope.pp("adn").pp("A"))?,
            ))
        };
        Ok(Self([one("conv_0", inputs)?, one("conv_1", outputs)?]))
    }

    /// Of tensors joined along the channels, which need no join.
    fn forward(&self, parts: &[&Tensor], ctx: &Ctx) -> Result<Tensor> {
        let [first, second] = &self.0;
        let one = |(conv, norm, act): &(Conv, Norm, Activation), parts: &[&Tensor]| {
            act.forward_norm(norm, &conv.forward_cat(parts)?, ctx)
        };
        one(second, &[&one(first, parts)?])
    }
}

/// Upsampling, concatenation with the skip connection, two convolutions (`UpCat`).
#[derive(Debug)]
struct UpCat {
    up: ConvTranspose,
    convs: TwoConv,
}

impl UpCat {
    fn new(
        c: &Config,
        inputs: usize,
        skip: usize,
        outputs: usize,
        halve: bool,
        scope: &Scope,
    ) -> Result<Self> {
        let up = if halve { inputs / 2 } else { inputs };
        let two = vec![2; c.dims];
        let spec = ConvTransposeSpec { stride: two.clone(), ..ConvTransposeSpec::unit(c.dims) };
        let deconv = scope.pp("upsample").pp("deconv");
        Ok(Self {
            up: ConvTranspose::new(inputs, up, &two, spec, true, &deconv)?,
            convs: TwoConv::new(c, skip + up, outputs, &scope.pp("convs"))?,
        })
    }

    fn forward(&self, x: &Tensor, skip: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut up = self.up.forward(x)?;
        // pooling dropped the last row of an odd size: it is repeated
        let pads: Vec<(usize, usize)> = skip.dims()[2..]
            .iter()
            .zip(&up.dims()[2..])
            .map(|(s, u)| (0, s.saturating_sub(*u)))
            .collect();
        if pads.iter().any(|p| p.1 > 0) {
            up = limpid_kernels::pad(&up, &pads, Pad::Replicate)?;
        }
        self.convs.forward(&[skip, &up], ctx)
    }
}

/// The network.
#[derive(Debug)]
pub struct BasicUNet {
    first: Arc<TwoConv>,
    down: Vec<Arc<TwoConv>>,
    up: Vec<Arc<UpCat>>,
    last: Conv,
    pool: PoolSpec,
    residual: bool,
}

impl BasicUNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let f = &c.features;
        let convs =
            |inputs, outputs, scope: &Scope| TwoConv::new(c, inputs, outputs, scope).map(Arc::new);
        let down = |i: usize| convs(f[i - 1], f[i], &scope.pp(format!("down_{i}")).pp("convs"));
        let up = |level: usize, outputs, halve| {
            let scope = scope.pp(format!("upcat_{level}"));
            UpCat::new(c, f[level], f[level - 1], outputs, halve, &scope).map(Arc::new)
        };
        let first = convs(c.in_channels, f[0], &scope.pp("conv_0"))?;
        Ok(Self {
            first,
            down: (1..5).map(down).collect::<Result<_>>()?,
            up: vec![
                up(4, f[3], true)?,
                up(3, f[2], true)?,
                up(2, f[1], true)?,
                up(1, f[5], false)?,
            ],
            last: Conv::same(c.dims, f[5], c.out_channels, 1, true, &scope.pp("final_conv"))?,
            pool: PoolSpec::cubic(c.dims, 2),
            residual: c.residual,
        })
    }
}

impl Network for BasicUNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let two_conv = |block: &Arc<TwoConv>, x: &Tensor| {
            let block = Arc::clone(block);
            ctx.block(&[x], move |inputs, ctx| block.forward(&[&inputs[0]], ctx))
        };
        let mut scales = vec![two_conv(&self.first, x)?];
        for (i, block) in self.down.iter().enumerate() {
            let pooled = limpid_kernels::max_pool(&scales[i], &self.pool)?;
            scales.push(two_conv(block, &pooled)?);
        }
        let mut h = scales[4].clone();
        for (i, block) in self.up.iter().enumerate() {
            let block = Arc::clone(block);
            let up = move |inputs: &[Tensor], ctx: &Ctx| block.forward(&inputs[0], &inputs[1], ctx);
            h = ctx.block(&[&h, &scales[3 - i]], up)?;
        }
        let y = self.last.forward(&h)?;
        Ok(if self.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_monai() {
        golden::check("net_monai_basicunet2d");
        golden::check("net_monai_basicunet3d");
    }

    #[test]
    fn blocks_can_be_recomputed() {
        let norm = NormConfig::Batch {};
        let config = Config { norm, features: [4, 4, 8, 8, 8, 4], ..Config::default() };
        let (params, net) = golden::drawn(|scope| config.build(scope));
        let x = golden::noise(&[2, 1, 32, 32]);
        golden::check_recomputing(&params, |ctx| net.forward(&x, ctx).unwrap());
    }

    #[test]
    fn receptive_field_covers_both_ways() {
        assert_eq!(Config::default().receptive_field(), [200, 200]);
    }
}
