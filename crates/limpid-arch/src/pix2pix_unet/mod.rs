//! The U-Net generator of NectarGAN, after pix2pix (Isola et al. 2017, arXiv:1611.07004).
//!
//! Reference: ZacharyBork/NectarGAN 0.2 `UnetGenerator` (Apache-2.0). Dropout has no keys.
//!
//! ```text
//! x [N, C, s…] → initial_down (f) → downs.i (2f, 4f, 8f, 8f, …) → bottleneck
//!   → ups.0 → (cat with skip, ups.i) × downs → cat with skip, final_up → [N, C, s…]
//! ```
//! Every block halves or doubles the image. Down: 4-convolution with mirrored border. Up: transposed
//! 4-convolution, or bilinear resizing and a 3-convolution. `downs` and `ups` have an instance
//! normalisation without parameters; activations are leaky ReLU (0.2) down, ReLU in the bottleneck
//! and up, tanh at the end. A residual block adds what a 1-convolution and ReLU make of its input.
//!
//! Two properties of the reference are kept because weights depend on them: with residual blocks
//! `ups.0` adds its input of one pixel to all pixels of its output, so that there is only one image
//! size, and the output is not limited to ±1; and with bilinear upsampling of a bottleneck of one
//! pixel, the normalisation in `ups.0` takes all that the bottleneck says away.

mod block;

pub use block::{BlockConfig, Output, UnetBlock};

use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::dropout;
use limpid_nn::{Ctx, Error, Init, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a block doubles the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Upsampling {
    /// By a transposed 4-convolution.
    Transposed,
    /// By bilinear interpolation and a 3-convolution.
    Bilinear,
}

/// Which blocks the network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Convolution, normalisation, activation.
    Standard,
    /// The same with a path around it.
    Residual,
}

/// Settings of the generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the image, in and out.
    pub channels: usize,
    /// Channels of the first block; they double from block to block up to eight times that.
    pub features: usize,
    /// Blocks that halve the image, besides the first and the bottleneck.
    pub downs: usize,
    /// Which blocks.
    pub block: BlockKind,
    /// How they double the image.
    pub upsampling: Upsampling,
    /// Blocks on the way up, the coarsest first, that drop half of their output in training.
    pub dropout_layers: usize,
}

impl Default for Config {
    /// NectarGAN's defaults.
    fn default() -> Self {
        Self {
            dims: 2,
            channels: 3,
            features: 64,
            downs: 6,
            block: BlockKind::Standard,
            upsampling: Upsampling::Transposed,
            dropout_layers: 3,
        }
    }
}

impl Config {
    /// Three downsampling blocks of few channels for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self { features: 16, downs: 3, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        const FIRST: &str = "initial_down.conv.0.weight";
        let residual = shapes.contains_key("initial_down.residual.0.weight");
        let bilinear = shapes.contains_key("final_up.conv.2.weight");
        Some(Self {
            dims: rank_of(shapes, FIRST)?,
            channels: size_of(shapes, FIRST, 1)?,
            features: size_of(shapes, FIRST, 0)?,
            downs: count_of(shapes, "downs.", ".conv.0.weight"),
            block: if residual { BlockKind::Residual } else { BlockKind::Standard },
            upsampling: if bilinear { Upsampling::Bilinear } else { Upsampling::Transposed },
            dropout_layers: Self::default().dropout_layers,
        })
    }

    /// Channels of the outputs of `initial_down` and of each of `downs`.
    fn widths(&self) -> Vec<usize> {
        (0..=self.downs).map(|i| self.features * 8.min(1 << i.min(3))).collect()
    }

    /// Times that the image is halved.
    fn halvings(&self) -> usize {
        self.downs + 2
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "pix2pix_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        Pix2pixUnet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(Pix2pixUnet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.channels
    }

    fn out_channels(&self) -> usize {
        self.channels
    }

    /// The image is halved `downs + 2` times.
    fn divisor(&self) -> Vec<usize> {
        vec![1 << self.halvings(); self.dims]
    }

    /// Four pixels on each of the halved scales, and two (transposed) or four (bilinear) on the way
    /// back.
    fn receptive_field(&self) -> Vec<usize> {
        let up = if self.upsampling == Upsampling::Transposed { 2 } else { 4 };
        vec![1 + (3 + up) * ((1 << self.halvings()) - 1); self.dims]
    }

    fn activation_bytes(&self) -> usize {
        let scales = self.widths().into_iter().enumerate();
        let pixels = |i: usize| 1 << (self.dims * (i + 1)).min(40);
        4 * (2 * self.channels + scales.map(|(i, w)| 5 * w / pixels(i)).sum::<usize>())
    }

    /// That which makes the bottleneck one pixel, with residual blocks.
    fn fixed_size(&self) -> Option<Vec<usize>> {
        (self.block == BlockKind::Residual).then(|| self.divisor())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value) in [("channels", self.channels), ("features", self.features)] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if !(1..=16).contains(&self.downs) {
            at.problem("downs", format!("must be 1 to 16, got {}", self.downs));
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct Pix2pixUnet {
    divisor: usize,
    dropout_layers: usize,
    initial: UnetBlock,
    downs: Vec<UnetBlock>,
    bottleneck: UnetBlock,
    ups: Vec<UnetBlock>,
    last: UnetBlock,
}

impl Pix2pixUnet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.initialised(|name, _, _| match name.ends_with(".bias") {
            true => Init::Zeros,
            false => Init::Normal { mean: 0.0, std: 0.02 },
        });
        let block = |(inputs, outputs), down, (normalised, output), name: &str| {
            let config = BlockConfig {
                dims: c.dims,
                kind: c.block,
                inputs,
                outputs,
                down,
                upsampling: c.upsampling,
                normalised,
                output,
                bias: !normalised,
            };
            UnetBlock::new(&config, &scope.pp(name))
        };
        let widths = c.widths();
        let (first, deepest) = (c.features, widths[c.downs]);
        let downs = (0..c.downs).map(|i| {
            let channels = (widths[i], widths[i + 1]);
            block(channels, true, (true, Output::LeakyRelu), &format!("downs.{i}"))
        });
        let ups = (0..=c.downs).map(|i| {
            let channels = match i {
                0 => (deepest, deepest),
                _ => (2 * widths[c.downs + 1 - i], widths[c.downs - i]),
            };
            block(channels, false, (true, Output::Relu), &format!("ups.{i}"))
        });
        let initial = (false, Output::LeakyRelu);
        Ok(Self {
            divisor: 1 << c.halvings(),
            dropout_layers: c.dropout_layers,
            initial: block((c.channels, first), true, initial, "initial_down")?,
            downs: downs.collect::<Result<_>>()?,
            bottleneck: block((deepest, deepest), true, (false, Output::Relu), "bottleneck")?,
            ups: ups.collect::<Result<_>>()?,
            last: block((2 * first, c.channels), false, (false, Output::Tanh), "final_up")?,
        })
    }

    /// The forward pass with a dropout of the caller's: `drop` is given the index in `ups` and the
    /// output of each block that has dropout.
    ///
    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// [`Error::Shape`] unless sizes are multiples of the divisor, and equal it with residual
    /// blocks; whatever `drop` returns.
    pub fn forward_with(
        &self,
        x: &Tensor,
        drop: impl Fn(usize, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let n = self.divisor;
        if x.rank() < 3 || x.dims()[2..].iter().any(|s| *s == 0 || s % n > 0) {
            let expected = format!("[N, C, s…] with sizes that are multiples of {n}");
            return Err(Error::shape("pix2pix_unet", expected, x.dims()));
        }
        let mut skips = vec![self.initial.forward(x)?];
        for block in &self.downs {
            skips.push(block.forward(&skips[skips.len() - 1])?);
        }
        let mut h = self.bottleneck.forward(&skips[skips.len() - 1])?;
        for (i, block) in self.ups.iter().enumerate() {
            h = match i {
                0 => block.forward(&h)?,
                _ => block.forward_cat(&[&h, &skips[skips.len() - i]])?,
            };
            if i < self.dropout_layers {
                h = drop(i, &h)?;
            }
        }
        self.last.forward_cat(&[&h, &skips[0]])
    }
}

impl Network for Pix2pixUnet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.forward_with(x, |_, h| match ctx.is_train() {
            true => dropout(h, 0.5, ctx.next_stream()),
            false => Ok(h.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{self, filled, gan, recognised};
    use crate::{AnyConfig, NetworkConfig};
    use candle_core::{DType, Device, Var};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    #[test]
    fn equals_nectargan() {
        for name in [
            "gen_unet_transposed",
            "gen_unet_bilinear",
            "gen_unet_transposed_deep",
            "gen_resunet_transposed",
            "gen_resunet_bilinear",
            "gen_resunet_transposed_deep",
        ] {
            gan::check_image(name);
            let Some(golden) = gan::open(name) else { return };
            let weights = golden.weights("weights.");
            let AnyConfig::Image(NetworkConfig::Pix2pixUnet(config)) = recognised(name, &weights)
            else {
                panic!("{name}")
            };
            let (_, net) = filled(&weights, |scope| Pix2pixUnet::new(&config, scope));
            let masked = net
                .forward_with(golden.tensor("in.x"), |i, h| {
                    let mask = golden.tensor(&format!("in.dropout_mask.ups.{i}"));
                    Ok(((h * mask)? * 2.0)?)
                })
                .unwrap();
            golden.close(
                "with masks",
                &masked,
                golden.tensor("out.y_train_with_masks"),
                gan::OUTPUT,
            );
            if let Some(x) = golden.tensors.get("in.x_rect") {
                let y = net.forward(x, &Ctx::eval()).unwrap();
                golden.close("rectangle", &y, golden.tensor("out.y_rect_eval"), gan::OUTPUT);
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_reference() {
        let with = |block, upsampling| Config { block, upsampling, ..Config::default() };
        let count = |block, upsampling| golden::parameters(&with(block, upsampling));
        assert_eq!(count(BlockKind::Standard, Upsampling::Transposed), 54_404_675);
        assert_eq!(count(BlockKind::Residual, Upsampling::Transposed), 57_547_782);
        assert_eq!(count(BlockKind::Standard, Upsampling::Bilinear), 39_150_979);
    }

    fn tiny(block: BlockKind, dims: usize) -> Pix2pixUnet {
        let config =
            Config { dims, channels: 1, features: 2, downs: 1, block, ..Config::default() };
        let scope = Params::new().scope(Stream::new(0, "test"), DType::F32, &Device::Cpu);
        Pix2pixUnet::new(&config, &scope).unwrap()
    }

    #[test]
    fn a_size_that_does_not_fit_is_an_error() {
        let image = |size: (usize, usize)| {
            Tensor::zeros((1, 1, size.0, size.1), DType::F32, &Device::Cpu).unwrap()
        };
        let run = |block, size| tiny(block, 2).forward(&image(size), &Ctx::eval());
        assert_eq!(run(BlockKind::Standard, (8, 24)).unwrap().dims(), [1, 1, 8, 24]);
        let error = run(BlockKind::Standard, (8, 12)).unwrap_err().to_string();
        assert!(error.contains("multiples of 8"), "{error}");
        assert_eq!(run(BlockKind::Residual, (8, 8)).unwrap().dims(), [1, 1, 8, 8]);
        let error = run(BlockKind::Residual, (16, 16)).unwrap_err();
        assert!(matches!(error, Error::Shape { op: "residual block", .. }), "{error}");
    }

    #[test]
    fn volumes_go_the_same_way() {
        let x = Var::ones((1, 1, 8, 8, 16), DType::F32, &Device::Cpu).unwrap();
        let net = tiny(BlockKind::Standard, 3);
        let y = net.forward(x.as_tensor(), &Ctx::train(Stream::new(1, "test"))).unwrap();
        assert_eq!(y.dims(), x.dims());
        assert!(y.sum_all().unwrap().backward().unwrap().get(&x).is_some());
    }
}
