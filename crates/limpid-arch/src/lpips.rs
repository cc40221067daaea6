//! The network of LPIPS, a learnt perceptual distance (Zhang et al. 2018, arXiv:1801.03924).
//!
//! Reference: the `lpips` package 0.1 (BSD-2-Clause): torchvision's AlexNet or VGG-16 in five
//! slices, and a weight per channel of each. The weights come from the user: a torchvision
//! checkpoint (`features.N`) for the net, the package's file for the weights
//! (`linK.model.1.weight`), or the `state_dict` of the whole (`net.sliceK.N`).
//!
//! ```text
//! x [N, 3, h, w] in [-1, 1] → shift and scale of ImageNet → five features [N, C, …]
//! ```
//! What is computed of the features of two images is `limpid_losses::losses::lpips`.

use crate::trunk::{Step, Trunk, vgg};
use crate::{Architecture, Shapes};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_nn::{Error, Init, Param, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mean and deviation of ImageNet's channels, in the range `[-1, 1]`.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The network that sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// AlexNet: fast, and closest to human judgement.
    Alex,
    /// VGG-16: better as a loss.
    Vgg,
}

/// Settings of the distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The network that sees.
    pub backbone: Backbone,
}

impl Default for Config {
    /// The package's default.
    fn default() -> Self {
        Self { backbone: Backbone::Alex }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        [Backbone::Alex, Backbone::Vgg].map(|backbone| Self { backbone }).into_iter().find(|c| {
            (0..5).zip(c.widths()).all(|(k, width)| {
                let found = shapes.iter().find(|(key, _)| c.own_key(key) == Some(lin_key(k)));
                found.is_some_and(|(_, shape)| *shape == [1, width, 1, 1])
            })
        })
    }

    fn steps(&self) -> Vec<Step> {
        let conv = |outputs, kernel, stride, padding| {
            [Step::Conv { outputs, kernel, stride, padding }, Step::Relu]
        };
        let pool = [Step::Pool { kernel: 3 }];
        match self.backbone {
            Backbone::Alex => [
                &conv(64, 11, 4, 2)[..],
                &pool,
                &conv(192, 5, 1, 2),
                &pool,
                &conv(384, 3, 1, 1),
                &conv(256, 3, 1, 1),
                &conv(256, 3, 1, 1),
            ]
            .concat(),
            Backbone::Vgg => {
                let widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512];
                vgg(&[2, 2, 3, 3, 3], &widths)
            }
        }
    }

    /// Where the slices end.
    fn cuts(&self) -> [usize; 5] {
        match self.backbone {
            Backbone::Alex => [2, 5, 8, 10, 12],
            Backbone::Vgg => [4, 9, 16, 23, 30],
        }
    }

    /// Channels of the features.
    fn widths(&self) -> [usize; 5] {
        match self.backbone {
            Backbone::Alex => [64, 192, 384, 256, 256],
            Backbone::Vgg => [64, 128, 256, 512, 512],
        }
    }
}

fn lin_key(slice: usize) -> String {
    format!("lin{slice}.model.1.weight")
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "lpips"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        Lpips::new(self, scope).map(drop)
    }

    fn own_key(&self, key: &str) -> Option<String> {
        if let Some(rest) = key.strip_prefix("features.") {
            let (layer, suffix) = rest.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            let slice = self.cuts().iter().position(|cut| layer < *cut)?;
            return Some(format!("net.slice{}.{layer}.{suffix}", slice + 1));
        }
        // `lins.K` names the weights a second time; the scaling is a constant
        let held =
            key.starts_with("net.slice") || (key.starts_with("lin") && !key.starts_with("lins."));
        held.then(|| key.to_owned())
    }
}

impl Validate for Config {
    fn validate(&self, _: &mut Check) {}
}

/// The network.
#[derive(Debug)]
pub struct Lpips {
    trunk: Trunk,
    weights: Vec<Param>,
}

impl Lpips {
    /// Defines the parameters. A loss is to freeze them ([`limpid_nn::Params::freeze`]).
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let net = scope.pp("net");
        let trunk = Trunk::new(3, &c.steps(), &c.cuts(), |slice, layer| {
            net.pp(format!("slice{}", slice + 1)).pp(layer)
        })?;
        let weight = |(slice, width): (usize, usize)| {
            scope.param(&lin_key(slice), &[1, width, 1, 1], Init::Default)
        };
        let weights = c.widths().into_iter().enumerate().map(weight).collect::<Result<_>>()?;
        Ok(Self { trunk, weights })
    }

    /// The five features of an image.
    ///
    /// # Shapes
    /// `x [N, 3, h, w]` in `[-1, 1]` → `[N, C, …]` each; AlexNet needs at least 31 pixels, VGG 16.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are three channels and enough pixels.
    pub fn features(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let [_, 3, _, _] = x.dims() else {
            return Err(Error::shape("lpips", "[N, 3, h, w]", x.dims()));
        };
        let constant = |values: [f32; 3]| -> Result<Tensor> {
            Ok(Tensor::new(&values, x.device())?.to_dtype(x.dtype())?.reshape((1, 3, 1, 1))?)
        };
        let scaled = x.broadcast_sub(&constant(SHIFT)?)?.broadcast_div(&constant(SCALE)?)?;
        self.trunk.forward(&scaled)
    }

    /// The weight `[1, C, 1, 1]` of each channel of each feature.
    #[must_use]
    pub fn weights(&self) -> Vec<Tensor> {
        self.weights.iter().map(Param::tensor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recognise;
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    #[test]
    fn features_have_the_published_shapes() {
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "test"), DType::F32, &Device::Cpu);
        let net = Lpips::new(&Config::default(), &scope).unwrap();
        // torchvision's AlexNet has 2,469,696 parameters before its classifier
        let lins: usize = Config::default().widths().iter().sum();
        assert_eq!(params.count(), 2_469_696 + lins);
        let x = Tensor::zeros((2, 3, 64, 80), DType::F32, &Device::Cpu).unwrap();
        let features = net.features(&x).unwrap();
        let shapes: Vec<_> = features.iter().map(|f| f.dims().to_vec()).collect();
        let expected = [
            vec![2, 64, 15, 19],
            vec![2, 192, 7, 9],
            vec![2, 384, 3, 4],
            vec![2, 256, 3, 4],
            vec![2, 256, 3, 4],
        ];
        assert_eq!(shapes, expected);
        assert_eq!(net.weights()[1].dims(), [1, 192, 1, 1]);
        let grey = Tensor::zeros((2, 1, 64, 64), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(net.features(&grey), Err(Error::Shape { op: "lpips", .. })));
    }

    #[test]
    fn checkpoints_of_the_package_and_of_torchvision_are_recognised() {
        for backbone in [Backbone::Alex, Backbone::Vgg] {
            let config = Config { backbone };
            let own = config.shapes().unwrap();
            let mut whole = own.clone();
            whole.insert("scaling_layer.shift".into(), vec![1, 3, 1, 1]);
            whole.insert("lins.0.model.1.weight".into(), vec![1, 64, 1, 1]);
            let mut torchvision: Shapes = own
                .iter()
                .map(|(key, shape)| match key.strip_prefix("net.slice") {
                    Some(rest) => (format!("features.{}", &rest[2..]), shape.clone()),
                    None => (key.clone(), shape.clone()),
                })
                .collect();
            torchvision.insert("classifier.6.weight".into(), vec![1000, 4096]);
            for shapes in [own, whole, torchvision] {
                let best = recognise(&shapes).remove(0);
                assert_eq!((best.mismatches, best.config.settings().kind()), (0, "lpips"));
                assert!(matches!(best.config, crate::AnyConfig::Lpips(c) if c == config));
            }
        }
    }
}
