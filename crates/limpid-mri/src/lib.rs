//! Non-Cartesian magnetic resonance imaging: from samples of k-space along any trajectory to images.
//!
//! Conventions, everywhere in this crate:
//! * positions in k-space are in cycles per field of view, in `-N/2..N/2`; the first coordinate belongs to the
//!   first axis of images;
//! * a voxel lies at `r = n − ⌊N/2⌋`; a sample is `y = 1/√(N₀N₁…) Σᵣ x(r) exp(−2πi k·r/N)`;
//! * Fourier transforms are centred and orthonormal, for odd sizes too;
//! * arrays are row-major slices; samples of coil `c`, shot `r` and readout position `k` are `[c, r, k]`;
//! * a field of `b` hertz turns samples taken at `t` seconds by `exp(−2πi b t)`.
//!
//! Samples and images are complex numbers of f32 or f64; positions, and the algebra of small matrices, are
//! f64. Results have the same bits for any number of threads.
//!
//! Invariants: this crate knows no networks, tensors, files or terminal.

mod bessel;
mod cholesky;
mod coils;
mod density;
mod error;
mod fft;
mod field;
#[cfg(test)]
mod fixture;
mod grid;
mod grog;
mod nufft;
mod operator;
mod phantom;
mod prox;
mod real;
mod sense;
mod solve;
mod trajectories;
mod trajectory;
mod weighted;

pub use coils::{
    CalibrationConfig, Centre, Channels, Compression, EspiritConfig, JsenseConfig, WalshConfig,
    calibration, calibration_images, combine, compress, espirit, jsense, noise_covariance,
    root_sum_of_squares, walsh, whiten,
};
pub use density::{PipeMenonConfig, pipe_menon, ramp, voronoi};
pub use error::{Error, Result};
pub use fft::{CentredFft, crop, pad};
pub use field::{
    FieldAccuracy, FieldMethod, FieldOperator, FieldPhase, FieldSign, PROTON, Segments,
    concomitant_bases, concomitant_phase, segment_centres, spherical_harmonics,
};
pub use grid::GridOperator;
pub use grog::{
    Calibration, ClosedForm, FieldShift, Geometry, GeometryConfig, GeometryReport, GivenKernels,
    GrappaOperators, KernelSamples, KernelSystem, Kernels, ReadoutInterpolation, exact_kernel,
    image_samples, kspace_samples,
};
pub use nufft::Nufft;
pub use operator::Operator;
pub use phantom::{
    Birdcage, Brain, Ellipsoid, FieldMap, Scene, add_noise, phantom_image, phantom_kspace,
    shepp_logan, shepp_logan_3d, simulate_with,
};
pub use prox::{
    LocallyLowRank, Prox, Shift, TotalVariation, Wavelet, WaveletThreshold, WaveletTransform,
};
pub use real::{Complex, Real};
pub use sense::{Sense, Subspace};
pub use solve::{
    ConjugateGradient, Fista, Outcome, Step, conjugate_gradient, fista, power_iteration,
};
pub use trajectories::{
    Angles, Cartesian, Epi, Koosh, Pace, Radial, Readouts, Rosette, Scanner, SphereOrder, Spiral,
    Spoke, SpokeCentre, Stack,
};
pub use trajectory::{Trajectory, Unit};
pub use weighted::Weighted;
