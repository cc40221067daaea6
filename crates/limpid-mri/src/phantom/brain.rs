//! A brain-like phantom with a folded cortex.

use super::position;
use crate::error::expect_matrix;
use crate::real::{narrow, turn};
use crate::{Complex, Error, Real, Result};
use limpid_kernels::rng::{Draws, Stream};
use rayon::prelude::*;
use std::f64::consts::TAU;

/// A slice through a head: scalp, skull, fluid, a cortex of even thickness that follows random sulci, white
/// matter, ventricles and basal ganglia, under a smooth shading and phase. Voxels hold the mean of what
/// lies in them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brain {
    /// Sizes of the image; the face looks to small indices of the first axis.
    pub matrix: [usize; 2],
    /// What the folds, the shading and the phase are drawn from.
    pub seed: u64,
    /// Largest phase in radians; zero makes the image real.
    pub phase: f64,
}

impl Default for Brain {
    /// 256 × 256 voxels.
    fn default() -> Self {
        Self { matrix: [256, 256], seed: 0, phase: 0.8 }
    }
}

/// Half axes of the head, along the two axes.
const HEAD: [f64; 2] = [0.92, 0.74];
/// Radii of the skull's two faces and of the brain, over that of the head.
const OUTER: f64 = 0.94;
const INNER: f64 = 0.88;
const PIA: f64 = 0.855;
/// Thickness of the cortex.
const CORTEX: f64 = 0.045;

const SCALP: f64 = 0.8;
const SKULL: f64 = 0.1;
const FLUID: f64 = 1.0;
const GREY: f64 = 0.72;
const WHITE: f64 = 0.48;

/// Centre, half axes and value of what lies deep, at both sides.
const DEEP: [([f64; 2], [f64; 2], f64); 5] = [
    ([-0.17, 0.09], [0.15, 0.045], FLUID), // anterior horns
    ([0.22, 0.13], [0.17, 0.05], FLUID),   // posterior horns
    ([-0.12, 0.165], [0.09, 0.035], 0.66), // caudate nuclei
    ([0.06, 0.11], [0.11, 0.075], 0.64),   // thalami
    ([-0.01, 0.27], [0.14, 0.05], 0.68),   // putamina
];

/// A fold: where it begins at the surface, how it runs inwards, how deep and how wide it is.
struct Sulcus {
    angle: f64,
    bend: f64,
    depth: f64,
    width: f64,
}

/// `c₀ y + c₁ x + c₂ y² + c₃ x² + c₄ xy`, at most one in magnitude.
struct Shading([f64; 5]);

impl Shading {
    fn new(draws: &mut Draws) -> Self {
        let factors = [(); 5].map(|()| 2.0 * draws.uniform() - 1.0);
        let sum: f64 = factors.iter().map(|c: &f64| c.abs()).sum();
        Self(factors.map(|c| c / sum))
    }

    fn at(&self, [y, x]: [f64; 2]) -> f64 {
        self.0.iter().zip([y, x, y * y, x * x, y * x]).map(|(c, v)| c * v).sum()
    }
}

impl Brain {
    /// The image, `[matrix]`, of magnitudes up to about one.
    ///
    /// # Errors
    /// If a size is zero or the phase is not finite.
    pub fn image<T: Real>(&self) -> Result<Vec<Complex<T>>> {
        const OP: &str = "brain phantom";
        const PARTS: usize = 4; // of a voxel's edge
        expect_matrix(OP, &self.matrix)?;
        if !self.phase.is_finite() {
            let problem = format!("the phase must be finite, it is {} radians", self.phase);
            return Err(Error::value(OP, problem));
        }
        let mut draws = Stream::new(self.seed, "mri brain phantom").draws();
        let sulci = sulci(&mut draws);
        let [bias, phase] = [(); 2].map(|()| Shading::new(&mut draws));
        let [rows, columns] = self.matrix;
        let mut image = vec![Complex::default(); rows * columns];
        image.par_chunks_mut(columns).enumerate().for_each(|(row, line)| {
            for (column, voxel) in line.iter_mut().enumerate() {
                let centre = [position(row, rows), position(column, columns)];
                let part = |i: usize, size: usize| {
                    (2 * i + 1) as f64 / (PARTS * size) as f64 - 1.0 / size as f64
                };
                let value: f64 = (0..PARTS * PARTS)
                    .map(|i| [part(i / PARTS, rows), part(i % PARTS, columns)])
                    .map(|[y, x]| tissue([centre[0] + y, centre[1] + x], &sulci))
                    .sum();
                let value = value / (PARTS * PARTS) as f64 * (1.0 + 0.15 * bias.at(centre));
                *voxel = narrow(turn::<f64>(self.phase / TAU * phase.at(centre)) * value);
            }
        });
        Ok(image)
    }
}

/// Folds all around, and the fissure between the hemispheres in front and behind.
fn sulci(draws: &mut Draws) -> Vec<Sulcus> {
    const FOLDS: usize = 36;
    let mut between = |low: f64, high: f64| draws.range(low, high);
    let phase = between(0.0, TAU);
    let fold = |i: usize| {
        let angle = TAU * (i as f64 + between(0.3, 0.7)) / FOLDS as f64;
        // neighbours run side by side, and along the fissure
        let bend = 1.4 * (2.0 * angle + phase).sin() * angle.sin().abs();
        Sulcus { angle, bend, depth: between(0.05, 0.27), width: between(0.004, 0.012) }
    };
    let mut sulci: Vec<Sulcus> = (0..FOLDS).map(fold).collect();
    for (angle, depth) in [(0.0, 0.36), (TAU / 2.0, 0.3)] {
        sulci.push(Sulcus { angle, bend: 0.0, depth, width: 0.008 });
    }
    sulci
}

/// The value at a place.
fn tissue([y, x]: [f64; 2], sulci: &[Sulcus]) -> f64 {
    let [v, u] = [y / HEAD[0], x / HEAD[1]];
    let radius = v.hypot(u);
    match radius {
        r if r > 1.0 => return 0.0,
        r if r > OUTER => return SCALP,
        r if r > INNER => return SKULL,
        r if r > PIA => return FLUID,
        _ => {}
    }
    let angle = u.atan2(-v);
    let to_sulcus = |sulcus: &Sulcus| {
        let below = PIA - radius;
        let turned = angle - sulcus.angle - sulcus.bend * below;
        let turned = turned - TAU * (turned / TAU).round();
        let beside = radius * turned;
        beside.hypot((below - sulcus.depth).max(0.0)) - sulcus.width
    };
    let fluid = sulci.iter().map(to_sulcus).fold(PIA - radius, f64::min);
    let inside = |(centre, axes, _): &&([f64; 2], [f64; 2], f64)| {
        let [dy, dx] = [y - centre[0], x.abs() - centre[1]];
        (dy / axes[0]).powi(2) + (dx / axes[1]).powi(2) <= 1.0
    };
    match fluid {
        d if d < 0.0 => FLUID,
        d if d < CORTEX => GREY,
        _ => DEEP.iter().find(inside).map_or(WHITE, |deep| deep.2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_tissues_of_a_head() {
        let brain = Brain::default();
        let image = brain.image::<f64>().expect("an image");
        let share = |low: f64, high: f64| {
            let within = |v: &&Complex<f64>| (low..high).contains(&v.norm());
            image.iter().filter(within).count() as f64 / image.len() as f64
        };
        // background, white and grey matter, fluid
        assert!((0.40..0.55).contains(&share(0.0, 1e-9)));
        assert!((0.10..0.30).contains(&share(0.40, 0.56)), "{}", share(0.40, 0.56));
        assert!((0.12..0.35).contains(&share(0.60, 0.83)), "{}", share(0.60, 0.83));
        assert!((0.02..0.15).contains(&share(0.90, 1.16)), "{}", share(0.90, 1.16));
        let phase = image.iter().fold(0f64, |most, v| most.max(v.arg().abs()));
        assert!(phase > 0.05 && phase <= 0.8);
        assert!(image.iter().all(|v| v.norm() < 1.16));
    }

    #[test]
    fn follows_its_seed() {
        let brain = Brain { matrix: [61, 48], seed: 5, phase: 0.0 };
        let image = brain.image::<f32>().expect("an image");
        assert_eq!(image, brain.image::<f32>().expect("an image"));
        assert!(image.iter().all(|v| v.im == 0.0));
        let other = Brain { seed: 6, ..brain }.image::<f32>().expect("an image");
        assert!(image.iter().zip(&other).filter(|(a, b)| (*a - *b).norm() > 0.05).count() > 100);
        // the mean does not depend on the sizes
        let mean =
            |image: &[Complex<f32>]| image.iter().map(|v| v.re).sum::<f32>() / image.len() as f32;
        let fine = Brain { matrix: [244, 192], ..brain }.image::<f32>().expect("an image");
        assert!((mean(&image) / mean(&fine) - 1.0).abs() < 0.01);
    }

    #[test]
    fn refuses_senseless_numbers() {
        assert!(Brain { matrix: [0, 8], ..Brain::default() }.image::<f32>().is_err());
        assert!(Brain { phase: f64::NAN, ..Brain::default() }.image::<f32>().is_err());
    }
}
