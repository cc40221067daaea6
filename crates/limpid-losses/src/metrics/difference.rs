//! Scores of the difference of two images, element by element.
//!
//! Each takes the prediction first and the reference second, fails on unequal shapes, and is NaN if
//! either image holds a NaN.

use super::image::{Image, any_nan, positive_range, same_shape};
use crate::sum::{mean, sum};
use limpid_kernels::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mean of a function of both samples.
fn mean_over(
    op: &'static str,
    pred: &Image,
    truth: &Image,
    f: impl Fn(f64, f64) -> f64 + Sync,
) -> Result<f64> {
    same_shape(op, pred, truth)?;
    Ok(mean(truth.len(), |i| f(pred.at(i), truth.at(i))))
}

fn square(pred: f64, truth: f64) -> f64 {
    (pred - truth) * (pred - truth)
}

/// Mean squared error.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; so for all below.
pub fn mse(pred: &Image, truth: &Image) -> Result<f64> {
    mean_over("mse", pred, truth, square)
}

/// Root of the mean squared error.
///
/// # Errors
/// As [`mse`].
pub fn rmse(pred: &Image, truth: &Image) -> Result<f64> {
    Ok(mean_over("rmse", pred, truth, square)?.sqrt())
}

/// Mean absolute error.
///
/// # Errors
/// As [`mse`].
pub fn mae(pred: &Image, truth: &Image) -> Result<f64> {
    mean_over("mae", pred, truth, |p, t| (p - t).abs())
}

/// Peak signal-to-noise ratio in dB: `10 log10(range² / mse)`; infinite for equal images.
///
/// The range is the span of valid values, never guessed: a score without it cannot be compared.
/// The mean over images of this number is not the PSNR of their pooled error.
///
/// # Errors
/// As [`mse`]; [`Error::Argument`] if the range is not finite and above 0.
pub fn psnr(pred: &Image, truth: &Image, range: f64) -> Result<f64> {
    const OP: &str = "psnr";
    let range = positive_range(OP, range)?;
    let error = mean_over(OP, pred, truth, square)?;
    Ok(10.0 * (range * range / error).log10())
}

/// What a root mean squared error is divided by; all are of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normaliser {
    /// Root mean square (the default of scikit-image).
    Euclidean,
    /// Largest minus smallest value (the UDPET challenge).
    MinMax,
    /// Mean.
    Mean,
    /// Root of the mean square plus 1e-8 (nucli-train): defined for an empty reference.
    Guarded,
}

/// Root mean squared error relative to the reference.
///
/// # Errors
/// As [`mse`].
pub fn nrmse(pred: &Image, truth: &Image, by: Normaliser) -> Result<f64> {
    let error = mean_over("nrmse", pred, truth, square)?.sqrt();
    let power = || mean(truth.len(), |i| truth.at(i) * truth.at(i));
    Ok(error
        / match by {
            Normaliser::Euclidean => power().sqrt(),
            Normaliser::Guarded => (power() + 1e-8).sqrt(),
            Normaliser::Mean => mean(truth.len(), |i| truth.at(i)),
            Normaliser::MinMax => {
                let (low, high) = truth.extremes();
                high - low
            }
        })
}

/// Normalised mean squared error `Σ d² / Σ truth²`.
///
/// # Errors
/// As [`mse`].
pub fn nmse(pred: &Image, truth: &Image) -> Result<f64> {
    let error = mean_over("nmse", pred, truth, square)?;
    Ok(error / mean(truth.len(), |i| truth.at(i) * truth.at(i)))
}

/// Normalised mean absolute error `Σ |d| / Σ |truth|`.
///
/// # Errors
/// As [`mse`].
pub fn nmae(pred: &Image, truth: &Image) -> Result<f64> {
    let error = mean_over("nmae", pred, truth, |p, t| (p - t).abs())?;
    Ok(error / mean(truth.len(), |i| truth.at(i).abs()))
}

/// Mean absolute percentage error, `100 mean(|d| / max(|truth|, 1e-7))`.
///
/// # Errors
/// As [`mse`].
pub fn mape(pred: &Image, truth: &Image) -> Result<f64> {
    if any_nan(pred, truth) {
        same_shape("mape", pred, truth)?;
        return Ok(f64::NAN);
    }
    mean_over("mape", pred, truth, |p, t| 100.0 * (p - t).abs() / t.abs().max(1e-7))
}

/// Pearson's correlation of the samples; NaN if either image is constant.
///
/// # Errors
/// As [`mse`].
pub fn pearson(pred: &Image, truth: &Image) -> Result<f64> {
    same_shape("pearson", pred, truth)?;
    let n = truth.len();
    let (p, t) = (mean(n, |i| pred.at(i)), mean(n, |i| truth.at(i)));
    let product = sum(n, |i| (pred.at(i) - p) * (truth.at(i) - t));
    let powers = sum(n, |i| (pred.at(i) - p).powi(2)) * sum(n, |i| (truth.at(i) - t).powi(2));
    Ok(product / powers.sqrt())
}

/// Normalised mutual information `(H(pred) + H(truth)) / H(pred, truth)`: 1 for independent images,
/// 2 for equal ones (Studholme et al. 1999), from a joint histogram of `bins` by `bins`.
///
/// Bin edges follow NumPy's `histogramdd`, so scikit-image gives the same number with 100 bins.
///
/// # Errors
/// As [`mse`]; [`Error::Argument`] for no bins.
pub fn normalized_mutual_information(pred: &Image, truth: &Image, bins: usize) -> Result<f64> {
    const OP: &str = "normalized_mutual_information";
    same_shape(OP, pred, truth)?;
    if bins == 0 {
        return Err(Error::argument(OP, "`bins` must be at least 1"));
    }
    if any_nan(pred, truth) {
        return Ok(f64::NAN);
    }
    let (pred_edges, truth_edges) = (edges(pred, bins), edges(truth, bins));
    let mut joint = vec![0u64; bins * bins];
    for i in 0..truth.len() {
        joint[bin(&pred_edges, pred.at(i)) * bins + bin(&truth_edges, truth.at(i))] += 1;
    }
    let rows = (0..bins).map(|r| joint[r * bins..(r + 1) * bins].iter().sum());
    let columns = (0..bins).map(|c| joint.iter().skip(c).step_by(bins).sum());
    let total = truth.len() as f64;
    let marginals = entropy(rows, total) + entropy(columns, total);
    Ok(marginals / entropy(joint.iter().copied(), total))
}

/// Edges of equal bins from the smallest to the largest sample, widened for a constant image.
fn edges(image: &Image, bins: usize) -> Vec<f64> {
    let (mut low, mut high) = image.extremes();
    if low == high {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let step = (high - low) / bins as f64;
    let mut edges: Vec<f64> = (0..=bins).map(|i| low + i as f64 * step).collect();
    edges[bins] = high;
    edges
}

/// The bin of a value; the last one includes its upper edge.
fn bin(edges: &[f64], value: f64) -> usize {
    edges.partition_point(|&edge| edge <= value).clamp(1, edges.len() - 1) - 1
}

fn entropy(counts: impl Iterator<Item = u64>, total: f64) -> f64 {
    counts
        .filter(|&count| count > 0)
        .map(|count| {
            let p = count as f64 / total;
            -p * p.ln()
        })
        .sum()
}
