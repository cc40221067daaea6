//! How far an image is from another.

use crate::error::{Error, Result};
use limpid_losses::metrics::{Image, SsimSpec, psnr, ssim};
use limpid_mri::Complex;
use serde::Serialize;

/// Distances of an image from one to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// `‖x − y‖ / ‖y‖` of the complex images.
    pub nrmse: f64,
    /// The same after `x` is multiplied by the complex number that fits best.
    pub nrmse_scaled: f64,
    /// The same of the magnitudes.
    pub nrmse_mag: f64,
    /// Of the magnitudes, in dB; the range is the largest magnitude of `y`.
    pub psnr: f64,
    /// Of the magnitudes, with a Gaussian window of σ 1.5 over 11 voxels; none if the image is smaller.
    pub ssim: Option<f64>,
}

impl Metrics {
    /// Compares `x` with `y`, both `[matrix…]`.
    ///
    /// # Errors
    /// If the images are not of one size, or `y` is zero.
    pub fn of(x: &[Complex<f32>], y: &[Complex<f32>], matrix: &[usize]) -> Result<Self> {
        let wide = |v: &Complex<f32>| Complex::new(f64::from(v.re), f64::from(v.im));
        let norm = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>().sqrt();
        let whole = norm(&mut y.iter().map(|v| wide(v).norm_sqr()));
        if x.len() != y.len() || !(whole > 0.0) {
            return Err(Error::scan(
                format!("an image of {} voxels is compared with one of {}", x.len(), y.len()),
                "they must be of one size, and the latter not zero",
            ));
        }
        let pairs = || x.iter().zip(y).map(|(x, y)| (wide(x), wide(y)));
        let energy: f64 = x.iter().map(|v| wide(v).norm_sqr()).sum();
        let overlap: Complex<f64> = pairs().map(|(x, y)| x.conj() * y).sum();
        let scale = if energy > 0.0 { overlap / energy } else { Complex::default() };
        let magnitude = |v: &[Complex<f32>]| v.iter().map(|v| v.norm()).collect::<Vec<f32>>();
        let (mx, my) = (magnitude(x), magnitude(y));
        let range = f64::from(my.iter().copied().fold(0f32, f32::max));
        let fail = |e: limpid_kernels::Error| Error::scan(e.to_string(), "compare other images");
        let [a, b] = [Image::new(&mx[..], matrix), Image::new(&my[..], matrix)];
        let (a, b) = (a.map_err(fail)?, b.map_err(fail)?);
        let gap = |x: f32, y: f32| f64::from(x - y).powi(2);
        Ok(Self {
            nrmse: norm(&mut pairs().map(|(x, y)| (x - y).norm_sqr())) / whole,
            nrmse_scaled: norm(&mut pairs().map(|(x, y)| (x * scale - y).norm_sqr())) / whole,
            nrmse_mag: norm(&mut mx.iter().zip(&my).map(|(&x, &y)| gap(x, y))) / whole,
            psnr: psnr(&a, &b, range).map_err(fail)?,
            ssim: match matrix.iter().all(|&n| n >= 11) {
                true => Some(ssim(&a, &b, range, &SsimSpec::WANG).map_err(fail)?),
                false => None,
            },
        })
    }
}
