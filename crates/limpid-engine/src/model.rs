//! A model in the sense of nucli-train: how a task is optimised (losses, their order, their
//! optimizers), not which network does it.

use crate::{Batch, Logs, Picture, Result, Stepper};
use candle_core::Tensor;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};

/// An optimizer and what it moves.
#[derive(Clone, Debug)]
pub struct OptimizerSpec {
    /// Name by which [`Stepper::minimise`] calls it: `"generator"`, `"discriminator"`, `"net"` …
    pub name: String,
    /// The parameters it moves.
    pub params: Params,
    /// Its rule and settings.
    pub optimizer: OptimizerConfig,
    /// Learning rate over the steps, as a factor on the optimizer's.
    pub schedule: ScheduleConfig,
}

/// A score that validation computes, and which way is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// Its key in [`Model::validation_step`]'s result.
    pub name: String,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// How a task is optimised.
pub trait Model {
    /// The batch with what a training step needs besides: random draws of the host, tensors made from
    /// them, what need not be differentiated. Its random numbers come from [`Ctx::next_stream`].
    ///
    /// # Errors
    /// Those of the operations.
    fn prepare(&self, batch: Batch, ctx: &Ctx) -> Result<Batch> {
        let _ = ctx;
        Ok(batch)
    }

    /// One training step on a prepared batch: compute a loss, hand it to `step.minimise`, and so on in
    /// order. After `minimise` returns, the parameters of that optimizer have changed (at an
    /// accumulation boundary). What is given to `step.log` is logged.
    ///
    /// # Errors
    /// Those of the operations and of [`Stepper::minimise`].
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()>;

    /// Whether a training step is fixed work, so that a GPU may be given it once and repeat it: it
    /// calls `minimise` once, last of all; what differs between steps is in the prepared batch or
    /// comes from [`Ctx::next_stream`], and it reads no value back.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Scores of every sample of a validation batch, in its order.
    ///
    /// # Errors
    /// Those of the operations.
    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>>;

    /// The restored image of a normalised input `[N, C, s…]`.
    ///
    /// # Errors
    /// Those of the operations.
    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor>;

    /// The scores of `validation_step`; the first decides which checkpoint is best unless the
    /// configuration names another.
    fn scores(&self) -> Vec<Score>;

    /// The optimizers, in the order in which `train_step` uses them.
    fn optimizers(&self) -> Vec<OptimizerSpec>;

    /// Everything that a checkpoint must hold: all parameters and buffers.
    fn params(&self) -> &Params;

    /// What a deployable file holds: the weights that `predict` uses.
    fn weights(&self) -> Params {
        self.params().clone()
    }

    /// Pictures of the first samples of a validation batch.
    ///
    /// # Errors
    /// Those of the operations.
    fn pictures(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Picture>> {
        let _ = (batch, ctx);
        Ok(Vec::new())
    }
}
