//! Swin UNETR: the decoder of a U-Net on the scales of a Swin transformer (Hatamizadeh et al. 2022,
//! arXiv:2201.01266), and its version 2, with convolutions before each stage (He et al. 2023,
//! doi:10.1007/978-3-031-43901-8_40).
//!
//! Reference: MONAI `SwinUNETR` (Apache-2.0), patches of 2.
//!
//! ```text
//! x → patch_embed [N, f, s/2…] → (layersᵢc) → layersᵢ: Swin blocks, merge 2… pixels (2f, 4f, 8f, 16f)
//!   coarsest → encoder10 → decoder5 (+ 8f) → decoder4 (+ encoder4 4f) → decoder3 (+ encoder3 2f)
//!   → decoder2 (+ encoder2 f) → decoder1 (+ encoder1 x) → out [N, out, s…] (+ x)
//! ```

use crate::adn::{check_norm, norm_of};
use crate::blocks::chain;
use crate::dynunet::Block;
use crate::swin::{Spec, SwinBlock, mlp_width, window_of};
use crate::transformer::{MONAI_SWIN, channels_first, channels_last, drop_rates};
use crate::unetr::{Blocks, UpBlock};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::ConvSpec;
use limpid_nn::layers::{Conv, LayerNorm, Linear, NormConfig};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Pixels that one of the coarsest scale stands for, per axis.
const COARSEST: usize = 32;

/// Settings of a Swin UNETR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Features at the first two scales; they double four times.
    pub features: usize,
    /// Swin blocks of each stage.
    pub depths: [usize; 4],
    /// Attention heads of each stage; must divide its features.
    pub heads: [usize; 4],
    /// Side of a window in tokens.
    pub window: usize,
    /// Features inside the perceptrons, as a multiple of those of a token.
    pub mlp_ratio: f64,
    /// Offsets of queries, keys and values.
    pub qkv_bias: bool,
    /// Which pixels become one at the end of a stage.
    pub merging: Merging,
    /// Version 2: a block of convolutions before each stage.
    pub v2: bool,
    /// Normalise the features of each scale before the decoder.
    pub normalize: bool,
    /// Normalisation after each convolution.
    pub norm: NormConfig,
    /// Probability of leaving out the last block in training; it grows evenly up to that.
    pub drop_path: f64,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

/// Which pixels of a cube become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Merging {
    /// MONAI's first choice, which published networks have: in 3-D it takes two of the eight
    /// pixels twice and two never.
    Original,
    /// Each pixel once. In 2-D the same as the original.
    Complete,
}

impl Default for Config {
    /// MONAI's defaults.
    fn default() -> Self {
        Self {
            dims: 3,
            in_channels: 1,
            out_channels: 1,
            features: 24,
            depths: [2; 4],
            heads: [3, 6, 12, 24],
            window: 7,
            mlp_ratio: 4.0,
            qkv_bias: true,
            merging: Merging::Original,
            v2: false,
            normalize: true,
            norm: NormConfig::Instance { affine: false },
            drop_path: 0.0,
            residual: false,
        }
    }
}

impl Config {
    /// The published network's size, 62 million parameters.
    #[must_use]
    pub fn published() -> Self {
        Self { features: 48, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to; merging, which they do not tell, is
    /// taken for the original.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let embed = "swinViT.patch_embed.proj.weight";
        let dims = rank_of(shapes, embed)?;
        let stage = |i: usize| format!("swinViT.layers{i}.0");
        let block = format!("{}.blocks.0", stage(1));
        let table = |i, axis| {
            let key = format!("{}.blocks.0.attn.relative_position_bias_table", stage(i));
            size_of(shapes, &key, axis)
        };
        let depth = |i| count_of(shapes, &format!("{}.blocks.", stage(i)), ".norm1.weight");
        let features = size_of(shapes, embed, 0)?;
        let hidden = size_of(shapes, &format!("{block}.mlp.linear1.weight"), 0)?;
        Some(Self {
            dims,
            in_channels: size_of(shapes, embed, 1)?,
            out_channels: size_of(shapes, "out.conv.conv.weight", 0)?,
            features,
            depths: [depth(1), depth(2), depth(3), depth(4)],
            heads: [table(1, 1)?, table(2, 1)?, table(3, 1)?, table(4, 1)?],
            window: window_of(table(1, 0)?, dims)?,
            mlp_ratio: hidden as f64 / features.max(1) as f64,
            qkv_bias: shapes.contains_key(&format!("{block}.attn.qkv.bias")),
            v2: shapes.contains_key("swinViT.layers1c.0.layer.conv1.conv.weight"),
            norm: norm_of(shapes, "encoder1.layer.norm1"),
            ..Self::default()
        })
    }

    fn blocks(&self) -> Blocks {
        Blocks { dims: self.dims, norm: self.norm, residual: true }
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "swin_unetr"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        SwinUnetr::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(SwinUnetr::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 32: the image is halved five times.
    fn divisor(&self) -> Vec<usize> {
        vec![COARSEST; self.dims]
    }

    /// At each scale a window, half a window more on both sides with each further block, and what
    /// the convolutions on the way up see.
    fn receptive_field(&self) -> Vec<usize> {
        let stage = |(i, depth): (usize, &usize)| (self.window * (depth + 1) + 8) << (i + 1);
        let field: usize = self.depths.iter().enumerate().map(stage).sum();
        vec![field + 8 + 4 * COARSEST; self.dims]
    }

    fn activation_bytes(&self) -> usize {
        let tokens = 9 * self.features + 2 * mlp_width(self.features, self.mlp_ratio);
        4 * (8 * self.features + tokens.div_ceil(1 << self.dims))
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
                at.problem(key, "must be at least 1, got 0");
            }
        }
        for (i, (&depth, &heads)) in self.depths.iter().zip(&self.heads).enumerate() {
            let width = self.features.saturating_mul(1 << i);
            if depth == 0 {
                at.problem(format!("depths.{i}"), "must be at least 1, got 0");
            }
            if heads == 0 || !width.is_multiple_of(heads) {
                at.problem(format!("heads.{i}"), format!("must divide {width}, got {heads}"));
            }
        }
        if !(1..=32).contains(&self.window) {
            at.problem("window", format!("must be from 1 to 32, got {}", self.window));
        }
        let hidden = mlp_width(self.features, self.mlp_ratio);
        if !(self.mlp_ratio.is_finite() && self.mlp_ratio > 0.0 && hidden > 0) {
            at.problem("mlp_ratio", format!("must be above 0, got {}", self.mlp_ratio));
        }
        check_norm(self.norm, &[self.features], at);
        if !(0.0..1.0).contains(&self.drop_path) {
            let message = format!("must be at least 0 and less than 1, got {}", self.drop_path);
            at.problem("drop_path", message);
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// Corners of the cube of merged pixels, in the order of their features.
fn corners(dims: usize, merging: Merging) -> Vec<Vec<u32>> {
    let all = |order: &[&[u32]]| order.iter().map(|c| c.to_vec()).collect();
    match (dims, merging) {
        (2, _) => all(&[&[0, 0], &[1, 0], &[0, 1], &[1, 1]]),
        (_, Merging::Original) => all(&[
            &[0, 0, 0],
            &[1, 0, 0],
            &[0, 1, 0],
            &[0, 0, 1],
            &[1, 0, 1],
            &[0, 1, 0],
            &[0, 0, 1],
            &[1, 1, 1],
        ]),
        (_, Merging::Complete) => (0..8).map(|i| vec![i >> 2, i >> 1 & 1, i & 1]).collect(),
    }
}

/// Merging of neighbouring pixels: half the size, twice the features.
#[derive(Debug)]
struct Merge {
    /// Places of the corners, the last axis fastest.
    order: Vec<u32>,
    norm: LayerNorm,
    reduction: Linear,
}

impl Merge {
    fn new(c: &Config, width: usize, scope: &Scope) -> Result<Self> {
        let place = |corner: &Vec<u32>| corner.iter().fold(0, |place, at| 2 * place + at);
        let inputs = width << c.dims;
        Ok(Self {
            order: corners(c.dims, c.merging).iter().map(place).collect(),
            norm: LayerNorm::new(&[inputs], MONAI_SWIN.eps, true, &scope.pp("norm"))?,
            reduction: Linear::new(inputs, 2 * width, false, &scope.pp("reduction"))?,
        })
    }

    /// # Shapes
    /// `x [N, 2·s…, C]` → `[N, s…, 2·C]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dims = x.dims();
        let rank = dims.len() - 2;
        let (width, corners) = (dims[rank + 1], self.order.len());
        let half: Vec<usize> = dims[1..=rank].iter().map(|s| s / 2).collect();
        let mut split = vec![dims[0]];
        split.extend(half.iter().flat_map(|&s| [s, 2]));
        split.push(width);
        let mut order = vec![0];
        order.extend((0..rank).map(|a| 1 + 2 * a));
        order.extend((0..rank).map(|a| 2 + 2 * a));
        order.push(2 * rank + 1);
        let cells = dims[0] * half.iter().product::<usize>();
        let h = x.reshape(split)?.permute(order)?.reshape((cells, corners, width))?;
        let order = Tensor::from_slice(&self.order, corners, x.device())?;
        let h = h.contiguous()?.index_select(&order, 1)?;
        let h = h.reshape([&[dims[0]], half.as_slice(), &[corners * width]].concat())?;
        self.reduction.forward(&self.norm.forward(&h)?)
    }
}

/// One stage: blocks at one scale, then merging.
#[derive(Debug)]
struct Stage {
    convs: Option<Block>,
    blocks: Vec<Arc<SwinBlock>>,
    merge: Merge,
}

/// The network.
#[derive(Debug)]
pub struct SwinUnetr {
    config: Config,
    embed: Conv,
    stages: Vec<Stage>,
    /// Of the input and of the scales f, 2f, 4f and 16f; that of 8f has none.
    encoders: Vec<Block>,
    /// The coarsest first.
    decoder: Vec<UpBlock>,
    out: Conv,
}

impl SwinUnetr {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (inner, blocks, f, dims) = (scope.pp("swinViT"), c.blocks(), c.features, c.dims);
        let mut rates = drop_rates(c.drop_path, c.depths.iter().sum()).into_iter();
        let stages = (0..4)
            .map(|i| {
                let (name, width) = (format!("layers{}", i + 1), f << i);
                let scope = inner.pp(&name).pp(0);
                let swin = (0..c.depths[i])
                    .map(|b| {
                        let spec = Spec {
                            width,
                            heads: c.heads[i],
                            mlp: mlp_width(width, c.mlp_ratio),
                            qkv_bias: c.qkv_bias,
                            window: vec![c.window; dims],
                            shift: vec![if b % 2 == 1 { c.window / 2 } else { 0 }; dims],
                            shrink: true,
                            drop_path: rates.next().unwrap_or(c.drop_path),
                            style: MONAI_SWIN,
                        };
                        SwinBlock::new(spec, &scope.pp("blocks").pp(b)).map(Arc::new)
                    })
                    .collect::<Result<_>>()?;
                // these are instance-normalised whatever the other blocks are
                let norm = NormConfig::Instance { affine: false };
                let convs = inner.pp(format!("{name}c")).pp(0).pp("layer");
                let convs = c.v2.then(|| Blocks { norm, ..blocks }.block([width, width], &convs));
                Ok(Stage {
                    convs: convs.transpose()?,
                    blocks: swin,
                    merge: Merge::new(c, width, &scope.pp("downsample"))?,
                })
            })
            .collect::<Result<_>>()?;
        let encoder = |(name, io): (&str, [usize; 2])| {
            blocks.block(io, &scope.pp(format!("encoder{name}")).pp("layer"))
        };
        let encoders = [
            ("1", [c.in_channels, f]),
            ("2", [f, f]),
            ("3", [2 * f, 2 * f]),
            ("4", [4 * f, 4 * f]),
            ("10", [16 * f, 16 * f]),
        ];
        let decoder = |level: usize| {
            let io = if level == 0 { [f, f] } else { [f << level, f << (level - 1)] };
            UpBlock::new(blocks, io, &scope.pp(format!("decoder{}", level + 1)))
        };
        let two = vec![2; dims];
        let embed = ConvSpec { stride: two.clone(), ..ConvSpec::unit(dims) };
        let proj = inner.pp("patch_embed").pp("proj");
        let out = scope.pp("out").pp("conv").pp("conv");
        Ok(Self {
            config: c.clone(),
            embed: Conv::new(c.in_channels, f, &two, embed, true, &proj)?,
            stages,
            encoders: encoders.into_iter().map(encoder).collect::<Result<_>>()?,
            decoder: (0..=4).rev().map(decoder).collect::<Result<_>>()?,
            out: Conv::same(dims, f, c.out_channels, 1, true, &out)?,
        })
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let c = &self.config;
        let size = x.dims().get(2..).unwrap_or(&[]);
        let whole = size.iter().all(|&s| s > 0 && s.is_multiple_of(COARSEST));
        if size.len() != c.dims || x.dims()[1] != c.in_channels || !whole {
            let expected =
                format!("x [N, {}, s…] with {} multiples of {COARSEST}", c.in_channels, c.dims);
            return Err(Error::shape("swin_unetr", expected, x.dims()));
        }
        // a single pixel normalised by itself is nothing; PyTorch refuses it too
        let alone = size.iter().all(|&s| s == COARSEST);
        if alone && matches!(c.norm, NormConfig::Instance { .. }) {
            let expected =
                format!("an image larger than {COARSEST} along an axis, or another norm");
            return Err(Error::shape("swin_unetr", expected, x.dims()));
        }
        Ok(())
    }

    /// Features `[N, C, s…]` of a scale as the decoder gets them.
    fn scale(&self, x: &Tensor) -> Result<Tensor> {
        if !self.config.normalize {
            return Ok(x.clone());
        }
        let h = limpid_kernels::layer_norm(&channels_last(x)?, 1, None, None, MONAI_SWIN.eps)?;
        channels_first(&h)
    }
}

impl Network for SwinUnetr {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.check(x)?;
        let mut h = self.embed.forward(x)?;
        let mut scales = vec![x.clone(), self.scale(&h)?];
        for stage in &self.stages {
            if let Some(convs) = &stage.convs {
                h = convs.forward(&h, ctx)?;
            }
            let mut tokens = channels_last(&h)?;
            tokens = chain(&stage.blocks, &tokens, ctx)?;
            h = channels_first(&stage.merge.forward(&tokens)?)?;
            scales.push(self.scale(&h)?);
        }
        let mut encoders = self.encoders.iter();
        for (i, scale) in scales.iter_mut().enumerate() {
            if i != 4
                && let Some(encoder) = encoders.next()
            {
                *scale = encoder.forward(scale, ctx)?;
            }
        }
        let mut scales = scales.into_iter().rev();
        let mut h = scales.next().unwrap_or(h);
        for (up, skip) in self.decoder.iter().zip(scales) {
            h = up.forward(&h, &skip, ctx)?;
        }
        let y = self.out.forward(&h)?;
        Ok(if self.config.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    fn tiny(dims: usize) -> Config {
        Config {
            dims,
            in_channels: 2,
            features: 4,
            depths: [2, 1, 1, 1],
            heads: [1, 2, 2, 4],
            window: 3,
            mlp_ratio: 1.25,
            ..Config::default()
        }
    }

    fn run(c: &Config, size: &[usize]) -> Result<Tensor> {
        assert!(limpid_config::check(c).is_empty());
        let params = Params::new();
        let net = c.build(&params.scope(Stream::new(1, "net"), DType::F32, &Device::Cpu))?;
        assert_eq!(Config::recognise(&params.shapes()).unwrap(), *c);
        let shape = [&[1, c.in_channels], size].concat();
        let mut v = vec![0f32; shape.iter().product()];
        Stream::new(2, "x").fill_normal(&mut v);
        net.forward(&Tensor::from_vec(v, shape, &Device::Cpu)?, &Ctx::eval())
    }

    #[test]
    fn equals_monai() {
        golden::check("net_monai_swinunetr2d");
    }

    #[test]
    fn both_ranks_and_versions_run() {
        let second = Config { v2: true, qkv_bias: false, norm: NormConfig::Batch {}, ..tiny(2) };
        assert_eq!(run(&second, &[32, 64]).unwrap().dims(), [1, 1, 32, 64]);
        assert_eq!(run(&tiny(3), &[32, 32, 64]).unwrap().dims(), [1, 1, 32, 32, 64]);
    }

    #[test]
    fn sizes_that_do_not_halve_five_times_are_refused() {
        for size in [[48, 64], [32, 32]] {
            let error = run(&tiny(2), &size).unwrap_err();
            assert!(matches!(error, Error::Shape { op: "swin_unetr", .. }), "{error}");
        }
    }

    #[test]
    fn the_original_merging_repeats_two_corners() {
        let count = |merging| {
            let mut c = corners(3, merging);
            c.sort_unstable();
            c.dedup();
            c.len()
        };
        assert_eq!((count(Merging::Original), count(Merging::Complete)), (6, 8));
    }
}
