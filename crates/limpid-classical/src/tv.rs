//! Total variation denoising by Chambolle's dual projection.
//!
//! Chambolle, "An algorithm for total variation minimization and applications", J. Math. Imaging
//! Vis. 20, 2004, in the form of `skimage.restoration.denoise_tv_chambolle`: the dual field `p`
//! follows the gradient of `image + div p`, with step `1 / (2 rank)`.

use limpid_config::{Check, Validate};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, require_valid};
use crate::grid::Grid;

/// Total variation denoising.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TotalVariation {
    /// Strength, in units of the image: the greater, the flatter the result.
    pub weight: f64,
    /// Stop when the energy changes by less than this fraction of its first value; 0: run
    /// `max_iterations`.
    pub tolerance: f64,
    /// Most iterations.
    pub max_iterations: usize,
}

impl Default for TotalVariation {
    fn default() -> Self {
        Self { weight: 0.1, tolerance: 2e-4, max_iterations: 200 }
    }
}

impl Validate for TotalVariation {
    fn validate(&self, at: &mut Check) {
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            at.problem("weight", format!("must be above 0, got {}", self.weight));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            at.problem("tolerance", format!("must be at least 0, got {}", self.tolerance));
        }
        if self.max_iterations == 0 {
            at.problem("max_iterations", "must be at least 1, got 0");
        }
    }
}

/// Flattens `image` while keeping its edges.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn total_variation(
    image: &[f64],
    shape: &[usize],
    parameters: &TotalVariation,
) -> Result<Vec<f64>> {
    let grid = Grid::new("total_variation", image, shape)?;
    require_valid("total_variation", parameters)?;
    let n = image.len() as f64;
    let mut dual = [vec![0.0; image.len()], vec![0.0; image.len()], vec![0.0; image.len()]];
    let mut out = image.to_vec();
    let (mut first, mut previous) = (0.0, 0.0);
    for iteration in 0..parameters.max_iterations {
        let moved = if iteration == 0 { 0.0 } else { primal(image, &dual, &grid, &mut out) };
        let variation = ascend(&out, &mut dual, &grid, parameters.weight);
        let energy = (moved + parameters.weight * variation) / n;
        if iteration == 0 {
            first = energy;
        } else if (previous - energy).abs() < parameters.tolerance * first {
            break;
        }
        previous = energy;
    }
    Ok(out)
}

/// `out = image + div p`; returns the squared norm of the divergence.
fn primal(image: &[f64], dual: &[Vec<f64>; 3], grid: &Grid, out: &mut [f64]) -> f64 {
    let [_, ny, nx] = grid.dims;
    let rows: Vec<f64> = out
        .par_chunks_mut(nx)
        .enumerate()
        .map(|(row, out)| {
            let (z, y) = (row / ny, row % ny);
            let at = row * nx;
            let mut squares = 0.0;
            for (x, out) in out.iter_mut().enumerate() {
                let i = at + x;
                let mut d = -(dual[0][i] + dual[1][i] + dual[2][i]);
                if z > 0 {
                    d += dual[0][i - ny * nx];
                }
                if y > 0 {
                    d += dual[1][i - nx];
                }
                if x > 0 {
                    d += dual[2][i - 1];
                }
                *out = image[i] + d;
                squares += d * d;
            }
            squares
        })
        .collect();
    rows.iter().sum()
}

/// One step of the dual field along the gradient of `out`; returns the total variation of `out`.
fn ascend(out: &[f64], dual: &mut [Vec<f64>; 3], grid: &Grid, weight: f64) -> f64 {
    let [nz, ny, nx] = grid.dims;
    let step = 1.0 / (2.0 * grid.rank as f64);
    let [pz, py, px] = dual;
    let rows: Vec<f64> = pz
        .par_chunks_mut(nx)
        .zip(py.par_chunks_mut(nx))
        .zip(px.par_chunks_mut(nx))
        .enumerate()
        .map(|(row, ((pz, py), px))| {
            let (z, y) = (row / ny, row % ny);
            let at = row * nx;
            let mut variation = 0.0;
            for x in 0..nx {
                let i = at + x;
                let gz = if z + 1 < nz { out[i + ny * nx] - out[i] } else { 0.0 };
                let gy = if y + 1 < ny { out[i + nx] - out[i] } else { 0.0 };
                let gx = if x + 1 < nx { out[i + 1] - out[i] } else { 0.0 };
                let norm = (gz * gz + gy * gy + gx * gx).sqrt();
                variation += norm;
                let shrink = 1.0 + norm * (step / weight);
                pz[x] = (pz[x] - step * gz) / shrink;
                py[x] = (py[x] - step * gy) / shrink;
                px[x] = (px[x] - step * gx) / shrink;
            }
            variation
        })
        .collect();
    rows.iter().sum()
}
