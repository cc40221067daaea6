//! Structural similarity (Wang et al., "Image quality assessment: from error visibility to
//! structural similarity", IEEE TIP 2004), for images of any rank.
//!
//! Packages disagree on window and covariance, and so by up to 0.1 on the score: the variant is an
//! argument. All of them average over the positions where the window fits, which is what
//! scikit-image's cropping and MONAI's valid convolution both amount to.

use super::image::{Image, positive_range, same_shape};
use crate::filter::{Border, gaussian_taps, separable, uniform_taps};
use crate::sum::mean;
use limpid_kernels::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The weights of the local statistics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Window {
    /// Equal weights over `size` samples along every axis.
    Uniform {
        /// Samples along each axis, odd.
        size: usize,
    },
    /// Gaussian weights over `size` samples along every axis.
    Gaussian {
        /// Samples along each axis, odd.
        size: usize,
        /// Standard deviation in samples.
        sigma: f64,
    },
}

/// A variant of SSIM. The data range is not part of it: it belongs to the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SsimSpec {
    /// Weights of the local statistics.
    pub window: Window,
    /// Stabiliser of the luminance term, `C1 = (k1 R)²`.
    pub k1: f64,
    /// Stabiliser of the contrast term, `C2 = (k2 R)²`.
    pub k2: f64,
    /// Divide covariances by `n - 1` instead of `n`, with `n` the samples in the window.
    pub sample_covariance: bool,
}

impl SsimSpec {
    /// The default of scikit-image: uniform window of 7, sample covariance.
    pub const SKIMAGE: Self = Self::new(Window::Uniform { size: 7 }, true);
    /// The original of Wang et al.: Gaussian of 11 taps, sigma 1.5, population covariance. Also the
    /// default of MONAI, pytorch-msssim and piq.
    pub const WANG: Self = Self::new(Window::Gaussian { size: 11, sigma: 1.5 }, false);

    /// A variant with the usual `k1 = 0.01` and `k2 = 0.03`.
    #[must_use]
    pub const fn new(window: Window, sample_covariance: bool) -> Self {
        Self { window, k1: 0.01, k2: 0.03, sample_covariance }
    }

    /// Taps of the window along one axis.
    ///
    /// # Errors
    /// [`Error::Argument`] if the size is even or below 3, or sigma is not above 0.
    pub(crate) fn taps(&self, op: &'static str) -> Result<Vec<f64>> {
        let (Window::Uniform { size } | Window::Gaussian { size, .. }) = self.window;
        if size < 3 || size % 2 == 0 {
            return Err(Error::argument(
                op,
                format!("the window size must be odd and at least 3, got {size}"),
            ));
        }
        match self.window {
            Window::Uniform { size } => Ok(uniform_taps(size)),
            Window::Gaussian { size, sigma } if sigma.is_finite() && sigma > 0.0 => {
                Ok(gaussian_taps(size, sigma))
            }
            Window::Gaussian { sigma, .. } => {
                Err(Error::argument(op, format!("`sigma` must be finite and above 0, got {sigma}")))
            }
        }
    }

    /// The numbers of the formula for images of a range and spatial rank.
    pub(crate) fn constants(&self, range: f64, rank: usize) -> Constants {
        let (Window::Uniform { size } | Window::Gaussian { size, .. }) = self.window;
        let n = (size as f64).powi(rank as i32);
        Constants {
            c1: (self.k1 * range).powi(2),
            c2: (self.k2 * range).powi(2),
            covariance: if self.sample_covariance { n / (n - 1.0) } else { 1.0 },
        }
    }
}

/// `C1`, `C2` and the factor from population to the wanted covariance.
#[derive(Clone, Copy)]
pub(crate) struct Constants {
    c1: f64,
    c2: f64,
    covariance: f64,
}

#[cfg(feature = "cuda")]
impl Constants {
    pub(crate) fn numbers(self) -> [f64; 3] {
        [self.c1, self.c2, self.covariance]
    }
}

/// Windowed means of `x`, `y`, `x²`, `y²` and `x y`, each as one array.
pub(crate) struct Moments {
    x: Vec<f64>,
    y: Vec<f64>,
    xx: Vec<f64>,
    yy: Vec<f64>,
    xy: Vec<f64>,
}

impl Moments {
    /// Moments of two arrays over their last `taps.len()` axes, and their shape.
    pub(crate) fn new(
        x: &[f64],
        y: &[f64],
        shape: &[usize],
        taps: &[Vec<f64>],
        border: Border,
    ) -> (Self, Vec<usize>) {
        let window = |data: &[f64]| separable(data, shape, taps, border);
        let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
            window(&a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<f64>>()).0
        };
        let (mean_x, out) = window(x);
        let moments = Self {
            x: mean_x,
            y: window(y).0,
            xx: product(x, x),
            yy: product(y, y),
            xy: product(x, y),
        };
        (moments, out)
    }

    pub(crate) fn len(&self) -> usize {
        self.x.len()
    }

    /// The roles of `x` and `y` exchanged.
    pub(crate) fn swapped(self) -> Self {
        Self { x: self.y, y: self.x, xx: self.yy, yy: self.xx, xy: self.xy }
    }

    /// The four factors of the formula at position `i`.
    fn factors(&self, i: usize, k: Constants) -> Factors {
        let (x, y) = (self.x[i], self.y[i]);
        let variances = (self.xx[i] - x * x) + (self.yy[i] - y * y);
        Factors {
            a1: 2.0 * x * y + k.c1,
            a2: 2.0 * k.covariance * (self.xy[i] - x * y) + k.c2,
            b1: x * x + y * y + k.c1,
            b2: k.covariance * variances + k.c2,
        }
    }

    /// SSIM at position `i`.
    pub(crate) fn ssim(&self, i: usize, k: Constants) -> f64 {
        self.factors(i, k).ssim()
    }

    /// The contrast-structure factor of SSIM at position `i`.
    pub(crate) fn contrast(&self, i: usize, k: Constants) -> f64 {
        let f = self.factors(i, k);
        f.a2 / f.b2
    }

    /// Derivatives of SSIM at position `i` by the windowed means of `x`, `x²` and `x y`.
    pub(crate) fn slopes(&self, i: usize, k: Constants) -> [f64; 3] {
        let f = self.factors(i, k);
        let (x, y, s, d) = (self.x[i], self.y[i], f.ssim(), f.b1 * f.b2);
        let by_xx = -k.covariance * s / f.b2;
        let by_xy = 2.0 * k.covariance * f.a1 / d;
        let by_x = 2.0 * y * f.a2 / d - 2.0 * x * s / f.b1 - 2.0 * x * by_xx - y * by_xy;
        [by_x, by_xx, by_xy]
    }
}

struct Factors {
    a1: f64,
    a2: f64,
    b1: f64,
    b2: f64,
}

impl Factors {
    fn ssim(&self) -> f64 {
        self.a1 * self.a2 / (self.b1 * self.b2)
    }
}

/// One kernel per axis, after checking that it fits the shape.
pub(crate) fn fitting_taps(
    op: &'static str,
    spec: &SsimSpec,
    shape: &[usize],
) -> Result<Vec<Vec<f64>>> {
    let taps = spec.taps(op)?;
    if shape.iter().any(|&n| n < taps.len()) {
        return Err(Error::shape(
            op,
            format!("at least {} samples along every axis, the window's size", taps.len()),
            shape,
        ));
    }
    Ok(vec![taps; shape.len()])
}

/// Mean SSIM over the positions where the window fits. NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the window does not fit; [`Error::Argument`] if the
/// range or the window is not usable.
pub fn ssim(pred: &Image, truth: &Image, range: f64, spec: &SsimSpec) -> Result<f64> {
    Ok(ssim_and_contrast("ssim", pred, truth, range, spec)?.0)
}

/// Means of SSIM and of its contrast-structure factor.
pub(super) fn ssim_and_contrast(
    op: &'static str,
    pred: &Image,
    truth: &Image,
    range: f64,
    spec: &SsimSpec,
) -> Result<(f64, f64)> {
    same_shape(op, pred, truth)?;
    let k = spec.constants(positive_range(op, range)?, truth.shape().len());
    let taps = fitting_taps(op, spec, truth.shape())?;
    let (m, _) = Moments::new(&pred.to_f64(), &truth.to_f64(), truth.shape(), &taps, Border::Valid);
    Ok((mean(m.len(), |i| m.ssim(i, k)), mean(m.len(), |i| m.contrast(i, k))))
}

/// SSIM at every sample, the image continued by mirroring as in scikit-image.
///
/// # Errors
/// As [`ssim`].
pub fn ssim_map(pred: &Image, truth: &Image, range: f64, spec: &SsimSpec) -> Result<Vec<f64>> {
    let (m, k, _) = mirrored("ssim_map", pred, truth, range, spec)?;
    Ok((0..m.len()).map(|i| m.ssim(i, k)).collect())
}

/// The gradient by `pred` that scikit-image reports (Avanaki 2009, equations 7 and 8).
///
/// It is the gradient of the mean of [`ssim_map`] for population covariance; like scikit-image it
/// leaves out the factor of the sample covariance and the asymmetry of the mirrored border. For
/// training use `losses::ssim`, whose gradient is exact.
///
/// # Errors
/// As [`ssim`].
pub fn ssim_gradient(pred: &Image, truth: &Image, range: f64, spec: &SsimSpec) -> Result<Vec<f64>> {
    let (m, k, taps) = mirrored("ssim_gradient", pred, truth, range, spec)?;
    let smooth = |of: &dyn Fn(usize, Factors) -> f64| {
        let field: Vec<f64> = (0..m.len()).map(|i| of(i, m.factors(i, k))).collect();
        separable(&field, truth.shape(), &taps, Border::Reflect).0
    };
    let by_xy = smooth(&|_, f| f.a1 / (f.b1 * f.b2));
    let by_xx = smooth(&|_, f| -f.ssim() / f.b2);
    let by_x = smooth(&|i, f| {
        (m.y[i] * (f.a2 - f.a1) - m.x[i] * (f.b2 - f.b1) * f.ssim()) / (f.b1 * f.b2)
    });
    let scale = 2.0 / m.len() as f64;
    let gradient =
        (0..m.len()).map(|i| scale * (by_xy[i] * truth.at(i) + by_xx[i] * pred.at(i) + by_x[i]));
    Ok(gradient.collect())
}

fn mirrored(
    op: &'static str,
    pred: &Image,
    truth: &Image,
    range: f64,
    spec: &SsimSpec,
) -> Result<(Moments, Constants, Vec<Vec<f64>>)> {
    same_shape(op, pred, truth)?;
    let k = spec.constants(positive_range(op, range)?, truth.shape().len());
    let taps = fitting_taps(op, spec, truth.shape())?;
    let (m, _) =
        Moments::new(&pred.to_f64(), &truth.to_f64(), truth.shape(), &taps, Border::Reflect);
    Ok((m, k, taps))
}
