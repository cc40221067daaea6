//! A training objective from a configuration: a weighted sum of named losses.

use super::{edge, frequency, likelihood, pixel, ssim};
use candle_core::Tensor;
use limpid_kernels::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

fn one() -> f64 {
    1.0
}

fn charbonnier_eps() -> f64 {
    1e-3
}

fn tv_eps() -> f64 {
    1e-8
}

fn sobel_eps() -> f64 {
    1e-6
}

fn poisson_eps() -> f64 {
    1e-8
}

fn gaussian_size() -> usize {
    11
}

fn gaussian_sigma() -> f64 {
    1.5
}

fn uniform_size() -> usize {
    7
}

/// One term of the objective: which loss, its parameters, and its weight in the sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossConfig {
    /// Mean absolute difference.
    L1 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Mean squared difference.
    L2 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Mean of `sqrt(d² + eps²)`: L1 with a rounded tip.
    Charbonnier {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Radius of the rounding, in intensity units.
        #[serde(default = "charbonnier_eps")]
        eps: f64,
    },
    /// Quadratic below `delta`, linear above.
    Huber {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Where quadratic turns linear, in intensity units.
        #[serde(default = "one")]
        delta: f64,
    },
    /// Huber divided by its threshold: slope 1 for large differences.
    SmoothL1 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Where quadratic turns linear, in intensity units.
        #[serde(default = "one")]
        beta: f64,
    },
    /// Mean of `ln cosh d`.
    LogCosh {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// `‖d‖ / ‖target‖` of each sample.
    RelativeL2 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// One minus Pearson's correlation of each sample.
    Correlation {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Negative PSNR in dB of each sample.
    NegativePsnr {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Span of valid intensities.
        data_range: f64,
    },
    /// One minus SSIM with a Gaussian window.
    Ssim {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Span of valid intensities.
        data_range: f64,
        /// Taps of the window along each axis, odd.
        #[serde(default = "gaussian_size")]
        size: usize,
        /// Standard deviation of the window in samples.
        #[serde(default = "gaussian_sigma")]
        sigma: f64,
    },
    /// One minus SSIM with a uniform window.
    SsimUniform {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Span of valid intensities.
        data_range: f64,
        /// Taps of the window along each axis, odd.
        #[serde(default = "uniform_size")]
        size: usize,
    },
    /// L1 between real and imaginary parts of the spectra.
    FftL1 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// L1 between forward differences, summed over axes.
    GradientL1 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// L1 between Sobel edge magnitudes.
    SobelL1 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Added under the root of the magnitude.
        #[serde(default = "sobel_eps")]
        eps: f64,
        /// Compare the means over channels, as NectarGAN does.
        #[serde(default)]
        grey: bool,
    },
    /// L1 between Laplacians.
    LaplacianL1 {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Compare the means over channels, as NectarGAN does.
        #[serde(default)]
        grey: bool,
    },
    /// Anisotropic total variation of the prediction: a prior, the target is not used.
    TvAnisotropic {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Isotropic total variation of the prediction: a prior, the target is not used.
    TvIsotropic {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Added under the root.
        #[serde(default = "tv_eps")]
        eps: f64,
    },
    /// Poisson likelihood of counts under a predicted rate, which must not be negative.
    PoissonNll {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
        /// Added to the rate inside the logarithm.
        #[serde(default = "poisson_eps")]
        eps: f64,
    },
    /// Poisson likelihood of counts under a predicted logarithm of the rate.
    PoissonNllLog {
        /// Factor in the sum.
        #[serde(default = "one")]
        weight: f64,
    },
}

impl LossConfig {
    /// The `kind` of the term, which also names it in logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::L1 { .. } => "l1",
            Self::L2 { .. } => "l2",
            Self::Charbonnier { .. } => "charbonnier",
            Self::Huber { .. } => "huber",
            Self::SmoothL1 { .. } => "smooth_l1",
            Self::LogCosh { .. } => "log_cosh",
            Self::RelativeL2 { .. } => "relative_l2",
            Self::Correlation { .. } => "correlation",
            Self::NegativePsnr { .. } => "negative_psnr",
            Self::Ssim { .. } => "ssim",
            Self::SsimUniform { .. } => "ssim_uniform",
            Self::FftL1 { .. } => "fft_l1",
            Self::GradientL1 { .. } => "gradient_l1",
            Self::SobelL1 { .. } => "sobel_l1",
            Self::LaplacianL1 { .. } => "laplacian_l1",
            Self::TvAnisotropic { .. } => "tv_anisotropic",
            Self::TvIsotropic { .. } => "tv_isotropic",
            Self::PoissonNll { .. } => "poisson_nll",
            Self::PoissonNllLog { .. } => "poisson_nll_log",
        }
    }

    /// The factor of the term in the sum.
    #[must_use]
    pub fn weight(&self) -> f64 {
        match *self {
            Self::L1 { weight }
            | Self::L2 { weight }
            | Self::Charbonnier { weight, .. }
            | Self::Huber { weight, .. }
            | Self::SmoothL1 { weight, .. }
            | Self::LogCosh { weight }
            | Self::RelativeL2 { weight }
            | Self::Correlation { weight }
            | Self::NegativePsnr { weight, .. }
            | Self::Ssim { weight, .. }
            | Self::SsimUniform { weight, .. }
            | Self::FftL1 { weight }
            | Self::GradientL1 { weight }
            | Self::SobelL1 { weight, .. }
            | Self::LaplacianL1 { weight, .. }
            | Self::TvAnisotropic { weight }
            | Self::TvIsotropic { weight, .. }
            | Self::PoissonNll { weight, .. }
            | Self::PoissonNllLog { weight } => weight,
        }
    }

    /// The unweighted loss of `[N, C, spatial..]` images.
    ///
    /// # Errors
    /// Those of the loss.
    pub fn evaluate(&self, pred: &Tensor, target: &Tensor) -> Result<Tensor> {
        match *self {
            Self::L1 { .. } => pixel::l1(pred, target),
            Self::L2 { .. } => pixel::l2(pred, target),
            Self::Charbonnier { eps, .. } => pixel::charbonnier(pred, target, eps),
            Self::Huber { delta, .. } => pixel::huber(pred, target, delta),
            Self::SmoothL1 { beta, .. } => pixel::smooth_l1(pred, target, beta),
            Self::LogCosh { .. } => pixel::log_cosh(pred, target),
            Self::RelativeL2 { .. } => pixel::relative_l2(pred, target),
            Self::Correlation { .. } => pixel::correlation(pred, target),
            Self::NegativePsnr { data_range, .. } => pixel::negative_psnr(pred, target, data_range),
            Self::Ssim { data_range, size, sigma, .. } => {
                ssim::ssim_gaussian(pred, target, data_range, size, sigma)
            }
            Self::SsimUniform { data_range, size, .. } => {
                ssim::ssim_uniform(pred, target, data_range, size)
            }
            Self::FftL1 { .. } => frequency::fft_l1(pred, target),
            Self::GradientL1 { .. } => edge::gradient_l1(pred, target),
            Self::SobelL1 { eps, grey: false, .. } => edge::sobel_l1(pred, target, eps),
            Self::SobelL1 { eps, .. } => {
                edge::sobel_l1(&edge::grey(pred)?, &edge::grey(target)?, eps)
            }
            Self::LaplacianL1 { grey: false, .. } => edge::laplacian_l1(pred, target),
            Self::LaplacianL1 { .. } => {
                edge::laplacian_l1(&edge::grey(pred)?, &edge::grey(target)?)
            }
            Self::TvAnisotropic { .. } => edge::tv_anisotropic(pred),
            Self::TvIsotropic { eps, .. } => edge::tv_isotropic(pred, eps),
            Self::PoissonNll { eps, .. } => likelihood::poisson_nll(pred, target, eps),
            Self::PoissonNllLog { .. } => likelihood::poisson_nll_log(pred, target),
        }
    }

    /// What is wrong with the parameters, if anything.
    fn complaint(&self) -> Option<String> {
        if !self.weight().is_finite() || self.weight() < 0.0 {
            return Some(format!(
                "`weight` must be finite and not negative, got {}",
                self.weight()
            ));
        }
        let positive = |name: &str, value: f64| {
            let usable = value.is_finite() && value > 0.0;
            (!usable).then(|| format!("`{name}` must be finite and above 0, got {value}"))
        };
        let window = |size: usize| {
            let usable = size >= 3 && size % 2 == 1;
            (!usable).then(|| format!("`size` must be odd and at least 3, got {size}"))
        };
        match *self {
            Self::Charbonnier { eps, .. }
            | Self::SobelL1 { eps, .. }
            | Self::TvIsotropic { eps, .. }
            | Self::PoissonNll { eps, .. } => positive("eps", eps),
            Self::Huber { delta, .. } => positive("delta", delta),
            Self::SmoothL1 { beta, .. } => positive("beta", beta),
            Self::NegativePsnr { data_range, .. } => positive("data_range", data_range),
            Self::Ssim { data_range, size, sigma, .. } => positive("data_range", data_range)
                .or_else(|| window(size))
                .or_else(|| positive("sigma", sigma)),
            Self::SsimUniform { data_range, size, .. } => {
                positive("data_range", data_range).or_else(|| window(size))
            }
            _ => None,
        }
    }
}

/// A weighted sum of losses.
#[derive(Clone, Debug)]
pub struct Objective {
    terms: Vec<(String, LossConfig)>,
}

impl Objective {
    /// The sum of the given terms. A second term of one kind is named with a `_2`, and so on.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no term, a parameter is out of range, or all weights are 0;
    /// the message names the term by position and kind.
    pub fn new(terms: &[LossConfig]) -> Result<Self> {
        const OP: &str = "objective";
        if terms.iter().all(|term| term.weight() == 0.0) {
            return Err(Error::argument(OP, "needs at least one loss with a weight above 0"));
        }
        let mut named = Vec::with_capacity(terms.len());
        for (i, term) in terms.iter().enumerate() {
            let name = term.name();
            if let Some(complaint) = term.complaint() {
                return Err(Error::argument(OP, format!("loss {} (`{name}`): {complaint}", i + 1)));
            }
            let earlier = terms[..i].iter().filter(|other| other.name() == name).count();
            let suffix = if earlier == 0 { String::new() } else { format!("_{}", earlier + 1) };
            named.push((format!("{name}{suffix}"), term.clone()));
        }
        Ok(Self { terms: named })
    }

    /// Names of the terms, in the order of their values.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|(name, _)| name.as_str())
    }

    /// The weighted sum, and the unweighted value of every term by name, for the log.
    ///
    /// Images are `[N, C, spatial..]`. Call `backward` on the sum; the values are detached.
    ///
    /// # Errors
    /// Those of the losses.
    pub fn evaluate(
        &self,
        pred: &Tensor,
        target: &Tensor,
    ) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let mut total: Option<Tensor> = None;
        let mut values = Vec::with_capacity(self.terms.len());
        for (name, term) in &self.terms {
            let value = term.evaluate(pred, target)?;
            values.push((name.clone(), value.detach()));
            let weighted = (value * term.weight())?;
            total = Some(match total {
                Some(sum) => (sum + weighted)?,
                None => weighted,
            });
        }
        match total {
            Some(total) => Ok((total, values)),
            None => Err(Error::argument("objective", "has no terms")),
        }
    }
}
