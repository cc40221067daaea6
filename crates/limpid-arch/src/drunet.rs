//! DRUNet: a U-Net of residual blocks that takes the image and a map of its noise level (Zhang et
//! al. 2021, arXiv:2008.13751).
//!
//! Reference: KAIR `network_unet.py`, `UNetRes` (MIT), with strided and transposed convolutions.
//!
//! ```text
//! x [N, in, h, w] (image and noise level) → m_head (w0)
//!   → m_down1 (w0, then w1 at half size) → m_down2 (w2) → m_down3 (w3) → m_body
//!   → m_up3: + m_down3, transposed convolution, blocks (w2) → m_up2 (w1) → m_up1 (w0)
//!   → + m_head, m_tail → [N, out, h, w]
//! ```

use crate::blocks::{ResBlock, chain, check_image};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{ConvSpec, ConvTransposeSpec};
use limpid_nn::layers::{Conv, ConvTranspose};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const NAME: &str = "drunet";

/// Settings of a DRUNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the first convolution: those of the image and one for the noise level.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the four scales, the finest first.
    pub widths: [usize; 4],
    /// Residual blocks on each scale of each way.
    pub blocks: usize,
    /// Offsets in the convolutions.
    pub bias: bool,
    /// Standard deviation of the noise in the intensities that the network is given: becomes the
    /// last channel. If not set, the image that the network is given has that channel already.
    pub sigma: Option<f64>,
}

impl Default for Config {
    /// [`Config::gray`].
    fn default() -> Self {
        Self::gray()
    }
}

impl Config {
    /// KAIR's network for gray images.
    #[must_use]
    pub fn gray() -> Self {
        Self {
            in_channels: 2,
            out_channels: 1,
            widths: [64, 128, 256, 512],
            blocks: 4,
            bias: false,
            sigma: None,
        }
    }

    /// KAIR's network for colour images.
    #[must_use]
    pub fn colour() -> Self {
        Self { in_channels: 4, out_channels: 3, ..Self::gray() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let down = |level: usize| size_of(shapes, &format!("m_down{level}.0.res.0.weight"), 0);
        Some(Self {
            in_channels: size_of(shapes, "m_head.weight", 1)?,
            out_channels: size_of(shapes, "m_tail.weight", 0)?,
            widths: [down(1)?, down(2)?, down(3)?, size_of(shapes, "m_up3.0.weight", 0)?],
            blocks: count_of(shapes, "m_down1.", ".res.0.weight"),
            bias: shapes.contains_key("m_head.bias"),
            sigma: None,
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        DruNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(DruNet::new(self, scope)?))
    }

    /// One less than the first convolution has where the noise level is configured.
    fn in_channels(&self) -> usize {
        self.in_channels.saturating_sub(usize::from(self.sigma.is_some()))
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 8: the image is halved three times.
    fn divisor(&self) -> Vec<usize> {
        vec![8; 2]
    }

    /// Two 3×3 convolutions in each block on the way down and up, at each of four scales.
    fn receptive_field(&self) -> Vec<usize> {
        let blocks = 4 * self.blocks;
        let down: usize = (0..3).map(|level| (blocks + 1) << level).sum();
        let up: usize = (0..3).map(|level| blocks << level).sum();
        vec![1 + 2 + down + (blocks << 3) + up + 2; 2]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        let [a, b, ..] = self.widths;
        4 * (5 * a + b)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        let least = 1 + usize::from(self.sigma.is_some());
        for (key, value, least) in [
            ("in_channels", self.in_channels, least),
            ("out_channels", self.out_channels, 1),
            ("blocks", self.blocks, 1),
        ] {
            if value < least {
                at.problem(key, format!("must be at least {least}, got {value}"));
            }
        }
        if self.widths.contains(&0) {
            at.problem("widths", "must all be above 0");
        }
        if let Some(sigma) = self.sigma.filter(|s| !(s.is_finite() && *s >= 0.0)) {
            at.problem("sigma", format!("must be 0 or more, got {sigma}"));
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct DruNet {
    head: Conv,
    down: Vec<(Vec<Arc<ResBlock>>, Conv)>,
    body: Vec<Arc<ResBlock>>,
    up: Vec<(ConvTranspose, Vec<Arc<ResBlock>>)>,
    tail: Conv,
    /// Of the image that it is given.
    in_channels: usize,
    sigma: Option<f64>,
}

impl DruNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let w = &c.widths;
        let block = |width, scope: &Scope| {
            ResBlock::new(width, c.bias, ["0", "2"], &scope.pp("res")).map(Arc::new)
        };
        let blocks = |first: usize, width: usize, scope: &Scope| {
            (first..first + c.blocks).map(|i| block(width, &scope.pp(i))).collect::<Result<_>>()
        };
        let halve = |inputs: usize, outputs: usize, scope: &Scope| {
            let spec = ConvSpec { stride: vec![2; 2], ..ConvSpec::unit(2) };
            Conv::new(inputs, outputs, &[2, 2], spec, c.bias, scope)
        };
        let double = |inputs: usize, outputs: usize, scope: &Scope| {
            let spec = ConvTransposeSpec { stride: vec![2; 2], ..ConvTransposeSpec::unit(2) };
            ConvTranspose::new(inputs, outputs, &[2, 2], spec, c.bias, scope)
        };
        let head = Conv::same(2, c.in_channels, w[0], 3, c.bias, &scope.pp("m_head"))?;
        let down = (1..4)
            .map(|level| {
                let scope = scope.pp(format!("m_down{level}"));
                let last = scope.pp(c.blocks);
                Ok((blocks(0, w[level - 1], &scope)?, halve(w[level - 1], w[level], &last)?))
            })
            .collect::<Result<_>>()?;
        // the reference does not number a single block
        let body = scope.pp("m_body");
        let body = if c.blocks == 1 { vec![block(w[3], &body)?] } else { blocks(0, w[3], &body)? };
        let up = (1..4)
            .rev()
            .map(|level| {
                let scope = scope.pp(format!("m_up{level}"));
                let first = double(w[level], w[level - 1], &scope.pp(0))?;
                Ok((first, blocks(1, w[level - 1], &scope)?))
            })
            .collect::<Result<_>>()?;
        let tail = Conv::same(2, w[0], c.out_channels, 3, c.bias, &scope.pp("m_tail"))?;
        Ok(Self { head, down, body, up, tail, in_channels: c.in_channels(), sigma: c.sigma })
    }
}

impl Network for DruNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image(NAME, x, self.in_channels, 8)?;
        let x = match self.sigma {
            Some(sigma) => {
                let (n, _, h, w) = x.dims4()?;
                let level = Tensor::full(sigma, (n, 1, h, w), x.device())?.to_dtype(x.dtype())?;
                limpid_kernels::cat(&[x, &level], 1)?
            }
            None => x.clone(),
        };
        let mut scales = vec![self.head.forward(&x)?];
        for (i, (blocks, halve)) in self.down.iter().enumerate() {
            let next = halve.forward(&chain(blocks, &scales[i], ctx)?)?;
            scales.push(next);
        }
        let mut h = chain(&self.body, &scales[3], ctx)?;
        for (i, (double, blocks)) in self.up.iter().enumerate() {
            h = chain(blocks, &double.forward(&limpid_kernels::add(&h, &scales[3 - i])?)?, ctx)?;
        }
        self.tail.forward(&limpid_kernels::add(&h, &scales[0])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_kair() {
        golden::check("net_drunet");
    }

    #[test]
    fn has_the_published_number_of_parameters() {
        assert_eq!(golden::count(&Config::gray()), 32_638_656);
    }

    #[test]
    fn several_blocks_are_numbered_and_recognised() {
        for (blocks, bias, key) in
            [(1, true, "m_body.res.2.bias"), (3, false, "m_body.2.res.0.weight")]
        {
            let config = Config { widths: [4, 6, 5, 3], blocks, bias, ..Config::colour() };
            let shapes = config.shapes().unwrap();
            assert!(shapes.contains_key(key), "{key}");
            assert_eq!(Config::recognise(&shapes), Some(config));
        }
    }

    #[test]
    fn a_configured_noise_level_is_the_last_channel() {
        let with = Config { widths: [4; 4], blocks: 1, sigma: Some(0.25), ..Config::default() };
        let without = Config { sigma: None, ..with.clone() };
        assert_eq!((with.in_channels(), without.in_channels()), (1, 2));
        let (_, told) = golden::drawn(|scope| DruNet::new(&with, scope));
        let (_, given) = golden::drawn(|scope| DruNet::new(&without, scope));
        let x = golden::noise(&[2, 1, 8, 16]);
        let level = (x.zeros_like().unwrap() + 0.25).unwrap();
        let both = Tensor::cat(&[&x, &level], 1).unwrap();
        let told = told.forward(&x, &Ctx::eval()).unwrap();
        golden::assert_close(&told, &given.forward(&both, &Ctx::eval()).unwrap(), 0.0);
    }

    #[test]
    fn sizes_that_cannot_be_halved_three_times_are_an_error() {
        let config = Config { widths: [4; 4], blocks: 1, ..Config::default() };
        let (_, net) = golden::drawn(|scope| DruNet::new(&config, scope));
        let error = net.forward(&golden::noise(&[1, 2, 12, 16]), &Ctx::eval()).unwrap_err();
        assert!(error.to_string().contains("multiples of 8, got [1, 2, 12, 16]"), "{error}");
    }
}
