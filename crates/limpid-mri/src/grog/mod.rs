//! Gridding by GRAPPA operators: samples are moved to points of a grid by kernels that know the coils.
//!
//! [`Geometry`] says where the sources of each sample lie and what their target is; [`Kernels`] take one to
//! the other. [`ClosedForm`] is the most accurate, [`GrappaOperators`] the classical one of a single source;
//! networks give kernels from outside, and learn them from [`image_samples`] or [`kspace_samples`].

mod calibration;
mod closed_form;
mod clusters;
mod cross;
mod exact;
mod geometry;
mod gridding;
mod moves;
mod operator;
mod power;
mod radial;
mod readout;
mod samples;
mod systems;
#[cfg(test)]
mod tests;

pub use calibration::Calibration;
pub use closed_form::ClosedForm;
pub use exact::{KernelSystem, exact_kernel};
pub use geometry::{Geometry, GeometryConfig, GeometryReport, ReadoutInterpolation};
pub use gridding::{GivenKernels, Kernels};
pub use operator::GrappaOperators;
pub use samples::{FieldShift, KernelSamples, image_samples, kspace_samples};
