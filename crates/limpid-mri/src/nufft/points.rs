//! Samples in an order in which neighbours on the grid follow each other.

use super::kernel::Kernel;
use crate::{Error, Real, Result, Trajectory};
use rayon::prelude::*;
use std::ops::Range;

/// Points of the grid along the slow axis, of which samples form a layer, in two and in three dimensions.
const LAYER: [usize; 2] = [8, 4];

/// Points of the grid along the other axes that form a bin.
const BIN: [usize; 2] = [8, 16];

/// Parts of the grid that are written at the same time, at most. A constant, for results must not depend on
/// the number of threads.
const SLABS: usize = 32;

/// A sample on the grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point<T> {
    /// The first point of the grid in reach, of each axis.
    pub(super) start: [u32; 3],
    /// Where the sample lies between those that reach as far, in `-1..1`.
    pub(super) offset: [T; 3],
}

/// Rows of the grid and all samples that reach them.
#[derive(Clone, Debug)]
pub(super) struct Slab {
    pub(super) rows: Range<usize>,
    /// Two runs of samples: those at the end of the grid reach its beginning.
    pub(super) points: [Range<usize>; 2],
}

/// The samples of a trajectory on a grid of three axes, the first of length one for images of two.
pub(super) struct Points<T> {
    pub(super) grid: [usize; 3],
    pub(super) points: Vec<Point<T>>,
    /// The sample that each point is.
    pub(super) order: Vec<u32>,
    /// The point that each sample is.
    pub(super) place: Vec<u32>,
    pub(super) slabs: Vec<Slab>,
}

impl<T: Real> Points<T> {
    /// Sorts the samples of images of the sizes `matrix` on a grid of the sizes `sizes`.
    pub(super) fn new(
        op: &'static str,
        trajectory: &Trajectory,
        matrix: &[usize],
        sizes: &[usize],
        kernel: &Kernel,
    ) -> Result<Self> {
        let (rank, len) = (matrix.len(), trajectory.len());
        if u32::try_from(len).is_err() || sizes.iter().any(|&size| u32::try_from(size).is_err()) {
            return Err(Error::value(op, format!("{len} samples are too many, divide them")));
        }
        let slow = 3 - rank;
        let mut grid = [1; 3];
        grid[slow..].copy_from_slice(sizes);
        let half = kernel.width as f64 / 2.0;
        let point = |k: &[f64]| {
            let mut point = Point { start: [0; 3], offset: [T::zero(); 3] };
            for (axis, &k) in k.iter().enumerate() {
                let (size, voxels) = (sizes[axis] as f64, matrix[axis] as f64);
                let left = k * size / voxels + (size / 2.0).floor() - half;
                let start = left.ceil();
                point.start[slow + axis] = start.rem_euclid(size) as u32;
                point.offset[slow + axis] = T::of(2.0 * (start - left) - 1.0);
            }
            point
        };
        let unsorted: Vec<Point<T>> = trajectory.points().par_chunks(rank).map(point).collect();

        let height = LAYER[rank - 2];
        let bins = [1, 2].map(|axis| grid[axis].div_ceil(BIN[axis - 1]) as u64);
        let key = |(i, point): (usize, &Point<T>)| {
            let [z, y, x] = point.start.map(u64::from);
            let bin = match rank {
                2 => y / height as u64 * bins[1],
                _ => (z / height as u64 * bins[0] + y / BIN[0] as u64) * bins[1],
            };
            (bin + x / BIN[1] as u64, i as u32)
        };
        let mut keys: Vec<(u64, u32)> = unsorted.par_iter().enumerate().map(key).collect();
        keys.par_sort_unstable();
        let order: Vec<u32> = keys.into_iter().map(|(_, i)| i).collect();
        let mut place = vec![0; len];
        for (at, &i) in order.iter().enumerate() {
            place[i as usize] = at as u32;
        }
        let points: Vec<Point<T>> = order.par_iter().map(|&i| unsorted[i as usize]).collect();
        let slabs = slabs(&points, grid, slow, height, kernel.width);
        Ok(Self { grid, points, order, place, slabs })
    }
}

/// Cuts the grid between layers so that slabs hold about the same number of samples.
fn slabs<T>(
    points: &[Point<T>],
    grid: [usize; 3],
    slow: usize,
    height: usize,
    width: usize,
) -> Vec<Slab> {
    // the samples before each layer, and all
    let layers = grid[slow].div_ceil(height);
    let before: Vec<usize> = (0..=layers)
        .map(|layer| points.partition_point(|p| (p.start[slow] as usize) < layer * height))
        .collect();
    let rows: usize = grid[slow + 1..2].iter().product();
    let (mut slabs, mut first) = (Vec::new(), 0);
    for end in 1..=layers {
        if end < layers && (before[end] - before[first]) * SLABS < points.len() {
            continue;
        }
        let planes = first * height..grid[slow].min(end * height);
        // those that start so far ahead reach the slab
        let reach = width - 1;
        let near = before[planes.start.saturating_sub(reach) / height]..before[end];
        let far = match reach.saturating_sub(planes.start) {
            0 => points.len(),
            beyond => before[(grid[slow] - beyond.min(grid[slow])) / height],
        };
        slabs.push(Slab {
            rows: planes.start * rows..planes.end * rows,
            points: [near.clone(), far.max(near.end)..points.len()],
        });
        first = end;
    }
    slabs
}
