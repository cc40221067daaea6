//! Solves many small Hermitian systems at once, one in each lane of vectors.

use crate::Real;

/// Systems that are solved together.
pub(super) const LANES: usize = 16;
/// Rows that are eliminated together, so that sums need not wait for each other.
const ROWS: usize = 4;

/// Real and imaginary parts of one element of all systems.
pub(super) type Lanes<T> = [[T; LANES]; 2];

/// Hermitian matrices, of which the lower triangles are kept, or their Cholesky factors.
pub(super) struct Systems<T> {
    size: usize,
    /// Rows of the triangles, one after the other.
    lower: Vec<Lanes<T>>,
}

/// The start of a row.
#[inline(always)]
fn start(row: usize) -> usize {
    row * (row + 1) / 2
}

impl<T: Real> Systems<T> {
    pub(super) fn new(size: usize) -> Self {
        Self { size, lower: vec![zero(); start(size)] }
    }

    /// Elements `column ≤ row` of all systems.
    #[inline(always)]
    pub(super) fn at(&mut self, row: usize, column: usize) -> &mut Lanes<T> {
        &mut self.lower[start(row) + column]
    }

    /// Replaces the matrices by their factors `L` of `L Lᴴ`, with the reciprocals of their diagonals. No
    /// pivot of a matrix whose eigenvalues are at least `least` is below that; rounding may make it so, and
    /// is undone.
    #[inline(always)]
    pub(super) fn factor(&mut self, least: T) {
        for column in 0..self.size {
            let row = &mut self.lower[start(column)..=start(column) + column];
            let (done, pivot) = row.split_at_mut(column);
            let mut squares = [T::default(); LANES];
            for [re, im] in &*done {
                for l in 0..LANES {
                    squares[l] += re[l] * re[l] + im[l] * im[l];
                }
            }
            let [re, im] = &mut pivot[0];
            for l in 0..LANES {
                let rest = re[l] - squares[l];
                let pivot = if rest > least { rest } else { least };
                (re[l], im[l]) = (T::of(pivot.f64().sqrt().recip()), T::default());
            }
            let mut row = column + 1;
            while row + ROWS <= self.size {
                self.eliminate::<ROWS>(column, row);
                row += ROWS;
            }
            while row < self.size {
                self.eliminate::<1>(column, row);
                row += 1;
            }
        }
    }

    /// Finds the elements of a column in `R` rows from `first` on.
    #[inline(always)]
    fn eliminate<const R: usize>(&mut self, column: usize, first: usize) {
        let (head, tail) = self.lower.split_at_mut(start(first));
        let (done, pivot) = head[start(column)..=start(column) + column].split_at(column);
        let (mut re, mut im) = ([[T::default(); LANES]; R], [[T::default(); LANES]; R]);
        {
            let rows: [&[Lanes<T>]; R] =
                std::array::from_fn(|r| &tail[start(first + r) - start(first)..][..column]);
            for k in 0..column {
                let [br, bi] = &done[k];
                for r in 0..R {
                    let [ar, ai] = &rows[r][k];
                    for l in 0..LANES {
                        re[r][l] += ar[l] * br[l] + ai[l] * bi[l];
                        im[r][l] += ai[l] * br[l] - ar[l] * bi[l];
                    }
                }
            }
        }
        for r in 0..R {
            let [vr, vi] = &mut tail[start(first + r) - start(first) + column];
            for l in 0..LANES {
                vr[l] = (vr[l] - re[r][l]) * pivot[0][0][l];
                vi[l] = (vi[l] - im[r][l]) * pivot[0][0][l];
            }
        }
    }

    /// Solves the factored systems, in place.
    #[inline(always)]
    pub(super) fn solve(&self, values: &mut [Lanes<T>]) {
        for row in 0..self.size {
            let (factors, pivot) = self.row(row);
            let (mut re, mut im) = ([T::default(); LANES], [T::default(); LANES]);
            let (done, rest) = values.split_at_mut(row);
            for ([ar, ai], [br, bi]) in factors.iter().zip(&*done) {
                for l in 0..LANES {
                    re[l] += ar[l] * br[l] - ai[l] * bi[l];
                    im[l] += ar[l] * bi[l] + ai[l] * br[l];
                }
            }
            let [vr, vi] = &mut rest[0];
            for l in 0..LANES {
                vr[l] = (vr[l] - re[l]) * pivot[0][l];
                vi[l] = (vi[l] - im[l]) * pivot[0][l];
            }
        }
        for row in (0..self.size).rev() {
            let (factors, pivot) = self.row(row);
            let (above, rest) = values.split_at_mut(row);
            for part in &mut rest[0] {
                for l in 0..LANES {
                    part[l] *= pivot[0][l];
                }
            }
            let [xr, xi] = &rest[0];
            for ([ar, ai], [vr, vi]) in factors.iter().zip(above) {
                for l in 0..LANES {
                    vr[l] -= ar[l] * xr[l] + ai[l] * xi[l];
                    vi[l] -= ar[l] * xi[l] - ai[l] * xr[l];
                }
            }
        }
    }

    /// The elements of a row before the diagonal, and the one on it.
    #[inline(always)]
    fn row(&self, row: usize) -> (&[Lanes<T>], &Lanes<T>) {
        let (factors, pivot) = self.lower[start(row)..=start(row) + row].split_at(row);
        (factors, &pivot[0])
    }
}

/// Zeros.
#[inline(always)]
pub(super) fn zero<T: Real>() -> Lanes<T> {
    [[T::default(); LANES]; 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Complex;
    use crate::operator::tests::random;
    use nalgebra::{DMatrix, DVector};

    #[test]
    fn solves_every_lane() {
        for size in [1, 2, 5, 11] {
            let mut systems = Systems::<f64>::new(size);
            let mut values = vec![zero(); size];
            let mut expected = Vec::new();
            for lane in 0..LANES {
                let draws = random(lane as u64, size * (size + 1));
                let root = DMatrix::from_column_slice(size, size, &draws[..size * size]);
                let matrix =
                    &root * root.adjoint() + DMatrix::identity(size, size) * Complex::from(0.1);
                let rhs = DVector::from_column_slice(&draws[size * size..]);
                for row in 0..size {
                    for column in 0..=row {
                        let v = matrix[(row, column)];
                        let [re, im] = systems.at(row, column);
                        (re[lane], im[lane]) = (v.re, v.im);
                    }
                    (values[row][0][lane], values[row][1][lane]) = (rhs[row].re, rhs[row].im);
                }
                expected.push(matrix.lu().solve(&rhs).unwrap());
            }
            systems.factor(1e-9);
            systems.solve(&mut values);
            for (lane, expected) in expected.iter().enumerate() {
                for (value, expected) in values.iter().zip(expected) {
                    let value = Complex::new(value[0][lane], value[1][lane]);
                    assert!((value - expected).norm() < 1e-10 * (1.0 + expected.norm()));
                }
            }
        }
    }

    #[test]
    fn pivots_have_a_least_value() {
        let mut systems = Systems::<f32>::new(2);
        for (row, column) in [(0, 0), (1, 0), (1, 1)] {
            systems.at(row, column)[0] = [1.0; LANES];
        }
        systems.factor(1e-4);
        let mut values = [[[1.0; LANES], [0.0; LANES]], zero()];
        systems.solve(&mut values);
        assert!(values.iter().flatten().flatten().all(|v| v.is_finite()));
    }
}
