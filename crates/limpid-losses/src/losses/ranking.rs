//! Losses of a network that predicts how wrong another one is: only the order counts (Yoo & Kweon
//! 2019, arXiv:1905.03677).
//!
//! Two things are compared. The one with the larger true error shall have a prediction that is
//! larger by the margin; the cost is what is missing. Equal errors count as the first being the
//! smaller one, as in EMDiffuse. The true errors receive no gradient.

use super::operand::prepare;
use super::reduce::{Kernel, sample_means};
use candle_core::Tensor;
use limpid_kernels::{Error, Result, relu};

/// The cost of each pair of samples: the first with the last, the second with the last but one …;
/// a sample counts by its mean.
///
/// # Shapes
/// `predicted [N, ..]`, `error [N, ..]` with even `N` → `[N/2]`
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the number of samples is odd.
pub fn sample_ranking_pairs(predicted: &Tensor, error: &Tensor, margin: f64) -> Result<Tensor> {
    const OP: &str = "sample_ranking";
    prepare(OP, [predicted, error])?;
    let mean = |t: &Tensor| sample_means(OP, t, Kernel::plain("identity"), |[x]| (x, [1.0]));
    let samples: Vec<u32> = (0..predicted.dims()[0] as u32).collect();
    pairs(OP, &mean(predicted)?, &mean(&error.detach())?, &samples, 0, margin)
}

/// Mean of [`sample_ranking_pairs`].
///
/// # Errors
/// As [`sample_ranking_pairs`].
pub fn sample_ranking(predicted: &Tensor, error: &Tensor, margin: f64) -> Result<Tensor> {
    Ok(sample_ranking_pairs(predicted, error, margin)?.mean_all()?)
}

/// The cost of each pair of elements within the samples: `order` holds the indices of the elements
/// of a sample once each, and its first is compared with its last, its second with its last but one
/// … Draw another order at each step.
///
/// # Shapes
/// `predicted [N, ..]`, `error [N, ..]` with an even number `P` of elements per sample → `[N, P/2]`
///
/// # Errors
/// [`Error::Shape`] if the shapes differ, or the number of elements is odd or not that of `order`;
/// [`Error::Argument`] if `order` does not hold each index once.
pub fn pixel_ranking_pairs(
    predicted: &Tensor,
    error: &Tensor,
    order: &[usize],
    margin: f64,
) -> Result<Tensor> {
    const OP: &str = "pixel_ranking";
    let [predicted, error] = prepare(OP, [predicted, error])?;
    let samples = predicted.dims()[0];
    let elements = predicted.elem_count() / samples;
    if order.len() != elements {
        return Err(Error::shape(OP, format!("an order of {elements} elements"), order.len()));
    }
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if sorted.iter().enumerate().any(|(i, &index)| i != index) {
        return Err(Error::argument(OP, "`order` must hold the index of each element once"));
    }
    let order: Vec<u32> = order.iter().map(|&i| i as u32).collect();
    let rows = |t: &Tensor| t.reshape((samples, elements));
    pairs(OP, &rows(&predicted)?, &rows(&error.detach())?, &order, 1, margin)
}

/// Mean of [`pixel_ranking_pairs`].
///
/// # Errors
/// As [`pixel_ranking_pairs`].
pub fn pixel_ranking(
    predicted: &Tensor,
    error: &Tensor,
    order: &[usize],
    margin: f64,
) -> Result<Tensor> {
    Ok(pixel_ranking_pairs(predicted, error, order, margin)?.mean_all()?)
}

/// Compares along a dimension, in an order, the first with the last and so on to the middle.
fn pairs(
    op: &'static str,
    predicted: &Tensor,
    error: &Tensor,
    order: &[u32],
    dim: usize,
    margin: f64,
) -> Result<Tensor> {
    if order.len() % 2 == 1 {
        return Err(Error::shape(op, "an even number to be compared in pairs", order.len()));
    }
    if !margin.is_finite() {
        return Err(Error::argument(op, format!("`margin` must be finite, got {margin}")));
    }
    let half = order.len() / 2;
    let index = |order: Vec<u32>| Tensor::from_vec(order, half, predicted.device());
    let first = index(order[..half].to_vec())?;
    let second = index(order[half..].iter().rev().copied().collect())?;
    let difference = |t: &Tensor| t.index_select(&first, dim)? - t.index_select(&second, dim)?;
    let larger = difference(error)?.gt(0.0)?.to_dtype(predicted.dtype())?;
    let sign = larger.affine(2.0, -1.0)?;
    let missing = (difference(predicted)? * sign)?.affine(-1.0, margin)?;
    // max(x, 0) whose derivative at 0 is 1, as that of PyTorch's clamp
    Ok((&missing + relu(&missing.neg()?)?)?)
}
