//! Tests on ranks: Wilcoxon's signed-rank test for pairs, Mann and Whitney's for two groups.

use super::distribution::normal_above;
use super::{Alternative, TestResult, check, differences};
use limpid_kernels::{Error, Result};

/// What the signed-rank test does with differences of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// Leaves them out before ranking (Wilcoxon).
    Drop,
    /// Ranks them, then leaves them out of the sums (Pratt).
    Pratt,
}

/// Wilcoxon's signed-rank test that paired differences are symmetric about zero.
///
/// The p-value is exact up to 50 differences without ties and zeros and up to 13 with them, and
/// from the normal approximation with tie correction and without continuity correction beyond, as
/// `scipy.stats.wilcoxon(method="auto")`. The statistic is the smaller rank sum for
/// [`Alternative::TwoSided`] and the sum of positive ranks otherwise.
///
/// # Errors
/// [`Error::Argument`] if a difference is not finite, or none differs from zero.
pub fn wilcoxon(d: &[f64], alternative: Alternative, zeros: Zeros) -> Result<TestResult> {
    const OP: &str = "wilcoxon";
    check(OP, d, 1)?;
    let kept: Vec<f64> = d.iter().copied().filter(|&v| zeros == Zeros::Pratt || v != 0.0).collect();
    let magnitudes: Vec<f64> = kept.iter().map(|v| v.abs()).collect();
    let (ranks, _) = midranks(&magnitudes);
    // rank and sign of the differences that count
    let signed: Vec<(f64, bool)> = kept
        .iter()
        .zip(&ranks)
        .filter(|(v, _)| **v != 0.0)
        .map(|(v, &rank)| (rank, *v > 0.0))
        .collect();
    if signed.is_empty() {
        return Err(Error::argument(OP, "all differences are zero"));
    }
    let total: f64 = signed.iter().map(|(rank, _)| rank).sum();
    let positive: f64 = signed.iter().filter(|(_, up)| *up).map(|(rank, _)| rank).sum();
    let nonzero: Vec<f64> = magnitudes.iter().copied().filter(|&v| v != 0.0).collect();
    let tied = midranks(&nonzero).1;
    let untied = tied == 0.0 && nonzero.len() == d.len();
    let (below, above) = if (untied && d.len() <= 50) || d.len() <= 13 {
        exact_tails(&signed, positive)
    } else {
        // sums over ranks 1..n, less those of the zeros that Pratt ranked first
        let zeros = (kept.len() - nonzero.len()) as f64;
        let n = kept.len() as f64;
        let sum = |n: f64| n * (n + 1.0);
        let expected = 0.25 * (sum(n) - sum(zeros));
        let squares = sum(n) * (2.0 * n + 1.0) - sum(zeros) * (2.0 * zeros + 1.0);
        let z = (positive - expected) / ((squares - 0.5 * tied) / 24.0).sqrt();
        (normal_above(-z), normal_above(z))
    };
    let statistic = match alternative {
        Alternative::TwoSided => positive.min(total - positive),
        _ => positive,
    };
    Ok(TestResult { statistic, p_value: choose(alternative, below, above) })
}

/// One-sided signed-rank test that `variant` scores higher than `control`, case by case.
///
/// # Errors
/// As [`wilcoxon`]; [`Error::Argument`] if the lengths differ.
pub fn superiority(variant: &[f64], control: &[f64]) -> Result<TestResult> {
    let d = differences("superiority", variant, control, 1)?;
    wilcoxon(&d, Alternative::Greater, Zeros::Drop)
}

/// One-sided signed-rank test that `variant` scores less than `margin` below `control`.
///
/// For scores where less is better, negate both samples.
///
/// # Errors
/// As [`superiority`]; [`Error::Argument`] if the margin is not finite and above 0.
pub fn non_inferiority(variant: &[f64], control: &[f64], margin: f64) -> Result<TestResult> {
    const OP: &str = "non_inferiority";
    if !margin.is_finite() || margin <= 0.0 {
        return Err(Error::argument(OP, format!("the margin must be above 0, got {margin}")));
    }
    let mut d = differences(OP, variant, control, 1)?;
    d.iter_mut().for_each(|v| *v += margin);
    wilcoxon(&d, Alternative::Greater, Zeros::Drop)
}

/// Mann and Whitney's U test of two independent groups; the statistic is U of the first.
///
/// The p-value is exact if a group has at most 8 values and none are tied, and from the normal
/// approximation with tie and continuity correction otherwise, as
/// `scipy.stats.mannwhitneyu(method="auto")`.
///
/// # Errors
/// [`Error::Argument`] if a group is empty or a value is not finite, or all values are equal.
pub fn mann_whitney(a: &[f64], b: &[f64], alternative: Alternative) -> Result<TestResult> {
    const OP: &str = "mann_whitney";
    check(OP, a, 1)?;
    check(OP, b, 1)?;
    let (ranks, tied) = midranks(&[a, b].concat());
    let (na, nb) = (a.len() as f64, b.len() as f64);
    let u = ranks[..a.len()].iter().sum::<f64>() - 0.5 * na * (na + 1.0);
    if tied == 0.0 && a.len().min(b.len()) <= 8 {
        let counts = u_distribution(a.len().min(b.len()), a.len().max(b.len()));
        let all: f64 = counts.iter().sum();
        let at = u as usize;
        let below = counts[..=at].iter().sum::<f64>() / all;
        let above = counts[at..].iter().sum::<f64>() / all;
        return Ok(TestResult { statistic: u, p_value: choose(alternative, below, above) });
    }
    let n = na + nb;
    let variance = na * nb / 12.0 * (n + 1.0 - tied / (n * (n - 1.0)));
    if variance <= 0.0 {
        return Err(Error::argument(OP, "all values are equal"));
    }
    let excess = u - 0.5 * na * nb;
    let above = normal_above((excess - 0.5) / variance.sqrt());
    let below = normal_above((-excess - 0.5) / variance.sqrt());
    Ok(TestResult { statistic: u, p_value: choose(alternative, below, above) })
}

/// The p-value from the probabilities of a statistic at most and at least as large as observed.
fn choose(alternative: Alternative, below: f64, above: f64) -> f64 {
    match alternative {
        Alternative::TwoSided => (2.0 * below.min(above)).min(1.0),
        Alternative::Greater => above.min(1.0),
        Alternative::Less => below.min(1.0),
    }
}

/// Ranks from 1, ties sharing their mean, and `Σ (t³ - t)` over groups of `t` tied values.
pub(super) fn midranks(values: &[f64]) -> (Vec<f64>, f64) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let (mut before, mut tied) = (0.0, 0.0);
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let t = group.len() as f64;
        let rank = before + 0.5 * (t + 1.0);
        group.iter().for_each(|&i| ranks[i] = rank);
        before += t;
        tied += t * t * t - t;
    }
    (ranks, tied)
}

/// Probabilities that the sum of positive ranks is at most and at least `positive` when every sign
/// is a fair coin.
fn exact_tails(signed: &[(f64, bool)], positive: f64) -> (f64, f64) {
    // ranks may be halves: doubled they are whole
    let whole = |rank: f64| (2.0 * rank).round() as usize;
    let total: usize = signed.iter().map(|(rank, _)| whole(*rank)).sum();
    let mut probability = vec![0.0; total + 1];
    probability[0] = 1.0;
    for (rank, _) in signed {
        let rank = whole(*rank);
        for sum in (0..=total).rev() {
            let raised = if sum >= rank { probability[sum - rank] } else { 0.0 };
            probability[sum] = 0.5 * (probability[sum] + raised);
        }
    }
    let observed = whole(positive);
    (probability[..=observed].iter().sum(), probability[observed..].iter().sum())
}

/// How many interleavings of `m` and `n` values give each U; `m` is the smaller.
fn u_distribution(m: usize, n: usize) -> Vec<f64> {
    // generating function: the Gaussian binomial coefficient (m + n over m)
    let mut counts = vec![0.0; m * n + 1];
    counts[0] = 1.0;
    for k in 1..=m {
        for u in (n + k..counts.len()).rev() {
            counts[u] -= counts[u - n - k];
        }
        for u in k..counts.len() {
            counts[u] += counts[u - k];
        }
    }
    counts
}
