//! Weight gradients of few inputs or few outputs per group, in f32: depthwise convolutions, first and
//! last layers. A sum per tap and lane runs along each row; rows are added to the sums of a band of
//! rows, and the bands in f64, in order.

use super::few::{copy_padded, reach};
use super::gather::{Gather, Segment};
use crate::element::Element;
use crate::parts::Parts;
use crate::simd::{self, Lanes, Level};
use rayon::prelude::*;

/// Taps of a row that are summed together at most.
const MOST: usize = 4;

/// Inputs or outputs of a group, whichever are fewer, at most.
const NARROW: usize = 4;

/// Sums that a task keeps in its second-level cache.
const SUMS: usize = 64 << 10;

/// `weight[k, c, tap] = Σ result[n, k, p] · image[n, c, read(p, tap)]`, group by group.
pub(super) struct FewWeight<'a> {
    pub batch: usize,
    pub groups: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub gather: &'a Gather,
    pub image: &'a Parts<'a, f32>,
    pub result: &'a Parts<'a, f32>,
}

/// Whether [`FewWeight`] can compute this and is the way to do so.
pub(super) fn applies(gather: &Gather, inputs: usize, outputs: usize) -> bool {
    let sums = inputs * outputs * gather.taps() * 16;
    inputs.min(outputs) <= NARROW && sums <= SUMS && gather.axes[2].step == 1
}

impl FewWeight<'_> {
    /// The weight `[groups, outputs, inputs, taps]`.
    pub(super) fn run(&self, level: Level) -> Vec<f32> {
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

    fn run_with<S: Lanes>(&self) -> Vec<f32> {
        let [az, ay, ax] = &self.gather.axes;
        let rows = az.len * ay.len;
        let size = self.outputs * self.inputs * self.gather.taps();
        // about 100 µs of products, but enough to be worth a set of sums
        let band = ((1 << 20) / (ax.len * size).max(1)).clamp(4, rows.max(4));
        let bands = rows.div_ceil(band);
        let span = self.span::<S>();
        let partial: Vec<Vec<f64>> = (0..self.groups * self.batch * bands)
            .into_par_iter()
            .map(|task| {
                let (group, task) = (task / (self.batch * bands), task % (self.batch * bands));
                let (image, index) = (task / bands, task % bands);
                f32::with_scratch(size * S::LANES + span, |scratch| {
                    let (sums, window) = scratch.split_at_mut(size * S::LANES);
                    sums.fill(0.0);
                    for row in index * band..rows.min((index + 1) * band) {
                        // SAFETY: the level that `run` dispatched to.
                        unsafe {
                            S::run(
                                #[inline(always)]
                                || self.row::<S>([image, group, row], sums, window),
                            );
                        }
                    }
                    let of_tap = |lanes: &[f32]| lanes.iter().map(|&sum| f64::from(sum)).sum();
                    sums.chunks_exact(S::LANES).map(of_tap).collect()
                })
            })
            .collect();
        let per_group = self.batch * bands;
        let mut weight = Vec::with_capacity(self.groups * size);
        for group in 0..self.groups {
            let parts = &partial[group * per_group..(group + 1) * per_group];
            weight.extend((0..size).map(|i| parts.iter().map(|part| part[i]).sum::<f64>() as f32));
        }
        weight
    }

    /// What a row of the result reads of a row of the image, in whole vectors.
    fn span<S: Lanes>(&self) -> usize {
        let ax = &self.gather.axes[2];
        let (low, high) = reach(&ax.offsets);
        ax.len.next_multiple_of(S::LANES) + high.abs_diff(low)
    }

    /// Adds one row of the result to all sums.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn row<S: Lanes>(
        &self,
        [image, group, row]: [usize; 3],
        sums: &mut [f32],
        window: &mut [f32],
    ) {
        let [az, ay, ax] = &self.gather.axes;
        let (taps, kernel) = (ax.offsets.len(), self.gather.taps());
        let segment = Segment { z: row / ay.len, y: row % ay.len, x: 0..0 };
        let (low, span) = (reach(&ax.offsets).0, self.span::<S>());
        for c in 0..self.inputs {
            let plane = self.image.plane(image, group * self.inputs + c);
            for (z, y) in
                (0..az.offsets.len()).flat_map(|z| (0..ay.offsets.len()).map(move |y| (z, y)))
            {
                let Some(source) = self.gather.source_row(plane, &segment, [z, y]) else {
                    continue;
                };
                // the row with zeros around it
                copy_padded(source, low, &mut window[..span]);
                for k in 0..self.outputs {
                    let result = self.result.plane(image, group * self.outputs + k);
                    let result = &result[row * ax.len..][..ax.len];
                    let first = (k * self.inputs + c) * kernel + (z * ay.offsets.len() + y) * taps;
                    let mut tap = 0;
                    while tap < taps {
                        let count = (taps - tap).min(MOST);
                        let offsets = &ax.offsets[tap..tap + count];
                        let sums = &mut sums[(first + tap) * S::LANES..][..count * S::LANES];
                        // SAFETY: as many sums as offsets; the window covers the row at all of them.
                        unsafe {
                            match count {
                                1 => add_row::<S, 1>(result, window, low, offsets, sums),
                                2 => add_row::<S, 2>(result, window, low, offsets, sums),
                                3 => add_row::<S, 3>(result, window, low, offsets, sums),
                                _ => add_row::<S, MOST>(result, window, low, offsets, sums),
                            }
                        }
                        tap += count;
                    }
                }
            }
        }
    }
}

/// `sums[t] += Σ result[x] · window[x + offsets[t] - low]`, lane by lane.
///
/// # Safety
/// As [`Lanes`]; there are `T` offsets and sums, and the window covers all that is read.
#[inline(always)]
unsafe fn add_row<S: Lanes, const T: usize>(
    result: &[f32],
    window: &[f32],
    low: isize,
    offsets: &[isize],
    sums: &mut [f32],
) {
    let n = S::LANES;
    // SAFETY: the caller's.
    unsafe {
        let mut read = [window.as_ptr(); T];
        for t in 0..T {
            read[t] = window.as_ptr().offset(offsets[t] - low);
        }
        let mut row = [S::splat(0.0); T];
        let whole = result.len() / n * n;
        for x in (0..whole).step_by(n) {
            let factor = S::load(result.as_ptr().add(x));
            for t in 0..T {
                row[t] = S::mul_add(factor, S::load(read[t].add(x)), row[t]);
            }
        }
        if whole < result.len() {
            let mut rest = [0f32; 16];
            rest[..result.len() - whole].copy_from_slice(&result[whole..]);
            let factor = S::load(rest.as_ptr());
            for t in 0..T {
                row[t] = S::mul_add(factor, S::load(read[t].add(whole)), row[t]);
            }
        }
        for t in 0..T {
            let sum = sums.as_mut_ptr().add(t * n);
            S::store(sum, S::add(S::load(sum), row[t]));
        }
    }
}
