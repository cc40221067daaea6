//! EDSR: super-resolution by a long chain of residual blocks without normalisation (Lim et al.
//! 2017, arXiv:1707.02921).
//!
//! Reference: BasicSR `edsr_arch.py` (Apache-2.0).
//!
//! ```text
//! x [N, c, h, w] → (x - mean)·range → conv_first → + (body → conv_after_body)
//!   → upsample: (conv, shuffle)… → conv_last → /range + mean → [N, c, s·h, s·w]
//! ```

use crate::blocks::{ResBlock, chain, check_image, numbered, upscaling_steps};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::pixel_shuffle;
use limpid_nn::layers::Conv;
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const NAME: &str = "edsr";

/// Mean colour of the DIV2K photographs.
const DIV2K: [f64; 3] = [0.4488, 0.4371, 0.4040];

/// Settings of an EDSR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Mean of each channel of the images, which the network takes off; tells how many there are.
    pub mean: Vec<f64>,
    /// Factor on the intensities inside.
    pub range: f64,
    /// Channels inside.
    pub width: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// Factor on what a residual block adds.
    pub residual_scale: f64,
    /// How many times larger the output is, along both axes.
    pub scale: usize,
}

impl Default for Config {
    /// The smaller published network, fourfold, for images of one channel with zero mean.
    fn default() -> Self {
        Self { mean: vec![0.0], ..Self::medium(4) }
    }
}

impl Config {
    /// The smaller network for colour photographs, published for 2, 3 and 4.
    #[must_use]
    pub fn medium(scale: usize) -> Self {
        Self {
            mean: DIV2K.to_vec(),
            range: 255.0,
            width: 64,
            blocks: 16,
            residual_scale: 1.0,
            scale,
        }
    }

    /// The larger network for colour photographs, published for 2, 3 and 4.
    #[must_use]
    pub fn large(scale: usize) -> Self {
        Self { width: 256, blocks: 32, residual_scale: 0.1, ..Self::medium(scale) }
    }

    /// The configuration that a checkpoint's shapes belong to. The factor on the blocks and the
    /// means are those of the published networks.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        size_of(shapes, "conv_after_body.weight", 0)?;
        size_of(shapes, "body.0.conv1.weight", 0)?;
        let width = size_of(shapes, "conv_first.weight", 0)?;
        let channels = size_of(shapes, "conv_first.weight", 1)?;
        let steps = numbered(shapes, "upsample.", ".weight");
        let triple = steps.values().any(|s| s.first() == Some(&(9 * width)));
        let large = Self::large(1);
        Some(Self {
            mean: if channels == DIV2K.len() { DIV2K.to_vec() } else { vec![0.0; channels] },
            width,
            blocks: count_of(shapes, "body.", ".conv1.weight"),
            residual_scale: if width == large.width { large.residual_scale } else { 1.0 },
            scale: if triple { 3 } else { 1usize.checked_shl(u32::try_from(steps.len()).ok()?)? },
            range: large.range,
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        Edsr::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(Edsr::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.mean.len()
    }

    fn out_channels(&self) -> usize {
        self.mean.len()
    }

    /// Sizes need not be multiples of anything.
    fn divisor(&self) -> Vec<usize> {
        vec![1; 2]
    }

    /// Two pixels per convolution, at most.
    fn receptive_field(&self) -> Vec<usize> {
        let steps = upscaling_steps(self.scale).map_or(0, |s| s.len());
        vec![1 + 2 * (1 + 2 * self.blocks + 1 + steps + 1); 2]
    }

    /// Bytes of activations per pixel of the small image in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * self.width * (4 + 2 * self.scale * self.scale)
    }

    fn scale(&self) -> usize {
        self.scale
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if self.mean.is_empty() || !self.mean.iter().all(|m| m.is_finite()) {
            at.problem("mean", "must have a number for each channel, at least one");
        }
        for (key, value) in [("width", self.width), ("blocks", self.blocks)] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if !(self.range.is_finite() && self.range > 0.0) {
            at.problem("range", format!("must be above 0, got {}", self.range));
        }
        if !self.residual_scale.is_finite() {
            at.problem("residual_scale", format!("must be a number, got {}", self.residual_scale));
        }
        if self.scale > 16 || upscaling_steps(self.scale).is_none() {
            at.problem("scale", format!("must be 1, 2, 3, 4, 8 or 16, got {}", self.scale));
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct Edsr {
    first: Conv,
    body: Vec<Arc<ResBlock>>,
    after_body: Conv,
    up: Vec<(usize, Conv)>,
    last: Conv,
    mean: Vec<f64>,
    range: f64,
}

impl Edsr {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (channels, width) = (c.mean.len(), c.width);
        let conv = |inputs: usize, outputs: usize, scope: &Scope| {
            Conv::same(2, inputs, outputs, 3, true, scope)
        };
        let block = |i| {
            let scope = scope.pp("body").pp(i);
            let conv = |name: &str| conv(width, width, &scope.pp(name));
            Ok(Arc::new(ResBlock::of([conv("conv1")?, conv("conv2")?], c.residual_scale)))
        };
        // a shuffle without parameters has every other number
        let step = |(i, r): (usize, &usize)| {
            Ok((*r, conv(width, width * r * r, &scope.pp("upsample").pp(2 * i))?))
        };
        let steps = upscaling_steps(c.scale).unwrap_or_default();
        Ok(Self {
            first: conv(channels, width, &scope.pp("conv_first"))?,
            body: (0..c.blocks).map(block).collect::<Result<_>>()?,
            after_body: conv(width, width, &scope.pp("conv_after_body"))?,
            up: steps.iter().enumerate().map(step).collect::<Result<_>>()?,
            last: conv(width, channels, &scope.pp("conv_last"))?,
            mean: c.mean.clone(),
            range: c.range,
        })
    }
}

impl Network for Edsr {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let channels = self.mean.len();
        check_image(NAME, x, channels, 1)?;
        let mean = Tensor::from_slice(&self.mean, (1, channels, 1, 1), x.device())?;
        let mean = mean.to_dtype(x.dtype())?;
        let first = self.first.forward(&(x.broadcast_sub(&mean)? * self.range)?)?;
        let body = self.after_body.forward(&chain(&self.body, &first, ctx)?)?;
        let mut h = limpid_kernels::add(&body, &first)?;
        for (r, conv) in &self.up {
            h = pixel_shuffle(&conv.forward(&h)?, *r)?;
        }
        let y = limpid_kernels::cast(&self.last.forward(&h)?, x.dtype())?;
        Ok((y / self.range)?.broadcast_add(&mean)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;
    use candle_core::Device;

    #[test]
    fn has_the_published_number_of_parameters() {
        assert_eq!(golden::count(&Config::medium(2)), 1_369_859);
        assert_eq!(golden::count(&Config::medium(4)), 1_517_571);
    }

    #[test]
    fn every_scale_enlarges_and_is_recognised() {
        for scale in [1, 2, 3, 4, 8] {
            let config = Config { width: 3, blocks: 2, ..Config::medium(scale) };
            assert!(limpid_config::check(&config).is_empty());
            let (params, net) = golden::drawn(|scope| Edsr::new(&config, scope));
            assert_eq!(Config::recognise(&params.shapes()), Some(config));
            let y = net.forward(&golden::noise(&[1, 3, 5, 4]), &Ctx::eval()).unwrap();
            assert_eq!(y.dims(), [1, 3, 5 * scale, 4 * scale]);
        }
    }

    #[test]
    fn without_weights_the_mean_is_left() {
        let config = Config { width: 2, blocks: 1, ..Config::medium(2) };
        let (params, net) = golden::drawn(|scope| Edsr::new(&config, scope));
        for param in params.all() {
            param.set(&param.tensor().zeros_like().unwrap()).unwrap();
        }
        let y = net.forward(&golden::noise(&[1, 3, 2, 2]), &Ctx::eval()).unwrap();
        let mean = Tensor::new(&DIV2K, &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        golden::assert_close(&y, &mean.broadcast_as((1, 3, 4, 4)).unwrap(), 1e-6);
    }
}
