//! Rosettes: petals through the centre of the plane.

use super::{Readouts, Scanner, circle, counts, edge, fraction, positive, times, turned};
use crate::{Result, Trajectory};
use std::f64::consts::{PI, TAU};

/// Rosettes `k(t) = k_max sin(2π f t) exp(2πi ratio f t)` (Noll, IEEE Trans. Med. Imaging 1997), each shot
/// turned so that all divide the circle. The frequency `f` is the largest that the scanner allows; it is
/// constant, so that the gradients are not at rest when the readout begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rosette {
    /// Voxels along an edge of the image.
    pub matrix: usize,
    /// Shots.
    pub shots: usize,
    /// Petals of a shot: each leaves the centre and returns to it.
    pub petals: usize,
    /// Frequency of the turning over that of the petals. Small ratios give narrow petals, one gives circles.
    pub ratio: f64,
    /// Part of the radius `matrix / 2` that is covered: in `(0, 1]`.
    pub extent: f64,
    /// The limits, and the dwell time.
    pub scanner: Scanner,
}

impl Default for Rosette {
    /// 96 shots of six petals for 96 voxels.
    fn default() -> Self {
        let scanner = Scanner::default();
        Self { matrix: 96, shots: 96, petals: 6, ratio: 0.19, extent: 1.0, scanner }
    }
}

impl Rosette {
    /// The positions `[shots, samples, 2]`.
    ///
    /// # Errors
    /// If a number is zero, negative or not finite, the extent is above one, or the readout so long that a
    /// unit must be wrong.
    pub fn readouts(&self) -> Result<Readouts> {
        const OP: &str = "rosette trajectory";
        edge(OP, self.matrix)?;
        positive(OP, "the ratio", self.ratio)?;
        fraction(OP, "the extent", self.extent)?;
        counts(OP, self.shots, self.petals)?;
        let frequency = self.frequency()?;
        let dwell = self.scanner.dwell;
        let samples = (self.petals as f64 / (2.0 * frequency * dwell)).ceil() as usize;
        counts(OP, self.shots, samples)?;
        let radius = self.radius();
        let at = |time: &f64| {
            let phase = TAU * frequency * time;
            let (sin, cos) = (self.ratio * phase).sin_cos();
            [radius * phase.sin() * cos, radius * phase.sin() * sin]
        };
        let times = times(samples, dwell);
        let readout: Vec<_> = times.iter().map(at).collect();
        let points = turned(&readout, circle(self.shots));
        Ok(Readouts { trajectory: Trajectory::new(self.shots, samples, 2, points)?, times })
    }

    fn radius(&self) -> f64 {
        self.extent * self.matrix as f64 / 2.0
    }

    /// The petals' frequency in hertz: `|k̇| ≤ k_max 2πf max(1, ratio)`, `|k̈| ≤ k_max (2πf)² (1 + ratio²)`.
    fn frequency(&self) -> Result<f64> {
        let [speed, acceleration] = self.scanner.limits("rosette trajectory")?;
        let [speed, acceleration] = [speed, acceleration].map(|limit| limit / self.radius());
        let by_slew = (acceleration / (1.0 + self.ratio * self.ratio)).sqrt();
        Ok(by_slew.min(speed / self.ratio.max(1.0)) / (2.0 * PI))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{gradients, most};
    use super::*;

    #[test]
    fn limits_hold_and_petals_return() {
        for ratio in [0.05, 0.19, 1.0, 2.5] {
            let rosette = Rosette { shots: 7, petals: 4, ratio, ..Rosette::default() };
            let got = rosette.readouts().expect("readouts");
            let shot = got.trajectory.shot(0);
            let [gradient, slew] = gradients(shot, &rosette.scanner);
            let [gradient, slew] = [most(&gradient) / 40.0, most(&slew) / 150.0];
            assert!(gradient <= 1.0 && slew <= 1.0);
            assert!(gradient.max(slew) > 0.98, "{ratio}: {gradient} {slew}");
            let radii: Vec<f64> =
                shot.as_chunks::<2>().0.iter().map(|[x, y]| x.hypot(*y)).collect();
            assert!(radii[0] == 0.0 && most(&radii) <= 48.0 && most(&radii) > 47.9);
            let peaks = radii.windows(3).filter(|w| w[1] > w[0] && w[1] >= w[2]).count();
            assert_eq!(peaks, 4);
        }
    }

    #[test]
    fn refuses_what_is_no_rosette() {
        let problem = |rosette: Rosette| rosette.readouts().expect_err("refused").to_string();
        let good = Rosette::default();
        assert!(problem(Rosette { petals: 0, ..good }).contains("0 samples"));
        assert!(problem(Rosette { ratio: -1.0, ..good }).contains("ratio"));
        assert!(problem(Rosette { matrix: 1, ..good }).contains("matrix"));
        let scanner = Scanner { gradient: 1e-9, ..good.scanner };
        assert!(problem(Rosette { scanner, ..good }).contains("another unit"));
    }
}
