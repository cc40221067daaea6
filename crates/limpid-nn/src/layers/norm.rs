//! Normalisation layers and the configuration that picks one.

use crate::watch::see;
use crate::{Ctx, Init, Param, Result, Scope};
use candle_core::Tensor;
use limpid_kernels::{Activation as Pointwise, widened};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Group normalisation (Wu & He 2018), `weight [C]`, `bias [C]`; `groups = C` is instance
/// normalisation.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    affine: Option<(Param, Param)>,
}

impl GroupNorm {
    /// Normalises `channels` in `groups`.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(
        channels: usize,
        groups: usize,
        eps: f64,
        affine: bool,
        scope: &Scope,
    ) -> Result<Self> {
        Ok(Self { groups, eps, affine: affine_params(&[channels], affine, scope)? })
    }

    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_act(x, Pointwise::Identity)
    }

    /// A function of the normalised `x`, in one operation.
    ///
    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_act(&self, x: &Tensor, f: Pointwise) -> Result<Tensor> {
        self.forward_act_cat(&[x], f)
    }

    /// As [`GroupNorm::forward_act`] of tensors joined along the channels, which need no join.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the channels do not fit, or the tensors each other.
    pub fn forward_act_cat(&self, parts: &[&Tensor], f: Pointwise) -> Result<Tensor> {
        let (w, b) = split(&self.affine);
        self.run(parts, w.as_ref(), b.as_ref(), f)
    }

    /// A function of the normalised `x` times `1 + scale` plus `shift`, in one operation: how
    /// diffusion networks tell a block the time (Dhariwal & Nichol 2021).
    ///
    /// # Shapes
    /// `x [N, C, s…]`, `scale [N or 1, C]`, `shift [N or 1, C]` → as `x`
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_scale_shift(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        f: Pointwise,
    ) -> Result<Tensor> {
        let (scale, shift) = (widened(scale)?, widened(shift)?);
        let factor = (scale + 1.0)?;
        let (w, b) = match split(&self.affine) {
            (Some(w), Some(b)) => {
                (factor.broadcast_mul(&w)?, factor.broadcast_mul(&b)?.broadcast_add(&shift)?)
            }
            _ => (factor, shift),
        };
        // one for all samples is one per channel
        let per_channel = |t: Tensor| if t.dims()[0] == 1 { t.squeeze(0) } else { Ok(t) };
        self.run(&[x], Some(&per_channel(w)?), Some(&per_channel(b)?), f)
    }

    fn run(
        &self,
        parts: &[&Tensor],
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        f: Pointwise,
    ) -> Result<Tensor> {
        let y = limpid_kernels::group_norm_act_cat(parts, self.groups, weight, bias, self.eps, f)?;
        Ok(watched(&self.affine, y))
    }
}

/// Layer normalisation over the trailing dimensions, `weight` and `bias` of their shape.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    dims: usize,
    eps: f64,
    affine: Option<(Param, Param)>,
}

impl LayerNorm {
    /// Normalises over the trailing dimensions of the given shape.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(shape: &[usize], eps: f64, affine: bool, scope: &Scope) -> Result<Self> {
        Ok(Self { dims: shape.len(), eps, affine: affine_params(shape, affine, scope)? })
    }

    /// # Shapes
    /// `x […, shape]` → the same
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the trailing dimensions differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (w, b) = split(&self.affine);
        let y = limpid_kernels::layer_norm(x, self.dims, w.as_ref(), b.as_ref(), self.eps)?;
        Ok(watched(&self.affine, y))
    }
}

/// Batch normalisation (Ioffe & Szegedy 2015) with running statistics, as PyTorch: momentum on the
/// new value, running variance unbiased.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    eps: f64,
    momentum: f64,
    affine: Option<(Param, Param)>,
    running_mean: Param,
    running_var: Param,
}

impl BatchNorm {
    /// Normalises `channels`; PyTorch's defaults are `eps = 1e-5`, `momentum = 0.1`.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(
        channels: usize,
        eps: f64,
        momentum: f64,
        affine: bool,
        scope: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            eps,
            momentum,
            affine: affine_params(&[channels], affine, scope)?,
            running_mean: scope.buffer("running_mean", &[channels], Init::Zeros)?,
            running_var: scope.buffer("running_var", &[channels], Init::Ones)?,
        })
    }

    /// Batch statistics in a training pass (and updates the running ones), running statistics
    /// otherwise.
    ///
    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the channels do not fit.
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.forward_act(x, Pointwise::Identity, ctx)
    }

    /// A function of the normalised `x`, in one operation.
    ///
    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn forward_act(&self, x: &Tensor, f: Pointwise, ctx: &Ctx) -> Result<Tensor> {
        let (w, b) = split(&self.affine);
        let (w, b) = (w.as_ref(), b.as_ref());
        if !ctx.is_train() {
            let (mean, var) = (self.running_mean.tensor(), self.running_var.tensor());
            return limpid_kernels::batch_norm_eval_act(x, &mean, &var, w, b, self.eps, f);
        }
        let (y, mean, var) = limpid_kernels::batch_norm_train_act(x, w, b, self.eps, f)?;
        let n = (x.elem_count() / x.dims()[1].max(1)) as f64;
        let unbiased = (var.detach() * (n / (n - 1.0).max(1.0)))?;
        see(&self.running_mean, &y);
        if !limpid_kernels::autograd::is_again() {
            self.track(&self.running_mean, &mean.detach())?;
            self.track(&self.running_var, &unbiased)?;
        }
        Ok(y)
    }

    fn track(&self, running: &Param, now: &Tensor) -> Result<()> {
        let kept = (running.tensor() * (1.0 - self.momentum))?;
        running.set(&(kept + (now * self.momentum)?)?)
    }
}

/// The output, looked at if the layer has a name to report.
fn watched(affine: &Option<(Param, Param)>, y: Tensor) -> Tensor {
    if let Some((weight, _)) = affine {
        see(weight, &y);
    }
    y
}

/// Which normalisation a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NormConfig {
    /// None.
    None {},
    /// Batch normalisation with running statistics.
    Batch {},
    /// Instance normalisation.
    Instance {
        /// Learn a factor and an offset per channel.
        #[serde(default)]
        affine: bool,
    },
    /// Group normalisation.
    Group {
        /// Number of groups; must divide the channels.
        groups: usize,
    },
    /// All channels of a sample together: one group.
    Layer {},
}

/// A normalisation picked by configuration.
#[derive(Clone, Debug)]
pub enum Norm {
    /// Identity.
    None,
    /// Batch normalisation.
    Batch(BatchNorm),
    /// Group, instance or layer normalisation.
    Group(GroupNorm),
}

impl Norm {
    /// Builds the configured normalisation with `eps = 1e-5`.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(config: NormConfig, channels: usize, scope: &Scope) -> Result<Self> {
        const EPS: f64 = 1e-5;
        Ok(match config {
            NormConfig::None {} => Self::None,
            NormConfig::Batch {} => Self::Batch(BatchNorm::new(channels, EPS, 0.1, true, scope)?),
            NormConfig::Instance { affine } => {
                Self::Group(GroupNorm::new(channels, channels, EPS, affine, scope)?)
            }
            NormConfig::Group { groups } => {
                Self::Group(GroupNorm::new(channels, groups, EPS, true, scope)?)
            }
            NormConfig::Layer {} => Self::Group(GroupNorm::new(channels, 1, EPS, true, scope)?),
        })
    }

    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the channels do not fit.
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.forward_act(x, Pointwise::Identity, ctx)
    }

    /// A function of the normalised `x`, in one operation.
    ///
    /// # Shapes
    /// `x [N, C, s…]` → the same
    ///
    /// # Errors
    /// As [`Norm::forward`].
    pub fn forward_act(&self, x: &Tensor, f: Pointwise, ctx: &Ctx) -> Result<Tensor> {
        match self {
            Self::None => f.apply(x),
            Self::Batch(n) => n.forward_act(x, f, ctx),
            Self::Group(n) => n.forward_act(x, f),
        }
    }
}

fn affine_params(shape: &[usize], affine: bool, scope: &Scope) -> Result<Option<(Param, Param)>> {
    affine
        .then(|| {
            Ok((
                scope.param("weight", shape, Init::Ones)?,
                scope.param("bias", shape, Init::Zeros)?,
            ))
        })
        .transpose()
}

fn split(affine: &Option<(Param, Param)>) -> (Option<Tensor>, Option<Tensor>) {
    match affine {
        Some((w, b)) => (Some(w.tensor()), Some(b.tensor())),
        None => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Params;
    use candle_core::{DType, Device};
    use limpid_kernels::gradcheck::test_tensor;
    use limpid_kernels::rng::Stream;

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.dims(), b.dims());
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn scale_and_shift_apply_after_the_normalisation() {
        let x = test_tensor(1, &[2, 4, 3, 3]).unwrap();
        for (affine, batch) in [(true, 2), (true, 1), (false, 2), (false, 1)] {
            let params = Params::new();
            let scope = params.scope(Stream::new(1, "norm"), DType::F64, &Device::Cpu);
            let norm = GroupNorm::new(4, 2, 1e-5, affine, &scope).unwrap();
            if affine {
                for (seed, name) in [(2, "weight"), (3, "bias")] {
                    let value = test_tensor(seed, &[4]).unwrap();
                    params.get(name).unwrap().set(&value).unwrap();
                }
            }
            let scale = test_tensor(4, &[batch, 4]).unwrap();
            let shift = test_tensor(5, &[batch, 4]).unwrap();
            let wide = |t: &Tensor| t.reshape((batch, 4, 1, 1)).unwrap();
            let want = norm.forward(&x).unwrap();
            let want = want.broadcast_mul(&(wide(&scale) + 1.0).unwrap()).unwrap();
            let want = want.broadcast_add(&wide(&shift)).unwrap();
            let want = limpid_kernels::silu(&want).unwrap();
            let y = norm.forward_scale_shift(&x, &scale, &shift, Pointwise::Silu).unwrap();
            assert!(distance(&y, &want) < 1e-13);
        }
    }
}
