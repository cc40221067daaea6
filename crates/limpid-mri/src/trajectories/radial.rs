//! Radial trajectories in the plane.

use super::{Readouts, counts, edge, fraction, positive, times, turned};
use crate::{Result, Trajectory};
use std::f64::consts::{PI, TAU};

/// The golden ratio.
const GOLDEN: f64 = 1.618_033_988_749_895;

/// Where the samples of a spoke lie about the centre of k-space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SpokeCentre {
    /// One sample lies on the centre: the spoke begins at `−N/2` and ends one step before `N/2`.
    #[default]
    OnSample,
    /// The centre lies between two samples: the spoke is symmetric.
    BetweenSamples,
}

/// The readout of a spoke.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spoke {
    /// Voxels along an edge of the image.
    pub matrix: usize,
    /// Samples per cycle per field of view. A full spoke has `matrix · oversampling` samples, rounded.
    pub oversampling: f64,
    /// From the centre outwards, with half the samples, instead of through the centre.
    pub half: bool,
    /// Where the samples lie about the centre.
    pub centre: SpokeCentre,
    /// Part of the radius `matrix / 2` that is covered: in `(0, 1]`.
    pub extent: f64,
    /// Time from sample to sample, in seconds.
    pub dwell: f64,
}

impl Default for Spoke {
    /// Full spokes for 256 voxels, twice oversampled, in 5.1 ms.
    fn default() -> Self {
        Self {
            matrix: 256,
            oversampling: 2.0,
            half: false,
            centre: SpokeCentre::OnSample,
            extent: 1.0,
            dwell: 10e-6,
        }
    }
}

impl Spoke {
    /// Distances from the centre, of as many spokes as there can be.
    pub(super) fn positions(&self, op: &'static str, spokes: usize) -> Result<Vec<f64>> {
        edge(op, self.matrix)?;
        positive(op, "the oversampling", self.oversampling)?;
        fraction(op, "the extent", self.extent)?;
        positive(op, "the dwell time in seconds", self.dwell)?;
        let whole = (self.matrix as f64 * self.oversampling).round() as usize;
        let samples = if self.half { whole.div_ceil(2) } else { whole };
        counts(op, spokes, samples)?;
        let first = match (self.half, self.centre) {
            (true, SpokeCentre::OnSample) => 0.0,
            (true, SpokeCentre::BetweenSamples) => -0.5,
            (false, SpokeCentre::OnSample) => (whole / 2) as f64,
            (false, SpokeCentre::BetweenSamples) => (whole as f64 - 1.0) / 2.0,
        };
        let step = self.extent * self.matrix as f64 / whole as f64;
        Ok((0..samples).map(|i| step * (i as f64 - first)).collect())
    }
}

/// The angles of spokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Angles {
    /// Spokes that divide the half circle, or the circle if they are half spokes.
    Uniform,
    /// Steps of `180° / (φ + order − 1)`, with the golden ratio φ; twice as much for half spokes. Order 1
    /// is the golden angle of 111.246° (Winkelmann et al., IEEE Trans. Med. Imaging 2007), higher orders
    /// are the tiny golden angles (Wundrak et al., IEEE Trans. Med. Imaging 2015).
    Golden {
        /// From one on; seven gives 23.63°.
        order: usize,
    },
}

/// Spokes through the centre of the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Radial {
    /// The readout of each.
    pub spoke: Spoke,
    /// Number of spokes.
    pub spokes: usize,
    /// Their angles.
    pub angles: Angles,
    /// The angle of the first, in degrees from the first axis to the second.
    pub start: f64,
}

impl Default for Radial {
    /// Sampled to Nyquist at the edge, `π/2 · 256` spokes, by the golden angle.
    fn default() -> Self {
        Self {
            spoke: Spoke::default(),
            spokes: 402,
            angles: Angles::Golden { order: 1 },
            start: 0.0,
        }
    }
}

impl Radial {
    /// The positions `[spokes, samples, 2]`.
    ///
    /// # Errors
    /// If a number is zero, negative or not finite, the extent is above one, or the order of the angle is
    /// zero.
    pub fn readouts(&self) -> Result<Readouts> {
        const OP: &str = "radial trajectory";
        let positions = self.spoke.positions(OP, self.spokes)?;
        if !self.start.is_finite() {
            return Err(crate::Error::value(OP, format!("the start is {} degrees", self.start)));
        }
        let period = if self.spoke.half { TAU } else { PI };
        let step = match self.angles {
            Angles::Uniform => period / self.spokes as f64,
            Angles::Golden { order: 0 } => {
                return Err(crate::Error::value(OP, "the order of the golden angle starts at one"));
            }
            Angles::Golden { order } => period / (GOLDEN + order as f64 - 1.0),
        };
        let start = self.start.to_radians();
        let angles = (0..self.spokes).map(|spoke| start + step * spoke as f64);
        let readout: Vec<_> = positions.iter().map(|&k| [k, 0.0]).collect();
        let (samples, points) = (readout.len(), turned(&readout, angles));
        let trajectory = Trajectory::new(self.spokes, samples, 2, points)?;
        Ok(Readouts { trajectory, times: times(samples, self.spoke.dwell) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{assert_close, load};

    #[test]
    fn reproduces_the_fixture() {
        let Some(file) = load("brain_radial") else { return };
        let &[spokes, samples, 2] = file.shape("trj") else { panic!("[spokes, samples, 2]") };
        let matrix: usize = file.metadata("N").parse().expect("a number");
        let spoke = Spoke {
            matrix,
            oversampling: samples as f64 / matrix as f64,
            centre: SpokeCentre::BetweenSamples,
            extent: 0.99,
            dwell: file.metadata("dt").parse().expect("a number"),
            ..Spoke::default()
        };
        let radial = Radial { spoke, spokes, ..Radial::default() };
        let got = radial.readouts().expect("readouts");
        // the file holds f32, and its angle has nine decimals
        assert_close("trj", got.trajectory.points(), file.values("trj"), 1e-5);
        assert_close("t", &got.times, file.values("t"), 1e-9);
    }

    #[test]
    fn spokes_lie_where_they_should() {
        let spoke = Spoke { matrix: 16, ..Spoke::default() };
        let at = |spoke: Spoke| spoke.positions("test", 1).expect("positions");
        let full = at(spoke);
        assert_eq!((full.len(), full[0], full[16], full[31]), (32, -8.0, 0.0, 7.5));
        let symmetric = at(Spoke { centre: SpokeCentre::BetweenSamples, ..spoke });
        assert!(symmetric.iter().zip(symmetric.iter().rev()).all(|(a, b)| a == &-b));
        let half = at(Spoke { half: true, ..spoke });
        assert_eq!((half.len(), half[0], half[15]), (16, 0.0, 7.5));
        let half = at(Spoke { half: true, centre: SpokeCentre::BetweenSamples, ..spoke });
        assert_eq!((half[0], half[15]), (0.25, 7.75));
    }

    /// The largest gap of the directions of spokes, as a distance at the edge of k-space.
    fn gap(radial: Radial) -> f64 {
        let got = radial.readouts().expect("readouts");
        let period = if radial.spoke.half { TAU } else { PI };
        let angle = |shot| {
            let shot = got.trajectory.shot(shot);
            let end = &shot[shot.len() - 2..];
            end[1].atan2(end[0]).rem_euclid(period)
        };
        let mut angles: Vec<f64> = (0..radial.spokes).map(angle).collect();
        angles.sort_by(f64::total_cmp);
        let last = angles[0] + period - angles[angles.len() - 1];
        let widest = angles.windows(2).map(|w| w[1] - w[0]).fold(last, f64::max);
        widest * radial.spoke.matrix as f64 / 2.0
    }

    #[test]
    fn gaps_at_the_edge_are_those_of_the_scheme() {
        let spoke = Spoke { matrix: 64, ..Spoke::default() };
        for half in [false, true] {
            let spokes = if half { 202 } else { 101 }; // π/2 · 64 of them meet Nyquist
            let spoke = Spoke { half, ..spoke };
            let uniform = Radial { spoke, spokes, angles: Angles::Uniform, start: 12.0 };
            assert!(gap(uniform) <= 1.0);
            assert!(gap(Radial { spokes: spokes / 2, ..uniform }) <= 2.0 + 0.05);
            // a golden angle's gaps are of three lengths, the largest below φ² times the mean
            for order in [1, 2, 7] {
                let golden = Radial { angles: Angles::Golden { order }, ..uniform };
                let bound = if order == 1 { 1.9 } else { 2.7 };
                assert!(gap(golden) < bound, "order {order}: {}", gap(golden));
            }
        }
    }

    #[test]
    fn refuses_what_is_no_trajectory() {
        let problem = |radial: Radial| radial.readouts().expect_err("refused").to_string();
        let good = Radial::default();
        assert!(problem(Radial { spokes: 0, ..good }).contains("0 shots"));
        assert!(problem(Radial { start: f64::NAN, ..good }).contains("start"));
        assert!(problem(Radial { angles: Angles::Golden { order: 0 }, ..good }).contains("one"));
        let spoke = |spoke| problem(Radial { spoke, ..good });
        assert!(spoke(Spoke { extent: 1.1, ..good.spoke }).contains("extent"));
        assert!(spoke(Spoke { matrix: 0, ..good.spoke }).contains("matrix"));
        assert!(spoke(Spoke { dwell: -1.0, ..good.spoke }).contains("dwell"));
        assert!(spoke(Spoke { oversampling: 1e300, ..good.spoke }).contains("another unit"));
    }
}
