//! VGG-19 as a source of features for perceptual losses (Simonyan & Zisserman 2015,
//! arXiv:1409.1556; Johnson et al. 2016, arXiv:1603.08155).
//!
//! Reference: torchvision `vgg19().features` (BSD-3-Clause), whose keys `features.N` count every
//! layer, in the slices of NectarGAN's `VGGPerceptual` (Apache-2.0). The weights come from the user:
//! a torchvision checkpoint, or the `state_dict` of the loss, `blocks.SLICE.N`.
//!
//! ```text
//! x [N, 3, h, w] → (conv 3, relu) × 2, pool → (…) × 2, pool → (…) × 4, pool → (…) × 4 → …
//!   features at the cuts: [N, 64, h, w], [N, 128, h/2, w/2], [N, 256, h/4, w/4]
//! ```
//! NectarGAN gives it images in `[-1, 1]` as they are; the weights were trained on images of the mean
//! and deviation of ImageNet.

use crate::trunk::{Trunk, vgg};
use crate::{Architecture, Shapes, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_nn::{Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Convolutions of each stage.
const STAGES: [usize; 5] = [2, 2, 4, 4, 4];
/// Places of the convolutions among all layers.
const CONVS: [usize; 16] = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34];
/// Layers in all.
const LAYERS: usize = 37;
/// Channels of the convolutions.
const WIDTHS: [usize; 16] =
    [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512];

/// Settings of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the image.
    pub in_channels: usize,
    /// Layers after which features are taken, counted from 1 and including ReLUs and pools, rising;
    /// what follows the last is left out.
    pub cuts: Vec<usize>,
    /// Channels of each convolution before the last cut.
    pub widths: Vec<usize>,
}

impl Default for Config {
    /// The slices of NectarGAN's perceptual loss, which end with `relu1_2`, `relu2_2` and `relu3_3`.
    fn default() -> Self {
        Self::cut_at(&[4, 9, 16])
    }
}

impl Config {
    /// The published network, cut after the given layers.
    #[must_use]
    pub fn cut_at(cuts: &[usize]) -> Self {
        let widths = WIDTHS[..convs_below(cuts)].to_vec();
        Self { in_channels: 3, cuts: cuts.to_vec(), widths }
    }

    /// The configuration that a checkpoint's shapes belong to, with the default's cuts.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let default = Self::default();
        let named = |(key, shape): (&String, &Vec<usize>)| {
            let (layer, suffix) = default.layer(key)?;
            Some((format!("{layer}.{suffix}"), shape.clone()))
        };
        let layers: Shapes = shapes.iter().filter_map(named).collect();
        let weight = |i: usize| format!("{i}.weight");
        let convs = CONVS.iter().take_while(|i| size_of(&layers, &weight(**i), 2) == Some(3));
        // another VGG has convolutions elsewhere
        let known = |key: &String| CONVS.iter().any(|i| *key == weight(*i));
        let foreign = layers.keys().any(|k| k.ends_with(".weight") && !known(k));
        if foreign || convs.count() < default.widths.len() {
            return None;
        }
        let widths = CONVS.iter().take(default.widths.len());
        Some(Self {
            in_channels: size_of(&layers, &weight(0), 1)?,
            widths: widths.map(|i| size_of(&layers, &weight(*i), 0)).collect::<Option<_>>()?,
            ..default
        })
    }

    /// The layer that a key belongs to, and the rest of the key. The loss numbers layers as
    /// torchvision does, or from 0 in each slice.
    fn layer<'k>(&self, key: &'k str) -> Option<(usize, &'k str)> {
        if let Some(key) = key.strip_prefix("features.") {
            let (layer, suffix) = key.split_once('.')?;
            return Some((layer.parse().ok()?, suffix));
        }
        let (slice, key) = key.strip_prefix("blocks.")?.split_once('.')?;
        let (layer, suffix) = key.split_once('.')?;
        let (slice, layer): (usize, usize) = (slice.parse().ok()?, layer.parse().ok()?);
        let end = *self.cuts.get(slice)?;
        let start = slice.checked_sub(1).map_or(Some(0), |s| self.cuts.get(s).copied())?;
        let layer = if layer < start { start + layer } else { layer };
        (layer < end).then_some((layer, suffix))
    }
}

/// Convolutions before the last of the cuts.
fn convs_below(cuts: &[usize]) -> usize {
    let end = cuts.last().copied().unwrap_or(0);
    CONVS.iter().filter(|i| **i < end).count()
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "vgg19"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        Vgg19::new(self, scope).map(drop)
    }

    /// Layers behind the last cut and the classifier are left out.
    fn own_key(&self, key: &str) -> Option<String> {
        let (layer, suffix) = self.layer(key)?;
        let used = self.cuts.last().is_some_and(|end| layer < *end);
        used.then(|| format!("features.{layer}.{suffix}"))
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if self.in_channels == 0 {
            at.problem("in_channels", "must be at least 1");
        }
        let rising = self.cuts.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = self.cuts.iter().all(|cut| (1..=LAYERS).contains(cut));
        if self.cuts.is_empty() || !rising || !inside {
            at.problem("cuts", format!("must rise from at least 1 to at most {LAYERS}"));
        }
        let convs = convs_below(&self.cuts);
        if self.widths.len() != convs || self.widths.contains(&0) {
            at.problem(
                "widths",
                format!("must give {convs} numbers above 0, one for each convolution"),
            );
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct Vgg19(Trunk);

impl Vgg19 {
    /// Defines the parameters. A loss is to freeze them ([`limpid_nn::Params::freeze`]).
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("features");
        let steps = vgg(&STAGES, &c.widths);
        Ok(Self(Trunk::new(c.in_channels, &steps, &c.cuts, |_, layer| scope.pp(layer))?))
    }

    /// The features at every cut.
    ///
    /// # Shapes
    /// `x [N, in, h, w]` → `[N, width, h/2ⁿ, w/2ⁿ]` after `n` pools
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has other channels or is too small.
    pub fn features(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        match x.rank() {
            4 => self.0.forward(x),
            _ => Err(Error::shape("vgg19", "[N, C, h, w]", x.dims())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Golden, filled, gan};
    use crate::{AnyConfig, recognise};
    use candle_core::{DType, Device};
    use std::collections::BTreeMap;

    #[test]
    fn features_equal_the_reference() {
        let Some(golden) = Golden::open("gan/vgg_narrow") else { return };
        let theirs = golden.weights("weights.");
        let shapes: Shapes = theirs.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
        let best = recognise(&shapes).remove(0);
        assert_eq!(best.mismatches, 0);
        let AnyConfig::Vgg19(config) = best.config else { panic!("{:?}", best.config) };
        let ours = theirs.iter().map(|(k, t)| (config.own_key(k).unwrap(), t.clone()));
        let weights: BTreeMap<_, _> = ours.collect();
        let (_, net) = filled(&weights, |scope| Vgg19::new(&config, scope));
        let features = net.features(golden.tensor("in.fake")).unwrap();
        assert_eq!(features.len(), 3);
        for (i, got) in features.iter().enumerate() {
            let name = format!("act.fake.block{i}");
            golden.close(&name, got, golden.tensor(&name), gan::OUTPUT);
        }
    }

    #[test]
    fn keys_of_torchvision_and_of_the_loss_mean_the_same() {
        let Some(golden) = Golden::open("gan/vgg_full_formula") else { return };
        let map = &golden.json("config")["torchvision_key_map"];
        let config = Config::default();
        for (loss, torchvision) in map.as_object().unwrap() {
            let theirs = format!("{}.weight", torchvision.as_str().unwrap());
            assert_eq!(config.own_key(&format!("{loss}.weight")), Some(theirs.clone()));
            assert_eq!(config.own_key(&theirs), Some(theirs));
        }
        assert_eq!(config.own_key("blocks.1.7.bias").unwrap(), "features.7.bias");
        assert_eq!(config.own_key("features.16.weight"), None);
        assert_eq!(config.own_key("classifier.0.weight"), None);
    }

    #[test]
    fn a_whole_torchvision_checkpoint_is_recognised_but_not_another_vgg() {
        let mut shapes = Config::cut_at(&[LAYERS]).shapes().unwrap();
        // 20,024,384 are published for `vgg19().features`
        let count: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
        assert_eq!(count, 20_024_384);
        shapes.insert("classifier.0.weight".into(), vec![4096, 25088]);
        let best = recognise(&shapes).remove(0);
        assert_eq!((best.mismatches, best.config.settings().kind()), (0, "vgg19"));
        let sixteen: Shapes = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
            .iter()
            .map(|i| (format!("features.{i}.weight"), vec![4, 4, 3, 3]))
            .collect();
        assert!(Config::recognise(&sixteen).is_none());
    }

    #[test]
    fn bad_settings_are_told_apart() {
        let bad = Config { in_channels: 0, cuts: vec![4, 4], widths: vec![8] };
        assert_eq!(limpid_config::check(&bad).len(), 3);
        assert!(limpid_config::check(&Config::cut_at(&[2, 37])).is_empty());
        let scope = limpid_nn::Params::new().scope(
            limpid_kernels::rng::Stream::new(0, "test"),
            DType::F32,
            &Device::Cpu,
        );
        let net = Vgg19::new(&Config::cut_at(&[2]), &scope).unwrap();
        let grey = Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(net.features(&grey), Err(Error::Shape { op: "conv", .. })));
    }
}
