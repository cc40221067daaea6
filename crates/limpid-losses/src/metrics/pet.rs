//! Quantification of PET images: global bias, and the figures of a region that a reader reports.

use super::difference::mse;
use super::image::{Image, same_shape};
use super::roi::{deviation_of, inside, largest_of, mean_of};
use super::ssim::{SsimSpec, ssim};
use crate::sum::mean;
use limpid_kernels::{Error, Result};
use serde::Serialize;

/// Differences of whole-image statistics, prediction minus reference, in image units (nucli-train).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GlobalBias {
    /// Of the largest value.
    pub max: f64,
    /// Of the mean.
    pub mean: f64,
    /// Of the standard deviation (population).
    pub std: f64,
}

/// Bias of maximum, mean and standard deviation of a whole image.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn global_bias(pred: &Image, truth: &Image) -> Result<GlobalBias> {
    same_shape("global_bias", pred, truth)?;
    let moments = |image: &Image| {
        let n = image.len();
        let average = mean(n, |i| image.at(i));
        (average, mean(n, |i| (image.at(i) - average).powi(2)).sqrt())
    };
    let ((pred_mean, pred_std), (truth_mean, truth_std)) = (moments(pred), moments(truth));
    Ok(GlobalBias {
        max: pred.extremes().1 - truth.extremes().1,
        mean: pred_mean - truth_mean,
        std: pred_std - truth_std,
    })
}

/// What is reported of a region of a PET volume, in the units of the image unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RegionFigures {
    /// Largest value (SUVmax).
    pub max: f64,
    /// Mean (SUVmean).
    pub mean: f64,
    /// Largest mean over a sphere of 1 ml centred in the region (SUVpeak); the sphere may reach
    /// beyond the region.
    pub peak: f64,
    /// Median.
    pub median: f64,
    /// 90th percentile, interpolated linearly.
    pub p90: f64,
    /// Root mean square.
    pub rms: f64,
    /// Sample standard deviation over mean.
    pub cov: f64,
    /// Volume in ml.
    pub volume_ml: f64,
    /// Mean times volume in ml (total lesion glycolysis).
    pub tlg_ml: f64,
}

/// The figures of a region of a volume `[z, y, x]` with voxels of `spacing_mm` along those axes.
///
/// # Errors
/// [`Error::Shape`] if the image is not 3-D or the mask not of its size; [`Error::Argument`] if the
/// region is empty or a spacing is not above 0.
pub fn region_figures(
    image: &Image,
    region: &[bool],
    spacing_mm: [f64; 3],
) -> Result<RegionFigures> {
    const OP: &str = "region_figures";
    let &[depth, height, width] = image.shape() else {
        return Err(Error::shape(OP, "a volume [z, y, x]", image.shape()));
    };
    if spacing_mm.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(Error::argument(
            OP,
            format!("the voxel spacing must be above 0 mm, got {spacing_mm:?}"),
        ));
    }
    let mut values = inside(OP, image, region)?;
    let average = mean_of(&values);
    let volume_ml = values.len() as f64 * spacing_mm.iter().product::<f64>() / 1000.0;
    let squares: Vec<f64> = values.iter().map(|v| v * v).collect();
    let (max, cov) = (largest_of(&values), deviation_of(&values, 1) / average);
    values.sort_by(f64::total_cmp);
    Ok(RegionFigures {
        max,
        mean: average,
        peak: peak(image, region, [depth, height, width], spacing_mm),
        median: percentile(&values, max, 50.0),
        p90: percentile(&values, max, 90.0),
        rms: mean_of(&squares).sqrt(),
        cov,
        volume_ml,
        tlg_ml: average * volume_ml,
    })
}

/// Percentile of sorted values by linear interpolation, as NumPy; NaN if the largest value is.
fn percentile(sorted: &[f64], max: f64, percent: f64) -> f64 {
    if max.is_nan() {
        return f64::NAN;
    }
    let position = percent / 100.0 * (sorted.len() - 1) as f64;
    let (low, part) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

/// Largest mean over a 1 ml sphere, of the voxels whose centres it holds and the volume has.
fn peak(image: &Image, region: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> f64 {
    let sphere = sphere_offsets(1.0, spacing);
    let mut means = Vec::new();
    for centre in (0..image.len()).filter(|&i| region[i]) {
        let position =
            [centre / (shape[1] * shape[2]), centre / shape[2] % shape[1], centre % shape[2]];
        let (mut total, mut count) = (0.0, 0usize);
        for offset in &sphere {
            let mut index = Some(0);
            for axis in 0..3 {
                let moved = position[axis].checked_add_signed(offset[axis]);
                index = match (index, moved) {
                    (Some(i), Some(p)) if p < shape[axis] => Some(i * shape[axis] + p),
                    _ => None,
                };
            }
            if let Some(i) = index {
                total += image.at(i);
                count += 1;
            }
        }
        means.push(total / count as f64);
    }
    largest_of(&means)
}

/// Offsets `[z, y, x]` of the voxels whose centres lie in a sphere of `millilitres`.
fn sphere_offsets(millilitres: f64, spacing: [f64; 3]) -> Vec<[isize; 3]> {
    let radius = (0.75 * millilitres / std::f64::consts::PI).cbrt() * 10.0;
    let [rz, ry, rx] = spacing.map(|s| (radius / s).floor() as isize);
    let mut offsets = Vec::new();
    for z in -rz..=rz {
        for y in -ry..=ry {
            for x in -rx..=rx {
                let distance = [z, y, x]
                    .iter()
                    .zip(spacing)
                    .map(|(&o, s)| (o as f64 * s).powi(2))
                    .sum::<f64>();
                if distance <= radius * radius {
                    offsets.push([z, y, x]);
                }
            }
        }
    }
    offsets
}

/// Absolute error in percent of the reference, the score of a figure in the UDPET challenge; not
/// finite for a reference of 0.
#[must_use]
pub fn percent_error(pred: f64, truth: f64) -> f64 {
    100.0 * (pred - truth).abs() / truth.abs()
}

/// PSNR in dB with the largest reference value as range (UDPET).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn psnr_truth_max(pred: &Image, truth: &Image) -> Result<f64> {
    let peak = truth.extremes().1;
    Ok(10.0 * (peak * peak / mse(pred, truth)?).log10())
}

/// SSIM as the public re-implementation of the UDPET evaluation computes it: each image divided by
/// its own largest value, the default window of scikit-image, and a data range of 2.
///
/// It cannot see a global scale error; report [`ssim`] as well. NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the window does not fit; [`Error::Argument`] if an image
/// has no positive value.
pub fn ssim_udpet_legacy(pred: &Image, truth: &Image) -> Result<f64> {
    const OP: &str = "ssim_udpet_legacy";
    same_shape(OP, pred, truth)?;
    let own_scale = |image: &Image| -> Result<Vec<f64>> {
        let (_, max) = image.extremes();
        if max <= 0.0 {
            return Err(Error::argument(OP, "an image has no positive value to be scaled by"));
        }
        Ok(image.to_f64().iter().map(|v| v / max).collect())
    };
    let (x, y) = (own_scale(pred)?, own_scale(truth)?);
    let (x, y) =
        (Image::new(x.as_slice(), pred.shape())?, Image::new(y.as_slice(), truth.shape())?);
    ssim(&x, &y, 2.0, &SsimSpec::SKIMAGE)
}
