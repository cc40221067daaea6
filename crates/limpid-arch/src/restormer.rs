//! Restormer: a U-Net of transformer blocks that attend between channels instead of pixels (Zamir
//! et al. 2022, arXiv:2111.09881).
//!
//! Reference: swz30 `restormer_arch.py` (MIT).
//!
//! ```text
//! x [N, in, h, w] → patch_embed (w) → encoder_level1 → down1_2 (2w, half size) → encoder_level2
//!   → down2_3 (4w) → encoder_level3 → down3_4 (8w) → latent
//!   → up4_3, cat, reduce_chan_level3 → decoder_level3 → up3_2, cat, reduce_chan_level2
//!   → decoder_level2 → up2_1, cat (2w) → decoder_level1 → refinement
//!   → output + x,  or with dual pixels: output(… + skip_conv(patch_embed))
//! ```

use crate::blocks::{ChannelNorm, chain, check_image};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, size_of};
use candle_core::{D, Tensor};
use limpid_config::{Check, Validate};
use limpid_kernels::{ConvSpec, cast, gelu, pixel_shuffle, pixel_unshuffle, softmax, widened};
use limpid_nn::layers::Conv;
use limpid_nn::{Ctx, Error, Init, Param, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const NAME: &str = "restormer";
const EPS: f64 = 1e-5;

/// Settings of a Restormer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the finest scale; they double with each halving.
    pub width: usize,
    /// Transformer blocks of the four scales, the finest first.
    pub blocks: [usize; 4],
    /// Transformer blocks after the last decoder.
    pub refinement_blocks: usize,
    /// Attention heads of the four scales; divide their channels.
    pub heads: [usize; 4],
    /// Channels inside a feed-forward layer per channel outside.
    pub expansion: f64,
    /// Offsets in the convolutions.
    pub bias: bool,
    /// Subtract the mean and learn an offset in the normalisations.
    pub norm_bias: bool,
    /// The image is a pair of half-pixel views: the output is not added to it, but made from the
    /// first features.
    pub dual_pixel: bool,
}

impl Default for Config {
    /// [`Config::gray_denoising`].
    fn default() -> Self {
        Self::gray_denoising()
    }
}

impl Config {
    /// Gaussian noise on gray images.
    #[must_use]
    pub fn gray_denoising() -> Self {
        Self { in_channels: 1, out_channels: 1, ..Self::colour_denoising() }
    }

    /// Gaussian noise on colour images, and the noise of real photographs.
    #[must_use]
    pub fn colour_denoising() -> Self {
        Self { norm_bias: false, ..Self::deblurring() }
    }

    /// Motion blur, defocus of single images, and rain.
    #[must_use]
    pub fn deblurring() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            width: 48,
            blocks: [4, 6, 6, 8],
            refinement_blocks: 4,
            heads: [1, 2, 4, 8],
            expansion: 2.66,
            bias: false,
            norm_bias: true,
            dual_pixel: false,
        }
    }

    /// Defocus of dual-pixel colour images.
    #[must_use]
    pub fn dual_pixel_deblurring() -> Self {
        Self { in_channels: 6, dual_pixel: true, ..Self::deblurring() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        const LEVELS: [&str; 4] = ["encoder_level1", "encoder_level2", "encoder_level3", "latent"];
        let embed = "patch_embed.proj.weight";
        let first = |key: &str, axis| {
            let [a, b, c, d] =
                LEVELS.map(|level| size_of(shapes, &format!("{level}.0.{key}"), axis));
            Some([a?, b?, c?, d?])
        };
        let count = |name: &str| count_of(shapes, &format!("{name}."), ".attn.temperature");
        let width = size_of(shapes, embed, 0)?;
        Some(Self {
            in_channels: size_of(shapes, embed, 1)?,
            out_channels: size_of(shapes, "output.weight", 0)?,
            width,
            blocks: LEVELS.map(count),
            refinement_blocks: count("refinement"),
            heads: first("attn.temperature", 0)?,
            expansion: expansion(width, first("ffn.project_out.weight", 1)?)?,
            bias: shapes.contains_key("output.bias"),
            norm_bias: shapes.contains_key("encoder_level1.0.norm1.body.bias"),
            dual_pixel: shapes.contains_key("skip_conv.weight"),
        })
    }

    /// Channels of a scale.
    fn width_of(&self, level: usize) -> usize {
        self.width << level
    }
}

/// Channels inside a feed-forward layer; rounded as the reference does.
fn hidden(width: usize, expansion: f64) -> usize {
    (width as f64 * expansion) as usize
}

/// The factor that gives the hidden channels of the four scales, if one does: the published one, or
/// that with the fewest decimals.
fn expansion(width: usize, channels: [usize; 4]) -> Option<f64> {
    let fits = |f: &f64| (0..4).all(|l| hidden(width << l, *f) == channels[l]);
    let least = |l: usize| channels[l] as f64 / (width << l) as f64;
    let least = (0..4).map(least).fold(0.0, f64::max);
    let short = (0..9).map(|digits| {
        let unit = 10f64.powi(digits);
        (least * unit).ceil() / unit
    });
    std::iter::once(2.66).chain(short).find(fits)
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        Restormer::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(Restormer::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 8: the image is halved three times.
    fn divisor(&self) -> Vec<usize> {
        vec![8; 2]
    }

    /// Two 3×3 convolutions per block, one between scales; the attention sees the whole image.
    fn receptive_field(&self) -> Vec<usize> {
        let [a, b, c, d] = self.blocks.map(|n| 4 * n);
        let down = (a + 3) + ((b + 3) << 1) + ((c + 3) << 2);
        let up = ((c + 4) << 2) + ((b + 4) << 1) + a + 4;
        vec![1 + 2 + down + (d << 3) + up + 4 * self.refinement_blocks + 2; 2]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * (8 * self.width + 4 * hidden(2 * self.width, self.expansion))
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)]
        {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if self.width == 0 || self.width % 2 == 1 {
            at.problem("width", format!("must be even and above 0, got {}", self.width));
        }
        for (i, (&blocks, &heads)) in self.blocks.iter().zip(&self.heads).enumerate() {
            if blocks == 0 {
                at.problem(format!("blocks.{i}"), "must be at least 1");
            }
            let width = self.width_of(i);
            if heads == 0 || !width.is_multiple_of(heads) {
                at.problem(format!("heads.{i}"), format!("must divide {width}, got {heads}"));
            }
        }
        if !(self.expansion <= 64.0 && hidden(self.width, self.expansion) > 0) {
            let problem = "must be 64 at most and leave a channel, got";
            at.problem("expansion", format!("{problem} {}", self.expansion));
        }
        if !self.dual_pixel && self.in_channels != self.out_channels {
            at.problem("out_channels", "must equal `in_channels`")
                .hint("the image is added to the output, unless `dual_pixel` is set");
        }
    }
}

/// Normalisation over the channels of each pixel.
#[derive(Debug)]
enum Norm {
    WithBias(ChannelNorm),
    /// Divides by the standard deviation without subtracting the mean.
    BiasFree(Param),
}

impl Norm {
    fn new(width: usize, bias: bool, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("body");
        Ok(if bias {
            Self::WithBias(ChannelNorm::new(width, EPS, &scope)?)
        } else {
            Self::BiasFree(scope.param("weight", &[width], Init::Ones)?)
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = match self {
            Self::WithBias(norm) => return norm.forward(x),
            Self::BiasFree(weight) => weight.tensor().reshape((1, (), 1, 1))?,
        };
        let wide = widened(x)?;
        let variance = wide.broadcast_sub(&wide.mean_keepdim(1)?)?.sqr()?.mean_keepdim(1)?;
        let y = wide.broadcast_div(&(variance + EPS)?.sqrt()?)?.broadcast_mul(&weight)?;
        cast(&y, x.dtype())
    }
}

fn point(inputs: usize, outputs: usize, bias: bool, scope: &Scope) -> Result<Conv> {
    Conv::same(2, inputs, outputs, 1, bias, scope)
}

fn depthwise(width: usize, bias: bool, scope: &Scope) -> Result<Conv> {
    let spec = ConvSpec { padding: vec![1; 2], groups: width, ..ConvSpec::unit(2) };
    Conv::new(width, width, &[3, 3], spec, bias, scope)
}

/// Divides the rows by their length, as `torch.nn.functional.normalize`.
fn unit_rows(x: &Tensor) -> Result<Tensor> {
    // the bound is below the root, whose slope at zero is infinite
    let wide = widened(x)?;
    let square = wide.sqr()?.sum_keepdim(D::Minus1)?.maximum(1e-24)?;
    cast(&wide.broadcast_div(&square.sqrt()?)?, x.dtype())
}

/// Attention between the channels of a head, over all pixels.
#[derive(Debug)]
struct Attention {
    temperature: Param,
    qkv: Conv,
    mix: Conv,
    out: Conv,
}

impl Attention {
    fn new(width: usize, heads: usize, bias: bool, scope: &Scope) -> Result<Self> {
        Ok(Self {
            temperature: scope.param("temperature", &[heads, 1, 1], Init::Ones)?,
            qkv: point(width, 3 * width, bias, &scope.pp("qkv"))?,
            mix: depthwise(3 * width, bias, &scope.pp("qkv_dwconv"))?,
            out: point(width, width, bias, &scope.pp("project_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let temperature = self.temperature.tensor();
        let heads = temperature.dims()[0];
        let qkv = self.mix.forward(&self.qkv.forward(x)?)?;
        let qkv = qkv.reshape((n, 3, heads, c / heads, h * w))?;
        let part = |i| qkv.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        let (q, k, v) = (unit_rows(&part(0)?)?, unit_rows(&part(1)?)?, part(2)?);
        let scores = limpid_kernels::matmul_transposed(&q, &k)?;
        let scores = cast(&widened(&scores)?.broadcast_mul(&temperature)?, scores.dtype())?;
        let y = limpid_kernels::matmul(&softmax(&scores, 3)?, &v)?;
        self.out.forward(&y.reshape((n, c, h, w))?)
    }
}

/// Gated feed-forward layer with a depthwise convolution.
#[derive(Debug)]
struct FeedForward {
    first: Conv,
    mix: Conv,
    out: Conv,
}

impl FeedForward {
    fn new(width: usize, hidden: usize, bias: bool, scope: &Scope) -> Result<Self> {
        Ok(Self {
            first: point(width, 2 * hidden, bias, &scope.pp("project_in"))?,
            mix: depthwise(2 * hidden, bias, &scope.pp("dwconv"))?,
            out: point(hidden, width, bias, &scope.pp("project_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.mix.forward(&self.first.forward(x)?)?;
        match h.chunk(2, 1)?.as_slice() {
            [a, b] => self.out.forward(&(gelu(a)? * b)?),
            _ => Err(Error::shape(NAME, "an even number of channels", h.dims())),
        }
    }
}

/// A transformer block.
#[derive(Debug)]
struct Block {
    norm1: Norm,
    attention: Attention,
    norm2: Norm,
    forward: FeedForward,
}

impl Block {
    fn new(c: &Config, width: usize, heads: usize, scope: &Scope) -> Result<Self> {
        let hidden = hidden(width, c.expansion);
        Ok(Self {
            norm1: Norm::new(width, c.norm_bias, &scope.pp("norm1"))?,
            attention: Attention::new(width, heads, c.bias, &scope.pp("attn"))?,
            norm2: Norm::new(width, c.norm_bias, &scope.pp("norm2"))?,
            forward: FeedForward::new(width, hidden, c.bias, &scope.pp("ffn"))?,
        })
    }
}

impl Network for Block {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        let x = limpid_kernels::add(x, &self.attention.forward(&self.norm1.forward(x)?)?)?;
        limpid_kernels::add(&x, &self.forward.forward(&self.norm2.forward(&x)?)?)
    }
}

/// The way back up to a scale.
#[derive(Debug)]
struct Up {
    conv: Conv,
    /// Back to the channels of the scale after the concatenation; none on the finest.
    reduce: Option<Conv>,
    blocks: Vec<Arc<Block>>,
}

/// The network.
#[derive(Debug)]
pub struct Restormer {
    embed: Conv,
    down: Vec<(Vec<Arc<Block>>, Conv)>,
    latent: Vec<Arc<Block>>,
    /// The coarsest first.
    up: Vec<Up>,
    refinement: Vec<Arc<Block>>,
    /// Of the first features, for dual pixels.
    skip: Option<Conv>,
    output: Conv,
    in_channels: usize,
}

impl Restormer {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let blocks = |name: &str, count: usize, width: usize, heads: usize| {
            let scope = scope.pp(name);
            (0..count)
                .map(|i| Block::new(c, width, heads, &scope.pp(i)).map(Arc::new))
                .collect::<Result<Vec<_>>>()
        };
        let between = |name: String, inputs: usize, outputs: usize| {
            Conv::same(2, inputs, outputs, 3, false, &scope.pp(name).pp("body").pp(0))
        };
        let last = c.width_of(1);
        let embed = scope.pp("patch_embed").pp("proj");
        let embed = Conv::same(2, c.in_channels, c.width, 3, false, &embed)?;
        let down = (0..3)
            .map(|l| {
                let (n, width) = (l + 1, c.width_of(l));
                let blocks = blocks(&format!("encoder_level{n}"), c.blocks[l], width, c.heads[l])?;
                Ok((blocks, between(format!("down{n}_{}", n + 1), width, width / 2)?))
            })
            .collect::<Result<_>>()?;
        let latent = blocks("latent", c.blocks[3], c.width_of(3), c.heads[3])?;
        let up = (0..3)
            .rev()
            .map(|l| {
                let (n, below) = (l + 1, c.width_of(l + 1));
                let width = if l == 0 { below } else { c.width_of(l) };
                let reduce = scope.pp(format!("reduce_chan_level{n}"));
                Ok(Up {
                    conv: between(format!("up{}_{n}", n + 1), below, 2 * below)?,
                    reduce: (l > 0).then(|| point(below, width, c.bias, &reduce)).transpose()?,
                    blocks: blocks(&format!("decoder_level{n}"), c.blocks[l], width, c.heads[l])?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embed,
            down,
            latent,
            up,
            refinement: blocks("refinement", c.refinement_blocks, last, c.heads[0])?,
            skip: c
                .dual_pixel
                .then(|| point(c.width, last, c.bias, &scope.pp("skip_conv")))
                .transpose()?,
            output: Conv::same(2, last, c.out_channels, 3, c.bias, &scope.pp("output"))?,
            in_channels: c.in_channels,
        })
    }
}

impl Network for Restormer {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image(NAME, x, self.in_channels, 8)?;
        let first = self.embed.forward(x)?;
        let mut h = first.clone();
        let mut skips = Vec::new();
        for (blocks, conv) in &self.down {
            h = chain(blocks, &h, ctx)?;
            skips.push(h.clone());
            h = pixel_unshuffle(&conv.forward(&h)?, 2)?;
        }
        h = chain(&self.latent, &h, ctx)?;
        for (up, skip) in self.up.iter().zip(skips.iter().rev()) {
            let doubled = pixel_shuffle(&up.conv.forward(&h)?, 2)?;
            h = match &up.reduce {
                Some(reduce) => reduce.forward_cat(&[&doubled, skip])?,
                None => limpid_kernels::cat(&[&doubled, skip], 1)?,
            };
            h = chain(&up.blocks, &h, ctx)?;
        }
        h = chain(&self.refinement, &h, ctx)?;
        match &self.skip {
            Some(skip) => self.output.forward(&limpid_kernels::add(&h, &skip.forward(&first)?)?),
            None => limpid_kernels::add(&self.output.forward(&h)?, x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn tiny() -> Config {
        Config { width: 4, blocks: [1, 2, 1, 1], refinement_blocks: 0, ..Config::default() }
    }

    #[test]
    fn equals_the_reference() {
        golden::check("net_restormer_biasfree");
        golden::check("net_restormer_withbias");
    }

    #[test]
    fn has_the_published_number_of_parameters() {
        assert_eq!(golden::count(&Config::deblurring()), 26_126_644);
    }

    #[test]
    fn other_settings_are_recognised() {
        for expansion in [2.0, 2.66, 3.5] {
            let heads = [2, 4, 1, 8];
            let config = Config { heads, expansion, norm_bias: true, bias: true, ..tiny() };
            assert_eq!(Config::recognise(&config.shapes().unwrap()), Some(config));
        }
        assert_eq!(expansion(48, [127, 255, 510, 1021]), Some(2.66));
        assert_eq!(expansion(4, [8, 16, 40, 64]), None);
    }

    #[test]
    fn dual_pixels_give_an_image_of_their_own() {
        let config = Config { in_channels: 6, out_channels: 3, dual_pixel: true, ..tiny() };
        assert!(limpid_config::check(&config).is_empty());
        let (params, net) = golden::drawn(|scope| Restormer::new(&config, scope));
        assert_eq!(Config::recognise(&params.shapes()), Some(config));
        let x = golden::noise(&[2, 6, 8, 16]);
        assert_eq!(net.forward(&x, &Ctx::eval()).unwrap().dims(), [2, 3, 8, 16]);
    }

    #[test]
    fn sizes_that_cannot_be_halved_three_times_are_an_error() {
        let (_, net) = golden::drawn(|scope| Restormer::new(&tiny(), scope));
        let error = net.forward(&golden::noise(&[1, 1, 16, 20]), &Ctx::eval()).unwrap_err();
        assert!(error.to_string().contains("multiples of 8"), "{error}");
    }

    #[test]
    fn a_constant_channel_has_finite_gradients() {
        let x = candle_core::Var::from_tensor(&golden::noise(&[1, 2, 3]).zeros_like().unwrap());
        let x = x.unwrap();
        let gradients = unit_rows(x.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let slope = gradients.get(x.as_tensor()).unwrap().flatten_all().unwrap();
        assert!(slope.to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()));
    }
}
