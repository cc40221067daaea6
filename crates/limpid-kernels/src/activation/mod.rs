//! Activation functions, element by element.
//!
//! Values and gradients are those of `torch.nn.functional`, kinks included (`relu'(0) = 0`,
//! `leaky_relu'(0) = slope`, `abs'(0) = 0`). A function states its value and two derivatives in
//! `functions.rs`; one mechanism here makes differentiable operations of them, one pass forward and
//! one backward. All but [`prelu`] can be differentiated twice.

mod functions;
mod prelu;
#[cfg(test)]
mod tests;

pub use prelu::prelu;

use crate::buffer::{map, map2};
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::{Error, Result};
use candle_core::{Shape, Tensor};
use functions::Function;

/// `max(x, 0)`; NaN stays NaN.
///
/// # Errors
/// [`Error::Shape`] unless `x` is f32 or f64, as for all functions here.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Relu), &[x])
}

/// `x` above zero, `slope * x` elsewhere.
///
/// # Errors
/// As [`relu`].
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    apply(Value(functions::LeakyRelu { slope }), &[x])
}

/// Absolute value.
///
/// # Errors
/// As [`relu`].
pub fn abs(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Abs), &[x])
}

/// `x` above zero, `alpha * (exp(x) - 1)` elsewhere (Clevert et al., arXiv:1511.07289).
///
/// # Errors
/// As [`relu`].
pub fn elu(x: &Tensor, alpha: f64) -> Result<Tensor> {
    apply(Value(functions::Elu { alpha }), &[x])
}

/// Logistic function `1 / (1 + exp(-x))`.
///
/// # Errors
/// As [`relu`].
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Sigmoid), &[x])
}

/// Hyperbolic tangent.
///
/// # Errors
/// As [`relu`].
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Tanh), &[x])
}

/// `ln(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x > threshold`. PyTorch's defaults
/// are 1 and 20.
///
/// # Errors
/// As [`relu`]; [`Error::Argument`] unless `beta` is positive and finite.
pub fn softplus(x: &Tensor, beta: f64, threshold: f64) -> Result<Tensor> {
    if !beta.is_finite() || beta <= 0.0 {
        let message = format!("`beta` is {beta}, but must be a positive number");
        return Err(Error::Argument { op: "softplus", message });
    }
    apply(Value(functions::Softplus { beta, threshold }), &[x])
}

/// `x * sigmoid(x)`, also called swish.
///
/// # Errors
/// As [`relu`].
pub fn silu(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Silu), &[x])
}

/// `x * Φ(x)` with the normal distribution function Φ (Hendrycks & Gimpel, arXiv:1606.08415).
///
/// # Errors
/// As [`relu`].
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Gelu), &[x])
}

/// GELU by its approximation with a hyperbolic tangent (`approximate="tanh"`).
///
/// # Errors
/// As [`relu`].
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::GeluTanh), &[x])
}

/// `x * tanh(softplus(x))` (Misra, arXiv:1908.08681).
///
/// # Errors
/// As [`relu`].
pub fn mish(x: &Tensor) -> Result<Tensor> {
    apply(Value(functions::Mish), &[x])
}

/// `f(x)`.
struct Value<F>(F);

impl<F: Function> Op for Value<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let f = self.0;
        let y = map(
            F::NAME,
            args[0].data,
            #[inline(always)]
            |x| f.value(x),
        )?;
        Ok((y, args[0].dims.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(First(self.0), &[&at.args[0], &at.grad])?)])
    }
}

/// `f'(x) * g`: the gradient of [`Value`].
struct First<F>(F);

impl<F: Function> Op for First<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let f = self.0;
        let y = map2(
            F::NAME,
            args[0].data,
            args[1].data,
            #[inline(always)]
            |x, g| f.first(x) * g,
        )?;
        Ok((y, args[0].dims.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (x, g) = (&at.args[0], &at.args[1]);
        let dx = apply(Second(self.0), &[x, &(g * &at.grad)?])?;
        let dg = apply(First(self.0), &[x, &at.grad])?;
        Ok(vec![Some(dx), Some(dg)])
    }
}

/// `f''(x) * g`: the gradient of [`First`] with respect to `x`.
struct Second<F>(F);

impl<F: Function> Op for Second<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let f = self.0;
        let y = map2(
            F::NAME,
            args[0].data,
            args[1].data,
            #[inline(always)]
            |x, g| f.second(x) * g,
        )?;
        Ok((y, args[0].dims.into()))
    }
}
