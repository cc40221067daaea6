//! Differentiable objectives on candle tensors, f32 and f64.
//!
//! Each loss is a function that returns a 0-d tensor, named after its variant; a data range, where
//! one matters, is an argument without default. [`Objective`] combines those that compare two images
//! from a configuration; adversarial and self-supervised losses are called by the model that plays
//! their game.
//!
//! Shapes must agree exactly, nothing broadcasts. Arithmetic is f64 inside; half-precision tensors
//! are lifted to f32. With the feature `cuda` tensors on a GPU stay there; else those of another
//! device are fetched to the CPU and the result sent back.

mod complex;
mod edge;
mod focal;
mod frequency;
pub mod gan;
mod likelihood;
mod linear;
mod objective;
mod operand;
mod perceptual;
mod pixel;
mod quantile;
mod ranking;
mod reduce;
mod representation;
mod selfsup;
mod ssim;

pub use complex::{complex_l1, complex_l1_parts, complex_l2};
pub use edge::{gradient_l1, grey, laplacian_l1, sobel_l1, tv_anisotropic, tv_isotropic};
pub use focal::{focal, focal_elements};
pub use frequency::fft_l1;
pub use likelihood::{
    gaussian_nll, gaussian_nll_logvar, gaussian_nll_logvar_weighted, poisson_nll, poisson_nll_log,
};
pub use objective::{LossConfig, Objective};
pub use perceptual::{feature_l1, lpips};
pub use pixel::{
    charbonnier, correlation, huber, interpolation_weighted_l2, l1, l1_sum, l2, log_cosh,
    negative_psnr, relative_l2, smooth_l1,
};
pub use quantile::{interval, interval_and_l2, pinball, pinball_elements};
pub use ranking::{pixel_ranking, pixel_ranking_pairs, sample_ranking, sample_ranking_pairs};
pub use representation::{suv_three_channel, suv_unit};
pub use selfsup::{masked_l2, mc_sure, neighbor_pair, neighbor2neighbor, noise2self_input};
pub use ssim::{l1_ssim, ssim, ssim_gaussian, ssim_uniform};

#[cfg(test)]
mod gan_tests;
#[cfg(test)]
mod tests;
