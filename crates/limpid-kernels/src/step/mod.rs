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
//! Tensors are f32 or f64; the destination is contiguous; all have one shape and dtype. Whoever
//! updates many tensors collects that in [`Updates`], for the sake of GPUs.

mod adam;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
mod sums;
#[cfg(test)]
mod tests;
mod updates;

pub use adam::AdamStep;
pub use sums::{Gate, Judgement, Look, all_finite, first_nonfinite, sum_squares, sum_squares_all};
pub use updates::Updates;

use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Makes one update.
fn once(f: impl FnOnce(&mut Updates) -> Result<()>) -> Result<()> {
    let mut updates = Updates::default();
    f(&mut updates)?;
    updates.run()
}

/// `dst = a * dst`.
///
/// # Errors
/// [`Error::Shape`] unless `dst` is contiguous f32 or f64. The same holds for all functions here.
pub fn scale_(dst: &Tensor, a: f64) -> Result<()> {
    once(|updates| updates.scale_(dst, a))
}

/// `dst = dst + a * src`.
///
/// # Errors
/// [`Error::Shape`] if shapes or dtypes differ; [`Error::Candle`] or, on a GPU,
/// [`Error::Shape`] if they share storage.
pub fn axpy_(dst: &Tensor, src: &Tensor, a: f64) -> Result<()> {
    once(|updates| updates.axpy_(dst, src, a))
}

/// `dst = a * dst + b * src`.
///
/// # Errors
/// As [`axpy_`].
pub fn axpby_(dst: &Tensor, a: f64, src: &Tensor, b: f64) -> Result<()> {
    once(|updates| updates.axpby_(dst, a, src, b))
}

/// `dst = a * dst + b * src * src`.
///
/// # Errors
/// As [`axpy_`].
pub fn axpby_sq_(dst: &Tensor, a: f64, src: &Tensor, b: f64) -> Result<()> {
    once(|updates| updates.axpby_sq_(dst, a, src, b))
}

/// Moving average `dst = decay * dst + (1 - decay) * src`, computed as `torch.lerp_` does, so that
/// it is exact where `src == dst`, for `decay = 0` and for `decay = 1`.
///
/// # Errors
/// As [`axpy_`].
pub fn ema_(dst: &Tensor, src: &Tensor, decay: f64) -> Result<()> {
    once(|updates| updates.ema_(dst, src, decay))
}

/// Moving average of squares, `dst = decay * dst + (1 - decay) * src * src`.
///
/// # Errors
/// As [`axpy_`].
pub fn ema_sq_(dst: &Tensor, src: &Tensor, decay: f64) -> Result<()> {
    once(|updates| updates.ema_sq_(dst, src, decay))
}

/// Elementwise `dst = max(dst, src)`; NaN in either stays NaN.
///
/// # Errors
/// As [`axpy_`].
pub fn max_(dst: &Tensor, src: &Tensor) -> Result<()> {
    once(|updates| updates.max_(dst, src))
}

/// Adamax's norm, `dst = max(decay * dst, |src| + eps)`; NaN in either stays NaN.
///
/// # Errors
/// As [`axpy_`].
pub fn max_abs_(dst: &Tensor, decay: f64, src: &Tensor, eps: f64) -> Result<()> {
    once(|updates| updates.max_abs_(dst, decay, src, eps))
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
    once(|updates| updates.adam_update_(theta, m, v, lr, bias2_sqrt, eps))
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
    once(|updates| updates.div_update_(theta, numerator, denominator, lr))
}

/// `ema_(m, g)`, `ema_sq_(v, g)` and `adam_update_(theta, m, v)` in one pass, with the same bits.
///
/// # Errors
/// [`Error::Shape`] unless all are of one shape and float type, contiguous but for `g`, and do not
/// share memory.
pub fn adam_(theta: &Tensor, m: &Tensor, v: &Tensor, g: &Tensor, step: AdamStep) -> Result<()> {
    once(|updates| updates.adam_(theta, m, v, g, step))
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
