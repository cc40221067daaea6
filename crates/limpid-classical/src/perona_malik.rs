//! Perona-Malik diffusion, and the noise measure made of its first step.
//!
//! Perona & Malik, "Scale-space and edge detection using anisotropic diffusion", IEEE PAMI 12,
//! 1990, with `g(d) = exp(-(d / kappa)²)` on the difference along each axis. The mean magnitude of
//! the divergence is the score by which the low-count PET pipeline of nucli tells noisy scans from
//! clean ones (kappa 50 on its scale of values).

use limpid_config::{Check, Validate};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, require_valid};
use crate::grid::Grid;

/// Perona-Malik diffusion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PeronaMalik {
    /// Differences between neighbours well above this, in units of the image, count as edges and
    /// stay.
    pub kappa: f64,
    /// Steps of diffusion.
    pub iterations: usize,
}

impl Default for PeronaMalik {
    fn default() -> Self {
        Self { kappa: 0.1, iterations: 10 }
    }
}

impl Validate for PeronaMalik {
    fn validate(&self, at: &mut Check) {
        if !(self.kappa > 0.0 && self.kappa.is_finite()) {
            at.problem("kappa", format!("must be above 0, got {}", self.kappa));
        }
        if self.iterations == 0 {
            at.problem("iterations", "must be at least 1, got 0");
        }
    }
}

/// Diffuses `image` along, but not across, its edges; the step is the largest stable one,
/// `1 / (2 rank)`, halved. The mean of the image does not change.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn perona_malik(image: &[f64], shape: &[usize], parameters: &PeronaMalik) -> Result<Vec<f64>> {
    let grid = Grid::new("perona_malik", image, shape)?;
    require_valid("perona_malik", parameters)?;
    let step = 1.0 / (4.0 * grid.rank as f64);
    let mut diffused = image.to_vec();
    let mut divergence = vec![0.0; image.len()];
    for _ in 0..parameters.iterations {
        diverge(&diffused, &grid, parameters.kappa, &mut divergence);
        for (value, divergence) in diffused.iter_mut().zip(&divergence) {
            *value += step * divergence;
        }
    }
    Ok(diffused)
}

/// Mean magnitude of the divergence of the Perona-Malik flux: a measure of noise that edges
/// steeper than `kappa` (units of the image) hardly enter.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a kappa that is not positive.
pub fn roughness(image: &[f64], shape: &[usize], kappa: f64) -> Result<f64> {
    let grid = Grid::new("roughness", image, shape)?;
    if !(kappa > 0.0 && kappa.is_finite()) {
        let problem = format!("`kappa` must be above 0, got {kappa}");
        return Err(Error::parameter("roughness", problem));
    }
    let mut divergence = vec![0.0; image.len()];
    diverge(image, &grid, kappa, &mut divergence);
    Ok(divergence.iter().map(|d| d.abs()).sum::<f64>() / image.len() as f64)
}

/// Divergence of the flux `g(d) d` of the differences `d` to the next sample along each axis;
/// nothing flows across the edge of the image.
fn diverge(image: &[f64], grid: &Grid, kappa: f64, divergence: &mut [f64]) {
    let [nz, ny, nx] = grid.dims;
    let flux = |from: usize, to: usize| {
        let d = image[to] - image[from];
        (-(d / kappa) * (d / kappa)).exp() * d
    };
    divergence.par_chunks_mut(nx).enumerate().for_each(|(row, out)| {
        let (z, y) = (row / ny, row % ny);
        for (x, out) in out.iter_mut().enumerate() {
            let i = row * nx + x;
            let mut sum = 0.0;
            for (at, n, stride) in [(z, nz, ny * nx), (y, ny, nx), (x, nx, 1)] {
                if at + 1 < n {
                    sum += flux(i, i + stride);
                }
                if at > 0 {
                    sum -= flux(i - stride, i);
                }
            }
            *out = sum;
        }
    });
}
