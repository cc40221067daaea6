//! Everything a network is made of and trained with, short of the network itself: an ordered store
//! of named parameters, layers, initialisers, optimizers, schedules, weight averaging, gradient
//! scaling, and the reading and writing of checkpoint tensors.
//!
//! Parameter names equal the reference `state_dict` keys, so a PyTorch checkpoint loads unchanged.
//!
//! Invariants: this crate knows no task, no data set and no training loop.

mod ctx;
pub mod ema;
mod error;
#[cfg(test)]
mod golden;
pub mod init;
mod key_report;
pub mod layers;
pub mod optim;
mod params;
mod replay;
pub mod scaler;
pub mod schedule;
pub mod tensors;
pub mod torch;
mod watch;

pub use ctx::Ctx;
pub use error::CheckpointError;
pub use init::Init;
pub use key_report::{KeyReport, Mismatch, compare};
pub use limpid_kernels::{Error, Result};
pub use params::{InitRule, NoGrad, Param, Params, Scope};
pub use replay::Replay;
pub use watch::first_nonfinite_layer;
