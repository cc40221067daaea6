//! How far to trust a predicted deviation: the interval that it promises, and whether it is larger where
//! errors are.
//!
//! Risk-controlling prediction sets (Bates et al. 2021, arXiv:2101.02703): the interval is `mean ±
//! factor·deviation`, with the least factor whose share of misses is, with high probability, at most
//! what was promised. What counts as one observation is a block of an image: neighbouring pixels err
//! together, and a bound that took them for independent would promise too much.

use super::risk_upper_bound;
use limpid_kernels::{Error, Result};

const OP: &str = "calibrate a deviation";

/// Halvings until the factor is exact to a double.
const HALVINGS: usize = 64;

/// The least factor with which an interval of `factor` deviations holds the share `coverage` of the
/// truth, with probability `1 - delta` on images like these.
///
/// `errors` are magnitudes of errors over deviations, a list for each block of pixels.
///
/// # Errors
/// [`Error::Argument`] for numbers that are not finite or below 0, a share that is none, or blocks too
/// few to promise it.
pub fn deviation_factor(errors: &[Vec<f32>], coverage: f64, delta: f64) -> Result<f64> {
    let bad = |message: String| Err(Error::argument(OP, message));
    for (name, value) in [("coverage", coverage), ("delta", delta)] {
        if !(value > 0.0 && value < 1.0) {
            return bad(format!("`{name}` must be between 0 and 1, got {value}"));
        }
    }
    let blocks: Vec<Vec<f32>> = errors.iter().filter(|b| !b.is_empty()).cloned().collect();
    if blocks.iter().flatten().any(|e| !(e.is_finite() && *e >= 0.0)) {
        return bad("errors over deviations must be finite and not below 0".into());
    }
    let n = blocks.len() as f64;
    if blocks.is_empty() || risk_upper_bound(0.0, n, delta) > 1.0 - coverage {
        return bad(format!(
            "{} blocks are too few to promise {:.0} % with a chance of {delta} to fail",
            blocks.len(),
            100.0 * coverage
        ));
    }
    let sorted: Vec<Vec<f32>> = blocks
        .into_iter()
        .map(|mut block| {
            block.sort_by(f32::total_cmp);
            block
        })
        .collect();
    let kept = |factor: f64| {
        let missed = |block: &Vec<f32>| {
            let inside = block.partition_point(|e| f64::from(*e) <= factor);
            (block.len() - inside) as f64 / block.len() as f64
        };
        let risk = sorted.iter().map(missed).sum::<f64>() / n;
        // the bound counts whole misses and rounds down, so parts of one are rounded up before
        let whole = (((risk * n).ceil() + 0.5) / n).min(1.0);
        risk_upper_bound(whole, n, delta) <= 1.0 - coverage
    };
    let largest = sorted.iter().filter_map(|block| block.last()).fold(0f32, |m, e| m.max(*e));
    let (mut low, mut high) = (0.0, f64::from(largest));
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if kept(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

/// For each of `factors`, the share of errors within as many deviations.
#[must_use]
pub fn coverage_curve(errors: &[Vec<f32>], factors: &[f64]) -> Vec<[f64; 2]> {
    let count = errors.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let inside = |factor: f64| {
        errors.iter().flatten().filter(|e| f64::from(**e) <= factor).count() as f64 / count
    };
    factors.iter().map(|&factor| [factor, inside(factor)]).collect()
}

/// Pixels in `bins` classes of equal count by their deviation: mean deviation, root mean square error,
/// and how many they are.
///
/// # Errors
/// [`Error::Argument`] if there are not as many of each.
pub fn error_by_deviation(
    mean: &[f32],
    deviation: &[f32],
    truth: &[f32],
    bins: usize,
) -> Result<Vec<[f64; 3]>> {
    if mean.len() != deviation.len() || mean.len() != truth.len() {
        let message = format!(
            "{} means, {} deviations and {} true values",
            mean.len(),
            deviation.len(),
            truth.len()
        );
        return Err(Error::argument("error by deviation", message));
    }
    let mut order: Vec<usize> = (0..mean.len()).collect();
    order.sort_by(|a, b| deviation[*a].total_cmp(&deviation[*b]));
    let each = order.len().div_ceil(bins.max(1)).max(1);
    let class = |pixels: &[usize]| {
        let n = pixels.len() as f64;
        let square = |&i: &usize| (f64::from(mean[i]) - f64::from(truth[i])).powi(2);
        let spread = pixels.iter().map(|&i| f64::from(deviation[i])).sum::<f64>() / n;
        [spread, (pixels.iter().map(square).sum::<f64>() / n).sqrt(), n]
    };
    Ok(order.chunks(each).map(class).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_kernels::rng::Stream;

    /// Magnitudes of standard normal numbers.
    fn normal(blocks: usize, each: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut draws = Stream::new(seed, "deviation").draws();
        (0..blocks).map(|_| (0..each).map(|_| draws.normal().abs() as f32).collect()).collect()
    }

    #[test]
    fn the_promise_holds_on_other_data() {
        let fresh = normal(400, 256, 99);
        for coverage in [0.8, 0.9] {
            for seed in 0..5 {
                let factor = deviation_factor(&normal(400, 256, seed), coverage, 0.1).unwrap();
                let held = coverage_curve(&fresh, &[factor])[0][1];
                // not less than promised, and not much more: the bound costs a few hundredths
                assert!(held >= coverage - 0.002 && held < coverage + 0.06, "{coverage} {held}");
            }
        }
    }

    #[test]
    fn blocks_are_what_counts() {
        let few = normal(100, 1 << 12, 1);
        let many: Vec<Vec<f32>> =
            few.iter().flat_map(|b| b.chunks(16).map(<[f32]>::to_vec)).collect();
        let [few_factor, many_factor] =
            [&few, &many].map(|e| deviation_factor(e, 0.9, 0.1).unwrap());
        assert!(few_factor > 1.1 * many_factor, "{few_factor} {many_factor}");
        let e = deviation_factor(&few[..10], 0.9, 0.1).unwrap_err().to_string();
        assert!(e.contains("10 blocks are too few"), "{e}");
        assert!(deviation_factor(&[vec![f32::NAN]], 0.5, 0.5).is_err());
        assert!(deviation_factor(&few, 1.0, 0.1).is_err());
    }

    #[test]
    fn classes_are_of_equal_count_and_say_what_is_wrong() {
        let deviation: Vec<f32> = (0..1000).map(|i| (i * 37 % 1000) as f32 / 1000.0).collect();
        let truth = vec![0.0; 1000];
        let mean: Vec<f32> =
            deviation.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { -d }).collect();
        let classes = error_by_deviation(&mean, &deviation, &truth, 4).unwrap();
        assert_eq!(classes.len(), 4);
        for [spread, error, n] in classes {
            assert!(n == 250.0 && error >= spread && error < spread + 0.09, "{spread} {error}");
        }
        assert!(error_by_deviation(&mean, &deviation, &truth[1..], 4).is_err());
    }
}
