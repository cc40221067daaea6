//! The data of a task: from image files to normalised, augmented batches, and back from predicted
//! values to files.
//!
//! [`DataConfig`] says which files ([`dataset`]), which part is kept for validation ([`split`]),
//! where patches are taken ([`sampler`]), how intensities are normalised ([`normalise`]), which
//! noise is simulated ([`noise`]), which pixels are hidden ([`blind_spot`]) and what is varied
//! ([`augment`]). [`Data`] opens and checks all of it for the trainer, and its loaders prepare
//! batches ahead in threads. [`predict`] reads an image to restore and writes the result in its
//! type and geometry. [`em_reference`] is what EMDiffuse's own programs do, to compare with.
//! type and geometry. [`prepare`] makes pairs of patches from images that do not lie together yet.
//!
//! Invariants: a sample is a function of seed, epoch and index alone, whatever the number of
//! threads and wherever a run was interrupted; what a split keeps for validation is never trained
//! on; nothing here knows models.

pub mod augment;
pub mod blind_spot;
mod boxes;
mod config;
pub mod dataset;
pub mod em_reference;
mod error;
#[cfg(test)]
mod fixture;
mod images;
mod loader;
mod module;
pub mod noise;
pub mod normalise;
pub mod predict;
mod prefetch;
pub mod prepare;
mod prepared;
pub mod sampler;
pub mod split;
mod spool;
#[cfg(test)]
mod tests;

pub use config::{DataConfig, ValidationConfig};
pub use error::{Error, Result};
pub use images::ImageFile;
pub use module::Data;
