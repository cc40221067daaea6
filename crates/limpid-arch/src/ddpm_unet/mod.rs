//! The denoising U-Net of diffusion models: residual blocks that are told the time step, and
//! self-attention on the coarse levels (Ho et al. 2020, arXiv:2006.11239; Rombach et al. 2022,
//! arXiv:2112.10752).
//!
//! Reference: MONAI `DiffusionModelUNet` (Apache-2.0) without cross-attention and class embedding;
//! an image condition is concatenated to the input.
//!
//! ```text
//! t → cos, sin → time_embed → e
//! x → conv_in → down_blocks.i: (resnets(e), [attentions]) × blocks, downsampler → …
//!   → middle_block: resnet_1, attention, resnet_2
//!   → up_blocks.i: (cat with skip, resnets(e), [attentions]) × (blocks + 1), upsampler → out
//! ```

mod blocks;

use crate::adn::check_image;
use crate::{Architecture, Shapes, count_of, rank_of, size_of};
use blocks::{Attention, EPS, Resample, ResnetBlock};
use candle_core::{DType, Tensor};
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, ConvSpec, Resize, resize_by, silu};
use limpid_nn::layers::{Conv, GroupNorm, Linear};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const OP: &str = "ddpm_unet";

/// Settings of a diffusion U-Net.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input, those of the condition included.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of each level, the finest first.
    pub channels: Vec<usize>,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub res_blocks: Vec<usize>,
    /// Whether each level has attention; the middle always has.
    pub attention_levels: Vec<bool>,
    /// Channels of an attention head on each level; without effect on levels without attention. The
    /// middle takes that of the last level.
    pub head_channels: Vec<usize>,
    /// Groups of the normalisation; must divide the channels of every level.
    pub norm_groups: usize,
    /// Change the size inside residual blocks instead of by a convolution.
    pub resblock_updown: bool,
    /// One linear map for queries, keys and values together.
    pub combined_qkv: bool,
}

impl Default for Config {
    /// MONAI's defaults, for one-channel images.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 1,
            out_channels: 1,
            channels: vec![32, 64, 64, 64],
            res_blocks: vec![2; 4],
            attention_levels: vec![false, false, true, true],
            head_channels: vec![8; 4],
            norm_groups: 32,
            resblock_updown: false,
            combined_qkv: false,
        }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    ///
    /// Groups and heads leave no trace in shapes: they are MONAI's 32 groups and 8 channels per
    /// head, or what of these divides the channels.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = "conv_in.conv.weight";
        let levels = count_of(shapes, "down_blocks.", ".resnets.0.conv1.conv.weight");
        let channels: Vec<usize> = (0..levels)
            .map(|i| size_of(shapes, &format!("down_blocks.{i}.resnets.0.conv1.conv.weight"), 0))
            .collect::<Option<_>>()?;
        let blocks =
            |i: usize| count_of(shapes, &format!("down_blocks.{i}.resnets."), ".conv1.conv.weight");
        let attends =
            |i: usize| shapes.contains_key(&format!("down_blocks.{i}.attentions.0.norm.weight"));
        let middle = "middle_block.attention.attn";
        let combined_qkv = shapes.contains_key(&format!("{middle}.qkv.weight"));
        if !combined_qkv && !shapes.contains_key(&format!("{middle}.to_q.weight")) {
            return None;
        }
        let common = |most: usize| channels.iter().fold(most, |a, &b| gcd(a, b));
        Some(Self {
            dims: rank_of(shapes, first)?,
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, "out.2.conv.weight", 0)?,
            res_blocks: (0..levels).map(blocks).collect(),
            attention_levels: (0..levels).map(attends).collect(),
            head_channels: channels.iter().map(|&c| gcd(8, c)).collect(),
            norm_groups: common(32),
            resblock_updown: shapes.contains_key("down_blocks.0.downsampler.norm1.weight"),
            combined_qkv,
            channels,
        })
    }

    /// The size must be a multiple of this.
    fn divisor(&self) -> Vec<usize> {
        vec![1 << self.channels.len().saturating_sub(1).min(31); self.dims]
    }

    /// Channels of the time embedding.
    fn embedding(&self) -> usize {
        4 * self.channels[0]
    }

    fn conv(&self, inputs: usize, outputs: usize, scope: &Scope) -> Result<Conv> {
        Conv::same(self.dims, inputs, outputs, 3, true, &scope.pp("conv"))
    }
}

/// Greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "ddpm_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        DdpmUNet::new(self, scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        const MOST_LEVELS: usize = 16;
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if self.in_channels == 0 || self.out_channels == 0 {
            at.problem("in_channels", "and `out_channels` must be at least 1");
        }
        let levels = self.channels.len();
        if !(1..=MOST_LEVELS).contains(&levels) {
            at.problem("channels", format!("must give 1 to {MOST_LEVELS} levels, got {levels}"));
        }
        for (key, entries) in [
            ("res_blocks", self.res_blocks.len()),
            ("attention_levels", self.attention_levels.len()),
            ("head_channels", self.head_channels.len()),
        ] {
            if entries != levels {
                at.problem(key, format!("must have {levels} entries, one per level"));
            }
        }
        if self.res_blocks.contains(&0) {
            at.problem("res_blocks", "must all be at least 1");
        }
        for (i, &c) in self.channels.iter().enumerate() {
            if c == 0 || self.norm_groups == 0 || c % self.norm_groups != 0 {
                let message = format!("must be a multiple of `norm_groups`, got {c}");
                at.problem(format!("channels.{i}"), message);
            }
            let attends = self.attention_levels.get(i) == Some(&true) || i + 1 == levels;
            let head = self.head_channels.get(i).copied().unwrap_or(1);
            if attends && (head == 0 || c % head != 0) {
                let message = format!("must divide the {c} channels of the level, got {head}");
                at.problem(format!("head_channels.{i}"), message);
            }
        }
    }
}

/// Residual blocks with what follows each, of one level and direction.
#[derive(Debug)]
struct Level {
    blocks: Vec<(ResnetBlock, Option<Attention>)>,
    resize: Option<Rescale>,
}

/// The way from one level to the next.
#[derive(Debug)]
enum Rescale {
    /// Convolution of stride 2.
    Down(Conv),
    /// Nearest neighbour, then a convolution.
    Up(Conv),
    Residual(Box<ResnetBlock>),
}

impl Rescale {
    fn forward(&self, x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        match self {
            Self::Down(conv) => conv.forward(x),
            Self::Up(conv) => {
                conv.forward(&resize_by(x, &vec![2.0; x.rank() - 2], Resize::Nearest)?)
            }
            Self::Residual(block) => block.forward(&[x], embedding),
        }
    }
}

impl Level {
    /// Blocks that take the given channels each and all give those of the level.
    fn new(c: &Config, level: usize, inputs: &[usize], scope: &Scope) -> Result<Self> {
        let outputs = c.channels[level];
        let head = c.head_channels[level];
        let block = |(i, &inputs): (usize, &usize)| -> Result<_> {
            let resnet = scope.pp("resnets").pp(i);
            let attention = scope.pp("attentions").pp(i);
            Ok((
                ResnetBlock::new(c, [inputs, outputs], Resample::Keep, &resnet)?,
                c.attention_levels[level]
                    .then(|| Attention::new(c, outputs, head, &attention))
                    .transpose()?,
            ))
        };
        let blocks = inputs.iter().enumerate().map(block).collect::<Result<_>>()?;
        Ok(Self { blocks, resize: None })
    }

    fn down(c: &Config, level: usize, scope: &Scope) -> Result<Self> {
        let outputs = c.channels[level];
        let mut inputs = vec![outputs; c.res_blocks[level]];
        inputs[0] = c.channels[level.saturating_sub(1)];
        let mut found = Self::new(c, level, &inputs, scope)?;
        if level + 1 < c.channels.len() {
            let scope = scope.pp("downsampler");
            found.resize = Some(if c.resblock_updown {
                let block = ResnetBlock::new(c, [outputs; 2], Resample::Down, &scope)?;
                Rescale::Residual(Box::new(block))
            } else {
                let spec = ConvSpec {
                    stride: vec![2; c.dims],
                    padding: vec![1; c.dims],
                    ..ConvSpec::unit(c.dims)
                };
                let name = scope.pp("op").pp("conv");
                let three = vec![3; c.dims];
                Rescale::Down(Conv::new(outputs, outputs, &three, spec, true, &name)?)
            });
        }
        Ok(found)
    }

    fn up(c: &Config, level: usize, scope: &Scope) -> Result<Self> {
        let outputs = c.channels[level];
        let below = c.channels.get(level + 1).copied().unwrap_or(outputs);
        let above = c.channels[level.saturating_sub(1)];
        let count = c.res_blocks[level] + 1;
        let inputs: Vec<usize> = (0..count)
            .map(|i| {
                let before = if i == 0 { below } else { outputs };
                before + if i + 1 == count { above } else { outputs }
            })
            .collect();
        let mut found = Self::new(c, level, &inputs, scope)?;
        if level > 0 {
            let scope = scope.pp("upsampler");
            found.resize = Some(if c.resblock_updown {
                let block = ResnetBlock::new(c, [outputs; 2], Resample::Up, &scope)?;
                Rescale::Residual(Box::new(block))
            } else {
                Rescale::Up(c.conv(outputs, outputs, &scope.pp("postconv"))?)
            });
        }
        Ok(found)
    }
}

/// The network.
#[derive(Debug)]
pub struct DdpmUNet {
    embed: [Linear; 2],
    first: Conv,
    down: Vec<Level>,
    middle: (ResnetBlock, Attention, ResnetBlock),
    up: Vec<Level>,
    last: (GroupNorm, Conv),
    width: usize,
    in_channels: usize,
    divisor: Vec<usize>,
}

impl DdpmUNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (levels, width, embedding) = (c.channels.len(), c.channels[0], c.embedding());
        let coarse = c.channels[levels - 1];
        let time = scope.pp("time_embed");
        let middle = scope.pp("middle_block");
        let plain = |name: &str| ResnetBlock::new(c, [coarse; 2], Resample::Keep, &middle.pp(name));
        let attention = middle.pp("attention");
        let last = scope.pp("out");
        let net = Self {
            embed: [
                Linear::new(width, embedding, true, &time.pp(0))?,
                Linear::new(embedding, embedding, true, &time.pp(2))?,
            ],
            first: c.conv(c.in_channels, width, &scope.pp("conv_in"))?,
            down: (0..levels)
                .map(|level| Level::down(c, level, &scope.pp("down_blocks").pp(level)))
                .collect::<Result<_>>()?,
            middle: (
                plain("resnet_1")?,
                Attention::new(c, coarse, c.head_channels[levels - 1], &attention)?,
                plain("resnet_2")?,
            ),
            up: (0..levels)
                .map(|i| Level::up(c, levels - 1 - i, &scope.pp("up_blocks").pp(i)))
                .collect::<Result<_>>()?,
            last: (
                GroupNorm::new(width, c.norm_groups, EPS, true, &last.pp(0))?,
                c.conv(width, c.out_channels, &last.pp(2))?,
            ),
            width,
            in_channels: c.in_channels,
            divisor: c.divisor(),
        };
        blocks::silence(&last.pp(2).pp("conv"))?;
        Ok(net)
    }

    /// What the diffusion model was trained to predict of a noisy image at a time step.
    ///
    /// # Shapes
    /// `x [N, in, s…]` with sizes that are multiples of two to the number of levels but one,
    /// `timesteps [N]` of any dtype → `[N, out, s…]`
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` or `timesteps` does not fit.
    pub fn forward(&self, x: &Tensor, timesteps: &Tensor, _: &Ctx) -> Result<Tensor> {
        check_image(OP, x, self.in_channels, &self.divisor)?;
        if timesteps.dims() != [x.dims()[0]] {
            let expected = format!("time steps [{}]", x.dims()[0]);
            return Err(Error::shape(OP, expected, timesteps.dims()));
        }
        let e = timestep_embedding(timesteps, self.width)?.to_dtype(x.dtype())?;
        let e = self.embed[1].forward(&silu(&self.embed[0].forward(&e)?)?)?;

        let mut h = self.first.forward(x)?;
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for (resnet, attention) in &level.blocks {
                h = resnet.forward(&[&h], &e)?;
                if let Some(attention) = attention {
                    h = attention.forward(&h)?;
                }
                skips.push(h.clone());
            }
            if let Some(resize) = &level.resize {
                h = resize.forward(&h, &e)?;
                skips.push(h.clone());
            }
        }
        let (before, attention, after) = &self.middle;
        h = after.forward(&[&attention.forward(&before.forward(&[&h], &e)?)?], &e)?;
        let mut skips = skips.iter().rev();
        for level in &self.up {
            for ((resnet, attention), skip) in level.blocks.iter().zip(&mut skips) {
                h = resnet.forward(&[&h, skip], &e)?;
                if let Some(attention) = attention {
                    h = attention.forward(&h)?;
                }
            }
            if let Some(resize) = &level.resize {
                h = resize.forward(&h, &e)?;
            }
        }
        let (norm, conv) = &self.last;
        conv.forward(&norm.forward_act(&h, Activation::Silu)?)
    }
}

/// Cosines, then sines, of the time steps at `width / 2` frequencies from 1 down to about 1/10000.
///
/// In f32 whatever the network computes in: for large time steps the rounding of the frequencies
/// matters, and trained weights know them rounded.
fn timestep_embedding(timesteps: &Tensor, width: usize) -> Result<Tensor> {
    const SLOWEST: f64 = 1e4;
    let half = width / 2;
    let rate = -SLOWEST.ln() as f32;
    let frequencies: Vec<f32> = (0..half).map(|i| (rate * i as f32 / half as f32).exp()).collect();
    let device = timesteps.device();
    let steps: Vec<f32> = timesteps.to_dtype(DType::F32)?.to_vec1()?;
    let mut rows = Vec::with_capacity(steps.len() * width);
    for step in &steps {
        rows.extend(frequencies.iter().map(|f| (step * f).cos()));
        rows.extend(frequencies.iter().map(|f| (step * f).sin()));
        // an odd width is filled up with a zero
        rows.extend(std::iter::repeat_n(0.0, width - 2 * half));
    }
    Ok(Tensor::from_vec(rows, (steps.len(), width), device)?)
}

#[cfg(test)]
mod tests;
