//! Settings of training that do not depend on the task.

use limpid_config::{Check, Validate};
use limpid_kernels::Precision;
use limpid_nn::ema::EmaConfig;
use limpid_nn::scaler::ScalerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of training that do not depend on the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps in all.
    pub steps: u64,
    /// Batches whose gradients are averaged into one optimizer step.
    pub accumulate: u64,
    /// Limit on the gradient of each optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipConfig>,
    /// Averaged copy of the weights, used for validation and in the finished model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<EmaConfig>,
    /// Loss scaling for half precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<ScalerConfig>,
    /// What the backward pass computes again instead of keeping it from the forward pass.
    pub recompute: Recompute,
    /// What to do when a loss, a gradient or an input is not finite.
    pub nonfinite: NonFinite,
    /// Steps between log lines; values are averaged over them.
    pub log_every: u64,
    /// Steps between validations; 0: only at the end.
    pub validate_every: u64,
    /// How a GPU computes.
    #[serde(skip_serializing_if = "GpuConfig::is_default")]
    pub gpu: GpuConfig,
    /// When checkpoints are written and how many are kept.
    pub checkpoint: CheckpointConfig,
    /// Stop when validation no longer improves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 10_000,
            accumulate: 1,
            clip: None,
            ema: None,
            loss_scale: None,
            recompute: Recompute::Nothing,
            nonfinite: NonFinite::Stop,
            log_every: 10,
            validate_every: 500,
            gpu: GpuConfig::default(),
            checkpoint: CheckpointConfig::default(),
            early_stop: None,
        }
    }
}

/// What the backward pass computes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Everything is kept: fastest.
    #[default]
    #[serde(rename = "none")]
    Nothing,
    /// Only the inputs of the network's blocks are kept: a fraction of the memory, about a third
    /// more time, the same bits.
    Blocks,
}

/// How a GPU computes; without effect on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GpuConfig {
    /// What networks compute with; parameters, losses and the optimizer stay f32.
    pub precision: GpuPrecision,
    /// Use only algorithms that repeat their bits, so that a resumed run ends with those of one that was not
    /// interrupted.
    pub deterministic: bool,
    /// Give the GPU a whole training step at once where its shapes stay the same (CUDA graphs), instead of one kernel
    /// after the other.
    pub graphs: bool,
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self { precision: GpuPrecision::F32, deterministic: true, graphs: true }
    }
}

impl GpuConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What networks compute with on a GPU; sums are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuPrecision {
    /// Numbers of 32 bits.
    #[default]
    F32,
    /// Numbers of 32 bits, whose products are rounded to 11 significant bits, on tensor cores.
    Tf32,
    /// Numbers of 16 bits with the range of f32, 8 of them significant: half the memory, on tensor cores.
    Bf16,
    /// Numbers of 16 bits up to 65504, 11 of them significant; scales the loss unless `loss_scale` says how.
    F16,
}

impl From<GpuPrecision> for Precision {
    fn from(precision: GpuPrecision) -> Self {
        match precision {
            GpuPrecision::F32 => Self::F32,
            GpuPrecision::Tf32 => Self::Tf32,
            GpuPrecision::Bf16 => Self::Bf16,
            GpuPrecision::F16 => Self::F16,
        }
    }
}

/// Limit on a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClipConfig {
    /// Scales the gradient of an optimizer's parameters to at most this Euclidean norm.
    Norm {
        /// Largest norm.
        max: f64,
    },
    /// Cuts every element to `[-max, max]`.
    Value {
        /// Largest magnitude.
        max: f64,
    },
}

/// What to do when a loss, a gradient or an input is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// Stop, and say which tensor, at which step, from which file.
    #[default]
    Stop,
    /// Leave the optimizer step out and warn; stop after 20 in a row. With several losses, what an
    /// earlier one of the same step has changed stays.
    Skip,
    /// Go back to the weights of the last checkpoint at a multiple of `checkpoint.every_steps` (or
    /// at step 0), leave the batch out and warn; stop after 5 in a row. Other checkpoints do not
    /// count, so that an interrupted run goes back to the same weights.
    Rollback,
}

/// When checkpoints are written and how many are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0: not by steps.
    pub every_steps: u64,
    /// Minutes between checkpoints; 0: not by time.
    pub every_minutes: f64,
    /// Latest checkpoints kept; at least 2, so that a damaged one has a predecessor.
    pub keep_last: usize,
    /// Which checkpoints count as best.
    pub best: BestConfig,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_steps: 500, every_minutes: 10.0, keep_last: 2, best: BestConfig::default() }
    }
}

/// Which checkpoints count as best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BestConfig {
    /// Score of the validation (of its first set); empty: the model's first. Its direction is known.
    pub metric: String,
    /// How many of the best are kept; 0: none.
    pub keep: usize,
}

impl Default for BestConfig {
    fn default() -> Self {
        Self { metric: String::new(), keep: 1 }
    }
}

/// Stop when the best score has not improved for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// Validations without improvement before training stops.
    pub patience: u64,
    /// Least change that counts as an improvement, in the unit of the score.
    #[serde(default)]
    pub min_delta: f64,
}

impl Validate for TrainConfig {
    fn validate(&self, at: &mut Check) {
        // the limits only catch slips of the keyboard
        for (key, value, max) in [
            ("steps", self.steps, 1_000_000_000),
            ("accumulate", self.accumulate, 100_000),
            ("log_every", self.log_every, 1_000_000_000),
        ] {
            if !(1..=max).contains(&value) {
                at.problem(key, format!("must be between 1 and {max}, got {value}"));
            }
        }
        for (key, value) in [
            ("checkpoint.keep_last", self.checkpoint.keep_last),
            ("checkpoint.best.keep", self.checkpoint.best.keep),
        ] {
            if value > 10_000 {
                at.problem(key, format!("must be at most 10000, got {value}"));
            }
        }
        at.nested("ema", &self.ema);
        at.nested("loss_scale", &self.loss_scale);
        if let Some(ClipConfig::Norm { max } | ClipConfig::Value { max }) = self.clip
            && !(max > 0.0)
        {
            at.problem("clip.max", format!("must be above 0, got {max}"));
        }
        if self.checkpoint.keep_last < 2 {
            at.problem("checkpoint.keep_last", "must be at least 2")
                .hint("a damaged checkpoint needs a predecessor to go back to");
        }
        let minutes = self.checkpoint.every_minutes;
        if !(minutes.is_finite() && minutes >= 0.0) {
            at.problem("checkpoint.every_minutes", format!("must be 0 or more, got {minutes}"));
        }
        if self.early_stop.is_some_and(|e| e.patience == 0) {
            at.problem("early_stop.patience", "must be at least 1");
        }
        if let Some(delta) = self.early_stop.map(|e| e.min_delta)
            && !(delta.is_finite() && delta >= 0.0)
        {
            at.problem("early_stop.min_delta", format!("must be 0 or more, got {delta}"));
        }
        if self.early_stop.is_some() && self.validate_every == 0 {
            at.problem("early_stop", "needs validations")
                .hint("set `validate_every` to a number of steps");
        }
    }
}
