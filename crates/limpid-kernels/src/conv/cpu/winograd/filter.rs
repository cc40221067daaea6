//! Filters transformed: `U = G g Gᵀ`, in the order in which products read them.

use super::buffer::Buffer;
use super::transform::{filter3, filter3to4};
use crate::Result;
use crate::simd::Lanes;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// A weight as filters from inputs to outputs.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    pub data: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
    /// Distance of neighbouring inputs and outputs.
    pub input: usize,
    pub output: usize,
    /// Taps in reverse, as the data gradient sees them.
    pub flip: bool,
    pub deep: bool,
}

/// Points of the transform.
pub(super) fn points(deep: bool) -> usize {
    if deep { 144 } else { 36 }
}

impl<'a> Weight<'a> {
    /// `[outputs, inputs, taps]` as it stands, or from outputs to inputs if `transposed`.
    pub(super) fn new(
        data: &'a [f32],
        [outputs, inputs]: [usize; 2],
        deep: bool,
        transposed: bool,
    ) -> Self {
        let taps = if deep { 27 } else { 9 };
        let (near, far) = (taps, inputs * taps);
        if transposed {
            let (inputs, outputs) = (outputs, inputs);
            Self { data, inputs, outputs, input: far, output: near, flip: true, deep }
        } else {
            Self { data, inputs, outputs, input: near, output: far, flip: false, deep }
        }
    }

    /// Distance of the points of one block of `width` outputs; not a power of two, so that the
    /// points of an input do not compete for one set of the cache.
    pub(super) fn point(&self, width: usize) -> usize {
        self.inputs * width + 16
    }

    /// Elements of one block of `width` transformed outputs.
    pub(super) fn block(&self, width: usize) -> usize {
        points(self.deep) * self.point(width)
    }

    /// All transformed: `[block of N·LANES outputs][point][input][output]`.
    pub(super) fn transformed<S: Lanes, const N: usize>(&self) -> Result<Buffer> {
        let width = N * S::LANES;
        let (blocks, block) = (self.outputs.div_ceil(width), self.block(width));
        let buffer = Buffer::new("conv", blocks * block)?;
        const PART: usize = 32;
        let parts = self.inputs.div_ceil(PART);
        (0..blocks * parts).into_par_iter().for_each(|task| {
            let (index, part) = (task / parts, task % parts);
            let to = buffer.at(index * block, block);
            let inputs = part * PART..self.inputs.min((part + 1) * PART);
            // SAFETY: the level that the caller dispatched to; this task's inputs of this block.
            unsafe {
                S::run(
                    #[inline(always)]
                    || self.transform::<S, N>(index, inputs, to),
                );
            }
        });
        Ok(buffer)
    }

    /// Transforms some inputs of block `index`; `to` is the start of the block.
    ///
    /// # Safety
    /// As [`Lanes`]; `to` has room for a block.
    #[inline(always)]
    pub(super) unsafe fn transform<S: Lanes, const N: usize>(
        &self,
        index: usize,
        inputs: std::ops::Range<usize>,
        to: *mut f32,
    ) {
        let width = N * S::LANES;
        for input in inputs {
            for n in 0..N {
                let output = index * width + n * S::LANES;
                if output < self.outputs {
                    // SAFETY: the place of these outputs in the block.
                    unsafe {
                        let to = to.add(input * width + n * S::LANES);
                        self.transform_lanes::<S>(input, output, to, self.point(width));
                    }
                }
            }
        }
    }

    /// Transforms the filters of `LANES` outputs; the points go `point` apart.
    #[inline(always)]
    unsafe fn transform_lanes<S: Lanes>(
        &self,
        input: usize,
        output: usize,
        to: *mut f32,
        point: usize,
    ) {
        let n = S::LANES;
        let (taps, slices) = if self.deep { (27, 3) } else { (9, 1) };
        let lanes = n.min(self.outputs - output);
        let first = input * self.input + output * self.output;
        let mut filter = MaybeUninit::<[f32; 32 * 16]>::uninit();
        let filter = filter.as_mut_ptr().cast::<f32>();
        for tap in (0..taps).step_by(n) {
            let from = first + tap;
            if from + (lanes - 1) * self.output + n <= self.data.len() {
                // SAFETY: the reads end within the weight, as just checked; 32 rows can be written.
                unsafe {
                    let from = self.data.as_ptr().add(from);
                    let to = filter.add(tap * n);
                    S::transpose(from, self.output, lanes, to, n, 0..n);
                }
            } else {
                for lane in 0..n {
                    // lanes without an output repeat the last one
                    let from = &self.data[from + lane.min(lanes - 1) * self.output..];
                    for (i, &tap_value) in from.iter().take(taps - tap).take(n).enumerate() {
                        // SAFETY: 32 rows can be written.
                        unsafe { filter.add((tap + i) * n + lane).write(tap_value) };
                    }
                }
            }
        }
        // SAFETY: taps of the filter; the caller vouches for the points.
        unsafe {
            let taken =
                |tap: usize| S::load(filter.add(if self.flip { taps - 1 - tap } else { tap } * n));
            let mut planes = MaybeUninit::<[[[S::V; 6]; 6]; 3]>::uninit();
            let planes = planes.as_mut_ptr();
            for z in 0..slices {
                let mut rows = [[S::splat(0.0); 6]; 3];
                for y in 0..3 {
                    let tap = (z * 3 + y) * 3;
                    rows[y] = filter3::<S>([taken(tap), taken(tap + 1), taken(tap + 2)]);
                }
                for x in 0..6 {
                    let column = filter3::<S>([rows[0][x], rows[1][x], rows[2][x]]);
                    for y in 0..6 {
                        (*planes)[z][y][x] = column[y];
                    }
                }
            }
            for y in 0..6 {
                for x in 0..6 {
                    let to = to.add((y * 6 + x) * point);
                    if self.deep {
                        let taps = [(*planes)[0][y][x], (*planes)[1][y][x], (*planes)[2][y][x]];
                        let u = filter3to4::<S>(taps);
                        for z in 0..4 {
                            S::store(to.add(z * 36 * point), u[z]);
                        }
                    } else {
                        S::store(to, (*planes)[0][y][x]);
                    }
                }
            }
        }
    }
}
