//! How well two measurements of the same cases agree.

use super::rank::midranks;
use super::{average, differences, variance};
use limpid_kernels::{Error, Result};
use serde::Serialize;

/// Bland and Altman's summary of paired differences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BlandAltman {
    /// Mean difference.
    pub bias: f64,
    /// Lower limit of agreement, bias minus 1.96 standard deviations.
    pub lower: f64,
    /// Upper limit of agreement, bias plus 1.96 standard deviations.
    pub upper: f64,
}

/// Bias and 95 % limits of agreement of `a - b`; the standard deviation has `ddof` 1 in the usual
/// form, 0 in nucli-train.
///
/// # Errors
/// [`Error::Argument`] if the lengths differ, there are fewer than two pairs, a value is not finite,
/// or `ddof` is above 1; so for all below.
pub fn bland_altman(a: &[f64], b: &[f64], ddof: usize) -> Result<BlandAltman> {
    const OP: &str = "bland_altman";
    let d = differences(OP, a, b, 2)?;
    if ddof > 1 {
        return Err(Error::argument(OP, format!("`ddof` must be 0 or 1, got {ddof}")));
    }
    let (bias, reach) = (average(&d), 1.96 * variance(&d, ddof).sqrt());
    Ok(BlandAltman { bias, lower: bias - reach, upper: bias + reach })
}

/// Pearson's correlation; NaN if a sample does not vary.
///
/// # Errors
/// As [`bland_altman`].
pub fn pearson(a: &[f64], b: &[f64]) -> Result<f64> {
    differences("pearson", a, b, 2)?;
    Ok(covariance(a, b) / (variance(a, 0) * variance(b, 0)).sqrt())
}

/// Spearman's rank correlation; NaN if a sample does not vary.
///
/// # Errors
/// As [`bland_altman`].
pub fn spearman(a: &[f64], b: &[f64]) -> Result<f64> {
    differences("spearman", a, b, 2)?;
    pearson(&midranks(a).0, &midranks(b).0)
}

/// Lin's concordance correlation: Pearson's, reduced by any shift or scale between the samples.
///
/// # Errors
/// As [`bland_altman`].
pub fn concordance(a: &[f64], b: &[f64]) -> Result<f64> {
    differences("concordance", a, b, 2)?;
    let shift = average(a) - average(b);
    Ok(2.0 * covariance(a, b) / (variance(a, 0) + variance(b, 0) + shift * shift))
}

/// Intraclass correlation ICC(2,1) of two raters: two-way random effects, absolute agreement, single
/// measurement (Shrout and Fleiss 1979).
///
/// # Errors
/// As [`bland_altman`].
pub fn intraclass_correlation(a: &[f64], b: &[f64]) -> Result<f64> {
    differences("intraclass_correlation", a, b, 2)?;
    let n = a.len() as f64;
    let means: Vec<f64> = a.iter().zip(b).map(|(a, b)| 0.5 * (a + b)).collect();
    let half: Vec<f64> = a.iter().zip(b).map(|(a, b)| 0.5 * (a - b)).collect();
    let shift = average(&half);
    // mean squares between cases, between raters, and of the residual
    let cases = 2.0 * variance(&means, 1);
    let raters = 2.0 * n * shift * shift;
    let residual = 2.0 * variance(&half, 1);
    Ok((cases - residual) / (cases + residual + 2.0 / n * (raters - residual)))
}

fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let (ma, mb) = (average(a), average(b));
    a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum::<f64>() / a.len() as f64
}
