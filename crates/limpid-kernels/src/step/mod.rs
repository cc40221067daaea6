//! In-place arithmetic of optimizers and weight averages: each function is one pass over memory.
//!
//! The trailing underscore means, as in PyTorch, that the first tensor is overwritten (every tensor
//! that shares its storage sees it). Scalars are f64 and rounded once to the dtype of the tensors;
//! the order of operations is that of `torch.optim` (single-tensor path, PyTorch 2.x). From these:
//!
//! | optimizer | made of |
//! |---|---|
//! | SGD | `axpby_(buf, mu, g, 1 - damp)`, `axpy_(theta, buf, -lr)` |
//! | Adam, AdamW | `scale_(theta, 1 - lr * wd)`, `adam_`: `ema_(m, g, b1)`, `ema_sq_(v, g, b2)` and `adam_update_` in one pass |
//! | amsgrad | ... `max_(vmax, v)`, `adam_update_(theta, m, vmax, ..)` |
//! | NAdam | ... `adam_update_` twice, with `g` and with `m` |
//! | RAdam | ... `adam_update_` when rectified, else `axpy_` |
//! | RMSprop | `ema_sq_`, `ema_(mean, g, a)`, `axpby_sq_(v - copy, 1, mean, -1)`, `adam_update_` |
//! | Adamax | `ema_`, `max_abs_(u, b2, g, eps)`, `div_update_` |
//! | Adagrad | `axpby_sq_(sum, 1, g, 1)`, `adam_update_` |
//!
//! Tensors are f32 or f64; the destination is contiguous; all have one shape and dtype.

mod adam;
mod cpu;
#[cfg(test)]
mod tests;

pub use adam::{AdamStep, adam_};

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use cpu::{AbsMax, Axpby, AxpbySquare, DivUpdate, InPlace, Lerp, Max, Scale, SqrtDivUpdate};

/// `dst = a * dst`.
///
/// # Errors
/// [`Error::Shape`] unless `dst` is contiguous f32 or f64. The same holds for all functions here.
pub fn scale_(dst: &Tensor, a: f64) -> Result<()> {
    check("scale_", dst, &[])?;
    Ok(dst.inplace_op1(&InPlace(Scale { a }))?)
}

/// `dst = dst + a * src`.
///
/// # Errors
/// [`Error::Shape`] if shapes or dtypes differ; [`Error::Candle`] if they share storage.
pub fn axpy_(dst: &Tensor, src: &Tensor, a: f64) -> Result<()> {
    binary("axpy_", dst, src, Axpby { a: 1.0, b: a })
}

/// `dst = a * dst + b * src`.
///
/// # Errors
/// As [`axpy_`].
pub fn axpby_(dst: &Tensor, a: f64, src: &Tensor, b: f64) -> Result<()> {
    binary("axpby_", dst, src, Axpby { a, b })
}

/// `dst = a * dst + b * src * src`.
///
/// # Errors
/// As [`axpy_`].
pub fn axpby_sq_(dst: &Tensor, a: f64, src: &Tensor, b: f64) -> Result<()> {
    binary("axpby_sq_", dst, src, AxpbySquare { a, b })
}

/// Moving average `dst = decay * dst + (1 - decay) * src`, computed as `torch.lerp_` does, so that
/// it is exact where `src == dst`, for `decay = 0` and for `decay = 1`.
///
/// # Errors
/// As [`axpy_`].
pub fn ema_(dst: &Tensor, src: &Tensor, decay: f64) -> Result<()> {
    binary("ema_", dst, src, Lerp { weight: 1.0 - decay })
}

/// Moving average of squares, `dst = decay * dst + (1 - decay) * src * src`.
///
/// # Errors
/// As [`axpy_`].
pub fn ema_sq_(dst: &Tensor, src: &Tensor, decay: f64) -> Result<()> {
    binary("ema_sq_", dst, src, AxpbySquare { a: decay, b: 1.0 - decay })
}

/// Elementwise `dst = max(dst, src)`; NaN in either stays NaN.
///
/// # Errors
/// As [`axpy_`].
pub fn max_(dst: &Tensor, src: &Tensor) -> Result<()> {
    binary("max_", dst, src, Max)
}

/// Adamax's norm, `dst = max(decay * dst, |src| + eps)`; NaN in either stays NaN.
///
/// # Errors
/// As [`axpy_`].
pub fn max_abs_(dst: &Tensor, decay: f64, src: &Tensor, eps: f64) -> Result<()> {
    binary("max_abs_", dst, src, AbsMax { decay, eps })
}

/// `theta = theta - lr * m / (sqrt(v) / bias2_sqrt + eps)`, the update of the Adam family.
///
/// Adam passes `lr / (1 - b1^t)` and `sqrt(1 - b2^t)`; a `bias2_sqrt` of one gives the update of
/// RMSprop and Adagrad.
///
/// # Errors
/// As [`axpy_`].
pub fn adam_update_(
    theta: &Tensor,
    m: &Tensor,
    v: &Tensor,
    lr: f64,
    bias2_sqrt: f64,
    eps: f64,
) -> Result<()> {
    let op = "adam_update_";
    check(op, theta, &[m, v])?;
    let (m, v) = (m.contiguous()?, v.contiguous()?);
    Ok(theta.inplace_op3(&m, &v, &InPlace(SqrtDivUpdate { lr, bias2_sqrt, eps }))?)
}

/// `theta = theta - lr * numerator / denominator`.
///
/// # Errors
/// As [`axpy_`].
pub fn div_update_(
    theta: &Tensor,
    numerator: &Tensor,
    denominator: &Tensor,
    lr: f64,
) -> Result<()> {
    check("div_update_", theta, &[numerator, denominator])?;
    let (numerator, denominator) = (numerator.contiguous()?, denominator.contiguous()?);
    Ok(theta.inplace_op3(&numerator, &denominator, &InPlace(DivUpdate { lr }))?)
}

/// Sum of the squares of all elements, accumulated in f64 in an order that does not depend on the
/// number of threads.
///
/// # Errors
/// [`Error::Shape`] unless `t` holds floats.
pub fn sum_squares(t: &Tensor) -> Result<f64> {
    cpu::sum_squares(&on_cpu("sum_squares", t)?)
}

/// Whether no element is infinite or NaN. Integers always are finite.
///
/// # Errors
/// Only if the tensor cannot be read.
pub fn all_finite(t: &Tensor) -> Result<bool> {
    if !t.dtype().is_float() {
        return Ok(true);
    }
    cpu::all_finite(&on_cpu("all_finite", t)?)
}

/// `t` as contiguous f32 or f64 in main memory.
fn on_cpu(op: &'static str, t: &Tensor) -> Result<Tensor> {
    let dtype = match t.dtype() {
        DType::F32 | DType::F64 => t.dtype(),
        DType::F16 | DType::BF16 => DType::F32,
        other => return Err(Error::shape(op, "a tensor of floats", other)),
    };
    Ok(t.detach().to_device(&Device::Cpu)?.to_dtype(dtype)?.contiguous()?)
}

fn binary(op: &'static str, dst: &Tensor, src: &Tensor, update: impl cpu::Update<1>) -> Result<()> {
    check(op, dst, &[src])?;
    Ok(dst.inplace_op2(&src.contiguous()?, &InPlace(update))?)
}

fn check(op: &'static str, dst: &Tensor, sources: &[&Tensor]) -> Result<()> {
    if !matches!(dst.dtype(), DType::F32 | DType::F64) {
        return Err(Error::shape(op, "a destination of f32 or f64", dst.dtype()));
    }
    if !dst.is_contiguous() {
        let expected = "a contiguous destination (a view cannot be updated in place)";
        return Err(Error::shape(op, expected, dst.layout()));
    }
    for src in sources {
        if src.dims() != dst.dims() || src.dtype() != dst.dtype() {
            let expected = format!("operands of {:?} {:?}", dst.dtype(), dst.dims());
            return Err(Error::shape(op, expected, (src.dtype(), src.dims())));
        }
    }
    Ok(())
}
