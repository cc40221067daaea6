//! Scaled dot-product attention (Vaswani et al., arXiv:1706.03762, equation 1) with an additive bias,
//! as `torch.nn.functional.scaled_dot_product_attention`.
//!
//! The scores exist only for a few rows at a time: the forward pass keeps largest score
//! and sum of each row, and the backward pass computes the softmax again from them (as Dao et al.,
//! arXiv:2205.14135). Differentiable once.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod sizes;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;

use crate::cast::InHalf;
use crate::math::Real;
#[cfg(feature = "cuda")]
use crate::op::gradients_on_gpu;
use crate::op::{Array, Backward, Op, apply, check_dtypes, with_slices};
use crate::{Error, Result};
use candle_core::{D, DType, Shape, Tensor};
use cpu::{BiasRows, Operands, RowScale};
use sizes::{Broadcast, Sizes};
use std::sync::OnceLock;

const NAME: &str = "attention";

/// `softmax(scale * q kᵀ + bias) v`.
///
/// # Shapes
/// `q [.., L, D]`, `k [.., M, D]`, `v [.., M, E]` with the same leading dimensions, `bias`
/// broadcastable to `[.., L, M]` → `[.., L, E]`. A bias of minus infinity masks.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other or are neither f32 nor f64.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let sizes = Sizes::new(q, k, v)?;
    let operands: Vec<&Tensor> = [q, k, v].into_iter().chain(bias).collect();
    check_dtypes(NAME, &operands)?;
    let leading = &q.dims()[..q.rank() - 2];
    let broadcast = bias.map(|b| Broadcast::new(b.dims(), leading, &sizes)).transpose()?;
    let dims = [leading, &[sizes.queries, sizes.values]].concat();
    let op = Attention { sizes, scale, dims, broadcast, constant: None, scales: OnceLock::new() };
    match bias {
        // candle's operations have three arguments at most: k and v share one
        Some(b) if b.track_op() => apply(op, &[q, &Tensor::cat(&[k, v], D::Minus1)?, b]),
        Some(b) => apply(Attention { constant: Some(b.contiguous()?), ..op }, &[q, k, v]),
        None => apply(op, &[q, k, v]),
    }
}

/// What makes the softmax of each row of scores: the largest score, and one over the sum of the
/// exponentials.
enum Kept {
    Cpu(Vec<RowScale>),
    /// `[rows, 2]`, on the GPU.
    #[cfg(feature = "cuda")]
    Cuda(Tensor),
}

struct Attention {
    sizes: Sizes,
    scale: f64,
    /// Dimensions of the result.
    dims: Vec<usize>,
    /// How the bias, if there is one, spreads over the scores.
    broadcast: Option<Broadcast>,
    /// The bias if it needs no gradient; else it is the third operand.
    constant: Option<Tensor>,
    /// Set by the forward pass, for the backward pass.
    scales: OnceLock<Kept>,
}

impl Attention {
    /// Whether the operands are q, [k v] and bias, else q, k and v.
    fn is_packed(&self) -> bool {
        self.broadcast.is_some() && self.constant.is_none()
    }

    fn operands<'a, T>(&'a self, [a, b, c]: [&'a [T]; 3], constant: &'a [T]) -> Operands<'a, T> {
        let Sizes { depth, values, .. } = self.sizes;
        let packed = self.is_packed();
        let bias = if packed { c } else { constant };
        Operands {
            sizes: &self.sizes,
            scale: self.scale,
            q: a,
            k: b,
            v: if packed { b.get(depth..).unwrap_or(&[]) } else { c },
            k_stride: if packed { depth + values } else { depth },
            v_stride: if packed { depth + values } else { values },
            bias: self.broadcast.as_ref().map(|broadcast| BiasRows { data: bias, broadcast }),
        }
    }

    fn with_constant<T: Real, R>(&self, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
        match &self.constant {
            Some(bias) => with_slices(NAME, [bias], |[bias]: [&[T]; 1]| f(bias)),
            None => f(&[]),
        }
    }

    fn gradients<T: Real>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(Kept::Cpu(scales)) = self.scales.get() else {
            return Err(Error::argument(NAME, "the backward pass ran before the forward pass"));
        };
        let tensors = [&at.args[0], &at.args[1], &at.args[2], at.result(NAME)?, &at.grad];
        let want_bias = self.is_packed() && at.wanted[2];
        let found = with_slices(NAME, tensors, |[a, b, c, y, g]: [&[T]; 5]| {
            self.with_constant(|constant| {
                let operands = self.operands([a, b, c], constant);
                cpu::backward(&operands, scales, y, g, want_bias)
            })
        })?;
        let device = at.grad.device();
        let leading = &self.dims[..self.dims.len() - 2];
        let tensor = |data: Vec<T>, rows: usize, columns: usize| {
            Tensor::from_vec(data, [leading, &[rows, columns]].concat(), device)
        };
        let Sizes { queries, keys, depth, values, .. } = self.sizes;
        let dq = tensor(found.q, queries, depth)?;
        let dk = tensor(found.k, keys, depth)?;
        let dv = tensor(found.v, keys, values)?;
        if self.is_packed() {
            let dkv = Tensor::cat(&[dk, dv], D::Minus1)?;
            let dbias = found
                .bias
                .map(|data| Tensor::from_vec(data, at.args[2].shape(), device))
                .transpose()?;
            return Ok(vec![Some(dq), Some(dkv), dbias]);
        }
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }
}

impl Op for Attention {
    const READS_RESULT: bool = true;
    const TWICE: bool = false;
    const IN_HALF: InHalf = InHalf::Rounded;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let slices = [args[0].data, args[1].data, args[2].data];
        let (y, scales) =
            self.with_constant(|constant| cpu::forward(&self.operands(slices, constant)))?;
        // already set only if this very operation ran before, on the same operands
        let _ = self.scales.set(Kept::Cpu(scales));
        Ok((y, self.dims.as_slice().into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::forward(self, gpu, args)
    }

    #[cfg(feature = "cuda")]
    fn gradients_cuda<T: crate::gpu::Number>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        cuda::backward::<T>(self, at)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        #[cfg(feature = "cuda")]
        if at.grad.device().is_cuda() {
            return gradients_on_gpu(self, at);
        }
        match at.grad.dtype() {
            DType::F64 => self.gradients::<f64>(at),
            _ => self.gradients::<f32>(at),
        }
    }
}
