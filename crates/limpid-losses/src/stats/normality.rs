//! Shapiro and Wilk's test of normality, as approximated by Royston (AS R94, Applied Statistics
//! 1995).

use super::distribution::{normal_above, normal_quantile};
use super::{TestResult, average, check};
use limpid_kernels::{Error, Result};

/// Shapiro and Wilk's W, near 1 for a normal sample, and its p-value.
///
/// # Errors
/// [`Error::Argument`] for fewer than 3 values, values that are not finite, or all equal.
pub fn shapiro_wilk(sample: &[f64]) -> Result<TestResult> {
    const OP: &str = "shapiro_wilk";
    check(OP, sample, 3)?;
    let mut x = sample.to_vec();
    x.sort_by(f64::total_cmp);
    let n = x.len();
    if x[0] == x[n - 1] {
        return Err(Error::argument(OP, "the values do not vary"));
    }
    let mean = average(&x);
    let squares: f64 = x.iter().map(|v| (v - mean) * (v - mean)).sum();
    let contrast: f64 = weights(n).iter().enumerate().map(|(i, a)| a * (x[n - 1 - i] - x[i])).sum();
    let w = (contrast * contrast / squares).min(1.0);
    Ok(TestResult { statistic: w, p_value: p_value(w, n) })
}

/// Weights of the differences between the `i`-th largest and the `i`-th smallest value.
fn weights(n: usize) -> Vec<f64> {
    if n == 3 {
        return vec![0.5f64.sqrt()];
    }
    let m: Vec<f64> =
        (0..n / 2).map(|i| -normal_quantile((i as f64 + 0.625) / (n as f64 + 0.25))).collect();
    let norm: f64 = 2.0 * m.iter().map(|v| v * v).sum::<f64>();
    let u = 1.0 / (n as f64).sqrt();
    let corrections = [
        polynomial(&[0.0, 0.221157, -0.147981, -2.07119, 4.434685, -2.706056], u),
        polynomial(&[0.0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633], u),
    ];
    // the outermost one or two weights are corrected, the others rescaled to unit length
    let special = if n > 5 { 2 } else { 1 };
    let outer: Vec<f64> = (0..special).map(|i| m[i] / norm.sqrt() + corrections[i]).collect();
    let taken: f64 = m[..special].iter().map(|v| 2.0 * v * v).sum();
    let given: f64 = outer.iter().map(|v| 2.0 * v * v).sum();
    let scale = ((norm - taken) / (1.0 - given)).sqrt();
    outer.iter().copied().chain(m[special..].iter().map(|v| v / scale)).collect()
}

fn p_value(w: f64, n: usize) -> f64 {
    if n == 3 {
        let p = 6.0 / std::f64::consts::PI * (w.sqrt().asin() - 0.75f64.sqrt().asin());
        return p.max(0.0);
    }
    let (n, log_n) = (n as f64, (n as f64).ln());
    let y = (1.0 - w).ln();
    let (y, mean, deviation) = if n <= 11.0 {
        let gamma = polynomial(&[-2.273, 0.459], n);
        if y >= gamma {
            return 0.0;
        }
        let mean = polynomial(&[0.544, -0.39978, 0.025054, -6.714e-4], n);
        (-(gamma - y).ln(), mean, polynomial(&[1.3822, -0.77857, 0.062767, -0.0020322], n).exp())
    } else {
        let mean = polynomial(&[-1.5861, -0.31082, -0.083751, 0.0038915], log_n);
        (y, mean, polynomial(&[-0.4803, -0.082676, 0.0030302], log_n).exp())
    };
    normal_above((y - mean) / deviation)
}

/// A polynomial by rising powers.
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |value, c| value * x + c)
}
