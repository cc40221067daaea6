//! Reverse-mode differentiation of a training step.
//!
//! candle's own backward pass fills a tensor with zeros and adds to it for every gradient, and keeps
//! every activation until it has ended: several passes over memory per operation, more than a fast
//! convolution takes itself. Inside [`record`] the operations of this crate therefore go on a tape
//! of their own. [`backward`] walks it once from the end: the first gradient of a tensor is stored
//! as it is, further ones are added in place, and what an operation saved is freed as soon as it has
//! been used.
//!
//! To candle the results of recorded operations are variables, at which its graph ends. Between them
//! its own operations may be used freely; a gradient that arrives at one of those goes through
//! candle's backward pass down to the next recorded results.
//!
//! Outside of [`record`], and wherever second derivatives are asked for, everything is left to
//! candle: same values, slower.

mod second;
mod tape;
#[cfg(test)]
mod tests;

pub(crate) use second::backward_argument;
pub use second::second_derivatives;
pub(crate) use tape::{Recorded, State, register, register_view, state};

use crate::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId};
use std::collections::HashMap;
use tape::{Guard, Slot};

/// Runs `f` with the operations of this crate recorded for [`backward`]; what has been recorded and
/// not differentiated is dropped at the end.
///
/// A recorded result that leaves `f` is a variable without a past.
pub fn record<R>(f: impl FnOnce() -> R) -> R {
    if second_derivatives() {
        return f();
    }
    let _guard = Guard::recording();
    f()
}

/// The gradients of a scalar (or of the sum of a tensor's elements) with respect to the variables
/// that it was computed from.
///
/// Frees the recorded operations that it passes.
///
/// # Errors
/// [`crate::Error::Argument`] if an earlier call has passed an operation that this one needs too:
/// add the losses and differentiate their sum. Otherwise what an operation's gradient returns.
pub fn backward(loss: &Tensor) -> Result<Gradients> {
    match state() {
        State::Recording => tape::backward(loss, loss.ones_like()?),
        State::Off | State::Paused => Ok(Gradients::from_candle(&loss.backward()?)),
    }
}

/// Applies `f` without keeping what its operations save; the backward pass runs it again for them
/// (Chen et al., arXiv:1604.06174). `f` must compute the same every time.
///
/// # Errors
/// Whatever `f` returns.
pub fn recompute(
    inputs: &[&Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Result<Tensor> {
    tape::recompute(inputs, Box::new(f))
}

/// Whether an operation of these tensors may have more than the three arguments of candle's nodes.
pub(crate) fn takes_many(args: &[&Tensor]) -> bool {
    state() != State::Off || !args.iter().any(|t| t.track_op())
}

/// Whether a function given to [`recompute`] is being run again: it must then leave running
/// statistics alone.
#[must_use]
pub fn is_again() -> bool {
    tape::is_again()
}

/// Gradients by the tensor that they belong to.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Slot>);

impl Gradients {
    /// The gradient of a variable, if the loss depends on it.
    #[must_use]
    pub fn get(&self, of: &Tensor) -> Option<&Tensor> {
        self.0.get(&of.id()).map(|slot| &slot.tensor)
    }

    /// Takes out the gradient of a variable.
    pub fn remove(&mut self, of: &Tensor) -> Option<Tensor> {
        self.0.remove(&of.id()).map(|slot| slot.tensor)
    }

    fn from_candle(store: &GradStore) -> Self {
        let slot = |t: &Tensor| Slot { tensor: t.clone(), owned: false };
        Self(store.get_ids().filter_map(|&id| Some((id, slot(store.get_id(id)?)))).collect())
    }
}
