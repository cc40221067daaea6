//! Mean and variance in f64, whatever the float type of the data.

use crate::cast::is_half;
use crate::math::Real;
use crate::planes::{reduce, sums};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::sync::OnceLock;

/// Count, mean and sum of squared deviations of some elements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    pub mean: f64,
    deviations: f64,
}

impl Moments {
    /// One pass over the data, about its first element, so that a large mean costs no digits.
    pub(super) fn of<T: Real>(x: &[T]) -> Self {
        let Some(&first) = x.first() else { return Self::default() };
        let origin = first.f64();
        let count = x.len() as f64;
        let [sum, squares] = sums(
            [x],
            #[inline(always)]
            |[v]| {
                let d = v.f64() - origin;
                [d, d * d]
            },
        );
        let deviations = squares - sum * sum / count;
        // a NaN is to stay one, so no `max`
        let deviations = if deviations < 0.0 { 0.0 } else { deviations };
        Self { count, mean: origin + sum / count, deviations }
    }

    /// The moments of two sets together (Chan et al. 1983).
    pub(super) fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        if self.count == 0.0 || other.count == 0.0 {
            return if self.count == 0.0 { other } else { self };
        }
        let distance = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + distance * (other.count / count),
            deviations: self.deviations
                + other.deviations
                + distance * distance * (self.count * other.count / count),
        }
    }

    /// The biased variance.
    fn variance(self) -> f64 {
        self.deviations / self.count
    }

    /// The statistic that normalises with these moments.
    pub(super) fn statistic(self, eps: f64) -> Statistic {
        Statistic::new(self.mean, self.variance(), eps)
    }
}

/// The moments of each of `x.len() / plane` planes.
pub(super) fn of_planes<T: Real>(x: &[T], plane: usize) -> Vec<Moments> {
    reduce(x.len() / plane.max(1), plane, |at| Moments::of(&x[at]), Moments::merge)
}

/// What data are normalised with: `(x - mean) * rstd`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistic {
    pub mean: f64,
    pub variance: f64,
    /// Reciprocal of the standard deviation.
    pub rstd: f64,
}

impl Statistic {
    /// `eps` is added to the variance.
    pub(super) fn new(mean: f64, variance: f64, eps: f64) -> Self {
        Self { mean, variance, rstd: 1.0 / (variance + eps).sqrt() }
    }
}

/// A number of a [`Statistic`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    Mean,
    Variance,
    Rstd,
}

/// The statistics of a tensor, where the tensor lies.
#[derive(Clone, Debug)]
pub(super) enum Statistics {
    Host(Vec<Statistic>),
    /// Means, then variances, then reciprocal deviations: `[3, n]` in f64.
    #[cfg(feature = "cuda")]
    Device(Tensor),
}

impl Statistics {
    /// One number of each, in the type and on the device of a tensor; in f32 for one of 16 bits.
    ///
    /// # Errors
    /// Those of candle.
    pub(super) fn vector(&self, moment: Moment, like: &Tensor) -> Result<Tensor> {
        let values = match self {
            Self::Host(all) => {
                let of = |s: &Statistic| match moment {
                    Moment::Mean => s.mean,
                    Moment::Variance => s.variance,
                    Moment::Rstd => s.rstd,
                };
                let values: Vec<f64> = all.iter().map(of).collect();
                Tensor::from_vec(values, all.len(), like.device())?
            }
            #[cfg(feature = "cuda")]
            Self::Device(all) => all.get(moment as usize)?,
        };
        let dtype = if is_half(like.dtype()) { DType::F32 } else { like.dtype() };
        Ok(values.to_dtype(dtype)?)
    }
}

/// What the forward pass has found on the CPU.
///
/// # Errors
/// [`Error::Argument`] if it has found nothing there.
pub(super) fn on_host<'a>(
    op: &'static str,
    found: &'a OnceLock<Statistics>,
) -> Result<&'a [Statistic]> {
    match found.get() {
        Some(Statistics::Host(all)) => Ok(all),
        _ => Err(Error::argument(op, "the statistics are not known on the CPU")),
    }
}

/// As [`on_host`], on a GPU.
///
/// # Errors
/// As [`on_host`].
#[cfg(feature = "cuda")]
pub(super) fn on_device<'a>(
    op: &'static str,
    found: &'a OnceLock<Statistics>,
) -> Result<&'a Tensor> {
    match found.get() {
        Some(Statistics::Device(all)) => Ok(all),
        _ => Err(Error::argument(op, "the statistics are not known on the GPU")),
    }
}
