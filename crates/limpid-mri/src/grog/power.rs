//! Real powers of complex matrices by their eigenvalues.

use crate::{Complex, Error, Result};
use nalgebra::{DMatrix, DVector, Schur};

pub(super) type Matrix = DMatrix<Complex<f64>>;

/// A matrix `V diag(w) V⁻¹`, ready for powers.
#[derive(Clone, Debug)]
pub(super) struct Powers {
    /// Principal logarithms of the eigenvalues.
    logs: Vec<Complex<f64>>,
    vectors: Matrix,
    inverse: Matrix,
}

impl Powers {
    /// Of the matrix itself.
    pub(super) fn of(matrix: &Matrix) -> Result<Self> {
        let mut powers = Self::of_log(matrix)?;
        for value in &mut powers.logs {
            *value = value.ln();
            if !(value.re.is_finite() && value.im.is_finite()) {
                return Err(refusal("has an eigenvalue of zero; are two coils the same?"));
            }
        }
        Ok(powers)
    }

    /// Of the exponential of a matrix.
    pub(super) fn of_log(log: &Matrix) -> Result<Self> {
        const STEPS: usize = 10_000;
        let schur = Schur::try_new(log.clone(), f64::EPSILON, STEPS);
        let (basis, triangle) =
            schur.ok_or_else(|| refusal("has eigenvalues that are not found"))?.unpack();
        let vectors = basis * triangular_vectors(&triangle);
        let inverse = vectors.clone().try_inverse();
        let inverse = inverse.ok_or_else(|| refusal("has too few eigenvectors"))?;
        Ok(Self { logs: triangle.diagonal().iter().copied().collect(), vectors, inverse })
    }

    /// `G^p`.
    pub(super) fn power(&self, p: f64) -> Matrix {
        self.scaled(|log| (log * p).exp())
    }

    /// `log G`.
    pub(super) fn log(&self) -> Matrix {
        self.scaled(|log| log)
    }

    /// `G^p v`, in place.
    pub(super) fn apply(&self, p: f64, v: &mut DVector<Complex<f64>>) {
        let mut parts = &self.inverse * &*v;
        for (part, log) in parts.iter_mut().zip(&self.logs) {
            *part *= (log * p).exp();
        }
        self.vectors.mul_to(&parts, v);
    }

    fn scaled(&self, value: impl Fn(Complex<f64>) -> Complex<f64>) -> Matrix {
        let mut scaled = self.vectors.clone();
        for (mut column, &log) in scaled.column_iter_mut().zip(&self.logs) {
            column *= value(log);
        }
        scaled * &self.inverse
    }
}

fn refusal(problem: &str) -> Error {
    Error::value("grappa operator", format!("the matrix {problem}"))
}

/// Eigenvectors of an upper triangular matrix, of length one, in the order of its diagonal.
fn triangular_vectors(triangle: &Matrix) -> Matrix {
    let size = triangle.nrows();
    let smallest = f64::EPSILON * triangle.norm().max(f64::MIN_POSITIVE);
    let mut vectors = Matrix::identity(size, size);
    for k in 0..size {
        for i in (0..k).rev() {
            let sum: Complex<f64> = (i + 1..=k).map(|j| triangle[(i, j)] * vectors[(j, k)]).sum();
            let mut gap = triangle[(k, k)] - triangle[(i, i)];
            // equal eigenvalues are taken as nearly so
            if gap.norm() < smallest {
                gap = smallest.into();
            }
            vectors[(i, k)] = sum / gap;
        }
        let norm = vectors.column(k).norm();
        vectors.column_mut(k).unscale_mut(norm);
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::tests::random;

    #[test]
    fn powers_multiply() {
        for size in [1, 2, 5, 12] {
            let mut matrix = Matrix::from_vec(size, size, random(size as u64, size * size));
            for i in 0..size {
                matrix[(i, i)] += 3.0;
            }
            let powers = Powers::of(&matrix).unwrap();
            let gap = |a: &Matrix, b: &Matrix| (a - b).norm() / b.norm();
            assert!(gap(&powers.power(1.0), &matrix) < 1e-12);
            let third = powers.power(0.3) * powers.power(0.7);
            assert!(gap(&third, &matrix) < 1e-11);
            let again = Powers::of_log(&powers.log()).unwrap();
            assert!(gap(&again.power(-0.4), &powers.power(-0.4)) < 1e-10);
            let mut v = DVector::from_vec(random(9, size));
            let expected = powers.power(0.4) * &v;
            powers.apply(0.4, &mut v);
            assert!((v - &expected).norm() < 1e-12 * expected.norm());
        }
    }

    #[test]
    fn equal_and_zero_eigenvalues() {
        let identity = Powers::of(&Matrix::identity(3, 3)).unwrap();
        assert!((identity.power(0.5) - Matrix::identity(3, 3)).norm() < 1e-14);
        assert!(Powers::of(&Matrix::zeros(2, 2)).unwrap_err().to_string().contains("zero"));
    }
}
