//! The view of an image that every metric takes, and the checks before the arithmetic.

use crate::sum::BLOCK;
use limpid_kernels::{Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;

/// A borrowed single-channel image or volume of any rank: row-major samples and their shape.
///
/// Arithmetic is f64 for both sample types. Of a colour image, score the channels one by one and
/// average.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    samples: Samples<'a>,
    shape: &'a [usize],
}

/// The sample types that metrics accept.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl<'a> From<&'a [f32]> for Samples<'a> {
    fn from(samples: &'a [f32]) -> Self {
        Self::F32(samples)
    }
}

impl<'a> From<&'a [f64]> for Samples<'a> {
    fn from(samples: &'a [f64]) -> Self {
        Self::F64(samples)
    }
}

impl<'a> Image<'a> {
    /// An image over samples in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape does not hold exactly the samples, or holds none.
    pub fn new(samples: impl Into<Samples<'a>>, shape: &'a [usize]) -> Result<Self> {
        let samples = samples.into();
        let len = match samples {
            Samples::F32(s) => s.len(),
            Samples::F64(s) => s.len(),
        };
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if len == 0 || shape.is_empty() || elements != Some(len) {
            let expected = "a shape that holds all samples, and at least one";
            return Err(Error::shape("image", expected, (shape, len)));
        }
        Ok(Self { samples, shape })
    }

    /// Extent of each axis.
    #[must_use]
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Number of samples; never zero.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self.samples {
            Samples::F32(s) => s.len(),
            Samples::F64(s) => s.len(),
        }
    }

    /// The `i`-th sample in row-major order.
    #[inline]
    #[must_use]
    pub fn at(&self, i: usize) -> f64 {
        match self.samples {
            Samples::F32(s) => f64::from(s[i]),
            Samples::F64(s) => s[i],
        }
    }

    /// All samples as f64, copied only from f32.
    #[must_use]
    pub fn to_f64(&self) -> Cow<'a, [f64]> {
        match self.samples {
            Samples::F32(s) => s.par_iter().map(|&v| f64::from(v)).collect::<Vec<_>>().into(),
            Samples::F64(s) => s.into(),
        }
    }

    /// Whether any sample is NaN.
    #[must_use]
    pub fn has_nan(&self) -> bool {
        match self.samples {
            Samples::F32(s) => s.par_chunks(BLOCK).any(|b| b.iter().any(|v| v.is_nan())),
            Samples::F64(s) => s.par_chunks(BLOCK).any(|b| b.iter().any(|v| v.is_nan())),
        }
    }

    /// Smallest and largest sample; both NaN if any sample is.
    #[must_use]
    pub fn extremes(&self) -> (f64, f64) {
        if self.has_nan() {
            return (f64::NAN, f64::NAN);
        }
        (0..self.len())
            .into_par_iter()
            .with_min_len(BLOCK)
            .map(|i| (self.at(i), self.at(i)))
            .reduce(|| (f64::INFINITY, f64::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)))
    }
}

/// Checks that two images have one shape.
pub(super) fn same_shape(op: &'static str, pred: &Image, truth: &Image) -> Result<()> {
    if pred.shape == truth.shape {
        return Ok(());
    }
    Err(Error::shape(op, format!("the shape of the reference, {:?}", truth.shape), pred.shape))
}

/// Checks that two images are 2-D, of one shape, and at least `smallest` along both axes.
pub(super) fn plane(
    op: &'static str,
    pred: &Image,
    truth: &Image,
    smallest: usize,
) -> Result<(usize, usize)> {
    same_shape(op, pred, truth)?;
    match *truth.shape {
        [h, w] if h.min(w) >= smallest => Ok((h, w)),
        _ => Err(Error::shape(
            op,
            format!("a 2-D image of at least {smallest} by {smallest}"),
            truth.shape,
        )),
    }
}

/// Checks a data range.
pub(super) fn positive_range(op: &'static str, range: f64) -> Result<f64> {
    if range.is_finite() && range > 0.0 {
        return Ok(range);
    }
    Err(Error::argument(op, format!("the data range must be finite and above 0, got {range}")))
}

/// Both images are free of NaN; a metric of images that are not is NaN.
pub(super) fn any_nan(pred: &Image, truth: &Image) -> bool {
    pred.has_nan() || truth.has_nan()
}
