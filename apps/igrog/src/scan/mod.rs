//! A scan: samples of k-space, where and when they were taken, and what comes with them.

mod check;
mod find;
mod read;

pub use check::Finding;
pub(crate) use check::geometry as geometry_findings;
pub use read::open;

use limpid_config::{Check, Validate};
use limpid_mri::{Complex, Trajectory};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which arrays of a scan are what. Each is named `KEY`, an array of the scan's file; `FILE`, a file of one
/// array; or `FILE:KEY`. Empty: the usual names are looked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScanConfig {
    /// Positions `[shots, samples, 2 or 3]`: `trj`, `traj`, `trajectory`, `coord`, `k`.
    pub trajectory: String,
    /// Their unit.
    pub unit: Unit,
    /// Which coordinate of a position belongs to each axis of the image, counted from 1; a negative one is
    /// turned around. Empty: as they come. `igrog check` tells which fits the maps.
    pub axes: Vec<i8>,
    /// Samples `[coils, shots, samples]`: `ksp`, `kspace`, `data`.
    pub kspace: String,
    /// Seconds of the samples of a readout since the excitation or echo, `[samples]`: `t`, `times`.
    pub times: String,
    /// Seconds from sample to sample, where there are no times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dwell: Option<f64>,
    /// Weights against uneven density, `[shots, samples]`: `dcf`, `density`, `weights`.
    pub density: String,
    /// Sensitivities of the coils, `[coils, sizes of the image]`: `mps`, `maps`, `smaps`, `sens`.
    pub maps: String,
    /// A fully sampled middle of k-space, `[coils, sizes]`: `kcal`, `calib`, `calibration`.
    pub calibration: String,
    /// Field in hertz, `[sizes of the image]`: `b0`, `b0_hz`, `field`.
    pub field: String,
    /// Image to compare with, `[sizes of the image]`: `img`, `image`, `truth`.
    pub truth: String,
    /// Samples of noise alone, `[coils, any]`: `noise`.
    pub noise: String,
    /// Sizes of the image. Empty: those of the maps, the field, the image to compare with, or the header.
    pub matrix: Vec<usize>,
    /// Field of view along each axis in millimetres, for files that hold a geometry. Empty: as the header
    /// says, if there is one.
    pub fov_mm: Vec<f64>,
    /// Only the readouts of this slice, for ISMRMRD files of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<u16>,
    /// Only the readouts of this contrast, for ISMRMRD files of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<u16>,
    /// Only the readouts of this repetition, for ISMRMRD files of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition: Option<u16>,
    /// Only the readouts of this phase of the heart, for ISMRMRD files of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<u16>,
    /// Only the readouts of this set, for ISMRMRD files of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<u16>,
}

/// The unit of positions in k-space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Cycles per voxel for ISMRMRD files, cycles per field of view for all others.
    #[default]
    Auto,
    /// In `-N/2..N/2`: SigPy, BART.
    CyclesPerFov,
    /// In `-0.5..0.5`: MRI-NUFFT, ISMRMRD.
    CyclesPerVoxel,
    /// In `-π..π`: torchkbnufft, FINUFFT.
    RadiansPerVoxel,
}

impl Validate for ScanConfig {
    fn validate(&self, at: &mut Check) {
        if self.dwell.is_some_and(|dwell| !(dwell > 0.0 && dwell < 1.0)) {
            at.problem("dwell", "must be above 0 and below 1 second")
                .hint("is it in microseconds? 4 µs are 4e-6");
        }
        let mut seen: Vec<u8> = self.axes.iter().map(|axis| axis.unsigned_abs()).collect();
        seen.sort_unstable();
        if !self.axes.is_empty() && seen != [1, 2] && seen != [1, 2, 3] {
            let problem = format!("must be 1 and 2, or 1 to 3, with signs, got {:?}", self.axes);
            at.problem("axes", problem)
                .hint("`[2, 1]` swaps axes, `[-1, 2]` turns the first around");
        }
        if !self.matrix.is_empty() && !(2..=3).contains(&self.matrix.len()) {
            at.problem("matrix", format!("must be two or three sizes, got {:?}", self.matrix));
        }
        if self.matrix.contains(&0) {
            at.problem("matrix", format!("must be sizes above 0, got {:?}", self.matrix));
        }
        if self.fov_mm.iter().any(|size| !(*size > 0.0 && size.is_finite())) {
            at.problem("fov_mm", format!("must be above 0, got {:?}", self.fov_mm));
        }
    }
}

/// A scan in memory.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Positions of the samples.
    pub trajectory: Trajectory,
    /// Seconds of the samples of a readout, `[samples]`.
    pub times: Vec<f64>,
    /// Whether the times are known, rather than zero.
    pub timed: bool,
    /// Sizes of the image.
    pub matrix: Vec<usize>,
    /// Number of coils.
    pub coils: usize,
    /// Samples `[coils, shots, samples]`.
    pub samples: Vec<Complex<f32>>,
    /// Samples of noise alone, `[coils, any]`.
    pub noise: Option<Vec<Complex<f32>>>,
    /// Weights against uneven density, `[shots, samples]`.
    pub density: Option<Vec<f64>>,
    /// Sensitivities `[coils, matrix…]`.
    pub maps: Option<Vec<Complex<f32>>>,
    /// Sizes and values `[coils, sizes…]` of a fully sampled middle of k-space.
    pub calibration: Option<(Vec<usize>, Vec<Complex<f32>>)>,
    /// Field in hertz, `[matrix…]`.
    pub field: Option<Vec<f64>>,
    /// Image to compare with, `[matrix…]`.
    pub truth: Option<Vec<Complex<f32>>>,
    /// Edge of a voxel along each axis in millimetres.
    pub voxel_mm: Option<Vec<f64>>,
    /// Points of the grid per cycle per field of view, of samples that are on one.
    pub oversampling: Option<f64>,
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
    /// What the user should know.
    pub findings: Vec<Finding>,
}

impl Scan {
    /// Samples of a coil.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trajectory.len()
    }

    /// There is at least one sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Voxels of the image.
    #[must_use]
    pub fn voxels(&self) -> usize {
        self.matrix.iter().product()
    }
}
