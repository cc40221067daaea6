//! The one call that most want: samples along any trajectory in, samples on a grid out.

use crate::config::{KernelGeometry, NetConfig};
use crate::error::{Error, Result};
use crate::learn::{
    self, KernelData, KernelModel, KernelsCard, Phase, SamplesConfig, TrainedKernels,
};
use crate::scan::{Finding, geometry_findings};
use candle_core::Device;
use limpid_engine::{Checkpoints, RunDir, Sink, TrainConfig, Trainer};
use limpid_export::{Bundle, Card};
use limpid_mri::{
    Calibration, ClosedForm, Complex, FieldShift, FieldSign, Geometry, GeometryConfig,
    GrappaOperators, Kernels, Trajectory,
};
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use std::collections::BTreeMap;

/// How samples are moved to the grid.
pub enum KernelChoice<'a> {
    /// Least squares for every sample; `lam` is the regularisation relative to the mean power of a coil.
    ClosedForm {
        /// 1e-3 suits little noise, 1e-2 more.
        lam: f64,
    },
    /// A network that is trained on the calibration first, and forgotten afterwards; [`Learning`] keeps it.
    Train(&'a TrainParams),
    /// A network that was trained before.
    Trained(&'a TrainedKernels),
    /// One source, moved by powers of a unit step.
    Grog(&'a GrappaOperators),
    /// Not at all: samples count as those of the nearest points.
    Nearest,
}

/// Samples on a grid.
#[derive(Clone, Debug)]
pub struct Gridded {
    /// Where the samples came from, and their [targets](Geometry::targets).
    pub geometry: Geometry,
    /// Points of the grid per cycle per field of view.
    pub oversampling: f64,
    /// Seconds to which the phase of a field was moved, for the samples of a readout.
    pub times: Option<Vec<f64>>,
    /// Samples `[coils, shots, samples]` in the order of the scan: several may lie at one point.
    pub samples: Vec<Complex<f32>>,
    /// What of the trajectory may spoil them.
    pub findings: Vec<Finding>,
}

/// Moves the samples `kspace` `[coils, shots, samples]` of a trajectory, taken at the `times` of a readout in
/// seconds, to the points of a grid. With a `phase`, kernels also move the phase of a field from the time of
/// each sample to another.
///
/// Nothing is averaged: weigh the samples by the density of the *original* trajectory, and let the
/// [`GridOperator`](limpid_mri::GridOperator) merge them.
///
/// # Errors
/// If the parts do not go together; the calibration is missing that [`KernelChoice::ClosedForm`] and
/// [`KernelChoice::Train`] need; the training fails.
///
/// # Examples
/// ```
/// use igrog::{KernelChoice, grogify};
/// use limpid_mri::{Birdcage, Brain, Calibration, GeometryConfig, Radial, Scene, Spoke};
///
/// let matrix = [32, 32];
/// let image = Brain { matrix, ..Brain::default() }.image::<f32>()?;
/// let maps = Birdcage { matrix: matrix.to_vec(), ..Birdcage::default() }.maps::<f32>()?;
/// let spoke = Spoke { matrix: 32, ..Spoke::default() };
/// let readouts = Radial { spoke, spokes: 24, ..Radial::default() }.readouts()?;
/// let scene = Scene { matrix: &matrix, image: &image, coils: Some(&maps), field: None };
/// let kspace = scene.simulate(&readouts)?;
///
/// let calibration = Calibration::new(8, &matrix, maps)?;
/// let gridded = grogify(
///     &readouts.trajectory,
///     &readouts.times,
///     &kspace,
///     Some(&calibration),
///     &GeometryConfig::default(),
///     KernelChoice::ClosedForm { lam: 1e-3 },
///     None,
/// )?;
/// assert!(gridded.geometry.targets().iter().all(|k| k.fract() == 0.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn grogify(
    trajectory: &Trajectory,
    times: &[f64],
    kspace: &[Complex<f32>],
    calibration: Option<&Calibration<f32>>,
    geometry: &GeometryConfig,
    kernels: KernelChoice<'_>,
    phase: Option<&Phase>,
) -> Result<Gridded> {
    let (sources, oversampling) = (KernelGeometry::from(geometry), geometry.oversamp_grid);
    let geometry = Geometry::new(trajectory, times, geometry)?;
    if phase.is_some() && matches!(kernels, KernelChoice::Grog(_) | KernelChoice::Nearest) {
        return Err(Error::scan(
            "kernels of one source do not move the phase of a field",
            "set `field.correct = \"segments\"`, or use other kernels",
        ));
    }
    let moved_to = phase.map(|phase| phase.targets[..trajectory.samples()].to_vec());
    let needed = || {
        calibration.ok_or_else(|| {
            Error::scan(
                "kernels need a calibration",
                "make one of coil maps or of the middle of k-space",
            )
        })
    };
    let samples = match kernels {
        KernelChoice::ClosedForm { lam } => {
            let calibration = needed()?;
            let form = match phase {
                Some(Phase { field, targets, .. }) => {
                    let shift = FieldShift { field, times: targets };
                    ClosedForm::with_field(calibration, &geometry, lam, shift, FieldSign::Negative)?
                }
                None => ClosedForm::new(calibration, &geometry, lam)?,
            };
            form.grid(kspace, &geometry)?
        }
        KernelChoice::Train(params) => {
            let calibration = needed()?.clone();
            let learning =
                Learning::new(geometry.clone(), sources, calibration, phase.cloned(), params)?;
            learning.forgotten(params)?.with_phase(phase.cloned())?.grid(kspace, &geometry)?
        }
        KernelChoice::Trained(trained) => trained.grid(kspace, &geometry)?,
        KernelChoice::Grog(operators) => operators.grid(kspace, &geometry)?,
        KernelChoice::Nearest => kspace.to_vec(),
    };
    let findings = geometry_findings(&geometry, trajectory);
    Ok(Gridded { geometry, oversampling, times: moved_to, samples, findings })
}

/// How a network of kernels is trained.
#[derive(Clone, Debug)]
pub struct TrainParams {
    /// The network.
    pub network: NetConfig,
    /// What it learns from.
    pub samples: SamplesConfig,
    /// Its optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    pub schedule: ScheduleConfig,
    /// Steps, checkpoints, validation.
    pub train: TrainConfig,
    /// Seed of everything random.
    pub seed: u64,
    /// Where the network is trained.
    pub device: Device,
}

impl Default for TrainParams {
    fn default() -> Self {
        Self {
            network: NetConfig::default(),
            samples: SamplesConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            train: TrainConfig::default(),
            seed: 0,
            device: Device::Cpu,
        }
    }
}

/// Data and model of a training, and what the file of the network says of it.
pub struct Learning {
    /// The pairs.
    pub data: KernelData,
    /// The network under training.
    pub model: KernelModel,
    /// Its card, but for the run.
    pub card: Card<limpid_arch::grog_mlp::Config>,
}

impl Learning {
    /// A network that learns the kernels of a geometry, which `sources` made, from a calibration.
    ///
    /// # Errors
    /// As [`KernelData::new`].
    pub fn new(
        geometry: Geometry,
        sources: KernelGeometry,
        calibration: Calibration<f32>,
        phase: Option<Phase>,
        params: &TrainParams,
    ) -> Result<Self> {
        let coils = calibration.coils();
        let network = learn::network(&params.network, &geometry, coils, phase.is_some());
        let says = KernelsCard {
            geometry: sources,
            rank: geometry.rank(),
            span: phase.as_ref().map(|phase| phase.span),
            turns: phase.as_ref().map(Phase::range),
            sign: phase.as_ref().map(|phase| phase.sign),
        };
        let mut card = Card::new("igrog", &network, "", serde_json::Value::Null, 1.0, "");
        let says = serde_json::to_value(says).map_err(|e| {
            Error::scan(
                format!("the card cannot be written: {e}"),
                "this is a bug; please report it",
            )
        })?;
        card.extra = BTreeMap::from([(learn::CARD_KEY.to_owned(), says)]);
        let SamplesConfig { loss, l2, .. } = params.samples;
        let scope = (params.seed, &params.device);
        let (optimizer, schedule) = (params.optimizer.clone(), params.schedule.clone());
        let model = KernelModel::new(&network, (loss, l2), optimizer, schedule, scope)?;
        let data =
            KernelData::new(geometry, calibration, phase, params.samples.clone(), params.seed)?;
        Ok(Self { data, model, card })
    }

    /// Trains to the end in the folder of a run, and returns the kernels.
    ///
    /// # Errors
    /// Those of training and of the file system.
    pub fn run(
        mut self,
        params: &TrainParams,
        run: &mut RunDir,
        sink: &mut dyn Sink,
    ) -> Result<TrainedKernels> {
        let mut trainer = Trainer::new(params.train.clone(), params.seed);
        trainer.device = params.device.clone();
        trainer.fit(&mut self.model, &self.data, run, sink)?;
        let list = Checkpoints::new(&run.path().join("checkpoints")).list();
        let last = list.iter().max_by_key(|info| info.step).ok_or_else(|| {
            Error::scan("the training left no checkpoint", "let it take at least one step")
        })?;
        let weights = Checkpoints::weights(&last.path)?;
        let known = limpid_engine::Model::params(&self.model).shapes();
        let weights = weights.into_iter().filter(|(name, _)| known.contains_key(name)).collect();
        TrainedKernels::of(&Bundle { card: self.card, weights })
    }

    /// Trains in a folder that is gone afterwards.
    fn forgotten(self, params: &TrainParams) -> Result<TrainedKernels> {
        let folder = tempfile::tempdir()
            .map_err(|e| limpid_io::Error::io("create", &std::env::temp_dir(), e))?;
        let mut run = RunDir::open_or_create(folder.path(), "kernels", "", true)?;
        self.run(params, &mut run, &mut limpid_engine::Silent)
    }
}
