//! The U-Net of nucli-train for PET: three representations of the uptake in, a correction out.
//!
//! Reference: nucli-train `nets/unet.py` with `denoising-block`, `simple-decoder-block`, average
//! pooling, nearest upsampling and layer normalisation. Its `state_dict` repeats every layer below
//! `.layer.*`; those doubles are left out here.
//!
//! ```text
//! x [N, 1, s…] → (x/(x+1), ln(x+1), x/2.5) → input → (encode_i, skip, halve) × levels
//!   → bottleneck_0 → up_i: double, conv_prev, cat with skip, main_conv → output;  y = x + output
//! ```

use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, PoolSpec, Resize};
use limpid_nn::layers::{Conv, GroupNorm};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the nucli U-Net.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Feed `x/(x+1)`, `ln(x+1)` and `x/2.5` of an uptake in SUV instead of the image itself.
    pub suv_channels: bool,
    /// Channels of each level of the encoder, the finest first.
    pub encoder: Vec<usize>,
    /// Channels of each level of the decoder, the finest first.
    pub decoder: Vec<usize>,
    /// Channels of the coarsest level.
    pub bottleneck: usize,
    /// Convolutions of an encoder block.
    pub convs: usize,
}

impl Default for Config {
    /// The example configuration of nucli-train.
    fn default() -> Self {
        Self {
            dims: 3,
            suv_channels: true,
            encoder: vec![16, 32, 64],
            decoder: vec![16, 32, 64],
            bottleneck: 128,
            convs: 2,
        }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = "blocks.input.blocks.out.conv.weight";
        let out = |name: String| size_of(shapes, &format!("blocks.{name}.conv.weight"), 0);
        let levels = (0..).take_while(|i| out(format!("encode_{i}.blocks.out")).is_some()).count();
        let encoder =
            (0..levels).map(|i| out(format!("encode_{i}.blocks.out"))).collect::<Option<_>>()?;
        let decoder =
            (0..levels).rev().map(|i| out(format!("up_{i}.main_conv"))).collect::<Option<_>>()?;
        let regular =
            (0..).take_while(|i| out(format!("encode_0.blocks.regular_{i}")).is_some()).count();
        Some(Self {
            dims: rank_of(shapes, first)?,
            suv_channels: size_of(shapes, first, 1)? == 3,
            encoder,
            decoder,
            bottleneck: out("bottleneck_0.blocks.out".to_owned())?,
            convs: regular + 1,
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "nucli_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        NucliUNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(NucliUNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        1
    }

    fn out_channels(&self) -> usize {
        1
    }

    /// Two to the number of levels.
    fn divisor(&self) -> Vec<usize> {
        vec![1 << self.encoder.len(); self.dims]
    }

    /// Sum over all 3-kernels of twice the spacing of their level, plus the pooling.
    fn receptive_field(&self) -> Vec<usize> {
        let levels = self.encoder.len();
        let encode: usize = (0..=levels).map(|l| (2 * self.convs) << l).sum();
        let pool: usize = (0..levels).map(|l| 1 << l).sum();
        let decode: usize = (0..levels).map(|l| 4 << l).sum();
        vec![1 + 2 + encode + pool + decode + 2; self.dims]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 6 * self.encoder.first().copied().unwrap_or(1)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if self.encoder.len() > 16 {
            at.problem(
                "encoder",
                format!("must have at most 16 levels, got {}", self.encoder.len()),
            );
        }
        if self.encoder.is_empty() || self.encoder.contains(&0) {
            at.problem("encoder", "must give at least one level, each above 0");
        }
        if self.decoder.len() != self.encoder.len() || self.decoder.contains(&0) {
            at.problem("decoder", format!("must give {} levels, each above 0", self.encoder.len()));
        }
        for (key, value) in [("bottleneck", self.bottleneck), ("convs", self.convs)] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
    }
}

/// 3-convolution, normalisation over all channels, ReLU.
#[derive(Debug)]
struct ConvLayer {
    conv: Conv,
    norm: GroupNorm,
}

impl ConvLayer {
    fn new(dims: usize, inputs: usize, outputs: usize, scope: &Scope) -> Result<Self> {
        Ok(Self {
            conv: Conv::same(dims, inputs, outputs, 3, true, &scope.pp("conv"))?,
            norm: GroupNorm::new(outputs, 1, 1e-5, true, &scope.pp("norm"))?,
        })
    }

    /// Of tensors joined along the channels, which need no join.
    fn forward(&self, parts: &[&Tensor]) -> Result<Tensor> {
        self.norm.forward_act(&self.conv.forward_cat(parts)?, Activation::Relu)
    }
}

/// `convs - 1` layers that keep the channels, then one that changes them.
#[derive(Debug)]
struct Block(Vec<ConvLayer>);

impl Block {
    fn new(c: &Config, convs: usize, inputs: usize, outputs: usize, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("blocks");
        let mut layers = (0..convs - 1)
            .map(|i| ConvLayer::new(c.dims, inputs, inputs, &scope.pp(format!("regular_{i}"))))
            .collect::<Result<Vec<_>>>()?;
        layers.push(ConvLayer::new(c.dims, inputs, outputs, &scope.pp("out"))?);
        Ok(Self(layers))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |h, layer| layer.forward(&[&h]))
    }
}

/// The network.
#[derive(Debug)]
pub struct NucliUNet {
    suv_channels: bool,
    input: Block,
    encode: Vec<Block>,
    bottleneck: Block,
    /// `conv_prev` and `main_conv` of each level, the coarsest first.
    up: Vec<(ConvLayer, ConvLayer)>,
    output: Conv,
    pool: PoolSpec,
}

impl NucliUNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("blocks");
        let levels = c.encoder.len();
        let inputs = if c.suv_channels { 3 } else { 1 };
        let input = Block::new(c, 1, inputs, c.encoder[0], &scope.pp("input"))?;
        let encode = (0..levels)
            .map(|i| {
                let name = scope.pp(format!("encode_{i}"));
                Block::new(c, c.convs, c.encoder[i.saturating_sub(1)], c.encoder[i], &name)
            })
            .collect::<Result<_>>()?;
        let name = scope.pp("bottleneck_0");
        let bottleneck = Block::new(c, c.convs, c.encoder[levels - 1], c.bottleneck, &name)?;
        let mut previous = c.bottleneck;
        let up = (0..levels)
            .map(|i| {
                let name = scope.pp(format!("up_{i}"));
                let level = levels - 1 - i;
                let (skip, out) = (c.encoder[level], c.decoder[level]);
                let prev = ConvLayer::new(c.dims, previous, previous, &name.pp("conv_prev"))?;
                let main = ConvLayer::new(c.dims, previous + skip, out, &name.pp("main_conv"))?;
                previous = out;
                Ok((prev, main))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            suv_channels: c.suv_channels,
            input,
            encode,
            bottleneck,
            up,
            output: Conv::same(c.dims, previous, 1, 3, true, &scope.pp("output").pp("conv"))?,
            pool: PoolSpec::cubic(c.dims, 2),
        })
    }
}

/// The three representations of an uptake in SUV.
fn suv_channels(x: &Tensor) -> Result<Tensor> {
    let plus = (x + 1.0)?;
    limpid_kernels::cat(&[&(x / &plus)?, &plus.log()?, &(x / 2.5)?], 1)
}

impl Network for NucliUNet {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        let mut h = if self.suv_channels { suv_channels(x)? } else { x.clone() };
        h = self.input.forward(&h)?;
        let mut skips = Vec::new();
        for block in &self.encode {
            h = block.forward(&h)?;
            let halved = limpid_kernels::avg_pool(&h, &self.pool, true)?;
            skips.push(std::mem::replace(&mut h, halved));
        }
        h = self.bottleneck.forward(&h)?;
        for ((prev, main), skip) in self.up.iter().zip(skips.iter().rev()) {
            let doubled = limpid_kernels::resize(&h, &skip.dims()[2..], Resize::Nearest)?;
            h = main.forward(&[&prev.forward(&[&doubled])?, skip])?;
        }
        limpid_kernels::add(&self.output.forward(&h)?, x)
    }
}

#[cfg(test)]
mod tests {
    use crate::golden;

    #[test]
    fn equals_nucli_train() {
        golden::check("net_nucli_unet3d");
    }
}
