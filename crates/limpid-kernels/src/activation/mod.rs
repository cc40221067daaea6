//! Activation functions, element by element.
//!
//! Values and gradients are those of `torch.nn.functional`, kinks included (`relu'(0) = 0`,
//! `leaky_relu'(0) = slope`, `abs'(0) = 0`). A function states its value and two derivatives in
//! `functions.rs`; one mechanism here makes differentiable operations of them, one pass forward and
//! one backward. All but [`prelu`] can be differentiated twice. An [`Activation`] names one of them,
//! for operations that apply it on the way.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
mod functions;
mod prelu;
#[cfg(test)]
mod tests;

pub use prelu::prelu;

use crate::buffer::{map, map2};
use crate::cast::InHalf;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply, check_dtypes};
use crate::order::Order;
use crate::simd::is_fused;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};
pub(crate) use functions::Function;

/// One of the functions by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x` itself.
    Identity,
    /// [`relu`]
    Relu,
    /// [`leaky_relu`]
    LeakyRelu {
        /// Slope below zero.
        slope: f64,
    },
    /// [`abs`]
    Abs,
    /// [`elu`]
    Elu {
        /// The limit far below zero, with the sign turned.
        alpha: f64,
    },
    /// [`sigmoid`]
    Sigmoid,
    /// [`tanh`]
    Tanh,
    /// [`softplus`]
    Softplus {
        /// Factor of `x`, positive.
        beta: f64,
        /// Where `beta * x` exceeds this, the result is `x`.
        threshold: f64,
    },
    /// [`silu`]
    Silu,
    /// [`gelu`]
    Gelu,
    /// [`gelu_tanh`]
    GeluTanh,
    /// [`mish`]
    Mish,
}

/// What is done with the function that an [`Activation`] names.
pub(crate) trait Visit {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<F: Function>(self, f: F) -> Self::Output;
}

impl Activation {
    /// Applies the function to each element.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `x` is f32 or f64; [`Error::Argument`] unless the `beta` of softplus
    /// is positive and finite.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        struct Apply<'a>(&'a Tensor);
        impl Visit for Apply<'_> {
            type Output = Result<Tensor>;
            fn visit<F: Function>(self, f: F) -> Result<Tensor> {
                apply(Value(f), &[self.0])
            }
        }
        self.check()?;
        if self == Self::Identity {
            check_dtypes("identity", &[x])?;
            return Ok(x.clone());
        }
        self.visit(Apply(x))
    }

    /// `f'(x) * g`, differentiable.
    pub(crate) fn gradient(self, x: &Tensor, g: &Tensor) -> Result<Tensor> {
        struct Gradient<'a>(&'a Tensor, &'a Tensor);
        impl Visit for Gradient<'_> {
            type Output = Result<Tensor>;
            fn visit<F: Function>(self, f: F) -> Result<Tensor> {
                apply(First(f), &[self.0, self.1])
            }
        }
        self.visit(Gradient(x, g))
    }

    /// Checks the parameters of the function.
    ///
    /// # Errors
    /// [`Error::Argument`] as of [`Activation::apply`].
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Softplus { beta, .. } if !(beta.is_finite() && beta > 0.0) => {
                let message = format!("`beta` is {beta}, but must be a positive number");
                Err(Error::Argument { op: "softplus", message })
            }
            _ => Ok(()),
        }
    }

    /// Calls `v` with the function.
    #[inline(always)]
    pub(crate) fn visit<V: Visit>(self, v: V) -> V::Output {
        match self {
            Self::Identity => v.visit(functions::Identity),
            Self::Relu => v.visit(functions::Relu),
            Self::LeakyRelu { slope } => v.visit(functions::LeakyRelu { slope }),
            Self::Abs => v.visit(functions::Abs),
            Self::Elu { alpha } => v.visit(functions::Elu { alpha }),
            Self::Sigmoid => v.visit(functions::Sigmoid),
            Self::Tanh => v.visit(functions::Tanh),
            Self::Softplus { beta, threshold } => v.visit(functions::Softplus { beta, threshold }),
            Self::Silu if is_fused() => v.visit(functions::Silu::<true>),
            Self::Silu => v.visit(functions::Silu::<false>),
            Self::Gelu if is_fused() => v.visit(functions::Gelu::<true>),
            Self::Gelu => v.visit(functions::Gelu::<false>),
            Self::GeluTanh => v.visit(functions::GeluTanh),
            Self::Mish => v.visit(functions::Mish),
        }
    }
}

/// `max(x, 0)`; NaN stays NaN.
///
/// # Errors
/// [`Error::Shape`] unless `x` is f32 or f64, as for all functions here.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    Activation::Relu.apply(x)
}

/// `x` above zero, `slope * x` elsewhere.
///
/// # Errors
/// As [`relu`].
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    Activation::LeakyRelu { slope }.apply(x)
}

/// Absolute value.
///
/// # Errors
/// As [`relu`].
pub fn abs(x: &Tensor) -> Result<Tensor> {
    Activation::Abs.apply(x)
}

/// `x` above zero, `alpha * (exp(x) - 1)` elsewhere (Clevert et al., arXiv:1511.07289).
///
/// # Errors
/// As [`relu`].
pub fn elu(x: &Tensor, alpha: f64) -> Result<Tensor> {
    Activation::Elu { alpha }.apply(x)
}

/// Logistic function `1 / (1 + exp(-x))`.
///
/// # Errors
/// As [`relu`].
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Activation::Sigmoid.apply(x)
}

/// Hyperbolic tangent.
///
/// # Errors
/// As [`relu`].
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    Activation::Tanh.apply(x)
}

/// `ln(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x > threshold`. PyTorch's defaults
/// are 1 and 20.
///
/// # Errors
/// As [`relu`]; [`Error::Argument`] unless `beta` is positive and finite.
pub fn softplus(x: &Tensor, beta: f64, threshold: f64) -> Result<Tensor> {
    Activation::Softplus { beta, threshold }.apply(x)
}

/// `x * sigmoid(x)`, also called swish.
///
/// # Errors
/// As [`relu`].
pub fn silu(x: &Tensor) -> Result<Tensor> {
    Activation::Silu.apply(x)
}

/// `x * Φ(x)` with the normal distribution function Φ (Hendrycks & Gimpel, arXiv:1606.08415).
///
/// # Errors
/// As [`relu`].
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Activation::Gelu.apply(x)
}

/// GELU by its approximation with a hyperbolic tangent (`approximate="tanh"`).
///
/// # Errors
/// As [`relu`].
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    Activation::GeluTanh.apply(x)
}

/// `x * tanh(softplus(x))` (Misra, arXiv:1908.08681).
///
/// # Errors
/// As [`relu`].
pub fn mish(x: &Tensor) -> Result<Tensor> {
    Activation::Mish.apply(x)
}

/// `f(x)`.
struct Value<F>(F);

impl<F: Function> Op for Value<F> {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

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

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::run(self.0, "value", gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(First(self.0), &[&at.args[0], &at.grad])?)])
    }
}

/// `f'(x) * g`: the gradient of [`Value`].
struct First<F>(F);

impl<F: Function> Op for First<F> {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

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

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::run(self.0, "first", gpu, args)
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
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

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

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::run(self.0, "second", gpu, args)
    }
}
