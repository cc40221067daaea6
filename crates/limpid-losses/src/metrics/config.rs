//! Metrics by configuration: which score, with which data range.

use super::difference::{self, Normaliser};
use super::image::{Image, any_nan, same_shape};
use super::info::{self, MetricInfo};
use super::ms_ssim::{MS_SSIM_WEIGHTS, OddExtent, ms_ssim};
use super::ssim::{SsimSpec, ssim};
use super::{fsim::fsim, gradient, sr_sim::sr_sim, vif::vifp};
use limpid_kernels::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The span of valid values that PSNR and SSIM relate errors to. It has no default: scores computed
/// with different ranges cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DataRange {
    /// A number, such as 1 for images scaled to `[0, 1]` or 20 for SUV.
    Fixed(f64),
    /// Taken from each reference image.
    OfTruth(TruthRange),
}

/// A range taken from the reference image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TruthRange {
    /// Its largest value.
    TruthMax,
    /// Its largest minus its smallest value.
    TruthMinmax,
}

impl DataRange {
    /// The range for a reference image.
    ///
    /// # Errors
    /// [`Error::Argument`](limpid_kernels::Error::Argument) if it is not finite and above 0.
    pub fn of(&self, truth: &Image) -> Result<f64> {
        let range = match *self {
            Self::Fixed(range) => range,
            Self::OfTruth(kind) => {
                let (low, high) = truth.extremes();
                match kind {
                    TruthRange::TruthMax => high,
                    TruthRange::TruthMinmax => high - low,
                }
            }
        };
        super::image::positive_range("data_range", range)
    }
}

fn hundred() -> usize {
    100
}

/// A score of one image against its reference, chosen by a configuration.
///
/// Variants without parameters are written `Mse {}`: serde checks for unknown keys only in braces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MetricConfig {
    /// Peak signal-to-noise ratio in dB.
    Psnr {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// SSIM with the uniform window of 7 of scikit-image.
    Ssim {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// SSIM with the Gaussian window of Wang et al.
    SsimWang {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// Multi-scale SSIM with the Gaussian window and five scales.
    MsSsim {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// Mean squared error.
    Mse {},
    /// Root of the mean squared error.
    Rmse {},
    /// Mean absolute error.
    Mae {},
    /// Root mean squared error relative to the reference.
    Nrmse {
        /// What the error is divided by.
        by: Normaliser,
    },
    /// Squared error relative to the squared reference.
    Nmse {},
    /// Absolute error relative to the reference.
    Nmae {},
    /// Mean absolute percentage error.
    Mape {},
    /// Pearson's correlation.
    Pearson {},
    /// Normalised mutual information.
    MutualInformation {
        /// Bins of the histogram along each axis.
        #[serde(default = "hundred")]
        bins: usize,
    },
    /// Feature similarity; 2-D.
    Fsim {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// Gradient magnitude similarity deviation; 2-D.
    Gmsd {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// Visual information fidelity; 2-D.
    Vifp {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// Haar wavelet perceptual similarity; 2-D.
    Haarpsi {
        /// Span of valid values.
        data_range: DataRange,
    },
    /// Spectral residual similarity; 2-D.
    SrSim {
        /// Span of valid values.
        data_range: DataRange,
    },
}

impl MetricConfig {
    /// Name, unit and direction.
    #[must_use]
    pub fn info(&self) -> MetricInfo {
        match self {
            Self::Psnr { .. } => info::PSNR,
            Self::Ssim { .. } => info::SSIM,
            Self::SsimWang { .. } => info::SSIM_WANG,
            Self::MsSsim { .. } => info::MS_SSIM,
            Self::Mse {} => info::MSE,
            Self::Rmse {} => info::RMSE,
            Self::Mae {} => info::MAE,
            Self::Nrmse { .. } => info::NRMSE,
            Self::Nmse {} => info::NMSE,
            Self::Nmae {} => info::NMAE,
            Self::Mape {} => info::MAPE,
            Self::Pearson {} => info::PEARSON,
            Self::MutualInformation { .. } => info::MUTUAL_INFORMATION,
            Self::Fsim { .. } => info::FSIM,
            Self::Gmsd { .. } => info::GMSD,
            Self::Vifp { .. } => info::VIFP,
            Self::Haarpsi { .. } => info::HAARPSI,
            Self::SrSim { .. } => info::SR_SIM,
        }
    }

    /// The score; NaN if either image holds a NaN.
    ///
    /// # Errors
    /// [`Error::Shape`](limpid_kernels::Error::Shape) if the shapes differ or the metric does not take them; [`Error::Argument`](limpid_kernels::Error::Argument) if
    /// the data range is not above 0.
    pub fn evaluate(&self, pred: &Image, truth: &Image) -> Result<f64> {
        same_shape(self.info().name, pred, truth)?;
        if any_nan(pred, truth) {
            return Ok(f64::NAN);
        }
        match *self {
            Self::Psnr { data_range } => difference::psnr(pred, truth, data_range.of(truth)?),
            Self::Ssim { data_range } => {
                ssim(pred, truth, data_range.of(truth)?, &SsimSpec::SKIMAGE)
            }
            Self::SsimWang { data_range } => {
                ssim(pred, truth, data_range.of(truth)?, &SsimSpec::WANG)
            }
            Self::MsSsim { data_range } => {
                let (range, weights) = (data_range.of(truth)?, &MS_SSIM_WEIGHTS);
                ms_ssim(pred, truth, range, &SsimSpec::WANG, weights, OddExtent::Drop)
            }
            Self::Mse {} => difference::mse(pred, truth),
            Self::Rmse {} => difference::rmse(pred, truth),
            Self::Mae {} => difference::mae(pred, truth),
            Self::Nrmse { by } => difference::nrmse(pred, truth, by),
            Self::Nmse {} => difference::nmse(pred, truth),
            Self::Nmae {} => difference::nmae(pred, truth),
            Self::Mape {} => difference::mape(pred, truth),
            Self::Pearson {} => difference::pearson(pred, truth),
            Self::MutualInformation { bins } => {
                difference::normalized_mutual_information(pred, truth, bins)
            }
            Self::Fsim { data_range } => fsim(pred, truth, data_range.of(truth)?),
            Self::Gmsd { data_range } => gradient::gmsd(pred, truth, data_range.of(truth)?),
            Self::Vifp { data_range } => vifp(pred, truth, data_range.of(truth)?),
            Self::Haarpsi { data_range } => gradient::haarpsi(pred, truth, data_range.of(truth)?),
            Self::SrSim { data_range } => sr_sim(pred, truth, data_range.of(truth)?),
        }
    }
}
