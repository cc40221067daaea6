//! Cross images under the phase that a field leaves in the time by which kernels move samples.
//!
//! The phase `exp(±2πi b δ)` of a field `b` and a time `δ` is interpolated from a few times, the Chebyshev points of
//! their range. The error is the same bound for all voxels and times, and a table of each point is all that is
//! kept.

use super::calibration::Calibration;
use super::cross::CrossImages;
use super::geometry::Geometry;
use super::samples::FieldShift;
use crate::real::turn;
use crate::{Complex, Error, FieldSign, Real, Result};
use std::f64::consts::PI;

#[cfg(test)]
mod tests;

const OP: &str = "closed form";
/// The largest error of an interpolated phase factor.
const TOLERANCE: f64 = 1e-4;
/// Points of interpolation at most: enough for ten turns, of which no kernel gives a good account.
const MOST_POINTS: usize = 64;

/// `Y_{ab}(u, δ) = Σ_r conj(S_a) S_b exp(±2πi b(r) δ) exp(−2πi u·r/N)` of all coils, and the `δ` of samples: what their
/// own times are after those of their targets.
pub(super) struct PhaseMoves<T> {
    /// Times to which samples are moved, `[M]`.
    targets: Vec<f64>,
    /// The shortest and the longest time.
    range: [f64; 2],
    /// Turns per second that all voxels have in common; the tables are of the others.
    common: f64,
    /// Times of the tables.
    points: Points,
    tables: Vec<CrossImages<T>>,
}

impl<T: Real> PhaseMoves<T> {
    /// For the samples of a geometry, and points of at most `reach` cycles per field of view.
    pub(super) fn new(
        calibration: &Calibration<T>,
        geometry: &Geometry,
        reach: f64,
        shift: FieldShift,
        sign: FieldSign,
    ) -> Result<Self> {
        shift.check(OP, calibration.dims(), geometry.len())?;
        let (targets, field) = (shift.times.to_vec(), shift.field);
        let times = times(geometry, &targets);
        let range = ends(times);
        let seen = |&voxel: &usize| {
            (0..calibration.coils()).any(|c| calibration.image(c)[voxel] != Complex::default())
        };
        let [low, high] = ends((0..field.len()).filter(seen).map(|voxel| field[voxel]));
        // sources are after their targets, and the first of two coils is conjugate
        let sign = if sign == FieldSign::Negative { 1.0 } else { -1.0 };
        let Some(points) = Points::new(range, high - low) else {
            let problem = format!(
                "over the times of {:.1} to {:.1} ms by which kernels move samples, a field of {low:.0} to {high:.0} \
                 hertz turns voxels too far from each other; take more segments, or set the field to zero where it \
                 is not known",
                range[0] * 1e3,
                range[1] * 1e3
            );
            return Err(Error::value(OP, problem));
        };
        // that of kernels without a field is there besides
        CrossImages::check_room(calibration, reach, 1 + points.times().len())?;
        let common = f64::midpoint(low, high);
        let table = |time| {
            CrossImages::with_factor(calibration, reach, |voxel| {
                turn(sign * (field[voxel] - common) * time)
            })
        };
        let tables = points.times().map(table).collect();
        Ok(Self { targets, range, common: sign * common, points, tables })
    }

    /// Refuses geometries of other samples or longer moves.
    pub(super) fn check(&self, geometry: &Geometry) -> Result<()> {
        if geometry.len() != self.targets.len() {
            let expected =
                format!("a geometry of {} samples, as targets have times", self.targets.len());
            return Err(Error::shape(OP, expected, format!("{}", geometry.len())));
        }
        let [low, high] = ends(times(geometry, &self.targets));
        if low < self.range[0] || high > self.range[1] {
            let problem = format!(
                "samples of this geometry are moved by {low:e} to {high:e} s, those that the kernels were prepared \
                 for by {:e} to {:e}; prepare them for this geometry",
                self.range[0], self.range[1]
            );
            return Err(Error::value(OP, problem));
        }
        Ok(())
    }

    /// How long after its target a sample was taken, in seconds.
    pub(super) fn time(&self, geometry: &Geometry, sample: usize) -> f64 {
        let times = geometry.readout_times();
        times[sample % times.len()] - self.targets[sample]
    }

    /// The phase of a sample, under which cross images can be looked up.
    pub(super) fn phase(&self, geometry: &Geometry, sample: usize) -> Phase<'_, T> {
        let time = self.time(geometry, sample);
        let weights = self.points.weights(time).into_iter().map(T::of).collect();
        Phase { tables: &self.tables, weights, common: turn(self.common * time) }
    }
}

/// One time: the weights of the tables, and the phase that all voxels have in common.
pub(super) struct Phase<'a, T> {
    tables: &'a [CrossImages<T>],
    weights: Vec<T>,
    common: Complex<T>,
}

impl<T: Real> Phase<'_, T> {
    /// `Y(u, δ)`, `[2, C²]`, of a point within reach.
    #[inline(always)]
    pub(super) fn lookup(&self, u: [f64; 3], out: &mut [T]) {
        out.fill(T::default());
        for (table, &weight) in self.tables.iter().zip(&self.weights) {
            table.add(weight, u, out);
        }
        let (re, im) = out.split_at_mut(out.len() / 2);
        for (re, im) in re.iter_mut().zip(im) {
            let value = Complex::new(*re, *im) * self.common;
            (*re, *im) = (value.re, value.im);
        }
    }
}

/// By how much time each sample is moved.
fn times(geometry: &Geometry, targets: &[f64]) -> impl Iterator<Item = f64> {
    geometry.readout_times().iter().cycle().zip(targets).map(|(time, target)| time - target)
}

/// The least and the largest value.
fn ends(values: impl Iterator<Item = f64>) -> [f64; 2] {
    values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [low.min(v), high.max(v)])
}

/// Chebyshev points of a range of times, between which phases are interpolated.
struct Points {
    /// Times, with their factors of Lagrange's formula.
    points: Vec<[f64; 2]>,
}

impl Points {
    /// As many as frequencies of up to `spread` hertz from each other need, if those are not too many. The remainder
    /// of `n` points is `2 (a/2)ⁿ / n!` for angles of `±a`.
    fn new([low, high]: [f64; 2], spread: f64) -> Option<Self> {
        let (middle, half) = (f64::midpoint(low, high), (high - low) / 2.0);
        let (angle, mut remainder) = (PI * half * spread, 2.0);
        let count = (1..=MOST_POINTS).find(|&n| {
            remainder *= angle / 2.0 / n as f64;
            remainder <= TOLERANCE
        })?;
        let point = |l: usize| {
            let (sin, cos) = (PI * (l as f64 + 0.5) / count as f64).sin_cos();
            [middle + half * cos, if l.is_multiple_of(2) { sin } else { -sin }]
        };
        Some(Self { points: (0..count).map(point).collect() })
    }

    fn times(&self) -> impl ExactSizeIterator<Item = f64> {
        self.points.iter().map(|point| point[0])
    }

    /// What the values of each point count at a time: Lagrange's formula in its barycentric form (Berrut and
    /// Trefethen, SIAM Review 2004).
    fn weights(&self, time: f64) -> Vec<f64> {
        if let Some(hit) = self.times().position(|at| at == time) {
            return (0..self.points.len()).map(|l| f64::from(l == hit)).collect();
        }
        let terms = self.points.iter().map(|[at, factor]| factor / (time - at));
        let sum: f64 = terms.clone().sum();
        terms.map(|term| term / sum).collect()
    }
}
