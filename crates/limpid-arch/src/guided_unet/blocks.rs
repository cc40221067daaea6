//! Blocks of the guided-diffusion U-Net: embedding, residual block, attention, resampling.

use candle_core::Tensor;
use limpid_kernels::{Activation, ConvSpec, PoolSpec, Resize};
use limpid_nn::layers::{Conv, GroupNorm, Linear};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest period of the embedding.
const PERIOD: f64 = 10_000.0;
const EPS: f64 = 1e-5;

/// Cosines, then sines, of each value at `width / 2` frequencies that fall geometrically from 1 to
/// one over the longest period; an odd width ends with a zero.
///
/// # Shapes
/// `values [N]` → `[N, width]`
///
/// # Errors
/// [`Error::Shape`] if `values` is no vector of floating-point numbers.
pub fn gamma_embedding(values: &Tensor, width: usize) -> Result<Tensor> {
    if values.rank() != 1 || !values.dtype().is_float() {
        return Err(Error::shape("gamma_embedding", "[N], floating point", values.dims()));
    }
    let half = width / 2;
    let frequency = |i: usize| (-PERIOD.ln() * i as f64 / half as f64).exp();
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let frequencies =
        Tensor::new(frequencies, values.device())?.to_dtype(values.dtype())?.unsqueeze(0)?;
    let angles = values.unsqueeze(1)?.broadcast_mul(&frequencies)?;
    let waves = limpid_kernels::cat(&[&angles.cos()?, &angles.sin()?], 1)?;
    Ok(if width % 2 == 1 { waves.pad_with_zeros(1, 0, 1)? } else { waves })
}

/// In which order the channels of a fused query, key and value count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionOrder {
    /// Heads first: query, key and value of one head, then those of the next (`legacy`).
    #[default]
    HeadsFirst,
    /// All queries, all keys, all values, each cut into heads (`use_new_attention_order`).
    QkvFirst,
}

/// Attention of every position to every other, given fused queries, keys and values.
///
/// # Shapes
/// `qkv [N, 3·C, T]` → `[N, C, T]`
///
/// # Errors
/// [`Error::Shape`] if the channels do not divide into three times `heads`.
pub fn qkv_attention(qkv: &Tensor, heads: usize, order: AttentionOrder) -> Result<Tensor> {
    let [n, channels, length] = *qkv.dims() else {
        return Err(Error::shape("qkv_attention", "[N, 3·C, T]", qkv.dims()));
    };
    if heads == 0 || !channels.is_multiple_of(3 * heads) {
        let expected = format!("[N, 3·C, T] with C a multiple of {heads} heads");
        return Err(Error::shape("qkv_attention", expected, qkv.dims()));
    }
    let depth = channels / (3 * heads);
    let (split, axis) = match order {
        AttentionOrder::HeadsFirst => ([n, heads, 3, depth, length], 2),
        AttentionOrder::QkvFirst => ([n, 3, heads, depth, length], 1),
    };
    let split = limpid_kernels::reshape(qkv, split.as_slice())?;
    let part = |i: usize| -> Result<Tensor> {
        let part = limpid_kernels::narrow(&split, axis, i, 1)?;
        let part = limpid_kernels::reshape(&part, (n, heads, depth, length))?;
        limpid_kernels::permute(&part, &[0, 1, 3, 2])
    };
    let scale = 1.0 / (depth as f64).sqrt();
    let mixed = limpid_kernels::attention(&part(0)?, &part(1)?, &part(2)?, scale, None)?;
    let mixed = limpid_kernels::permute(&mixed, &[0, 1, 3, 2])?;
    limpid_kernels::reshape(&mixed, (n, heads * depth, length))
}

/// Normalisation, attention over all positions, projection, added to the input.
#[derive(Clone, Debug)]
pub struct Attention {
    norm: GroupNorm,
    qkv: Conv,
    proj_out: Conv,
    heads: usize,
    order: AttentionOrder,
}

impl Attention {
    /// Attention among `channels` with that many heads.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(
        channels: usize,
        groups: usize,
        heads: usize,
        order: AttentionOrder,
        scope: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            norm: GroupNorm::new(channels, groups, EPS, true, &scope.pp("norm"))?,
            qkv: Conv::same(1, channels, 3 * channels, 1, true, &scope.pp("qkv"))?,
            proj_out: zeroed(Conv::same(1, channels, channels, 1, true, &scope.pp("proj_out"))?)?,
            heads,
            order,
        })
    }

    /// # Shapes
    /// `x [N, C, H, W]` → the same
    ///
    /// # Errors
    /// [`Error::Shape`] if the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [n, channels] = [x.dims()[0], x.dims()[1]];
        let flat = limpid_kernels::reshape(x, (n, channels, x.elem_count() / (n * channels)))?;
        let qkv = self.qkv.forward(&self.norm.forward(&flat)?)?;
        let mixed = self.proj_out.forward(&qkv_attention(&qkv, self.heads, self.order)?)?;
        limpid_kernels::reshape(&limpid_kernels::add(&flat, &mixed)?, x.dims())
    }
}

/// Parameter-free change of size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// The size stays.
    Keep,
    /// Half the size: mean of 2×2 pixels.
    Down,
    /// Twice the size: each pixel four times.
    Up,
}

impl Resample {
    /// # Shapes
    /// `x [N, C, H, W]` → `[N, C, H', W']`
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has less than 2×2 pixels to halve.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Keep => Ok(x.clone()),
            Self::Down => limpid_kernels::avg_pool(x, &PoolSpec::cubic(2, 2), true),
            Self::Up => limpid_kernels::resize_by(x, &[2.0, 2.0], Resize::Nearest),
        }
    }
}

/// What the residual blocks of a network share.
#[derive(Clone, Copy, Debug)]
pub struct ResSettings {
    /// Features of the embedding.
    pub embedding: usize,
    /// Groups of a normalisation.
    pub groups: usize,
    /// Scale and shift after the second normalisation, else a shift before it.
    pub scale_shift: bool,
    /// A 3×3 convolution where the skip connection changes the channels, else 1×1.
    pub conv_skip: bool,
    /// Probability of dropout.
    pub dropout: f64,
}

/// Two convolutions with the embedding in between, added to the input; may change size and
/// channels.
#[derive(Clone, Debug)]
pub struct ResBlock {
    in_norm: GroupNorm,
    in_conv: Conv,
    embed: Linear,
    out_norm: GroupNorm,
    out_conv: Conv,
    skip: Option<Conv>,
    resample: Resample,
    scale_shift: bool,
    dropout: f64,
}

impl ResBlock {
    /// A block of `inputs` to `outputs` channels.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(
        s: &ResSettings,
        inputs: usize,
        outputs: usize,
        resample: Resample,
        scope: &Scope,
    ) -> Result<Self> {
        let (first, last) = (scope.pp("in_layers"), scope.pp("out_layers"));
        let features = if s.scale_shift { 2 * outputs } else { outputs };
        let kernel = if s.conv_skip { 3 } else { 1 };
        let skip = || Conv::same(2, inputs, outputs, kernel, true, &scope.pp("skip_connection"));
        Ok(Self {
            in_norm: GroupNorm::new(inputs, s.groups, EPS, true, &first.pp(0))?,
            in_conv: Conv::same(2, inputs, outputs, 3, true, &first.pp(2))?,
            embed: Linear::new(s.embedding, features, true, &scope.pp("emb_layers").pp(1))?,
            out_norm: GroupNorm::new(outputs, s.groups, EPS, true, &last.pp(0))?,
            out_conv: zeroed(Conv::same(2, outputs, outputs, 3, true, &last.pp(3))?)?,
            skip: (inputs != outputs).then(skip).transpose()?,
            resample,
            scale_shift: s.scale_shift,
            dropout: s.dropout,
        })
    }

    /// # Shapes
    /// `x [N, in, H, W]`, `embedding [N or 1, E]` → `[N, out, H', W']`
    ///
    /// # Errors
    /// [`Error::Shape`] if either does not fit.
    pub fn forward(&self, x: &Tensor, embedding: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.forward_cat(&[x], embedding, ctx)
    }

    /// As [`ResBlock::forward`] of tensors joined along the channels, which need no join.
    ///
    /// # Errors
    /// [`Error::Shape`] if one of them does not fit.
    pub fn forward_cat(&self, parts: &[&Tensor], embedding: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let h = self.in_norm.forward_act_cat(parts, Activation::Silu)?;
        let h = self.in_conv.forward(&self.resample.forward(&h)?)?;
        let parts = parts.iter().map(|x| self.resample.forward(x)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<&Tensor> = parts.iter().collect();
        let e = self.embed.forward(&limpid_kernels::silu(embedding)?)?;
        let mut h = if self.scale_shift {
            let outputs = h.dims()[1];
            let scale = limpid_kernels::narrow(&e, 1, 0, outputs)?;
            let shift = limpid_kernels::narrow(&e, 1, outputs, outputs)?;
            self.out_norm.forward_scale_shift(&h, &scale, &shift, Activation::Silu)?
        } else {
            let h = limpid_kernels::add_to_channels(&h, &e)?;
            self.out_norm.forward_act(&h, Activation::Silu)?
        };
        if ctx.is_train() {
            h = limpid_kernels::dropout(&h, self.dropout, ctx.next_stream())?;
        }
        let h = self.out_conv.forward(&h)?;
        let skipped = match &self.skip {
            Some(conv) => conv.forward_cat(&parts)?,
            None => limpid_kernels::cat(&parts, 1)?,
        };
        limpid_kernels::add(&skipped, &h)
    }
}

/// The 3×3 convolution of stride 2 that halves an image.
///
/// # Errors
/// If a parameter name is taken.
pub fn down_conv(inputs: usize, outputs: usize, scope: &Scope) -> Result<Conv> {
    let spec = ConvSpec { stride: vec![2; 2], padding: vec![1; 2], ..ConvSpec::unit(2) };
    Conv::new(inputs, outputs, &[3, 3], spec, true, scope)
}

/// Normalisation, activation and a convolution that starts at zero: what ends the network.
#[derive(Clone, Debug)]
pub(super) struct Head {
    norm: GroupNorm,
    conv: Conv,
}

impl Head {
    pub(super) fn new(inputs: usize, outputs: usize, groups: usize, scope: &Scope) -> Result<Self> {
        Ok(Self {
            norm: GroupNorm::new(inputs, groups, EPS, true, &scope.pp(0))?,
            conv: zeroed(Conv::same(2, inputs, outputs, 3, true, &scope.pp(2))?)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(&self.norm.forward_act(x, Activation::Silu)?)
    }
}

/// The convolution with all parameters zero.
fn zeroed(conv: Conv) -> Result<Conv> {
    for param in [Some(&conv.weight), conv.bias.as_ref()].into_iter().flatten() {
        param.set(&param.tensor().zeros_like()?)?;
    }
    Ok(conv)
}
