//! The trainer and the inferencer, abstract over model, data and output.
//!
//! A [`Model`] says how a task is optimised, a [`DataModule`] what it is trained on; the
//! [`Trainer`] runs the loop, a list of [`Callback`]s does everything usual, and what happens goes
//! out as [`Event`]s to a [`Sink`]. The [`infer`] module predicts images of any size.
//!
//! Invariants: the engine knows no architecture, no file format (it writes its own checkpoints and
//! nothing else) and no terminal.

mod batch;
pub mod callback;
mod checkpoint;
mod communicator;
mod config;
mod data;
mod error;
mod event;
pub mod infer;
mod model;
mod number;
mod rundir;
mod state;
mod stepper;
mod trainer;

pub use batch::{Batch, SampleId};
pub use callback::{Callback, Control, Hook};
pub use checkpoint::{CheckpointInfo, Checkpoints};
pub use communicator::Communicator;
pub use config::{
    BestConfig, CheckpointConfig, ClipConfig, EarlyStopConfig, GpuConfig, GpuPrecision, NonFinite,
    Recompute, TrainConfig,
};
pub use data::{Batches, DataModule, Loader};
pub use error::{BoxError, Error, Result};
pub use event::{Event, Logs, MemoryPlan, Outcome, Picture, Silent, Sink};
pub use model::{Model, OptimizerSpec, Score};
pub use rundir::{RunDir, RunStatus};
pub use state::{Progress, TrainState};
pub use stepper::Stepper;
pub use trainer::{StepFn, Trainer};

#[cfg(test)]
mod tests;
