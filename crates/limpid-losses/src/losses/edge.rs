//! Losses on spatial differences: total variation of one image, and gradients of two compared.
//!
//! All take `[N, C, spatial..]` with one to three spatial axes.

use super::linear::{correlate_same, spatial_rank};
use super::pixel::{l1, positive};
use super::reduce::{Kernel, mean_of};
use candle_core::Tensor;
use limpid_kernels::{Error, Result};

/// The two halves whose difference is the forward difference along an axis.
fn neighbours(op: &'static str, x: &Tensor, axis: usize) -> Result<(Tensor, Tensor)> {
    let n = x.dim(axis)?;
    if n < 2 {
        return Err(Error::shape(op, "at least 2 samples along every spatial axis", x.dims()));
    }
    Ok((x.narrow(axis, 1, n - 1)?, x.narrow(axis, 0, n - 1)?))
}

/// Adds one term per spatial axis.
fn over_axes(
    op: &'static str,
    x: &Tensor,
    term: impl Fn(usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let rank = spatial_rank(op, x)?;
    let mut total = term(2)?;
    for axis in 3..2 + rank {
        total = (total + term(axis)?)?;
    }
    Ok(total)
}

/// Anisotropic total variation: the sum over axes of the mean absolute forward difference.
///
/// # Errors
/// [`Error::Shape`] without spatial axes or with fewer than two samples along one.
pub fn tv_anisotropic(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "tv_anisotropic";
    over_axes(OP, x, |axis| {
        let (next, here) = neighbours(OP, x, axis)?;
        l1(&next, &here)
    })
}

/// Isotropic total variation: mean of `sqrt(Σ_axis difference² + eps)` on the grid where all forward
/// differences exist.
///
/// # Errors
/// As [`tv_anisotropic`]; [`Error::Argument`] if `eps` is not above 0.
pub fn tv_isotropic(x: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "tv_isotropic";
    let eps = positive(OP, "eps", eps)?;
    let rank = spatial_rank(OP, x)?;
    let squares = over_axes(OP, x, |axis| {
        let (next, here) = neighbours(OP, x, axis)?;
        let mut difference = (next - here)?;
        for other in (2..2 + rank).filter(|&other| other != axis) {
            difference = difference.narrow(other, 0, x.dim(other)?.saturating_sub(1))?;
        }
        Ok(difference.sqr()?)
    })?;
    mean_of(OP, &squares, Kernel("root_of_sum", [eps, 0.0]), move |[s]| {
        let root = (s + eps).sqrt();
        (root, [0.5 / root])
    })
}

/// L1 between the forward differences of two images, summed over axes (gradient difference loss).
///
/// # Errors
/// As [`tv_anisotropic`], and if the shapes differ.
pub fn gradient_l1(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "gradient_l1";
    super::operand::prepare(OP, [pred, target])?;
    over_axes(OP, pred, |axis| {
        let (pred_next, pred_here) = neighbours(OP, pred, axis)?;
        let (target_next, target_here) = neighbours(OP, target, axis)?;
        l1(&(pred_next - pred_here)?, &(target_next - target_here)?)
    })
}

/// The mean over channels, `[N, C, ..]` → `[N, 1, ..]`: the grey image on which NectarGAN compares
/// edges.
///
/// # Errors
/// [`Error::Shape`] without spatial axes.
pub fn grey(x: &Tensor) -> Result<Tensor> {
    spatial_rank("grey", x)?;
    Ok(x.mean_keepdim(1)?)
}

/// L1 between the Laplacians of two images: neighbours along the axes less the centre as often as
/// there are neighbours, zeros outside.
///
/// # Errors
/// [`Error::Shape`] without spatial axes or if the shapes differ.
pub fn laplacian_l1(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "laplacian_l1";
    let [pred, target] = super::operand::prepare(OP, [pred, target])?;
    let rank = spatial_rank(OP, &pred)?;
    let laplacian = |x: &Tensor| {
        over_axes(OP, x, |axis| {
            let mut taps = vec![vec![1.0]; rank];
            taps[axis - 2] = vec![1.0, -2.0, 1.0];
            correlate_same(OP, x, taps)
        })
    };
    l1(&laplacian(&pred)?, &laplacian(&target)?)
}

/// L1 between the Sobel edge magnitudes `sqrt(Σ_axis g² + eps)` of two images, zeros outside.
///
/// # Errors
/// As [`gradient_l1`]; [`Error::Argument`] if `eps` is not above 0.
pub fn sobel_l1(pred: &Tensor, target: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "sobel_l1";
    let eps = positive(OP, "eps", eps)?;
    super::operand::prepare(OP, [pred, target])?;
    let rank = spatial_rank(OP, pred)?;
    let magnitude = |x: &Tensor| -> Result<Tensor> {
        let squares = over_axes(OP, x, |axis| {
            let mut taps = vec![vec![1.0, 2.0, 1.0]; rank];
            taps[axis - 2] = vec![-1.0, 0.0, 1.0];
            Ok(correlate_same(OP, x, taps)?.sqr()?)
        })?;
        Ok((squares + eps)?.sqrt()?)
    };
    l1(&magnitude(pred)?, &magnitude(target)?)
}
