//! What the levels of a diffusion U-Net are made of.

use super::Config;
use candle_core::Tensor;
use limpid_kernels::{Activation, PoolSpec, Resize, attention, avg_pool, resize_by, silu};
use limpid_nn::layers::{Conv, GroupNorm, Linear};
use limpid_nn::{Init, Result, Scope};

/// The reference's `norm_eps`.
pub(super) const EPS: f64 = 1e-6;

/// Starts a convolution with zeros, so that what it ends adds nothing at first.
pub(super) fn silence(conv: &Scope) -> Result<()> {
    conv.redraw("weight", Init::Zeros)?;
    conv.redraw("bias", Init::Zeros)
}

/// What a residual block does with the size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resample {
    Keep,
    Down,
    Up,
}

impl Resample {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        let rank = x.rank().saturating_sub(2);
        match self {
            Self::Keep => Ok(x.clone()),
            Self::Down => avg_pool(x, &PoolSpec::cubic(rank, 2), true),
            Self::Up => resize_by(x, &vec![2.0; rank], Resize::Nearest),
        }
    }
}

/// Residual block that is told the time step (`DiffusionUNetResnetBlock`).
#[derive(Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv,
    /// 1×1, where the channels change.
    shortcut: Option<Conv>,
    resample: Resample,
}

impl ResnetBlock {
    pub(super) fn new(
        c: &Config,
        [inputs, outputs]: [usize; 2],
        resample: Resample,
        scope: &Scope,
    ) -> Result<Self> {
        let shortcut = scope.pp("skip_connection").pp("conv");
        let block = Self {
            norm1: GroupNorm::new(inputs, c.norm_groups, EPS, true, &scope.pp("norm1"))?,
            conv1: c.conv(inputs, outputs, &scope.pp("conv1"))?,
            time: Linear::new(c.embedding(), outputs, true, &scope.pp("time_emb_proj"))?,
            norm2: GroupNorm::new(outputs, c.norm_groups, EPS, true, &scope.pp("norm2"))?,
            conv2: c.conv(outputs, outputs, &scope.pp("conv2"))?,
            shortcut: (inputs != outputs)
                .then(|| Conv::same(c.dims, inputs, outputs, 1, true, &shortcut))
                .transpose()?,
            resample,
        };
        silence(&scope.pp("conv2").pp("conv"))?;
        Ok(block)
    }

    /// # Shapes
    /// `parts [N, in_i, s…]`, joined along the channels, `embedding [N, E]` → `[N, out, s'…]`
    pub(super) fn forward(&self, parts: &[&Tensor], embedding: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward_act_cat(parts, Activation::Silu)?;
        let h = self.resample.apply(&h)?;
        let parts = parts.iter().map(|x| self.resample.apply(x)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<&Tensor> = parts.iter().collect();
        let h = self.conv1.forward(&h)?;
        let time = self.time.forward(&silu(embedding)?)?;
        let h = limpid_kernels::add_to_channels(&h, &time)?;
        let h = self.conv2.forward(&self.norm2.forward_act(&h, Activation::Silu)?)?;
        let around = match &self.shortcut {
            Some(conv) => conv.forward_cat(&parts)?,
            None => limpid_kernels::cat(&parts, 1)?,
        };
        limpid_kernels::add(&around, &h)
    }
}

/// Where queries, keys and values come from.
#[derive(Debug)]
enum Projection {
    Separate([Linear; 3]),
    Combined(Linear),
}

/// Self-attention between all pixels (`SpatialAttentionBlock`).
#[derive(Debug)]
pub(super) struct Attention {
    norm: GroupNorm,
    project: Projection,
    out: Linear,
    heads: usize,
}

impl Attention {
    pub(super) fn new(
        c: &Config,
        channels: usize,
        head_channels: usize,
        scope: &Scope,
    ) -> Result<Self> {
        let attn = scope.pp("attn");
        let linear = |name: &str, outputs| Linear::new(channels, outputs, true, &attn.pp(name));
        Ok(Self {
            norm: GroupNorm::new(channels, c.norm_groups, EPS, true, &scope.pp("norm"))?,
            project: match c.combined_qkv {
                true => Projection::Combined(linear("qkv", 3 * channels)?),
                false => Projection::Separate([
                    linear("to_q", channels)?,
                    linear("to_k", channels)?,
                    linear("to_v", channels)?,
                ]),
            },
            out: linear("out_proj", channels)?,
            heads: channels / head_channels,
        })
    }

    /// # Shapes
    /// `x [N, C, s…]` → the same
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, channels) = (x.dims()[0], x.dims()[1]);
        let pixels = x.dims()[2..].iter().product::<usize>();
        let head = channels / self.heads;
        let tokens = self.norm.forward(x)?.reshape((n, channels, pixels))?.transpose(1, 2)?;
        let tokens = tokens.contiguous()?;
        let by_head = |t: Tensor| -> Result<Tensor> {
            Ok(t.reshape((n, pixels, self.heads, head))?.transpose(1, 2)?.contiguous()?)
        };
        let [q, k, v] = match &self.project {
            Projection::Separate([q, k, v]) => {
                [q.forward(&tokens)?, k.forward(&tokens)?, v.forward(&tokens)?]
            }
            Projection::Combined(qkv) => {
                let all = qkv.forward(&tokens)?;
                let part = |i: usize| all.narrow(2, i * channels, channels)?.contiguous();
                [part(0)?, part(1)?, part(2)?]
            }
        };
        let scale = 1.0 / (head as f64).sqrt();
        let mixed = attention(&by_head(q)?, &by_head(k)?, &by_head(v)?, scale, None)?;
        let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((n, pixels, channels))?;
        let y = self.out.forward(&mixed)?.transpose(1, 2)?.contiguous()?.reshape(x.dims())?;
        limpid_kernels::add(&y, x)
    }
}
