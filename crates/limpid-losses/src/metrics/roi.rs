//! Contrast, noise and bias in regions of interest.
//!
//! A region is a mask over the samples of the image, `true` inside. A NaN inside a region makes its
//! figures NaN; samples outside every region do not matter.

use super::image::{Image, same_shape};
use limpid_kernels::{Error, Result};

/// Checked values of the samples in a mask, in row-major order.
pub(super) fn inside(op: &'static str, image: &Image, mask: &[bool]) -> Result<Vec<f64>> {
    if mask.len() != image.len() {
        return Err(Error::shape(
            op,
            format!("a mask of {} samples, one per voxel", image.len()),
            mask.len(),
        ));
    }
    let values: Vec<f64> =
        mask.iter().enumerate().filter(|(_, inside)| **inside).map(|(i, _)| image.at(i)).collect();
    if values.is_empty() {
        return Err(Error::argument(op, "the mask selects no voxel"));
    }
    Ok(values)
}

pub(super) fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with `ddof` degrees of freedom taken off, as in NumPy.
pub(super) fn deviation_of(values: &[f64], ddof: usize) -> f64 {
    let mean = mean_of(values);
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (squares / (values.len() as f64 - ddof as f64)).sqrt()
}

/// Mean over a region.
///
/// # Errors
/// [`Error::Shape`] if the mask is not of the image; [`Error::Argument`] if it is empty. So for all.
pub fn roi_mean(image: &Image, region: &[bool]) -> Result<f64> {
    Ok(mean_of(&inside("roi_mean", image, region)?))
}

/// Contrast recovery coefficient: the contrast `region / background - 1` of the prediction over that
/// of the reference. 1 is perfect.
///
/// # Errors
/// As [`roi_mean`]; [`Error::Shape`] if the images differ in shape.
pub fn contrast_recovery(
    pred: &Image,
    truth: &Image,
    region: &[bool],
    background: &[bool],
) -> Result<f64> {
    const OP: &str = "contrast_recovery";
    same_shape(OP, pred, truth)?;
    let contrast = |image: &Image| -> Result<f64> {
        let background = mean_of(&inside(OP, image, background)?);
        Ok(mean_of(&inside(OP, image, region)?) / background - 1.0)
    };
    Ok(contrast(pred)? / contrast(truth)?)
}

/// Coefficient of variation of a region: standard deviation over mean, with `ddof` 0 or 1.
///
/// # Errors
/// As [`roi_mean`].
pub fn coefficient_of_variation(image: &Image, region: &[bool], ddof: usize) -> Result<f64> {
    let values = inside("coefficient_of_variation", image, region)?;
    Ok(deviation_of(&values, ddof) / mean_of(&values))
}

/// Contrast-to-noise ratio: difference of the means over the background's standard deviation.
///
/// # Errors
/// As [`roi_mean`].
pub fn contrast_to_noise(image: &Image, region: &[bool], background: &[bool]) -> Result<f64> {
    const OP: &str = "contrast_to_noise";
    let (region, background) = (inside(OP, image, region)?, inside(OP, image, background)?);
    Ok((mean_of(&region) - mean_of(&background)) / deviation_of(&background, 0))
}

/// Bias of the mean of a region in percent of the reference.
///
/// # Errors
/// As [`contrast_recovery`].
pub fn relative_bias(pred: &Image, truth: &Image, region: &[bool]) -> Result<f64> {
    const OP: &str = "relative_bias";
    same_shape(OP, pred, truth)?;
    let reference = mean_of(&inside(OP, truth, region)?);
    Ok(100.0 * (mean_of(&inside(OP, pred, region)?) / reference - 1.0))
}

/// PSNR in dB inside a region, with the largest reference value of the region as range.
///
/// # Errors
/// As [`contrast_recovery`].
pub fn local_psnr(pred: &Image, truth: &Image, region: &[bool]) -> Result<f64> {
    const OP: &str = "local_psnr";
    same_shape(OP, pred, truth)?;
    let (p, t) = (inside(OP, pred, region)?, inside(OP, truth, region)?);
    let squares: Vec<f64> = p.iter().zip(&t).map(|(p, t)| (p - t) * (p - t)).collect();
    let peak = largest_of(&t);
    Ok(10.0 * (peak * peak / mean_of(&squares)).log10())
}

/// Largest value; NaN if any is.
pub(super) fn largest_of(values: &[f64]) -> f64 {
    values.iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || a > b { a } else { b })
}
