//! Mean, spread and quantiles of what was drawn, pixel by pixel.

use limpid_engine::{Error, Result};
use rayon::prelude::*;

/// Pixels that one thread takes at a time.
const PIECE: usize = 1 << 12;

/// The mean, the standard deviation (unbiased; 0 of one sample) and the quantiles of samples of equal
/// length, each as long as a sample, computed in f64.
///
/// Quantiles lie on the lines through the sorted values, the lowest at 0 and the highest at 1
/// (type 7 of Hyndman & Fan 1996, as NumPy).
///
/// # Errors
/// [`Error::Tensor`] if there is no sample, they differ in length, or a quantile is not from 0 to 1.
pub fn statistics(samples: &[&[f32]], quantiles: &[f64]) -> Result<Vec<Vec<f32>>> {
    let len = samples.first().map(|sample| sample.len());
    let Some(len) = len.filter(|len| samples.iter().all(|s| s.len() == *len)) else {
        return Err(problem("needs at least one sample, all of one size"));
    };
    if !quantiles.iter().all(|q| (0.0..=1.0).contains(q)) {
        return Err(problem(&format!("quantiles must be from 0 to 1, got {quantiles:?}")));
    }
    let n = samples.len() as f64;
    let mut mean = vec![0f32; len];
    let mut deviation = vec![0f32; len];
    let means = mean.par_chunks_mut(PIECE).zip(deviation.par_chunks_mut(PIECE)).enumerate();
    means.for_each(|(piece, (means, deviations))| {
        for (i, (mean, deviation)) in means.iter_mut().zip(deviations).enumerate() {
            let values = || samples.iter().map(|sample| f64::from(sample[piece * PIECE + i]));
            let middle = values().sum::<f64>() / n;
            let squares: f64 = values().map(|v| (v - middle).powi(2)).sum();
            *mean = middle as f32;
            *deviation = (squares / (n - 1.0).max(1.0)).sqrt() as f32;
        }
    });
    let mut all = vec![mean, deviation];
    if quantiles.is_empty() {
        return Ok(all);
    }
    // [pixel][quantile], then turned
    let mut values = vec![0f32; len * quantiles.len()];
    values.par_chunks_mut(PIECE * quantiles.len()).enumerate().for_each(|(piece, values)| {
        let mut sorted = vec![0f32; samples.len()];
        for (i, out) in values.chunks_mut(quantiles.len()).enumerate() {
            for (value, sample) in sorted.iter_mut().zip(samples) {
                *value = sample[piece * PIECE + i];
            }
            sorted.sort_unstable_by(f32::total_cmp);
            out.iter_mut().zip(quantiles).for_each(|(out, q)| *out = quantile(&sorted, *q));
        }
    });
    for q in 0..quantiles.len() {
        all.push(values.iter().skip(q).step_by(quantiles.len()).copied().collect());
    }
    Ok(all)
}

/// A quantile of sorted values.
fn quantile(sorted: &[f32], q: f64) -> f32 {
    let place = (sorted.len() - 1) as f64 * q;
    let low = (place as usize).min(sorted.len() - 1);
    let high = (low + 1).min(sorted.len() - 1);
    let [below, above] = [low, high].map(|i| f64::from(sorted[i]));
    (below + (place - low as f64) * (above - below)) as f32
}

fn problem(message: &str) -> Error {
    limpid_kernels::Error::argument("statistics", message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sets_have_the_textbook_s_numbers() {
        let samples: [&[f32]; 4] = [&[1.0, 4.0], &[2.0, 4.0], &[4.0, 4.0], &[9.0, 4.0]];
        let got = statistics(&samples, &[0.0, 0.25, 0.5, 0.95, 1.0]).unwrap();
        assert_eq!(got[0], [4.0, 4.0]);
        // squares 9 + 4 + 0 + 25 over 3
        assert!((got[1][0] - (38.0f32 / 3.0).sqrt()).abs() < 1e-6 && got[1][1] == 0.0);
        // NumPy: quantile([1, 2, 4, 9], q)
        let expected = [1.0, 1.75, 3.0, 8.25, 9.0];
        for (got, expected) in got[2..].iter().zip(expected) {
            assert!((got[0] - expected).abs() < 1e-6 && got[1] == 4.0, "{got:?} {expected}");
        }
    }

    #[test]
    fn one_sample_is_its_own_mean_and_has_no_spread() {
        let sample: Vec<f32> = (0..10_000).map(|i| (i as f32).sin()).collect();
        let got = statistics(&[&sample], &[0.1]).unwrap();
        assert_eq!(got[0], sample);
        assert!(got[1].iter().all(|v| *v == 0.0));
        assert_eq!(got[2], sample);
    }

    #[test]
    fn every_pixel_has_its_own() {
        // more pixels than one thread takes
        let of = |k: usize| (0..9000).map(|i| (i * (k + 1)) as f32).collect::<Vec<_>>();
        let samples = [of(0), of(1), of(2)];
        let samples: Vec<&[f32]> = samples.iter().map(Vec::as_slice).collect();
        let got = statistics(&samples, &[0.5, 1.0]).unwrap();
        for i in 0..9000 {
            assert_eq!([got[0][i], got[1][i]], [2.0 * i as f32, i as f32]);
            assert_eq!([got[2][i], got[3][i]], [2.0 * i as f32, 3.0 * i as f32]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(statistics(&[], &[]).is_err());
        assert!(statistics(&[&[1.0], &[1.0, 2.0]], &[]).is_err());
        assert!(statistics(&[&[1.0]], &[1.5]).is_err());
        assert!(statistics(&[&[1.0]], &[f64::NAN]).is_err());
    }
}
