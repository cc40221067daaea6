//! Spirals in the plane: Archimedean, or denser in the centre.

use super::waveform::{Jet, Waveform};
use super::{Readouts, Scanner, circle, counts, edge, fraction, positive, times, turned};
use crate::{Error, Result, Trajectory};
use std::f64::consts::TAU;

/// How fast a spiral is followed. All start at rest and stay within the limits of the scanner; where these
/// ask for less speed than the pace, the spiral is slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the limits allow: the time-optimal spiral.
    Fastest,
    /// At a gradient of constant strength.
    ConstantLinear {
        /// In millitesla per metre.
        gradient: f64,
    },
    /// At a constant number of turns per second.
    ConstantAngular {
        /// In hertz.
        frequency: f64,
    },
}

/// Interleaved spirals from the centre outwards, `k(τ) = k_max τ^density exp(2πi turns τ)` for `τ` in
/// `0..1`. The turns are so many that, at the edge, neighbours lie at most `undersampling` cycles per field
/// of view apart: the spirals of Kim et al. (Magn. Reson. Med. 2003), at speeds that are solved numerically
/// instead of approximated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spiral {
    /// Voxels along an edge of the image.
    pub matrix: usize,
    /// Shots, which divide the circle.
    pub interleaves: usize,
    /// Distance of turns at the edge over that of Nyquist; one or more is usual.
    pub undersampling: f64,
    /// Power of the radius, from one to eight. One is Archimedean, of uniform density; two has the density fall
    /// from the centre to the edge.
    pub density: f64,
    /// Part of the radius `matrix / 2` that is covered: in `(0, 1]`.
    pub extent: f64,
    /// The speed.
    pub pace: Pace,
    /// The limits, and the dwell time.
    pub scanner: Scanner,
}

impl Default for Spiral {
    /// 220 voxels of a millimetre in 16 fully sampled interleaves of 8 ms.
    fn default() -> Self {
        Self {
            matrix: 220,
            interleaves: 16,
            undersampling: 1.0,
            density: 1.0,
            extent: 1.0,
            pace: Pace::Fastest,
            scanner: Scanner::default(),
        }
    }
}

/// Steps of the parameter for each turn, of which the speed is found.
const STEPS: f64 = 4096.0;
/// As many as take a second.
const MOST_STEPS: f64 = 1.7e7;

impl Spiral {
    /// The positions `[interleaves, samples, 2]`. The number of samples is what the limits give.
    ///
    /// # Errors
    /// If a number is zero, negative or not finite, the extent is above one, the density not from one
    /// to eight, or the readout so long that a unit must be wrong.
    pub fn readouts(&self) -> Result<Readouts> {
        const OP: &str = "spiral trajectory";
        let [fastest, acceleration] = self.scanner.limits(OP)?;
        edge(OP, self.matrix)?;
        counts(OP, self.interleaves, 1)?;
        positive(OP, "the undersampling", self.undersampling)?;
        fraction(OP, "the extent", self.extent)?;
        if !(self.density >= 1.0 && self.density <= 8.0) {
            let problem = format!("the density must be from one to eight, it is {}", self.density);
            return Err(Error::value(OP, problem));
        }
        let turns = self.turns();
        let steps = (STEPS * turns).ceil().max(STEPS);
        if !(steps <= MOST_STEPS) {
            let problem = format!("{turns} turns an interleave are too many; use more interleaves");
            return Err(Error::value(OP, problem));
        }
        let speed: Box<dyn Fn(f64) -> f64> = match self.pace {
            Pace::Fastest => Box::new(|_| fastest),
            Pace::ConstantLinear { gradient } => {
                positive(OP, "the gradient of the pace in mT/m", gradient)?;
                let [speed, _] = Scanner { gradient, ..self.scanner }.limits(OP)?;
                Box::new(move |_| fastest.min(speed))
            }
            Pace::ConstantAngular { frequency } => {
                positive(OP, "the frequency of the pace in hertz", frequency)?;
                Box::new(move |length| fastest.min(length * frequency / turns))
            }
        };
        let dwell = self.scanner.dwell;
        let waveform = Waveform { curve: |p| self.jet(turns, p), speed, acceleration, dwell };
        let readout = waveform.play(OP, steps as usize)?;
        counts(OP, self.interleaves, readout.len())?;
        let points = turned(&readout, circle(self.interleaves));
        let trajectory = Trajectory::new(self.interleaves, readout.len(), 2, points)?;
        Ok(Readouts { trajectory, times: times(readout.len(), dwell) })
    }

    /// Turns of an interleave.
    fn turns(&self) -> f64 {
        self.density * self.matrix as f64 / (2.0 * self.interleaves as f64 * self.undersampling)
    }

    /// The curve.
    fn jet(&self, turns: f64, p: f64) -> Jet {
        let (radius, a, w) = (self.extent * self.matrix as f64 / 2.0, self.density, TAU * turns);
        let power = |by: f64| if a == by { 1.0 } else { p.powf(a - by) };
        let r = radius * power(0.0);
        let dr = radius * a * power(1.0);
        let ddr = if a == 1.0 { 0.0 } else { radius * a * (a - 1.0) * power(2.0) };
        let (sin, cos) = (w * p).sin_cos();
        // radial and azimuthal parts, turned
        let of = |[x, y]: [f64; 2]| [cos * x - sin * y, sin * x + cos * y];
        [of([r, 0.0]), of([dr, w * r]), of([ddr - w * w * r, 2.0 * w * dr])]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{gradients, most};
    use super::*;
    use crate::fixture::{assert_close, load};

    fn radii(spiral: &Spiral) -> Vec<f64> {
        let got = spiral.readouts().expect("readouts");
        got.trajectory.shot(0).as_chunks::<2>().0.iter().map(|[x, y]| x.hypot(*y)).collect()
    }

    #[test]
    fn reproduces_the_fixture() {
        let Some(file) = load("brain_spiral") else { return };
        let number = |key: &str| -> f64 { file.metadata(key).parse().expect("a number") };
        let &[interleaves, samples, 2] = file.shape("trj") else { panic!("[shots, samples, 2]") };
        let scanner = Scanner {
            field_of_view: number("fov_m"),
            gradient: 40.0,
            slew: 120.0,
            dwell: number("dt"),
        };
        let spiral = Spiral {
            matrix: number("N") as usize,
            interleaves,
            undersampling: number("R"),
            extent: 0.99,
            scanner,
            ..Spiral::default()
        };
        let got = spiral.readouts().expect("readouts");
        assert_eq!(got.trajectory.samples(), samples);
        // the file was solved with other steps: its end is a 400th of a sample's distance away
        assert_close("trj", got.trajectory.points(), file.values("trj"), 1.5e-3);
        assert_close("t", &got.times, file.values("t"), 1e-9);
    }

    #[test]
    fn limits_hold_and_are_used() {
        for density in [1.0, 1.5, 2.0, 8.0] {
            for interleaves in [1, 5, 32] {
                let spiral = Spiral { matrix: 96, interleaves, density, ..Spiral::default() };
                let got = spiral.readouts().expect("readouts");
                let [gradient, slew] = gradients(got.trajectory.shot(0), &spiral.scanner);
                assert!(most(&gradient) <= 40.0 * (1.0 + 1e-6));
                assert!(most(&slew) <= 150.0 * 1.001, "{density} {interleaves}: {}", most(&slew));
                let busy =
                    |(g, s): (&f64, &f64)| f64::from(u8::from(*g > 39.5 || *s > 0.95 * 150.0));
                let used = gradient.iter().zip(&slew).map(busy).sum::<f64>() / slew.len() as f64;
                assert!(used > 0.95, "{density} {interleaves}: {used}");
                assert!(gradient[0] <= 150.0 * spiral.scanner.dwell * 1e3);
            }
        }
    }

    #[test]
    fn turns_lie_at_nyquist_distance() {
        for (density, undersampling) in [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0), (3.0, 2.0)] {
            let spiral =
                Spiral { matrix: 64, interleaves: 4, undersampling, density, ..Spiral::default() };
            let turns = spiral.turns();
            let at = |p: f64| {
                let [x, y] = spiral.jet(turns, p)[0];
                x.hypot(y)
            };
            // one turn inwards lie as many neighbours as there are interleaves
            let gap = (at(1.0) - at(1.0 - 1.0 / turns)) / 4.0;
            assert!(gap <= undersampling * (1.0 + 1e-9), "{density} {undersampling}: {gap}");
            assert!(density > 1.0 || gap > undersampling * (1.0 - 1e-9));
            let radii = radii(&spiral);
            assert!(radii.windows(2).all(|w| w[0] < w[1]) && radii[0] == 0.0);
            let last = radii[radii.len() - 1];
            assert!(last < 32.0 && last > 31.5);
        }
    }

    #[test]
    fn paces_are_kept() {
        let spiral = Spiral { matrix: 64, interleaves: 4, ..Spiral::default() };
        let of = |pace| {
            let got = Spiral { pace, ..spiral }.readouts().expect("readouts").trajectory;
            (gradients(got.shot(0), &spiral.scanner), got)
        };
        let ([gradient, slew], _) = of(Pace::ConstantLinear { gradient: 15.0 });
        let late = &gradient[gradient.len() / 4..];
        assert!(late.iter().all(|g| (g - 15.0).abs() < 0.01) && most(&slew) < 150.2);
        let ([_, slew], got) = of(Pace::ConstantAngular { frequency: 300.0 });
        assert!(most(&slew) < 150.2);
        let shot = got.shot(0).as_chunks::<2>().0;
        let angles: Vec<f64> = shot.iter().map(|[x, y]| y.atan2(*x)).collect();
        let late = &angles[angles.len() / 4..];
        let step = 300.0 * TAU * spiral.scanner.dwell;
        assert!(late.windows(2).all(|w| ((w[1] - w[0]).rem_euclid(TAU) - step).abs() < 1e-6));
    }

    #[test]
    fn refuses_what_is_no_spiral() {
        let problem = |spiral: Spiral| spiral.readouts().expect_err("refused").to_string();
        let good = Spiral::default();
        assert!(problem(Spiral { density: 0.5, ..good }).contains("density"));
        assert!(problem(Spiral { interleaves: 0, ..good }).contains("0 shots"));
        assert!(problem(Spiral { undersampling: f64::NAN, ..good }).contains("undersampling"));
        assert!(problem(Spiral { density: 9.0, ..good }).contains("density"));
        let undersampling = 1e-6;
        assert!(problem(Spiral { undersampling, ..good }).contains("more interleaves"));
        let scanner = Scanner { dwell: 1e-15, ..good.scanner };
        assert!(problem(Spiral { scanner, ..good }).contains("another unit"));
        let pace = Pace::ConstantAngular { frequency: 0.0 };
        assert!(problem(Spiral { pace, ..good }).contains("hertz"));
    }
}
