//! How far predicted intervals must be widened to hold the truth as often as promised:
//! risk-controlling prediction sets (Bates et al. 2021, arXiv:2101.02703) for images, as im2im-uq
//! (Angelopoulos et al. 2022, arXiv:2202.05265) and, from there, EMDiffuse compute them.

use super::distribution::binomial_at_most;
use limpid_kernels::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest risk considered.
const LARGEST: f64 = 1.0 - 1e-10;

/// What to promise, and which factors to try.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// Largest share of the truth outside its interval.
    pub alpha: f64,
    /// Probability that the promise is broken.
    pub delta: f64,
    /// Least factor on the intervals.
    pub smallest: f32,
    /// Greatest factor on the intervals.
    pub largest: f32,
    /// How many factors are tried, from the greatest downwards.
    pub steps: usize,
    /// Widen most where there is least need, as the reference does: where nothing is outside, because
    /// its root finder fails there, and where even the least factor would do.
    pub reference_quirks: bool,
}

impl Default for Calibration {
    /// The reference's figures.
    fn default() -> Self {
        Self {
            alpha: 0.1,
            delta: 0.1,
            smallest: 0.9,
            largest: 1.3,
            steps: 1000,
            reference_quirks: false,
        }
    }
}

/// Logarithm of Hoeffding's bound on the probability of a risk of at most `risk` among `n` when it
/// is `mean`.
#[must_use]
pub fn hoeffding_log_tail(mean: f64, risk: f64, n: f64) -> f64 {
    -n * divergence(mean.max(risk), mean)
}

/// Kullback-Leibler divergence of a coin that falls to one side with `a` from one with `b`.
fn divergence(a: f64, b: f64) -> f64 {
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    term(a, b) + term(1.0 - a, 1.0 - b)
}

/// As [`hoeffding_log_tail`], by Bentkus's inequality.
#[must_use]
pub fn bentkus_log_tail(mean: f64, risk: f64, n: f64) -> f64 {
    binomial_at_most((n * risk).floor(), n, mean).max(1e-10).ln() + 1.0
}

/// What the risk is below, with probability `1 - delta`, if it was `risk` among `n`: the bound of
/// Hoeffding and Bentkus.
#[must_use]
pub fn risk_upper_bound(risk: f64, n: f64, delta: f64) -> f64 {
    upper_bound(risk, delta, |mean| {
        hoeffding_log_tail(mean, risk, n).min(bentkus_log_tail(mean, risk, n))
    })
}

/// As [`risk_upper_bound`] of the mean of any losses between 0 and 1, by the bounds as they are proven
/// (Bates et al. 2021, section 3.1). The reference's, which [`risk_upper_bound`] is, hold for whole
/// misses only, since it counts them downwards, and take Hoeffding's where it says nothing.
pub(super) fn mean_upper_bound(risk: f64, n: f64, delta: f64) -> f64 {
    // a sum that is a whole number up to rounding is that
    let misses = (n * risk - 1e-9).ceil();
    upper_bound(risk, delta, |mean| {
        let bentkus = binomial_at_most(misses, n, mean).max(1e-300).ln() + 1.0;
        bentkus.min(-n * divergence(mean.min(risk), mean))
    })
}

/// The largest mean for which the logarithm of the probability of so low a risk is above that of
/// `delta`.
fn upper_bound(risk: f64, delta: f64, log_tail: impl Fn(f64) -> f64) -> f64 {
    let plausible = |mean: f64| log_tail(mean) > delta.ln();
    if !(risk < LARGEST) || plausible(LARGEST) {
        return 1.0;
    }
    let (mut low, mut high) = (risk, LARGEST);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if plausible(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// Share of the truth that is outside its interval.
///
/// # Errors
/// [`Error::Argument`] if there are not as many of each, none at all, or a NaN.
pub fn miss_rate(lower: &[f32], upper: &[f32], truth: &[f32]) -> Result<f64> {
    check(lower, upper, truth)?;
    Ok(misses(lower, upper, truth, 1.0))
}

/// The factor λ by which intervals `[lower / λ, upper · λ]` must be widened to hold `1 - alpha` of
/// the truth with probability `1 - delta`: the last of the factors, going down, before the promise
/// can no longer be given; the greatest if none suffices, and the least less a step if all do.
///
/// All in f32, as the reference, so that ties fall to the same side.
///
/// # Errors
/// As [`miss_rate`]; also for settings out of range.
pub fn calibrate(
    lower: &[f32],
    upper: &[f32],
    truth: &[f32],
    settings: &Calibration,
) -> Result<f32> {
    check(lower, upper, truth)?;
    let c = settings;
    let open = |v: f64| v > 0.0 && v < 1.0;
    if !(open(c.alpha) && open(c.delta) && 0.0 < c.smallest && c.smallest < c.largest)
        || c.largest.is_infinite()
        || c.steps < 2
    {
        return Err(Error::argument(OP, format!("settings out of range: {c:?}")));
    }
    let (last, n) = (c.steps - 1, truth.len() as f64);
    let step = (c.largest - c.smallest) / last as f32;
    // from both ends, as torch.linspace
    let factor = |i: usize| {
        if i < c.steps / 2 {
            c.smallest + step * i as f32
        } else {
            c.largest - step * (last - i) as f32
        }
    };
    let step = factor(1) - factor(0);
    for i in (0..c.steps).rev() {
        let risk = misses(lower, upper, truth, factor(i) - step);
        let bound = if risk == 0.0 && c.reference_quirks {
            1.0
        } else {
            risk_upper_bound(risk, n, c.delta)
        };
        if risk as f32 >= c.alpha as f32 || bound > c.alpha {
            return Ok(factor(i));
        }
    }
    Ok(if c.reference_quirks { factor(last) + step } else { factor(0) - step })
}

/// Intervals widened by a factor and cut to `[0, 1]`.
#[must_use]
pub fn widen(lower: &[f32], upper: &[f32], factor: f32) -> (Vec<f32>, Vec<f32>) {
    (
        lower.iter().map(|l| (l / factor).clamp(0.0, 1.0)).collect(),
        upper.iter().map(|u| (u * factor).clamp(0.0, 1.0)).collect(),
    )
}

const OP: &str = "calibrate";

fn check(lower: &[f32], upper: &[f32], truth: &[f32]) -> Result<()> {
    let n = truth.len();
    if n == 0 || lower.len() != n || upper.len() != n {
        let message = format!(
            "needs as many bounds as values of truth, got {} and {} for {n}",
            lower.len(),
            upper.len()
        );
        return Err(Error::argument(OP, message));
    }
    if lower.iter().chain(upper).chain(truth).any(|v| v.is_nan()) {
        return Err(Error::argument(OP, "a bound or the truth is NaN"));
    }
    Ok(())
}

/// Share of misses, rounded to f32.
fn misses(lower: &[f32], upper: &[f32], truth: &[f32], factor: f32) -> f64 {
    let outside = |((l, u), t): &((&f32, &f32), &f32)| **l / factor > **t || **u * factor < **t;
    let count = lower.iter().zip(upper).zip(truth).filter(outside).count();
    f64::from(count as f32 / truth.len() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_covers_the_risk_and_shrinks_with_numbers() {
        let mut before = 1.0;
        for n in [10.0, 100.0, 1e4, 1e6] {
            let bound = risk_upper_bound(0.1, n, 0.1);
            assert!(bound > 0.1 && bound < before, "{n}: {bound}");
            before = bound;
        }
        assert!(before < 0.101);
        assert_eq!(risk_upper_bound(1.0, 100.0, 0.1), 1.0);
        // no miss in n: e (1 - m)^n = delta
        let exact = 1.0 - (0.1f64 / std::f64::consts::E).powf(1.0 / 50.0);
        assert!((risk_upper_bound(0.0, 50.0, 0.1) - exact).abs() < 1e-12);
    }

    #[test]
    fn widened_intervals_keep_the_promise() {
        let truth: Vec<f32> = (0..4000).map(|i| 0.2 + 0.6 * i as f32 / 4000.0).collect();
        let wave = |i: usize| 0.06 * (i as f32 * 0.7).sin();
        let lower: Vec<f32> = truth.iter().enumerate().map(|(i, t)| t + wave(i) - 0.01).collect();
        let upper: Vec<f32> = truth.iter().enumerate().map(|(i, t)| t + wave(i) + 0.01).collect();
        let settings = Calibration::default();
        let factor = calibrate(&lower, &upper, &truth, &settings).unwrap();
        assert!(factor > 1.0 && factor < settings.largest, "{factor}");
        let (wide_lower, wide_upper) = widen(&lower, &upper, factor);
        assert!(miss_rate(&lower, &upper, &truth).unwrap() > 0.1);
        assert!(miss_rate(&wide_lower, &wide_upper, &truth).unwrap() < 0.1);
    }

    #[test]
    fn perfect_intervals_are_narrowed_but_not_by_the_reference() {
        let truth = vec![0.5f32; 2000];
        let (lower, upper) = (vec![0.2f32; 2000], vec![0.8f32; 2000]);
        let own = Calibration::default();
        let reference = Calibration { reference_quirks: true, ..own };
        assert!(calibrate(&lower, &upper, &truth, &own).unwrap() < own.smallest);
        assert_eq!(calibrate(&lower, &upper, &truth, &reference).unwrap(), own.largest);
        assert!(calibrate(&lower[1..], &upper, &truth, &own).is_err());
        let none = Calibration { steps: 1, ..own };
        assert!(calibrate(&lower, &upper, &truth, &none).is_err());
    }
}
