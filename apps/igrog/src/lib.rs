//! Implicit GROG: grids samples of non-Cartesian magnetic resonance by kernels of several sources, learnt or
//! in closed form, and reconstructs them with fast Fourier transforms alone (Abraham et al. 2023,
//! arXiv:2310.10823). The library of the program `igrog`.
//!
//! [`grogify`] is the one call that most want. Around it: [`scan`] reads and checks raw data, [`Prepared`]
//! whitens, compresses and calibrates the coils, [`Learning`] trains kernels with the shared engine, and
//! [`reconstruct`] finds images on the grid or from the samples as they are.

pub mod commands;
pub mod config;
mod error;
mod grogify;
pub mod learn;
mod metrics;
mod orient;
mod output;
mod prepare;
mod recon;
pub mod scan;

pub use error::{Error, Result};
pub use grogify::{Gridded, KernelChoice, Learning, TrainParams, grogify};
pub use metrics::Metrics;
pub use output::{write_arrays, write_gridded, write_image};
pub use prepare::Prepared;
pub use recon::{Method, Reconstruction, SolverConfig, grid, phase, reconstruct};
