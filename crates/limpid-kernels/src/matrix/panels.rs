//! A right factor that is packed once for all products it takes part in.

#![allow(unsafe_code)] // tasks write to parts of memory that is not zeroed first

use super::multiply::{
    Part, SLACK, SUM, Target, Vectors, Work, at_level, left_len, pack, tile_size, with_panels,
};
use super::{Matrix, product_at};
use crate::Result;
use crate::element::{Element, single};
use crate::output::Output;
use crate::simd::{Lanes, Level, level};
use rayon::prelude::*;
use std::ops::Range;

/// The most products of a sum that are added before they go to memory: [`Right::multiply`] takes ranges
/// of sums that begin at multiples of it.
pub(crate) const BLOCK: usize = SUM;

/// A right factor `[k, n]`: packed if it is of f32.
pub(crate) enum Right<'a, T> {
    Packed(Panels),
    Plain(Matrix<'a, T>),
}

/// `[block of sums][panel of columns][product][column]`.
pub(crate) struct Panels {
    data: Vec<f32>,
    /// Aligned to a cache line.
    first: usize,
    size: [usize; 2],
    /// Columns of a panel.
    width: usize,
    level: Level,
}

impl<'a, T: Element> Right<'a, T> {
    /// Packs the factor, on this thread.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub(crate) fn new(op: &'static str, size: [usize; 2], b: Matrix<'a, T>) -> Result<Self> {
        Self::packed(op, size, b, false)
    }

    /// Packs the factor, on all threads.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub(super) fn shared(op: &'static str, size: [usize; 2], b: Matrix<'a, T>) -> Result<Self> {
        Self::packed(op, size, b, true)
    }

    fn packed(op: &'static str, size: [usize; 2], b: Matrix<'a, T>, shared: bool) -> Result<Self> {
        match b.single() {
            Some(b) => Panels::new(op, level(), size, b, shared).map(Self::Packed),
            None => Ok(Self::Plain(b)),
        }
    }

    /// `dst = a · b`, added to what is there if `accumulate`, on this thread: `rows` of `a`, some columns of
    /// `b` and some products of the sums, of which `a` has these alone. Ranges of columns begin at
    /// multiples of a panel's width, as those of [`BLOCK`] are, those of sums at multiples of [`BLOCK`], and
    /// these end at one or at the last product. Rows of `dst` are `stride` apart; what lies between them stays.
    pub(crate) fn multiply(
        &self,
        dst: &mut [T],
        stride: usize,
        rows: usize,
        [columns, sums]: [Range<usize>; 2],
        accumulate: bool,
        a: Matrix<T>,
    ) {
        let width = columns.len();
        let within = rows == 0 || (stride >= width && dst.len() >= (rows - 1) * stride + width);
        assert!(within, "matrix product out of bounds");
        let to = dst.as_mut_ptr();
        // SAFETY: the result lies within `dst`, which is borrowed mutably.
        unsafe { self.multiply_at(to, stride, rows, [columns, sums], accumulate, a) };
    }

    /// As [`Right::multiply`].
    ///
    /// # Safety
    /// `dst` may be written there, no one else accesses it meanwhile, and it is initialised if
    /// `accumulate`.
    pub(super) unsafe fn multiply_at(
        &self,
        dst: *mut T,
        stride: usize,
        rows: usize,
        [columns, sums]: [Range<usize>; 2],
        accumulate: bool,
        a: Matrix<T>,
    ) {
        if rows == 0 || columns.is_empty() || sums.is_empty() {
            return;
        }
        assert!(a.holds(rows, sums.len()), "matrix product out of bounds");
        match (self, single(a.data)) {
            (Self::Packed(panels), Some(data)) => {
                let a = Vectors::rows(Matrix { data, row: a.row, column: a.column });
                let dst = Target { data: dst.cast(), row: stride, column: 1 };
                // SAFETY: `a` was checked, the panels check the ranges, `T` is f32.
                unsafe { panels.multiply(dst, rows, [columns, sums], accumulate, a) };
            }
            (Self::Plain(b), _) => {
                let size = [rows, columns.len(), sums.len()];
                let b = b.from(sums.start, columns.start);
                // SAFETY: the caller's.
                unsafe { product_at(size, dst, [stride, 1], accumulate, a, b) };
            }
            (Self::Packed(_), None) => unreachable!("only factors of f32 are packed"),
        }
    }
}

impl Panels {
    pub(super) fn new(
        op: &'static str,
        level: Level,
        [k, n]: [usize; 2],
        b: Matrix<f32>,
        shared: bool,
    ) -> Result<Self> {
        /// Columns that a task packs: whole panels.
        const COLUMNS: usize = 128;
        assert!(k == 0 || n == 0 || b.holds(k, n), "matrix product out of bounds");
        let [_, width] = tile_size(level);
        let padded = n.next_multiple_of(width);
        let output: Output<f32> = Output::new(op, k * padded + SLACK)?;
        let first = output.at(0, 0).align_offset(64).min(SLACK);
        let across = n.div_ceil(COLUMNS);
        let tasks = (0..k.div_ceil(SUM) * across).into_par_iter();
        tasks.with_min_len(if shared { 1 } else { usize::MAX }).for_each(|task| {
            let (p, j) = (task / across * SUM, task % across * COLUMNS);
            let (len, columns) = (SUM.min(k - p), COLUMNS.min(n - j));
            let size = columns.next_multiple_of(width) * len;
            let to = output.at(first + p * padded + j * len, size);
            // SAFETY: the panels of this task; the factor was checked.
            unsafe {
                let from = Vectors::rows(b.transposed()).from(j, p);
                if columns < columns.next_multiple_of(width) {
                    // the lanes that fill up the last panel
                    to.add(size - width * len).write_bytes(0, width * len);
                }
                at_level(level, Pack { size: [columns, len], from, to });
            }
        });
        // SAFETY: tasks and these slices are all of it.
        let data = unsafe {
            output.at(0, first).write_bytes(0, first);
            output.at(first + k * padded, SLACK - first).write_bytes(0, SLACK - first);
            output.into_vec()
        };
        Ok(Self { data, first, size: [k, n], width, level })
    }

    /// As [`Right::multiply`].
    ///
    /// # Safety
    /// As there; `a` is there too.
    pub(super) unsafe fn multiply(
        &self,
        dst: Target,
        rows: usize,
        [columns, sums]: [Range<usize>; 2],
        accumulate: bool,
        a: Vectors,
    ) {
        let ([k, n], padded) = (self.size, self.size[1].next_multiple_of(self.width));
        let starts = columns.start.is_multiple_of(self.width) && sums.start.is_multiple_of(SUM);
        assert!(starts && columns.end <= n && sums.end <= k, "matrix product out of bounds");
        for p in sums.clone().step_by(SUM) {
            let end = k.min(p + SUM);
            let len = end - p;
            assert!(sums.end >= end, "a block of sums is multiplied whole");
            let part = Part {
                size: [rows, columns.len(), len],
                dst,
                add: accumulate || p > sums.start,
                factor: 1.0,
                // SAFETY: the caller vouches for `a`.
                a: unsafe { a.from(0, p - sums.start) },
                b: self.data[self.first + p * padded + columns.start * len..].as_ptr(),
            };
            // SAFETY: the ranges were checked, the rest is the caller's.
            unsafe { at_level(self.level, part) };
        }
    }
}

/// Packs columns of some products.
struct Pack {
    size: [usize; 2],
    from: Vectors,
    to: *mut f32,
}

impl Work for Pack {
    type Result = ();

    unsafe fn run<S: Lanes, const R: usize, const N: usize>(self) {
        let [columns, len] = self.size;
        // SAFETY: the caller's.
        unsafe {
            S::run(
                #[inline(always)]
                || pack::<S>(N * S::LANES, columns, len, self.from, self.to),
            );
        }
    }
}

impl Work for Part {
    type Result = ();

    unsafe fn run<S: Lanes, const R: usize, const N: usize>(self) {
        let [m, _, len] = self.size;
        with_panels(left_len::<R>(m, len), |panels| {
            // SAFETY: the caller's; room for the left factor.
            unsafe {
                S::run(
                    #[inline(always)]
                    || self.compute::<S, R, N>(panels.as_mut_ptr()),
                );
            }
        });
    }
}
