//! Lines on the Cartesian grid.

use super::{Readouts, counts, edge, positive, times};
use crate::{Error, Result, Trajectory};

/// Parallel lines along the last axis, every so many-th of them and all near the centre.
#[derive(Clone, Debug, PartialEq)]
pub struct Cartesian {
    /// Sizes of the image: two or three, the last along the readout.
    pub matrix: Vec<usize>,
    /// One in so many lines is measured, for each axis but the last. Those through the centre always are.
    pub acceleration: Vec<usize>,
    /// Lines about the centre, of each axis but the last, that are all measured.
    pub calibration: usize,
    /// Time from sample to sample, in seconds.
    pub dwell: f64,
}

impl Default for Cartesian {
    /// 256 × 256 voxels, every second line, with 24 lines for calibration.
    fn default() -> Self {
        Self { matrix: vec![256, 256], acceleration: vec![2], calibration: 24, dwell: 10e-6 }
    }
}

impl Cartesian {
    /// The positions `[lines, last size, sizes]`.
    ///
    /// # Errors
    /// If there are not two or three sizes with an acceleration for each but the last, or one of the
    /// numbers is zero or not finite.
    pub fn readouts(&self) -> Result<Readouts> {
        const OP: &str = "Cartesian trajectory";
        let rank = self.matrix.len();
        if !(2..=3).contains(&rank) || self.acceleration.len() != rank - 1 {
            let expected = "two or three sizes and an acceleration for each but the last";
            let got = format!("{} sizes, {} accelerations", rank, self.acceleration.len());
            return Err(Error::shape(OP, expected, got));
        }
        self.matrix.iter().try_for_each(|&size| edge(OP, size))?;
        self.acceleration.iter().try_for_each(|&by| counts(OP, 1, by))?;
        positive(OP, "the dwell time in seconds", self.dwell)?;
        let samples = self.matrix[rank - 1];
        // bounds the product of all sizes
        let all =
            self.matrix[..rank - 1].iter().fold(1usize, |all, &size| all.saturating_mul(size));
        counts(OP, all, samples)?;

        let middle = |size: usize| (size / 2) as i64;
        let mut points = Vec::new();
        let mut lines = 0;
        for line in 0..all {
            let mut position = [0; 2];
            let mut rest = line;
            for d in (0..rank - 1).rev() {
                position[d] = (rest % self.matrix[d]) as i64 - middle(self.matrix[d]);
                rest /= self.matrix[d];
            }
            let position = &position[..rank - 1];
            let low = -middle(self.calibration);
            let centre = low..low + self.calibration as i64;
            let sampled =
                position.iter().zip(&self.acceleration).all(|(k, &by)| k % by as i64 == 0);
            if sampled || position.iter().all(|k| centre.contains(k)) {
                lines += 1;
                for sample in 0..samples {
                    points.extend(position.iter().map(|&k| k as f64));
                    points.push(sample as f64 - (samples / 2) as f64);
                }
            }
        }
        let trajectory = Trajectory::new(lines, samples, rank, points)?;
        Ok(Readouts { trajectory, times: times(samples, self.dwell) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_scheme() {
        let plane = Cartesian {
            matrix: vec![11, 6],
            acceleration: vec![3],
            calibration: 4,
            ..Cartesian::default()
        };
        let got = plane.readouts().expect("readouts");
        let lines: Vec<f64> = got.trajectory.points().chunks(12).map(|line| line[0]).collect();
        assert_eq!(lines, [-3.0, -2.0, -1.0, 0.0, 1.0, 3.0]);
        let along: Vec<f64> = got.trajectory.shot(2).chunks(2).map(|k| k[1]).collect();
        assert_eq!(along, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]);

        let volume = Cartesian {
            matrix: vec![8, 12, 4],
            acceleration: vec![2, 3],
            calibration: 2,
            ..Cartesian::default()
        };
        let got = volume.readouts().expect("readouts").trajectory;
        // 16 on the lattice, and three more in the centre
        assert_eq!((got.shots(), got.samples(), got.rank()), (4 * 4 + 3, 4, 3));
        let full = Cartesian { acceleration: vec![1, 1], calibration: 0, ..volume };
        assert_eq!(full.readouts().expect("readouts").trajectory.len(), 8 * 12 * 4);
    }

    #[test]
    fn refuses_what_is_no_grid() {
        let problem = |cartesian: Cartesian| cartesian.readouts().expect_err("refused").to_string();
        let good = Cartesian::default;
        assert!(problem(Cartesian { matrix: vec![8], ..good() }).contains("two or three sizes"));
        assert!(problem(Cartesian { acceleration: vec![0], ..good() }).contains("0 samples"));
        let matrix = vec![1 << 20, 1 << 20];
        assert!(problem(Cartesian { matrix, ..good() }).contains("another unit"));
    }
}
