//! The PatchGAN discriminator of NectarGAN, which judges an image beside the one it was made from.
//!
//! Paper: Isola et al. 2017, arXiv:1611.07004. Reference: ZacharyBork/NectarGAN `Discriminator`
//! (Apache-2.0); keys `model.N` count every layer of its `Sequential`.
//!
//! ```text
//! x, y [N, C, s…] → cat → conv 4, stride 2, act (f)
//!   → (conv 4, stride 2, instance norm, act) × layers-2, the same once with stride 1
//!   → conv 4 → logits [N, 1, …]
//! ```
//! Borders are mirrored, activations are leaky ReLU of slope 0.2. Unlike the canonical one, the
//! stride-1 layer counts among the layers: three see 34 pixels, and four the usual 70.

use crate::cubic::{Cubic, bordered};
use crate::{Architecture, Network, Shapes, mixed, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, Pad};
use limpid_nn::layers::{Conv, Norm, NormConfig};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the discriminator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of each of the two images.
    pub channels: usize,
    /// Channels of the first layer; they double from layer to layer.
    pub features: usize,
    /// Layers before the one that makes the logits.
    pub layers: usize,
    /// Most channels of a layer.
    pub max_features: usize,
}

impl Default for Config {
    /// NectarGAN's defaults.
    fn default() -> Self {
        Self { dims: 2, channels: 3, features: 64, layers: 3, max_features: 512 }
    }
}

impl Config {
    /// The one of the paper's receptive field of 70 pixels.
    #[must_use]
    pub fn canonical() -> Self {
        Self { layers: 4, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        const FIRST: &str = "model.0.weight";
        let features = size_of(shapes, FIRST, 0)?;
        let layers = 1
            + (2..)
                .take_while(|i| shapes.contains_key(&format!("model.{i}.conv.0.weight")))
                .count();
        let last = format!("model.{}.weight", layers + 1);
        let channels = size_of(shapes, FIRST, 1)?;
        let fits = size_of(shapes, FIRST, 2) == Some(4) && size_of(shapes, &last, 0) == Some(1);
        if !fits || channels % 2 == 1 {
            return None;
        }
        // the limit shows where the channels do not double
        let widths: Vec<usize> = (2..=layers)
            .filter_map(|i| size_of(shapes, &format!("model.{i}.conv.0.weight"), 0))
            .collect();
        let doubled = (1..).map(|i| features << i.min(32)).zip(&widths);
        let capped = doubled.filter(|(d, w)| d != *w).map(|(_, w)| *w).next();
        let most = widths.iter().copied().fold(Self::default().max_features, usize::max);
        Some(Self {
            dims: rank_of(shapes, FIRST)?,
            channels: channels / 2,
            features,
            layers,
            max_features: capped.unwrap_or(most),
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "patch_gan"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        PatchGan::new(self, scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value) in [
            ("channels", self.channels),
            ("features", self.features),
            ("max_features", self.max_features),
        ] {
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
pub struct PatchGan {
    layers: Vec<(Conv, Norm)>,
    logits: Conv,
}

impl PatchGan {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("model");
        let cubic = |stride| Cubic { dims: c.dims, kernel: 4, stride, padding: 0 };
        let mut width = c.features;
        let first = cubic(2).conv(2 * c.channels, width, true, &scope.pp(0))?;
        let mut layers = vec![(first, Norm::None)];
        for i in 1..c.layers {
            let next = (2 * width).min(c.max_features);
            let stride = if i + 1 == c.layers { 1 } else { 2 };
            let block = scope.pp(i + 1).pp("conv");
            let norm = Norm::new(NormConfig::Instance { affine: false }, next, &block.pp("1"))?;
            layers.push((cubic(stride).conv(width, next, false, &block.pp("0"))?, norm));
            width = next;
        }
        let logits = cubic(1).conv(width, 1, true, &scope.pp(c.layers + 1))?;
        Ok(Self { layers, logits })
    }

    /// Judges `y` as made from `x`.
    ///
    /// # Shapes
    /// `x`, `y [N, C, s…]` → logits `[N, 1, …]`
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ in shape, do not fit the network or are too small for it.
    pub fn judge(&self, x: &Tensor, y: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        if x.dims() != y.dims() {
            let expected = format!("two images of one shape, {:?}", x.dims());
            return Err(Error::shape("patch_gan", expected, y.dims()));
        }
        let pair = limpid_kernels::cat(&[x, y], 1)?;
        mixed(&pair, || self.forward(&pair, ctx))
    }
}

impl Network for PatchGan {
    /// Takes both images at once, one after the other along the channels.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = x.clone();
        for (conv, norm) in &self.layers {
            h = conv.forward(&bordered(&h, 1, Pad::Reflect)?)?;
            h = norm.forward_act(&h, Activation::LeakyRelu { slope: 0.2 }, ctx)?;
        }
        self.logits.forward(&bordered(&h, 1, Pad::Reflect)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyConfig;
    use crate::golden::{self, gan};
    use crate::golden::{Golden, filled, recognised};
    use candle_core::Var;

    #[test]
    fn equals_nectargan() {
        for name in ["patchgan_n1", "patchgan_n2", "patchgan_n3", "patchgan_n4", "patchgan_n5"] {
            let Some(golden) = Golden::open(&format!("gan/{name}")) else { return };
            let weights = golden.weights("weights.");
            let AnyConfig::PatchGan(config) = recognised(name, &weights) else { panic!("{name}") };
            let (params, net) = filled(&weights, |scope| PatchGan::new(&config, scope));
            let [x, y] =
                ["x", "y"].map(|k| Var::from_tensor(golden.tensor(&format!("in.{k}"))).unwrap());
            let logits = net.judge(x.as_tensor(), y.as_tensor(), &Ctx::eval()).unwrap();
            golden.close("logits", &logits, golden.tensor("out.y"), gan::OUTPUT);
            golden.gradients(
                &params,
                &[("in.x", &x), ("in.y", &y)],
                (&logits, golden.tensor("in.target")),
                ("grad.", gan::gradient_tolerance(&golden, "eval")),
            );
        }
    }

    #[test]
    fn sizes_are_those_of_the_reference() {
        assert_eq!(golden::parameters(&Config::default()), 665_665);
        let device = candle_core::Device::Cpu;
        for (layers, side) in [(1, 127), (2, 126), (3, 62), (4, 30), (5, 14)] {
            let config = Config { features: 1, layers, ..Config::default() };
            let params = limpid_nn::Params::new();
            let stream = limpid_kernels::rng::Stream::new(0, "test");
            let scope = params.scope(stream, candle_core::DType::F32, &device);
            let net = PatchGan::new(&config, &scope).unwrap();
            let x = Tensor::zeros((1, 3, 256, 256), candle_core::DType::F32, &device).unwrap();
            let logits = net.judge(&x, &x, &Ctx::eval()).unwrap();
            assert_eq!(logits.dims(), [1, 1, side, side]);
        }
    }
}
