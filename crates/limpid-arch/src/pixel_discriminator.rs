//! The discriminator of single pixels of the CycleGAN and pix2pix code ("1×1 PixelGAN", Isola et al.
//! 2017, arXiv:1611.07004).
//!
//! Reference: junyanz/pytorch-CycleGAN-and-pix2pix `PixelDiscriminator` (BSD).
//!
//! ```text
//! x [N, in, s…] → conv 1 (f), act → conv 1 (2f), norm, act → conv 1 → logits [N, 1, s…]
//! ```
//! Activations are leaky ReLU of slope 0.2.

use crate::cyclegan::{self, Normalisation};
use crate::{Architecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, leaky_relu};
use limpid_nn::layers::{Conv, Norm};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the discriminator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels it is given: of both images, if it judges a pair.
    pub in_channels: usize,
    /// Channels of the first layer.
    pub features: usize,
    /// Normalisation after the second convolution.
    pub norm: Normalisation,
}

impl Default for Config {
    /// That of pix2pix on pairs of colour images.
    fn default() -> Self {
        Self { dims: 2, in_channels: 6, features: 64, norm: Normalisation::Batch }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let single = |key: &str| size_of(shapes, key, 2) == Some(1);
        if !(single("net.0.weight") && single("net.2.weight") && single("net.5.weight")) {
            return None;
        }
        Some(Self {
            dims: rank_of(shapes, "net.0.weight")?,
            in_channels: size_of(shapes, "net.0.weight", 1)?,
            features: size_of(shapes, "net.0.weight", 0)?,
            norm: Normalisation::recognise(shapes, "net.2", "net.3"),
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "pixel_discriminator"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        PixelDiscriminator::new(self, scope).map(drop)
    }

    fn own_key(&self, key: &str) -> Option<String> {
        self.norm.own_key(key)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value) in [("in_channels", self.in_channels), ("features", self.features)] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct PixelDiscriminator {
    first: Conv,
    second: Conv,
    norm: Norm,
    logits: Conv,
}

impl PixelDiscriminator {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = cyclegan::initialised(scope).pp("net");
        let (f, bias) = (c.features, c.norm.bias());
        let conv = |inputs: usize, outputs: usize, bias: bool, at: usize| {
            Conv::same(c.dims, inputs, outputs, 1, bias, &scope.pp(at))
        };
        Ok(Self {
            first: conv(c.in_channels, f, true, 0)?,
            second: conv(f, 2 * f, bias, 2)?,
            norm: c.norm.layer(2 * f, &scope.pp(3))?,
            logits: conv(2 * f, 1, bias, 5)?,
        })
    }
}

impl Network for PixelDiscriminator {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let h = leaky_relu(&self.first.forward(x)?, 0.2)?;
        let leaky = Activation::LeakyRelu { slope: 0.2 };
        self.logits.forward(&self.norm.forward_act(&self.second.forward(&h)?, leaky, ctx)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyConfig;
    use crate::golden::gan;

    #[test]
    fn equals_the_cyclegan_code() {
        for name in ["cg_pixel_batch", "cg_pixel_instance"] {
            gan::check(name, |config, scope| match config {
                AnyConfig::PixelDiscriminator(c) => {
                    Ok(Box::new(PixelDiscriminator::new(c, scope)?))
                }
                other => panic!("{name}: {other:?}"),
            });
        }
    }
}
