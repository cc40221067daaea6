//! Parts that transformers share: tokens of an image, attention, perceptron, the pre-norm block of
//! a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) and the trunk made of it.
//!
//! ```text
//! x [N, C, s…] → patches, linear, + positions [N, L, width]
//!   → (x + attn(norm1 x); x + mlp(norm2 x)) × layers → norm
//! ```

use crate::Network;
use crate::blocks::chain;
use crate::{Shapes, count_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::ConvSpec;
use limpid_nn::layers::{Conv, LayerNorm, Linear};
use limpid_nn::{Ctx, Error, Init, Param, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `trunc_normal_` of deviation 0.02, cut at ±2, with which transformers start.
pub(crate) const SMALL: Init = Init::TruncNormal { mean: 0.0, std: 0.02, low: -2.0, high: 2.0 };

/// How a reference names and initialises the layers of its blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// The attention's output projection.
    proj: &'static str,
    /// The two layers of the perceptron.
    mlp: [&'static str; 2],
    /// Whether linear layers start [`SMALL`] and without offset, else as PyTorch's.
    small: bool,
    /// Added to variances.
    pub(crate) eps: f64,
}

/// timm's `VisionTransformer`.
pub(crate) const TIMM: Style = Style { proj: "proj", mlp: ["fc1", "fc2"], small: true, eps: 1e-6 };
/// `SwinIR`.
pub(crate) const SWINIR: Style = Style { eps: 1e-5, ..TIMM };
/// MONAI's `SwinTransformer`.
pub(crate) const MONAI_SWIN: Style =
    Style { proj: "proj", mlp: ["linear1", "linear2"], small: false, eps: 1e-5 };
/// MONAI's `ViT`.
pub(crate) const MONAI_VIT: Style = Style { proj: "out_proj", ..MONAI_SWIN };

/// A linear layer that starts as the style has it.
fn linear(io: [usize; 2], bias: bool, style: Style, scope: &Scope) -> Result<Linear> {
    let [inputs, outputs] = io;
    if !style.small {
        return Linear::new(inputs, outputs, bias, scope);
    }
    Ok(Linear {
        weight: scope.param("weight", &[outputs, inputs], SMALL)?,
        bias: bias.then(|| scope.param("bias", &[outputs], Init::Zeros)).transpose()?,
    })
}

/// `[N, C, s…]` → `[N, s…, C]`.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..x.rank()).collect();
    order[1..].rotate_left(1);
    Ok(x.permute(order)?.contiguous()?)
}

/// `[N, s…, C]` → `[N, C, s…]`.
pub(crate) fn channels_first(x: &Tensor) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..x.rank()).collect();
    order[1..].rotate_right(1);
    Ok(x.permute(order)?.contiguous()?)
}

/// Stochastic depth (Huang et al. 2016, arXiv:1603.09382): in training, zeroes a sample's branch
/// with probability `p` and divides the others by `1 - p`.
pub(crate) fn drop_path(x: &Tensor, p: f64, ctx: &Ctx) -> Result<Tensor> {
    if p == 0.0 || !ctx.is_train() {
        return Ok(x.clone());
    }
    let samples = x.dim(0)?;
    let flat = x.reshape((1, samples, x.elem_count() / samples.max(1)))?;
    Ok(limpid_kernels::dropout_channels(&flat, p, ctx.next_stream())?.reshape(x.shape())?)
}

/// Probabilities of [`drop_path`] that grow evenly from 0 in the first block to `last`.
pub(crate) fn drop_rates(last: f64, blocks: usize) -> Vec<f64> {
    let step = last / blocks.saturating_sub(1).max(1) as f64;
    (0..blocks).map(|i| step * i as f64).collect()
}

/// Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762).
#[derive(Debug)]
pub(crate) struct SelfAttention {
    heads: usize,
    qkv: Linear,
    proj: Linear,
}

impl SelfAttention {
    pub(crate) fn new(
        width: usize,
        heads: usize,
        qkv_bias: bool,
        style: Style,
        scope: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            heads,
            qkv: linear([width, 3 * width], qkv_bias, style, &scope.pp("qkv"))?,
            proj: linear([width, width], true, style, &scope.pp(style.proj))?,
        })
    }

    /// # Shapes
    /// `x [N, L, width]`, `bias [heads, L, L]` added to the scores → as `x`
    pub(crate) fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (n, tokens, width) = x.dims3()?;
        let depth = width / self.heads.max(1);
        let qkv = self.qkv.forward(x)?.reshape((n, tokens, 3, self.heads, depth))?;
        let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let scale = (depth as f64).sqrt().recip();
        let y = limpid_kernels::attention(&qkv.get(0)?, &qkv.get(1)?, &qkv.get(2)?, scale, bias)?;
        self.proj.forward(&y.transpose(1, 2)?.reshape((n, tokens, width))?)
    }
}

/// Two linear layers with a GELU between.
#[derive(Debug)]
pub(crate) struct Mlp([Linear; 2]);

impl Mlp {
    pub(crate) fn new(width: usize, hidden: usize, style: Style, scope: &Scope) -> Result<Self> {
        Ok(Self([
            linear([width, hidden], true, style, &scope.pp(style.mlp[0]))?,
            linear([hidden, width], true, style, &scope.pp(style.mlp[1]))?,
        ]))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0[1].forward(&limpid_kernels::gelu(&self.0[0].forward(x)?)?)
    }
}

/// Settings of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Features of a token.
    pub width: usize,
    /// Features inside the perceptrons.
    pub mlp: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; must divide the width.
    pub heads: usize,
}

impl Default for VitConfig {
    /// ViT-B.
    fn default() -> Self {
        Self { width: 768, mlp: 3072, layers: 12, heads: 12 }
    }
}

impl Validate for VitConfig {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [
            ("width", self.width),
            ("mlp", self.mlp),
            ("layers", self.layers),
            ("heads", self.heads),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1, got 0");
            }
        }
        if self.heads > 0 && !self.width.is_multiple_of(self.heads) {
            at.problem("heads", format!("must divide `width`, which is {}", self.width));
        }
    }
}

impl VitConfig {
    /// Bytes of activations per token in a forward pass, roughly.
    pub(crate) fn token_bytes(&self) -> usize {
        4 * (8 * self.width + 2 * self.mlp)
    }

    /// What the blocks below `{prefix}blocks.` tell. The heads, of which shapes say nothing, are
    /// `usual` if that divides the width, else the largest smaller number that does.
    fn recognise(shapes: &Shapes, prefix: &str, style: Style, usual: usize) -> Option<Self> {
        let first = format!("{prefix}blocks.0");
        let width = size_of(shapes, &format!("{first}.attn.{}.weight", style.proj), 0)?;
        Some(Self {
            width,
            mlp: size_of(shapes, &format!("{first}.mlp.{}.weight", style.mlp[0]), 0)?,
            layers: count_of(shapes, &format!("{prefix}blocks."), ".norm1.weight"),
            heads: (1..=usual).rev().find(|&h| width.is_multiple_of(h))?,
        })
    }

    /// From a checkpoint of timm, where a head usually has 64 features.
    pub(crate) fn recognise_timm(shapes: &Shapes, prefix: &str) -> Option<Self> {
        let width = size_of(shapes, &format!("{prefix}norm.weight"), 0)?;
        let usual = if width.is_multiple_of(64) { width / 64 } else { 12 };
        Self::recognise(shapes, prefix, TIMM, usual)
    }

    /// From a checkpoint of MONAI, where there are usually 12 heads.
    pub(crate) fn recognise_monai(shapes: &Shapes, prefix: &str) -> Option<Self> {
        Self::recognise(shapes, prefix, MONAI_VIT, 12)
    }
}

/// The most cubic grid of that many tokens, for want of a better guess.
pub(crate) fn likely_grid(tokens: usize, dims: usize) -> Vec<usize> {
    if dims <= 1 {
        return vec![tokens];
    }
    let root = (tokens as f64).powf(1.0 / dims as f64).round().min(65_536.0) as usize;
    let first = (1..=root).rev().find(|k| tokens.is_multiple_of(*k)).unwrap_or(1);
    let mut grid = vec![first];
    grid.extend(likely_grid(tokens / first, dims - 1));
    grid
}

/// `x [N, C, g·p…]` → `[N, g…, p…·C]`, the channel fastest.
fn patches(x: &Tensor, grid: &[usize], patch: &[usize]) -> Result<Tensor> {
    let (n, channels, rank) = (x.dim(0)?, x.dim(1)?, grid.len());
    let mut shape = vec![n, channels];
    shape.extend(grid.iter().zip(patch).flat_map(|(&g, &p)| [g, p]));
    let mut order = vec![0];
    order.extend((0..rank).map(|a| 2 + 2 * a));
    order.extend((0..rank).map(|a| 3 + 2 * a));
    order.push(1);
    let size: usize = patch.iter().product();
    let tokens: usize = grid.iter().product();
    Ok(x.reshape(shape)?.permute(order)?.reshape((n, tokens, size * channels))?)
}

/// The inverse of [`patches`].
pub(crate) fn unpatch(x: &Tensor, grid: &[usize], patch: &[usize]) -> Result<Tensor> {
    let (n, rank) = (x.dim(0)?, grid.len());
    let channels = x.dim(2)? / patch.iter().product::<usize>().max(1);
    let mut order = vec![0, 2 * rank + 1];
    order.extend((0..rank).flat_map(|a| [1 + a, 1 + rank + a]));
    let mut size = vec![n, channels];
    size.extend(grid.iter().zip(patch).map(|(g, p)| g * p));
    Ok(x.reshape([&[n], grid, patch, &[channels]].concat())?.permute(order)?.reshape(size)?)
}

/// Image, patch and channels of [`Tokens`].
#[derive(Clone, Debug)]
pub(crate) struct TokenSpec {
    /// Channels of the image.
    pub(crate) channels: usize,
    /// Its size.
    pub(crate) image: Vec<usize>,
    /// Size of a patch; divides that of the image.
    pub(crate) patch: Vec<usize>,
    /// Features of a token.
    pub(crate) width: usize,
}

impl TokenSpec {
    /// Tokens per axis.
    pub(crate) fn grid(&self) -> Vec<usize> {
        self.image.iter().zip(&self.patch).map(|(s, p)| s / (*p).max(1)).collect()
    }

    /// Says what is wrong with sizes of the image and of patches.
    pub(crate) fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.image.len()) {
            at.problem("image_size", format!("must have 2 or 3 numbers, got {:?}", self.image));
        }
        if self.patch.len() != self.image.len() || self.patch.contains(&0) {
            at.problem("patch_size", "must have as many numbers as `image_size`, each above 0");
            return;
        }
        for (a, (s, p)) in self.image.iter().zip(&self.patch).enumerate() {
            if *s == 0 || !s.is_multiple_of(*p) {
                at.problem(
                    format!("image_size.{a}"),
                    format!("must be a multiple of {p}, got {s}"),
                );
            }
        }
    }
}

/// Patches of an image as tokens, with learnt positions.
#[derive(Debug)]
pub(crate) struct Tokens {
    spec: TokenSpec,
    projection: Projection,
    positions: Param,
}

#[derive(Debug)]
enum Projection {
    Conv(Conv),
    Perceptron(Linear),
}

impl Tokens {
    /// As timm: a convolution `patch_embed.proj`, `pos_embed`.
    pub(crate) fn timm(spec: TokenSpec, scope: &Scope) -> Result<Self> {
        let projection = Projection::conv(&spec, &scope.pp("patch_embed").pp("proj"))?;
        Self::new(spec, projection, "pos_embed", scope)
    }

    /// As MONAI, which can also put a linear layer on the pixels of a patch.
    pub(crate) fn monai(spec: TokenSpec, perceptron: bool, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("patch_embedding");
        let inner = scope.pp("patch_embeddings");
        let projection = if perceptron {
            let inputs = spec.channels * spec.patch.iter().product::<usize>();
            let style = Style { small: true, ..MONAI_VIT };
            Projection::Perceptron(linear([inputs, spec.width], true, style, &inner.pp(1))?)
        } else {
            Projection::conv(&spec, &inner)?
        };
        Self::new(spec, projection, "position_embeddings", &scope)
    }

    fn new(spec: TokenSpec, projection: Projection, name: &str, scope: &Scope) -> Result<Self> {
        let shape = [1, spec.grid().iter().product(), spec.width];
        Ok(Self { spec, projection, positions: scope.param(name, &shape, SMALL)? })
    }

    /// # Shapes
    /// `x [N, channels, image…]` → `[N, L, width]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let TokenSpec { channels, image, patch, .. } = &self.spec;
        match x.dims() {
            [_, c, size @ ..] if c == channels && size == image => {}
            other => {
                let expected = format!("[N, {channels}, …] of the only size {image:?}");
                return Err(Error::shape("vision transformer", expected, other));
            }
        }
        let tokens = match &self.projection {
            Projection::Conv(conv) => conv.forward(x)?.flatten_from(2)?.transpose(1, 2)?,
            Projection::Perceptron(linear) => {
                linear.forward(&patches(x, &self.spec.grid(), patch)?)?
            }
        };
        Ok(tokens.broadcast_add(&self.positions.like(&tokens)?)?)
    }
}

impl Projection {
    fn conv(spec: &TokenSpec, scope: &Scope) -> Result<Self> {
        let conv = ConvSpec { stride: spec.patch.clone(), ..ConvSpec::unit(spec.patch.len()) };
        Ok(Self::Conv(Conv::new(spec.channels, spec.width, &spec.patch, conv, true, scope)?))
    }
}

/// In what the blocks of the references differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) style: Style,
    /// Offsets of queries, keys and values.
    pub(crate) qkv_bias: bool,
    /// A normalisation for attention to another sequence, which MONAI's blocks have though image
    /// networks never run it.
    pub(crate) spare_norm: bool,
}

/// One pre-norm block.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn: SelfAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Network for Block {
    /// `x [N, L, width]` → the same
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        let x = limpid_kernels::add(x, &self.attn.forward(&self.norm1.forward(x)?, None)?)?;
        limpid_kernels::add(&x, &self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

/// Tokens, blocks and the last normalisation.
#[derive(Debug)]
pub(crate) struct Vit {
    tokens: Tokens,
    blocks: Vec<Arc<Block>>,
    norm: LayerNorm,
}

impl Vit {
    pub(crate) fn new(
        c: &VitConfig,
        tokens: Tokens,
        variant: Variant,
        scope: &Scope,
    ) -> Result<Self> {
        let Variant { style, qkv_bias, spare_norm } = variant;
        let norm = |scope: &Scope| LayerNorm::new(&[c.width], style.eps, true, scope);
        let blocks = (0..c.layers)
            .map(|i| {
                let scope = scope.pp("blocks").pp(i);
                if spare_norm {
                    norm(&scope.pp("norm_cross_attn"))?;
                }
                let attn = scope.pp("attn");
                Ok(Arc::new(Block {
                    norm1: norm(&scope.pp("norm1"))?,
                    attn: SelfAttention::new(c.width, c.heads, qkv_bias, style, &attn)?,
                    norm2: norm(&scope.pp("norm2"))?,
                    mlp: Mlp::new(c.width, c.mlp, style, &scope.pp("mlp"))?,
                }))
            })
            .collect::<Result<_>>()?;
        Ok(Self { tokens, blocks, norm: norm(&scope.pp("norm"))? })
    }

    /// The normalised tokens, and those after each block.
    ///
    /// # Shapes
    /// `x [N, channels, image…]` → `[N, L, width]`
    pub(crate) fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<(Tensor, Vec<Tensor>)> {
        let mut h = self.tokens.forward(x)?;
        let mut states = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            h = chain(std::slice::from_ref(block), &h, ctx)?;
            states.push(h.clone());
        }
        Ok((self.norm.forward(&h)?, states))
    }

    /// Tokens as an image of features.
    ///
    /// # Shapes
    /// `x [N, L, width]` → `[N, width, grid…]`
    pub(crate) fn image(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, width) = x.dims3()?;
        let size = [&[n, width], self.tokens.spec.grid().as_slice()].concat();
        Ok(x.transpose(1, 2)?.reshape(size)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;

    #[test]
    fn patches_come_back_as_the_image() {
        for (grid, patch) in [(vec![2, 3], vec![4, 2]), (vec![2, 1, 3], vec![2, 3, 1])] {
            let mut size = vec![2, 3];
            size.extend(grid.iter().zip(&patch).map(|(g, p)| g * p));
            let n = size.iter().product::<usize>() as u32;
            let x = Tensor::arange(0, n, &Device::Cpu).unwrap().reshape(size).unwrap();
            let back = unpatch(&patches(&x, &grid, &patch).unwrap(), &grid, &patch).unwrap();
            assert_eq!(back.dims(), x.dims());
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u32>().unwrap();
            assert_eq!(flat(&back), flat(&x));
        }
    }

    #[test]
    fn grids_are_as_cubic_as_can_be() {
        assert_eq!(likely_grid(64, 2), [8, 8]);
        assert_eq!(likely_grid(64, 3), [4, 4, 4]);
        assert_eq!(likely_grid(15, 2), [3, 5]);
        assert_eq!(likely_grid(7, 3), [1, 1, 7]);
    }

    #[test]
    fn paths_are_dropped_by_sample_and_only_in_training() {
        let x = Tensor::ones((64, 3, 2), DType::F32, &Device::Cpu).unwrap();
        let eval = drop_path(&x, 0.5, &Ctx::eval()).unwrap();
        assert_eq!(eval.sum_all().unwrap().to_scalar::<f32>().unwrap(), 384.0);
        let train = drop_path(&x, 0.5, &Ctx::train(Stream::new(1, "test"))).unwrap();
        let samples: Vec<Vec<f32>> = train.flatten_from(1).unwrap().to_vec2().unwrap();
        let zeros = samples.iter().filter(|s| s.iter().all(|v| *v == 0.0)).count();
        let doubled = samples.iter().filter(|s| s.iter().all(|v| *v == 2.0)).count();
        assert_eq!(zeros + doubled, 64);
        assert!((16..=48).contains(&zeros), "{zeros}");
        assert_eq!(drop_rates(0.1, 3), [0.0, 0.05, 0.1]);
        assert_eq!(drop_rates(0.1, 1), [0.0]);
    }
}
