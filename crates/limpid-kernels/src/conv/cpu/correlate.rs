//! Sums over channels and taps for every pixel of a lattice: forward pass and data gradient.

use super::few::{self, Few};
use super::gather::{Axis, Gather, Segment, Tile, tiles};
use super::winograd::buffer::Buffer;
use super::{COLUMN_ROWS, TASKS, tile_pixels};
use crate::element::{Element, single};
use crate::matrix::{Matrix, product_at};
use crate::parts::{Outputs, Parts};
use crate::simd::{level, vectorised};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels of a tile at least, where images are cut to share the work: each tile packs the weight.
const MIN_PIXELS: usize = 128;

/// Columns that tasks share, for the third-level cache, and the rows of them that one task copies.
const SHARED: usize = 1 << 23;
const SHARED_ROWS: usize = 128;

/// `out[n, k, p] = bias[k] + Σ weight[k, c, tap] · source[n, c, read(p, tap)]`, group by group.
pub(super) struct Correlation {
    pub batch: usize,
    pub groups: usize,
    /// Source channels per group.
    pub inputs: usize,
    /// Output channels per group.
    pub outputs: usize,
    pub gather: Gather,
    pub lattice: Lattice,
}

/// Which pixels of the output image are computed: `start + step * j` per dimension.
pub(super) struct Lattice {
    pub image: [usize; 3],
    pub start: [usize; 3],
    pub step: [usize; 3],
}

impl Lattice {
    pub(super) fn dense(image: [usize; 3]) -> Self {
        Self { image, start: [0; 3], step: [1; 3] }
    }

    fn is_dense(&self) -> bool {
        self.step == [1; 3]
    }

    fn pixels(&self) -> usize {
        self.image.iter().product()
    }

    /// The image pixel of the lattice pixel `(z, y, 0)`.
    fn row(&self, segment: &Segment) -> usize {
        let z = self.start[0] + self.step[0] * segment.z;
        let y = self.start[1] + self.step[1] * segment.y;
        (z * self.image[1] + y) * self.image[2] + self.start[2]
    }
}

/// The operands of a run.
struct Operands<'a, T> {
    source: &'a Parts<'a, T>,
    /// `[groups, outputs, inputs, taps]`
    weight: &'a [T],
    /// `[groups, outputs]`
    bias: Option<&'a [T]>,
    output: &'a Outputs<T>,
}

impl Correlation {
    /// Writes all lattice pixels of all channels of `output`.
    pub(super) fn run<T: Element>(
        &self,
        source: &Parts<T>,
        weight: &[T],
        bias: Option<&[T]>,
        output: &Outputs<T>,
    ) {
        let operands = Operands { source, weight, bias, output };
        if self.run_few(&operands) {
            return;
        }
        let (pixels, width) = (self.gather.pixels(), self.gather.axes[2].len);
        let rows = self.inputs * self.gather.taps();
        if rows == 0 || (self.inputs == 1 && self.outputs <= 2) {
            let target = (1 << 17) / rows.clamp(8, 1 << 8);
            let tiles = tiles(self.batch, pixels, width, target);
            let outputs = self.groups * self.outputs;
            (0..tiles.len() * outputs).into_par_iter().for_each(|task| {
                vectorised(
                    #[inline(always)]
                    || self.direct(&operands, &tiles[task / outputs], task % outputs),
                );
            });
        } else {
            let fair = (self.batch * self.groups * pixels / TASKS).max(MIN_PIXELS);
            let tiles = tiles(self.batch, pixels, width, tile_pixels::<T>().min(fair));
            let tasks = tiles.len() * self.groups;
            // too few tiles to share: also share the output channels, 64 or more to a part
            let parts = TASKS.div_ceil(tasks.max(1)).min(self.outputs / 64).max(1);
            let columns = if parts > 1 { self.all_columns(source, &tiles) } else { None };
            (0..tasks * parts).into_par_iter().for_each(|task| {
                let (task, part) = (task / parts, task % parts);
                let outputs = self.outputs * part / parts..self.outputs * (part + 1) / parts;
                let (tile, group) = (&tiles[task / self.groups], task % self.groups);
                let columns = columns.as_ref().map(|columns| {
                    let before = tiles[..task / self.groups].iter().map(Tile::len).sum::<usize>();
                    let first = (before * self.groups + group * tile.len()) * rows;
                    let columns = columns.at(first, rows * tile.len()).cast::<T>();
                    // SAFETY: shared columns exist if `T` is f32, and nothing changes them any more.
                    unsafe { std::slice::from_raw_parts(columns, rows * tile.len()) }
                });
                self.by_product(&operands, tile, group, outputs, columns);
            });
        }
    }

    /// The columns `[tile][group][row]` of all tiles in f32, if there are any and they are not too
    /// many.
    fn all_columns<T: Element>(&self, source: &Parts<T>, tiles: &[Tile]) -> Option<Buffer> {
        let source = source.single()?;
        let rows = self.inputs * self.gather.taps();
        let len = self.batch * self.groups * self.gather.pixels() * rows;
        if self.gather.is_identity() || len > SHARED {
            return None;
        }
        let all = Buffer::new("conv", len).ok()?;
        let mut tasks = Vec::new();
        let mut first = 0;
        for tile in tiles {
            for group in 0..self.groups {
                for start in (0..rows).step_by(SHARED_ROWS) {
                    tasks.push((tile, group, start, first + start * tile.len()));
                }
                first += rows * tile.len();
            }
        }
        tasks.par_iter().for_each(|&(tile, group, start, first)| {
            let rows = start..rows.min(start + SHARED_ROWS);
            let len = rows.len() * tile.len();
            // SAFETY: the elements of this task, which buffers have initialised.
            let columns = unsafe { std::slice::from_raw_parts_mut(all.at(first, len), len) };
            self.gather.fill_columns(&source, group * self.inputs, rows, tile, columns);
        });
        Some(all)
    }

    /// Computes all with few outputs per group in f32, if that is what this is.
    fn run_few<T: Element>(&self, operands: &Operands<T>) -> bool {
        if !self.lattice.is_dense() || !few::applies(&self.gather, self.inputs, self.outputs) {
            return false;
        }
        let (Some(source), Some(weight), Some(output)) =
            (operands.source.single(), single(operands.weight), operands.output.single())
        else {
            return false;
        };
        let bias = operands.bias.and_then(single);
        let Self { batch, groups, inputs, outputs, ref gather, .. } = *self;
        let source = &source;
        Few { batch, groups, inputs, outputs, gather, source, weight, bias, output }.run(level());
        true
    }

    /// One tile of some output channels of a group as the product of weights and columns, which
    /// may be at hand.
    fn by_product<T: Element>(
        &self,
        operands: &Operands<T>,
        tile: &Tile,
        group: usize,
        outputs: Range<usize>,
        shared: Option<&[T]>,
    ) {
        let rows = self.inputs * self.gather.taps();
        let inputs = group * self.inputs;
        let first = group * self.outputs + outputs.start;
        let outputs = first..first + outputs.len();

        let one_image = tile.images.len() == 1;
        let in_place = one_image && self.lattice.is_dense();
        let no_columns = one_image && self.gather.is_identity();
        let ready = no_columns || shared.is_some();
        let block = if ready { rows } else { rows.min(COLUMN_ROWS) };
        let column_len = if ready { 0 } else { block * tile.len() };
        let result_len = if in_place { 0 } else { outputs.len() * tile.len() };
        // a row is a channel if there are no columns
        let blocks: Vec<Range<usize>> = if no_columns {
            let pieces = operands.source.pieces(inputs..inputs + rows);
            pieces.map(|piece| piece.start - inputs..piece.end - inputs).collect()
        } else {
            (0..rows).step_by(block).map(|start| start..rows.min(start + block)).collect()
        };
        T::with_scratch(column_len + result_len, |scratch| {
            let (columns, result) = scratch.split_at_mut(column_len);
            let mut targets = Vec::new();
            if in_place {
                for piece in operands.output.pieces(outputs.clone()) {
                    let planes = operands.output.planes(tile.images.start, piece.clone());
                    // SAFETY: the tile begins within the plane.
                    targets.push((piece, unsafe { planes.add(tile.pixels.start) }));
                }
            } else {
                targets.push((outputs.clone(), result.as_mut_ptr()));
            }
            let stride = if in_place { self.lattice.pixels() } else { tile.len() };
            if let Some(bias) = operands.bias {
                for (outputs, dst) in &targets {
                    for (k, &b) in bias[outputs.clone()].iter().enumerate() {
                        for p in 0..tile.len() {
                            // SAFETY: within the tile's elements, which belong to this task.
                            unsafe { dst.add(k * stride + p).write(b) };
                        }
                    }
                }
            }
            for (i, block) in blocks.iter().enumerate() {
                let columns = if no_columns {
                    let own = inputs + block.start..inputs + block.end;
                    let planes = operands.source.planes(tile.images.start, own);
                    Matrix::rows(&planes[tile.pixels.start..], self.gather.source_pixels())
                } else if let Some(data) = shared {
                    Matrix::rows(data, tile.len())
                } else {
                    self.gather.fill_columns(operands.source, inputs, block.clone(), tile, columns);
                    Matrix::rows(columns, tile.len())
                };
                let accumulate = operands.bias.is_some() || i > 0;
                for (outputs, dst) in &targets {
                    let weight = &operands.weight[outputs.start * rows + block.start..];
                    let weight = Matrix::rows(weight, rows);
                    let size = [outputs.len(), tile.len(), block.len()];
                    // SAFETY: within the tile's elements, which belong to this task; they are
                    // initialised by the bias or the first product before they are added to.
                    unsafe { product_at(size, *dst, [stride, 1], accumulate, weight, columns) };
                }
            }
            if !in_place {
                for (k, result) in outputs.zip(result.chunks_exact(tile.len())) {
                    self.scatter(operands.output, tile, k, result);
                }
            }
        });
    }

    /// One tile of one output channel by sums over rows: for few channels, where a product would
    /// spend its time on copying columns.
    #[inline(always)]
    fn direct<T: Element>(&self, operands: &Operands<T>, tile: &Tile, channel: usize) {
        let [az, ay, ax] = &self.gather.axes;
        let rows = self.inputs * self.gather.taps();
        let weight = &operands.weight[channel * rows..][..rows];
        let bias = operands.bias.map_or(T::zero(), |bias| bias[channel]);
        T::with_scratch(tile.len(), |result| {
            result.fill(bias);
            for (n, result) in tile.images.clone().zip(result.chunks_exact_mut(tile.pixels.len())) {
                let first = channel / self.outputs * self.inputs;
                for c in 0..self.inputs {
                    let plane = operands.source.plane(n, first + c);
                    let kernel = &weight[c * self.gather.taps()..][..self.gather.taps()];
                    for (at, segment) in self.gather.segments(tile.pixels.clone()) {
                        let sums = &mut result[at..at + segment.x.len()];
                        for z in 0..az.offsets.len() {
                            for y in 0..ay.offsets.len() {
                                let row = self.gather.source_row(plane, &segment, [z, y]);
                                let taps = (z * ay.offsets.len() + y) * ax.offsets.len();
                                if let Some(row) = row {
                                    let kernel = &kernel[taps..][..ax.offsets.len()];
                                    add_taps(ax, &segment.x, kernel, row, sums);
                                }
                            }
                        }
                    }
                }
            }
            for (i, n) in tile.images.clone().enumerate() {
                let one = Tile { images: n..n + 1, pixels: tile.pixels.clone() };
                self.scatter(operands.output, &one, channel, &result[i * one.len()..][..one.len()]);
            }
        });
    }

    /// Copies a tile of one channel to its pixels of the output.
    fn scatter<T: Element>(&self, output: &Outputs<T>, tile: &Tile, channel: usize, result: &[T]) {
        let step = self.lattice.step[2];
        for (n, result) in tile.images.clone().zip(result.chunks_exact(tile.pixels.len())) {
            let plane = output.planes(n, channel..channel + 1);
            for (at, segment) in self.gather.segments(tile.pixels.clone()) {
                let values = &result[at..at + segment.x.len()];
                let first = self.lattice.row(&segment) + step * segment.x.start;
                assert!(first + (values.len() - 1) * step < self.lattice.pixels());
                // SAFETY: within the plane.
                let dst = unsafe { plane.add(first) };
                if step == 1 {
                    // SAFETY: `dst` has room for the values and these pixels belong to this task.
                    unsafe { dst.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
                } else {
                    for (i, &value) in values.iter().enumerate() {
                        // SAFETY: as above, `step` apart.
                        unsafe { dst.add(i * step).write(value) };
                    }
                }
            }
        }
    }
}

/// Adds to the sums of the outputs `x` what they read of a source row through one row of taps.
#[inline(always)]
fn add_taps<T: Element>(axis: &Axis, x: &Range<usize>, kernel: &[T], row: &[T], sums: &mut [T]) {
    for (tap, &w) in kernel.iter().enumerate() {
        let (lo, hi) = axis.clip(tap, x);
        if lo == hi {
            continue;
        }
        let source = &row[axis.position(lo, tap)..];
        let sums = &mut sums[lo - x.start..hi - x.start];
        if axis.step == 1 {
            for (sum, &s) in sums.iter_mut().zip(source) {
                *sum += w * s;
            }
        } else {
            for (sum, &s) in sums.iter_mut().zip(source.iter().step_by(axis.step)) {
                *sum += w * s;
            }
        }
    }
}
