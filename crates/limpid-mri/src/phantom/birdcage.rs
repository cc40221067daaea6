//! Sensitivities of a birdcage of receive coils.

use super::indices;
use crate::error::expect_matrix;
use crate::real::{narrow, turn};
use crate::{Complex, Error, Real, Result};
use rayon::prelude::*;
use std::f64::consts::TAU;

/// Coils on circles about the first axis (or the centre of the plane), whose sensitivities fall with the
/// inverse of the distance and whose phases follow the angle to the coil, as SigPy simulates them.
#[derive(Clone, Debug, PartialEq)]
pub struct Birdcage {
    /// Sizes of the image, two or three.
    pub matrix: Vec<usize>,
    /// Number of coils.
    pub coils: usize,
    /// Radius of the circles, in halves of the field of view.
    pub radius: f64,
    /// Coils of a circle, if the image has three sizes; circles lie half a field of view apart. A plane has
    /// all coils on one.
    pub ring: usize,
}

impl Default for Birdcage {
    /// Eight coils for 256 × 256 voxels.
    fn default() -> Self {
        Self { matrix: vec![256, 256], coils: 8, radius: 1.5, ring: 8 }
    }
}

impl Birdcage {
    /// The sensitivities `[coils, matrix]`, normalised so that the sum of squares over coils is one.
    ///
    /// # Errors
    /// If there are no coils, or not two or three sizes above zero, or the radius is not above zero.
    pub fn maps<T: Real>(&self) -> Result<Vec<Complex<T>>> {
        const OP: &str = "birdcage maps";
        expect_matrix(OP, &self.matrix)?;
        if self.coils == 0 || self.ring == 0 || !(self.radius > 0.0 && self.radius.is_finite()) {
            let problem = format!(
                "coils, coils of a ring and the radius must be above zero, they are {}, {} and {}",
                self.coils, self.ring, self.radius
            );
            return Err(Error::value(OP, problem));
        }
        let voxels: usize = self.matrix.iter().product();
        if self.coils.checked_mul(voxels).is_none_or(|all| all > 1 << 36) {
            let problem = format!("{} coils of {voxels} voxels are too many", self.coils);
            return Err(Error::value(OP, problem));
        }
        let coils: Vec<_> = (0..self.coils).map(|coil| self.coil(coil)).collect();
        let norm = |voxel: usize| {
            let r = self.position(voxel);
            let squares: f64 = coils.iter().map(|coil| coil.at(r).norm_sqr()).sum();
            squares.sqrt().recip()
        };
        let norms: Vec<f64> = (0..voxels).into_par_iter().with_min_len(1 << 10).map(norm).collect();
        let mut maps = vec![Complex::default(); self.coils * voxels];
        const CHUNK: usize = 1 << 12;
        for (coil, map) in coils.iter().zip(maps.chunks_exact_mut(voxels)) {
            map.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, map)| {
                for (voxel, value) in (chunk * CHUNK..).zip(map) {
                    *value = narrow(coil.at(self.position(voxel)) * norms[voxel]);
                }
            });
        }
        Ok(maps)
    }

    /// The position of a voxel. That of an odd size is half a voxel off the other maps', as in SigPy.
    fn position(&self, voxel: usize) -> [f64; 3] {
        let at = indices::<3>(voxel, &self.matrix);
        let rank = self.matrix.len();
        let mut r = [0.0; 3];
        for d in 0..rank {
            let half = self.matrix[d] as f64 / 2.0;
            r[3 - rank + d] = (at[d] as f64 - half) / half;
        }
        r
    }

    fn coil(&self, coil: usize) -> Coil {
        let (ring, rings, each) = match self.matrix.len() {
            2 => (0, 1, self.coils),
            _ => (coil / self.ring, self.coils.div_ceil(self.ring), self.ring),
        };
        let height = ring as f64 - 0.5 * (rings as f64 - 1.0);
        let (sin, cos) = (TAU * coil as f64 / each as f64).sin_cos();
        Coil {
            centre: [height, self.radius * sin, self.radius * cos],
            phase: turn(-((coil + ring) as f64) / each as f64),
            // half of a voxel, for coils within the image
            nearest: self.matrix.iter().map(|&size| 1.0 / size as f64).fold(1.0, f64::min),
        }
    }
}

struct Coil {
    centre: [f64; 3],
    phase: Complex<f64>,
    nearest: f64,
}

impl Coil {
    fn at(&self, r: [f64; 3]) -> Complex<f64> {
        let [z, y, x] = [0, 1, 2].map(|d| r[d] - self.centre[d]);
        let across = (x * x + y * y).sqrt();
        let distance = (across * across + z * z).sqrt().max(self.nearest);
        let angle =
            if across > 0.0 { Complex::new(-y, x) / across } else { Complex::new(1.0, 0.0) };
        angle * self.phase / distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::load;
    use crate::operator::tests::distance;

    #[test]
    fn reproduces_the_fixture() {
        let Some(file) = load("brain_common") else { return };
        let &[coils, rows, columns, 2] = file.shape("mps") else { panic!("[coils, sizes, 2]") };
        let birdcage = Birdcage { matrix: vec![rows, columns], coils, ..Birdcage::default() };
        let maps = birdcage.maps::<f64>().expect("maps");
        let error = distance(&maps, &file.complex("mps"));
        assert!(error < 1e-7, "{error}"); // the file is f32
    }

    #[test]
    fn squares_sum_to_one_and_rings_differ() {
        for (matrix, coils) in [(vec![7, 10], 5), (vec![5, 6, 7], 20), (vec![4, 4, 4], 3)] {
            let birdcage = Birdcage { matrix: matrix.clone(), coils, radius: 1.2, ring: 8 };
            let maps = birdcage.maps::<f32>().expect("maps");
            let voxels: usize = matrix.iter().product();
            for voxel in 0..voxels {
                let sum: f32 = (0..coils).map(|c| maps[c * voxels + voxel].norm_sqr()).sum();
                assert!((sum - 1.0).abs() < 1e-5);
            }
            for coil in maps.chunks(voxels).skip(1) {
                assert!(distance(coil, &maps[..voxels]) > 0.1);
            }
        }
    }

    #[test]
    fn coils_within_the_image_stay_finite() {
        let birdcage = Birdcage { matrix: vec![8, 8], radius: 0.5, ..Birdcage::default() };
        assert!(birdcage.maps::<f64>().expect("maps").iter().all(|v| v.norm() <= 1.0 + 1e-12));
        for bad in [
            Birdcage { coils: 0, ..Birdcage::default() },
            Birdcage { radius: f64::NAN, ..Birdcage::default() },
            Birdcage { matrix: vec![8], ..Birdcage::default() },
            Birdcage { coils: 1 << 60, ..Birdcage::default() },
        ] {
            assert!(bad.maps::<f32>().is_err());
        }
    }
}
