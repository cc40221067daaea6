//! SegResNet: residual blocks with normalisation first, a wide encoder and a slim decoder
//! (Myronenko 2018, arXiv:1810.11654).
//!
//! Reference: MONAI `SegResNet` (Apache-2.0), without its variational branch.
//!
//! ```text
//! x → convInit (w) → down_layers.i: [conv of stride 2 (w·2^i)], blocks → …
//!   → up_samples.i: 1×1, double the size, + skip → up_layers.i: blocks → conv_final
//! block: x + conv2(relu(norm2(conv1(relu(norm1(x))))))
//! ```

use crate::adn::{check_image, check_norm};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, ConvSpec, ConvTransposeSpec, Resize, resize_by};
use limpid_nn::layers::{Conv, ConvTranspose, Norm, NormConfig};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the decoder doubles the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Upsample {
    /// Linear interpolation.
    Nontrainable,
    /// Transposed convolution.
    Deconv,
}

/// Settings of a SegResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the first level; each following one has twice as many.
    pub width: usize,
    /// Blocks of each level of the encoder, the finest first.
    pub blocks_down: Vec<usize>,
    /// Blocks of each level of the decoder, the coarsest first; one level less than the encoder.
    pub blocks_up: Vec<usize>,
    /// Normalisation before each convolution.
    pub norm: NormConfig,
    /// How the decoder doubles the size.
    pub upsample: Upsample,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// MONAI's defaults, for 2-D images and one output channel.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 1,
            out_channels: 1,
            width: 8,
            blocks_down: vec![1, 2, 2, 4],
            blocks_up: vec![1, 1, 1],
            norm: NormConfig::Group { groups: 8 },
            upsample: Upsample::Nontrainable,
            residual: false,
        }
    }
}

impl Config {
    /// The configuration of MONAI's tutorial on brain tumours: four modalities, three classes.
    #[must_use]
    pub fn brats() -> Self {
        Self { dims: 3, in_channels: 4, out_channels: 3, width: 16, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to. The number of groups leaves no trace
    /// in shapes: MONAI's 8 where that divides the channels, else one per channel.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = "convInit.conv.weight";
        let width = size_of(shapes, first, 0)?;
        let blocks = |part: &str, offset: usize| -> Vec<usize> {
            (0..)
                .map(|i| {
                    (offset..)
                        .take_while(|j| {
                            let key = format!("{part}.{i}.{j}.conv1.conv.weight");
                            shapes.contains_key(&key)
                        })
                        .count()
                })
                .take_while(|&count| count > 0)
                .collect()
        };
        let norm = if shapes.contains_key("conv_final.0.running_mean") {
            NormConfig::Batch {}
        } else if shapes.contains_key("conv_final.0.weight") {
            NormConfig::Group { groups: if width % 8 == 0 { 8 } else { width } }
        } else {
            NormConfig::Instance { affine: false }
        };
        let deconv = count_of(shapes, "up_samples.", ".1.deconv.weight") > 0;
        Some(Self {
            dims: rank_of(shapes, first)?,
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, "conv_final.2.conv.weight", 0)?,
            width,
            blocks_down: blocks("down_layers", 1),
            blocks_up: blocks("up_layers", 0),
            norm,
            upsample: if deconv { Upsample::Deconv } else { Upsample::Nontrainable },
            residual: false,
        })
    }

    /// Channels of a level.
    fn channels(&self, level: usize) -> usize {
        self.width.saturating_mul(1 << level)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "segresnet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        SegResNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(SegResNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// The image is halved after each level but the last.
    fn divisor(&self) -> Vec<usize> {
        vec![1 << self.blocks_up.len(); self.dims]
    }

    /// Sum over all 3-kernels of twice the spacing of their level, and four times that of the finer
    /// level for doubling the size.
    fn receptive_field(&self) -> Vec<usize> {
        let blocks = |(level, count): (usize, &usize)| (4 * count) << level;
        let down: usize = self.blocks_down.iter().enumerate().map(blocks).sum();
        let up: usize = self.blocks_up.iter().rev().enumerate().map(blocks).sum();
        let halve_and_double: usize = (0..self.blocks_up.len()).map(|level| 6 << level).sum();
        vec![1 + 2 + down + halve_and_double + up; self.dims]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 10 * self.width
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        const MOST_LEVELS: usize = 16;
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if !(1..=MOST_LEVELS).contains(&self.blocks_down.len()) || self.blocks_down.contains(&0) {
            let message = format!("must give 1 to {MOST_LEVELS} levels, each above 0");
            at.problem("blocks_down", message);
        }
        if self.blocks_up.len() + 1 != self.blocks_down.len() || self.blocks_up.contains(&0) {
            let levels = self.blocks_down.len().saturating_sub(1);
            at.problem("blocks_up", format!("must give {levels} levels, each above 0"))
                .hint("one level less than `blocks_down`");
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
        check_norm(self.norm, &[self.width], at);
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// Residual block (`ResBlock`).
#[derive(Debug)]
struct Block([(Norm, Conv); 2]);

impl Block {
    fn new(c: &Config, channels: usize, scope: &Scope) -> Result<Self> {
        let half = |i: usize| -> Result<_> {
            let conv = scope.pp(format!("conv{i}")).pp("conv");
            Ok((
                Norm::new(c.norm, channels, &scope.pp(format!("norm{i}")))?,
                Conv::same(c.dims, channels, channels, 3, false, &conv)?,
            ))
        };
        Ok(Self([half(1)?, half(2)?]))
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = x.clone();
        for (norm, conv) in &self.0 {
            h = conv.forward(&norm.forward_act(&h, Activation::Relu, ctx)?)?;
        }
        limpid_kernels::add(&h, x)
    }
}

fn blocks(
    c: &Config,
    channels: usize,
    indices: std::ops::Range<usize>,
    scope: &Scope,
) -> Result<Vec<Block>> {
    indices.map(|i| Block::new(c, channels, &scope.pp(i))).collect()
}

/// A level of the decoder.
#[derive(Debug)]
struct Up {
    narrow: Conv,
    /// None to interpolate.
    deconv: Option<ConvTranspose>,
    blocks: Vec<Block>,
}

/// The network.
#[derive(Debug)]
pub struct SegResNet {
    first: Conv,
    down: Vec<(Option<Conv>, Vec<Block>)>,
    up: Vec<Up>,
    last: (Norm, Conv),
    in_channels: usize,
    divisor: Vec<usize>,
    residual: bool,
}

impl SegResNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let down = |(level, &count): (usize, &usize)| -> Result<_> {
            let scope = scope.pp("down_layers").pp(level);
            let channels = c.channels(level);
            let halve = || {
                let spec = ConvSpec {
                    stride: vec![2; c.dims],
                    padding: vec![1; c.dims],
                    ..ConvSpec::unit(c.dims)
                };
                let three = vec![3; c.dims];
                let name = scope.pp(0).pp("conv");
                Conv::new(c.channels(level - 1), channels, &three, spec, false, &name)
            };
            let halve = (level > 0).then(halve).transpose()?;
            Ok((halve, blocks(c, channels, 1..count + 1, &scope)?))
        };
        let levels = c.blocks_up.len();
        let up = |(i, &count): (usize, &usize)| -> Result<_> {
            let (inputs, channels) = (c.channels(levels - i), c.channels(levels - i - 1));
            let sample = scope.pp("up_samples").pp(i);
            let two = vec![2; c.dims];
            let deconv = || {
                let spec =
                    ConvTransposeSpec { stride: two.clone(), ..ConvTransposeSpec::unit(c.dims) };
                let name = sample.pp(1).pp("deconv");
                ConvTranspose::new(channels, channels, &two, spec, true, &name)
            };
            let narrow = sample.pp(0).pp("conv");
            Ok(Up {
                narrow: Conv::same(c.dims, inputs, channels, 1, false, &narrow)?,
                deconv: (c.upsample == Upsample::Deconv).then(deconv).transpose()?,
                blocks: blocks(c, channels, 0..count, &scope.pp("up_layers").pp(i))?,
            })
        };
        let last = scope.pp("conv_final");
        let first = scope.pp("convInit").pp("conv");
        Ok(Self {
            first: Conv::same(c.dims, c.in_channels, c.width, 3, false, &first)?,
            down: c.blocks_down.iter().enumerate().map(down).collect::<Result<_>>()?,
            up: c.blocks_up.iter().enumerate().map(up).collect::<Result<_>>()?,
            last: (
                Norm::new(c.norm, c.width, &last.pp(0))?,
                Conv::same(c.dims, c.width, c.out_channels, 1, true, &last.pp(2).pp("conv"))?,
            ),
            in_channels: c.in_channels,
            divisor: c.divisor(),
            residual: c.residual,
        })
    }
}

impl Network for SegResNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image("segresnet", x, self.in_channels, &self.divisor)?;
        let mut h = self.first.forward(x)?;
        let mut scales = Vec::with_capacity(self.down.len());
        for (halve, blocks) in &self.down {
            if let Some(conv) = halve {
                h = conv.forward(&h)?;
            }
            for block in blocks {
                h = block.forward(&h, ctx)?;
            }
            scales.push(h.clone());
        }
        for (up, skip) in self.up.iter().zip(scales.iter().rev().skip(1)) {
            h = up.narrow.forward(&h)?;
            h = match &up.deconv {
                Some(deconv) => deconv.forward(&h)?,
                None => {
                    let twice = vec![2.0; self.divisor.len()];
                    resize_by(&h, &twice, Resize::Linear { align_corners: false })?
                }
            };
            h = limpid_kernels::add(&h, skip)?;
            for block in &up.blocks {
                h = block.forward(&h, ctx)?;
            }
        }
        let (norm, conv) = &self.last;
        let y = conv.forward(&norm.forward_act(&h, Activation::Relu, ctx)?)?;
        Ok(if self.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_monai() {
        golden::check("net_monai_segresnet3d");
    }

    #[test]
    fn shapes_tell_the_configuration() {
        golden::round_trip(&Config::brats(), Config::recognise);
        let other = Config {
            blocks_down: vec![1, 3],
            blocks_up: vec![2],
            norm: NormConfig::Batch {},
            upsample: Upsample::Deconv,
            ..Config::default()
        };
        golden::round_trip(&other, Config::recognise);
    }

    #[test]
    fn both_ways_of_upsampling_give_an_image_of_the_input_size() {
        for upsample in [Upsample::Nontrainable, Upsample::Deconv] {
            for dims in [2, 3] {
                let config = Config { dims, upsample, ..Config::default() };
                golden::keeps_size(&config, &vec![8; dims]);
            }
        }
    }

    #[test]
    fn an_output_pixel_depends_on_the_receptive_field_at_most() {
        let plain = Config {
            norm: NormConfig::None {},
            blocks_down: vec![1, 1, 1],
            blocks_up: vec![1, 1],
            ..Config::default()
        };
        golden::receptive_field_holds(&plain, 96);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        golden::refuses(&Config::default(), &[1, 1, 16, 12]);
    }
}
