//! Bilateral filter.
//!
//! Tomasi & Manduchi, "Bilateral filtering for gray and color images", ICCV 1998, as
//! `skimage.restoration.denoise_bilateral` computes it, with the weights of differences tabulated
//! in 10 000 steps. It also takes volumes, and leaves two mistakes of scikit-image 0.26 out: its
//! table is stretched for images with negative values, and its table of distances, one entry too
//! wide, is read with the stride of the window, which skews the window ([`Bilateral::skewed`]).

use limpid_config::{Check, Validate};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::error::{Result, require_valid};
use crate::grid::{Grid, pad};

/// Steps of the table of weights.
const STEPS: usize = 10_000;

/// Bilateral filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bilateral {
    /// Standard deviation, in units of the image, of the Gaussian that weighs a difference of
    /// values; by default that of the image itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_color: Option<f64>,
    /// Standard deviation, in samples, of the Gaussian that weighs a distance.
    pub sigma_spatial: f64,
    /// Side of the window in samples, odd; by default it reaches three `sigma_spatial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// What lies beyond the edge of the image.
    pub border: Border,
    /// Weigh distances as scikit-image does, skewed: only to compare with its results.
    pub skewed: bool,
}

impl Default for Bilateral {
    fn default() -> Self {
        Self {
            sigma_color: None,
            sigma_spatial: 1.0,
            window: None,
            border: Border::Reflect,
            skewed: false,
        }
    }
}

impl Validate for Bilateral {
    fn validate(&self, at: &mut Check) {
        if let Some(sigma) = self.sigma_color
            && !(sigma > 0.0 && sigma.is_finite())
        {
            at.problem("sigma_color", format!("must be above 0, got {sigma}"));
        }
        if !(self.sigma_spatial > 0.0 && self.sigma_spatial <= 100.0) {
            let message =
                format!("must be above 0, at most 100 samples, got {}", self.sigma_spatial);
            at.problem("sigma_spatial", message);
        }
        if let Some(window) = self.window
            && (window.is_multiple_of(2) || window > 999)
        {
            at.problem("window", format!("must be odd and at most 999, got {window}"));
        }
    }
}

/// Averages each sample with those that are near and alike.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn bilateral(image: &[f64], shape: &[usize], parameters: &Bilateral) -> Result<Vec<f64>> {
    let grid = Grid::new("bilateral", image, shape)?;
    require_valid("bilateral", parameters)?;
    let low = image.iter().copied().fold(f64::INFINITY, f64::min);
    let high = image.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low == high {
        return Ok(image.to_vec());
    }
    let sigma_color = parameters.sigma_color.unwrap_or_else(|| standard_deviation(image));
    let table = Table::new(high - low.min(0.0), sigma_color);

    let reach = (3.0 * parameters.sigma_spatial).ceil() as usize;
    let side = parameters.window.unwrap_or((2 * reach + 1).max(5));
    let radius = grid.on_axes(side / 2, 0);
    let (padded, pdims) = pad(image, grid.dims, radius, parameters.border);
    let window = spatial_weights(radius, pdims, parameters);

    let [_, ny, nx] = grid.dims;
    let mut out = vec![0.0; image.len()];
    out.par_chunks_mut(nx).enumerate().for_each_init(
        || vec![0.0; nx],
        |norm, (row, out)| {
            norm.fill(0.0);
            let centres = &image[row * nx..][..nx];
            let corner = ((row / ny) * pdims[1] + row % ny) * pdims[2];
            for (offset, near) in &window {
                let others = &padded[corner + offset..][..nx];
                for x in 0..nx {
                    let w = near * table.weight(centres[x] - others[x]);
                    out[x] += w * others[x];
                    norm[x] += w;
                }
            }
            for (out, norm) in out.iter_mut().zip(norm) {
                *out /= *norm;
            }
        },
    );
    Ok(out)
}

/// Weights of differences of values, from 0 to the greatest that can occur.
struct Table {
    weights: Vec<f64>,
    steps_per_unit: f64,
}

impl Table {
    fn new(range: f64, sigma: f64) -> Self {
        let weights = (0..STEPS)
            .map(|step| {
                let difference = step as f64 * (range / STEPS as f64);
                (-0.5 * difference * difference / (sigma * sigma)).exp()
            })
            .collect();
        Self { weights, steps_per_unit: STEPS as f64 / range }
    }

    fn weight(&self, difference: f64) -> f64 {
        let step = (difference.abs() * self.steps_per_unit) as usize;
        self.weights[step.min(STEPS - 1)]
    }
}

/// Flat offset in the padded image, from the corner of the window, and weight of each sample.
fn spatial_weights(
    radius: [usize; 3],
    pdims: [usize; 3],
    parameters: &Bilateral,
) -> Vec<(usize, f64)> {
    let side = 2 * radius[2] + 1;
    let mut window = Vec::new();
    for k in 0..=2 * radius[0] {
        for j in 0..=2 * radius[1] {
            for i in 0..side {
                let offset = (k * pdims[1] + j) * pdims[2] + i;
                let r2: f64 = if parameters.skewed {
                    skewed_square([k, j, i], radius)
                } else {
                    (0..3).map(|a| (([k, j, i][a] as f64) - radius[a] as f64).powi(2)).sum()
                };
                let sigma = parameters.sigma_spatial;
                window.push((offset, (-0.5 * r2 / (sigma * sigma)).exp()));
            }
        }
    }
    window
}

/// Squared distance where scikit-image finds it for a sample of the window: its table has one entry
/// more along each axis, but is read at the flat index within the window.
fn skewed_square(at: [usize; 3], radius: [usize; 3]) -> f64 {
    let side = 2 * radius[2] + 1;
    let mut flat = (at[0] * side + at[1]) * side + at[2];
    let mut square = 0.0;
    for a in (0..3).rev().filter(|a| radius[*a] > 0) {
        let entry = flat % (side + 1);
        flat /= side + 1;
        square += (entry as f64 - (radius[a] + 1) as f64).powi(2);
    }
    square
}

fn standard_deviation(image: &[f64]) -> f64 {
    let n = image.len() as f64;
    let mean = image.iter().sum::<f64>() / n;
    (image.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt()
}
