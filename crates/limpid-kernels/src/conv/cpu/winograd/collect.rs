//! Products back to outputs: `Aᵀ m A`, plus the bias, to rows of an image.

use super::tiling::{Run, SIDE};
use super::transform::{load6, output4, output6};
use crate::simd::Lanes;
use std::mem::MaybeUninit;

/// Elements of scratch that [`Products::collect`] needs.
pub(super) fn scratch<S: Lanes>(deep: bool) -> usize {
    let slices = if deep { 2 } else { 1 };
    slices * SIDE * SIDE * super::spread::longest(deep) * S::LANES
}

/// Products `[point][tile][channel]` of one block of channels.
#[derive(Clone, Copy)]
pub(super) struct Products {
    pub data: *const f32,
    pub point: usize,
    pub tile: usize,
    pub deep: bool,
}

/// `LANES` channels of the image that is written, or as many as there are.
pub(super) struct Planes<'a> {
    /// The first pixel of the first channel.
    pub data: *mut f32,
    pub dims: [usize; 3],
    pub bias: Option<&'a [f32]>,
    pub channels: usize,
}

impl Products {
    /// Writes the outputs of a run of tiles that lie within the image.
    ///
    /// # Safety
    /// As [`Lanes`]; `planes` may be written there.
    #[inline(always)]
    pub(super) unsafe fn collect<S: Lanes>(&self, run: &Run, planes: &Planes, scratch: *mut f32) {
        let n = S::LANES;
        let slices = if self.deep { 2 } else { 1 };
        let row = run.len * SIDE * n;
        let mut bias = [0f32; 16];
        if let Some(values) = planes.bias {
            bias[..values.len()].copy_from_slice(values);
        }
        // SAFETY: products of the run; scratch for slices · SIDE rows of the run.
        unsafe {
            let bias = S::load(bias.as_ptr());
            for t in 0..run.len {
                let from = self.data.add((run.at + t) * self.tile);
                let to = scratch.add(t * SIDE * n);
                let mut points = MaybeUninit::<[[[S::V; 6]; 6]; 2]>::uninit();
                let points = points.as_mut_ptr();
                if self.deep {
                    for y in 0..6 {
                        for x in 0..6 {
                            let from = from.add((y * 6 + x) * self.point);
                            let slice = 36 * self.point;
                            let m = [
                                S::load(from),
                                S::load(from.add(slice)),
                                S::load(from.add(2 * slice)),
                                S::load(from.add(3 * slice)),
                            ];
                            [(*points)[0][x][y], (*points)[1][x][y]] = output4::<S>(m);
                        }
                    }
                }
                for z in 0..slices {
                    let mut rows = MaybeUninit::<[[S::V; 6]; SIDE]>::uninit();
                    let rows = rows.as_mut_ptr();
                    for x in 0..6 {
                        let column = if self.deep {
                            (*points)[z][x]
                        } else {
                            load6::<S>(from.add(x * self.point), 6 * self.point)
                        };
                        let column = output6::<S>(column);
                        for y in 0..SIDE {
                            (*rows)[y][x] = column[y];
                        }
                    }
                    for y in 0..SIDE {
                        let to = to.add((z * SIDE + y) * row);
                        let outputs = output6::<S>((*rows)[y]);
                        for x in 0..SIDE {
                            S::store(to.add(x * n), S::add(outputs[x], bias));
                        }
                    }
                }
            }
            let [depth, height, width] = planes.dims;
            let [z0, y0, x0] = run.start;
            let columns = (width - x0).min(run.len * SIDE);
            for z in 0..slices.min(depth - z0) {
                for y in 0..SIDE.min(height - y0) {
                    let from = scratch.add((z * SIDE + y) * row);
                    let to = planes.data.add(((z0 + z) * height + y0 + y) * width + x0);
                    to_rows::<S>(from, columns, to, depth * height * width, planes.channels);
                }
            }
        }
    }
}

/// Writes `from[column][lane]` to rows `stride` apart, one per lane.
///
/// # Safety
/// As [`Lanes`]; `rows`, at most `LANES`, rows of `columns` elements may be written.
#[inline(always)]
pub(super) unsafe fn to_rows<S: Lanes>(
    from: *const f32,
    columns: usize,
    to: *mut f32,
    stride: usize,
    rows: usize,
) {
    let n = S::LANES;
    // SAFETY: within the columns; rows as the caller vouches.
    unsafe {
        if columns < n {
            for row in 0..rows {
                for x in 0..columns {
                    *to.add(row * stride + x) = *from.add(x * n + row);
                }
            }
            return;
        }
        let mut x = 0;
        while x < columns {
            // the last square overlaps the one before rather than hang over
            let square = x.min(columns - n);
            S::transpose(from.add(square * n), n, n, to.add(square), stride, 0..rows);
            x += n;
        }
    }
}
