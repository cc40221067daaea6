//! Maps of the deviation of the main field.

use super::{indices, position};
use crate::error::expect_matrix;
use crate::{Error, Result};
use limpid_kernels::rng::Stream;
use rayon::prelude::*;

/// A smooth field: a random polynomial of low degree, as shimming leaves it, and a bump like that above
/// the sinuses, in the middle of the front (small indices) of the last axis but one.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldMap {
    /// Sizes of the image, two or three.
    pub matrix: Vec<usize>,
    /// What the coefficients and the place of the bump are drawn from.
    pub seed: u64,
    /// Largest magnitude in hertz.
    pub peak: f64,
    /// Degree of the polynomial.
    pub degree: usize,
    /// Height of the bump over that of the polynomial.
    pub bump: f64,
}

impl Default for FieldMap {
    /// 150 Hz, the head at 3 T.
    fn default() -> Self {
        Self { matrix: vec![256, 256], seed: 0, peak: 150.0, degree: 2, bump: 2.0 }
    }
}

impl FieldMap {
    /// The field in hertz, `[matrix]`.
    ///
    /// # Errors
    /// If there are not two or three sizes above zero, the degree is above eight, or a number is negative or
    /// not finite.
    pub fn values(&self) -> Result<Vec<f64>> {
        const OP: &str = "field map";
        expect_matrix(OP, &self.matrix)?;
        if self.degree > 8 {
            let problem = format!("a degree of {} is not smooth; eight is the most", self.degree);
            return Err(Error::value(OP, problem));
        }
        for (what, value) in [("the peak in hertz", self.peak), ("the bump", self.bump)] {
            if !(value >= 0.0 && value.is_finite()) {
                let problem = format!("{what} must be zero or more and finite, it is {value}");
                return Err(Error::value(OP, problem));
            }
        }
        let rank = self.matrix.len();
        let mut draws = Stream::new(self.seed, "mri field map").draws();
        let monomials: Vec<([usize; 3], f64)> = powers(rank, self.degree)
            .into_iter()
            .map(|powers| (powers, draws.normal() / (1 + powers.iter().sum::<usize>()) as f64))
            .collect();
        let mut centre = [0.0; 3];
        centre[..rank].iter_mut().for_each(|c| *c = 0.1 * (2.0 * draws.uniform() - 1.0));
        centre[rank - 2] -= 0.45;
        let width = 0.14 + 0.06 * draws.uniform();

        let at = |voxel: usize| {
            let voxel = indices::<3>(voxel, &self.matrix);
            let mut r = [0.0; 3];
            (0..rank).for_each(|d| r[d] = position(voxel[d], self.matrix[d]));
            let monomial = |(powers, factor): &([usize; 3], f64)| {
                factor * r.iter().zip(powers).map(|(r, &p)| r.powi(p as i32)).product::<f64>()
            };
            let square: f64 = r.iter().zip(&centre).map(|(r, c)| (r - c).powi(2)).sum();
            let bump = (-square / (2.0 * width * width)).exp();
            [monomials.iter().map(monomial).sum(), bump]
        };
        let voxels = self.matrix.iter().product();
        let parts: Vec<[f64; 2]> =
            (0..voxels).into_par_iter().with_min_len(1 << 10).map(at).collect();
        let largest = |of: &dyn Fn(&[f64; 2]) -> f64| {
            parts.iter().fold(0f64, |most, part| most.max(of(part).abs()))
        };
        let smooth = largest(&|part| part[0]).max(f64::MIN_POSITIVE);
        let sum = |part: &[f64; 2]| part[0] / smooth + self.bump * part[1];
        let scale = self.peak / largest(&sum).max(f64::MIN_POSITIVE);
        Ok(parts.iter().map(|part| scale * sum(part)).collect())
    }
}

/// The powers of all monomials of at most a degree.
fn powers(rank: usize, degree: usize) -> Vec<[usize; 3]> {
    let side = degree + 1;
    (0..side.pow(rank as u32))
        .map(|i| [i % side, i / side % side, i / side / side])
        .filter(|powers| powers.iter().sum::<usize>() <= degree)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_smooth_and_reach_their_peak() {
        for matrix in [vec![40, 31], vec![12, 20, 18]] {
            let map =
                FieldMap { matrix: matrix.clone(), seed: 3, peak: 80.0, ..FieldMap::default() };
            let field = map.values().expect("a field");
            let most = field.iter().fold(0f64, |most, b| most.max(b.abs()));
            assert!((most - 80.0).abs() < 1e-9);
            assert_eq!(field, map.values().expect("a field"));
            let other = FieldMap { seed: 4, ..map }.values().expect("a field");
            assert!(field.iter().zip(&other).any(|(a, b)| (a - b).abs() > 8.0));
            // second differences along the last axis
            for row in field.chunks(matrix[matrix.len() - 1]) {
                assert!(row.windows(3).all(|w| (w[0] - 2.0 * w[1] + w[2]).abs() < 80.0));
            }
        }
    }

    #[test]
    fn the_bump_lies_in_front() {
        let map = FieldMap { matrix: vec![64, 64], bump: 20.0, ..FieldMap::default() };
        let field = map.values().expect("a field");
        let peak = (0..64 * 64).max_by(|&a, &b| field[a].total_cmp(&field[b])).expect("a voxel");
        let [row, column] = [peak / 64, peak % 64];
        assert!((14..22).contains(&row) && (28..37).contains(&column), "{row} {column}");
        assert_eq!(powers(2, 2).len(), 6);
        assert_eq!(powers(3, 3).len(), 20);
        let flat = FieldMap { degree: 0, bump: 0.0, ..map };
        let flat = flat.values().expect("a field");
        assert!(flat.iter().all(|b| (b.abs() - 150.0).abs() < 1e-9));
    }

    #[test]
    fn refuses_senseless_numbers() {
        for bad in [
            FieldMap { peak: -1.0, ..FieldMap::default() },
            FieldMap { bump: f64::NAN, ..FieldMap::default() },
            FieldMap { degree: 9, ..FieldMap::default() },
            FieldMap { matrix: vec![4, 0], ..FieldMap::default() },
        ] {
            assert!(bad.values().is_err());
        }
    }
}
