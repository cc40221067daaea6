//! Inception-v3, the network behind the Fréchet inception distance (Szegedy et al. 2016,
//! arXiv:1512.00567).
//!
//! References: torchvision `inception_v3` (BSD-3-Clause), whose keys these are, and the variant of
//! pytorch-fid (Apache-2.0) for the weights that the distance is defined with. The weights come from
//! the user.
//!
//! ```text
//! x [N, 3, h, w] → convs 3 (32, 32, 64), pool, convs (80, 192), pool
//!   → Mixed_5b…5d (35² of 299²) → Mixed_6a…6e (17²) → Mixed_7a…7c (8²)
//!   → mean = features [N, 2048] → fc = logits [N, classes]
//! ```
//! A convolution is followed by batch normalisation and ReLU. From 75 pixels on, any size works; the
//! published weights are for 299.

mod blocks;

use crate::{Architecture, Shapes, reference_key, size_of};
use blocks::{ConvBlock, Mixed, MixedKind, Shape};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{PoolSpec, adaptive_avg_pool, avg_pool, max_pool};
use limpid_nn::layers::Linear;
use limpid_nn::{Ctx, Error, Init, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Channels of the features.
const FEATURES: usize = 2048;

/// Which of the two networks of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// torchvision's.
    Torchvision,
    /// That of the Fréchet inception distance: averages leave the border out, and the last pool
    /// takes maxima.
    Fid,
}

/// Settings of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which network.
    pub variant: Variant,
    /// Classes.
    pub classes: usize,
    /// The second classifier, which only training uses.
    pub auxiliary: bool,
    /// Images come with mean and deviation of ImageNet, and are brought to `[-1, 1]` first; else
    /// they are in that range.
    pub transform_input: bool,
}

impl Default for Config {
    /// torchvision's published weights.
    fn default() -> Self {
        Self {
            variant: Variant::Torchvision,
            classes: 1000,
            auxiliary: true,
            transform_input: true,
        }
    }
}

impl Config {
    /// The weights of the Fréchet inception distance, for images in `[-1, 1]`.
    #[must_use]
    pub fn fid() -> Self {
        Self { variant: Variant::Fid, classes: 1008, auxiliary: false, transform_input: false }
    }

    /// The configuration that a checkpoint's shapes belong to. 1008 classes are those of the
    /// distance's weights.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let classes = size_of(shapes, "fc.weight", 0)?;
        size_of(shapes, "Mixed_7c.branch1x1.conv.weight", 0)?;
        let base = if classes == Self::fid().classes { Self::fid() } else { Self::default() };
        let auxiliary = shapes.contains_key("AuxLogits.fc.weight");
        Some(Self { classes, auxiliary, ..base })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "inception_v3"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        InceptionV3::new(self, scope).map(drop)
    }

    /// A checkpoint's second classifier is left out unless it is wanted.
    fn own_key(&self, key: &str) -> Option<String> {
        let key = reference_key(key)?;
        (self.auxiliary || !key.starts_with("AuxLogits.")).then(|| key.to_owned())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if self.classes == 0 {
            at.problem("classes", "must be at least 1");
        }
    }
}

/// What the network says of an image.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The mean of the last maps, `[N, 2048]`: "pool3", from which the distance is computed.
    pub features: Tensor,
    /// A logit per class, `[N, classes]`.
    pub logits: Tensor,
    /// The logits of the second classifier, in training.
    pub auxiliary: Option<Tensor>,
}

/// The classifier on the maps of `Mixed_6e`.
#[derive(Debug)]
struct Auxiliary {
    convs: [ConvBlock; 2],
    fc: Linear,
}

/// The network.
#[derive(Debug)]
pub struct InceptionV3 {
    transform_input: bool,
    stem: Vec<ConvBlock>,
    mixed: Vec<Mixed>,
    auxiliary: Option<Auxiliary>,
    fc: Linear,
    pool: PoolSpec,
}

impl InceptionV3 {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.initialised(|name, shape, own| {
            let std = if name == "AuxLogits.fc.weight" { 0.001 } else { 0.1 };
            match shape.len() {
                1 => own,
                _ => Init::TruncNormal { mean: 0.0, std, low: -2.0, high: 2.0 },
            }
        });
        let conv = |inputs, outputs, shape, name: &str| {
            ConvBlock::new(inputs, outputs, shape, &scope.pp(name))
        };
        let stem = vec![
            conv(3, 32, Shape::strided(3), "Conv2d_1a_3x3")?,
            conv(32, 32, Shape::bare(3), "Conv2d_2a_3x3")?,
            conv(32, 64, Shape::same(3, 3), "Conv2d_2b_3x3")?,
            conv(64, 80, Shape::bare(1), "Conv2d_3b_1x1")?,
            conv(80, 192, Shape::bare(3), "Conv2d_4a_3x3")?,
        ];
        let fid = c.variant == Variant::Fid;
        let mixed = [
            ("5b", MixedKind::A { pooled: 32 }),
            ("5c", MixedKind::A { pooled: 64 }),
            ("5d", MixedKind::A { pooled: 64 }),
            ("6a", MixedKind::B),
            ("6b", MixedKind::C { inner: 128 }),
            ("6c", MixedKind::C { inner: 160 }),
            ("6d", MixedKind::C { inner: 160 }),
            ("6e", MixedKind::C { inner: 192 }),
            ("7a", MixedKind::D),
            ("7b", MixedKind::E { maxima: false }),
            ("7c", MixedKind::E { maxima: fid }),
        ];
        let mut channels = 192;
        let mixed = mixed
            .into_iter()
            .map(|(name, kind)| {
                let scope = scope.pp(format!("Mixed_{name}"));
                let block = Mixed::new(kind, channels, !fid, &scope)?;
                channels = kind.outputs(channels);
                Ok(block)
            })
            .collect::<Result<_>>()?;
        let auxiliary = |scope: Scope| -> Result<Auxiliary> {
            let conv0 = ConvBlock::new(768, 128, Shape::bare(1), &scope.pp("conv0"))?;
            let conv1 = ConvBlock::new(128, 768, Shape::bare(5), &scope.pp("conv1"))?;
            let fc = Linear::new(768, c.classes, true, &scope.pp("fc"))?;
            Ok(Auxiliary { convs: [conv0, conv1], fc })
        };
        Ok(Self {
            transform_input: c.transform_input,
            stem,
            mixed,
            auxiliary: c.auxiliary.then(|| auxiliary(scope.pp("AuxLogits"))).transpose()?,
            fc: Linear::new(FEATURES, c.classes, true, &scope.pp("fc"))?,
            pool: PoolSpec { stride: vec![2; 2], ..PoolSpec::cubic(2, 3) },
        })
    }

    /// # Shapes
    /// `x [N, 3, h, w]` of at least 75 pixels per side
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not fit.
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Judgement> {
        match x.dims() {
            [_, 3, h, w] if *h.min(w) >= 75 => {}
            dims => return Err(Error::shape("inception_v3", "[N, 3, h, w] from 75 pixels", dims)),
        }
        let mut h = if self.transform_input { from_imagenet(x)? } else { x.clone() };
        for (i, conv) in self.stem.iter().enumerate() {
            h = conv.forward(&h, ctx)?;
            if i == 2 || i == 4 {
                h = max_pool(&h, &self.pool)?;
            }
        }
        let mut auxiliary = None;
        for (i, block) in self.mixed.iter().enumerate() {
            h = block.forward(&h, ctx)?;
            if let (7, true, Some(aux)) = (i, ctx.is_train(), &self.auxiliary) {
                auxiliary = Some(aux.forward(&h, ctx)?);
            }
        }
        let features = mean(&h)?;
        let dropped = match ctx.is_train() {
            true => limpid_kernels::dropout(&features, 0.5, ctx.next_stream())?,
            false => features.clone(),
        };
        Ok(Judgement { logits: self.fc.forward(&dropped)?, features, auxiliary })
    }
}

impl Auxiliary {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let spec = PoolSpec { stride: vec![3; 2], ..PoolSpec::cubic(2, 5) };
        let mut h = avg_pool(x, &spec, true)?;
        for conv in &self.convs {
            h = conv.forward(&h, ctx)?;
        }
        self.fc.forward(&mean(&h)?)
    }
}

/// Mean over the image, `[N, C, h, w]` → `[N, C]`.
fn mean(x: &Tensor) -> Result<Tensor> {
    Ok(adaptive_avg_pool(x, &[1, 1])?.flatten_from(1)?)
}

/// From mean and deviation of ImageNet to the range `[-1, 1]`.
fn from_imagenet(x: &Tensor) -> Result<Tensor> {
    let constant = |values: [f64; 3]| -> Result<Tensor> {
        Ok(Tensor::new(&values, x.device())?.to_dtype(x.dtype())?.reshape((1, 3, 1, 1))?)
    };
    let scale = [0.229, 0.224, 0.225].map(|std: f64| std / 0.5);
    let shift = [0.485, 0.456, 0.406].map(|mean: f64| (mean - 0.5) / 0.5);
    Ok(x.broadcast_mul(&constant(scale)?)?.broadcast_add(&constant(shift)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyConfig, recognise};
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    fn built(config: &Config) -> (Params, InceptionV3) {
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "test"), DType::F32, &Device::Cpu);
        let net = InceptionV3::new(config, &scope).unwrap();
        (params, net)
    }

    #[test]
    fn size_and_recognition_are_those_of_torchvision() {
        let config = Config::default();
        let (params, net) = built(&config);
        assert_eq!(params.count(), 27_161_264);
        let aux: usize = params.subset("AuxLogits.").count();
        assert_eq!(params.count() - aux, 23_834_568);
        let best = recognise(&params.shapes()).remove(0);
        assert_eq!(best.mismatches, 0);
        assert!(matches!(best.config, AnyConfig::InceptionV3(c) if c == config));

        let x = Tensor::ones((2, 3, 107, 140), DType::F32, &Device::Cpu).unwrap();
        let judged = net.forward(&x, &Ctx::eval()).unwrap();
        assert_eq!(judged.features.dims(), [2, FEATURES]);
        assert_eq!(judged.logits.dims(), [2, 1000]);
        assert!(judged.auxiliary.is_none());
        assert!(limpid_kernels::all_finite(&judged.logits).unwrap());
        let small = Tensor::ones((1, 3, 74, 90), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(net.forward(&small, &Ctx::eval()), Err(Error::Shape { .. })));
    }

    #[test]
    fn the_input_is_brought_to_the_range_of_the_weights() {
        // black and white, as ImageNet's mean and deviation make them
        let value = |v: f64, i: usize| (v - [0.485, 0.456, 0.406][i]) / [0.229, 0.224, 0.225][i];
        for v in [0.0, 1.0] {
            let x: Vec<f64> = (0..3).map(|i| value(v, i)).collect();
            let x = Tensor::from_vec(x, (1, 3, 1, 1), &Device::Cpu).unwrap();
            let y = from_imagenet(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert!(y.iter().all(|y| (y - (2.0 * v - 1.0)).abs() < 1e-12), "{y:?}");
        }
    }

    #[test]
    fn variants_differ_where_borders_and_the_last_pool_do() {
        let (params, fid) = built(&Config::fid());
        let same = Config { variant: Variant::Torchvision, ..Config::fid() };
        let (others, torchvision) = built(&same);
        others.set(&params.tensors()).unwrap();
        let x = Tensor::ones((1, 3, 75, 75), DType::F32, &Device::Cpu).unwrap();
        let [a, b] = [&fid, &torchvision].map(|net| net.forward(&x, &Ctx::eval()).unwrap());
        assert_eq!(a.logits.dims(), [1, 1008]);
        let apart = (a.features - b.features).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() > 1e-3);
    }
}
