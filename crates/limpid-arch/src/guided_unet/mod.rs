//! The U-Net of guided diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233) as EMDiffuse restores
//! electron microscopy with it (Lu et al. 2024, doi:10.1038/s41467-024-49125-z): told the noise
//! level γ instead of a time step, and, to invent the layers between two slices, which layer is
//! meant. All convolutions are 2-D.
//!
//! Reference: EMDiffuse `models/guided_diffusion_modules/unet*.py` (MIT), by way of Palette from
//! openai/guided-diffusion (MIT).
//!
//! ```text
//! γ, [index] → cosines, sines → linear, SiLU, linear → e [N, 4d or 8d], into every residual block
//! x [N, in, H, W] → conv → level 0: res_blocks × (res, [attention]) → ↓ → level 1 → … → level L-1
//!   → res, attention, res
//!   → level L-1: (res_blocks + 1) × (cat skip, res, [attention]) → ↑ → … → level 0
//!   → norm, SiLU, conv → [N, out, H, W];   the same again → log-variance
//! ```
//!
//! The zero-initialised layers are those of the reference's constructors; its training script draws
//! them anew (Kaiming normal).

pub mod blocks;
pub(crate) mod keys;
mod net;
#[cfg(test)]
mod tests;

pub use blocks::AttentionOrder;
pub use net::{GuidedUnet, Prediction};

use crate::{Architecture, Shapes, size_of};
use blocks::ResSettings;
use limpid_config::{Check, Validate};
use limpid_nn::{Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a guided-diffusion U-Net.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the input: the condition's and those of the noisy image.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the embedding of γ. With 16, normalisations have 16 groups, else 32.
    pub inner_channels: usize,
    /// Channels of each level, the finest first; the image is halved from one to the next.
    pub channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub res_blocks: usize,
    /// Factors of reduction (1, 2, 4 …) at which residual blocks are followed by attention. The
    /// middle has attention in any case.
    pub attention_at: Vec<usize>,
    /// Heads of the attention.
    pub heads: Heads,
    /// Order of queries, keys and values among the channels.
    pub attention_order: AttentionOrder,
    /// How the image is halved and doubled.
    pub resampling: Resampling,
    /// The embedding scales and shifts what is normalised, else it is added before.
    pub scale_shift_norm: bool,
    /// A 3×3 convolution where a skip connection changes the channels, else 1×1.
    pub conv_skip: bool,
    /// Probability of dropout in residual blocks.
    pub dropout: f64,
    /// The network is also told the number of a layer between slices.
    pub layer_index: bool,
    /// A second head gives the logarithm of the output's variance.
    pub variance: bool,
}

/// Heads of the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Heads {
    /// As many as give each that many channels.
    Channels {
        /// Channels of a head.
        channels: usize,
    },
    /// As many everywhere, but for the way up.
    Count {
        /// On the way down and in the middle.
        down: usize,
        /// On the way up.
        up: usize,
    },
}

impl Heads {
    /// How many there are among `channels`.
    fn count(self, channels: usize, on_way_up: bool) -> usize {
        match self {
            Self::Channels { channels: each } => channels / each.max(1),
            Self::Count { up, .. } if on_way_up => up,
            Self::Count { down, .. } => down,
        }
    }
}

/// How an image is halved and doubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// By a residual block with 2×2 means or repeated pixels inside (`resblock_updown`).
    Residual,
    /// By a convolution of stride 2; by repeated pixels and a convolution (`conv_resample`).
    Conv,
    /// By 2×2 means; by repeated pixels.
    Pooling,
}

impl Default for Config {
    fn default() -> Self {
        Self::emdiffuse()
    }
}

impl Config {
    /// EMDiffuse-n (denoising) and EMDiffuse-r (super-resolution). Its `attn_res` of 16 is beyond
    /// the factor of 8 that four levels reach, so only the middle has attention.
    #[must_use]
    pub fn emdiffuse() -> Self {
        Self {
            in_channels: 2,
            out_channels: 1,
            inner_channels: 32,
            channels: vec![32, 64, 128, 256],
            res_blocks: 2,
            attention_at: Vec::new(),
            heads: Heads::Channels { channels: 32 },
            attention_order: AttentionOrder::HeadsFirst,
            resampling: Resampling::Residual,
            scale_shift_norm: true,
            conv_skip: false,
            dropout: 0.2,
            layer_index: false,
            variance: false,
        }
    }

    /// vEMDiffuse-i and -a: layers between two slices.
    #[must_use]
    pub fn vemdiffuse() -> Self {
        Self { in_channels: 3, layer_index: true, ..Self::emdiffuse() }
    }

    /// EMDiffuse that also tells its uncertainty.
    #[must_use]
    pub fn emdiffuse_aleatoric() -> Self {
        Self { variance: true, ..Self::emdiffuse() }
    }

    /// vEMDiffuse that also tells its uncertainty.
    #[must_use]
    pub fn vemdiffuse_aleatoric() -> Self {
        Self { variance: true, ..Self::vemdiffuse() }
    }

    /// A narrow one for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self {
            inner_channels: 16,
            channels: vec![16, 32],
            res_blocks: 1,
            heads: Heads::Channels { channels: 16 },
            ..Self::emdiffuse()
        }
    }

    /// The configuration that a checkpoint's shapes belong to. Shapes do not tell the heads: they
    /// have 32 channels as in the published networks where that divides, else there is one.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let has = |key: &str| shapes.contains_key(key);
        if !has("middle_block.1.qkv.weight") {
            return None;
        }
        let outputs = crate::count_of(shapes, "output_blocks.", ".0.in_layers.2.weight");
        let up = |name: &str| {
            (0..outputs).find(|i| (1..=2).any(|j| has(&format!("output_blocks.{i}.{j}.{name}"))))
        };
        // an input block without parameters is one that halves by pooling
        let gap = || {
            let empty =
                |i: &usize| !shapes.keys().any(|k| k.starts_with(&format!("input_blocks.{i}.")));
            (1..outputs).find(empty).and_then(|i| i.checked_sub(1))
        };
        let (resampling, res_blocks) = if let Some(i) = up("in_layers.2.weight") {
            (Resampling::Residual, i)
        } else if let Some(i) = up("conv.weight") {
            (Resampling::Conv, i)
        } else if let Some(i) = gap() {
            (Resampling::Pooling, i)
        } else {
            (Resampling::Residual, outputs.checked_sub(1)?)
        };
        let levels = outputs / (res_blocks + 1);
        // the first block of a level on the way up
        let block = |level: usize| (levels - 1 - level) * (res_blocks + 1);
        let channels = |level: usize| {
            size_of(shapes, &format!("output_blocks.{}.0.in_layers.2.weight", block(level)), 0)
        };
        let channels: Vec<usize> = (0..levels).map(channels).collect::<Option<_>>()?;
        let attends = |level: &usize| has(&format!("output_blocks.{}.1.qkv.weight", block(*level)));
        let attending: Vec<usize> = (0..levels).filter(attends).collect();
        let middle = size_of(shapes, "middle_block.0.in_layers.2.weight", 0)?;
        let narrow = |channels: &usize| !channels.is_multiple_of(32);
        let heads =
            if attending.iter().filter_map(|l| channels.get(*l)).chain([&middle]).any(narrow) {
                Heads::Count { down: 1, up: 1 }
            } else {
                Heads::Channels { channels: 32 }
            };
        Some(Self {
            in_channels: size_of(shapes, "input_blocks.0.0.weight", 1)?,
            out_channels: size_of(shapes, "out.2.weight", 0)?,
            inner_channels: size_of(shapes, "cond_embed.0.weight", 1)?,
            channels,
            res_blocks,
            attention_at: attending
                .into_iter()
                .filter_map(|l| 1usize.checked_shl(l as u32))
                .collect(),
            heads,
            attention_order: AttentionOrder::default(),
            resampling,
            scale_shift_norm: size_of(shapes, "middle_block.0.emb_layers.1.weight", 0)?
                == 2 * middle,
            conv_skip: size_of(shapes, "output_blocks.0.0.skip_connection.weight", 2)? == 3,
            dropout: Self::default().dropout,
            layer_index: has("channel_embed.0.weight"),
            variance: has("out_variance.2.weight"),
        })
    }

    /// Defines the parameters and returns the network.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn build(&self, scope: &Scope) -> Result<GuidedUnet> {
        GuidedUnet::new(self, scope)
    }

    /// Image sizes must be multiples of this.
    #[must_use]
    pub fn divisor(&self) -> usize {
        1 << self.channels.len().saturating_sub(1)
    }

    /// Groups of every normalisation.
    #[must_use]
    pub fn groups(&self) -> usize {
        if self.inner_channels == 16 { 16 } else { 32 }
    }

    /// Channels of the condition: those of the input before the noisy image.
    #[must_use]
    pub fn condition_channels(&self) -> usize {
        self.in_channels.saturating_sub(self.out_channels)
    }

    /// Pixels along each axis that convolutions, means and repeated pixels let an output pixel
    /// depend on. Normalisations and the attention of the middle see the whole image.
    #[must_use]
    pub fn receptive_field(&self) -> usize {
        let levels = self.channels.len();
        // both ways of each level, with residual blocks of two convolutions of 3 pixels
        let blocks: usize = (0..levels).map(|l| (4 * (2 * self.res_blocks + 1)) << l).sum();
        let middle = 8usize << levels.saturating_sub(1);
        let resampling: usize = (1..levels)
            .map(|l| {
                let (fine, coarse) = (1usize << (l - 1), 1usize << l);
                match self.resampling {
                    Resampling::Residual => 2 * fine + 4 * (coarse + fine),
                    Resampling::Conv => fine + 2 * (fine + fine),
                    Resampling::Pooling => 2 * fine,
                }
            })
            .sum();
        1 + 2 + blocks + middle + resampling + 2
    }

    /// Bytes of activations per input pixel in a forward pass, roughly: the skip connections and
    /// what is alive at the finest level.
    #[must_use]
    pub fn activation_bytes(&self) -> usize {
        let at =
            |(level, channels): (usize, &usize)| ((self.res_blocks + 2) * channels) >> (2 * level);
        let skips: usize = self.channels.iter().enumerate().map(at).sum();
        4 * (skips + 8 * self.channels.first().copied().unwrap_or(0))
    }

    /// What the residual blocks share.
    fn residual(&self) -> ResSettings {
        ResSettings {
            embedding: self.inner_channels * if self.layer_index { 8 } else { 4 },
            groups: self.groups(),
            scale_shift: self.scale_shift_norm,
            conv_skip: self.conv_skip,
            dropout: self.dropout,
        }
    }

    /// Whether the residual blocks of a level are followed by attention.
    fn attends(&self, level: usize) -> bool {
        self.attention_at.contains(&(1 << level))
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "guided_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        self.build(scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        const LEVELS: usize = 16;
        for (key, value, least) in [
            ("in_channels", self.in_channels, 1),
            ("out_channels", self.out_channels, 1),
            ("inner_channels", self.inner_channels, 2),
            ("res_blocks", self.res_blocks, 1),
        ] {
            if value < least {
                at.problem(key, format!("must be at least {least}, got {value}"));
            }
        }
        let levels = self.channels.len();
        if !(1..=LEVELS).contains(&levels) {
            at.problem("channels", format!("must name 1 to {LEVELS} levels, got {levels}"));
            return;
        }
        let groups = self.groups();
        for (i, &channels) in self.channels.iter().enumerate() {
            if channels == 0 || !channels.is_multiple_of(groups) {
                let message = format!("must be a multiple of the {groups} groups, got {channels}");
                at.problem(format!("channels.{i}"), message);
            }
        }
        for (i, &factor) in self.attention_at.iter().enumerate() {
            if !factor.is_power_of_two() || factor > self.divisor() {
                let most = self.divisor();
                let message = format!("must be a power of two up to {most}, got {factor}");
                at.problem(format!("attention_at.{i}"), message);
            }
        }
        let sizes = match self.heads {
            Heads::Channels { channels } => vec![channels],
            Heads::Count { down, up } => vec![down, up],
        };
        let attending = (0..levels).filter(|l| self.attends(*l) || l + 1 == levels);
        for channels in attending.filter_map(|l| self.channels.get(l)) {
            if sizes.iter().any(|n| *n == 0 || !channels.is_multiple_of(*n)) {
                at.problem("heads", format!("must divide {channels} channels, got {sizes:?}"));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            at.problem("dropout", format!("must be at least 0 and below 1, got {}", self.dropout));
        }
    }
}
