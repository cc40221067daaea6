//! The configuration of a denoising task: the crates' own structs, put together.

use limpid_arch::{ImageArchitecture, NetworkConfig};
use limpid_cli::training::check_name;
use limpid_config::{Check, Validate};
use limpid_datamodule::DataConfig;
use limpid_datamodule::dataset::DatasetConfig;
use limpid_engine::TrainConfig;
use limpid_engine::infer::TileConfig;
use limpid_models::ModelConfig;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A denoising task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of the runs: `runs/NAME-0001`.
    pub(crate) name: String,
    /// Seed of everything random.
    pub(crate) seed: u64,
    /// Span of valid intensities in the unit of the files (255 for 8-bit images). There is no
    /// default: PSNR and SSIM mean nothing without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_range: Option<f64>,
    /// Where images come from and what becomes of them before the network.
    pub(crate) data: DataConfig,
    /// The network.
    pub(crate) network: NetworkConfig,
    /// What the target is, and the loss.
    pub(crate) model: ModelConfig,
    /// The optimizer.
    pub(crate) optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    pub(crate) schedule: ScheduleConfig,
    /// Steps, checkpoints, validation.
    pub(crate) train: TrainConfig,
    /// How images larger than a window are predicted.
    pub(crate) tile: TileConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "denoise".to_owned(),
            seed: 42,
            data_range: None,
            data: DataConfig::default(),
            network: NetworkConfig::default(),
            model: ModelConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            train: TrainConfig::default(),
            tile: TileConfig::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        check_name(&self.name, at);
        match self.data_range {
            None => at.problem("data_range", "must be set").hint(
                "the span of valid intensities in the unit of the files: 255 for 8-bit images",
            ),
            Some(range) if !(range.is_finite() && range > 0.0) => at
                .problem("data_range", format!("must be above 0, got {range}"))
                .hint("the span of valid intensities: 255 for 8-bit images"),
            Some(_) => {}
        }
        at.nested("data", &self.data);
        at.nested("network", &self.network);
        at.nested("model", &self.model);
        at.nested("optimizer", &self.optimizer);
        at.nested("schedule", &self.schedule);
        at.nested("train", &self.train);
        at.nested("tile", &self.tile);
        let sound = |part: &dyn Validate| limpid_config::check(part).is_empty();
        if !sound(&self.network) || !sound(&self.data) {
            return; // the rest reckons with their sizes
        }
        if self.network.dims() != self.data.dims {
            at.problem(
                "network.dims",
                format!("is {}, but `data.dims` is {}", self.network.dims(), self.data.dims),
            )
            .hint("use the same number for both");
            return; // the rest depends on it
        }
        if self.network.scale() != 1 {
            let message = format!("enlarges images {} times", self.network.scale());
            at.problem("network.kind", message).hint("`denoise` restores images at their size");
        }
        let divisor = self.network.divisor();
        let patch = self.data.patch_size();
        if let Some(fixed) = self.network.fixed_size()
            && patch != fixed
        {
            at.problem("data.patch", format!("must be {fixed:?} for this network, got {patch:?}"));
            return;
        }
        if patch.iter().zip(&divisor).any(|(p, d)| p % d != 0) {
            at.problem(
                "data.patch",
                format!("must be a multiple of {divisor:?} for this network, got {patch:?}"),
            );
        }
        let hidden = matches!(self.data.dataset, DatasetConfig::Noise2void { .. });
        if hidden != matches!(self.model, ModelConfig::Noise2void {}) {
            at.problem("model.kind", "and `data.dataset.kind` do not go together")
                .hint("noise2void needs both to be \"noise2void\"");
        }
        if matches!(self.data.dataset, DatasetConfig::Noise2noise { .. })
            && matches!(self.model, ModelConfig::Supervised { .. })
        {
            at.problem("model.kind", "is \"supervised\", but the targets are noisy")
                .hint("set `model.kind = \"noise2noise\"`");
        }
    }
}
