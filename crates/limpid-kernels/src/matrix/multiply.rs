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
use std::mem::MaybeUninit;

/// Rows of the left factor, products and columns of the right factor that are packed at a time.
const ROWS: usize = 128;
pub(super) const SUM: usize = 256;
const COLUMNS: usize = 512;

/// Elements of the largest register tile.
const TILE: usize = 256;

/// What a transposition in registers may write past the end of a panel.
pub(super) const SLACK: usize = 16;

thread_local!(static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });

/// `m × n` elements, rows and columns so far apart.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub data: *mut f32,
    pub row: usize,
    pub column: usize,
}

/// `m` or `n` vectors of `len` elements: vector `i` has element `p` at `i * across + p * along`.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    data: *const f32,
    across: usize,
    along: usize,
}

impl Vectors {
    /// The rows of a matrix.
    pub(super) fn rows(matrix: Matrix<f32>) -> Self {
        Self { data: matrix.data.as_ptr(), across: matrix.row, along: matrix.column }
    }

    /// The vectors from `i`, each from element `p`.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    pub(super) unsafe fn from(self, i: usize, p: usize) -> Self {
        // SAFETY: the caller vouches for the element.
        Self { data: unsafe { self.data.add(i * self.across + p * self.along) }, ..self }
    }
}

/// Work that is compiled for each instruction set, with the register tile that suits it.
pub(super) trait Work {
    type Result;
    /// # Safety
    /// As [`Lanes`].
    unsafe fn run<S: Lanes, const R: usize, const N: usize>(self) -> Self::Result;
}

/// Does the work with the instructions of a level.
///
/// # Safety
/// What the work needs.
pub(super) unsafe fn at_level<W: Work>(level: Level, work: W) -> W::Result {
    // SAFETY: a level exists only where the machine has it; the rest is the caller's.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => work.run::<simd::Avx512, 8, 2>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => work.run::<simd::Avx2, 6, 2>(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => work.run::<simd::Neon, 8, 2>(),
            Level::Portable => work.run::<simd::Portable, 4, 1>(),
        }
    }
}

/// Rows and columns of the register tile of a level.
pub(super) fn tile_size(level: Level) -> [usize; 2] {
    struct Size;

    impl Work for Size {
        type Result = [usize; 2];

        unsafe fn run<S: Lanes, const R: usize, const N: usize>(self) -> [usize; 2] {
            [R, N * S::LANES]
        }
    }
    // SAFETY: it runs no instruction of the level.
    unsafe { at_level(level, Size) }
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
    [row, column]: [usize; 2],
    accumulate: bool,
    factor: f32,
    [a, b]: [Matrix<f32>; 2],
) {
    let [a, b] = [Vectors::rows(a), Vectors::rows(b.transposed())];
    let dst = Target { data: dst, row, column };
    // SAFETY: the caller's.
    unsafe { at_level(level, Product { size, dst, accumulate, factor, a, b }) };
}

/// Whether a left factor of such strides is packed, and not read where it is.
fn is_packed(row: usize, column: usize) -> bool {
    // rows that lie a multiple of this apart share a few sets of the caches, and push each other out
    const CLASH: usize = 512;
    column != 1 || row.is_multiple_of(CLASH)
}

/// A product whose factors are packed as it goes.
struct Product {
    size: [usize; 3],
    dst: Target,
    accumulate: bool,
    factor: f32,
    a: Vectors,
    b: Vectors,
}

impl Work for Product {
    type Result = ();

    unsafe fn run<S: Lanes, const R: usize, const N: usize>(mut self) {
        let ([m, n, k], Target { row, column, .. }) = (self.size, self.dst);
        // registers run along contiguous columns, unless there are too few to fill them
        let swap =
            if column == 1 { 2 * n <= N * S::LANES && m > n } else { row == 1 && m >= S::LANES };
        if swap {
            std::mem::swap(&mut self.a, &mut self.b);
            self.size = [n, m, k];
            self.dst = Target { row: column, column: row, ..self.dst };
        }
        let [m, n, k] = self.size;
        let (width, sum) = (N * S::LANES, SUM.min(k));
        let a_len = left_len::<R>(m, sum);
        let b_len = (COLUMNS.min(n).next_multiple_of(width) * sum + SLACK).next_multiple_of(SLACK);
        with_panels(a_len + b_len, |panels| {
            let (b_panels, a_panels) = panels.split_at_mut(b_len);
            let panels = [a_panels.as_mut_ptr(), b_panels.as_mut_ptr()];
            // SAFETY: the level, the matrices and the lengths of the panels.
            unsafe {
                S::run(
                    #[inline(always)]
                    || self.blocks::<S, R, N>(panels),
                );
            }
        });
    }
}

impl Product {
    #[inline(always)]
    unsafe fn blocks<S: Lanes, const R: usize, const N: usize>(
        &self,
        [a_panels, b_panels]: [*mut f32; 2],
    ) {
        let ([m, n, k], dst) = (self.size, self.dst);
        for j in (0..n).step_by(COLUMNS) {
            for p in (0..k).step_by(SUM) {
                let (columns, len) = (COLUMNS.min(n - j), SUM.min(k - p));
                // SAFETY: the blocks lie within the matrices, and the panels have room for one each.
                unsafe {
                    pack::<S>(N * S::LANES, columns, len, self.b.from(j, p), b_panels);
                    let part = Part {
                        size: [m, columns, len],
                        dst: Target { data: dst.data.add(j * dst.column), ..dst },
                        add: self.accumulate || p > 0,
                        factor: self.factor,
                        a: self.a.from(0, p),
                        b: b_panels,
                    };
                    part.compute::<S, R, N>(a_panels);
                }
            }
        }
    }
}

/// A product of which the right factor is packed, and sums are at most [`SUM`] long.
pub(super) struct Part {
    pub size: [usize; 3],
    pub dst: Target,
    pub add: bool,
    pub factor: f32,
    pub a: Vectors,
    pub b: *const f32,
}

impl Part {
    /// Needs room for [`left_len`] elements.
    ///
    /// # Safety
    /// As [`Lanes`]; matrices, panels and room are there.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Lanes, const R: usize, const N: usize>(
        &self,
        a_panels: *mut f32,
    ) {
        let ([m, columns, len], dst, width) = (self.size, self.dst, N * S::LANES);
        let direct = self.factor == 1.0 && !is_packed(self.a.across, self.a.along);
        // whole tiles
        let height = ROWS / R * R;
        for i in (0..m).step_by(height) {
            let rows = height.min(m - i);
            // whole tiles of contiguous rows are read where they are
            let there = if direct { rows - rows % R } else { 0 };
            // SAFETY: the caller's; all offsets lie within the sizes.
            unsafe {
                if there < rows {
                    pack::<S>(R, rows - there, len, self.a.from(i + there, 0), a_panels);
                }
                if self.factor != 1.0 {
                    scale::<S>(self.factor, a_panels, rows.next_multiple_of(R) * len);
                }
                for c in (0..columns).step_by(width) {
                    for r in (0..rows).step_by(R) {
                        let left = if r < there {
                            let data = self.a.from(i + r, 0).data;
                            Left { data, row: self.a.across, column: 1 }
                        } else {
                            Left { data: a_panels.add((r - there) * len), row: 1, column: R }
                        };
                        let right = Rows { data: self.b.add(c * len), row: width };
                        let at = dst.data.add((i + r) * dst.row + c * dst.column);
                        let size = [R.min(rows - r), width.min(columns - c)];
                        let to = Target { data: at, ..dst };
                        tile::<S, R, N>(size, len, left, right, to, self.add);
                    }
                }
            }
        }
    }
}

/// Elements that are packed of a left factor of `m` rows at a time.
pub(super) fn left_len<const R: usize>(m: usize, sum: usize) -> usize {
    ROWS.min(m).next_multiple_of(R) * sum + SLACK
}

/// Lends `f` so many elements of this thread for panels, aligned to a cache line. Not to be nested.
pub(super) fn with_panels(len: usize, f: impl FnOnce(&mut [f32])) {
    PANELS.with_borrow_mut(|panels| {
        if panels.len() < len + SLACK {
            panels.resize(len + SLACK, 0.0);
        }
        let skip = panels.as_ptr().align_offset(64).min(SLACK);
        f(&mut panels[skip..]);
    });
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
        let mut sums = MaybeUninit::<[f32; TILE]>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let to = Rows { data: sums, row: width };
        block::<S, R, N>(len, a, b, to, false);
        // the inner loop runs where elements are close
        let at = |r: usize, c: usize| (dst.data.add(r * dst.row + c * dst.column), r * width + c);
        let put = |(to, from): (*mut f32, usize)| {
            let sum = *sums.add(from);
            to.write(if add { to.read() + sum } else { sum });
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
pub(super) unsafe fn pack<S: Lanes>(
    width: usize,
    count: usize,
    len: usize,
    from: Vectors,
    to: *mut f32,
) {
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
