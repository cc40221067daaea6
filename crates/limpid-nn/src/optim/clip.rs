//! Checks and limits on gradients before an optimizer sees them.

use crate::Result;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// What is known of gradients after one look at them.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientSurvey {
    /// The first gradient, by name, that holds an infinity or a NaN.
    pub nonfinite: Option<String>,
    /// Their common Euclidean norm, where the same look finds it: on a GPU, where another one would
    /// wait for the device again.
    pub norm: Option<f64>,
}

/// Looks whether all gradients are finite.
///
/// # Errors
/// Only if a gradient cannot be read.
pub fn survey(gradients: &BTreeMap<String, Tensor>) -> Result<GradientSurvey> {
    let all: Vec<&Tensor> = gradients.values().collect();
    let found = limpid_kernels::step::survey(&all)?;
    Ok(GradientSurvey {
        nonfinite: found.nonfinite.and_then(|i| gradients.keys().nth(i).cloned()),
        norm: found.squares.map(f64::sqrt),
    })
}

/// Scales all gradients by one factor so that their common Euclidean norm is at most `max`, as
/// `torch.nn.utils.clip_grad_norm_`, and returns the norm before.
///
/// If the norm is not finite the gradients are left as they are. A norm that is known already, as
/// by [`survey`], need not be found again.
///
/// # Errors
/// If a gradient holds no floats.
pub fn clip_grad_norm(
    gradients: &mut BTreeMap<String, Tensor>,
    max: f64,
    known: Option<f64>,
) -> Result<f64> {
    let norm = match known {
        Some(norm) => norm,
        None => {
            let all: Vec<&Tensor> = gradients.values().collect();
            limpid_kernels::step::sum_squares_all(&all)?.sqrt()
        }
    };
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
