//! Stacks of plane trajectories: of stars, of spirals.

use super::{Readouts, counts, edge};
use crate::{Error, Result, Trajectory};

/// One plane trajectory in every partition along the first axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stack {
    /// Voxels along the first axis.
    pub partitions: usize,
    /// One in so many partitions is measured; that through the centre always is.
    pub acceleration: usize,
    /// Degrees by which a partition is turned against the one before. Zero aligns them, which leaves images
    /// to be transformed along the first axis; the golden angle of 111.246 spreads what is left out.
    pub turn: f64,
}

impl Default for Stack {
    /// 64 aligned partitions.
    fn default() -> Self {
        Self { partitions: 64, acceleration: 1, turn: 0.0 }
    }
}

impl Stack {
    /// The positions `[partitions · shots, samples, 3]`, partitions slowest.
    ///
    /// # Errors
    /// If the trajectory is not plane, or a number is zero or not finite.
    pub fn readouts(&self, plane: &Readouts) -> Result<Readouts> {
        const OP: &str = "stack of trajectories";
        let Readouts { trajectory, times } = plane;
        if trajectory.rank() != 2 {
            let got = format!("{}", trajectory.rank());
            return Err(Error::shape(OP, "positions of two coordinates", got));
        }
        edge(OP, self.partitions)?;
        counts(OP, 1, self.acceleration)?;
        counts(OP, self.partitions, trajectory.len())?;
        if !self.turn.is_finite() {
            return Err(Error::value(OP, format!("partitions turn by {} degrees", self.turn)));
        }
        let middle = self.partitions / 2;
        let measured = |at: &usize| at.abs_diff(middle).is_multiple_of(self.acceleration);
        let partitions: Vec<usize> = (0..self.partitions).filter(measured).collect();
        let mut points = Vec::with_capacity(partitions.len() * trajectory.len() * 3);
        for (count, &partition) in partitions.iter().enumerate() {
            let (sin, cos) = (self.turn * count as f64).to_radians().sin_cos();
            let height = partition as f64 - middle as f64;
            let turned = |[x, y]: &[f64; 2]| [height, cos * x - sin * y, sin * x + cos * y];
            points.extend(trajectory.points().as_chunks().0.iter().flat_map(turned));
        }
        let shots = partitions.len() * trajectory.shots();
        let trajectory = Trajectory::new(shots, trajectory.samples(), 3, points)?;
        Ok(Readouts { trajectory, times: times.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Koosh, Radial, Spiral};
    use super::*;

    #[test]
    fn partitions_hold_the_turned_plane() {
        let plane = Radial { spokes: 3, ..Radial::default() }.readouts().expect("readouts");
        let stack = Stack { partitions: 9, acceleration: 2, turn: 90.0 };
        let got = stack.readouts(&plane).expect("readouts");
        assert_eq!((got.trajectory.shots(), &got.times), (5 * 3, &plane.times));
        let flat = plane.trajectory.shot(2).as_chunks::<2>().0;
        for (partition, height) in [-4.0, -2.0, 0.0, 2.0, 4.0].into_iter().enumerate() {
            let shot = got.trajectory.shot(partition * 3 + 2).as_chunks::<3>().0;
            for (&[z, x, y], &[a, b]) in shot.iter().zip(flat) {
                let [u, v] = [[a, b], [-b, a], [-a, -b], [b, -a]][partition % 4];
                assert!(z == height && (x - u).abs() < 1e-9 && (y - v).abs() < 1e-9);
            }
        }
        let spirals = Spiral { matrix: 32, ..Spiral::default() }.readouts().expect("readouts");
        let aligned = Stack::default().readouts(&spirals).expect("readouts").trajectory;
        assert_eq!(aligned.shots(), 64 * 16);
        assert!(aligned.points().iter().all(|k| k.abs() <= 32.0));
    }

    #[test]
    fn refuses_what_cannot_be_stacked() {
        let ball = Koosh { spokes: 34, ..Koosh::default() }.readouts().expect("readouts");
        let problem = Stack::default().readouts(&ball).expect_err("refused").to_string();
        assert!(problem.contains("two coordinates"), "{problem}");
        let plane = Radial::default().readouts().expect("readouts");
        for bad in [
            Stack { acceleration: 0, ..Stack::default() },
            Stack { partitions: 1, ..Stack::default() },
            Stack { turn: f64::NAN, ..Stack::default() },
        ] {
            assert!(bad.readouts(&plane).is_err());
        }
    }
}
