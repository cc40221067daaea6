//! Matrix products of f32 on one thread, of matrices in any order.
//!
//! Factors are packed to panels in the order in which a register tile reads them: a block of the
//! left one stays in the second-level cache, a strip of the right one in the first (Goto & van de
//! Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). A left factor whose rows are
//! contiguous is read where it is, unless their distance is bad for caches.

#![allow(unsafe_code)] // vector instructions

use super::{Left, Matrix, Rows, block};
use crate::simd::{self, Lanes, Level};
use std::cell::RefCell;

/// Rows of the left factor, products and columns of the right factor that are packed at a time.
const ROWS: usize = 128;
const SUM: usize = 256;
const COLUMNS: usize = 512;

/// Elements of the largest register tile.
const TILE: usize = 256;

/// What a transposition in registers may write past the end of a panel.
const SLACK: usize = 16;

thread_local!(static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });

/// `m × n` elements, rows and columns so far apart.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    row: usize,
    column: usize,
}

/// `m` or `n` vectors of `len` elements: vector `i` has element `p` at `i * across + p * along`.
#[derive(Clone, Copy)]
struct Vectors {
    data: *const f32,
    across: usize,
    along: usize,
}

impl Vectors {
    /// The vectors from `i`, each from element `p`.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn from(self, i: usize, p: usize) -> Self {
        // SAFETY: the caller vouches for the element.
        Self { data: unsafe { self.data.add(i * self.across + p * self.along) }, ..self }
    }
}

/// `dst[m × n] = factor · a[m × k] · b[k × n]`, added to what is there if `accumulate`. `dst` has the given
/// row and column strides.
///
/// # Safety
/// The machine has the level. `a` and `b` hold matrices of these sizes. `dst` may be written at
/// all those positions, no one else accesses them meanwhile, and they are initialised if
/// `accumulate`.
pub(super) unsafe fn multiply(
    level: Level,
    size: [usize; 3],
    dst: *mut f32,
    strides: [usize; 2],
    accumulate: bool,
    factor: f32,
    factors: [Matrix<f32>; 2],
) {
    // SAFETY: the caller vouches for level and matrices.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                run::<simd::Avx512, 8, 2>(size, dst, strides, accumulate, factor, factors)
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => run::<simd::Avx2, 6, 2>(size, dst, strides, accumulate, factor, factors),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => run::<simd::Neon, 8, 2>(size, dst, strides, accumulate, factor, factors),
            Level::Portable => {
                run::<simd::Portable, 4, 1>(size, dst, strides, accumulate, factor, factors)
            }
        }
    }
}

/// Whether a left factor of such strides is packed, and not read where it is.
pub(super) fn is_packed(row: usize, column: usize) -> bool {
    // rows that lie a multiple of this apart share a few sets of the caches, and push each other out
    const CLASH: usize = 512;
    column != 1 || row.is_multiple_of(CLASH)
}

unsafe fn run<S: Lanes, const R: usize, const N: usize>(
    [m, n, k]: [usize; 3],
    dst: *mut f32,
    [row, column]: [usize; 2],
    accumulate: bool,
    factor: f32,
    [a, b]: [Matrix<f32>; 2],
) {
    let a = Vectors { data: a.data.as_ptr(), across: a.row, along: a.column };
    let b = Vectors { data: b.data.as_ptr(), across: b.column, along: b.row };
    // registers run along contiguous columns, unless there are too few to fill them
    let swap = if column == 1 { 2 * n <= N * S::LANES && m > n } else { row == 1 && m >= S::LANES };
    let (m, n, a, b) = if swap { (n, m, b, a) } else { (m, n, a, b) };
    let (row, column) = if swap { (column, row) } else { (row, column) };
    let dst = Target { data: dst, row, column };
    let (width, sum) = (N * S::LANES, SUM.min(k));
    let a_len = ROWS.min(m).next_multiple_of(R) * sum + SLACK;
    let b_len = COLUMNS.min(n).next_multiple_of(width) * sum + SLACK;
    PANELS.with_borrow_mut(|panels| {
        if panels.len() < a_len + b_len + SLACK {
            panels.resize(a_len + b_len + SLACK, 0.0);
        }
        let skip = panels.as_ptr().align_offset(64).min(SLACK);
        let (b_panels, a_panels) = panels[skip..].split_at_mut(b_len.next_multiple_of(SLACK));
        let panels = [a_panels.as_mut_ptr(), b_panels.as_mut_ptr()];
        // SAFETY: the level, the matrices and the lengths of the panels.
        unsafe {
            S::run(
                #[inline(always)]
                || blocks::<S, R, N>([m, n, k], dst, accumulate, factor, [a, b], panels),
            );
        }
    });
}

#[inline(always)]
unsafe fn blocks<S: Lanes, const R: usize, const N: usize>(
    [m, n, k]: [usize; 3],
    dst: Target,
    accumulate: bool,
    factor: f32,
    [a, b]: [Vectors; 2],
    [a_panels, b_panels]: [*mut f32; 2],
) {
    let width = N * S::LANES;
    let direct = factor == 1.0 && !is_packed(a.across, a.along);
    // whole tiles
    let height = ROWS / R * R;
    for j in (0..n).step_by(COLUMNS) {
        for p in (0..k).step_by(SUM) {
            let (columns, len) = (COLUMNS.min(n - j), SUM.min(k - p));
            let add = accumulate || p > 0;
            // SAFETY: the blocks lie within the matrices, and the panels have room for one each.
            unsafe {
                pack::<S>(width, columns, len, b.from(j, p), b_panels);
                for i in (0..m).step_by(height) {
                    let rows = height.min(m - i);
                    // whole tiles of contiguous rows are read where they are
                    let there = if direct { rows - rows % R } else { 0 };
                    if there < rows {
                        pack::<S>(R, rows - there, len, a.from(i + there, p), a_panels);
                    }
                    if factor != 1.0 {
                        scale::<S>(factor, a_panels, rows.next_multiple_of(R) * len);
                    }
                    for c in (0..columns).step_by(width) {
                        for r in (0..rows).step_by(R) {
                            let left = if r < there {
                                let data = a.from(i + r, p).data;
                                Left { data, row: a.across, column: 1 }
                            } else {
                                Left { data: a_panels.add((r - there) * len), row: 1, column: R }
                            };
                            let right =
                                Rows { data: b_panels.add(c * len).cast_const(), row: width };
                            let at = dst.data.add((i + r) * dst.row + (j + c) * dst.column);
                            let size = [R.min(rows - r), width.min(columns - c)];
                            tile::<S, R, N>(
                                size,
                                len,
                                left,
                                right,
                                Target { data: at, ..dst },
                                add,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Multiplies elements by a factor; the whole vector at the end too.
#[inline(always)]
unsafe fn scale<S: Lanes>(factor: f32, data: *mut f32, len: usize) {
    for i in (0..len).step_by(S::LANES) {
        // SAFETY: panels have slack at their end.
        unsafe {
            let at = data.add(i);
            S::store(at, S::mul(S::load(at), S::splat(factor)));
        }
    }
}

/// One register tile, of which `rows × columns` lie in the matrix.
#[inline(always)]
unsafe fn tile<S: Lanes, const R: usize, const N: usize>(
    [rows, columns]: [usize; 2],
    len: usize,
    a: Left,
    b: Rows<*const f32>,
    dst: Target,
    add: bool,
) {
    let width = N * S::LANES;
    // SAFETY: the panels hold `len` products of a whole tile; `dst` is written within the matrix.
    unsafe {
        if rows == R && columns == width && dst.column == 1 {
            block::<S, R, N>(len, a, b, Rows { data: dst.data, row: dst.row }, add);
            return;
        }
        let mut sums = [0f32; TILE];
        let to = Rows { data: sums.as_mut_ptr(), row: width };
        block::<S, R, N>(len, a, b, to, false);
        // the inner loop runs where elements are close
        let at = |r: usize, c: usize| (dst.data.add(r * dst.row + c * dst.column), r * width + c);
        let put = |(to, from): (*mut f32, usize)| {
            to.write(if add { to.read() + sums[from] } else { sums[from] });
        };
        if dst.column == 1 {
            for r in 0..rows {
                for c in 0..columns {
                    put(at(r, c));
                }
            }
        } else {
            for c in 0..columns {
                for r in 0..rows {
                    put(at(r, c));
                }
            }
        }
    }
}

/// Copies `count` vectors of `len` elements to panels of `width` vectors `[panel][element][vector]`;
/// what fills up the last panel is arbitrary. Writes up to [`SLACK`] elements past the end.
#[inline(always)]
unsafe fn pack<S: Lanes>(width: usize, count: usize, len: usize, from: Vectors, to: *mut f32) {
    // SAFETY: vectors and elements lie within the matrix, what is written within the panels.
    unsafe {
        if from.across == 1 {
            // element by element, since that is how they lie in memory
            for p in 0..len {
                let from = from.from(0, p).data;
                for i in (0..count).step_by(width) {
                    let to = to.add(i * len + p * width);
                    copy::<S>(from.add(i), to, width.min(count - i));
                }
            }
            return;
        }
        for i in (0..count).step_by(width) {
            let rows = width.min(count - i);
            let (from, to) = (from.from(i, 0), to.add(i * len));
            let whole = if from.along == 1 { len - len % S::LANES } else { 0 };
            for p in (0..whole).step_by(S::LANES) {
                for r in (0..rows).step_by(S::LANES) {
                    // a square wider than the panel also writes what the next row overwrites
                    let (source, to) = (from.from(r, p), to.add(p * width + r));
                    S::transpose(source.data, from.across, rows - r, to, width, 0..S::LANES);
                }
            }
            for p in whole..len {
                for r in 0..rows {
                    *to.add(p * width + r) = *from.from(r, p).data;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<S: Lanes>(from: *const f32, to: *mut f32, len: usize) {
    let whole = len - len % S::LANES;
    // SAFETY: the caller vouches for `len` elements.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            S::store(to.add(i), S::load(from.add(i)));
        }
        for i in whole..len {
            *to.add(i) = *from.add(i);
        }
    }
}
