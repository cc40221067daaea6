//! Limits on gradients before an optimizer sees them.

use crate::Result;
use candle_core::Tensor;
use limpid_kernels::step::{Gate, Judgement, Look};
use std::collections::BTreeMap;

/// Scales all gradients by one factor so that their common Euclidean norm is at most `max`, as
/// `torch.nn.utils.clip_grad_norm_`, and returns the norm before.
///
/// If the norm is not finite the gradients are left as they are.
///
/// # Errors
/// If a gradient holds no floats.
pub fn clip_grad_norm(gradients: &mut BTreeMap<String, Tensor>, max: f64) -> Result<f64> {
    let all: Vec<&Tensor> = gradients.values().collect();
    let look = Look::at(&all)?;
    let judgement =
        Judgement { gradients: all.len(), scale: 1.0, max_norm: Some(max), after: None };
    // not in place: gradients may share memory with each other
    let clipped = Gate::new(&look, judgement)?.scaled(&all)?;
    let norm = look.read()?.into_iter().fold(0.0, |sum, [squares, _]| sum + squares).sqrt();
    gradients.values_mut().zip(clipped).for_each(|(g, clipped)| *g = clipped);
    Ok(norm)
}

/// Cuts every element of every gradient to `[-max, max]`.
///
/// # Errors
/// If a gradient holds no floats.
pub fn clip_grad_value(gradients: &mut BTreeMap<String, Tensor>, max: f64) -> Result<()> {
    for g in gradients.values_mut() {
        *g = g.clamp(-max, max)?;
    }
    Ok(())
}
