//! Gaussian smoothing (`scipy.ndimage.gaussian_filter`, kernel cut at four sigma).

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::correlate::correlate;
use crate::error::{Result, require_valid};
use crate::grid::{Grid, PerAxis};

/// Gaussian smoothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gaussian {
    /// Standard deviation of the kernel in samples, for all axes or one per axis; 0 leaves an axis
    /// as it is.
    pub sigma: PerAxis<f64>,
    /// What lies beyond the edge of the image.
    pub border: Border,
}

impl Default for Gaussian {
    fn default() -> Self {
        Self { sigma: PerAxis::All(1.0), border: Border::Reflect }
    }
}

impl Validate for Gaussian {
    fn validate(&self, at: &mut Check) {
        for sigma in self.sigma.values() {
            if !(0.0..=1e4).contains(sigma) {
                at.problem("sigma", format!("must be between 0 and 10000 samples, got {sigma}"));
            }
        }
    }
}

/// Smooths `image` with a Gaussian.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a sigma out of range.
pub fn gaussian(image: &[f64], shape: &[usize], parameters: &Gaussian) -> Result<Vec<f64>> {
    let grid = Grid::new("gaussian", image, shape)?;
    require_valid("gaussian", parameters)?;
    let sigma = grid.spread("gaussian", "sigma", &parameters.sigma, 0.0)?;
    Ok(smooth(image, &grid, sigma, parameters.border))
}

/// The standard deviation in samples of a Gaussian whose full width at half maximum is `fwhm`
/// millimetres, on a grid of `spacing` millimetres.
pub fn sigma_from_fwhm(fwhm: f64, spacing: f64) -> f64 {
    fwhm / (8.0 * std::f64::consts::LN_2).sqrt() / spacing
}

/// Smooths a checked image, one axis after the other.
pub(crate) fn smooth(image: &[f64], grid: &Grid, sigma: [f64; 3], border: Border) -> Vec<f64> {
    let mut smoothed = image.to_vec();
    for axis in grid.axes() {
        if sigma[axis] > 1e-15 {
            smoothed = correlate(&smoothed, grid.dims, axis, &kernel(sigma[axis]), border);
        }
    }
    smoothed
}

/// Samples of a Gaussian up to four sigma, summing to one.
fn kernel(sigma: f64) -> Vec<f64> {
    let radius = (4.0 * sigma + 0.5) as i64;
    let sample = |i: i64| (-0.5 / (sigma * sigma) * (i * i) as f64).exp();
    let sum: f64 = (-radius..=radius).map(sample).sum();
    (-radius..=radius).map(|i| sample(i) / sum).collect()
}
