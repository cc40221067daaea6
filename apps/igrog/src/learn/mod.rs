//! Learning kernels: pairs of sources and targets from the calibration, and a network that is trained on
//! them with the shared engine.

mod data;
mod model;
mod trained;

pub use data::{KernelData, Phase};
pub use model::KernelModel;
pub use trained::{CARD_KEY, KernelsCard, TrainedKernels};

use crate::config::NetConfig;
use limpid_arch::grog_mlp;
use limpid_config::{Check, Validate};
use limpid_mri::Geometry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a network learns its kernels from. A pair is a geometry of the trajectory at hand, and the coils at
/// a voxel or at a point of k-space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplesConfig {
    /// Where the coils are looked at.
    pub from: Place,
    /// Pairs of a step.
    pub batch: usize,
    /// Pairs of each geometry in a step. The network computes a kernel for each geometry, `batch` divided
    /// by this: its work is the less the more pairs share one.
    pub per_geometry: usize,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Only voxels where a coil has at least this part of the largest magnitude, for `from = "image"`.
    pub support: f64,
    /// Distance of targets from the edge of the calibration in cycles per field of view, at least that
    /// of the sources, for `from = "kspace"`.
    pub buffer: f64,
    /// Divides each pair by the root mean square of its sources: k-space spans decades, and its centre is
    /// learnt first without.
    pub normalise: bool,
    /// Pairs of a validation.
    pub validation: usize,
    /// How predictions are compared with targets.
    pub loss: Loss,
    /// Weight of the mean squared kernel: less noise in the samples for less accuracy.
    pub l2: f64,
}

impl Default for SamplesConfig {
    fn default() -> Self {
        Self {
            from: Place::Image,
            batch: 1024,
            per_geometry: 1,
            steps_per_epoch: 100,
            support: 0.0,
            buffer: 3.0,
            normalise: false,
            validation: 4096,
            loss: Loss::Modulus,
            l2: 0.0,
        }
    }
}

/// Where pairs are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At voxels of maps or images: by Parseval the least squares of all shifts in k-space.
    #[default]
    Image,
    /// At points of the calibrated middle of k-space.
    Kspace,
}

/// How predictions are compared with targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Mean magnitude of the difference.
    #[default]
    Modulus,
    /// Mean of the magnitudes of its real and imaginary parts.
    Parts,
    /// Mean of its squared magnitude.
    Squared,
}

impl Validate for SamplesConfig {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [("batch", self.batch), ("validation", self.validation)] {
            if !(1..=1 << 20).contains(&value) {
                at.problem(key, format!("must be 1 to {}, got {value}", 1 << 20));
            }
        }
        if self.per_geometry == 0 || !self.batch.is_multiple_of(self.per_geometry) {
            let message =
                format!("must divide `batch` ({}), got {}", self.batch, self.per_geometry);
            at.problem("per_geometry", message).hint("1 divides all");
        }
        if self.steps_per_epoch == 0 {
            at.problem("steps_per_epoch", "must be at least 1");
        }
        if !(0.0..1.0).contains(&self.support) {
            at.problem("support", format!("must be 0 to below 1, got {}", self.support));
        }
        for (key, value) in [("buffer", self.buffer), ("l2", self.l2)] {
            if !(value >= 0.0 && value.is_finite()) {
                at.problem(key, format!("must be 0 or more, got {value}"));
            }
        }
    }
}

/// The network for a geometry of so many coils; `timed` adds a number for the time.
#[must_use]
pub fn network(
    config: &NetConfig,
    geometry: &Geometry,
    coils: usize,
    timed: bool,
) -> grog_mlp::Config {
    grog_mlp::Config {
        features: geometry.sources() * geometry.rank() + usize::from(timed),
        sources: geometry.sources(),
        coils,
        layers: config.layers,
        hidden: config.hidden,
        latent: config.latent,
        projections: config.projections,
    }
}

/// What the network is told of samples: the offsets of their sources in cycles per field of view, and with a
/// phase the time over which it is moved, in turns of twice the largest field. `[samples, F]`.
pub(crate) fn features(
    geometry: &Geometry,
    phase: Option<&Phase>,
    samples: impl Iterator<Item = usize>,
) -> Vec<f32> {
    let row = geometry.sources() * geometry.rank();
    let mut features = Vec::new();
    for i in samples {
        features.extend(geometry.offsets()[i * row..][..row].iter().map(|&d| d as f32));
        features.extend(phase.map(|phase| phase.turns(i) as f32));
    }
    features
}
