//! Image-quality metrics on plain slices, computed in f64.
//!
//! An [`Image`] is a borrowed array with its shape: single-channel, 2-D or 3-D or any rank where
//! the definition allows it. The prediction comes first, the reference second. Data ranges are
//! arguments without default, names state the variant, and a NaN in an image gives a NaN score,
//! never a good one. [`MetricConfig`] picks metrics by configuration; [`MetricInfo`] says which
//! direction is better.

mod config;
mod difference;
mod fsim;
mod gradient;
mod image;
mod inception;
pub mod info;
mod ms_ssim;
mod neighbours;
mod pet;
mod ring;
mod roi;
mod seam;
mod sr_sim;
pub(crate) mod ssim;
mod suv;
mod vif;

pub use config::{DataRange, MetricConfig, TruthRange};
pub use difference::{
    Normaliser, mae, mape, mse, nmae, nmse, normalized_mutual_information, nrmse, pearson, psnr,
    rmse,
};
pub use fsim::fsim;
pub use gradient::{gmsd, haarpsi};
pub use image::{Image, Samples};
pub use inception::inception_score;
pub use info::{METRICS, MetricInfo, metric_info};
pub use ms_ssim::{MS_SSIM_WEIGHTS, OddExtent, ms_ssim};
pub use neighbours::NeighbourCorrelation;
pub use pet::{
    GlobalBias, RegionFigures, global_bias, percent_error, psnr_truth_max, region_figures,
    ssim_udpet_legacy,
};
pub use ring::{GOLD_STANDARD, ONE_SEVENTH, RingCorrelation, ring_correlation};
pub use roi::{
    coefficient_of_variation, contrast_recovery, contrast_to_noise, local_psnr, relative_bias,
    roi_mean,
};
pub use seam::seam;
pub use sr_sim::sr_sim;
pub use ssim::{SsimSpec, Window, ssim, ssim_gradient, ssim_map};
pub use suv::{DecayReference, Injection, suv_factor};
pub use vif::vifp;

#[cfg(test)]
mod tests;
