//! Fourier ring and shell correlation: resolution from two independent images of one object
//! (Saxton and Baumeister 1982; van Heel and Schatz 2005).

use super::image::{Image, any_nan, same_shape};
use crate::fft::{Complex, Direction, transform};
use limpid_kernels::{Error, Result};
use serde::Serialize;

/// The fixed threshold of one seventh (light microscopy, Nieuwenhuizen et al. 2013).
pub const ONE_SEVENTH: f64 = 1.0 / 7.0;
/// The "gold standard" threshold of cryo-EM (Rosenthal and Henderson 2003).
pub const GOLD_STANDARD: f64 = 0.143;

/// Correlation of two spectra by frequency.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RingCorrelation {
    /// Centres of the rings in cycles per unit of the spacing, from 0 to Nyquist.
    pub frequency: Vec<f64>,
    /// Correlation in each ring, in `[-1, 1]`; 0 where an image has no power.
    pub correlation: Vec<f64>,
    /// Fourier samples in each ring.
    pub samples: Vec<usize>,
}

impl RingCorrelation {
    /// The period, in units of the spacing, at which the curve first falls below the threshold,
    /// interpolated linearly; `None` if it stays above up to Nyquist.
    #[must_use]
    pub fn resolution(&self, threshold: f64) -> Option<f64> {
        let first = (1..self.correlation.len()).find(|&i| self.correlation[i] < threshold)?;
        let (before, after) = (self.correlation[first - 1], self.correlation[first]);
        let part = ((before - threshold) / (before - after)).clamp(0.0, 1.0);
        let (low, high) = (self.frequency[first - 1], self.frequency[first]);
        Some(1.0 / (low + part * (high - low)))
    }
}

/// Fourier ring (2-D) or shell (3-D) correlation of two images with independent noise.
///
/// `spacing` is the sample distance along each axis, in any unit. The means are removed. `taper`
/// multiplies by a Hann window first, which keeps the borders of a cropped image from correlating.
/// All correlations are NaN if either image holds a NaN.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ, an axis has fewer than 4 samples, or there is not one
/// spacing per axis; [`Error::Argument`] if a spacing is not above 0.
pub fn ring_correlation(
    first: &Image,
    second: &Image,
    spacing: &[f64],
    taper: bool,
) -> Result<RingCorrelation> {
    const OP: &str = "ring_correlation";
    same_shape(OP, first, second)?;
    let shape = first.shape();
    if shape.iter().any(|&n| n < 4) || spacing.len() != shape.len() {
        return Err(Error::shape(
            OP,
            "at least 4 samples along every axis and one spacing per axis",
            (shape, spacing.len()),
        ));
    }
    if spacing.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(Error::argument(OP, format!("the spacing must be above 0, got {spacing:?}")));
    }
    let steps: Vec<f64> = shape.iter().zip(spacing).map(|(&n, s)| 1.0 / (n as f64 * s)).collect();
    let width = steps.iter().copied().fold(0.0, f64::max);
    let nyquist = spacing.iter().map(|s| 0.5 / s).fold(f64::INFINITY, f64::min);
    let rings = (nyquist / width + 0.5).floor() as usize + 1;
    let frequency: Vec<f64> = (0..rings).map(|ring| ring as f64 * width).collect();

    let (a, b) = (spectrum(first, taper), spectrum(second, taper));
    let mut cross = vec![0.0; rings];
    let mut power = vec![(0.0, 0.0); rings];
    let mut samples = vec![0usize; rings];
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let ring = (radius(i, shape, &steps) / width).round() as usize;
        if ring < rings {
            cross[ring] += a.re * b.re + a.im * b.im;
            power[ring].0 += a.norm_sqr();
            power[ring].1 += b.norm_sqr();
            samples[ring] += 1;
        }
    }
    let invalid = any_nan(first, second);
    let correlation = cross
        .iter()
        .zip(&power)
        .map(|(cross, (a, b))| match a * b {
            _ if invalid => f64::NAN,
            0.0 => 0.0,
            product => cross / product.sqrt(),
        })
        .collect();
    Ok(RingCorrelation { frequency, correlation, samples })
}

/// Distance of a Fourier sample from the origin, in cycles per unit.
fn radius(mut index: usize, shape: &[usize], steps: &[f64]) -> f64 {
    let mut squares = 0.0;
    for (&n, step) in shape.iter().zip(steps).rev() {
        let k = index % n;
        index /= n;
        squares += (k.min(n - k) as f64 * step).powi(2);
    }
    squares.sqrt()
}

fn spectrum(image: &Image, taper: bool) -> Vec<Complex<f64>> {
    let shape = image.shape();
    let mean = crate::sum::mean(image.len(), |i| image.at(i));
    let weight = |mut index: usize| {
        let mut weight = 1.0;
        for &n in shape.iter().rev() {
            let phase = (index % n) as f64 / (n - 1) as f64;
            index /= n;
            weight *= (std::f64::consts::PI * phase).sin().powi(2);
        }
        weight
    };
    let mut data: Vec<Complex<f64>> = (0..image.len())
        .map(|i| {
            let value = image.at(i) - mean;
            Complex::new(if taper { value * weight(i) } else { value }, 0.0)
        })
        .collect();
    transform(&mut data, shape, 0, Direction::Forward);
    data
}
