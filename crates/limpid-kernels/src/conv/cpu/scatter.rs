//! The data gradient of strided kernels in f32: products of the weight as it lies in memory, added
//! to the image pixels that the taps reach (col2im). No weight is copied, and images of few pixels
//! are as fast as reading the weight.

use super::gather::{Axis, Gather, Tile, tiles};
use super::{TASKS, image_gather, tile_pixels};
use crate::conv::geometry::Geometry;
use crate::element::Element;
use crate::matrix::{Matrix, product_at};
use crate::parts::{Outputs, Parts};
use crate::simd::vectorised;
use rayon::prelude::*;
use std::ops::Range;

/// Rows (channel and tap) of a product.
const ROWS: usize = 128;

/// Whether this is faster than a correlation per phase: adding a product takes the time of some
/// ten features.
pub(super) fn applies(g: &Geometry) -> bool {
    let strided = g.stride.iter().any(|&stride| stride > 1);
    strided && g.group_features() >= 64 && g.channels >= TASKS
}

/// The operands of the data gradient.
pub(super) struct Scatter<'a> {
    pub g: &'a Geometry,
    pub result: &'a Parts<'a, f32>,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub output: &'a Outputs<f32>,
}

impl Scatter<'_> {
    /// Writes every element of the output. A task takes some channels of all images.
    pub(super) fn run(&self) {
        let g = self.g;
        let (gather, channels) = (image_gather(g), g.group_channels());
        let tiles = tiles(g.batch, g.result_pixels(), g.result[2], tile_pixels::<f32>());
        let block = (ROWS / g.taps()).min(g.channels / TASKS).max(1);
        let blocks = channels.div_ceil(block);
        (0..g.groups * blocks).into_par_iter().for_each(|task| {
            let (group, start) = (task / blocks, task % blocks * block);
            self.channels(&gather, &tiles, group, start..channels.min(start + block));
        });
    }

    fn channels(&self, gather: &Gather, tiles: &[Tile], group: usize, channels: Range<usize>) {
        let g = self.g;
        let (features, taps, pixels) = (g.group_features(), g.taps(), g.result_pixels());
        let weight_row = g.group_channels() * taps;
        let weight = &self.weight[group * features * weight_row..][channels.start * taps..];
        let rows = channels.len() * taps;
        let first = group * g.group_channels() + channels.start;
        for n in 0..g.batch {
            for c in first..first + channels.len() {
                let bias = self.bias.map_or(0.0, |bias| bias[c]);
                let plane = self.plane(n, c);
                for pixel in 0..g.image_pixels() {
                    // SAFETY: within the plane, and the channels of this task.
                    unsafe { plane.add(pixel).write(bias) };
                }
            }
        }
        for tile in tiles {
            let result_len = tile.packed_len(features);
            f32::with_scratch(rows * tile.len() + result_len, |scratch| {
                let (columns, packed) = scratch.split_at_mut(rows * tile.len());
                let own = group * features;
                for piece in self.result.pieces(own..own + features) {
                    let data = &weight[(piece.start - own) * weight_row..];
                    let weight = Matrix { data, row: 1, column: weight_row };
                    let size = [rows, tile.len(), piece.len()];
                    let (to, add) = (columns.as_mut_ptr(), piece.start > own);
                    let result = tile.rows(self.result, piece, pixels, packed);
                    // SAFETY: `columns` has these elements, which the first piece initialises.
                    unsafe { product_at(size, to, [tile.len(), 1], add, weight, result) };
                }
                for (i, n) in tile.images.clone().enumerate() {
                    for (c, columns) in columns.chunks_exact(taps * tile.len()).enumerate() {
                        let (plane, len) = (self.plane(n, first + c), g.image_pixels());
                        // SAFETY: a whole plane of this task, which was filled above.
                        let plane = unsafe { std::slice::from_raw_parts_mut(plane, len) };
                        let columns = &columns[i * tile.pixels.len()..];
                        add_taps(gather, &tile.pixels, columns, tile.len(), plane);
                    }
                }
            });
        }
    }

    /// The start of a plane of the output.
    fn plane(&self, n: usize, channel: usize) -> *mut f32 {
        self.output.planes(n, channel..channel + 1)
    }
}

/// Adds the products of all taps, which lie `stride` apart, to the pixels that the taps reach.
fn add_taps(
    gather: &Gather,
    pixels: &Range<usize>,
    columns: &[f32],
    stride: usize,
    plane: &mut [f32],
) {
    vectorised(
        #[inline(always)]
        || {
            let [az, ay, ax] = &gather.axes;
            for (at, segment) in gather.segments(pixels.clone()) {
                for z in 0..az.offsets.len() {
                    for y in 0..ay.offsets.len() {
                        let (Some(iz), Some(iy)) = (az.read(segment.z, z), ay.read(segment.y, y))
                        else {
                            continue;
                        };
                        let row = &mut plane[(iz * ay.source + iy) * ax.source..][..ax.source];
                        let first = (z * ay.offsets.len() + y) * ax.offsets.len();
                        let sums = &columns[first * stride + at..];
                        add_row(ax, &segment.x, sums, stride, row);
                    }
                }
            }
        },
    );
}

/// [`add_taps`] of one row of outputs and one row of taps.
#[inline(always)]
fn add_row(axis: &Axis, x: &Range<usize>, sums: &[f32], stride: usize, row: &mut [f32]) {
    let add = |tap: usize, outputs: Range<usize>, row: &mut [f32]| {
        for o in outputs {
            row[axis.position(o, tap)] += sums[tap * stride + o - x.start];
        }
    };
    let mut tap = 0;
    while tap < axis.offsets.len() {
        let (lo, hi) = axis.clip(tap, x);
        let neighbour = axis.offsets.get(tap + 1) == Some(&(axis.offsets[tap] + 1));
        if axis.step != 2 || !neighbour {
            add(tap, lo..hi, row);
            tap += 1;
            continue;
        }
        // two taps reach neighbouring pixels: whole registers where both are inside
        let (next_lo, next_hi) = axis.clip(tap + 1, x);
        let start = lo.max(next_lo);
        let end = hi.min(next_hi).max(start);
        for (tap, lo, hi) in [(tap, lo, hi), (tap + 1, next_lo, next_hi)] {
            add(tap, lo..hi.min(start), row);
            add(tap, lo.max(end)..hi, row);
        }
        if start < end {
            let pairs = row[axis.position(start, tap)..].as_chunks_mut::<2>().0;
            let even = &sums[tap * stride + start - x.start..][..end - start];
            let odd = &sums[(tap + 1) * stride + start - x.start..][..end - start];
            for ((pair, even), odd) in pairs.iter_mut().zip(even).zip(odd) {
                pair[0] += even;
                pair[1] += odd;
            }
        }
        tap += 2;
    }
}
