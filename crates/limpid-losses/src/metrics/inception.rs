//! The inception score (Salimans et al. 2016, arXiv:1606.03498) of the probabilities that a
//! classifier gives to a set of images.

use limpid_kernels::{Error, Result};

const OP: &str = "inception_score";

/// Mean and standard deviation (of the population) over `splits` parts of the images of
/// `exp(mean KL(p(class | image) ‖ p(class)))`.
///
/// `probabilities` has a row of `classes` numbers per image; a row counts in proportion. Images
/// beyond a multiple of `splits` are left out, as in the usual implementation.
///
/// # Errors
/// [`Error::Argument`] if a part would be empty, or a row is no distribution.
pub fn inception_score(probabilities: &[f64], classes: usize, splits: usize) -> Result<(f64, f64)> {
    let images = probabilities.len().checked_div(classes).unwrap_or(0);
    if images * classes != probabilities.len() || splits == 0 || images < splits {
        let message = format!(
            "{} probabilities of {classes} classes do not make {splits} parts",
            probabilities.len()
        );
        return Err(Error::argument(OP, message));
    }
    let mut rows = Vec::with_capacity(images);
    for (i, row) in probabilities.chunks(classes).enumerate() {
        let sum: f64 = row.iter().sum();
        if !(sum > 0.0 && sum.is_finite() && row.iter().all(|p| *p >= 0.0)) {
            let message = format!("row {} holds no probabilities: its sum is {sum}", i + 1);
            return Err(Error::argument(OP, message));
        }
        rows.push((row, sum));
    }
    let scores: Vec<f64> = rows.chunks(images / splits).take(splits).map(score).collect();
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n;
    Ok((mean, variance.sqrt()))
}

/// Of one part: rows with their sums.
fn score(rows: &[(&[f64], f64)]) -> f64 {
    let classes = rows.first().map_or(0, |(row, _)| row.len());
    let mut marginal = vec![0.0; classes];
    for (row, _) in rows {
        marginal.iter_mut().zip(*row).for_each(|(m, p)| *m += p);
    }
    let total: f64 = marginal.iter().sum();
    let divergence = |(row, sum): &(&[f64], f64)| -> f64 {
        let term = |(p, m): (&f64, &f64)| {
            let (p, m) = (p / sum, m / total);
            if p > 0.0 { p * (p / m).ln() } else { 0.0 }
        };
        row.iter().zip(&marginal).map(term).sum()
    };
    (rows.iter().map(divergence).sum::<f64>() / rows.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sure_and_diverse_is_best() {
        // each image surely of another class: as many as there are classes
        let (mean, std) = inception_score(&[1.0, 0.0, 0.0, 1.0], 2, 1).unwrap();
        assert!((mean - 2.0).abs() < 1e-12 && std == 0.0);
        // all alike, whatever they are; the fifth image is left out
        let same = [0.2, 0.8].repeat(5);
        let (mean, std) = inception_score(&same, 2, 2).unwrap();
        assert!((mean - 1.0).abs() < 1e-12 && std < 1e-12);
        assert!(inception_score(&same, 3, 1).is_err());
        assert!(inception_score(&same, 2, 6).is_err());
        assert!(inception_score(&[0.0, 0.0], 2, 1).is_err());
    }
}
