//! The configuration of a reconstruction: the crates' own structs, put together.

use crate::learn::SamplesConfig;
use crate::recon::SolverConfig;
use crate::scan::ScanConfig;
use limpid_cli::training::check_name;
use limpid_config::{Check, Validate};
use limpid_engine::{CheckpointConfig, TrainConfig};
use limpid_mri::{FieldMethod, FieldSign, GeometryConfig, ReadoutInterpolation};
use limpid_nn::optim::{Adam, OptimizerConfig};
use limpid_nn::schedule::ScheduleConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A reconstruction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of trainings: `runs/NAME-0001`.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Which arrays of a scan are what.
    pub scan: ScanConfig,
    /// What becomes of the receive coils, and what they see.
    pub coils: CoilsConfig,
    /// How samples count by the density of their trajectory.
    pub density: DensityConfig,
    /// Where the sources of a sample are, and the grid it is moved to.
    pub geometry: KernelGeometry,
    /// How samples are moved to the grid, unless a trained network does it.
    pub kernels: KernelsConfig,
    /// How the field is corrected, if the scan has a map of it.
    pub field: FieldConfig,
    /// How the image is found.
    pub solver: SolverConfig,
    /// The network that `train` trains.
    pub network: NetConfig,
    /// What it learns from.
    pub samples: SamplesConfig,
    /// The optimizer of the network.
    pub optimizer: OptimizerConfig,
    /// Its learning rate over the steps.
    pub schedule: ScheduleConfig,
    /// Its steps, checkpoints and validation.
    pub train: TrainConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "igrog".to_owned(),
            seed: 42,
            scan: ScanConfig::default(),
            coils: CoilsConfig::default(),
            density: DensityConfig::default(),
            geometry: KernelGeometry::default(),
            kernels: KernelsConfig::default(),
            field: FieldConfig::default(),
            solver: SolverConfig::default(),
            network: NetConfig::default(),
            samples: SamplesConfig::default(),
            optimizer: OptimizerConfig::Adam(Adam::default()),
            schedule: ScheduleConfig::default(),
            train: TrainConfig {
                steps: 3_000,
                log_every: 50,
                validate_every: 1_000,
                checkpoint: CheckpointConfig { every_steps: 1_000, ..CheckpointConfig::default() },
                ..TrainConfig::default()
            },
        }
    }
}

/// The receive coils.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CoilsConfig {
    /// Makes the noise of the coils equal and independent, if the scan has samples of noise alone.
    pub whiten: bool,
    /// Virtual coils to which all are compressed by their singular values; 0: all are kept.
    pub compress: usize,
    /// Sizes of the middle of k-space that is calibrated from, in cycles per field of view, if the scan
    /// has none of its own.
    pub region: usize,
    /// Where the sensitivities come from.
    pub maps: MapsConfig,
}

impl Default for CoilsConfig {
    fn default() -> Self {
        Self { whiten: true, compress: 0, region: 32, maps: MapsConfig::default() }
    }
}

/// Where sensitivities come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MapsConfig {
    /// The scan's own maps if it has some, or else as `espirit`.
    #[default]
    Auto,
    /// ESPIRiT (Uecker et al., MRM 2014).
    Espirit {
        /// Samples along each axis of its kernels.
        #[serde(default = "six")]
        kernel: usize,
        /// Kernels with singular values above this part of the largest are kept.
        #[serde(default = "threshold")]
        threshold: f64,
        /// Sensitivities are zero where the eigenvalue is not above this.
        #[serde(default = "crop")]
        crop: f64,
    },
    /// The dominant correlation of coil images in a window (Walsh et al., MRM 2000).
    Walsh {
        /// Voxels along each axis of the window; odd.
        #[serde(default = "five")]
        window: usize,
    },
    /// Images and smooth maps at once (Ying and Sheng, MRM 2007).
    Jsense {
        /// Samples along each axis of the maps' k-space.
        #[serde(default = "eight")]
        width: usize,
    },
}

fn five() -> usize {
    5
}

fn six() -> usize {
    6
}

fn eight() -> usize {
    8
}

fn threshold() -> f64 {
    0.02
}

fn crop() -> f64 {
    0.9
}

/// How samples count by the density of their trajectory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DensityConfig {
    /// As the scan says, or else as `pipe_menon`.
    #[default]
    Auto,
    /// So that gridded weights are flat (Pipe and Menon, MRM 1999).
    PipeMenon,
    /// By the areas of Voronoi cells; in the plane.
    Voronoi,
    /// By the distance from the centre: for spokes.
    Ramp,
    /// All alike.
    Uniform,
}

/// Where the sources of a sample are, and the grid it is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KernelGeometry {
    /// Sources of each sample along its readout. GROG has one.
    pub num_inputs: usize,
    /// Distance of the outer ones, in cycles per field of view.
    pub kern_width: f64,
    /// Points of the grid per cycle per field of view.
    pub oversamp_grid: f64,
    /// How sources between two samples are found.
    pub readout: Readout,
}

impl Default for KernelGeometry {
    fn default() -> Self {
        Self { num_inputs: 5, kern_width: 2.0, oversamp_grid: 1.0, readout: Readout::Nearest }
    }
}

impl KernelGeometry {
    /// In the words of the library.
    #[must_use]
    pub fn config(&self) -> GeometryConfig {
        GeometryConfig {
            num_inputs: self.num_inputs,
            kern_width: self.kern_width,
            oversamp_grid: self.oversamp_grid,
            readout: match self.readout {
                Readout::Nearest => ReadoutInterpolation::Nearest,
                Readout::Linear => ReadoutInterpolation::Linear,
                Readout::Upsampled => ReadoutInterpolation::Upsampled,
            },
            grid: true,
        }
    }
}

impl From<&GeometryConfig> for KernelGeometry {
    fn from(config: &GeometryConfig) -> Self {
        Self {
            num_inputs: config.num_inputs,
            kern_width: config.kern_width,
            oversamp_grid: config.oversamp_grid,
            readout: match config.readout {
                ReadoutInterpolation::Nearest => Readout::Nearest,
                ReadoutInterpolation::Linear => Readout::Linear,
                ReadoutInterpolation::Upsampled => Readout::Upsampled,
            },
        }
    }
}

/// How sources between two samples of a readout are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readout {
    /// The nearest sample: loses nothing where readouts are oversampled.
    #[default]
    Nearest,
    /// Linearly.
    Linear,
    /// Linearly between samples of four times the rate, by a windowed sinc.
    Upsampled,
}

/// How samples are moved to the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelsConfig {
    /// Least squares for every sample (Luo et al., MRM 2019).
    ClosedForm {
        /// Regularisation, relative to the mean power of a coil; more for more noise.
        #[serde(default = "lam")]
        lam: f64,
        /// What they are fitted to.
        #[serde(default)]
        from: Calibrate,
    },
    /// One source, moved by powers of a unit step (Seiberlich et al., MRM 2008).
    Grog {
        /// Regularisation of the unit step, relative to the mean power of a coil.
        #[serde(default = "lam_grog")]
        lam: f64,
    },
    /// No kernels: samples count as those of the nearest point of the grid. For samples that are there
    /// already, and to see what kernels are worth.
    Nearest {},
}

impl Default for KernelsConfig {
    fn default() -> Self {
        Self::ClosedForm { lam: lam(), from: Calibrate::default() }
    }
}

fn lam() -> f64 {
    1e-3
}

fn lam_grog() -> f64 {
    1e-4
}

/// The network that kernels can be learnt by (Abraham et al. 2023, arXiv:2310.10823). Its inputs and
/// outputs are those of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// Real layers before the last, complex one.
    pub layers: usize,
    /// Features of all of them but the last.
    pub hidden: usize,
    /// Features of the last of them.
    pub latent: usize,
    /// Random projections whose cosine and sine join the offsets of the sources; 0 for none.
    pub projections: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self { layers: 3, hidden: 256, latent: 256, projections: 0 }
    }
}

/// What kernels learn the coils from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Calibrate {
    /// The scan's maps, if it has some; otherwise as `images`.
    #[default]
    Auto,
    /// Sensitivities, however they are found: all voxels count alike.
    Maps,
    /// Images of the middle of k-space: voxels count by their signal.
    Images,
}

/// How the field is corrected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FieldConfig {
    /// By what means.
    pub correct: Correction,
    /// Which way a positive field turns samples.
    pub sign: Sign,
    /// Products of a function of place and one of time that stand for the phase; 0: two for each turn
    /// by which the field turns voxels apart over a readout, and two more.
    pub segments: usize,
    /// How they are found, for `correct = "segments"`.
    pub method: Method,
    /// Bins of the histogram of the field that they are fitted to.
    pub nodes: usize,
}

impl Default for FieldConfig {
    fn default() -> Self {
        Self {
            correct: Correction::Segments,
            sign: Sign::Negative,
            segments: 0,
            method: Method::LeastSquares,
            nodes: 256,
        }
    }
}

/// By what means a field is corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// By none.
    #[serde(rename = "none")]
    Nothing,
    /// By segments alone: kernels move samples with their phase. The most accurate.
    #[default]
    Segments,
    /// By kernels that also move the phase to the centre of the sample's segment.
    Kernels,
}

/// Which way a positive field turns samples. Programs differ; a wrong one blurs twice as much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// By `exp(-2πi b t)`.
    #[default]
    Negative,
    /// By `exp(+2πi b t)`.
    Positive,
}

impl From<Sign> for FieldSign {
    fn from(sign: Sign) -> Self {
        match sign {
            Sign::Negative => Self::Negative,
            Sign::Positive => Self::Positive,
        }
    }
}

/// How the products that stand for a phase are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The phase at the centre of the segment.
    ZeroOrder,
    /// The phases at all centres, in the proportions that fit best.
    #[default]
    LeastSquares,
    /// Singular vectors: the fewest for an error.
    Svd,
}

impl From<Method> for FieldMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::ZeroOrder => Self::ZeroOrder,
            Method::LeastSquares => Self::LeastSquares,
            Method::Svd => Self::Svd,
        }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        check_name(&self.name, at);
        at.nested("scan", &self.scan);
        at.nested("solver", &self.solver);
        at.nested("samples", &self.samples);
        at.nested("optimizer", &self.optimizer);
        at.nested("schedule", &self.schedule);
        at.nested("train", &self.train);
        if self.coils.region < 4 {
            at.problem("coils.region", format!("must be at least 4, got {}", self.coils.region));
        }
        let KernelGeometry { num_inputs, kern_width, oversamp_grid, .. } = self.geometry;
        if !(1..=64).contains(&num_inputs) {
            at.problem("geometry.num_inputs", format!("must be 1 to 64, got {num_inputs}"));
        }
        if !(0.0..=16.0).contains(&kern_width) {
            let problem = format!("must be 0 to 16 cycles per field of view, got {kern_width}");
            at.problem("geometry.kern_width", problem);
        }
        if !(1.0..=8.0).contains(&oversamp_grid) {
            at.problem("geometry.oversamp_grid", format!("must be 1 to 8, got {oversamp_grid}"))
                .hint("1 is fastest, 1.5 nearly as accurate as a non-uniform transform");
        }
        match self.kernels {
            KernelsConfig::ClosedForm { lam, .. } | KernelsConfig::Grog { lam }
                if !(lam > 0.0 && lam.is_finite()) =>
            {
                at.problem("kernels.lam", format!("must be above 0, got {lam}"));
            }
            _ => {}
        }
        if num_inputs > 1 && kern_width == 0.0 {
            at.problem("geometry.kern_width", "must be above 0 for more than one source");
        }
        if self.field.correct == Correction::Kernels
            && !matches!(self.kernels, KernelsConfig::ClosedForm { .. })
        {
            at.problem("kernels.kind", "of one source does not move the phase of a field")
                .hint("set `field.correct = \"segments\"`");
        }
        match self.coils.maps {
            MapsConfig::Espirit { kernel, threshold, crop } => {
                let fine = |v: f64| (0.0..1.0).contains(&v);
                if kernel == 0 || !fine(threshold) || !fine(crop) {
                    let problem =
                        "needs a kernel of 1 or more, a threshold and a crop of 0 to below 1";
                    at.problem("coils.maps", problem);
                }
            }
            MapsConfig::Walsh { window } if window % 2 == 0 || window > 101 => {
                at.problem(
                    "coils.maps.window",
                    format!("must be odd and at most 101, got {window}"),
                );
            }
            _ => {}
        }
        let NetConfig { layers, hidden, latent, .. } = self.network;
        if layers == 0 || hidden == 0 || latent == 0 {
            at.problem("network", "needs at least one layer, and features in each");
        }
        let FieldConfig { segments, nodes, .. } = self.field;
        if !(2..=16_384).contains(&nodes) || segments > nodes {
            let problem = format!(
                "must be at most `field.nodes`, and those 2 to 16384; got {segments} and {nodes}"
            );
            at.problem("field.segments", problem);
        }
    }
}
