//! The state of a training run: what callbacks may read and edit, and what a checkpoint holds.

use crate::{Batch, Logs, Model};
use candle_core::Tensor;
use limpid_nn::Param;
use limpid_nn::ema::Ema;
use limpid_nn::optim::Optimizer;
use limpid_nn::scaler::GradScaler;
use limpid_nn::schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batches of this epoch consumed.
    pub cursor: u64,
    /// Samples seen.
    pub samples: u64,
    /// Batches left out because something in them was not finite.
    pub skipped: u64,
    /// Step of the last validation.
    pub validated: u64,
    /// The best checkpoints: step and score, best first. Scores are finite.
    pub best: Vec<(u64, f64)>,
}

/// One optimizer with everything that belongs to it.
#[derive(Debug)]
pub struct Group {
    /// The name by which the model calls it.
    pub name: String,
    /// What it moves.
    pub params: Vec<Param>,
    /// Its rule and moments.
    pub optimizer: Optimizer,
    /// Its learning rate over the steps.
    pub schedule: Schedule,
    /// The learning rate of the next step; callbacks may change it.
    pub lr: f64,
    /// Loss scaling.
    pub scaler: Option<GradScaler>,
    /// Gradients accumulated so far, by parameter name.
    pub(crate) gradients: BTreeMap<String, Tensor>,
    /// Under loss scaling: a parameter whose gradient was not finite since the last step.
    pub(crate) overflow: Option<String>,
    /// Steps in a row that loss scaling left out.
    pub(crate) overflows: u64,
}

/// The state of a training run. Callbacks may read and edit all of it.
pub struct TrainState<'a> {
    /// The model.
    pub model: &'a mut dyn Model,
    /// Its optimizers, in the model's order.
    pub groups: Vec<Group>,
    /// Averaged weights.
    pub ema: Option<Ema>,
    /// How far the run has come.
    pub progress: Progress,
    /// The batch of the current step.
    pub batch: Option<Batch>,
    /// What the last step logged.
    pub logs: Logs,
    /// Mean scores of the last validation by `set/score`.
    pub scores: Logs,
    /// The validation set whose scores decide: the first.
    pub decisive: Option<String>,
}
