//! Matrix products: small ones on the calling thread, large ones on all.

use crate::element::Element;
use crate::math::Real;

/// A matrix in memory: element `(i, j)` lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of neighbouring elements, `stride` apart.
    pub(crate) fn rows(data: &'a [T], stride: usize) -> Self {
        Self { data, row: stride, column: 1 }
    }

    /// The same matrix with rows and columns swapped.
    pub(crate) fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }

    /// Whether a matrix of this many rows and columns, at least one each, lies within the data.
    pub(crate) fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// `dst [m, n] = factor * a [m, k] · b [k, n]`, added to what is there if `accumulate`.
pub(crate) fn product<T: Real>(
    dst: &mut [T],
    size: [usize; 3],
    accumulate: bool,
    factor: T,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    multiply(dst, size, accumulate, factor, [a, b], gemm::Parallelism::None);
}

/// As [`product`] with a factor of one, on all threads: rows and columns are shared, never a sum, so
/// the bits do not depend on how many there are.
pub(crate) fn shared_product<T: Real>(
    dst: &mut [T],
    size: [usize; 3],
    accumulate: bool,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
    multiply(dst, size, accumulate, T::one(), [a, b], threads);
}

#[allow(unsafe_code)] // the gemm crate takes pointers
fn multiply<T: Real>(
    dst: &mut [T],
    [m, n, k]: [usize; 3],
    accumulate: bool,
    factor: T,
    [a, b]: [Matrix<T>; 2],
    parallelism: gemm::Parallelism,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(dst.len() >= m * n && a.holds(m, k) && b.holds(k, n), "matrix product out of bounds");
    let to = dst.as_mut_ptr();
    // SAFETY: all three matrices lie within their slices, as just checked, and `dst` is borrowed
    // mutably, so it does not overlap the others.
    unsafe { call_gemm([m, n, k], to, [n, 1], accumulate, factor, [a, b], parallelism) };
}

/// The gemm crate's product, `dst` with the given row and column strides.
///
/// # Safety
/// `a` and `b` hold matrices of these sizes. `dst` may be written at all those positions, no one else
/// accesses them meanwhile, and they are initialised if `accumulate`.
#[allow(unsafe_code)] // the gemm crate takes pointers
pub(crate) unsafe fn call_gemm<T: Element>(
    [m, n, k]: [usize; 3],
    dst: *mut T,
    [row, column]: [usize; 2],
    accumulate: bool,
    factor: T,
    [a, b]: [Matrix<T>; 2],
    parallelism: gemm::Parallelism,
) {
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            column as isize,
            row as isize,
            accumulate,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::one(),
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
