//! Classical restoration filters: the baselines every trained network has to beat, and the
//! geometry that prepares its data.
//!
//! * [`apply`] runs any filter from its [`FilterConfig`]; [`tune`] finds the best strength;
//! * each filter is also a function of its own, next to the struct of its parameters:
//!   [`gaussian`], [`median`], [`uniform`], [`non_local_means`], [`total_variation`],
//!   [`bilateral`], [`wavelet`], [`perona_malik`], [`bm3d`];
//! * [`resize`], [`zoom`], [`resample_spacing`] and [`affine_sample`] change the grid of an image;
//! * [`pillow_blur`], [`pillow_resize`] and [`pillow_rotate90`] work on bytes as Pillow does;
//! * [`Radon`] projects an image and reconstructs it from its projections; [`Osem`] and [`mlem`]
//!   reconstruct counts from any [`Projector`];
//! * [`register`] finds where the pixels of one image lie in another, and moves them;
//! * [`valid_centers`] and [`prune_centers`] choose where training patches are worth taking.
//!
//! Images are plain row-major `f64` slices of one to three dimensions. Definitions are those of
//! scipy.ndimage and scikit-image, to rounding; each module names its source. Results have the
//! same bits for any number of threads.
//!
//! Invariants: this crate knows no tensors, networks or files.

mod affine;
mod bilateral;
mod bm3d;
mod border;
mod config;
mod correlate;
mod error;
mod gaussian;
mod grid;
mod median;
mod morphology;
mod nlm;
mod patch_centers;
mod perona_malik;
mod pillow;
mod recon;
pub mod register;
mod resample;
mod tune;
mod tv;
mod uniform;
mod wavelet;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use affine::{Affine, Interpolation, affine_sample};
pub use bilateral::{Bilateral, bilateral};
pub use bm3d::{Bm3d, bm3d};
pub use border::Border;
pub use config::{FilterConfig, FilterKind, apply, apply_each};
pub use error::{Error, Result};
pub use gaussian::{Gaussian, gaussian, sigma_from_fwhm};
pub use grid::PerAxis;
pub use median::{Median, median};
pub use nlm::{NonLocalMeans, non_local_means};
pub use patch_centers::{PatchCenters, body_mask, clean_mask, prune_centers, valid_centers};
pub use perona_malik::{PeronaMalik, perona_malik, roughness};
pub use pillow::{from_u8, pillow_blur, pillow_resize, pillow_rotate90, to_u8};
pub use recon::{Osem, Projector, Radon, RampFilter, SystemMatrix, mlem, osem};
pub use resample::{Order, resample_spacing, resize, spacing_shape, zoom};
pub use tune::{Tuned, tune};
pub use tv::{TotalVariation, total_variation};
pub use uniform::{Uniform, uniform};
pub use wavelet::{Shrinkage, Threshold, Wavelet, WaveletBasis, estimate_sigma, wavelet};
