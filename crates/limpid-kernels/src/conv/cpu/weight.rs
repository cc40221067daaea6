//! The weight gradient: for every tap, the products of image and result summed over all pixels.

use super::gather::{Gather, Tile, tiles};
use super::{COLUMN_ROWS, TASKS, image_gather, tile_pixels};
use crate::Result;
use crate::buffer::CHUNK;
use crate::conv::geometry::Geometry;
use crate::element::Element;
use crate::matrix::{Matrix, product_at};
use crate::output::Output;
use crate::parts::Parts;
use crate::simd::vectorised;
use rayon::prelude::*;
use std::ops::Range;

/// `image [batch, channels, ..]` and `result [batch, features, ..]` to
/// `weight [features, channels / groups, ..]`.
///
/// A task sums one block of weights over one part of the tiles; the parts are added in order.
pub(super) fn weight_grad<T: Element>(
    g: &Geometry,
    image: &Parts<T>,
    result: &Parts<T>,
) -> Result<Vec<T>> {
    const OP: &str = "conv_weight_grad";
    let gather = image_gather(g);
    let tiles = tiles(g.batch, g.result_pixels(), g.result[2], tile_pixels::<T>());
    let sums = WeightGrad { g, gather, image, result };
    let (rows, features) = (g.group_channels() * g.taps(), g.group_features());
    let len = g.features * rows;
    if tiles.is_empty() {
        return Ok(vec![T::zero(); len]);
    }

    let blocks = rows.div_ceil(COLUMN_ROWS);
    let parts = TASKS.div_ceil((blocks * g.groups).max(1)).min(tiles.len());
    // the first part is the weight itself
    let (weight, partial) = (Output::new(OP, len)?, Output::new(OP, (parts - 1) * len)?);
    (0..g.groups * blocks * parts).into_par_iter().for_each(|task| {
        let (task, part) = (task / parts, task % parts);
        let tiles = &tiles[tiles.len() * part / parts..tiles.len() * (part + 1) / parts];
        let (group, start) = (task / blocks, task % blocks * COLUMN_ROWS);
        let block = start..rows.min(start + COLUMN_ROWS);
        let first = group * features * rows + start;
        let room = (features - 1) * rows + block.len();
        let dst: *mut T = match part {
            0 => weight.at(first, room),
            _ => partial.at((part - 1) * len + first, room),
        };
        if g.group_channels() == 1 && features == 1 {
            for (tap, sum) in sums.direct(tiles, group)[block].iter().enumerate() {
                // SAFETY: the elements of this task.
                unsafe { dst.add(tap).write(*sum) };
            }
        } else {
            // SAFETY: as above.
            unsafe { sums.by_product(tiles, group, block, dst) };
        }
    });
    // SAFETY: the blocks of all groups are all of each part.
    let (mut weight, partial) = unsafe { (weight.into_vec(), partial.into_vec()) };
    if parts > 1 {
        weight.par_chunks_mut(CHUNK).enumerate().for_each(|(i, weight)| {
            for partial in partial.chunks_exact(len) {
                for (sum, part) in weight.iter_mut().zip(&partial[i * CHUNK..]) {
                    *sum += *part;
                }
            }
        });
    }
    Ok(weight)
}

struct WeightGrad<'a, T> {
    g: &'a Geometry,
    gather: Gather,
    image: &'a Parts<'a, T>,
    result: &'a Parts<'a, T>,
}

impl<T: Element> WeightGrad<'_, T> {
    /// `[features, block]`: the results of the tiles times their columns.
    ///
    /// # Safety
    /// `dst` may be written at these positions, rows of all weights of a feature apart, and no one
    /// else accesses them meanwhile.
    unsafe fn by_product(&self, tiles: &[Tile], group: usize, block: Range<usize>, dst: *mut T) {
        let rows = self.g.group_channels() * self.g.taps();
        let features = self.g.group_features();
        let pixels = self.g.result_pixels();
        for (i, tile) in tiles.iter().enumerate() {
            let no_columns = tile.images.len() == 1 && self.gather.is_identity();
            let column_len = if no_columns { 0 } else { block.len() * tile.len() };
            let result_len = tile.packed_len(features);
            T::with_scratch(column_len + result_len, |scratch| {
                let (columns, packed) = scratch.split_at_mut(column_len);
                let first = group * self.g.group_channels();
                if !no_columns {
                    self.gather.fill_columns(self.image, first, block.clone(), tile, columns);
                }
                let own = group * features;
                for k in self.result.pieces(own..own + features) {
                    let result = tile.rows(self.result, k.clone(), pixels, packed);
                    let multiply = |c: Range<usize>, columns: Matrix<T>| {
                        let size = [k.len(), c.len(), tile.len()];
                        // SAFETY: the caller vouches for `dst`, which the first tile initialises.
                        unsafe {
                            let dst = dst.add((k.start - own) * rows + c.start - block.start);
                            product_at(size, dst, [rows, 1], i > 0, result, columns);
                        }
                    };
                    if !no_columns {
                        let columns = Matrix { data: columns, row: 1, column: tile.len() };
                        multiply(block.clone(), columns);
                        continue;
                    }
                    // a row is a channel
                    for c in self.image.pieces(first + block.start..first + block.end) {
                        let planes = self.image.planes(tile.images.start, c.clone());
                        let data = &planes[tile.pixels.start..];
                        let columns = Matrix { data, row: 1, column: pixels };
                        multiply(c.start - first..c.end - first, columns);
                    }
                }
            });
        }
    }

    /// One channel, one feature: a dot product per tap.
    fn direct(&self, tiles: &[Tile], group: usize) -> Vec<T> {
        let [_, ay, ax] = &self.gather.axes;
        let mut sums = vec![0f64; self.g.taps()];
        for tile in tiles {
            for n in tile.images.clone() {
                let plane = self.image.plane(n, group);
                let result = &self.result.plane(n, group)[tile.pixels.clone()];
                for (at, segment) in self.gather.segments(tile.pixels.clone()) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let (x, rest) = (i % ax.offsets.len(), i / ax.offsets.len());
                        let (y, z) = (rest % ay.offsets.len(), rest / ay.offsets.len());
                        let Some(row) = self.gather.source_row(plane, &segment, [z, y]) else {
                            continue;
                        };
                        let (lo, hi) = ax.clip(x, &segment.x);
                        if lo < hi {
                            let from = ax.position(lo, x);
                            let result = &result[at + lo - segment.x.start..][..hi - lo];
                            *sum += dot(result, &row[from..], ax.step);
                        }
                    }
                }
            }
        }
        sums.into_iter().map(T::from_f64).collect()
    }
}

/// `Σ a[i] · b[i · step]`, in f64.
fn dot<T: Element>(a: &[T], b: &[T], step: usize) -> f64 {
    const LANES: usize = 16;
    vectorised(
        #[inline(always)]
        || {
            if step > 1 {
                let products = a.iter().zip(b.iter().step_by(step));
                return products.map(|(a, b)| a.to_f64() * b.to_f64()).sum();
            }
            let mut lanes = [0f64; LANES];
            let (a_blocks, a_rest) = a.as_chunks::<LANES>();
            let (b_blocks, b_rest) = b[..a.len()].as_chunks::<LANES>();
            for (a, b) in a_blocks.iter().zip(b_blocks) {
                for i in 0..LANES {
                    lanes[i] += a[i].to_f64() * b[i].to_f64();
                }
            }
            let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
            lanes.iter().sum::<f64>() + rest
        },
    )
}
