//! Lines of an image, copied to where they are transformed and back.

use crate::{Complex, Real};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of an axis that are transformed together: a cache line of f32.
const COLUMNS: usize = 8;

/// Rows that a task writes at a time.
const ROWS: usize = 8;

/// Numbers for which there is room when several threads share the columns of one chunk.
const ROOM: usize = 1 << 20;

/// Room for lines, and for their plan.
pub(super) fn buffers<T: Real>(lines: usize, scratch: usize) -> [Vec<Complex<T>>; 2] {
    [lines, scratch].map(|len| vec![Complex::default(); len])
}

/// Copies a row, times factors, to the places `range` of a line of zeros that begins with its middle.
pub(super) fn load<T: Real>(
    row: &[Complex<T>],
    range: &Range<usize>,
    factors: Option<&[T]>,
    line: &mut [Complex<T>],
) {
    let below = line.len() / 2 - range.start;
    let above = range.len() - below;
    let low = line.len() - below;
    line[above..low].fill(Complex::default());
    copy(&row[below..], factors.map(|f| &f[below..]), &mut line[..above]);
    copy(&row[..below], factors.map(|f| &f[..below]), &mut line[low..]);
}

/// Copies the places `range` of such a line, times factors, to a row.
pub(super) fn store<T: Real>(
    line: &[Complex<T>],
    range: &Range<usize>,
    factors: Option<&[T]>,
    row: &mut [Complex<T>],
) {
    let below = line.len() / 2 - range.start;
    let above = range.len() - below;
    let low = line.len() - below;
    copy(&line[..above], factors.map(|f| &f[below..]), &mut row[below..]);
    copy(&line[low..], factors.map(|f| &f[..below]), &mut row[..below]);
}

fn copy<T: Real>(from: &[Complex<T>], factors: Option<&[T]>, to: &mut [Complex<T>]) {
    let Some(factors) = factors else { return to.copy_from_slice(from) };
    for ((to, from), &factor) in to.iter_mut().zip(from).zip(factors) {
        *to = from.scale(factor);
    }
}

/// The rows of an axis that are read or written; others are zero, or left as they are.
pub(super) struct Span<'a, T> {
    pub(super) range: Range<usize>,
    /// The row of the axis that a chunk begins with.
    pub(super) base: usize,
    /// Of each row of the range.
    pub(super) factors: Option<&'a [T]>,
}

impl<T: Real> Span<'_, T> {
    /// The factor of a row.
    fn factor(&self, row: usize) -> T {
        self.factors.map_or(T::one(), |factors| factors[row - self.range.start])
    }
}

/// Lines along an axis of chunks `[rows, inner]`.
pub(super) struct Lines<'a, T: Real> {
    /// Room that the plan needs.
    pub(super) scratch: usize,
    pub(super) len: usize,
    /// Distance of the elements of a line.
    pub(super) inner: usize,
    /// Rows of a chunk.
    pub(super) rows: usize,
    pub(super) read: Span<'a, T>,
    pub(super) write: Span<'a, T>,
}

impl<T: Real> Lines<'_, T> {
    /// Reads the lines of the chunks for which `wanted` is true, lets `work` change some at a time, and
    /// writes them. `work` gets the number of the first of them in its chunk, the lines, which begin with
    /// their middle, and room for the plan.
    pub(super) fn run(
        &self,
        data: &mut [Complex<T>],
        alone: bool,
        wanted: impl Fn(usize) -> bool + Sync,
        work: impl Fn(usize, &mut [Complex<T>], &mut [Complex<T>]) + Sync,
    ) {
        let size = self.rows * self.inner;
        let chunks = data.len() / size;
        if !alone && chunks < 2 * rayon::current_num_threads() && self.inner >= 2 * COLUMNS {
            for (_, chunk) in data.chunks_mut(size).enumerate().filter(|(i, _)| wanted(*i)) {
                self.shared(chunk, &work);
            }
            return;
        }
        let columns = COLUMNS.min(self.inner);
        let least = super::least(size, alone);
        data.par_chunks_mut(size).enumerate().with_min_len(least).for_each_init(
            || buffers(columns * self.len, self.scratch),
            |[lines, scratch], (at, chunk)| {
                if !wanted(at) {
                    return;
                }
                for first in (0..self.inner).step_by(columns) {
                    let count = columns.min(self.inner - first);
                    let lines = &mut lines[..count * self.len];
                    self.read(chunk, first, lines);
                    work(first, lines, scratch);
                    self.write(lines, chunk, first);
                }
            },
        );
    }

    /// One chunk, by all threads.
    fn shared(
        &self,
        chunk: &mut [Complex<T>],
        work: &(impl Fn(usize, &mut [Complex<T>], &mut [Complex<T>]) + Sync),
    ) {
        let most = (ROOM / (COLUMNS * self.len)).max(1) * COLUMNS;
        let mut lines = vec![Complex::default(); most.min(self.inner) * self.len];
        for start in (0..self.inner).step_by(most) {
            let count = most.min(self.inner - start);
            let lines = &mut lines[..count * self.len];
            lines.par_chunks_mut(COLUMNS * self.len).enumerate().for_each_init(
                || buffers(0, self.scratch),
                |[_, scratch], (block, lines)| {
                    let first = start + block * COLUMNS;
                    self.read(chunk, first, lines);
                    work(first, lines, scratch);
                },
            );
            chunk.par_chunks_mut(ROWS * self.inner).enumerate().for_each(|(block, rows)| {
                for (r, row) in rows.chunks_exact_mut(self.inner).enumerate() {
                    let at = self.write.base + block * ROWS + r;
                    if self.write.range.contains(&at) {
                        self.write_row(lines, at, &mut row[start..start + count]);
                    }
                }
            });
        }
    }

    /// Copies as many columns from `first` on as there are lines.
    fn read(&self, chunk: &[Complex<T>], first: usize, lines: &mut [Complex<T>]) {
        let Span { range, base, .. } = &self.read;
        if range.len() < self.len {
            lines.fill(Complex::default());
        }
        let count = lines.len() / self.len;
        for at in range.clone() {
            let row = &chunk[(at - base) * self.inner + first..][..count];
            let (place, factor) = (self.place(at), self.read.factor(at));
            for (c, v) in row.iter().enumerate() {
                lines[c * self.len + place] = v.scale(factor);
            }
        }
    }

    /// Copies the lines to the columns from `first` on.
    fn write(&self, lines: &[Complex<T>], chunk: &mut [Complex<T>], first: usize) {
        let Span { range, base, .. } = &self.write;
        let count = lines.len() / self.len;
        for at in range.clone() {
            let row = &mut chunk[(at - base) * self.inner + first..][..count];
            self.write_row(lines, at, row);
        }
    }

    fn write_row(&self, lines: &[Complex<T>], at: usize, row: &mut [Complex<T>]) {
        let (place, factor) = (self.place(at), self.write.factor(at));
        for (c, v) in row.iter_mut().enumerate() {
            *v = lines[c * self.len + place].scale(factor);
        }
    }

    /// Where a row is in lines that begin with their middle.
    fn place(&self, at: usize) -> usize {
        let half = self.len / 2;
        if at >= half { at - half } else { at + self.len - half }
    }
}
