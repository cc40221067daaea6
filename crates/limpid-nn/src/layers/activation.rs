//! Activation functions picked by configuration.

use super::Norm;
use crate::{Ctx, Init, Param, Result, Scope};
use candle_core::Tensor;
use limpid_kernels::Activation as Pointwise;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which activation a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ActivationConfig {
    /// `max(x, 0)`.
    Relu {},
    /// `x` above zero, `slope·x` below.
    LeakyRelu {
        /// Slope below zero.
        slope: f64,
    },
    /// As leaky ReLU with one learned slope.
    Prelu {},
    /// `x·sigmoid(x)`.
    Silu {},
    /// `x·Φ(x)`.
    Gelu {},
}

/// An activation, with its parameter if it has one.
#[derive(Clone, Debug)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// Leaky ReLU of a slope.
    LeakyRelu(f64),
    /// Learned slope.
    Prelu(PRelu),
    /// `x·sigmoid(x)`.
    Silu,
    /// `x·Φ(x)`.
    Gelu,
}

impl Activation {
    /// Builds the configured activation.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(config: ActivationConfig, scope: &Scope) -> Result<Self> {
        Ok(match config {
            ActivationConfig::Relu {} => Self::Relu,
            ActivationConfig::LeakyRelu { slope } => Self::LeakyRelu(slope),
            ActivationConfig::Prelu {} => Self::Prelu(PRelu::new(1, scope)?),
            ActivationConfig::Silu {} => Self::Silu,
            ActivationConfig::Gelu {} => Self::Gelu,
        })
    }

    /// Applies it element by element.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_norm(&Norm::None, x, &Ctx::eval())
    }

    /// Applies it to what a normalisation makes of `x`: in one operation, unless it has a parameter.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn forward_norm(&self, norm: &Norm, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let pointwise = match self {
            Self::Relu => Pointwise::Relu,
            Self::LeakyRelu(slope) => Pointwise::LeakyRelu { slope: *slope },
            Self::Prelu(p) => return p.forward(&norm.forward(x, ctx)?),
            Self::Silu => Pointwise::Silu,
            Self::Gelu => Pointwise::Gelu,
        };
        norm.forward_act(x, pointwise, ctx)
    }
}

/// Parametric ReLU, `weight [1]` or `[C]`, initially 0.25.
#[derive(Clone, Debug)]
pub struct PRelu(Param);

impl PRelu {
    /// One slope for all channels (`slopes = 1`) or one for each.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(slopes: usize, scope: &Scope) -> Result<Self> {
        Ok(Self(scope.param("weight", &[slopes], Init::Const(0.25))?))
    }

    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        limpid_kernels::prelu(x, &self.0.tensor())
    }
}
