//! The plain U-Net of EMDiffuse for restoring electron-microscopy images (after Ronneberger et al.
//! 2015, arXiv:1505.04597).
//!
//! Reference: EMDiffuse `models/unet.py`, `UNet` and the identical `AutoEncoder` (MIT).
//!
//! ```text
//! x → down_convs.i: conv, relu, conv, relu (w·2^i), halve → …
//!   → up_convs.i: upconv, merge with skip, conv, relu, conv, relu → conv_final (1×1)
//! ```

use crate::adn::check_image;
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{ConvTransposeSpec, PoolSpec, Resize, max_pool, relu, resize_by};
use limpid_nn::layers::{Conv, ConvTranspose};
use limpid_nn::{Ctx, Init, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the decoder doubles the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Up {
    /// Transposed convolution.
    Transpose,
    /// Linear interpolation, then a 1×1 convolution.
    Upsample,
}

/// How the decoder takes in the skip connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// Sum.
    Add,
    /// Concatenation.
    Concat,
}

/// Settings of EMDiffuse's U-Net.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Number of levels.
    pub depth: usize,
    /// Channels of the first level; each following one has twice as many.
    pub width: usize,
    /// How the decoder doubles the size.
    pub up: Up,
    /// How the decoder takes in the skip connection.
    pub merge: Merge,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// The reference's defaults.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 1,
            out_channels: 1,
            depth: 3,
            width: 64,
            up: Up::Transpose,
            merge: Merge::Add,
            residual: false,
        }
    }
}

impl Config {
    /// A narrow one for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self { width: 16, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = "down_convs.0.conv1.weight";
        let width = size_of(shapes, first, 0)?;
        let up = if shapes.contains_key("up_convs.0.upconv.1.weight") {
            Up::Upsample
        } else {
            Up::Transpose
        };
        let [merged, inputs, ..] = shapes.get("up_convs.0.conv1.weight")?[..] else {
            return None;
        };
        Some(Self {
            dims: rank_of(shapes, first)?,
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, "conv_final.weight", 0)?,
            depth: count_of(shapes, "down_convs.", ".conv1.weight"),
            width,
            up,
            merge: if inputs == merged { Merge::Add } else { Merge::Concat },
            residual: false,
        })
    }

    /// Channels of a level.
    fn channels(&self, level: usize) -> usize {
        self.width.saturating_mul(1 << level)
    }

    /// How often the size is halved.
    fn halvings(&self) -> usize {
        self.depth.saturating_sub(1)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "em_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        EmUNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(EmUNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// The image is halved after each level but the last.
    fn divisor(&self) -> Vec<usize> {
        vec![1 << self.halvings().min(31); self.dims]
    }

    /// Sum over all 3-kernels of twice the spacing of their level, and what halving and doubling
    /// the size take in.
    fn receptive_field(&self) -> Vec<usize> {
        let both: usize = match self.up {
            Up::Transpose => 4,
            Up::Upsample => 6,
        };
        let levels = self.halvings().min(31);
        let halved: usize = (0..levels).map(|level| (4 + 4 + both) << level).sum();
        vec![1 + halved + (4 << levels); self.dims]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 7 * self.width
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        const MOST_LEVELS: usize = 16;
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if !(2..=MOST_LEVELS).contains(&self.depth) {
            at.problem("depth", format!("must be 2 to {MOST_LEVELS}, got {}", self.depth));
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("width", self.width),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// A convolution with the reference's initial weights.
fn conv(c: &Config, [inputs, outputs]: [usize; 2], kernel: usize, scope: &Scope) -> Result<Conv> {
    let conv = Conv::same(c.dims, inputs, outputs, kernel, true, scope)?;
    scope.redraw("weight", Init::XavierNormal { gain: 1.0 })?;
    scope.redraw("bias", Init::Zeros)?;
    Ok(conv)
}

/// Two convolutions, each with a ReLU.
#[derive(Debug)]
struct Double([Conv; 2]);

impl Double {
    fn new(c: &Config, [inputs, outputs]: [usize; 2], scope: &Scope) -> Result<Self> {
        Ok(Self([
            conv(c, [inputs, outputs], 3, &scope.pp("conv1"))?,
            conv(c, [outputs, outputs], 3, &scope.pp("conv2"))?,
        ]))
    }

    /// Of tensors joined along the channels, which need no join.
    fn forward(&self, parts: &[&Tensor]) -> Result<Tensor> {
        relu(&self.0[1].forward(&relu(&self.0[0].forward_cat(parts)?)?)?)
    }
}

#[derive(Debug)]
enum Doubling {
    Transposed(ConvTranspose),
    Interpolated(Conv),
}

/// The network.
#[derive(Debug)]
pub struct EmUNet {
    down: Vec<Double>,
    up: Vec<(Doubling, Double)>,
    last: Conv,
    merge: Merge,
    in_channels: usize,
    divisor: Vec<usize>,
    residual: bool,
}

impl EmUNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let down = |level: usize| {
            let inputs = if level == 0 { c.in_channels } else { c.channels(level - 1) };
            Double::new(c, [inputs, c.channels(level)], &scope.pp("down_convs").pp(level))
        };
        let up = |i: usize| -> Result<_> {
            let level = c.halvings() - 1 - i;
            let (below, channels) = (c.channels(level + 1), c.channels(level));
            let scope = scope.pp("up_convs").pp(i);
            let name = scope.pp("upconv");
            let doubling = match c.up {
                Up::Transpose => {
                    let two = vec![2; c.dims];
                    let stride = two.clone();
                    let spec = ConvTransposeSpec { stride, ..ConvTransposeSpec::unit(c.dims) };
                    let conv = ConvTranspose::new(below, channels, &two, spec, true, &name)?;
                    Doubling::Transposed(conv)
                }
                Up::Upsample => Doubling::Interpolated(conv(c, [below, channels], 1, &name.pp(1))?),
            };
            let merged = match c.merge {
                Merge::Add => channels,
                Merge::Concat => 2 * channels,
            };
            Ok((doubling, Double::new(c, [merged, channels], &scope)?))
        };
        Ok(Self {
            down: (0..c.depth).map(down).collect::<Result<_>>()?,
            up: (0..c.halvings()).map(up).collect::<Result<_>>()?,
            last: conv(c, [c.width, c.out_channels], 1, &scope.pp("conv_final"))?,
            merge: c.merge,
            in_channels: c.in_channels,
            divisor: c.divisor(),
            residual: c.residual,
        })
    }
}

impl Network for EmUNet {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        check_image("em_unet", x, self.in_channels, &self.divisor)?;
        let rank = self.divisor.len();
        let mut h = x.clone();
        let mut scales = Vec::with_capacity(self.down.len());
        for (level, block) in self.down.iter().enumerate() {
            if level > 0 {
                h = max_pool(&h, &PoolSpec::cubic(rank, 2))?;
            }
            h = block.forward(&[&h])?;
            scales.push(h.clone());
        }
        for ((doubling, block), skip) in self.up.iter().zip(scales.iter().rev().skip(1)) {
            let up = match doubling {
                Doubling::Transposed(conv) => conv.forward(&h)?,
                Doubling::Interpolated(conv) => {
                    let linear = Resize::Linear { align_corners: false };
                    conv.forward(&resize_by(&h, &vec![2.0; rank], linear)?)?
                }
            };
            h = match self.merge {
                Merge::Add => block.forward(&[&limpid_kernels::add(&up, skip)?])?,
                Merge::Concat => block.forward(&[&up, skip])?,
            };
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
    fn equals_emdiffuse() {
        golden::check_emdiffuse("net_models_unet_0");
        golden::check_emdiffuse("net_models_unet_1");
    }

    #[test]
    fn every_combination_works_in_two_and_three_dimensions() {
        for dims in [2, 3] {
            for up in [Up::Transpose, Up::Upsample] {
                for merge in [Merge::Add, Merge::Concat] {
                    let config = Config { dims, up, merge, width: 4, ..Config::default() };
                    golden::round_trip(&config, Config::recognise);
                    golden::keeps_size(&config, &vec![8; dims]);
                }
            }
        }
    }

    #[test]
    fn an_output_pixel_depends_on_the_receptive_field_at_most() {
        for up in [Up::Transpose, Up::Upsample] {
            golden::receptive_field_holds(&Config { up, width: 4, ..Config::default() }, 96);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        golden::refuses(&Config::small(), &[1, 1, 16, 18]);
    }
}
