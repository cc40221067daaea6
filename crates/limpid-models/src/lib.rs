//! How a task is optimised: models in the sense of nucli-train, apart from the networks they train.
//!
//! [`Restoration`] covers the tasks in which a network maps a degraded image to a better one:
//! supervised, Noise2Noise and Noise2Void differ only in what the target is and which pixels
//! count.
//!
//! [`AxialSuperResolution`] makes the slices of a volume as close as its pixels.
//!
//! [`diffusion`] draws restorations step by step: processes, grids of noise levels, samplers, guides.
//!
//! Invariants: a model knows no files and no terminal.

mod axial;
pub mod diffusion;
mod restoration;
mod scores;

pub use axial::{AxialConfig, AxialSuperResolution, finer_slices, interpolate_slices};
pub use restoration::{ModelConfig, Restoration};
pub use scores::{Measure, display_window};
