//! Operators of the axes from those along spokes.

use super::power::Matrix;
use crate::real::wide;
use crate::{Complex, Error, Real, Result, Trajectory};
use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;

const OP: &str = "radial grappa operator";

/// Logarithms of the operators of the axes, given the logarithm that `fit` finds for the operator from the
/// first samples `[C, samples − 1]` of a spoke to those that follow them.
pub(super) fn logarithms<T: Real>(
    trajectory: &Trajectory,
    samples: &[Complex<T>],
    fit: impl Fn(&Matrix, &Matrix) -> Result<Matrix> + Sync,
) -> Result<Vec<Matrix>> {
    let (shots, length, rank) = (trajectory.shots(), trajectory.samples(), trajectory.rank());
    let total = trajectory.len();
    if length < 2 || samples.is_empty() || !samples.len().is_multiple_of(total) {
        let expected = format!("samples [C, {shots}, {length}] of two or more a spoke");
        return Err(Error::shape(OP, expected, format!("{} values", samples.len())));
    }
    let coils = samples.len() / total;
    let steps = (0..shots).map(|shot| step(trajectory, shot)).collect::<Result<Vec<_>>>()?;
    let steps = DMatrix::from_fn(shots, rank, |shot, d| steps[shot][d]);
    let singular = steps.clone().singular_values();
    // also if there are fewer spokes than axes
    if shots < rank || !(singular.min() > 1e-6 * singular.max()) {
        let problem = format!("{shots} spokes do not span the {rank} axes of k-space");
        return Err(Error::value(OP, problem));
    }
    let spoke = |shot: usize| {
        let take = |shift: usize| {
            Matrix::from_fn(coils, length - 1, |c, i| {
                wide(samples[c * total + shot * length + i + shift])
            })
        };
        fit(&take(0), &take(1))
    };
    let logs = (0..shots).into_par_iter().map(spoke).collect::<Result<Vec<_>>>()?;
    let weights = (steps.transpose() * &steps).try_inverse();
    let weights = weights.ok_or_else(|| Error::value(OP, "the spokes are not independent"))?;
    let weights = weights * steps.transpose();
    let axis = |d: usize| {
        let zeros = Matrix::zeros(coils, coils);
        logs.iter()
            .enumerate()
            .fold(zeros, |sum, (shot, log)| sum + log * Complex::from(weights[(d, shot)]))
    };
    Ok((0..rank).map(axis).collect())
}

/// The step from sample to sample of a spoke, in cycles per field of view.
fn step(trajectory: &Trajectory, shot: usize) -> Result<DVector<f64>> {
    let (points, rank) = (trajectory.shot(shot), trajectory.rank());
    let at = |i: usize| DVector::from_column_slice(&points[i * rank..][..rank]);
    let last = trajectory.samples() - 1;
    let step = (at(last) - at(0)) / last as f64;
    let worst = (0..last).map(|i| (at(i + 1) - at(i) - &step).norm()).fold(0.0, f64::max);
    if worst > 1e-3 * step.norm() {
        let problem = format!(
            "readout {shot} is no line of equal steps: they differ by {worst:.2e} from their mean of {:.2e} \
             cycles per field of view; calibrate other trajectories by a fully sampled region",
            step.norm()
        );
        return Err(Error::value(OP, problem));
    }
    Ok(step)
}
