//! Corrections of p-values for many comparisons. Both keep the order of their input.

use limpid_kernels::{Error, Result};

/// Holm's step-down correction: controls the chance of any false claim.
///
/// # Errors
/// [`Error::Argument`] if a p-value is not in `0..=1`.
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>> {
    let order = ascending("holm", p_values)?;
    let n = p_values.len();
    let mut adjusted = vec![0.0; n];
    let mut largest = 0f64;
    for (i, &at) in order.iter().enumerate() {
        largest = largest.max(((n - i) as f64 * p_values[at]).min(1.0));
        adjusted[at] = largest;
    }
    Ok(adjusted)
}

/// Benjamini and Hochberg's step-up correction: controls the share of false claims.
///
/// # Errors
/// As [`holm`].
pub fn benjamini_hochberg(p_values: &[f64]) -> Result<Vec<f64>> {
    let order = ascending("benjamini_hochberg", p_values)?;
    let n = p_values.len() as f64;
    let mut adjusted = vec![0.0; p_values.len()];
    let mut smallest = 1f64;
    for (i, &at) in order.iter().enumerate().rev() {
        smallest = smallest.min(n / (i as f64 + 1.0) * p_values[at]);
        adjusted[at] = smallest;
    }
    Ok(adjusted)
}

fn ascending(op: &'static str, p_values: &[f64]) -> Result<Vec<usize>> {
    if let Some(bad) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(Error::argument(op, format!("p-values must lie in 0..=1, got {bad}")));
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    Ok(order)
}
