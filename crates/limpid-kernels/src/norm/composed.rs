//! The gradient of a normalisation, made of differentiable operations; slower than the fused one.

use super::Affine;
use crate::Result;
use crate::activation::Activation;
use crate::cast::{cast, widened};
use crate::op::Backward;
use candle_core::Tensor;

/// How to see `x` so that what shares a statistic has dimensions of its own.
pub(super) struct View<'a> {
    /// The shape of `x` for that.
    pub view: &'a [usize],
    /// The dimensions that share a statistic.
    pub shared: &'a [usize],
    /// The shape of given statistics that broadcasts against the view.
    pub statistic: &'a [usize],
    /// The shape of a parameter that broadcasts against the view.
    pub parameter: &'a [usize],
    /// The shape of a parameter as given.
    pub shape: &'a [usize],
}

/// Gradients of x, weight and bias. `given` are mean and reciprocal deviation if they are constants.
pub(super) fn gradients(
    at: &Backward,
    affine: Affine,
    activation: Activation,
    v: View,
    given: Option<(Tensor, Tensor)>,
    eps: f64,
) -> Result<Vec<Option<Tensor>>> {
    let (x, g) = (widened(&at.args[0])?.reshape(v.view)?, widened(&at.grad)?.reshape(v.view)?);
    let parameter = |t: &Tensor| -> Result<Tensor> { Ok(widened(t)?.reshape(v.parameter)?) };
    let fixed = given.is_some();
    let (mean, rstd) = match given {
        Some((mean, rstd)) => (mean.reshape(v.statistic)?, rstd.reshape(v.statistic)?),
        None => {
            let mean = x.mean_keepdim(v.shared)?;
            let var = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(v.shared)?;
            (mean, (var + eps)?.sqrt()?.recip()?)
        }
    };
    let normal = x.broadcast_sub(&mean)?.broadcast_mul(&rstd)?;
    let g = if activation == Activation::Identity {
        g
    } else {
        let mut inner = normal.clone();
        if let Some(w) = affine.weight(&at.args) {
            inner = inner.broadcast_mul(&parameter(w)?)?;
        }
        if let Some(b) = affine.bias(&at.args) {
            inner = inner.broadcast_add(&parameter(b)?)?;
        }
        activation.gradient(&inner, &g)?
    };
    let weighted = match affine.weight(&at.args) {
        Some(w) => g.broadcast_mul(&parameter(w)?)?,
        None => g.clone(),
    };
    let centred = if fixed {
        weighted
    } else {
        let along = (&weighted * &normal)?.mean_keepdim(v.shared)?;
        let level = weighted.mean_keepdim(v.shared)?;
        weighted.broadcast_sub(&level)?.broadcast_sub(&normal.broadcast_mul(&along)?)?
    };
    let dx = centred.broadcast_mul(&rstd)?.reshape(at.args[0].shape())?;
    let dx = cast(&dx, at.args[0].dtype())?;
    let summed: Vec<usize> = (0..v.view.len()).filter(|&d| v.parameter[d] == 1).collect();
    // parameters are f32 beside an x of 16 bits
    let dw = (&g * &normal)?.sum_keepdim(summed.as_slice())?.reshape(v.shape)?;
    let db = g.sum_keepdim(summed.as_slice())?.reshape(v.shape)?;
    Ok(affine.gradients(vec![Some(dx)], dw, db))
}
