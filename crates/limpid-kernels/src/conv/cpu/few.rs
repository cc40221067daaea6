//! Correlations with few outputs per group, in f32: depthwise convolutions, last layers, the data
//! gradient of first layers. Nothing is copied to columns: a stretch of an output row stays in
//! registers while all taps of all inputs pass.

use super::gather::{Gather, Segment};
use crate::element::Element;
use crate::parts::{Outputs, Parts};
use crate::simd::{self, Lanes, Level};
use rayon::prelude::*;
use std::ops::Range;

/// Outputs per group that are computed together at most.
const MOST: usize = 4;

/// Vectors of a stretch.
const WIDE: usize = 4;

/// The longest stretch with the reach of its taps; longer kernels are left to others.
const WINDOW: usize = 256;

/// `out[n, k, p] = bias[k] + Σ weight[k, c, tap] · source[n, c, read(p, tap)]`, group by group.
pub(super) struct Few<'a> {
    pub batch: usize,
    pub groups: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub gather: &'a Gather,
    pub source: &'a Parts<'a, f32>,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub output: &'a Outputs<f32>,
}

/// Whether [`Few`] can compute this and is the way to do so.
pub(super) fn applies(gather: &Gather, inputs: usize, outputs: usize) -> bool {
    let x = &gather.axes[2];
    let (low, high) = reach(&x.offsets);
    let short = high.abs_diff(low) + 16 * WIDE <= WINDOW;
    inputs > 0 && gather.taps() > 1 && outputs <= MOST && x.step == 1 && short
}

/// Rows with zeros around them, from row `first` of the source; they begin where the first output
/// reads through its leftmost tap.
struct Padded<'a> {
    data: &'a [f32],
    first: usize,
    width: usize,
}

/// The smallest and the largest offset.
pub(super) fn reach(offsets: &[isize]) -> (isize, isize) {
    let low = offsets.iter().copied().min().unwrap_or(0);
    (low, offsets.iter().copied().max().unwrap_or(0))
}

/// Copies a row from position `start`, which may lie outside, with zeros around it.
pub(super) fn copy_padded(row: &[f32], start: isize, to: &mut [f32]) {
    let (end, len) = (row.len() as isize, to.len());
    let lo = start.clamp(0, end);
    let hi = (start + len as isize).clamp(lo, end);
    let before = ((lo - start) as usize).min(len);
    let part = &row[lo as usize..hi as usize];
    to[..before].fill(0.0);
    to[before..before + part.len()].copy_from_slice(part);
    to[before + part.len()..].fill(0.0);
}

impl Few<'_> {
    /// Writes all outputs.
    pub(super) fn run(&self, level: Level) {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => self.run_with::<simd::Avx512>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => self.run_with::<simd::Avx2>(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => self.run_with::<simd::Neon>(),
            Level::Portable => self.run_with::<simd::Portable>(),
        }
    }

    fn run_with<S: Lanes>(&self) {
        let [az, ay, ax] = &self.gather.axes;
        let rows = az.len * ay.len;
        // about 100 µs of products
        let per_row = (ax.len * self.inputs * self.outputs * self.gather.taps()).max(1);
        let band = ((1 << 20) / per_row).clamp(1, rows.max(1));
        let bands = rows.div_ceil(band);
        (0..self.batch * self.groups * bands).into_par_iter().for_each(|task| {
            let (image, task) = (task / (self.groups * bands), task % (self.groups * bands));
            let (group, index) = (task / bands, task % bands);
            let rows = index * band..rows.min((index + 1) * band);
            self.with_padded([image, group], rows.clone(), |padded| {
                // SAFETY: the level that `run` dispatched to; these rows belong to this task.
                unsafe {
                    S::run(
                        #[inline(always)]
                        || {
                            for row in rows {
                                let at = [image, group, row];
                                match self.outputs {
                                    1 => self.row::<S, 1>(at, padded),
                                    2 => self.row::<S, 2>(at, padded),
                                    3 => self.row::<S, 3>(at, padded),
                                    _ => self.row::<S, MOST>(at, padded),
                                }
                            }
                        },
                    );
                }
            });
        });
    }

    /// Lends `f` the source rows that a band of output rows reads with zeros around them, where every
    /// one of them is read for several outputs: planes of one input.
    fn with_padded(
        &self,
        [image, group]: [usize; 2],
        rows: Range<usize>,
        f: impl FnOnce(Option<&Padded>),
    ) {
        let [az, ay, ax] = &self.gather.axes;
        let flat = az.len == 1 && az.source == 1 && az.offsets == [0];
        let (low, high) = reach(&ay.offsets);
        if self.inputs > 1 || !flat || rows.is_empty() {
            return f(None);
        }
        let clamp = |row: isize| row.clamp(0, ay.source as isize) as usize;
        let first = clamp((rows.start * ay.step) as isize + low);
        let end = clamp(((rows.end - 1) * ay.step) as isize + high + 1);
        let (low, high) = reach(&ax.offsets);
        let width = ax.len + 16 * WIDE + high.abs_diff(low);
        f32::with_scratch((end - first) * width, |scratch| {
            let plane = self.source.plane(image, group);
            for (row, to) in (first..end).zip(scratch.chunks_exact_mut(width)) {
                copy_padded(&plane[row * ax.source..][..ax.source], low, to);
            }
            f(Some(&Padded { data: scratch, first, width }));
        });
    }

    /// One row of `K` outputs.
    ///
    /// # Safety
    /// As [`Lanes`]; the row belongs to this task.
    #[inline(always)]
    unsafe fn row<S: Lanes, const K: usize>(&self, at: [usize; 3], padded: Option<&Padded>) {
        let width = self.gather.axes[2].len;
        let mut x = 0;
        while x < width {
            // SAFETY: the caller's.
            unsafe {
                if width - x > S::LANES {
                    self.stretch::<S, K, WIDE>(at, x, padded);
                    x += WIDE * S::LANES;
                } else {
                    self.stretch::<S, K, 1>(at, x, padded);
                    x += S::LANES;
                }
            }
        }
    }

    /// `N` vectors of a row from pixel `x`, or as much as there is.
    ///
    /// # Safety
    /// As [`Few::row`].
    #[inline(always)]
    unsafe fn stretch<S: Lanes, const K: usize, const N: usize>(
        &self,
        [image, group, row]: [usize; 3],
        x: usize,
        padded: Option<&Padded>,
    ) {
        let [az, ay, ax] = &self.gather.axes;
        let (len, taps) = (N * S::LANES, ax.offsets.len());
        let first = group * self.outputs;
        let of_output = self.inputs * self.gather.taps();
        let segment = Segment { z: row / ay.len, y: row % ay.len, x: 0..0 };
        let (low, high) = reach(&ax.offsets);
        let start = x as isize + low;
        let span = len + high.abs_diff(low);
        let inside = start >= 0 && start as usize + span <= ax.source;
        let mut window = [0f32; WINDOW];
        // SAFETY: reads within the window or the row, as `inside` says; weights of these outputs;
        // writes of pixels of this row.
        unsafe {
            let mut sums = [[S::splat(0.0); N]; K];
            if let Some(bias) = self.bias {
                for k in 0..K {
                    sums[k] = [S::splat(bias[first + k]); N];
                }
            }
            for c in 0..self.inputs {
                let plane = self.source.plane(image, group * self.inputs + c);
                for z in 0..az.offsets.len() {
                    for y in 0..ay.offsets.len() {
                        let Some(source) = self.gather.source_row(plane, &segment, [z, y]) else {
                            continue;
                        };
                        let from = if let Some(padded) = padded {
                            let row = ay.position(segment.y, y) - padded.first;
                            padded.data[row * padded.width + x..][..span].as_ptr()
                        } else if inside {
                            source.as_ptr().offset(start)
                        } else {
                            copy_padded(source, start, &mut window[..span]);
                            window.as_ptr()
                        };
                        let tap = (z * ay.offsets.len() + y) * taps;
                        let at = first * of_output + c * self.gather.taps() + tap;
                        let weight = self.weight[at..].as_ptr();
                        for (i, offset) in ax.offsets.iter().enumerate() {
                            let from = from.offset(offset - low);
                            let mut read = [S::splat(0.0); N];
                            for n in 0..N {
                                read[n] = S::load(from.add(n * S::LANES));
                            }
                            for k in 0..K {
                                let factor = S::splat(*weight.add(k * of_output + i));
                                for n in 0..N {
                                    sums[k][n] = S::mul_add(factor, read[n], sums[k][n]);
                                }
                            }
                        }
                    }
                }
            }
            let count = len.min(ax.len - x);
            for k in 0..K {
                let plane = self.output.planes(image, first + k..first + k + 1);
                let to = plane.add(row * ax.len + x);
                if count == len {
                    for n in 0..N {
                        S::store(to.add(n * S::LANES), sums[k][n]);
                    }
                } else {
                    for n in 0..N {
                        S::store(window.as_mut_ptr().add(n * S::LANES), sums[k][n]);
                    }
                    to.copy_from_nonoverlapping(window.as_ptr(), count);
                }
            }
        }
    }
}
