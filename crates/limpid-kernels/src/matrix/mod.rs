//! Matrix products: small ones on the calling thread, large ones on all.
//!
//! Those of f32 are our own ([`multiply`]), those of f64, which only tests and small problems need,
//! the gemm crate's.

#![allow(unsafe_code)] // results are written to memory that is not zeroed first

#[cfg(target_arch = "x86_64")]
mod bf16;
mod block;
mod multiply;
mod panels;
mod precision;
#[cfg(test)]
mod tests;

pub(crate) use block::{Left, Rows, block};
pub(crate) use panels::{BLOCK, Right};
pub(crate) use precision::is_half;
pub use precision::{Precision, precision, set_precision};

use crate::Result;
use crate::element::{Element, single};
use crate::output::Output;
use crate::simd::level;
use multiply::multiply;
use rayon::prelude::*;

/// The least rows and columns of a part of a shared product.
const LEAST: [usize; 2] = [48, 64];

/// Elements of a right factor that are packed for all threads at a time, and its least columns.
const SHARED_PANELS: usize = 1 << 21;
const COLUMNS: usize = 512;

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
    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }

    /// The part that begins at an element within the data.
    fn from(self, row: usize, column: usize) -> Self {
        Self { data: &self.data[row * self.row + column * self.column..], ..self }
    }

    /// The matrix itself, if its elements are f32.
    fn single(self) -> Option<Matrix<'a, f32>>
    where
        T: 'static,
    {
        single(self.data).map(|data| Matrix { data, row: self.row, column: self.column })
    }
}

/// `dst [m, n] = factor * a [m, k] · b [k, n]`, added to what is there if `accumulate`, on this thread.
pub(crate) fn product<T: Element>(
    dst: &mut [T],
    [m, n, k]: [usize; 3],
    accumulate: bool,
    factor: T,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(dst.len() >= m * n, "matrix product out of bounds");
    // SAFETY: the result lies within `dst`, which is borrowed mutably.
    unsafe { scaled([m, n, k], dst.as_mut_ptr(), [n, 1], accumulate, factor, [a, b]) };
}

/// As [`product`] with a factor of one, to memory with the given row and column strides.
///
/// # Safety
/// `dst` may be written at all those positions, no one else accesses them meanwhile, and they are
/// initialised if `accumulate`.
pub(crate) unsafe fn product_at<T: Element>(
    size: [usize; 3],
    dst: *mut T,
    strides: [usize; 2],
    accumulate: bool,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    // SAFETY: the caller's.
    unsafe { scaled(size, dst, strides, accumulate, T::one(), [a, b]) };
}

/// A new matrix `a [m, k] · b [k, n]`, with `start [n]` added to each row, on all threads: rows and
/// columns are shared, never a sum, so the bits do not depend on how many there are.
///
/// # Errors
/// As [`Output::new`].
pub(crate) fn shared_product<T: Element>(
    op: &'static str,
    [m, n, k]: [usize; 3],
    a: Matrix<T>,
    b: Matrix<T>,
    start: Option<&[T]>,
) -> Result<Vec<T>> {
    // our own products have the same bits in any part, those of the gemm crate may not
    let parts = if b.single().is_some() { parts() } else { 8 };
    let shares = shares(m, n, parts);
    if m <= shares[0] || n < LEAST[1] || k == 0 || b.single().is_none() {
        // no part packs what another one packs too
        return shared(op, [m, n, k], shares, start, |[rows, columns], [i, j], dst, add| {
            // SAFETY: `shared` vouches for the part of the result.
            unsafe { product_at([rows, columns, k], dst, [n, 1], add, a.from(i, 0), b.from(0, j)) };
        });
    }
    // so many columns at a time that their panels stay in the cache that threads share
    let most = (SHARED_PANELS / k).next_multiple_of(LEAST[1]).max(COLUMNS);
    let output: Output<T> = Output::new(op, m * n)?;
    for first in (0..n).step_by(most) {
        let columns = most.min(n - first);
        let right = Right::shared(op, [k, columns], b.from(0, first))?;
        let across = columns.div_ceil(shares[1]);
        (0..m.div_ceil(shares[0]) * across).into_par_iter().for_each(|task| {
            let (i, j) = (task / across * shares[0], task % across * shares[1]);
            let (rows, columns) = (shares[0].min(m - i), j..columns.min(j + shares[1]));
            let dst = output.at(i * n + first + j, (rows - 1) * n + columns.len());
            // SAFETY: this part of the result is this task's.
            unsafe {
                begin(dst, n, rows, start.map(|start| &start[first..][columns.clone()]));
                right.multiply_at(dst, n, rows, [columns, 0..k], start.is_some(), a.from(i, 0));
            }
        });
    }
    // SAFETY: the parts are all of the output.
    Ok(unsafe { output.into_vec() })
}

/// As [`shared_product`] of `x [m, k]` and `w [n, k]` transposed, both of contiguous rows and rounded
/// to bf16; none if that is not possible.
///
/// # Errors
/// As [`Output::new`].
pub(crate) fn half_product<T: Element>(
    op: &'static str,
    size: [usize; 3],
    x: &[T],
    w: &[T],
    start: Option<&[T]>,
) -> Result<Option<Vec<T>>> {
    #[cfg(target_arch = "x86_64")]
    if let (true, Some(x), Some(w)) = (bf16::available(), single(x), single(w)) {
        let [_, n, k] = size;
        let x = bf16::Words::new(x, k);
        let multiply = |[rows, columns]: [usize; 2], [i, j]: [usize; 2], dst: *mut T, add: bool| {
            let size = [rows, columns, k];
            // SAFETY: the instructions are there, `T` is f32, `shared` vouches for the result.
            unsafe { bf16::multiply(size, dst.cast(), n, add, (&x, i), &w[j * k..]) };
        };
        return shared(op, size, shares(size[0], n, parts()), start, multiply).map(Some);
    }
    let _ = (op, size, x, w, start);
    Ok(None)
}

/// A new matrix `[m, n]` of sums of `k` products, computed in parts of so many rows and columns by
/// `part(size, first element, result, whether to add to it)`.
fn shared<T: Element>(
    op: &'static str,
    [m, n, k]: [usize; 3],
    [rows, columns]: [usize; 2],
    start: Option<&[T]>,
    part: impl Fn([usize; 2], [usize; 2], *mut T, bool) + Sync,
) -> Result<Vec<T>> {
    if k == 0 {
        return Ok(start.map_or_else(|| vec![T::zero(); m * n], |start| start.repeat(m)));
    }
    let output: Output<T> = Output::new(op, m * n)?;
    if m > 0 && n > 0 {
        let across = n.div_ceil(columns);
        (0..m.div_ceil(rows) * across).into_par_iter().for_each(|task| {
            let (i, j) = (task / across * rows, task % across * columns);
            let (rows, columns) = (rows.min(m - i), columns.min(n - j));
            let dst = output.at(i * n + j, (rows - 1) * n + columns);
            // SAFETY: this task's part of the output.
            unsafe { begin(dst, n, rows, start.map(|start| &start[j..j + columns])) };
            part([rows, columns], [i, j], dst, start.is_some());
        });
    }
    // SAFETY: the parts are all of the output.
    Ok(unsafe { output.into_vec() })
}

/// Writes what sums begin with to rows `stride` apart.
///
/// # Safety
/// They may be written.
unsafe fn begin<T: Element>(dst: *mut T, stride: usize, rows: usize, start: Option<&[T]>) {
    let Some(start) = start else { return };
    for r in 0..rows {
        // SAFETY: the caller's.
        unsafe { dst.add(r * stride).copy_from_nonoverlapping(start.as_ptr(), start.len()) };
    }
}

/// Parts of a result: some for each thread.
fn parts() -> usize {
    4 * rayon::current_num_threads()
}

/// Rows and columns of so many parts of a result, of whole register tiles. A few rows are not cut, if
/// there are columns enough: each part then packs columns that no other one needs.
fn shares(m: usize, n: usize, wanted: usize) -> [usize; 2] {
    const FEW: usize = 256;
    let most = |size: usize, least: usize| size.div_ceil(least).clamp(1, wanted);
    let uncut = m <= FEW && n >= wanted / 2 * LEAST[1];
    let down = if uncut { 1 } else { most(m, LEAST[0]) };
    let across = most(n, LEAST[1]).min(wanted.div_ceil(down));
    let [height, width] = multiply::tile_size(level());
    [m.div_ceil(down).next_multiple_of(height), n.div_ceil(across).next_multiple_of(width)]
}

/// `dst = factor * a · b`.
///
/// # Safety
/// As [`product_at`].
unsafe fn scaled<T: Element>(
    [m, n, k]: [usize; 3],
    dst: *mut T,
    [row, column]: [usize; 2],
    accumulate: bool,
    factor: T,
    [a, b]: [Matrix<T>; 2],
) {
    assert!(m > 0 && n > 0 && k > 0 && a.holds(m, k) && b.holds(k, n));
    let strides = [row, column];
    if let (Some(a), Some(b)) = (a.single(), b.single()) {
        let (dst, factor) = (dst.cast(), factor.to_f64() as f32);
        // SAFETY: `T` is f32; the sizes were checked, the caller vouches for `dst`.
        unsafe { multiply(level(), [m, n, k], dst, strides, accumulate, factor, [a, b]) };
        return;
    }
    // SAFETY: as above.
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
            gemm::Parallelism::None,
        );
    }
}
