//! Similarity of gradients and wavelets of 2-D images: GMSD and HaarPSI, and what FSIM and SR-SIM
//! share with them. Constants and borders follow piq 0.8.

use super::image::{Image, any_nan, plane, positive_range};
use crate::filter::{Border, separable};
use crate::sum::{mean, sum};
use limpid_kernels::Result;

/// A 2-D array: row-major samples, height and width.
pub(super) struct Plane {
    pub(super) data: Vec<f64>,
    pub(super) h: usize,
    pub(super) w: usize,
}

impl Plane {
    /// The samples of an image times `scale`.
    pub(super) fn new(image: &Image, (h, w): (usize, usize), scale: f64) -> Self {
        Self { data: image.to_f64().iter().map(|v| v * scale).collect(), h, w }
    }

    /// Correlation with a kernel over the rows and one over the columns; same size, zeros outside.
    pub(super) fn correlate(&self, rows: &[f64], columns: &[f64]) -> Vec<f64> {
        let taps = [rows.to_vec(), columns.to_vec()];
        separable(&self.data, &[self.h, self.w], &taps, Border::Zero).0
    }

    /// Means of `size` by `size` blocks, after `before` and `after` zeros along both axes; what does
    /// not fill a block is dropped.
    pub(super) fn pool(&self, size: usize, before: usize, after: usize) -> Self {
        let (h, w) = ((self.h + before + after) / size, (self.w + before + after) / size);
        let at = |y: usize, x: usize| match (y.checked_sub(before), x.checked_sub(before)) {
            (Some(y), Some(x)) if y < self.h && x < self.w => self.data[y * self.w + x],
            _ => 0.0,
        };
        let block = |i: usize| {
            let (y, x) = (i / w * size, i % w * size);
            let total: f64 = (0..size * size).map(|k| at(y + k / size, x + k % size)).sum();
            total / (size * size) as f64
        };
        Self { data: (0..h * w).map(block).collect(), h, w }
    }

    /// Gradient magnitude from the kernel `[-1 0 1] ⊗ smooth` and its transpose.
    pub(super) fn gradient(&self, smooth: &[f64; 3]) -> Vec<f64> {
        let difference = [-1.0, 0.0, 1.0];
        let (gx, gy) = (self.correlate(smooth, &difference), self.correlate(&difference, smooth));
        gx.iter().zip(&gy).map(|(x, y)| x.hypot(*y)).collect()
    }
}

/// Smoothing taps of Scharr's gradient.
pub(super) const SCHARR: [f64; 3] = [3.0 / 16.0, 10.0 / 16.0, 3.0 / 16.0];

/// `(2ab + c) / (a² + b² + c)`: 1 where `a` and `b` agree.
pub(super) fn similarity(a: f64, b: f64, c: f64) -> f64 {
    (2.0 * a * b + c) / (a * a + b * b + c)
}

/// How many times a side exceeds 256 samples, rounded half to even as in Python; at least 1.
pub(super) fn reduction((h, w): (usize, usize)) -> usize {
    ((h.min(w) as f64 / 256.0).round_ties_even() as usize).max(1)
}

/// Gradient magnitude similarity deviation (Xue et al. 2014): 0 for equal images, more is worse.
///
/// NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) unless both images are 2-D and of one shape;
/// [`Error::Argument`](limpid_kernels::Error::Argument) if the range is not above 0.
pub fn gmsd(pred: &Image, truth: &Image, range: f64) -> Result<f64> {
    const OP: &str = "gmsd";
    const T: f64 = 170.0 / (255.0 * 255.0);
    const PREWITT: [f64; 3] = [1.0 / 3.0; 3];
    let (size, range) = (plane(OP, pred, truth, 2)?, positive_range(OP, range)?);
    let gradient = |image: &Image| {
        let odd = usize::from(size.0 % 2 == 1 || size.1 % 2 == 1);
        Plane::new(image, size, 1.0 / range).pool(2, 0, odd).gradient(&PREWITT)
    };
    let (x, y) = (gradient(pred), gradient(truth));
    let at = |i: usize| similarity(x[i], y[i], T);
    let average = mean(x.len(), at);
    Ok(mean(x.len(), |i| (at(i) - average).powi(2)).sqrt())
}

/// Haar wavelet perceptual similarity index (Reisenhofer et al. 2018): 1 for equal images.
///
/// NaN if either image holds one.
///
/// # Errors
/// As [`gmsd`]; sides of at least 16 samples.
pub fn haarpsi(pred: &Image, truth: &Image, range: f64) -> Result<f64> {
    const OP: &str = "haarpsi";
    const C: f64 = 30.0;
    const ALPHA: f64 = 4.2;
    let (size, range) = (plane(OP, pred, truth, 16)?, positive_range(OP, range)?);
    if any_nan(pred, truth) {
        return Ok(f64::NAN);
    }
    let odd = usize::from(size.0 % 2 == 1 || size.1 % 2 == 1);
    let half = |image: &Image| Plane::new(image, size, 255.0 / range).pool(2, 0, odd);
    let (x, y) = (half(pred), half(truth));
    let (mut score, mut total) = (0.0, 0.0);
    for transposed in [false, true] {
        let coefficients = |image: &Plane, scale: u32| -> Vec<f64> {
            let taps = 1usize << scale;
            let step: Vec<f64> =
                (0..taps).map(|i| if i < taps / 2 { 1.0 } else { -1.0 } / taps as f64).collect();
            let flat = vec![1.0; taps];
            let (rows, columns) = if transposed { (&flat, &step) } else { (&step, &flat) };
            image.correlate(rows, columns).iter().map(|v| v.abs()).collect()
        };
        let fine: Vec<[Vec<f64>; 2]> =
            (1..3).map(|scale| [coefficients(&x, scale), coefficients(&y, scale)]).collect();
        let (weight_x, weight_y) = (coefficients(&x, 3), coefficients(&y, 3));
        let weight = |i: usize| weight_x[i].max(weight_y[i]);
        let local = |i: usize| {
            let sum: f64 = fine.iter().map(|[x, y]| similarity(x[i], y[i], C)).sum();
            1.0 / (1.0 + (-ALPHA * sum / 2.0).exp())
        };
        score += sum(weight_x.len(), |i| local(i) * weight(i));
        total += sum(weight_x.len(), weight);
    }
    let eps = f64::from(f32::EPSILON);
    let score = (score + eps) / (total + eps);
    Ok(((score / (1.0 - score)).ln() / ALPHA).powi(2))
}
