//! How several trainings of one model go in step.

use crate::Result;
use candle_core::Tensor;

/// A group of trainings with the same configuration, seed and initial weights, each of which sees other samples of every
/// batch. Who makes a group sees to that; the trainer averages losses and gradients over it, so that all make the same
/// steps. A member that ends early, for whatever reason, ends the group.
pub trait Communicator: Send + Sync {
    /// Replaces each tensor by its mean over the members of the group, all of which call this with as many tensors of
    /// the same shapes. Every member gets the same bits.
    ///
    /// # Errors
    /// If a member is gone, or a tensor cannot be sent.
    fn mean(&self, tensors: &mut [&mut Tensor]) -> Result<()>;
}
