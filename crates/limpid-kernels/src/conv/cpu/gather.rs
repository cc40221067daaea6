//! Where the taps of a kernel read their source, and the copying of what they read (im2col).

use crate::element::Element;
use crate::matrix::Matrix;
use crate::parts::Parts;
use crate::simd::vectorised;
use std::ops::Range;

/// One dimension: output `o` reads through tap `t` at `o * step + offsets[t]`, or zero where that
/// lies outside of the source.
#[derive(Clone)]
pub(super) struct Axis {
    /// Number of outputs.
    pub len: usize,
    /// Number of source elements.
    pub source: usize,
    pub step: usize,
    pub offsets: Vec<isize>,
    /// Per tap, the outputs that read inside of the source.
    pub inside: Vec<Range<usize>>,
}

impl Axis {
    pub(super) fn new(len: usize, source: usize, step: usize, offsets: Vec<isize>) -> Self {
        let inside = |&offset: &isize| {
            let first = offset.min(0).unsigned_abs().div_ceil(step).min(len);
            let room = (source as isize - offset).max(0) as usize;
            first..room.div_ceil(step).clamp(first, len)
        };
        Self { inside: offsets.iter().map(inside).collect(), len, source, step, offsets }
    }

    /// The source position that `output` reads through `tap`, if there is one.
    #[inline]
    pub(super) fn read(&self, output: usize, tap: usize) -> Option<usize> {
        self.inside[tap].contains(&output).then(|| self.position(output, tap))
    }

    /// The source position that `output` reads through `tap`, known to be inside.
    #[inline]
    pub(super) fn position(&self, output: usize, tap: usize) -> usize {
        ((output * self.step) as isize + self.offsets[tap]) as usize
    }

    /// The first of `outputs` that reads inside through `tap`, and the one after the last.
    #[inline]
    pub(super) fn clip(&self, tap: usize, outputs: &Range<usize>) -> (usize, usize) {
        let inside = &self.inside[tap];
        let lo = inside.start.clamp(outputs.start, outputs.end);
        (lo, inside.end.clamp(lo, outputs.end))
    }
}

/// All three dimensions.
pub(super) struct Gather {
    pub axes: [Axis; 3],
}

/// A piece of one output row.
pub(super) struct Segment {
    /// Its position in slowest and second dimension.
    pub z: usize,
    pub y: usize,
    /// Its range in the fastest dimension.
    pub x: Range<usize>,
}

impl Gather {
    pub(super) fn new(axes: [Axis; 3]) -> Self {
        Self { axes }
    }

    /// Number of taps.
    pub(super) fn taps(&self) -> usize {
        self.axes.iter().map(|axis| axis.offsets.len()).product()
    }

    /// Number of output pixels.
    pub(super) fn pixels(&self) -> usize {
        self.axes.iter().map(|axis| axis.len).product()
    }

    /// Number of source pixels.
    pub(super) fn source_pixels(&self) -> usize {
        self.axes.iter().map(|axis| axis.source).product()
    }

    /// Whether every output pixel reads just its own source pixel.
    pub(super) fn is_identity(&self) -> bool {
        let same = |a: &Axis| a.len == a.source && a.step == 1 && a.offsets == [0];
        self.axes.iter().all(same)
    }

    /// The rows of a range of output pixels, each with its place in the range.
    #[inline]
    pub(super) fn segments(&self, pixels: Range<usize>) -> impl Iterator<Item = (usize, Segment)> {
        let (height, width) = (self.axes[1].len, self.axes[2].len);
        let first = pixels.start;
        let (mut row, mut x) = (first / width, first % width);
        let mut at = 0;
        std::iter::from_fn(move || {
            let left = pixels.len() - at;
            if left == 0 {
                return None;
            }
            let len = left.min(width - x);
            let segment = Segment { z: row / height, y: row % height, x: x..x + len };
            let place = at;
            (at, row, x) = (at + len, row + 1, 0);
            Some((place, segment))
        })
    }

    /// The source row that a segment reads through the taps `z` and `y`, if it is inside.
    #[inline]
    pub(super) fn source_row<'a, T>(
        &self,
        plane: &'a [T],
        segment: &Segment,
        [z, y]: [usize; 2],
    ) -> Option<&'a [T]> {
        let [az, ay, ax] = &self.axes;
        let row = az.read(segment.z, z)? * ay.source + ay.read(segment.y, y)?;
        Some(&plane[row * ax.source..][..ax.source])
    }

    /// If the output has the rows of the source: how far its pixels, counted through, lie from
    /// the source pixels that they read through a tap.
    fn shift(&self, [z, y, x]: [usize; 3]) -> Option<isize> {
        let [az, ay, ax] = &self.axes;
        let same_rows = ay.len == ay.source && ax.len == ax.source;
        let unit_step = az.step == 1 && ay.step == 1 && ax.step == 1;
        let rows = az.offsets[z] * ay.len as isize + ay.offsets[y];
        (same_rows && unit_step).then(|| rows * ax.len as isize + ax.offsets[x])
    }

    /// Copies what `pixels` read of `plane` through one tap to `column`.
    #[inline(always)]
    fn copy_tap<T: Element>(
        &self,
        plane: &[T],
        pixels: Range<usize>,
        tap: usize,
        column: &mut [T],
    ) {
        let [az, ay, ax] = &self.axes;
        let (x, rest) = (tap % ax.offsets.len(), tap / ax.offsets.len());
        let (y, z) = (rest % ay.offsets.len(), rest / ay.offsets.len());
        let shift = self.shift([z, y, x]);
        if let Some(shift) = shift {
            // one copy for all rows; what it puts in the place of outside pixels is zeroed below
            let outside = |bound: usize| (bound as isize + shift).clamp(0, plane.len() as isize);
            let from = outside(pixels.start)..outside(pixels.end);
            if from.start < from.end {
                let at = (from.start - shift) as usize - pixels.start;
                let source = &plane[from.start as usize..from.end as usize];
                column[at..at + source.len()].copy_from_slice(source);
            }
            let all_inside = |axis: &Axis, tap: usize| axis.inside[tap] == (0..axis.len);
            if all_inside(az, z) && all_inside(ay, y) && all_inside(ax, x) {
                return;
            }
        }
        for (at, segment) in self.segments(pixels) {
            let dst = &mut column[at..at + segment.x.len()];
            let Some(row) = self.source_row(plane, &segment, [z, y]) else {
                dst.fill(T::zero());
                continue;
            };
            let (lo, hi) = ax.clip(x, &segment.x);
            dst[..lo - segment.x.start].fill(T::zero());
            dst[hi - segment.x.start..].fill(T::zero());
            if shift.is_some() || lo == hi {
                continue;
            }
            let dst = &mut dst[lo - segment.x.start..hi - segment.x.start];
            let row = &row[ax.position(lo, x)..];
            if ax.step == 1 {
                dst.copy_from_slice(&row[..dst.len()]);
            } else if ax.step == 2 {
                // a loop of its own, for the compiler to shuffle registers
                let (last, pairs) = (row[2 * (dst.len() - 1)], row.as_chunks::<2>().0);
                for (d, pair) in dst.iter_mut().zip(pairs) {
                    *d = pair[0];
                }
                dst[dst.len() - 1] = last;
            } else {
                for (d, &s) in dst.iter_mut().zip(row.iter().step_by(ax.step)) {
                    *d = s;
                }
            }
        }
    }

    /// Fills the rows `rows` (numbered channel by channel, tap by tap) of the column matrix of a
    /// tile. Channels count from `first`; rows of `columns` are `tile.len()` long.
    pub(super) fn fill_columns<T: Element>(
        &self,
        source: &Parts<T>,
        first: usize,
        rows: Range<usize>,
        tile: &Tile,
        columns: &mut [T],
    ) {
        let taps = self.taps();
        vectorised(
            #[inline(always)]
            || {
                for (row, column) in rows.zip(columns.chunks_exact_mut(tile.len())) {
                    let (channel, tap) = (row / taps, row % taps);
                    let columns = column.chunks_exact_mut(tile.pixels.len());
                    for (n, column) in tile.images.clone().zip(columns) {
                        self.copy_tap(
                            source.plane(n, first + channel),
                            tile.pixels.clone(),
                            tap,
                            column,
                        );
                    }
                }
            },
        );
    }
}

/// Output pixels worked on together: part of one image, or several whole small images.
pub(super) struct Tile {
    pub images: Range<usize>,
    pub pixels: Range<usize>,
}

impl Tile {
    /// Columns of the tile.
    pub(super) fn len(&self) -> usize {
        self.images.len() * self.pixels.len()
    }

    /// Elements that [`Tile::rows`] needs for that many rows.
    pub(super) fn packed_len(&self, rows: usize) -> usize {
        if self.images.len() == 1 { 0 } else { rows * self.len() }
    }

    /// The tile as a matrix of channels by columns: as it lies in memory if it is of one image, else
    /// copied to `packed`. The channels lie in one part and have `pixels` each.
    pub(super) fn rows<'a, T: Copy>(
        &self,
        source: &Parts<'a, T>,
        channels: Range<usize>,
        pixels: usize,
        packed: &'a mut [T],
    ) -> Matrix<'a, T> {
        if self.images.len() == 1 {
            let data = &source.planes(self.images.start, channels)[self.pixels.start..];
            return Matrix::rows(data, pixels);
        }
        for (k, row) in channels.zip(packed.chunks_exact_mut(self.len())) {
            for (n, row) in self.images.clone().zip(row.chunks_exact_mut(pixels)) {
                row.copy_from_slice(source.plane(n, k));
            }
        }
        Matrix::rows(packed, self.len())
    }
}

/// Cuts `batch` images of `pixels` pixels, in rows of `width`, to tiles of about `target` pixels.
pub(super) fn tiles(batch: usize, pixels: usize, width: usize, target: usize) -> Vec<Tile> {
    if 2 * pixels <= target {
        let starts = (0..batch).step_by(target / pixels);
        return starts
            .map(|n| Tile { images: n..batch.min(n + target / pixels), pixels: 0..pixels })
            .collect();
    }
    // whole rows where they are short enough, and all tiles of about one size
    let unit = if width <= target { width } else { 1 };
    let units = pixels / unit;
    let count = pixels.div_ceil(target).min(units);
    let bounds: Vec<usize> = (0..=count).map(|i| units * i / count * unit).collect();
    (0..batch)
        .flat_map(|n| bounds.windows(2).map(move |b| Tile { images: n..n + 1, pixels: b[0]..b[1] }))
        .collect()
}
