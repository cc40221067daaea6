//! DnCNN: residual learning of noise by plain convolutions (Zhang et al. 2017, arXiv:1608.03981).
//!
//! Reference: KAIR `network_dncnn.py` (MIT). Keys `model.N` count every layer of its `Sequential`,
//! activations included.
//!
//! ```text
//! x [N, in, s…] → conv, act → (conv, [norm], act) × depth-2 → conv → n;  y = x - n
//! ```

use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::Activation;
use limpid_nn::layers::{BatchNorm, Conv};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a DnCNN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the image.
    pub channels: usize,
    /// Channels inside.
    pub width: usize,
    /// Convolutions in all.
    pub depth: usize,
    /// Batch normalisation in the middle layers.
    pub batch_norm: bool,
}

impl Default for Config {
    /// DnCNN-S of the paper without batch normalisation, as KAIR's released weights.
    fn default() -> Self {
        Self { dims: 2, channels: 1, width: 64, depth: 17, batch_norm: false }
    }
}

impl Config {
    /// A narrow, shallow one for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self { width: 32, depth: 8, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let dims = rank_of(shapes, "model.0.weight")?;
        let batch_norm = shapes.contains_key("model.3.running_mean");
        let depth = shapes
            .iter()
            .filter(|(k, s)| {
                k.starts_with("model.") && k.ends_with(".weight") && s.len() == dims + 2
            })
            .count();
        let channels = size_of(shapes, "model.0.weight", 1)?;
        let width = size_of(shapes, "model.0.weight", 0)?;
        Some(Self { dims, channels, width, depth, batch_norm })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "dncnn"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        DnCnn::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(DnCnn::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.channels
    }

    fn out_channels(&self) -> usize {
        self.channels
    }

    /// Sizes need not be multiples of anything.
    fn divisor(&self) -> Vec<usize> {
        vec![1; self.dims]
    }

    /// `2·depth + 1` per axis.
    fn receptive_field(&self) -> Vec<usize> {
        vec![2 * self.depth + 1; self.dims]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 3 * self.width
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value, least) in
            [("channels", self.channels, 1), ("width", self.width, 1), ("depth", self.depth, 2)]
        {
            if value < least {
                at.problem(key, format!("must be at least {least}, got {value}"));
            }
        }
    }
}

/// Convolutions with ReLU in between, and batch normalisation between the inner ones; also the
/// body of FFDNet.
#[derive(Debug)]
pub(crate) struct Trunk {
    layers: Vec<(Conv, Option<BatchNorm>)>,
}

impl Trunk {
    /// Layers of the given width from and to so many channels; the rest is as `config` says.
    pub(crate) fn new(config: &Config, [from, to]: [usize; 2], scope: &Scope) -> Result<Self> {
        let mut index = 0;
        let layers = (0..config.depth)
            .map(|i| {
                let last = i + 1 == config.depth;
                let inputs = if i == 0 { from } else { config.width };
                let outputs = if last { to } else { config.width };
                let conv = Conv::same(config.dims, inputs, outputs, 3, true, &scope.pp(index))?;
                let norm = (config.batch_norm && i > 0 && !last)
                    .then(|| BatchNorm::new(outputs, 1e-4, 0.9, true, &scope.pp(index + 1)))
                    .transpose()?;
                index += if norm.is_some() { 3 } else { 2 };
                Ok((conv, norm))
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    pub(crate) fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = x.clone();
        for (i, (conv, norm)) in self.layers.iter().enumerate() {
            h = conv.forward(&h)?;
            let last = i + 1 == self.layers.len();
            let f = if last { Activation::Identity } else { Activation::Relu };
            h = match norm {
                Some(norm) => norm.forward_act(&h, f, ctx)?,
                None => f.apply(&h)?,
            };
        }
        Ok(h)
    }
}

/// The network.
#[derive(Debug)]
pub struct DnCnn(Trunk);

impl DnCnn {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(config: &Config, scope: &Scope) -> Result<Self> {
        let channels = [config.channels; 2];
        Ok(Self(Trunk::new(config, channels, &scope.pp("model"))?))
    }
}

impl Network for DnCnn {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        limpid_kernels::add(x, &limpid_kernels::scale(&self.0.forward(x, ctx)?, -1.0)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::golden;

    #[test]
    fn equals_kair() {
        golden::check("net_dncnn_nobn");
        golden::check("net_dncnn_bn");
    }
}
