//! The U-Net generator of pix2pix (Isola et al. 2017, arXiv:1611.07004).
//!
//! Reference: junyanz/pytorch-CycleGAN-and-pix2pix `UnetGenerator` (BSD), whose blocks each hold the
//! next finer one: `model.model.1.model.3.model…`.
//!
//! ```text
//! x [N, in, s…] → conv 4, stride 2 (f) → (act, conv, norm: 2f, 4f, 8f, 8f, …) → act, conv
//!   → (relu, transposed conv 4, [norm], [dropout], cat with skip) × downs → tanh → [N, out, s…]
//! ```
//! The activation on the way down is leaky ReLU of slope 0.2. It works in place in the reference, so
//! that the skip connections carry what comes out of it.

use crate::cubic::Cubic;
use crate::cyclegan::{self, Normalisation};
use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{dropout, leaky_relu, relu, tanh};
use limpid_nn::layers::{Conv, ConvTranspose, Norm};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the first level; they double from level to level up to eight times that.
    pub features: usize,
    /// Times that the image is halved.
    pub downs: usize,
    /// Normalisation after the convolutions.
    pub norm: Normalisation,
    /// Drop half of the output of the coarse levels in training: the noise of pix2pix.
    pub dropout: bool,
}

impl Default for Config {
    /// `unet_256` as pix2pix trains it.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 3,
            out_channels: 3,
            features: 64,
            downs: 8,
            norm: Normalisation::Batch,
            dropout: true,
        }
    }
}

impl Config {
    /// `unet_128`.
    #[must_use]
    pub fn unet_128() -> Self {
        Self { downs: 7, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = format!("{}.weight", down_key(0));
        let is_conv = |key: &str| size_of(shapes, key, 2) == Some(4);
        let downs = (0..).take_while(|i| is_conv(&format!("{}.weight", down_key(*i)))).count();
        if downs < 2 {
            return None;
        }
        let (conv, norm) = (up_key(downs - 1, downs), norm_key(downs - 1, downs));
        Some(Self {
            dims: rank_of(shapes, &first)?,
            in_channels: size_of(shapes, &first, 1)?,
            out_channels: size_of(shapes, &format!("{}.weight", up_key(0, downs)), 1)?,
            features: size_of(shapes, &first, 0)?,
            downs,
            norm: Normalisation::recognise(shapes, &conv, &norm),
            dropout: Self::default().dropout,
        })
    }

    /// Channels of a level.
    fn width(&self, level: usize) -> usize {
        self.features * 8.min(1 << level.min(3))
    }
}

/// Where the layers of a level are: the `Sequential` of the outermost block begins with its
/// convolution, the others with an activation.
fn level_key(level: usize) -> String {
    match level {
        0 => "model.model".into(),
        _ => format!("model.model.1.model{}", ".3.model".repeat(level - 1)),
    }
}

fn down_key(level: usize) -> String {
    format!("{}.{}", level_key(level), level.min(1))
}

fn up_key(level: usize, levels: usize) -> String {
    let at = if level == 0 || level + 1 == levels { 3 } else { 5 };
    format!("{}.{at}", level_key(level))
}

fn norm_key(level: usize, levels: usize) -> String {
    let at = if level + 1 == levels { 4 } else { 6 };
    format!("{}.{at}", level_key(level))
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "unet_generator"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        UnetGenerator::new(self, scope).map(drop)
    }

    fn own_key(&self, key: &str) -> Option<String> {
        self.norm.own_key(key)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(UnetGenerator::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// The image is halved `downs` times.
    fn divisor(&self) -> Vec<usize> {
        vec![1 << self.downs; self.dims]
    }

    /// Four pixels of each halved scale down, and two up.
    fn receptive_field(&self) -> Vec<usize> {
        vec![1 + 5 * ((1 << self.downs) - 1); self.dims]
    }

    fn activation_bytes(&self) -> usize {
        let pixels = |level: usize| 1 << (self.dims * (level + 1)).min(40);
        let scales: usize = (0..self.downs).map(|l| 8 * self.width(l) / pixels(l)).sum();
        4 * (2 * self.out_channels + scales)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("features", self.features),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if !(2..=16).contains(&self.downs) {
            at.problem("downs", format!("must be 2 to 16, got {}", self.downs));
        }
    }
}

/// One level: what halves the image and what doubles it.
#[derive(Debug)]
struct Level {
    down: Conv,
    down_norm: Norm,
    up: ConvTranspose,
    up_norm: Norm,
    dropout: bool,
}

/// The network.
#[derive(Debug)]
pub struct UnetGenerator {
    levels: Vec<Level>,
}

impl UnetGenerator {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = cyclegan::initialised(scope);
        let cubic = Cubic { dims: c.dims, kernel: 4, stride: 2, padding: 1 };
        let level = |i: usize| -> Result<Level> {
            let (outermost, innermost) = (i == 0, i + 1 == c.downs);
            let width = c.width(i);
            let (inputs, outputs) = match i.checked_sub(1) {
                None => (c.in_channels, c.out_channels),
                Some(outer) => (c.width(outer), c.width(outer)),
            };
            let norm = |there: bool| if there { c.norm } else { Normalisation::None };
            let up_inputs = if innermost { width } else { 2 * width };
            let up = scope.pp(up_key(i, c.downs));
            Ok(Level {
                down: cubic.conv(inputs, width, c.norm.bias(), &scope.pp(down_key(i)))?,
                down_norm: norm(!outermost && !innermost)
                    .layer(width, &scope.pp(level_key(i)).pp(2))?,
                up: cubic.transposed(up_inputs, outputs, 0, outermost || c.norm.bias(), &up)?,
                up_norm: norm(!outermost).layer(outputs, &scope.pp(norm_key(i, c.downs)))?,
                dropout: c.dropout && i >= 4 && !innermost,
            })
        };
        Ok(Self { levels: (0..c.downs).map(level).collect::<Result<_>>()? })
    }
}

impl Network for UnetGenerator {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let n = 1usize << self.levels.len();
        if x.rank() < 3 || x.dims()[2..].iter().any(|s| *s == 0 || s % n > 0) {
            let expected = format!("[N, C, s…] with sizes that are multiples of {n}");
            return Err(Error::shape("unet_generator", expected, x.dims()));
        }
        let mut skips = Vec::with_capacity(self.levels.len());
        let mut h = x.clone();
        for (i, level) in self.levels.iter().enumerate() {
            if i > 0 {
                h = leaky_relu(&h, 0.2)?;
                skips.push(h.clone());
            }
            h = level.down_norm.forward(&level.down.forward(&h)?, ctx)?;
        }
        let mut skip: Option<Tensor> = None;
        for level in self.levels.iter().rev() {
            let parts = skip.iter().chain([&h]).map(relu).collect::<Result<Vec<_>>>()?;
            let up = level.up.forward_cat(&parts.iter().collect::<Vec<_>>())?;
            h = level.up_norm.forward(&up, ctx)?;
            if level.dropout && ctx.is_train() {
                h = dropout(&h, 0.5, ctx.next_stream())?;
            }
            skip = skips.pop();
        }
        tanh(&h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{self, gan};
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    #[test]
    fn equals_the_cyclegan_code() {
        // with dropout, which shapes do not tell, a training pass would be another
        for name in ["cg_unet128_batch", "cg_unet128_instance"] {
            gan::check(name, |config, scope| match config {
                crate::AnyConfig::Image(crate::NetworkConfig::UnetGenerator(c)) => {
                    Config { dropout: false, ..c.clone() }.build(scope)
                }
                other => panic!("{name}: {other:?}"),
            });
        }
    }

    #[test]
    fn the_default_has_the_published_size() {
        assert_eq!(golden::parameters(&Config::default()), 54_413_955);
    }

    #[test]
    fn dropout_is_where_the_reference_has_it_and_sizes_are_checked() {
        let config = Config { in_channels: 1, features: 1, downs: 6, ..Config::default() };
        let scope = Params::new().scope(Stream::new(0, "test"), DType::F32, &Device::Cpu);
        let net = UnetGenerator::new(&config, &scope).unwrap();
        let at: Vec<bool> = net.levels.iter().map(|l| l.dropout).collect();
        assert_eq!(at, [false, false, false, false, true, false]);
        let x = Tensor::zeros((1, 1, 64, 96), DType::F32, &Device::Cpu).unwrap();
        let error = net.forward(&x, &Ctx::eval()).unwrap_err().to_string();
        assert!(error.contains("multiples of 64"), "{error}");
    }
}
