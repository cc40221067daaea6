//! The register of metrics: name, unit and direction, from which "best" and arrows are derived.

/// How to read the values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricInfo {
    /// Name in logs and tables; the `kind` of the configuration.
    pub name: &'static str,
    /// Unit; empty for pure numbers and for the units of the image.
    pub unit: &'static str,
    /// Whether more is better, which decides what "best" means and where arrows point.
    pub higher_is_better: bool,
}

impl MetricInfo {
    /// Whether `candidate` beats `best`; NaN never does, and anything else beats NaN.
    #[must_use]
    pub fn better(&self, candidate: f64, best: f64) -> bool {
        if candidate.is_nan() || best.is_nan() {
            return !candidate.is_nan();
        }
        if self.higher_is_better { candidate > best } else { candidate < best }
    }

    const fn higher(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, higher_is_better: true }
    }

    const fn lower(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, higher_is_better: false }
    }
}

/// [`psnr`](super::psnr).
pub const PSNR: MetricInfo = MetricInfo::higher("psnr", "dB");
/// [`ssim`](super::ssim()) with [`SsimSpec::SKIMAGE`](super::SsimSpec::SKIMAGE).
pub const SSIM: MetricInfo = MetricInfo::higher("ssim", "");
/// [`ssim`](super::ssim()) with [`SsimSpec::WANG`](super::SsimSpec::WANG).
pub const SSIM_WANG: MetricInfo = MetricInfo::higher("ssim_wang", "");
/// [`ms_ssim`](super::ms_ssim()).
pub const MS_SSIM: MetricInfo = MetricInfo::higher("ms_ssim", "");
/// [`mse`](super::mse).
pub const MSE: MetricInfo = MetricInfo::lower("mse", "");
/// [`rmse`](super::rmse).
pub const RMSE: MetricInfo = MetricInfo::lower("rmse", "");
/// [`mae`](super::mae).
pub const MAE: MetricInfo = MetricInfo::lower("mae", "");
/// [`nrmse`](super::nrmse).
pub const NRMSE: MetricInfo = MetricInfo::lower("nrmse", "");
/// [`nmse`](super::nmse).
pub const NMSE: MetricInfo = MetricInfo::lower("nmse", "");
/// [`nmae`](super::nmae).
pub const NMAE: MetricInfo = MetricInfo::lower("nmae", "");
/// [`mape`](super::mape).
pub const MAPE: MetricInfo = MetricInfo::lower("mape", "%");
/// [`pearson`](super::pearson).
pub const PEARSON: MetricInfo = MetricInfo::higher("pearson", "");
/// [`normalized_mutual_information`](super::normalized_mutual_information).
pub const MUTUAL_INFORMATION: MetricInfo = MetricInfo::higher("mutual_information", "");
/// [`fsim`](super::fsim()).
pub const FSIM: MetricInfo = MetricInfo::higher("fsim", "");
/// [`gmsd`](super::gmsd).
pub const GMSD: MetricInfo = MetricInfo::lower("gmsd", "");
/// [`vifp`](super::vifp).
pub const VIFP: MetricInfo = MetricInfo::higher("vifp", "");
/// [`haarpsi`](super::haarpsi).
pub const HAARPSI: MetricInfo = MetricInfo::higher("haarpsi", "");
/// [`sr_sim`](super::sr_sim()).
pub const SR_SIM: MetricInfo = MetricInfo::higher("sr_sim", "");
/// [`coefficient_of_variation`](super::coefficient_of_variation).
pub const COV: MetricInfo = MetricInfo::lower("cov", "");
/// [`contrast_to_noise`](super::contrast_to_noise).
pub const CNR: MetricInfo = MetricInfo::higher("cnr", "");
/// [`RingCorrelation::resolution`](super::RingCorrelation::resolution).
pub const RESOLUTION: MetricInfo = MetricInfo::lower("resolution", "");

/// Every metric that has a direction. Bias and contrast recovery have a best value instead.
pub const METRICS: &[MetricInfo] = &[
    PSNR,
    SSIM,
    SSIM_WANG,
    MS_SSIM,
    MSE,
    RMSE,
    MAE,
    NRMSE,
    NMSE,
    NMAE,
    MAPE,
    PEARSON,
    MUTUAL_INFORMATION,
    FSIM,
    GMSD,
    VIFP,
    HAARPSI,
    SR_SIM,
    COV,
    CNR,
    RESOLUTION,
];

/// The metric of a name.
#[must_use]
pub fn metric_info(name: &str) -> Option<&'static MetricInfo> {
    METRICS.iter().find(|metric| metric.name == name)
}
