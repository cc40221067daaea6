//! The fair opponent: each filter at the strength that suits the image best.

use crate::bm3d::Bm3d;
use crate::config::{FilterConfig, FilterKind, apply_each};
use crate::error::{Error, Result};
use crate::gaussian::Gaussian;
use crate::median::Median;
use crate::nlm::NonLocalMeans;
use crate::perona_malik::PeronaMalik;
use crate::tv::TotalVariation;
use crate::uniform::Uniform;
use crate::wavelet::{Shrinkage, Threshold, Wavelet, WaveletBasis, estimate_sigma};
use crate::{Bilateral, PerAxis};

/// The outcome of [`tune`].
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned {
    /// The best setting.
    pub filter: FilterConfig,
    /// Its score.
    pub score: f64,
    /// Its result.
    pub image: Vec<f64>,
    /// Every setting tried, with its score.
    pub tried: Vec<(FilterConfig, f64)>,
}

/// Tries a filter at sensible strengths, which scale with the noise in `noisy`, and returns the one
/// whose result has the highest `score`. The first of equal ones wins; a score that is not a number
/// never does. `noisy` may hold several images of that shape, one after the other: one strength is
/// sought for all.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or no score that is a number.
pub fn tune(
    kind: FilterKind,
    noisy: &[f64],
    shape: &[usize],
    score: impl Fn(&[f64]) -> f64,
) -> Result<Tuned> {
    let mut best: Option<Tuned> = None;
    let mut tried = Vec::new();
    for filter in candidates(kind, noise_level(noisy, shape)?) {
        let image = apply_each(&filter, noisy, shape)?;
        let score = score(&image);
        tried.push((filter.clone(), score));
        if !score.is_nan() && best.as_ref().is_none_or(|best| score > best.score) {
            best = Some(Tuned { filter, score, image, tried: Vec::new() });
        }
    }
    let nothing = || Error::parameter(kind.name(), "no setting has a score that is a number");
    best.map(|best| Tuned { tried, ..best }).ok_or_else(nothing)
}

/// The standard deviation of the noise, or something positive where there seems to be none.
fn noise_level(noisy: &[f64], shape: &[usize]) -> Result<f64> {
    let samples = shape.iter().product::<usize>().max(1);
    let images = noisy.chunks(samples).map(|image| estimate_sigma(image, shape));
    let sigmas = images.collect::<Result<Vec<f64>>>()?;
    let sigma = sigmas.iter().sum::<f64>() / sigmas.len().max(1) as f64;
    if sigma > 0.0 {
        return Ok(sigma);
    }
    let high = noisy.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let low = noisy.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(if high > low { 0.01 * (high - low) } else { 1.0 })
}

/// The settings worth trying at a noise of standard deviation `noise`.
fn candidates(kind: FilterKind, noise: f64) -> Vec<FilterConfig> {
    match kind {
        FilterKind::Gaussian => [0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0]
            .map(|sigma| Gaussian { sigma: PerAxis::All(sigma), ..Gaussian::default() })
            .map(FilterConfig::Gaussian)
            .into(),
        FilterKind::Median => [3, 5, 7]
            .map(|size| Median { size: PerAxis::All(size), ..Median::default() })
            .map(FilterConfig::Median)
            .into(),
        FilterKind::Uniform => [2, 3, 5, 7]
            .map(|size| Uniform { size: PerAxis::All(size), ..Uniform::default() })
            .map(FilterConfig::Uniform)
            .into(),
        FilterKind::NonLocalMeans => [0.4, 0.6, 0.8, 1.0, 1.3]
            .into_iter()
            .flat_map(|strength| [0.0, noise].map(|sigma| (strength * noise, sigma)))
            .map(|(h, sigma)| NonLocalMeans { h, sigma, ..NonLocalMeans::default() })
            .map(FilterConfig::NonLocalMeans)
            .collect(),
        FilterKind::TotalVariation => [0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.5]
            .map(|weight| TotalVariation { weight: weight * noise, ..TotalVariation::default() })
            .map(FilterConfig::TotalVariation)
            .into(),
        FilterKind::Bilateral => [1.0, 1.5, 2.0, 3.0, 4.0]
            .into_iter()
            .flat_map(|color| [0.8, 1.2, 1.8].map(|spatial| (color * noise, spatial)))
            .map(|(color, sigma_spatial)| Bilateral {
                sigma_color: Some(color),
                sigma_spatial,
                ..Bilateral::default()
            })
            .map(FilterConfig::Bilateral)
            .collect(),
        FilterKind::Wavelet => [WaveletBasis::Db1, WaveletBasis::Db2, WaveletBasis::Db4]
            .into_iter()
            .flat_map(|basis| [0.7, 1.0, 1.3].map(|strength| (basis, strength * noise)))
            .map(|(basis, sigma)| Wavelet {
                basis,
                sigma: Some(sigma),
                threshold: Threshold::Bayes,
                shrinkage: Shrinkage::Soft,
                levels: None,
            })
            .map(FilterConfig::Wavelet)
            .collect(),
        FilterKind::PeronaMalik => [1.5, 2.5, 4.0]
            .into_iter()
            .flat_map(|edge| [3, 6, 12, 24].map(|iterations| (edge * noise, iterations)))
            .map(|(kappa, iterations)| PeronaMalik { kappa, iterations })
            .map(FilterConfig::PeronaMalik)
            .collect(),
        FilterKind::Bm3d => [0.6, 0.8, 1.0, 1.2, 1.5]
            .map(|strength| Bm3d { sigma: Some(strength * noise), ..Bm3d::default() })
            .map(FilterConfig::Bm3d)
            .into(),
    }
}
