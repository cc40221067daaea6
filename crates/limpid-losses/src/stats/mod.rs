//! What a table of scores proves: paired tests, agreement, and corrections for many comparisons.
//!
//! Tests follow `scipy.stats` in their choices (exact or asymptotic, ties, zeros), so a p-value here
//! is the p-value there. Samples with a NaN or an infinity are refused by name: a failed case must be
//! explained, not averaged away.

mod agreement;
mod calibration;
mod deviation;
mod distribution;
mod mean;
mod multiple;
mod normality;
mod rank;

pub use agreement::{
    BlandAltman, bland_altman, concordance, intraclass_correlation, pearson, spearman,
};
pub use calibration::{
    Calibration, bentkus_log_tail, calibrate, hoeffding_log_tail, miss_rate, risk_upper_bound,
    widen,
};
pub use deviation::{
    coverage_curve, deviation_factor, error_by_deviation, expected_psnr, normal_interval,
};
pub use mean::{Interval, cohen_dz, mean_interval, paired_t_test, welch_t_test};
pub use multiple::{benjamini_hochberg, holm};
pub use normality::shapiro_wilk;
pub use rank::{Zeros, mann_whitney, non_inferiority, superiority, wilcoxon};

use limpid_kernels::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The claim that a test weighs against "no difference".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Alternative {
    /// The samples differ.
    TwoSided,
    /// The first sample, or the difference, is larger.
    Greater,
    /// The first sample, or the difference, is smaller.
    Less,
}

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TestResult {
    /// The test statistic.
    pub statistic: f64,
    /// Probability of a statistic at least as extreme if there is no difference.
    pub p_value: f64,
}

/// Refuses samples that are too small or not finite.
fn check(op: &'static str, sample: &[f64], smallest: usize) -> Result<()> {
    if sample.len() < smallest {
        return Err(Error::argument(
            op,
            format!("needs at least {smallest} values, got {}", sample.len()),
        ));
    }
    match sample.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Error::argument(
            op,
            format!("value {} is {}; leave the case out or explain it", i + 1, sample[i]),
        )),
        None => Ok(()),
    }
}

/// `a - b`, after checking that the samples pair up.
fn differences(op: &'static str, a: &[f64], b: &[f64], smallest: usize) -> Result<Vec<f64>> {
    if a.len() != b.len() {
        return Err(Error::argument(
            op,
            format!("paired samples must have one length, got {} and {}", a.len(), b.len()),
        ));
    }
    check(op, a, smallest)?;
    check(op, b, smallest)?;
    Ok(a.iter().zip(b).map(|(a, b)| a - b).collect())
}

fn average(sample: &[f64]) -> f64 {
    sample.iter().sum::<f64>() / sample.len() as f64
}

/// Variance with `ddof` degrees of freedom taken off.
fn variance(sample: &[f64], ddof: usize) -> f64 {
    let mean = average(sample);
    let squares: f64 = sample.iter().map(|v| (v - mean) * (v - mean)).sum();
    squares / (sample.len() - ddof) as f64
}

#[cfg(test)]
mod tests;
