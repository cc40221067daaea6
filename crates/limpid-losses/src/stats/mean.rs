//! Tests and intervals on means, under normal theory.

use super::distribution::{student_above, student_quantile};
use super::{TestResult, average, check, differences, variance};
use limpid_kernels::{Error, Result};
use serde::Serialize;

/// A confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// Student's paired t test that the mean of `a - b` is not zero, two-sided.
///
/// # Errors
/// [`Error::Argument`] if the lengths differ, there are fewer than two pairs, a value is not finite,
/// or all differences are equal.
pub fn paired_t_test(a: &[f64], b: &[f64]) -> Result<TestResult> {
    const OP: &str = "paired_t_test";
    let d = differences(OP, a, b, 2)?;
    let error = (variance(&d, 1) / d.len() as f64).sqrt();
    Ok(two_sided(nonzero(OP, average(&d), error)?, (d.len() - 1) as f64))
}

/// Welch's t test that two independent groups differ in mean, two-sided, variances free.
///
/// # Errors
/// [`Error::Argument`] if a group has fewer than two values, a value is not finite, or neither group
/// varies.
pub fn welch_t_test(a: &[f64], b: &[f64]) -> Result<TestResult> {
    const OP: &str = "welch_t_test";
    check(OP, a, 2)?;
    check(OP, b, 2)?;
    let (ea, eb) = (variance(a, 1) / a.len() as f64, variance(b, 1) / b.len() as f64);
    let t = nonzero(OP, average(a) - average(b), (ea + eb).sqrt())?;
    let freedom =
        (ea + eb).powi(2) / (ea * ea / (a.len() - 1) as f64 + eb * eb / (b.len() - 1) as f64);
    Ok(two_sided(t, freedom))
}

/// Cohen's d of paired differences: their mean over their standard deviation.
///
/// # Errors
/// As [`paired_t_test`].
pub fn cohen_dz(a: &[f64], b: &[f64]) -> Result<f64> {
    const OP: &str = "cohen_dz";
    let d = differences(OP, a, b, 2)?;
    nonzero(OP, average(&d), variance(&d, 1).sqrt())
}

/// Confidence interval of a mean from Student's t; `level` such as 0.95.
///
/// # Errors
/// [`Error::Argument`] if there are fewer than two values, one is not finite, or the level is not
/// between 0 and 1.
pub fn mean_interval(sample: &[f64], level: f64) -> Result<Interval> {
    const OP: &str = "mean_interval";
    check(OP, sample, 2)?;
    if !(level > 0.0 && level < 1.0) {
        return Err(Error::argument(
            OP,
            format!("the level must lie between 0 and 1, got {level}"),
        ));
    }
    let error = (variance(sample, 1) / sample.len() as f64).sqrt();
    let reach = error * student_quantile(0.5 + 0.5 * level, (sample.len() - 1) as f64);
    let mean = average(sample);
    Ok(Interval { lower: mean - reach, upper: mean + reach })
}

fn two_sided(t: f64, freedom: f64) -> TestResult {
    TestResult { statistic: t, p_value: 2.0 * student_above(t.abs(), freedom) }
}

fn nonzero(op: &'static str, mean: f64, deviation: f64) -> Result<f64> {
    if deviation == 0.0 {
        return Err(Error::argument(op, "the values do not vary"));
    }
    Ok(mean / deviation)
}
