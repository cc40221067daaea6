//! Patches of an image, transformed: `Bᵀ d B` of inputs, `A y Aᵀ` of gradients of outputs.
//!
//! A vector holds one pixel of `LANES` channels. Rows of the image, contiguous per channel, are
//! transposed into scratch, where zeros stand for what lies outside; then each dimension is
//! transformed in place, and the points go to `to[point][tile][channel]`.

use super::tiling::{Run, SIDE, Tiling};
use super::transform::{input4, input6, load6, spread2, spread4};
use crate::parts::Parts;
use crate::simd::Lanes;
use std::ops::Range;

/// The tiles of a run are transformed together; this many fit the first-level cache.
pub(super) fn longest(deep: bool) -> usize {
    if deep { 8 } else { 16 }
}

/// An image `[batch, channels, ..]` and where the patch of a tile lies in it.
#[derive(Clone, Copy)]
pub(super) struct Patches<'a> {
    pub data: &'a Parts<'a, f32>,
    pub channels: usize,
    pub dims: [usize; 3],
    /// The patch of the tile at output 0 begins here.
    pub origin: [isize; 3],
    pub tiling: Tiling,
    pub deep: bool,
}

/// Where transformed tiles go: distance of points and of tiles.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub data: *mut f32,
    pub point: usize,
    pub tile: usize,
}

impl Patches<'_> {
    /// Elements of scratch that [`Patches::spread`] needs.
    pub(super) fn scratch<S: Lanes>(deep: bool) -> usize {
        let slices = if deep { 4 } else { 1 };
        slices * 6 * (SIDE * longest(deep) + 2) * S::LANES
    }

    /// Transforms `LANES` channels from `channel` of the tiles of a run. `GRADIENT`: the patches are
    /// gradients of outputs, of the size of a tile.
    ///
    /// # Safety
    /// As [`Lanes`]; `to` has room for the run, `scratch` for [`Patches::scratch`].
    #[inline(always)]
    pub(super) unsafe fn spread<S: Lanes, const GRADIENT: bool>(
        &self,
        run: &Run,
        channel: usize,
        to: Target,
        scratch: *mut f32,
    ) {
        let [depth, height, width] = self.dims;
        let plane = depth * height * width;
        let lanes = S::LANES.min(self.channels - channel);
        let data = self.data.planes(run.image, channel..channel + lanes);

        let (slices, points) = if self.deep { (4, 4) } else { (1, 1) };
        let slices = if GRADIENT { self.tiling.step[0] } else { slices };
        let rows = if GRADIENT { SIDE } else { 6 };
        let columns = SIDE * run.len + if GRADIENT { 0 } else { 2 };
        let ahead = if channel + S::LANES < self.channels {
            (S::LANES * plane) as isize
        } else {
            // the first channels of the next run
            (SIDE * run.len) as isize - (channel * plane) as isize
        };
        let row = columns * S::LANES;
        let slice = 6 * row;
        let start: [isize; 3] = std::array::from_fn(|d| run.start[d] as isize + self.origin[d]);
        // SAFETY: all offsets are below points · 6 · columns · LANES, the size of the scratch.
        unsafe {
            for z in 0..slices {
                for y in 0..rows {
                    let line = Line {
                        row: inside(start[0] + z as isize, depth)
                            .zip(inside(start[1] + y as isize, height))
                            .map(|(z, y)| (z * height + y) * width),
                        first: start[2],
                        columns,
                        width,
                        ahead,
                    };
                    line.load::<S>(data, plane, lanes, scratch.add(z * slice + y * row));
                }
            }
            if self.deep {
                for i in (0..rows * row).step_by(S::LANES) {
                    let at = scratch.add(i);
                    let (first, second) = (S::load(at), S::load(at.add(slice)));
                    let v = if GRADIENT {
                        spread2::<S>([first, second])
                    } else {
                        let (third, fourth) = (at.add(2 * slice), at.add(3 * slice));
                        input4::<S>([first, second, S::load(third), S::load(fourth)])
                    };
                    for z in 0..4 {
                        S::store(at.add(z * slice), v[z]);
                    }
                }
            }
            for z in 0..points {
                let from = scratch.add(z * slice);
                for i in (0..row).step_by(S::LANES) {
                    transform::<S, GRADIENT>(from.add(i), row, from.add(i), row);
                }
                for y in 0..6 {
                    let from = from.add(y * row);
                    let to_row = to.data.add(((z * 6 + y) * 6) * to.point + run.at * to.tile);
                    for t in 0..run.len {
                        let from = from.add(t * SIDE * S::LANES);
                        transform::<S, GRADIENT>(from, S::LANES, to_row.add(t * to.tile), to.point);
                    }
                }
            }
        }
    }
}

/// Transforms some channels of some tiles.
///
/// # Safety
/// As [`Lanes`]; `to` and `scratch` have room.
#[inline(always)]
pub(super) unsafe fn spread<S: Lanes, const GRADIENT: bool>(
    patches: &Patches,
    tiles: Range<usize>,
    channels: Range<usize>,
    to: Target,
    scratch: *mut f32,
) {
    for run in patches.tiling.runs(tiles, longest(patches.deep)) {
        for channel in channels.clone().step_by(S::LANES) {
            // SAFETY: the caller's.
            unsafe {
                let to = Target { data: to.data.add(channel), ..to };
                patches.spread::<S, GRADIENT>(&run, channel, to, scratch);
            }
        }
    }
}

/// Transforms six inputs or four gradients to six points.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn transform<S: Lanes, const GRADIENT: bool>(
    from: *const f32,
    from_step: usize,
    to: *mut f32,
    to_step: usize,
) {
    // SAFETY: the caller vouches for the elements.
    unsafe {
        let v = if GRADIENT {
            spread4::<S>([
                S::load(from),
                S::load(from.add(from_step)),
                S::load(from.add(2 * from_step)),
                S::load(from.add(3 * from_step)),
            ])
        } else {
            input6::<S>(load6::<S>(from, from_step))
        };
        for i in 0..6 {
            S::store(to.add(i * to_step), v[i]);
        }
    }
}

/// Zeros columns.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn fill_zero<S: Lanes>(to: *mut f32, columns: usize) {
    for x in 0..columns {
        // SAFETY: the caller vouches for the columns.
        unsafe { S::store(to.add(x * S::LANES), S::splat(0.0)) };
    }
}

/// The position as an index, if it lies inside.
fn inside(position: isize, len: usize) -> Option<usize> {
    usize::try_from(position).ok().filter(|&p| p < len)
}

/// Part of an image row: `columns` pixels from `first`.
struct Line {
    /// The pixel before which the row begins in each channel; none outside of the image.
    row: Option<usize>,
    first: isize,
    columns: usize,
    width: usize,
    /// How far away lies what is read next.
    ahead: isize,
}

impl Line {
    /// Writes the line to `to[column][lane]`, zero outside of the image. Lanes without a channel
    /// repeat the last channel.
    ///
    /// # Safety
    /// As [`Lanes`]; `to` has room for the columns.
    #[inline(always)]
    unsafe fn load<S: Lanes>(&self, data: &[f32], plane: usize, lanes: usize, to: *mut f32) {
        let n = S::LANES;
        let end = self.first + self.columns as isize;
        let (lo, hi) = match self.row {
            Some(_) => (self.first.max(0), end.min(self.width as isize)),
            None => (end, end),
        };
        // SAFETY: columns of `to`; pixels of rows of the image, `lo..hi` lying inside.
        unsafe {
            if lo >= hi {
                return fill_zero::<S>(to, self.columns);
            }
            fill_zero::<S>(to, (lo - self.first) as usize);
            fill_zero::<S>(to.add((hi - self.first) as usize * n), (end - hi) as usize);
            let row = data.as_ptr().add(self.row.unwrap_or(0));
            let (mut x, hi) = (lo as usize, hi as usize);
            while x < hi {
                // squares at multiples of their size read every cache line once
                let square = (x / n * n).min(self.width.saturating_sub(n));
                let stop = hi.min(square + n);
                if self.width < n || stop - x <= 2 {
                    let stop = if self.width < n { hi } else { stop };
                    for x in x..stop {
                        let to = to.add((x as isize - self.first) as usize * n);
                        for lane in 0..n {
                            *to.add(lane) = *row.add(lane.min(lanes - 1) * plane + x);
                        }
                    }
                    x = stop;
                } else {
                    let to = to.wrapping_offset((square as isize - self.first) * n as isize);
                    S::transpose(row.add(square), plane, lanes, to, n, x - square..stop - square);
                    // too short pieces of too many rows for the machine to foresee the next ones
                    for lane in 0..n {
                        let next = (lane * plane + square) as isize + self.ahead;
                        S::prefetch(row.wrapping_offset(next));
                    }
                    x = stop;
                }
            }
        }
    }
}
