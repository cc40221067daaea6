//! PatchGAN discriminator as MONAI builds it: logits of overlapping patches, and all feature maps
//! on the way for feature-matching losses (Wang et al. 2018, arXiv:1711.11585).
//!
//! Reference: MONAI `PatchDiscriminator` (Apache-2.0).
//!
//! ```text
//! x → initial_conv (w, stride 2), act → i: conv (w·2^(i+1), stride 2, last 1), norm, act
//!   → … → final_conv → logits
//! ```

use crate::adn::{Adn, ConvAdn, check_norm, norm_of};
use crate::{Architecture, Network, Shapes, count_of, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::ConvSpec;
use limpid_nn::layers::{ActivationConfig, NormConfig};
use limpid_nn::{Ctx, Init, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a MONAI patch discriminator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the logits.
    pub out_channels: usize,
    /// Channels of the first convolution; each following one has twice as many.
    pub width: usize,
    /// Convolutions between the first and the last.
    pub layers: usize,
    /// Kernel size of all convolutions but the last.
    pub kernel: usize,
    /// Kernel size of the last convolution.
    pub last_kernel: usize,
    /// Zeros around the image in all convolutions but the last.
    pub padding: usize,
    /// Normalisation after the convolutions between the first and the last.
    pub norm: NormConfig,
    /// Slope of the activations below zero.
    pub slope: f64,
    /// Offsets in the convolutions between the first and the last.
    pub bias: bool,
}

impl Default for Config {
    /// MONAI's defaults, with the width of pix2pix.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 1,
            out_channels: 1,
            width: 64,
            layers: 3,
            kernel: 4,
            last_kernel: 4,
            padding: 1,
            norm: NormConfig::Batch {},
            slope: 0.2,
            bias: false,
        }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let (first, last) = ("initial_conv.conv.weight", "final_conv.conv.weight");
        Some(Self {
            dims: rank_of(shapes, first)?,
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, last, 0)?,
            width: size_of(shapes, first, 0)?,
            layers: count_of(shapes, "", ".conv.weight"),
            kernel: size_of(shapes, first, 2)?,
            last_kernel: size_of(shapes, last, 2)?,
            norm: norm_of(shapes, "0.adn.N"),
            bias: shapes.contains_key("0.conv.bias"),
            ..Self::default()
        })
    }

    /// Channels after that many of the layers between the first and the last.
    fn channels(&self, layers: usize) -> usize {
        self.width.saturating_mul(1 << layers)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "monai_discriminator"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        PatchDiscriminator::new(self, scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        const MOST_LAYERS: usize = 16;
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("width", self.width),
            ("kernel", self.kernel),
            ("last_kernel", self.last_kernel),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if !(1..=MOST_LAYERS).contains(&self.layers) {
            at.problem("layers", format!("must be 1 to {MOST_LAYERS}, got {}", self.layers));
        } else {
            check_norm(self.norm, &[self.channels(1)], at);
        }
        if !self.slope.is_finite() {
            at.problem("slope", format!("must be finite, got {}", self.slope));
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct PatchDiscriminator {
    stages: Vec<ConvAdn>,
}

impl PatchDiscriminator {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let activation = ActivationConfig::LeakyRelu { slope: c.slope };
        let conv = |name: &str,
                    [inputs, outputs, stride]: [usize; 3],
                    bias: bool,
                    norm: Option<NormConfig>| {
            let last = norm.is_none();
            let (kernel, padding) = match last {
                true => (c.last_kernel, (c.last_kernel - 1) / 2),
                false => (c.kernel, c.padding),
            };
            let spec = ConvSpec {
                stride: vec![stride; c.dims],
                padding: vec![padding; c.dims],
                ..ConvSpec::unit(c.dims)
            };
            let scope = scope.pp(name);
            let adn = norm.map(|norm| Adn { norm, activation });
            let kernel = vec![kernel; c.dims];
            let conv = ConvAdn::with(inputs, outputs, &kernel, spec, bias, adn, &scope)?;
            initialise(&scope, bias, norm)?;
            Ok::<_, limpid_nn::Error>(conv)
        };
        let none = Some(NormConfig::None {});
        let mut stages = vec![conv("initial_conv", [c.in_channels, c.width, 2], true, none)?];
        for i in 0..c.layers {
            let stride = if i + 1 == c.layers { 1 } else { 2 };
            let sizes = [c.channels(i), c.channels(i + 1), stride];
            stages.push(conv(&i.to_string(), sizes, c.bias, Some(c.norm))?);
        }
        let sizes = [c.channels(c.layers), c.out_channels, 1];
        stages.push(conv("final_conv", sizes, true, None)?);
        Ok(Self { stages })
    }

    /// The feature maps of all convolutions; the last are the logits.
    ///
    /// # Shapes
    /// `x [N, in, s…]` → `[N, width, s/2…]`, …, `[N, out, s'…]`
    ///
    /// # Errors
    /// [`limpid_nn::Error::Shape`] if `x` has other channels or is too small.
    pub fn features(&self, x: &Tensor, ctx: &Ctx) -> Result<Vec<Tensor>> {
        let mut maps: Vec<Tensor> = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let next = stage.forward(maps.last().unwrap_or(x), ctx)?;
            maps.push(next);
        }
        Ok(maps)
    }
}

/// Narrow normal weights, as the reference draws them.
fn initialise(scope: &Scope, bias: bool, norm: Option<NormConfig>) -> Result<()> {
    const STD: f64 = 0.02;
    let conv = scope.pp("conv");
    conv.redraw("weight", Init::Normal { mean: 0.0, std: STD })?;
    if bias {
        conv.redraw("bias", Init::Zeros)?;
    }
    if norm == Some(NormConfig::Batch {}) {
        scope.pp("adn").pp("N").redraw("weight", Init::Normal { mean: 1.0, std: STD })?;
    }
    Ok(())
}

impl Network for PatchDiscriminator {
    /// The logits alone.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = x.clone();
        for stage in &self.stages {
            h = stage.forward(&h, ctx)?;
        }
        Ok(h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{self, Golden};
    use candle_core::{DType, Device};

    #[test]
    fn equals_monai() {
        let Some(golden) = Golden::open("engine/net_monai_patchgan") else { return };
        let weights = golden.weights("param.");
        let crate::AnyConfig::MonaiDiscriminator(config) =
            golden::recognised(&golden.name, &weights)
        else {
            panic!("not recognised as a discriminator");
        };
        golden::check_network(&golden, &weights, |scope| {
            Ok(Box::new(PatchDiscriminator::new(&config, scope)?))
        });
    }

    #[test]
    fn every_convolution_gives_a_feature_map() {
        let config = Config { width: 4, layers: 2, dims: 3, ..Config::default() };
        let (_, net) = golden::fresh(|scope| PatchDiscriminator::new(&config, scope));
        let x = Tensor::ones((1, 1, 17, 16, 18), DType::F32, &Device::Cpu).unwrap();
        let maps = net.features(&x, &Ctx::eval()).unwrap();
        let sizes: Vec<_> = maps.iter().map(|m| m.dims().to_vec()).collect();
        assert_eq!(
            sizes,
            [vec![1, 4, 8, 8, 9], vec![1, 8, 4, 4, 4], vec![1, 16, 3, 3, 3], vec![1, 1, 2, 2, 2]]
        );
        let logits = net.forward(&x, &Ctx::eval()).unwrap();
        let difference = (&maps[3] - logits).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0);
    }

    #[test]
    fn shapes_tell_the_configuration() {
        let config = Config { bias: true, last_kernel: 1, layers: 4, ..Config::default() };
        golden::round_trip(&config, Config::recognise);
    }

    #[test]
    fn weights_start_narrow() {
        let (params, _) = golden::fresh(|scope| PatchDiscriminator::new(&Config::default(), scope));
        let weight = params.get("1.conv.weight").unwrap().tensor();
        let std = weight.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!((std - 0.02).abs() < 1e-3, "{std}");
    }
}
