//! Modified SRResNet: super-resolution by residual blocks without normalisation (Ledig et al. 2017,
//! arXiv:1609.04802, as modified for ESRGAN by Wang et al. 2018, arXiv:1809.00219).
//!
//! Reference: KAIR `network_msrresnet.py` (MIT), `MSRResNet0` and `MSRResNet1`. Keys `model.N` of
//! the former count every layer of its `Sequential`, activations included.
//!
//! ```text
//! v0: x → conv → + (blocks → conv) → (upsample, act)… → conv, act → conv → [N, out, s·h, s·w]
//! v1: x → conv, act → blocks → (conv, shuffle, act)… → conv, act → conv → + x interpolated
//! ```

use crate::blocks::{ResBlock, chain, check_image, numbered, upscaling_steps};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{
    ConvSpec, ConvTransposeSpec, Resize, leaky_relu, pixel_shuffle, relu, resize_by,
};
use limpid_nn::layers::{Conv, ConvTranspose};
use limpid_nn::{Ctx, Init, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const NAME: &str = "srresnet";

/// Settings of a modified SRResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which of the two.
    pub version: Version,
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels inside.
    pub width: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// How many times larger the output is, along both axes.
    pub scale: usize,
}

/// Which of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Version {
    /// The first: blocks with a skip connection around them, for 3 and powers of two.
    V0 {
        /// How it enlarges the image.
        #[serde(default)]
        upsample: Upsample,
    },
    /// The second: adds to the interpolated image, enlarges by pixel shuffling, for 2, 3 and 4.
    V1 {},
}

/// How a network enlarges an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Upsample {
    /// Repeats pixels, then convolves.
    #[default]
    Upconv,
    /// Convolves to more channels, then moves them side by side.
    Pixelshuffle,
    /// Transposed convolution.
    Convtranspose,
}

impl Default for Config {
    /// KAIR's released network, for images of one channel.
    fn default() -> Self {
        Self { in_channels: 1, out_channels: 1, ..Self::released() }
    }
}

impl Config {
    /// KAIR's released network: fourfold, colour, second version.
    #[must_use]
    pub fn released() -> Self {
        Self {
            version: Version::V1 {},
            in_channels: 3,
            out_channels: 3,
            width: 64,
            blocks: 16,
            scale: 4,
        }
    }

    /// The configuration that a checkpoint's shapes belong to. The first version has the same
    /// shapes for a factor of 2 and of 3 where it repeats pixels: it is taken to be 2.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        Self::recognise_v1(shapes).or_else(|| Self::recognise_v0(shapes))
    }

    fn recognise_v1(shapes: &Shapes) -> Option<Self> {
        let width = size_of(shapes, "conv_first.weight", 0)?;
        size_of(shapes, "HRconv.weight", 0)?;
        let scale = match size_of(shapes, "upconv1.weight", 0)? {
            _ if shapes.contains_key("upconv2.weight") => 4,
            outputs if outputs == 9 * width => 3,
            _ => 2,
        };
        Some(Self {
            version: Version::V1 {},
            in_channels: size_of(shapes, "conv_first.weight", 1)?,
            out_channels: size_of(shapes, "conv_last.weight", 0)?,
            width,
            blocks: count_of(shapes, "recon_trunk.", ".conv1.weight"),
            scale,
        })
    }

    fn recognise_v0(shapes: &Shapes) -> Option<Self> {
        let blocks = count_of(shapes, "model.1.sub.", ".res.0.weight");
        let convs = numbered(shapes, "model.", ".weight");
        let [width, in_channels, ..] = **convs.get(&0)? else { return None };
        let out_channels = *convs.last_key_value()?.1.first()?;
        // without the first and the last two
        let steps = convs.len().checked_sub(3)?;
        let (&position, first) = convs.iter().nth(1)?;
        let [outputs, _, kernel, _] = **first else { return None };
        let (upsample, triple) = match position {
            _ if steps == 0 => (Upsample::Upconv, false),
            3 => (Upsample::Upconv, false),
            _ if outputs == width => (Upsample::Convtranspose, kernel == 3),
            _ => (Upsample::Pixelshuffle, outputs == 9 * width),
        };
        let scale = if triple { 3 } else { 1usize.checked_shl(u32::try_from(steps).ok()?)? };
        let version = Version::V0 { upsample };
        (blocks > 0).then_some(Self { version, in_channels, out_channels, width, blocks, scale })
    }

    /// Convolutions in a row, those at a higher resolution included.
    fn depth(&self) -> usize {
        let steps = upscaling_steps(self.scale).map_or(0, |s| s.len());
        1 + 2 * self.blocks + 1 + steps + 2
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        SrResNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(SrResNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Sizes need not be multiples of anything.
    fn divisor(&self) -> Vec<usize> {
        vec![1; 2]
    }

    /// Two pixels per convolution, at most.
    fn receptive_field(&self) -> Vec<usize> {
        vec![1 + 2 * self.depth(); 2]
    }

    /// Bytes of activations per pixel of the small image in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * self.width * (3 + 3 * self.scale * self.scale)
    }

    fn scale(&self) -> usize {
        self.scale
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("width", self.width),
            ("blocks", self.blocks),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        let (fits, scales) = match self.version {
            Version::V0 { .. } => {
                let fits = self.scale <= 16 && upscaling_steps(self.scale).is_some();
                (fits, "1, 2, 3, 4, 8 or 16")
            }
            Version::V1 {} => ((2..=4).contains(&self.scale), "2, 3 or 4"),
        };
        if !fits {
            at.problem("scale", format!("must be {scales}, got {}", self.scale));
        }
        if self.version == (Version::V1 {}) && self.in_channels != self.out_channels {
            at.problem("out_channels", "must equal `in_channels`")
                .hint("the interpolated image is added to the output");
        }
    }
}

/// One step to a larger image.
#[derive(Debug)]
enum Up {
    Repeat(f64, Conv),
    Shuffle(usize, Conv),
    Transposed(ConvTranspose),
}

impl Up {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Repeat(r, conv) => conv.forward(&resize_by(x, &[*r, *r], Resize::Nearest)?),
            Self::Shuffle(r, conv) => pixel_shuffle(&conv.forward(x)?, *r),
            Self::Transposed(conv) => conv.forward(x),
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct SrResNet {
    first: Conv,
    blocks: Vec<Arc<ResBlock>>,
    /// Ends the skip connection around the blocks in the first version; the second has none.
    after_blocks: Option<Conv>,
    up: Vec<Up>,
    high: Conv,
    last: Conv,
    in_channels: usize,
    scale: usize,
}

impl SrResNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        match c.version {
            Version::V0 { upsample } => Self::first_version(c, upsample, &scope.pp("model")),
            Version::V1 {} => Self::second_version(c, scope),
        }
    }

    fn first_version(c: &Config, upsample: Upsample, scope: &Scope) -> Result<Self> {
        let width = c.width;
        let conv = |inputs: usize, outputs: usize, bias: bool, scope: &Scope| {
            Conv::same(2, inputs, outputs, 3, bias, scope)
        };
        let sub = scope.pp(1).pp("sub");
        let block = |i| ResBlock::new(width, true, ["0", "2"], &sub.pp(i).pp("res")).map(Arc::new);
        let (mut up, mut index) = (Vec::new(), 2);
        for r in upscaling_steps(c.scale).unwrap_or_default() {
            // layers of the step, its activation included
            let (step, layers) = match upsample {
                Upsample::Upconv => {
                    (Up::Repeat(r as f64, conv(width, width, true, &scope.pp(index + 1))?), 3)
                }
                Upsample::Pixelshuffle => {
                    (Up::Shuffle(r, conv(width, width * r * r, true, &scope.pp(index))?), 3)
                }
                Upsample::Convtranspose => {
                    let spec =
                        ConvTransposeSpec { stride: vec![r; 2], ..ConvTransposeSpec::unit(2) };
                    let scope = scope.pp(index);
                    let conv = ConvTranspose::new(width, width, &[r, r], spec, true, &scope)?;
                    (Up::Transposed(conv), 2)
                }
            };
            up.push(step);
            index += layers;
        }
        Ok(Self {
            first: conv(c.in_channels, width, true, &scope.pp(0))?,
            blocks: (0..c.blocks).map(block).collect::<Result<_>>()?,
            after_blocks: Some(conv(width, width, true, &sub.pp(c.blocks))?),
            up,
            high: conv(width, width, true, &scope.pp(index))?,
            last: conv(width, c.out_channels, false, &scope.pp(index + 2))?,
            in_channels: c.in_channels,
            scale: c.scale,
        })
    }

    fn second_version(c: &Config, scope: &Scope) -> Result<Self> {
        let width = c.width;
        let block = |i| {
            let scope = scope.pp("recon_trunk").pp(i);
            let conv = |name: &str| small_conv(width, width, &scope.pp(name));
            Ok(Arc::new(ResBlock::of([conv("conv1")?, conv("conv2")?], 1.0)))
        };
        let step = |(i, r): (usize, &usize)| {
            let conv = small_conv(width, width * r * r, &scope.pp(format!("upconv{}", i + 1)))?;
            Ok(Up::Shuffle(*r, conv))
        };
        let steps = upscaling_steps(c.scale).unwrap_or_default();
        Ok(Self {
            first: small_conv(c.in_channels, width, &scope.pp("conv_first"))?,
            blocks: (0..c.blocks).map(block).collect::<Result<_>>()?,
            after_blocks: None,
            up: steps.iter().enumerate().map(step).collect::<Result<_>>()?,
            high: small_conv(width, width, &scope.pp("HRconv"))?,
            last: small_conv(width, c.out_channels, &scope.pp("conv_last"))?,
            in_channels: c.in_channels,
            scale: c.scale,
        })
    }
}

/// A convolution that starts with a tenth of He's normal weights and no offset.
fn small_conv(inputs: usize, outputs: usize, scope: &Scope) -> Result<Conv> {
    let std = 0.1 * (2.0 / (9 * inputs) as f64).sqrt();
    let weight =
        scope.param("weight", &[outputs, inputs, 3, 3], Init::Normal { mean: 0.0, std })?;
    let bias = scope.param("bias", &[outputs], Init::Zeros)?;
    let spec = ConvSpec { padding: vec![1; 2], ..ConvSpec::unit(2) };
    Ok(Conv::of(weight, Some(bias), spec))
}

impl Network for SrResNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image(NAME, x, self.in_channels, 1)?;
        let first = self.first.forward(x)?;
        let Some(after_blocks) = &self.after_blocks else {
            let act = |h: &Tensor| leaky_relu(h, 0.1);
            let h = chain(&self.blocks, &act(&first)?, ctx)?;
            let y = self.enlarge(h, act)?;
            let base =
                resize_by(x, &[self.scale as f64; 2], Resize::Linear { align_corners: false })?;
            return limpid_kernels::add(&y, &base);
        };
        let h = after_blocks.forward(&chain(&self.blocks, &first, ctx)?)?;
        self.enlarge(limpid_kernels::add(&h, &first)?, relu)
    }
}

impl SrResNet {
    /// What both versions do after the blocks.
    fn enlarge(&self, mut h: Tensor, act: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        for up in &self.up {
            h = act(&up.forward(&h)?)?;
        }
        self.last.forward(&act(&self.high.forward(&h)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_kair() {
        golden::check("net_srresnet0_x4");
        golden::check("net_srresnet_x2");
    }

    #[test]
    fn has_the_published_number_of_parameters() {
        assert_eq!(golden::count(&Config::released()), 1_517_571);
    }

    #[test]
    fn every_scale_enlarges_and_is_recognised() {
        let v0 = |upsample| Version::V0 { upsample };
        let versions = [
            (v0(Upsample::Upconv), &[1, 2, 4, 8][..]),
            (v0(Upsample::Pixelshuffle), &[2, 3, 4, 8]),
            (v0(Upsample::Convtranspose), &[2, 3, 4, 8]),
            (Version::V1 {}, &[2, 3, 4]),
        ];
        for (version, scales) in versions {
            for &scale in scales {
                let config = Config { version, width: 3, blocks: 2, scale, ..Config::default() };
                assert!(limpid_config::check(&config).is_empty());
                let (params, net) = golden::drawn(|scope| SrResNet::new(&config, scope));
                let found = Config::recognise(&params.shapes());
                assert_eq!(found.as_ref(), Some(&config));
                let y = net.forward(&golden::noise(&[1, 1, 5, 3]), &Ctx::eval()).unwrap();
                assert_eq!(y.dims(), [1, 1, 5 * scale, 3 * scale]);
            }
        }
    }

    #[test]
    fn repeating_pixels_three_times_takes_the_same_weights_as_twice() {
        let twice = Config {
            version: Version::V0 { upsample: Upsample::Upconv },
            width: 3,
            blocks: 1,
            scale: 2,
            ..Config::default()
        };
        let thrice = Config { scale: 3, ..twice.clone() };
        let (params, net) = golden::drawn(|scope| SrResNet::new(&thrice, scope));
        assert_eq!(Config::recognise(&params.shapes()), Some(twice));
        let y = net.forward(&golden::noise(&[1, 1, 5, 3]), &Ctx::eval()).unwrap();
        assert_eq!(y.dims(), [1, 1, 15, 9]);
    }

    #[test]
    fn scales_that_no_step_gives_are_refused() {
        for (version, scale) in [
            (Version::V0 { upsample: Upsample::Upconv }, 6),
            (Version::V1 {}, 8),
            (Version::V1 {}, 1),
        ] {
            let config = Config { version, scale, ..Config::default() };
            assert_eq!(limpid_config::check(&config).len(), 1, "{version:?} {scale}");
        }
    }

    #[test]
    fn the_second_version_starts_near_interpolation() {
        let config = Config { scale: 2, ..Config::default() };
        let params = limpid_nn::Params::new();
        let stream = limpid_kernels::rng::Stream::new(0, "init");
        let device = candle_core::Device::Cpu;
        let scope = params.scope(stream, candle_core::DType::F32, &device);
        let net = SrResNet::new(&config, &scope).unwrap();
        let x = golden::noise(&[1, 1, 6, 6]);
        let y = net.forward(&x, &Ctx::eval()).unwrap();
        let base = resize_by(&x, &[2.0, 2.0], Resize::Linear { align_corners: false }).unwrap();
        golden::assert_close(&y, &base, 0.01);
    }
}
