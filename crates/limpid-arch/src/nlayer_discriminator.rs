//! The PatchGAN discriminator of the CycleGAN and pix2pix code (Isola et al. 2017,
//! arXiv:1611.07004).
//!
//! Reference: junyanz/pytorch-CycleGAN-and-pix2pix `NLayerDiscriminator` (BSD); keys `model.N`
//! count every layer of its `Sequential`.
//!
//! ```text
//! x [N, in, s…] → conv 4, stride 2 (f), act → (conv 4, stride 2, norm, act) × layers-1
//!   → conv 4 (min(2^layers, 8)·f), norm, act → conv 4 → logits [N, 1, …], about s/2^layers
//! ```
//! Activations are leaky ReLU of slope 0.2; three layers see 70 pixels.

use crate::cubic::Cubic;
use crate::cyclegan::{self, Normalisation};
use crate::{Architecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::Activation;
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
    /// Layers that halve the image.
    pub layers: usize,
    /// Normalisation after all convolutions but the first and the last.
    pub norm: Normalisation,
}

impl Default for Config {
    /// The `basic` discriminator of pix2pix on pairs of colour images, which sees 70 pixels.
    fn default() -> Self {
        Self { dims: 2, in_channels: 6, features: 64, layers: 3, norm: Normalisation::Batch }
    }
}

impl Config {
    /// The one of CycleGAN on single colour images.
    #[must_use]
    pub fn cyclegan() -> Self {
        Self { in_channels: 3, norm: Normalisation::Instance, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let conv = |i: usize| format!("model.{}.weight", (3 * i).saturating_sub(1));
        let convs = (0..).take_while(|i| size_of(shapes, &conv(*i), 2) == Some(4)).count();
        let logits = size_of(shapes, &conv(convs.checked_sub(1)?), 0)?;
        if convs < 3 || logits != 1 {
            return None;
        }
        Some(Self {
            dims: rank_of(shapes, &conv(0))?,
            in_channels: size_of(shapes, &conv(0), 1)?,
            features: size_of(shapes, &conv(0), 0)?,
            layers: convs - 2,
            norm: Normalisation::recognise(shapes, "model.2", "model.3"),
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "nlayer_discriminator"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        NlayerDiscriminator::new(self, scope).map(drop)
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
        if !(1..=16).contains(&self.layers) {
            at.problem("layers", format!("must be 1 to 16, got {}", self.layers));
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct NlayerDiscriminator {
    layers: Vec<(Conv, Norm)>,
    logits: Conv,
}

impl NlayerDiscriminator {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = cyclegan::initialised(scope).pp("model");
        let mut inputs = c.in_channels;
        let mut layers = Vec::with_capacity(c.layers + 1);
        for i in 0..=c.layers {
            let outputs = c.features * 8.min(1 << i.min(3));
            let stride = if i < c.layers { 2 } else { 1 };
            let cubic = Cubic { dims: c.dims, kernel: 4, stride, padding: 1 };
            let (at, first) = ((3 * i).saturating_sub(1), i == 0);
            let conv = cubic.conv(inputs, outputs, first || c.norm.bias(), &scope.pp(at))?;
            let norm = if first { Normalisation::None } else { c.norm };
            layers.push((conv, norm.layer(outputs, &scope.pp(at + 1))?));
            inputs = outputs;
        }
        let cubic = Cubic { dims: c.dims, kernel: 4, stride: 1, padding: 1 };
        let logits = cubic.conv(inputs, 1, true, &scope.pp(3 * c.layers + 2))?;
        Ok(Self { layers, logits })
    }
}

impl Network for NlayerDiscriminator {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = x.clone();
        for (conv, norm) in &self.layers {
            h = norm.forward_act(&conv.forward(&h)?, Activation::LeakyRelu { slope: 0.2 }, ctx)?;
        }
        self.logits.forward(&h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyConfig;
    use crate::golden::{self, gan};

    #[test]
    fn equals_the_cyclegan_code() {
        for name in ["cg_nlayer3_batch", "cg_nlayer3_instance", "cg_nlayer4_none"] {
            gan::check(name, |config, scope| match config {
                AnyConfig::NlayerDiscriminator(c) => {
                    Ok(Box::new(NlayerDiscriminator::new(c, scope)?))
                }
                other => panic!("{name}: {other:?}"),
            });
        }
    }

    #[test]
    fn the_default_has_the_published_size() {
        assert_eq!(golden::parameters(&Config::default()), 2_768_705);
    }

    #[test]
    fn running_statistics_of_old_instance_norms_are_left_out() {
        let config = Config { features: 2, ..Config::cyclegan() };
        let mut shapes = config.shapes().unwrap();
        shapes.insert("model.3.running_mean".into(), vec![4]);
        shapes.insert("model.3.running_var".into(), vec![4]);
        let best = &crate::recognise(&shapes)[0];
        assert_eq!(best.mismatches, 0);
        assert!(matches!(&best.config, AnyConfig::NlayerDiscriminator(c) if *c == config));
    }

    #[test]
    fn an_image_that_is_too_small_is_an_error() {
        let params = limpid_nn::Params::new();
        let stream = limpid_kernels::rng::Stream::new(0, "test");
        let device = candle_core::Device::Cpu;
        let scope = params.scope(stream, candle_core::DType::F32, &device);
        let config = Config { features: 2, ..Config::default() };
        let net = NlayerDiscriminator::new(&config, &scope).unwrap();
        let x = Tensor::zeros((1, 6, 8, 8), candle_core::DType::F32, &device).unwrap();
        let error = net.forward(&x, &Ctx::eval()).unwrap_err();
        assert!(matches!(error, limpid_nn::Error::Shape { op: "conv", .. }), "{error}");
    }
}
