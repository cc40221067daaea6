//! Losses of complex numbers, which are pairs of real and imaginary part along the last axis.

use super::pixel::sign;
use super::reduce::{mean_of, mean_of2};
use candle_core::{D, Tensor};
use limpid_kernels::{Error, Result};

/// The difference, after checking that both are complex.
fn difference(op: &'static str, pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    if pred.dims().last() != Some(&2) || pred.dims() != target.dims() {
        let expected = format!("[N, .., 2] as the target {:?}", target.dims());
        return Err(Error::shape(op, expected, pred.dims()));
    }
    Ok((pred - target)?)
}

/// Mean absolute value of the difference, as `torch.nn.L1Loss` of complex tensors. Its gradient at
/// zero is zero.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the last axis is not two long; so for all below.
pub fn complex_l1(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    let d = difference("complex_l1", pred, target)?;
    let (re, im) = (d.narrow(D::Minus1, 0, 1)?, d.narrow(D::Minus1, 1, 1)?);
    mean_of2("complex_l1", [&re, &im], |[re, im]| {
        let size = re.hypot(im);
        (size, if size > 0.0 { [re / size, im / size] } else { [0.0 * size; 2] })
    })
}

/// Mean of `|real part| + |imaginary part|` of the difference.
///
/// # Errors
/// As [`complex_l1`].
pub fn complex_l1_parts(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    let d = difference("complex_l1_parts", pred, target)?;
    Ok((mean_of("complex_l1_parts", &d, |[x]| (x.abs(), [sign(x)]))? * 2.0)?)
}

/// Mean squared absolute value of the difference.
///
/// # Errors
/// As [`complex_l1`].
pub fn complex_l2(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    let d = difference("complex_l2", pred, target)?;
    Ok((mean_of("complex_l2", &d, |[x]| (x * x, [2.0 * x]))? * 2.0)?)
}
