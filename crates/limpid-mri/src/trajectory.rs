//! Where samples lie in k-space.

use crate::{Error, Result};

/// The unit of positions in k-space, given the sizes `N` of the image they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Cycles per field of view, in `-N/2..N/2`: SigPy, BART.
    CyclesPerFov,
    /// Cycles per voxel, in `-0.5..0.5`: MRI-NUFFT, ISMRMRD.
    CyclesPerVoxel,
    /// Radians per voxel, in `-π..π`: torchkbnufft, FINUFFT.
    RadiansPerVoxel,
}

/// The positions of samples: of `shots` readouts, each of `samples` positions of two or three coordinates,
/// in cycles per field of view.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    shots: usize,
    samples: usize,
    rank: usize,
    /// `[shots, samples, rank]`
    points: Vec<f64>,
}

impl Trajectory {
    /// Positions `[shots, samples, rank]` in cycles per field of view.
    ///
    /// # Errors
    /// If the rank is not two or three, there are no positions or another number of them than the shape
    /// says, or one is not finite.
    pub fn new(shots: usize, samples: usize, rank: usize, points: Vec<f64>) -> Result<Self> {
        const OP: &str = "trajectory";
        if !(2..=3).contains(&rank) || shots == 0 || samples == 0 {
            let got = format!("[{shots}, {samples}, {rank}]");
            return Err(Error::shape(OP, "[shots, samples, 2 or 3], none of them empty", got));
        }
        crate::error::expect_len(OP, "positions", &[shots, samples, rank], points.len())?;
        if let Some(at) = points.iter().position(|p| !p.is_finite()) {
            let (point, axis) = (at / rank, at % rank);
            let (shot, sample) = (point / samples, point % samples);
            let problem = format!(
                "coordinate {axis} of sample {sample} of shot {shot} is {}; leave such samples out",
                points[at]
            );
            return Err(Error::value(OP, problem));
        }
        Ok(Self { shots, samples, rank, points })
    }

    /// As [`Trajectory::new`] from positions in another unit, for images of the sizes `matrix`.
    ///
    /// # Errors
    /// As there, or if `matrix` has not one size for each coordinate.
    pub fn from_unit(
        unit: Unit,
        matrix: &[usize],
        [shots, samples]: [usize; 2],
        mut points: Vec<f64>,
    ) -> Result<Self> {
        let factor = match unit {
            Unit::CyclesPerFov => None,
            Unit::CyclesPerVoxel => Some(1.0),
            Unit::RadiansPerVoxel => Some(std::f64::consts::TAU.recip()),
        };
        if let (Some(factor), false) = (factor, matrix.is_empty()) {
            for (i, point) in points.iter_mut().enumerate() {
                *point *= factor * matrix[i % matrix.len()] as f64;
            }
        }
        Self::new(shots, samples, matrix.len(), points)
    }

    /// Number of readouts.
    pub fn shots(&self) -> usize {
        self.shots
    }

    /// Positions of a readout.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Coordinates of a position: two or three.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of positions of all readouts.
    pub fn len(&self) -> usize {
        self.shots * self.samples
    }

    /// There is at least one position.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All positions, `[shots, samples, rank]`, in cycles per field of view.
    pub fn points(&self) -> &[f64] {
        &self.points
    }

    /// The positions of one readout, `[samples, rank]`.
    pub fn shot(&self, shot: usize) -> &[f64] {
        &self.points[shot * self.samples * self.rank..][..self.samples * self.rank]
    }

    /// Refuses images that are not of the rank of the positions, or too small for them.
    pub(crate) fn check_matrix(&self, op: &'static str, matrix: &[usize]) -> Result<()> {
        if matrix.len() != self.rank || matrix.contains(&0) {
            let expected = format!("an image of {} sizes above zero", self.rank);
            return Err(Error::shape(op, expected, format!("{matrix:?}")));
        }
        crate::error::expect_matrix(op, matrix)?;
        for (axis, &size) in matrix.iter().enumerate() {
            let most = self.points.iter().skip(axis).step_by(self.rank);
            let most = most.fold(0f64, |most, point| most.max(point.abs()));
            // half a cycle beyond the edge is what rounding and gradient delays do
            if most > size as f64 / 2.0 + 0.5 {
                let problem = format!(
                    "coordinate {axis} reaches {most:.4} cycles per field of view, an image of {size} voxels holds \
                     {}; is the trajectory in another unit, or the image too small?",
                    size as f64 / 2.0
                );
                return Err(Error::value(op, problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_convert() {
        let points = vec![0.25, -0.5, 0.125, 0.0];
        let voxel = Trajectory::from_unit(Unit::CyclesPerVoxel, &[8, 16], [1, 2], points.clone());
        assert_eq!(voxel.as_ref().map(Trajectory::points), Ok(&[2.0, -8.0, 1.0, 0.0][..]));
        let radians = points.iter().map(|p| p * std::f64::consts::TAU).collect();
        let radians = Trajectory::from_unit(Unit::RadiansPerVoxel, &[8, 16], [1, 2], radians);
        let radians = radians.expect("positions");
        for (a, b) in radians.points().iter().zip([2.0, -8.0, 1.0, 0.0]) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn refuses_what_is_no_trajectory() {
        let error = |shots, samples, rank, points| {
            Trajectory::new(shots, samples, rank, points).expect_err("refused").to_string()
        };
        assert!(error(0, 4, 2, vec![]).contains("none of them empty"));
        assert!(error(1, 1, 4, vec![0.0; 4]).contains("2 or 3"));
        assert!(error(1, 2, 2, vec![0.0; 3]).contains("3 values"));
        let problem = error(2, 2, 2, vec![0.0, 0.0, 0.0, 0.0, 0.0, f64::NAN, 0.0, 0.0]);
        assert!(problem.contains("coordinate 1 of sample 0 of shot 1 is NaN"), "{problem}");
        let radians = Trajectory::new(1, 1, 2, vec![0.0, 20.0]).expect("positions");
        let problem = radians.check_matrix("nufft", &[32, 32]).expect_err("refused").to_string();
        assert!(problem.contains("another unit"), "{problem}");
    }
}
