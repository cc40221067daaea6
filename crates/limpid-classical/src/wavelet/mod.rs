//! Wavelet shrinkage.
//!
//! Donoho & Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994
//! (universal threshold, noise estimate); Chang, Yu & Vetterli, "Adaptive wavelet thresholding for
//! image denoising and compression", IEEE TIP 9, 2000 (BayesShrink), as in
//! `skimage.restoration.denoise_wavelet`.

mod transform;

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, require_valid};
use crate::grid::Grid;
use transform::Pyramid;

/// The 75 % quantile of the standard normal distribution: median magnitude of unit noise.
const NORMAL_QUARTILE: f64 = 0.674_489_750_196_081_7;

/// Wavelet shrinkage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wavelet {
    /// The wavelet.
    pub basis: WaveletBasis,
    /// How the threshold of a band is chosen.
    pub threshold: Threshold,
    /// What happens to coefficients around the threshold.
    pub shrinkage: Shrinkage,
    /// Standard deviation of the noise, in units of the image; by default it is estimated from the
    /// finest diagonal band.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
    /// Levels of the decomposition; by default three less than the image allows, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<usize>,
}

/// An orthogonal wavelet of Daubechies, by its vanishing moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaveletBasis {
    /// One vanishing moment: the Haar wavelet, 2 taps.
    #[default]
    Db1,
    /// Two vanishing moments, 4 taps.
    Db2,
    /// Four vanishing moments, 8 taps.
    Db4,
}

/// How the threshold of a band is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// BayesShrink: noise variance over the standard deviation of the signal in the band.
    #[default]
    Bayes,
    /// VisuShrink: `sigma * sqrt(2 ln n)` for all bands; removes all noise and some detail.
    Universal,
}

/// What happens to coefficients around the threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shrinkage {
    /// All move towards zero by the threshold.
    #[default]
    Soft,
    /// Those below it become zero, the others stay.
    Hard,
}

impl Validate for Wavelet {
    fn validate(&self, at: &mut Check) {
        if let Some(sigma) = self.sigma
            && !(sigma >= 0.0 && sigma.is_finite())
        {
            at.problem("sigma", format!("must be at least 0, got {sigma}"));
        }
        if let Some(levels) = self.levels
            && !(1..=20).contains(&levels)
        {
            at.problem("levels", format!("must be between 1 and 20, got {levels}"));
        }
    }
}

/// Shrinks the wavelet coefficients of `image` and puts it together again.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn wavelet(image: &[f64], shape: &[usize], parameters: &Wavelet) -> Result<Vec<f64>> {
    let grid = Grid::new("wavelet", image, shape)?;
    require_valid("wavelet", parameters)?;
    let basis = parameters.basis;
    let levels = parameters.levels.unwrap_or_else(|| default_levels(&grid, basis));
    let mut pyramid = Pyramid::decompose(image, &grid, basis, levels);
    let sigma = parameters.sigma.unwrap_or_else(|| noise_of(pyramid.finest_diagonal()));
    let universal = sigma * (2.0 * (image.len() as f64).ln()).sqrt();
    for band in pyramid.detail_bands() {
        let threshold = match parameters.threshold {
            Threshold::Bayes => bayes_threshold(band, sigma * sigma),
            Threshold::Universal => universal,
        };
        for value in band {
            let excess = value.abs() - threshold;
            *value = match parameters.shrinkage {
                Shrinkage::Soft => excess.max(0.0).copysign(*value),
                Shrinkage::Hard if excess < 0.0 => 0.0,
                Shrinkage::Hard => *value,
            };
        }
    }
    Ok(pyramid.reconstruct())
}

/// Standard deviation of the white Gaussian noise in `image`, from the median magnitude of its
/// finest diagonal `db2` coefficients (`skimage.restoration.estimate_sigma`); 0 when they all
/// vanish.
///
/// # Errors
/// A shape that does not fit, or a value that is not finite.
pub fn estimate_sigma(image: &[f64], shape: &[usize]) -> Result<f64> {
    let grid = Grid::new("estimate_sigma", image, shape)?;
    let pyramid = Pyramid::decompose(image, &grid, WaveletBasis::Db2, 1);
    Ok(noise_of(pyramid.finest_diagonal()))
}

fn default_levels(grid: &Grid, basis: WaveletBasis) -> usize {
    let taps = basis.low_pass().len();
    let most = |n: usize| (n / (taps - 1)).checked_ilog2().unwrap_or(0) as usize;
    let most = grid.axes().map(|axis| most(grid.dims[axis])).min().unwrap_or(0);
    most.saturating_sub(3).max(1)
}

fn noise_of(diagonal: &[f64]) -> f64 {
    // exact zeros come from masked regions and hold no noise
    let mut magnitudes: Vec<f64> = diagonal.iter().map(|d| d.abs()).filter(|d| *d > 0.0).collect();
    if magnitudes.is_empty() {
        return 0.0;
    }
    let middle = magnitudes.len() / 2;
    let even = magnitudes.len().is_multiple_of(2);
    let (below, median, _) = magnitudes.select_nth_unstable_by(middle, f64::total_cmp);
    let lower = if even { below.iter().copied().fold(0.0, f64::max) } else { *median };
    0.5 * (lower + *median) / NORMAL_QUARTILE
}

fn bayes_threshold(band: &[f64], variance: f64) -> f64 {
    let power = band.iter().map(|v| v * v).sum::<f64>() / band.len() as f64;
    variance / (power - variance).max(f64::EPSILON).sqrt()
}
