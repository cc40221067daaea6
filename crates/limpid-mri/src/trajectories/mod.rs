//! Trajectories that scanners play, with the times of their samples.
//!
//! Each family is a plain struct of what defines it; `readouts` makes the positions. A plane's first
//! coordinate is that of the first axis of images; shots turn from the first axis to the second. In three
//! dimensions the first axis is that of slices and of the poles.

mod cartesian;
mod epi;
mod koosh;
mod radial;
mod rosette;
mod spiral;
mod stack;
mod waveform;

pub use cartesian::Cartesian;
pub use epi::Epi;
pub use koosh::{Koosh, SphereOrder};
pub use radial::{Angles, Radial, Spoke, SpokeCentre};
pub use rosette::Rosette;
pub use spiral::{Pace, Spiral};
pub use stack::Stack;

use crate::{Error, PROTON, Result, Trajectory};

/// Positions of samples, and when they are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Readouts {
    /// Positions in cycles per field of view.
    pub trajectory: Trajectory,
    /// Seconds from the start of the readout, `[samples]`, the same for every shot.
    pub times: Vec<f64>,
}

/// What gradients and receiver can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scanner {
    /// Edge of the field of view, in metres.
    pub field_of_view: f64,
    /// Largest gradient, in millitesla per metre.
    pub gradient: f64,
    /// Largest slew rate, in tesla per metre and second.
    pub slew: f64,
    /// Time from sample to sample, in seconds.
    pub dwell: f64,
}

impl Default for Scanner {
    /// A head in a 3 T whole-body scanner, with the gradients well below their limits.
    fn default() -> Self {
        Self { field_of_view: 0.22, gradient: 40.0, slew: 150.0, dwell: 4e-6 }
    }
}

impl Scanner {
    /// The largest speed and acceleration, in cycles per field of view and second, or second squared.
    fn limits(&self, op: &'static str) -> Result<[f64; 2]> {
        let Self { field_of_view, gradient, slew, dwell } = *self;
        positive(op, "the field of view in metres", field_of_view)?;
        positive(op, "the largest gradient in mT/m", gradient)?;
        positive(op, "the largest slew rate in T/m/s", slew)?;
        positive(op, "the dwell time in seconds", dwell)?;
        Ok([1e-3 * gradient, slew].map(|limit| limit * PROTON * field_of_view))
    }
}

/// Most positions of a trajectory: 24 bytes each are all the memory that typing errors may ask for.
const MOST: usize = 1 << 28;

/// Refuses a number that is not above zero.
fn positive(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::value(op, format!("{what} must be above zero and finite, it is {value}")))
}

/// Refuses a fraction that is not in `(0, 1]`.
fn fraction(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1.0 {
        return Ok(());
    }
    Err(Error::value(op, format!("{what} must be above 0 and at most 1, it is {value}")))
}

/// Refuses numbers of shots and samples that are zero, or too many to be meant.
fn counts(op: &'static str, shots: usize, samples: usize) -> Result<()> {
    if shots == 0 || samples == 0 {
        return Err(Error::value(
            op,
            format!("there are {shots} shots of {samples} samples; at least one of each is needed"),
        ));
    }
    match shots.checked_mul(samples) {
        Some(all) if all <= MOST => Ok(()),
        _ => Err(Error::value(
            op,
            format!(
                "{shots} shots of {samples} samples are more than {MOST} positions; is a size, a time or a limit \
                 in another unit?"
            ),
        )),
    }
}

/// Refuses a matrix of less than two voxels an edge.
fn edge(op: &'static str, matrix: usize) -> Result<()> {
    if matrix >= 2 {
        return Ok(());
    }
    Err(Error::value(op, format!("the matrix must have two voxels or more, it has {matrix}")))
}

/// The times of `samples` samples from zero on.
fn times(samples: usize, dwell: f64) -> Vec<f64> {
    (0..samples).map(|i| i as f64 * dwell).collect()
}

/// Copies of one readout `[samples]` in the plane, turned by each of the angles in radians.
fn turned(readout: &[[f64; 2]], angles: impl Iterator<Item = f64>) -> Vec<f64> {
    let shot = |angle: f64| {
        let (sin, cos) = angle.sin_cos();
        readout.iter().flat_map(move |&[x, y]| [cos * x - sin * y, sin * x + cos * y])
    };
    angles.flat_map(shot).collect()
}

/// Angles that divide the circle, in radians.
fn circle(shots: usize) -> impl Iterator<Item = f64> {
    (0..shots).map(move |shot| std::f64::consts::TAU * shot as f64 / shots as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of the first two differences of a readout in the plane, in the units of the scanner.
    pub(super) fn gradients(shot: &[f64], scanner: &Scanner) -> [Vec<f64>; 2] {
        let points = shot.as_chunks::<2>().0;
        let unit = PROTON * scanner.field_of_view * scanner.dwell;
        let difference = |v: &[[f64; 2]], by: f64| -> Vec<[f64; 2]> {
            v.windows(2).map(|w| [0, 1].map(|d| (w[1][d] - w[0][d]) / by)).collect()
        };
        let gradient = difference(points, 1e-3 * unit);
        let slew = difference(&gradient, 1e3 * scanner.dwell);
        [gradient, slew].map(|v| v.iter().map(|[x, y]| x.hypot(*y)).collect())
    }

    pub(super) fn most(values: &[f64]) -> f64 {
        values.iter().fold(0.0, |most, v| v.abs().max(most))
    }

    #[test]
    fn refuses_senseless_numbers() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let scanner = Scanner { slew: bad, ..Scanner::default() };
            let problem = scanner.limits("test").expect_err("refused").to_string();
            assert!(problem.contains("slew rate in T/m/s"), "{problem}");
        }
        assert!(fraction("test", "it", f64::NAN).is_err() && fraction("test", "it", 1.0).is_ok());
        assert!(counts("test", 1, 0).is_err() && counts("test", usize::MAX, 2).is_err());
        assert!(edge("test", 1).is_err() && edge("test", 2).is_ok());
    }
}
