//! Matrix products: small ones on the calling thread, large ones on all.
//!
//! Those of f32 are our own ([`multiply`]), those of f64, which only tests and small problems need,
//! the gemm crate's.

#![allow(unsafe_code)] // results are written to memory that is not zeroed first

#[cfg(target_arch = "x86_64")]
mod bf16;
mod block;
mod multiply;
mod precision;
#[cfg(test)]
mod tests;

pub(crate) use block::{Left, Rows, block};
pub(crate) use precision::is_half;
pub use precision::{Precision, set_precision};

use crate::Result;
use crate::element::{Element, single};
use crate::output::Output;
use crate::simd::level;
use multiply::multiply;
use rayon::prelude::*;

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
    product_apart(dst, n, [m, n, k], accumulate, factor, a, b);
}

/// As [`product`], to rows `stride` apart; what lies between them stays.
pub(crate) fn product_apart<T: Element>(
    dst: &mut [T],
    stride: usize,
    [m, n, k]: [usize; 3],
    accumulate: bool,
    factor: T,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(stride >= n && dst.len() >= (m - 1) * stride + n, "matrix product out of bounds");
    // SAFETY: the result lies within `dst`, which is borrowed mutably.
    unsafe { scaled([m, n, k], dst.as_mut_ptr(), [stride, 1], accumulate, factor, [a, b]) };
}

/// The distance at which rows of `len` elements may be read where they are, as a left factor.
pub(crate) fn apart(len: usize) -> usize {
    const GAP: usize = 16;
    if multiply::is_packed(len, 1) { len + GAP } else { len }
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
    let packed = multiply::is_packed(a.row, a.column);
    let shares = shares(m, n, packed);
    // rows that push each other out of the caches would be packed for every part anew
    let several = m > 0 && k > 0 && n > shares[1];
    let moved = match several && packed && a.column == 1 && a.single().is_some() {
        true => Some(moved_apart(op, a, m, k)?),
        false => None,
    };
    let a = moved.as_ref().map_or(a, |(rows, stride)| Matrix::rows(rows, *stride));
    shared(op, [m, n, k], shares, start, |[rows, columns], [i, j], dst, add| {
        // SAFETY: `shared` vouches for the part of the result.
        unsafe { product_at([rows, columns, k], dst, [n, 1], add, a.from(i, 0), b.from(0, j)) };
    })
}

/// The rows of a matrix, at a distance at which they need not be packed, and that distance.
fn moved_apart<T: Element>(
    op: &'static str,
    a: Matrix<T>,
    m: usize,
    k: usize,
) -> Result<(Vec<T>, usize)> {
    let stride = apart(k);
    let output: Output<T> = Output::new(op, m * stride)?;
    (0..m).into_par_iter().for_each(|i| {
        let (row, rest) = (&a.data[i * a.row..][..k], stride - k);
        let to = output.at(i * stride, stride);
        // SAFETY: the row of this task.
        unsafe {
            to.copy_from_nonoverlapping(row.as_ptr(), k);
            to.add(k).write_bytes(0, rest);
        }
    });
    // SAFETY: the rows are all of it.
    Ok((unsafe { output.into_vec() }, stride))
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
        return shared(op, size, shares(size[0], n, false), start, multiply).map(Some);
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
            if let Some(start) = start.map(|start| &start[j..j + columns]) {
                for r in 0..rows {
                    // SAFETY: a row of this task's part of the output.
                    unsafe { dst.add(r * n).copy_from_nonoverlapping(start.as_ptr(), columns) };
                }
            }
            part([rows, columns], [i, j], dst, start.is_some());
        });
    }
    // SAFETY: the parts are all of the output.
    Ok(unsafe { output.into_vec() })
}

/// Rows and columns of the parts of a result, some for each thread. Every part packs its columns of
/// the right factor, and its rows of the left one if that is `packed` at all: of the grids with enough
/// parts, that which packs least.
fn shares(m: usize, n: usize, packed: bool) -> [usize; 2] {
    const LEAST: [usize; 2] = [48, 64];
    let wanted = 4 * rayon::current_num_threads();
    let parts = |size: usize, least: usize, wanted: usize| wanted.min(size.div_ceil(least)).max(1);
    let share =
        |size: usize, least: usize, parts: usize| size.div_ceil(parts).next_multiple_of(least);
    let grid = |across: usize| {
        let across = parts(n, LEAST[1], across);
        [parts(m, LEAST[0], wanted.div_ceil(across)), across]
    };
    let cost = |[down, across]: [usize; 2]| {
        let packing = down * n + if packed { across * m } else { 0 };
        (wanted.saturating_sub(down * across), packing)
    };
    let [down, across] = (1..=wanted).map(grid).min_by_key(|grid| cost(*grid)).unwrap_or([1, 1]);
    [share(m, LEAST[0], down), share(n, LEAST[1], across)]
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
