//! NAFNet: a U-Net whose blocks multiply halves of their channels instead of activating them (Chen
//! et al. 2022, arXiv:2204.04676).
//!
//! Reference: megvii-research `NAFNet_arch.py` (MIT), without its local variant.
//!
//! ```text
//! x [N, c, h, w] → zeros to multiples of the divisor → intro (w)
//!   → encoders.i (2^i·w), downs.i at half size → middle_blks
//!   → ups.j: 1×1 convolution, shuffle, + skip → decoders.j → ending;  y = x + ending, cut
//! block: norm1 → conv1 → conv2 (depthwise) → gate → · sca(mean) → conv3;  y = x + beta·that
//!   → norm2 → conv4 → gate → conv5;  y + gamma·that
//! ```

use crate::blocks::{ChannelNorm, chain, check_image, crop, missing};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{ConvSpec, Pad, adaptive_avg_pool, pad, pixel_shuffle, scale_channels};
use limpid_nn::layers::Conv;
use limpid_nn::{Ctx, Error, Init, Param, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const NAME: &str = "nafnet";

/// Settings of a NAFNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the image.
    pub channels: usize,
    /// Channels of the finest scale; they double with each halving.
    pub width: usize,
    /// Blocks of each scale on the way down, the finest first.
    pub encoder: Vec<usize>,
    /// Blocks of the coarsest scale.
    pub middle: usize,
    /// Blocks of each scale on the way up, the coarsest first.
    pub decoder: Vec<usize>,
}

impl Default for Config {
    /// The published denoiser of width 32, for images of one channel.
    fn default() -> Self {
        Self { channels: 1, ..Self::sidd(32) }
    }
}

impl Config {
    /// The denoiser for the SIDD photographs; published in width 32 and 64.
    #[must_use]
    pub fn sidd(width: usize) -> Self {
        Self {
            channels: 3,
            width,
            encoder: vec![2, 2, 4, 8],
            middle: 12,
            decoder: vec![2, 2, 2, 2],
        }
    }

    /// The deblurrer for the GoPro photographs, published in width 32 and 64, and for REDS in 64.
    #[must_use]
    pub fn gopro(width: usize) -> Self {
        Self {
            channels: 3,
            width,
            encoder: vec![1, 1, 1, 28],
            middle: 1,
            decoder: vec![1, 1, 1, 1],
        }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let blocks = |name: &str| count_of(shapes, &format!("{name}."), ".sca.1.weight");
        let levels = |name: &str, suffix: &str, part: &str| {
            let levels = 0..count_of(shapes, name, suffix);
            levels.map(|i| blocks(&format!("{part}.{i}"))).collect()
        };
        size_of(shapes, "ending.weight", 0)?;
        Some(Self {
            channels: size_of(shapes, "intro.weight", 1)?,
            width: size_of(shapes, "intro.weight", 0)?,
            encoder: levels("downs.", ".weight", "encoders"),
            middle: blocks("middle_blks"),
            decoder: levels("ups.", ".0.weight", "decoders"),
        })
    }

    fn padded_to(&self) -> usize {
        1usize.checked_shl(self.encoder.len() as u32).unwrap_or(usize::MAX)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        NafNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(NafNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.channels
    }

    fn out_channels(&self) -> usize {
        self.channels
    }

    /// Two to the number of scales. (Other sizes work too: zeros are added.)
    fn divisor(&self) -> Vec<usize> {
        vec![self.padded_to(); 2]
    }

    /// Zeros are added to the right and below.
    fn any_size_from(&self) -> Option<usize> {
        Some(1)
    }

    /// One 3×3 convolution per block; the means over the image see all of it.
    fn receptive_field(&self) -> Vec<usize> {
        let levels = self.encoder.len();
        let down: usize = self.encoder.iter().enumerate().map(|(l, n)| (2 * n + 1) << l).sum();
        let up: usize = self.decoder.iter().rev().enumerate().map(|(l, n)| (2 * n) << l).sum();
        vec![1 + 2 + down + ((2 * self.middle) << levels) + up + 2; 2]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 12 * self.width
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [("channels", self.channels), ("width", self.width)] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if self.encoder.len() > 10 {
            at.problem(
                "encoder",
                format!("must have 10 scales at most, got {}", self.encoder.len()),
            );
        }
        if self.decoder.len() != self.encoder.len() {
            at.problem("decoder", format!("must have {} entries as `encoder`", self.encoder.len()));
        }
    }
}

/// Each channel times a parameter.
fn scaled(x: &Tensor, factor: &Param) -> Result<Tensor> {
    let factor = limpid_kernels::reshape(&factor.tensor(), (1, x.dims()[1]))?;
    scale_channels(x, &factor)
}

/// Product of the two halves of the channels.
fn gate(x: &Tensor) -> Result<Tensor> {
    match x.chunk(2, 1)?.as_slice() {
        [a, b] => Ok((a * b)?),
        _ => Err(Error::shape(NAME, "an even number of channels", x.dims())),
    }
}

/// A block without activation functions (`NAFBlock`).
#[derive(Debug)]
struct Block {
    norms: [ChannelNorm; 2],
    /// `conv1` to `conv5`.
    convs: [Conv; 5],
    /// Channel weights from the means over the image.
    attention: Conv,
    /// Factors on the two branches, initially zero.
    factors: [Param; 2],
}

impl Block {
    fn new(width: usize, scope: &Scope) -> Result<Self> {
        let point = |name: &str, inputs: usize, outputs: usize| {
            Conv::same(2, inputs, outputs, 1, true, &scope.pp(name))
        };
        let norm = |name: &str| ChannelNorm::new(width, 1e-6, &scope.pp(name));
        let factor = |name: &str| scope.param(name, &[1, width, 1, 1], Init::Zeros);
        let twice = 2 * width;
        let depthwise = ConvSpec { padding: vec![1; 2], groups: twice, ..ConvSpec::unit(2) };
        Ok(Self {
            factors: [factor("beta")?, factor("gamma")?],
            convs: [
                point("conv1", width, twice)?,
                Conv::new(twice, twice, &[3, 3], depthwise, true, &scope.pp("conv2"))?,
                point("conv3", width, width)?,
                point("conv4", width, twice)?,
                point("conv5", width, width)?,
            ],
            attention: Conv::same(2, width, width, 1, true, &scope.pp("sca").pp(1))?,
            norms: [norm("norm1")?, norm("norm2")?],
        })
    }
}

impl Network for Block {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        let ([norm1, norm2], [beta, gamma]) = (&self.norms, &self.factors);
        let [conv1, conv2, conv3, conv4, conv5] = &self.convs;
        let h = gate(&conv2.forward(&conv1.forward(&norm1.forward(x)?)?)?)?;
        let weights = self.attention.forward(&adaptive_avg_pool(&h, &[1, 1])?)?;
        let weights = limpid_kernels::reshape(&weights, &weights.dims()[..2])?;
        let h = conv3.forward(&scale_channels(&h, &weights)?)?;
        let y = limpid_kernels::add(x, &scaled(&h, beta)?)?;
        let h = conv5.forward(&gate(&conv4.forward(&norm2.forward(&y)?)?)?)?;
        limpid_kernels::add(&y, &scaled(&h, gamma)?)
    }
}

fn blocks(count: usize, width: usize, scope: &Scope) -> Result<Vec<Arc<Block>>> {
    (0..count).map(|i| Block::new(width, &scope.pp(i)).map(Arc::new)).collect()
}

/// The network.
#[derive(Debug)]
pub struct NafNet {
    intro: Conv,
    down: Vec<(Vec<Arc<Block>>, Conv)>,
    middle: Vec<Arc<Block>>,
    up: Vec<(Conv, Vec<Arc<Block>>)>,
    ending: Conv,
    channels: usize,
    padded_to: usize,
}

impl NafNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let halve = ConvSpec { stride: vec![2; 2], ..ConvSpec::unit(2) };
        let mut width = c.width;
        let intro = Conv::same(2, c.channels, width, 3, true, &scope.pp("intro"))?;
        let mut down = Vec::new();
        for (i, &count) in c.encoder.iter().enumerate() {
            let encoder = blocks(count, width, &scope.pp("encoders").pp(i))?;
            let name = scope.pp("downs").pp(i);
            down.push((encoder, Conv::new(width, 2 * width, &[2, 2], halve.clone(), true, &name)?));
            width *= 2;
        }
        let middle = blocks(c.middle, width, &scope.pp("middle_blks"))?;
        let mut up = Vec::new();
        for (i, &count) in c.decoder.iter().enumerate() {
            let name = scope.pp("ups").pp(i).pp(0);
            let conv = Conv::same(2, width, 2 * width, 1, false, &name)?;
            width /= 2;
            up.push((conv, blocks(count, width, &scope.pp("decoders").pp(i))?));
        }
        let ending = Conv::same(2, c.width, c.channels, 3, true, &scope.pp("ending"))?;
        let (channels, padded_to) = (c.channels, c.padded_to());
        Ok(Self { intro, down, middle, up, ending, channels, padded_to })
    }
}

impl Network for NafNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image(NAME, x, self.channels, 1)?;
        let padded = pad(x, &missing(x, self.padded_to), Pad::Zero)?;
        let mut h = self.intro.forward(&padded)?;
        let mut skips = Vec::new();
        for (blocks, halve) in &self.down {
            h = chain(blocks, &h, ctx)?;
            skips.push(h.clone());
            h = halve.forward(&h)?;
        }
        h = chain(&self.middle, &h, ctx)?;
        for ((conv, blocks), skip) in self.up.iter().zip(skips.iter().rev()) {
            let up = pixel_shuffle(&conv.forward(&h)?, 2)?;
            h = chain(blocks, &limpid_kernels::add(&up, skip)?, ctx)?;
        }
        crop(&limpid_kernels::add(&self.ending.forward(&h)?, &padded)?, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_the_reference() {
        golden::check("net_nafnet");
    }

    #[test]
    fn has_the_published_number_of_parameters() {
        let millions = |c: &Config| (golden::count(c) as f64 / 1e4).round() / 100.0;
        assert_eq!(millions(&Config::gopro(32)), 17.11);
        assert_eq!(millions(&Config::sidd(32)), 29.16);
    }

    #[test]
    fn odd_images_continue_with_zeros() {
        let config =
            Config { channels: 2, width: 2, encoder: vec![1, 0], middle: 1, decoder: vec![0, 1] };
        let (params, net) = golden::drawn(|scope| NafNet::new(&config, scope));
        assert_eq!(Config::recognise(&params.shapes()), Some(config));
        let x = golden::noise(&[1, 2, 7, 9]);
        let padded = pad(&x, &[(0, 1), (0, 3)], Pad::Zero).unwrap();
        let y = net.forward(&x, &Ctx::eval()).unwrap();
        let whole = net.forward(&padded, &Ctx::eval()).unwrap();
        golden::assert_close(&y, &whole.narrow(2, 0, 7).unwrap().narrow(3, 0, 9).unwrap(), 0.0);
        assert!(net.forward(&golden::noise(&[1, 1, 8, 8]), &Ctx::eval()).is_err());
    }
}
