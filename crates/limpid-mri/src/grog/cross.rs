//! Cross images: transforms of the products of two coils at any point of k-space, from a table.

use super::calibration::Calibration;
use crate::bessel::bessel_i0;
use crate::real::{turn, wide};
use crate::{Complex, Error, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Points of the table per cycle per field of view.
const STEPS: usize = 3;
/// Points of an axis that a value is interpolated from, by a Kaiser-Bessel window.
const WIDTH: usize = 7;
/// Shape of the window: least largest error, of 2e-7 of a voxel's part, for this width and these steps.
const BETA: f64 = 18.1427;
/// Rows of the table of weights per point.
const FINE: usize = 2048;
/// Most bytes of a table.
const MOST: usize = 2 << 30;

/// `X_{ab}(u) = Σ_r conj(S_a) S_b exp(−2πi u·r/N)` of all coils, divided by the mean power of a coil.
pub(super) struct CrossImages<T> {
    coils: usize,
    rank: usize,
    /// Points of the table on each side of its middle.
    half: usize,
    /// `[points of every axis…, 2, C²]`, real parts before imaginary ones.
    values: Vec<T>,
    /// Weights of the points, for fractions of a step from half a step before the nearest one.
    weights: Vec<[T; WIDTH]>,
}

impl<T: Real> CrossImages<T> {
    /// For points of at most `reach` cycles per field of view in every coordinate.
    pub(super) fn new(calibration: &Calibration<T>, reach: f64) -> Result<Self> {
        Self::check_room(calibration, reach, 1)?;
        let coils = calibration.coils();
        let pairs: Vec<[usize; 2]> =
            (0..coils).flat_map(|b| (0..=b).map(move |a| [a, b])).collect();
        let one = |_| Complex::from(1.0);
        Ok(Self::of_pairs(calibration, reach, &pairs, one, |table, [a, b], at, re, im| {
            // the other way round it is the conjugate at the opposite point
            let mirrored = table[0].len() - 1 - at;
            re[b * coils + a] = table[0][mirrored];
            im[b * coils + a] = -table[1][mirrored];
            re[a * coils + b] = table[0][at];
            im[a * coils + b] = table[1][at];
        }))
    }

    /// The same with a factor of each voxel in the sum.
    pub(super) fn with_factor(
        calibration: &Calibration<T>,
        reach: f64,
        factor: impl Fn(usize) -> Complex<f64> + Sync,
    ) -> Self {
        let coils = calibration.coils();
        let pairs: Vec<[usize; 2]> =
            (0..coils).flat_map(|b| (0..coils).map(move |a| [a, b])).collect();
        Self::of_pairs(calibration, reach, &pairs, factor, |table, [a, b], at, re, im| {
            re[a * coils + b] = table[0][at];
            im[a * coils + b] = table[1][at];
        })
    }

    /// Refuses tables that take too much memory together.
    pub(super) fn check_room(
        calibration: &Calibration<T>,
        reach: f64,
        tables: usize,
    ) -> Result<()> {
        let (coils, rank) = (calibration.coils(), calibration.dims().len());
        let side = 2 * half(reach) + 1;
        let numbers = side.pow(rank as u32).saturating_mul(2 * coils * coils * size_of::<T>());
        if numbers.saturating_mul(tables) > MOST {
            let problem = format!(
                "cross images of {coils} coils at {side} points along {rank} axes, in {tables} tables, take more \
                 than 2 GiB; compress the coils to fewer virtual ones, make the kernels narrower (kern_width), \
                 or move phases by shorter times"
            );
            return Err(Error::value("closed form", problem));
        }
        Ok(())
    }

    /// From the transforms of the products of some pairs, which `fill` writes to the values of a point.
    fn of_pairs(
        calibration: &Calibration<T>,
        reach: f64,
        pairs: &[[usize; 2]],
        factor: impl Fn(usize) -> Complex<f64> + Sync,
        fill: impl Fn(&[Vec<T>; 2], [usize; 2], usize, &mut [T], &mut [T]) + Sync,
    ) -> Self {
        let (coils, rank, half) = (calibration.coils(), calibration.dims().len(), half(reach));
        let side = 2 * half + 1;
        let waves: Vec<_> = calibration.dims().iter().map(|&size| wave(size, half)).collect();
        let scale = coils as f64 / calibration.power();
        let transform = |&[a, b]: &[usize; 2]| {
            let pair = calibration.image(a).iter().zip(calibration.image(b));
            let product = pair
                .enumerate()
                .map(|(voxel, (a, b))| wide(*a).conj() * wide(*b) * scale * factor(voxel));
            let mut planes = split(product);
            for wave in &waves {
                planes = vectorised(
                    #[inline(always)]
                    || leading_axis(&planes, wave, side),
                );
            }
            planes.map(|plane| plane.into_iter().map(T::of).collect::<Vec<T>>())
        };
        let tables: Vec<[Vec<T>; 2]> = pairs.par_iter().map(transform).collect();
        let numbers = 2 * coils * coils;
        let mut values = vec![T::default(); side.pow(rank as u32) * numbers];
        values.par_chunks_mut(numbers).enumerate().with_min_len(16).for_each(|(at, values)| {
            let (re, im) = values.split_at_mut(coils * coils);
            pairs.iter().zip(&tables).for_each(|(&pair, table)| fill(table, pair, at, re, im));
        });
        let row = |i: usize| {
            let fraction = i as f64 / FINE as f64;
            std::array::from_fn(|j| T::of(window(fraction + WIDTH as f64 / 2.0 - 1.0 - j as f64)))
        };
        Self { coils, rank, half, values, weights: (0..=FINE).map(row).collect() }
    }

    /// Numbers of a lookup.
    pub(super) fn numbers(&self) -> usize {
        2 * self.coils * self.coils
    }

    /// `X(u)`, `[2, C²]`, of a point within reach.
    #[inline(always)]
    pub(super) fn lookup(&self, u: [f64; 3], out: &mut [T]) {
        out.fill(T::default());
        self.add(T::one(), u, out);
    }

    /// Adds `scale` times `X(u)` to what is there.
    #[inline(always)]
    pub(super) fn add(&self, scale: T, u: [f64; 3], out: &mut [T]) {
        let side = 2 * self.half + 1;
        let (mut first, mut weights) = ([0; 3], [[T::one(); WIDTH]; 3]);
        for d in 0..self.rank {
            // the nearest point is the middle one, as their number is odd
            let place = u[d] * STEPS as f64 + self.half as f64 + 0.5;
            first[d] = place as usize - WIDTH / 2;
            weights[d] = self.weights_at(place.fract());
        }
        weights[0] = weights[0].map(|weight| weight * scale);
        let depth = if self.rank == 3 { WIDTH } else { 1 };
        for i in 0..WIDTH {
            for j in 0..WIDTH {
                for k in 0..depth {
                    let weight = weights[0][i] * weights[1][j] * weights[2][k];
                    let mut point = (first[0] + i) * side + first[1] + j;
                    if self.rank == 3 {
                        point = point * side + first[2] + k;
                    }
                    let values = &self.values[point * out.len()..][..out.len()];
                    for (sum, &value) in out.iter_mut().zip(values) {
                        *sum += weight * value;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn weights_at(&self, fraction: f64) -> [T; WIDTH] {
        let row = fraction * FINE as f64;
        let (low, between) = (row as usize, T::of(row.fract()));
        let (a, b) = (&self.weights[low], &self.weights[low + 1]);
        std::array::from_fn(|j| a[j] + between * (b[j] - a[j]))
    }
}

/// Points on each side of the middle of a table.
fn half(reach: f64) -> usize {
    (reach * STEPS as f64).ceil() as usize + WIDTH / 2
}

/// The window at a distance in steps.
fn window(t: f64) -> f64 {
    let z = 1.0 - (2.0 * t / WIDTH as f64).powi(2);
    if z < 0.0 { 0.0 } else { bessel_i0(BETA * z.sqrt()) / bessel_i0(BETA) }
}

/// Phases `[size, points]` of an axis, real and imaginary, divided by the transform of the window.
fn wave(size: usize, half: usize) -> [Vec<f64>; 2] {
    let phases = (0..size).flat_map(|n| {
        let r = (n as f64 - (size / 2) as f64) / (size * STEPS) as f64;
        let root = (BETA.powi(2) - (std::f64::consts::PI * WIDTH as f64 * r).powi(2)).sqrt();
        let scale = root * bessel_i0(BETA) / (WIDTH as f64 * root.sinh());
        (0..=2 * half).map(move |j| turn::<f64>(-r * (j as f64 - half as f64)) * scale)
    });
    split(phases)
}

fn split(values: impl Iterator<Item = Complex<f64>>) -> [Vec<f64>; 2] {
    let (re, im) = values.map(|v| (v.re, v.im)).unzip();
    [re, im]
}

/// Transforms the first axis of `[size, rest]` and makes it the last one: `[rest, side]`.
#[inline(always)]
fn leading_axis([re, im]: &[Vec<f64>; 2], [wr, wi]: &[Vec<f64>; 2], side: usize) -> [Vec<f64>; 2] {
    let size = wr.len() / side;
    let rest = re.len() / size;
    let (mut or, mut oi) = (vec![0.0; rest * side], vec![0.0; rest * side]);
    for (i, (or, oi)) in or.chunks_exact_mut(side).zip(oi.chunks_exact_mut(side)).enumerate() {
        for (r, (wr, wi)) in wr.chunks_exact(side).zip(wi.chunks_exact(side)).enumerate() {
            let (a, b) = (re[r * rest + i], im[r * rest + i]);
            for u in 0..side {
                or[u] += a * wr[u] - b * wi[u];
                oi[u] += a * wi[u] + b * wr[u];
            }
        }
    }
    [or, oi]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::tests::random;

    #[test]
    fn lookups_are_the_transforms_of_products() {
        for dims in [vec![9, 12], vec![5, 6, 4]] {
            let voxels: usize = dims.iter().product();
            let images = Calibration::new(3, &dims, random::<f64>(8, 3 * voxels)).unwrap();
            let cross = CrossImages::new(&images, 3.5).unwrap();
            let mut got = vec![0.0; cross.numbers()];
            for u in [[0.0; 3], [0.4, -1.3, 2.0], [3.5, -3.5, 3.5], [-3.49, 0.01, -0.33]] {
                cross.lookup(u, &mut got);
                for (a, b) in [(0, 0), (0, 2), (2, 0), (1, 2)] {
                    let value = |v: usize| {
                        let position = images.position(v);
                        let turns: f64 = (0..dims.len()).map(|d| u[d] * position[d]).sum();
                        images.image(a)[v].conj() * images.image(b)[v] * turn::<f64>(-turns)
                    };
                    let exact = (0..voxels).map(value).sum::<Complex<f64>>();
                    let exact = exact * (3.0 / images.power());
                    let at = a * 3 + b;
                    let gap = (Complex::new(got[at], got[9 + at]) - exact).norm();
                    assert!(gap < 1e-6, "{dims:?} {u:?}: {gap:e}");
                }
            }
        }
    }

    #[test]
    fn refuses_tables_that_fill_the_memory() {
        let images = Calibration::new(64, &[2, 2, 2], random::<f32>(8, 512)).unwrap();
        let error = CrossImages::new(&images, 8.0).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("virtual")));
    }
}
