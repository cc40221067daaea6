//! Limits on gradients before an optimizer sees them.

use crate::Result;
use candle_core::Tensor;
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
    let norm = limpid_kernels::step::sum_squares_all(&all)?.sqrt();
    let factor = max / (norm + 1e-6);
    if factor < 1.0 && norm.is_finite() {
        for g in gradients.values_mut() {
            // not in place: gradients may share memory with each other
            *g = g.affine(factor, 0.0)?;
        }
    }
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
