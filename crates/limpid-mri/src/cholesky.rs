//! Cholesky factors of matrices that are positive definite.

use crate::Complex;
use nalgebra::{Cholesky, DMatrix, Dyn};

/// The factors of a Hermitian matrix; none if it is not positive definite, or so nearly not that they are
/// rounding. The factors of a complex matrix are otherwise computed of any.
pub(crate) fn cholesky(matrix: DMatrix<Complex<f64>>) -> Option<Cholesky<Complex<f64>, Dyn>> {
    let diagonal: Vec<f64> = matrix.diagonal().iter().map(|d| d.re).collect();
    let factors = matrix.cholesky()?;
    let lower = factors.l_dirty();
    let positive = |(i, diagonal): (usize, &f64)| {
        let pivot = lower[(i, i)].re;
        pivot.is_finite() && pivot > 1e-8 * diagonal.sqrt()
    };
    diagonal.iter().enumerate().all(positive).then_some(factors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_positive_definite() {
        let matrix = |values: [f64; 4]| DMatrix::from_row_slice(2, 2, &values.map(Complex::from));
        assert!(cholesky(matrix([2.0, 1.0, 1.0, 2.0])).is_some());
        assert!(cholesky(matrix([1.0, 1.0, 1.0, 1.0])).is_none());
        assert!(cholesky(matrix([1.0, 2.0, 2.0, 1.0])).is_none());
        assert!(cholesky(matrix([f64::NAN, 0.0, 0.0, 1.0])).is_none());
    }
}
