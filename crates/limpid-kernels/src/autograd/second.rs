//! What the backward passes of the crate share.

use candle_core::Tensor;
use std::sync::OnceLock;

/// An argument of an operation, as its backward pass may use it.
///
/// Detached, so that a gradient does not keep the graph alive, unless candle was asked for second
/// derivatives by the environment variable `CANDLE_GRAD_DO_NOT_DETACH`: then what is computed from
/// it remains differentiable.
pub(crate) fn backward_argument(t: &Tensor) -> Tensor {
    if second_derivatives() { t.clone() } else { t.detach() }
}

/// Whether gradients can be differentiated in turn: whether `CANDLE_GRAD_DO_NOT_DETACH` was set to
/// anything but 0 when the program began.
///
/// Read once per process; the same rule as in candle's `backprop.rs`.
#[must_use]
pub fn second_derivatives() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| {
        std::env::var("CANDLE_GRAD_DO_NOT_DETACH").is_ok_and(|s| !s.is_empty() && s != "0")
    })
}
