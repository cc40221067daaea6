//! The transforms of a stack of blocks.
//!
//! A stack lies in memory voxel by voxel, the values of all its blocks at a voxel side by side:
//! whatever the axis, a transform combines runs of neighbouring values.

use std::array::from_fn;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// A linear transform of `SIDE` samples and its inverse. Every row of `forward` has unit norm:
/// noise keeps its variance.
pub(super) struct Transform<const SIDE: usize> {
    forward: [[f64; SIDE]; SIDE],
    inverse: [[f64; SIDE]; SIDE],
}

impl<const SIDE: usize> Transform<SIDE> {
    /// The orthonormal cosine transform.
    pub(super) fn cosine() -> Self {
        let side = SIDE as f64;
        let forward = from_fn(|k| {
            let norm = if k == 0 { 1.0 } else { 2.0f64 };
            from_fn(|j| {
                (norm / side).sqrt() * (PI * (2 * j + 1) as f64 * k as f64 / (2.0 * side)).cos()
            })
        });
        Self { forward, inverse: from_fn(|j| from_fn(|k| forward[k][j])) }
    }

    /// The biorthogonal spline wavelet 1.5 (Cohen, Daubechies & Feauveau 1992), periodic, down to a
    /// single average; `SIDE` is a power of two.
    pub(super) fn bior15() -> Self {
        let unit = |at: usize| -> [f64; SIDE] { from_fn(|i| f64::from(u8::from(i == at))) };
        let analysed: [[f64; SIDE]; SIDE] = from_fn(|at| analyse(unit(at)));
        let synthesised: [[f64; SIDE]; SIDE] = from_fn(|at| synthesise(unit(at)));
        let norm: [f64; SIDE] =
            from_fn(|k| analysed.iter().map(|c| c[k] * c[k]).sum::<f64>().sqrt());
        Self {
            forward: from_fn(|k| from_fn(|j| analysed[j][k] / norm[k])),
            inverse: from_fn(|j| from_fn(|k| synthesised[k][j] * norm[k])),
        }
    }

    /// Transforms the blocks of a stack of `blocks`, then along the stack by the Haar wavelet.
    pub(super) fn apply(
        &self,
        values: &mut Vec<f64>,
        other: &mut Vec<f64>,
        sides: [usize; 3],
        blocks: usize,
    ) {
        self.axes(&self.forward, values, other, sides, blocks);
        for run in values.chunks_exact_mut(blocks) {
            haar(run);
        }
    }

    /// Undoes [`Transform::apply`].
    pub(super) fn undo(
        &self,
        values: &mut Vec<f64>,
        other: &mut Vec<f64>,
        sides: [usize; 3],
        blocks: usize,
    ) {
        for run in values.chunks_exact_mut(blocks) {
            inverse_haar(run);
        }
        self.axes(&self.inverse, values, other, sides, blocks);
    }

    /// Multiplies every axis that blocks extend along with `matrix`.
    fn axes(
        &self,
        matrix: &[[f64; SIDE]; SIDE],
        values: &mut Vec<f64>,
        other: &mut Vec<f64>,
        sides: [usize; 3],
        blocks: usize,
    ) {
        other.resize(values.len(), 0.0);
        for axis in 0..3 {
            if sides[axis] == SIDE {
                let inner = sides[axis + 1..].iter().product::<usize>() * blocks;
                along(matrix, values, other, inner);
                std::mem::swap(values, other);
            }
        }
    }
}

/// One axis, whose samples lie `inner` values apart.
fn along<const SIDE: usize>(
    matrix: &[[f64; SIDE]; SIDE],
    values: &[f64],
    out: &mut [f64],
    inner: usize,
) {
    let slabs = values.chunks_exact(inner * SIDE).zip(out.chunks_exact_mut(inner * SIDE));
    for (values, out) in slabs {
        let runs: [&[f64]; SIDE] = from_fn(|j| &values[j * inner..(j + 1) * inner]);
        for (row, out) in matrix.iter().zip(out.chunks_exact_mut(inner)) {
            for (i, out) in out.iter_mut().enumerate() {
                let mut sum = 0.0;
                for j in 0..SIDE {
                    sum += row[j] * runs[j][i];
                }
                *out = sum;
            }
        }
    }
}

/// What the average of a pair takes from the differences of the pairs around it.
const UPDATE: [(isize, f64); 4] =
    [(-2, 3.0 / 128.0), (-1, -22.0 / 128.0), (1, 22.0 / 128.0), (2, -3.0 / 128.0)];

/// That part of the average of pair `k`.
fn update(differences: &[f64], k: usize) -> f64 {
    let n = differences.len() as isize;
    let at = |offset: isize| (k as isize + offset).rem_euclid(n) as usize;
    UPDATE.iter().map(|(offset, tap)| tap * differences[at(*offset)]).sum()
}

/// Averages first, then differences from coarse to fine. By lifting: the detail filter of this
/// wavelet is that of Haar, its average that of Haar and an [`update`] by the differences nearby.
fn analyse<const SIDE: usize>(mut values: [f64; SIDE]) -> [f64; SIDE] {
    let mut n = SIDE;
    while n > 1 {
        let half = n / 2;
        let pairs = values;
        for k in 0..half {
            values[half + k] = (pairs[2 * k] - pairs[2 * k + 1]) * FRAC_1_SQRT_2;
        }
        for k in 0..half {
            let sum = (pairs[2 * k] + pairs[2 * k + 1]) * FRAC_1_SQRT_2;
            values[k] = sum + update(&values[half..n], k);
        }
        n = half;
    }
    values
}

/// Undoes [`analyse`].
fn synthesise<const SIDE: usize>(mut values: [f64; SIDE]) -> [f64; SIDE] {
    let mut n = 2;
    while n <= SIDE {
        let half = n / 2;
        let bands = values;
        for k in 0..half {
            let sum = bands[k] - update(&bands[half..n], k);
            values[2 * k] = (sum + bands[half + k]) * FRAC_1_SQRT_2;
            values[2 * k + 1] = (sum - bands[half + k]) * FRAC_1_SQRT_2;
        }
        n *= 2;
    }
    values
}

/// Most blocks in a stack.
pub(super) const MOST: usize = 32;

/// The orthonormal Haar transform of a power of two of values, at most [`MOST`]: average first.
fn haar(values: &mut [f64]) {
    let mut n = values.len();
    while n > 1 {
        let half = n / 2;
        let mut differences = [0.0; MOST / 2];
        for k in 0..half {
            let (a, b) = (values[2 * k], values[2 * k + 1]);
            values[k] = (a + b) * FRAC_1_SQRT_2;
            differences[k] = (a - b) * FRAC_1_SQRT_2;
        }
        values[half..n].copy_from_slice(&differences[..half]);
        n = half;
    }
}

/// Undoes [`haar`].
fn inverse_haar(values: &mut [f64]) {
    let mut n = 2;
    while n <= values.len() {
        let half = n / 2;
        let mut sums = [0.0; MOST / 2];
        sums[..half].copy_from_slice(&values[..half]);
        for k in 0..half {
            let (sum, difference) = (sums[k], values[half + k]);
            values[2 * k] = (sum + difference) * FRAC_1_SQRT_2;
            values[2 * k + 1] = (sum - difference) * FRAC_1_SQRT_2;
        }
        n *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const SIDE: usize>(transform: &Transform<SIDE>) {
        for row in transform.forward {
            assert!((row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-14, "{row:?}");
        }
        // nothing but the first coefficient knows the average
        for (k, row) in transform.forward.iter().enumerate().skip(1) {
            assert!(row.iter().sum::<f64>().abs() < 1e-14, "{k}: {row:?}");
        }
        for (sides, blocks) in [([1, SIDE, SIDE], 8), ([1, 1, SIDE], 1), ([SIDE; 3], 32)] {
            let n = sides.iter().product::<usize>() * blocks;
            let start: Vec<f64> = (0..n).map(|i| ((i * 7919 + 13) % 1009) as f64).collect();
            let (mut values, mut other) = (start.clone(), Vec::new());
            transform.apply(&mut values, &mut other, sides, blocks);
            assert!(values.iter().zip(&start).any(|(a, b)| (a - b).abs() > 1.0));
            transform.undo(&mut values, &mut other, sides, blocks);
            let off = values.iter().zip(&start).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-10, "{off:e}");
        }
    }

    #[test]
    fn transforms_keep_noise_and_can_be_undone() {
        check(&Transform::<4>::bior15());
        check(&Transform::<8>::bior15());
        check(&Transform::<4>::cosine());
        check(&Transform::<8>::cosine());
    }

    #[test]
    fn the_wavelet_has_its_filters() {
        // one level of a long signal shows the filter as it is tabulated
        let taps = [3.0, -3.0, -22.0, 22.0, 128.0, 128.0, 22.0, -22.0, -3.0, 3.0];
        let unit = |at: usize| -> [f64; 32] { from_fn(|i| f64::from(u8::from(i == at))) };
        for (j, tap) in taps.iter().enumerate() {
            let x = unit(12 + j);
            let pairs: [f64; 16] = from_fn(|k| (x[2 * k] - x[2 * k + 1]) * FRAC_1_SQRT_2);
            let sum = (x[16] + x[17]) * FRAC_1_SQRT_2 + update(&pairs, 8);
            assert!((sum - tap * 2f64.sqrt() / 256.0).abs() < 1e-15, "{j}: {sum}");
        }
    }
}
