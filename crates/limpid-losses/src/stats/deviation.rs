//! How far predicted standard deviations can be trusted, and how many of them hold the truth as often as
//! promised.
//!
//! The promise is that of risk-controlling prediction sets (Bates et al. 2021, arXiv:2101.02703). It
//! needs independent losses, and neighbouring pixels are not independent: the loss is therefore the share
//! of misses in a *block* of pixels, one number for each, between 0 and 1.

use super::calibration::mean_upper_bound;
use super::distribution::normal_quantile;
use limpid_kernels::{Error, Result};

/// The factor λ such that `mean ± λ·deviation` holds a share `coverage` of the truth, with probability
/// `1 - delta`: the least for which the share of misses, averaged over the blocks, is bounded by
/// `1 - coverage`.
///
/// `errors` are `|truth - mean| / deviation`, one list for each block of an image.
///
/// # Errors
/// [`Error::Argument`] if there are too few blocks for the promise, a block is empty, an error is
/// negative or not finite, or a probability is not between 0 and 1.
pub fn deviation_factor(errors: &[Vec<f32>], coverage: f64, delta: f64) -> Result<f64> {
    const OP: &str = "deviation_factor";
    check_blocks(OP, errors)?;
    probability(OP, "coverage", coverage)?;
    probability(OP, "delta", delta)?;
    let (alpha, n) = (1.0 - coverage, errors.len() as f64);
    if mean_upper_bound(0.0, n, delta) > alpha {
        let needed = (delta.ln() / coverage.ln()).ceil();
        let message = format!(
            "{n} blocks cannot promise a coverage of {coverage} with probability {}: it takes {needed} \
             even where nothing is missed",
            1.0 - delta
        );
        return Err(Error::argument(OP, message));
    }
    // errors from the largest down, with their share of the mean risk
    let share = |block: &Vec<f32>| 1.0 / (n * block.len() as f64);
    let mut all: Vec<(f32, f64)> = errors
        .iter()
        .flat_map(|block| block.iter().map(move |error| (*error, share(block))))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut missed = Vec::with_capacity(all.len() + 1);
    let mut sum = 0.0;
    missed.push(sum);
    missed.extend(all.iter().map(|(_, share)| {
        sum += share;
        sum
    }));
    // how many of the largest errors may be missed; as a share, this bound grows with their number
    let held = |count: &usize| mean_upper_bound(missed[*count], n, delta) <= alpha;
    let (mut least, mut most) = (0, all.len() + 1);
    while most - least > 1 {
        let middle = least.midpoint(most);
        if held(&middle) {
            least = middle;
        } else {
            most = middle;
        }
    }
    // the next error is the bound, and all that are equal to it are held
    Ok(all.get(least).map_or(0.0, |(error, _)| f64::from(*error)))
}

/// For each nominal coverage, that and the share of the truth that lies within as many deviations as
/// hold it in a normal distribution: equal for deviations that can be trusted.
///
/// `errors` as for [`deviation_factor`]; blocks count alike.
///
/// # Errors
/// [`Error::Argument`] as there.
pub fn coverage_curve(errors: &[Vec<f32>], levels: &[f64]) -> Result<Vec<[f64; 2]>> {
    check_blocks("coverage_curve", errors)?;
    let observed = |level: &f64| {
        let width = normal_interval(*level)?;
        let share = |block: &Vec<f32>| {
            block.iter().filter(|e| f64::from(**e) <= width).count() as f64 / block.len() as f64
        };
        Ok([*level, errors.iter().map(share).sum::<f64>() / errors.len() as f64])
    };
    levels.iter().map(observed).collect()
}

/// How many standard deviations to either side hold a share `coverage` of a normal distribution.
///
/// # Errors
/// [`Error::Argument`] if the share is not between 0 and 1.
pub fn normal_interval(coverage: f64) -> Result<f64> {
    probability("normal_interval", "coverage", coverage)?;
    Ok(normal_quantile(0.5 + 0.5 * coverage))
}

/// The error where a small one was predicted, and where a large one: pixels in `bins` groups of equal
/// size by their predicted deviation, and for each its root mean square, that of the error, and the
/// number of pixels (Levi et al. 2022, arXiv:1905.11659).
///
/// # Errors
/// [`Error::Argument`] if there are not as many of each, fewer than bins, or a value is not finite.
pub fn error_by_deviation(
    mean: &[f32],
    std: &[f32],
    truth: &[f32],
    bins: usize,
) -> Result<Vec<[f64; 3]>> {
    const OP: &str = "error_by_deviation";
    let n = truth.len();
    if mean.len() != n || std.len() != n {
        let message = format!(
            "needs as many means and deviations as values of truth, got {} and {} for {n}",
            mean.len(),
            std.len()
        );
        return Err(Error::argument(OP, message));
    }
    if bins == 0 || bins > n {
        return Err(Error::argument(OP, format!("cannot put {n} pixels into {bins} bins")));
    }
    if mean.iter().chain(std).chain(truth).any(|v| !v.is_finite()) {
        return Err(Error::argument(OP, "a mean, a deviation or the truth is not finite"));
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| std[*a].total_cmp(&std[*b]));
    let bin = |b: usize| {
        let pixels = &order[b * n / bins..(b + 1) * n / bins];
        let root = |of: &dyn Fn(usize) -> f64| {
            (pixels.iter().map(|i| of(*i).powi(2)).sum::<f64>() / pixels.len() as f64).sqrt()
        };
        let error = |i: usize| f64::from(truth[i]) - f64::from(mean[i]);
        [root(&|i| f64::from(std[i])), root(&error), pixels.len() as f64]
    };
    Ok((0..bins).map(bin).collect())
}

/// The PSNR that an image should have by its own deviations, in dB.
///
/// `factor` makes them standard deviations of the error: that of [`deviation_factor`] over
/// [`normal_interval`] of the same coverage. `range` is the span of valid intensities.
///
/// # Errors
/// [`Error::Argument`] if there is no deviation, one is not finite, or `factor` or `range` is not above
/// 0.
pub fn expected_psnr(std: &[f32], factor: f64, range: f64) -> Result<f64> {
    const OP: &str = "expected_psnr";
    if !(factor > 0.0 && factor.is_finite() && range > 0.0 && range.is_finite()) {
        let message = format!("factor and range must be above 0, got {factor} and {range}");
        return Err(Error::argument(OP, message));
    }
    if std.is_empty() || std.iter().any(|v| !v.is_finite()) {
        return Err(Error::argument(OP, "needs deviations, all of them finite"));
    }
    let square = crate::sum::mean(std.len(), |i| f64::from(std[i]).powi(2)) * factor * factor;
    Ok(10.0 * (range * range / square).log10())
}

fn probability(op: &'static str, name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(Error::argument(op, format!("`{name}` must be between 0 and 1, got {value}")))
}

fn check_blocks(op: &'static str, errors: &[Vec<f32>]) -> Result<()> {
    if errors.is_empty() || errors.iter().any(Vec::is_empty) {
        return Err(Error::argument(op, "needs blocks of errors, none of them empty"));
    }
    match errors.iter().flatten().find(|e| !(**e >= 0.0 && e.is_finite())) {
        Some(bad) => {
            Err(Error::argument(op, format!("errors must be finite and not negative, got {bad}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::distribution::normal_above;
    use super::*;
    use limpid_kernels::rng::Stream;

    /// Blocks of normal errors; the deviation of each block is off by a factor of its own.
    fn blocks(stream: Stream, n: usize, size: usize, spread: f64) -> Vec<Vec<f32>> {
        let mut draws = stream.draws();
        (0..n)
            .map(|_| {
                let scale = (spread * draws.normal()).exp();
                (0..size).map(|_| (scale * draws.normal()).abs() as f32).collect()
            })
            .collect()
    }

    #[test]
    fn the_promise_is_broken_no_more_often_than_promised() {
        let (coverage, delta, spread, trials) = (0.9, 0.1, 0.4, 300);
        let mut scales = Stream::new(1, "scales").draws();
        let scales: Vec<f64> = (0..4000).map(|_| (spread * scales.normal()).exp()).collect();
        let risk = |factor: f64| {
            scales.iter().map(|s| 2.0 * normal_above(factor / s)).sum::<f64>() / scales.len() as f64
        };
        let mut broken = 0;
        for trial in 0..trials {
            let errors = blocks(Stream::new(2, "blocks").at(0, trial), 40, 16, spread);
            let factor = deviation_factor(&errors, coverage, delta).unwrap();
            assert!(risk(factor) > 0.005, "{factor} holds almost everything");
            broken += u64::from(risk(factor) > 1.0 - coverage);
        }
        let expected = delta * trials as f64;
        let most = expected + 3.0 * (expected * (1.0 - delta)).sqrt();
        assert!((broken as f64) < most, "{broken} of {trials}");
    }

    #[test]
    fn of_many_normal_errors_it_is_the_quantile() {
        let errors = blocks(Stream::new(3, "blocks"), 20_000, 16, 0.0);
        for coverage in [0.68, 0.9, 0.95] {
            let factor = deviation_factor(&errors, coverage, 0.1).unwrap();
            let quantile = normal_interval(coverage).unwrap();
            assert!(factor > quantile && factor < 1.02 * quantile, "{factor} {quantile}");
        }
        assert!((normal_interval(0.9).unwrap() - 1.644_853_6).abs() < 1e-6);
    }

    #[test]
    fn it_is_the_least_that_is_bounded() {
        let errors = blocks(Stream::new(4, "blocks"), 60, 9, 0.5);
        let factor = deviation_factor(&errors, 0.8, 0.05).unwrap();
        let bound = |held: &dyn Fn(f64) -> bool| {
            let missed = |b: &Vec<f32>| {
                b.iter().filter(|e| !held(f64::from(**e))).count() as f64 / b.len() as f64
            };
            mean_upper_bound(errors.iter().map(missed).sum::<f64>() / 60.0, 60.0, 0.05)
        };
        assert!(bound(&|e| e <= factor) <= 0.2);
        assert!(bound(&|e| e < factor) > 0.2);
        // equal errors are held or missed together
        let equal = vec![vec![2.0f32; 4]; 60];
        assert_eq!(deviation_factor(&equal, 0.8, 0.05).unwrap(), 2.0);
        assert_eq!(deviation_factor(&vec![vec![0.0f32; 4]; 60], 0.8, 0.05).unwrap(), 0.0);
    }

    #[test]
    fn what_cannot_be_promised_is_refused() {
        // no miss in n blocks: (1 - α)^n = δ, 22 for a tenth each
        let of = |n: usize| deviation_factor(&vec![vec![1.0f32]; n], 0.9, 0.1);
        assert!(of(22).is_ok());
        let e = of(21).unwrap_err().to_string();
        assert!(e.contains("it takes 22"), "{e}");
        let one = |error: f32| deviation_factor(&vec![vec![error]; 40], 0.9, 0.1);
        assert!(one(-1.0).is_err() && one(f32::NAN).is_err() && one(f32::INFINITY).is_err());
        assert!(deviation_factor(&[], 0.9, 0.1).is_err());
        assert!(deviation_factor(&vec![Vec::new(); 40], 0.9, 0.1).is_err());
        assert!(deviation_factor(&vec![vec![1.0]; 40], 1.0, 0.1).is_err());
    }

    #[test]
    fn curves_show_deviations_that_are_too_small() {
        let levels = [0.1, 0.5, 0.9];
        let right = blocks(Stream::new(5, "blocks"), 400, 64, 0.0);
        for [nominal, observed] in coverage_curve(&right, &levels).unwrap() {
            assert!((nominal - observed).abs() < 0.01, "{nominal} {observed}");
        }
        let twice: Vec<Vec<f32>> =
            right.iter().map(|b| b.iter().map(|e| 2.0 * e).collect()).collect();
        for [nominal, observed] in coverage_curve(&twice, &levels).unwrap() {
            let expected = 1.0 - 2.0 * normal_above(0.5 * normal_interval(nominal).unwrap());
            assert!((observed - expected).abs() < 0.01, "{observed} {expected}");
        }
        assert!(coverage_curve(&right, &[1.0]).is_err());
    }

    #[test]
    fn errors_are_grouped_by_what_was_predicted() {
        let mut draws = Stream::new(6, "pixels").draws();
        let n = 40_000;
        let std: Vec<f32> = (0..n).map(|_| draws.range(0.5, 2.0) as f32).collect();
        let truth = vec![3.0f32; n];
        // errors are half as large as predicted
        let mean: Vec<f32> = std.iter().map(|s| 3.0 + 0.5 * s * draws.normal() as f32).collect();
        let bins = error_by_deviation(&mean, &std, &truth, 7).unwrap();
        assert_eq!(bins.iter().map(|b| b[2]).sum::<f64>(), n as f64);
        assert!(bins.windows(2).all(|b| b[0][0] < b[1][0] && (b[0][2] - b[1][2]).abs() <= 1.0));
        for [predicted, error, _] in &bins {
            assert!((error / predicted - 0.5).abs() < 0.02, "{predicted} {error}");
        }
        // with that factor the image knows its own PSNR
        let square = mean.iter().map(|m| (f64::from(*m) - 3.0).powi(2)).sum::<f64>() / n as f64;
        let expected = expected_psnr(&std, 0.5, 4.0).unwrap();
        assert!((expected - 10.0 * (16.0 / square).log10()).abs() < 0.1);
        assert!((expected_psnr(&[0.1; 3], 1.0, 1.0).unwrap() - 20.0).abs() < 1e-5);
        assert!(error_by_deviation(&mean, &std, &truth[1..], 7).is_err());
        assert!(error_by_deviation(&mean, &std, &truth, 0).is_err());
        assert!(expected_psnr(&[], 1.0, 1.0).is_err() && expected_psnr(&[1.0], 0.0, 1.0).is_err());
    }
}
