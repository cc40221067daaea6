//! Interpolation from the grid to samples, and its transpose.

use super::points::{Points, Slab};
use crate::{Complex, Real};
use limpid_kernels::vectorised;
use rayon::prelude::*;
use std::ops::Range;

/// Samples of a task.
const TASK: usize = 1024;

/// Samples whose values are put in order at a time.
const BLOCK: usize = 64;

/// The samples of a trajectory with the window that spreads them.
pub(super) struct Spreader<T> {
    pub(super) points: Points<T>,
    pub(super) width: usize,
    /// Taps that the inner loops compute, the last of them of weight zero.
    taps: usize,
    /// `[powers, taps]`, the highest power first.
    coefficients: Vec<T>,
}

/// The rows of the grid in reach of a sample, where they begin and their weights.
type Rows<T> = Vec<(usize, T)>;

impl<T: Real> Spreader<T> {
    /// For samples of the window of these polynomials.
    pub(super) fn new(points: Points<T>, polynomials: &[Vec<f64>]) -> Self {
        let width = polynomials[0].len();
        let taps = width.next_multiple_of(4);
        let padded = |powers: &Vec<f64>| {
            let mut powers = powers.clone();
            powers.resize(taps, 0.0);
            powers.into_iter().map(T::of)
        };
        Self { points, width, taps, coefficients: polynomials.iter().flat_map(padded).collect() }
    }

    /// Numbers of a grid.
    pub(super) fn pixels(&self) -> usize {
        self.points.grid.iter().product()
    }

    /// Interpolates samples `[any number, samples]` from as many grids.
    pub(super) fn interpolate(&self, grids: &[Complex<T>], samples: &mut [Complex<T>]) {
        match self.taps {
            4 => self.interpolate_by::<4>(grids, samples),
            8 => self.interpolate_by::<8>(grids, samples),
            12 => self.interpolate_by::<12>(grids, samples),
            _ => self.interpolate_by::<16>(grids, samples),
        }
    }

    /// Spreads samples `[any number, samples]` over as many grids, whose numbers are lost.
    pub(super) fn spread(&self, samples: &[Complex<T>], grids: &mut [Complex<T>]) {
        match self.taps {
            4 => self.spread_by::<4>(samples, grids),
            8 => self.spread_by::<8>(samples, grids),
            12 => self.spread_by::<12>(samples, grids),
            _ => self.spread_by::<16>(samples, grids),
        }
    }

    fn interpolate_by<const P: usize>(&self, grids: &[Complex<T>], samples: &mut [Complex<T>]) {
        let Points { grid: [planes, rows, row], points, place, .. } = &self.points;
        let (all, row) = (0..planes * rows, *row);
        let count = grids.len() / self.pixels();
        // by point, the images together: so that few lines of the cache are touched when they are put in order
        let mut sorted = vec![Complex::default(); points.len() * count];
        let tasks = sorted.par_chunks_mut(TASK * count).zip(points.par_chunks(TASK));
        tasks.for_each_init(Rows::new, |reach, (out, points)| {
            vectorised(
                #[inline(always)]
                || {
                    let mut sums = vec![[Complex::default(); P]; count];
                    for (out, point) in out.chunks_exact_mut(count).zip(points) {
                        let weights = self.stencil::<P>(&point.start, &point.offset, &all, reach);
                        let start = point.start[2] as usize;
                        let grids = grids.chunks_exact(self.pixels());
                        if start + P > row {
                            let taps = &weights[..self.width];
                            for (out, grid) in out.iter_mut().zip(grids) {
                                *out = gather_wrapped(grid, start, row, reach, taps);
                            }
                            continue;
                        }
                        for (sums, grid) in sums.iter_mut().zip(grids) {
                            gather(grid, start, reach, sums);
                        }
                        for (out, sums) in out.iter_mut().zip(sums.iter()) {
                            *out = weighted(sums, &weights);
                        }
                    }
                },
            );
        });
        let tasks: Vec<_> = cuts(points.len(), TASK).collect();
        let outs = across(samples, points.len(), &tasks);
        outs.into_par_iter().zip(&tasks).for_each(|(mut outs, task)| {
            for (i, &place) in place[task.clone()].iter().enumerate() {
                let values = &sorted[place as usize * count..][..count];
                for (out, value) in outs.iter_mut().zip(values) {
                    out[i] = *value;
                }
            }
        });
    }

    fn spread_by<const P: usize>(&self, samples: &[Complex<T>], grids: &mut [Complex<T>]) {
        let slabs = &self.points.slabs;
        let row = self.points.grid[2];
        let ranges: Vec<_> =
            slabs.iter().map(|slab| slab.rows.start * row..slab.rows.end * row).collect();
        let parts = across(grids, self.pixels(), &ranges);
        parts.into_par_iter().zip(slabs).for_each_init(
            || (Vec::new(), Rows::new()),
            |(values, reach), (mut parts, slab)| {
                for part in &mut parts {
                    part.fill(Complex::default());
                }
                let runs = slab.points.iter().flat_map(|run| {
                    run.clone().step_by(BLOCK).map(|start| start..run.end.min(start + BLOCK))
                });
                for run in runs {
                    self.sorted(samples, &run, values);
                    vectorised(
                        #[inline(always)]
                        || self.spread_run::<P>(&run, values, slab, reach, &mut parts),
                    );
                }
            },
        );
    }

    /// The values `[points, any number]` of a run of points. Read here, for they come from all over the memory.
    fn sorted(&self, samples: &[Complex<T>], run: &Range<usize>, values: &mut Vec<Complex<T>>) {
        let all = self.points.order.len();
        let count = samples.len() / all;
        values.resize(run.len() * count, Complex::default());
        for (c, samples) in samples.chunks_exact(all).enumerate() {
            for (i, &sample) in self.points.order[run.clone()].iter().enumerate() {
                values[i * count + c] = samples[sample as usize];
            }
        }
    }

    /// Adds a run of points to the parts of the grids that belong to a slab.
    #[inline(always)]
    fn spread_run<const P: usize>(
        &self,
        run: &Range<usize>,
        values: &[Complex<T>],
        slab: &Slab,
        reach: &mut Rows<T>,
        parts: &mut [&mut [Complex<T>]],
    ) {
        let row = self.points.grid[2];
        let points = &self.points.points[run.clone()];
        for (point, values) in points.iter().zip(values.chunks_exact(parts.len())) {
            let weights = self.stencil::<P>(&point.start, &point.offset, &slab.rows, reach);
            let start = point.start[2] as usize;
            for (part, value) in parts.iter_mut().zip(values) {
                if start + P <= row {
                    scatter(*value, &weights, start, reach, part);
                } else {
                    let taps = &weights[..self.width];
                    scatter_wrapped(*value, taps, start, row, reach, part);
                }
            }
        }
    }

    /// Finds the rows of a slab in reach of a sample, and its weights along them.
    #[inline(always)]
    fn stencil<const P: usize>(
        &self,
        start: &[u32; 3],
        offset: &[T; 3],
        slab: &Range<usize>,
        reach: &mut Rows<T>,
    ) -> [T; P] {
        let [planes, rows, row] = self.points.grid;
        let along_y = self.weights::<P>(offset[1]);
        let along_z = if planes == 1 { [T::one(); P] } else { self.weights::<P>(offset[0]) };
        reach.clear();
        for (j, &z) in along_z[..self.width.min(planes)].iter().enumerate() {
            let plane = wrapped(start[0] as usize + j, planes) * rows;
            for (j, &y) in along_y[..self.width].iter().enumerate() {
                let at = plane + wrapped(start[1] as usize + j, rows);
                if slab.contains(&at) {
                    reach.push(((at - slab.start) * row, z * y));
                }
            }
        }
        self.weights::<P>(offset[2])
    }

    /// The weights of the points in reach of a sample along one axis.
    #[inline(always)]
    fn weights<const P: usize>(&self, offset: T) -> [T; P] {
        let mut weights = [T::zero(); P];
        for powers in self.coefficients.as_chunks::<P>().0 {
            for (weight, &c) in weights.iter_mut().zip(powers) {
                *weight = *weight * offset + c;
            }
        }
        weights
    }
}

#[inline(always)]
fn wrapped(at: usize, len: usize) -> usize {
    if at >= len { at - len } else { at }
}

/// Sums of the points in reach, for each place along a row.
#[inline(always)]
fn gather<T: Real, const P: usize>(
    grid: &[Complex<T>],
    start: usize,
    reach: &Rows<T>,
    out: &mut [Complex<T>; P],
) {
    let mut sums = [Complex::default(); P];
    for &(row, weight) in reach {
        let Some(values) = grid[row + start..].first_chunk::<P>() else { continue };
        for (sum, value) in sums.iter_mut().zip(values) {
            sum.re += value.re * weight;
            sum.im += value.im * weight;
        }
    }
    // stored side by side, without which the compiler takes real and imaginary parts to registers of their own
    *out = sums;
}

/// The sum over places along a row.
#[inline(always)]
fn weighted<T: Real, const P: usize>(sums: &[Complex<T>; P], weights: &[T; P]) -> Complex<T> {
    let mut terms = [Complex::default(); P];
    for ((term, sum), &weight) in terms.iter_mut().zip(sums).zip(weights) {
        *term = sum.scale(weight);
    }
    let mut count = P;
    while count.is_multiple_of(2) {
        count /= 2;
        for i in 0..count {
            terms[i] = terms[i] + terms[i + count];
        }
    }
    terms[1..count].iter().fold(terms[0], |sum, v| sum + v)
}

/// The same of rows that end before the sample's reach does.
#[inline(never)]
fn gather_wrapped<T: Real>(
    grid: &[Complex<T>],
    start: usize,
    len: usize,
    reach: &Rows<T>,
    weights: &[T],
) -> Complex<T> {
    let mut sum = Complex::default();
    for (j, &along) in weights.iter().enumerate() {
        let column = wrapped(start + j, len);
        let values = reach.iter().map(|&(row, weight)| grid[row + column].scale(weight));
        sum = sum + values.fold(Complex::default(), |sum, v| sum + v).scale(along);
    }
    sum
}

#[inline(always)]
fn scatter<T: Real, const P: usize>(
    value: Complex<T>,
    weights: &[T; P],
    start: usize,
    reach: &Rows<T>,
    grid: &mut [Complex<T>],
) {
    let mut values = [Complex::default(); P];
    for (v, &weight) in values.iter_mut().zip(weights) {
        *v = value.scale(weight);
    }
    for &(row, weight) in reach {
        let Some(sums) = grid[row + start..].first_chunk_mut::<P>() else { continue };
        for (sum, value) in sums.iter_mut().zip(&values) {
            sum.re += value.re * weight;
            sum.im += value.im * weight;
        }
    }
}

/// The same to rows that end before the sample's reach does.
#[inline(never)]
fn scatter_wrapped<T: Real>(
    value: Complex<T>,
    weights: &[T],
    start: usize,
    len: usize,
    reach: &Rows<T>,
    grid: &mut [Complex<T>],
) {
    for (j, &along) in weights.iter().enumerate() {
        let (column, value) = (wrapped(start + j, len), value.scale(along));
        for &(row, weight) in reach {
            let sum = &mut grid[row + column];
            *sum = *sum + value.scale(weight);
        }
    }
}

/// Consecutive ranges of `task` of `len` elements.
fn cuts(len: usize, task: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(task).map(move |start| start..len.min(start + task))
}

/// Cuts arrays of `len` elements, which follow each other, at the same consecutive ranges: for each range the
/// parts of all arrays.
fn across<'a, T>(data: &'a mut [T], len: usize, ranges: &[Range<usize>]) -> Vec<Vec<&'a mut [T]>> {
    let mut parts: Vec<Vec<&mut [T]>> = ranges.iter().map(|_| Vec::new()).collect();
    for mut rest in data.chunks_exact_mut(len) {
        for (parts, range) in parts.iter_mut().zip(ranges) {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(range.len());
            parts.push(part);
            rest = after;
        }
    }
    parts
}
