//! Weights that compensate the density of samples in k-space.

mod pipe_menon;
mod ramp;
mod voronoi;

pub use pipe_menon::{PipeMenonConfig, pipe_menon};
pub use ramp::ramp;
pub use voronoi::voronoi;
