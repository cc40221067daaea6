//! Spokes through the centre of a sphere, the koosh ball.

use super::{Readouts, Spoke, times};
use crate::{Error, Result, Trajectory};
use std::f64::consts::{FRAC_PI_2, PI, TAU};

/// The two-dimensional golden means (Chan et al., Magn. Reson. Med. 2009).
const MEANS: [f64; 2] = [0.465_571_231_876_768, 0.682_327_803_828_019_3];

/// The golden angle of the circle, in radians.
const GOLDEN_ANGLE: f64 = 2.399_963_229_728_653;

/// How the directions of spokes follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SphereOrder {
    /// Heights and azimuths step by the two golden means: any stretch of spokes covers the sphere (Chan
    /// et al., Magn. Reson. Med. 2009).
    GoldenMeans,
    /// The spiral phyllotaxis: every interleave goes from pole to equator by small steps, turned against
    /// the one before by the golden angle (Piccini et al., Magn. Reson. Med. 2011).
    Phyllotaxis {
        /// Interleaves; they divide the number of spokes. Fibonacci numbers give the smallest steps.
        interleaves: usize,
    },
}

/// Spokes through the centre of a sphere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Koosh {
    /// The readout of each.
    pub spoke: Spoke,
    /// Number of spokes.
    pub spokes: usize,
    /// Their directions.
    pub order: SphereOrder,
}

impl Default for Koosh {
    /// About a third of the spokes that 128³ voxels would need for Nyquist, in 34 interleaves.
    fn default() -> Self {
        let spoke = Spoke { matrix: 128, ..Spoke::default() };
        Self { spoke, spokes: 8704, order: SphereOrder::Phyllotaxis { interleaves: 34 } }
    }
}

impl Koosh {
    /// The positions `[spokes, samples, 3]`; the first axis is that of the poles. Full spokes point into
    /// the half sphere, half spokes into the whole.
    ///
    /// # Errors
    /// If a number is zero, negative or not finite, the extent is above one, or the interleaves do not
    /// divide the spokes.
    pub fn readouts(&self) -> Result<Readouts> {
        const OP: &str = "koosh ball trajectory";
        let positions = self.spoke.positions(OP, self.spokes)?;
        if let SphereOrder::Phyllotaxis { interleaves } = self.order
            && (interleaves == 0 || !self.spokes.is_multiple_of(interleaves))
        {
            let problem = format!("{interleaves} interleaves do not divide {} spokes", self.spokes);
            return Err(Error::value(OP, problem));
        }
        let mut points = Vec::with_capacity(self.spokes * positions.len() * 3);
        for spoke in 0..self.spokes {
            let direction = self.direction(spoke);
            points.extend(positions.iter().flat_map(|k| direction.map(|d| k * d)));
        }
        let trajectory = Trajectory::new(self.spokes, positions.len(), 3, points)?;
        Ok(Readouts { trajectory, times: times(positions.len(), self.spoke.dwell) })
    }

    /// The unit vector of a spoke.
    fn direction(&self, spoke: usize) -> [f64; 3] {
        let half = self.spoke.half;
        let (polar, azimuth) = match self.order {
            SphereOrder::GoldenMeans => {
                let [height, turn] = MEANS.map(|mean| (spoke as f64 * mean).fract());
                let height = if half { 2.0 * height - 1.0 } else { height };
                (height.acos(), TAU * turn)
            }
            SphereOrder::Phyllotaxis { interleaves } => {
                let each = self.spokes / interleaves;
                let n = (spoke % each * interleaves + spoke / each) as f64;
                let part = n / self.spokes as f64;
                let polar = match half {
                    false => FRAC_PI_2 * part.sqrt(),
                    true if part <= 0.5 => FRAC_PI_2 * (2.0 * part).sqrt(),
                    true => PI - FRAC_PI_2 * (2.0 - 2.0 * part).sqrt(),
                };
                (polar, n * GOLDEN_ANGLE)
            }
        };
        let (radius, height) = polar.sin_cos();
        [height, radius * azimuth.cos(), radius * azimuth.sin()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directions(koosh: &Koosh) -> Vec<[f64; 3]> {
        (0..koosh.spokes).map(|spoke| koosh.direction(spoke)).collect()
    }

    /// The mean of `v vᵀ`, a third of the identity if directions are uniform.
    fn moments(directions: &[[f64; 3]]) -> [f64; 9] {
        let mut sums = [0.0; 9];
        for v in directions {
            for i in 0..9 {
                sums[i] += v[i / 3] * v[i % 3] / directions.len() as f64;
            }
        }
        sums
    }

    #[test]
    fn directions_cover_the_sphere() {
        let phyllotaxis = SphereOrder::Phyllotaxis { interleaves: 13 };
        for (order, tolerance) in [(SphereOrder::GoldenMeans, 0.01), (phyllotaxis, 0.06)] {
            for half in [false, true] {
                let spoke = Spoke { matrix: 32, half, ..Spoke::default() };
                let koosh = Koosh { spoke, spokes: 1300, order };
                let all = directions(&koosh);
                for v in &all {
                    let norm = v.iter().map(|x| x * x).sum::<f64>();
                    assert!((norm - 1.0).abs() < 1e-12 && (half || v[0] >= 0.0));
                }
                for (i, m) in moments(&all).iter().enumerate() {
                    let expected = if i % 4 == 0 { 1.0 / 3.0 } else { 0.0 };
                    assert!((m - expected).abs() < tolerance, "{order:?} {half}: {m} at {i}");
                }
                if half {
                    let mean = all.iter().map(|v| v[0]).sum::<f64>() / all.len() as f64;
                    assert!(mean.abs() < 0.01, "{order:?}: {mean}");
                }
            }
        }
    }

    #[test]
    fn golden_means_solve_their_equation() {
        // Chan 2009: the means are those of the matrix with rows (0 1 0), (0 0 1), (1 0 1)
        let root = 1.0 / MEANS[1];
        assert!((root * root * root - root * root - 1.0).abs() < 1e-12);
        assert!((MEANS[0] - MEANS[1] * MEANS[1]).abs() < 1e-12);
        assert!((GOLDEN_ANGLE.to_degrees() - 137.507_764_05).abs() < 1e-8);
    }

    #[test]
    fn interleaves_go_by_small_steps() {
        let koosh = Koosh::default();
        let all = directions(&koosh);
        let interleave = &all[..koosh.spokes / 34];
        assert!(interleave.windows(2).all(|w| w[1][0] < w[0][0]));
        let cos = |w: &[[f64; 3]]| w[0].iter().zip(&w[1]).map(|(a, b)| a * b).sum::<f64>();
        assert!(interleave.windows(2).skip(8).all(|w| cos(w) > 10f64.to_radians().cos()));
        let got = koosh.readouts().expect("readouts").trajectory;
        assert_eq!((got.shots(), got.samples(), got.rank()), (8704, 256, 3));
        assert!(got.points().iter().all(|k| k.abs() <= 64.0));
    }

    #[test]
    fn refuses_interleaves_that_do_not_divide() {
        for interleaves in [0, 7] {
            let order = SphereOrder::Phyllotaxis { interleaves };
            let koosh = Koosh { spokes: 100, order, ..Koosh::default() };
            let problem = koosh.readouts().expect_err("refused").to_string();
            assert!(problem.contains("do not divide 100 spokes"), "{problem}");
        }
    }
}
