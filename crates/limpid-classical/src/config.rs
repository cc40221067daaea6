//! A filter and its parameters as one value: what configuration files hold and the tuner returns.

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bilateral::{Bilateral, bilateral};
use crate::bm3d::{Bm3d, bm3d};
use crate::error::Result;
use crate::gaussian::{Gaussian, gaussian};
use crate::median::{Median, median};
use crate::nlm::{NonLocalMeans, non_local_means};
use crate::perona_malik::{PeronaMalik, perona_malik};
use crate::tv::{TotalVariation, total_variation};
use crate::uniform::{Uniform, uniform};
use crate::wavelet::{Wavelet, wavelet};

/// A filter and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FilterConfig {
    /// Gaussian smoothing.
    Gaussian(Gaussian),
    /// Median over a box.
    Median(Median),
    /// Mean over a box.
    Uniform(Uniform),
    /// Non-local means: the average of what looks alike.
    NonLocalMeans(NonLocalMeans),
    /// Total variation denoising (Chambolle): flat regions, sharp edges.
    TotalVariation(TotalVariation),
    /// Bilateral filter: the average of what is near and alike.
    Bilateral(Bilateral),
    /// Wavelet shrinkage.
    Wavelet(Wavelet),
    /// Perona-Malik diffusion.
    PeronaMalik(PeronaMalik),
    /// BM3D: blocks that look alike, shrunk together. In volumes the blocks are cubes (BM4D).
    Bm3d(Bm3d),
}

/// The filters, without parameters.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FilterKind {
    /// Gaussian smoothing.
    Gaussian,
    /// Median over a box.
    Median,
    /// Mean over a box.
    Uniform,
    /// Non-local means.
    NonLocalMeans,
    /// Total variation denoising.
    TotalVariation,
    /// Bilateral filter.
    Bilateral,
    /// Wavelet shrinkage.
    Wavelet,
    /// Perona-Malik diffusion.
    PeronaMalik,
    /// BM3D.
    Bm3d,
}

impl FilterKind {
    /// Every filter, in the order in which reports list them.
    pub const ALL: [Self; 9] = [
        Self::Gaussian,
        Self::Median,
        Self::Uniform,
        Self::NonLocalMeans,
        Self::TotalVariation,
        Self::Bilateral,
        Self::Wavelet,
        Self::PeronaMalik,
        Self::Bm3d,
    ];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gaussian => "gaussian",
            Self::Median => "median",
            Self::Uniform => "uniform",
            Self::NonLocalMeans => "non_local_means",
            Self::TotalVariation => "total_variation",
            Self::Bilateral => "bilateral",
            Self::Wavelet => "wavelet",
            Self::PeronaMalik => "perona_malik",
            Self::Bm3d => "bm3d",
        }
    }
}

impl FilterConfig {
    /// Which filter this is.
    pub fn kind(&self) -> FilterKind {
        match self {
            Self::Gaussian(_) => FilterKind::Gaussian,
            Self::Median(_) => FilterKind::Median,
            Self::Uniform(_) => FilterKind::Uniform,
            Self::NonLocalMeans(_) => FilterKind::NonLocalMeans,
            Self::TotalVariation(_) => FilterKind::TotalVariation,
            Self::Bilateral(_) => FilterKind::Bilateral,
            Self::Wavelet(_) => FilterKind::Wavelet,
            Self::PeronaMalik(_) => FilterKind::PeronaMalik,
            Self::Bm3d(_) => FilterKind::Bm3d,
        }
    }
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self::Gaussian(Gaussian::default())
    }
}

impl Validate for FilterConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::Gaussian(parameters) => parameters.validate(at),
            Self::Median(parameters) => parameters.validate(at),
            Self::Uniform(parameters) => parameters.validate(at),
            Self::NonLocalMeans(parameters) => parameters.validate(at),
            Self::TotalVariation(parameters) => parameters.validate(at),
            Self::Bilateral(parameters) => parameters.validate(at),
            Self::Wavelet(parameters) => parameters.validate(at),
            Self::PeronaMalik(parameters) => parameters.validate(at),
            Self::Bm3d(parameters) => parameters.validate(at),
        }
    }
}

/// Runs a filter over `image`, row-major, of one to three dimensions; the result has its shape.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn apply(filter: &FilterConfig, image: &[f64], shape: &[usize]) -> Result<Vec<f64>> {
    match filter {
        FilterConfig::Gaussian(parameters) => gaussian(image, shape, parameters),
        FilterConfig::Median(parameters) => median(image, shape, parameters),
        FilterConfig::Uniform(parameters) => uniform(image, shape, parameters),
        FilterConfig::NonLocalMeans(parameters) => non_local_means(image, shape, parameters),
        FilterConfig::TotalVariation(parameters) => total_variation(image, shape, parameters),
        FilterConfig::Bilateral(parameters) => bilateral(image, shape, parameters),
        FilterConfig::Wavelet(parameters) => wavelet(image, shape, parameters),
        FilterConfig::PeronaMalik(parameters) => perona_malik(image, shape, parameters),
        FilterConfig::Bm3d(parameters) => bm3d(image, shape, parameters),
    }
}

/// Runs a filter over each of several images of one shape that lie one after the other: the
/// channels of a colour picture, the frames of a series.
///
/// # Errors
/// As [`apply`], or `images` does not hold whole images.
pub fn apply_each(filter: &FilterConfig, images: &[f64], shape: &[usize]) -> Result<Vec<f64>> {
    let samples = shape.iter().product::<usize>().max(1);
    let results = images.chunks(samples).map(|image| apply(filter, image, shape));
    Ok(results.collect::<Result<Vec<_>>>()?.concat())
}
