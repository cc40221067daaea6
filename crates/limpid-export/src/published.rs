//! Weights that others published, told by their names and shapes to be those of one of our networks.

use crate::BundleError;
use candle_core::Tensor;
use limpid_arch::{AnyConfig, Shapes, recognise, reference_entries};
use limpid_nn::{KeyReport, tensors};
use std::collections::BTreeMap;
use std::path::Path;

/// What stands before names: data parallelism, Lightning, `torch.compile`, and the attributes under
/// which programs keep the network in a larger model.
const PREFIXES: [&str; 8] =
    ["module.", "model.", "_orig_mod.", "denoise_fn.", "netG.", "net_g.", "net.", "network."];

/// Most ways in which names are read.
const READINGS: usize = 32;

/// The weights of a file, by the names of our network.
#[derive(Clone, Debug)]
pub struct Published {
    /// Weights and buffers; what repeats another or is no weight is left out.
    pub weights: BTreeMap<String, Tensor>,
    /// The network they fit best, if they resemble one at all.
    pub network: Option<AnyConfig>,
    /// How they differ from it.
    pub report: KeyReport,
}

impl Published {
    /// Reads a PyTorch or safetensors file and finds the network it belongs to.
    ///
    /// Prefixes of wrappers (data parallelism, Lightning, a larger model) are taken off where that
    /// makes a better fit.
    ///
    /// # Errors
    /// [`BundleError::File`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        Ok(Self::of(tensors::load_any(path)?))
    }

    /// Finds the network that tensors belong to, as [`open`](Self::open) does.
    #[must_use]
    pub fn of(all: BTreeMap<String, Tensor>) -> Self {
        let mut best: Option<(usize, Self)> = None;
        for weights in readings(&all) {
            let own = reference_entries(weights);
            let Some(found) = recognise(&shapes(&own)).into_iter().next() else { continue };
            if best.as_ref().is_some_and(|(mismatches, _)| *mismatches <= found.mismatches) {
                continue;
            }
            let own = found.config.own_entries(own);
            let report = limpid_nn::compare(&found.expected, &own);
            let network = Some(found.config);
            best = Some((found.mismatches, Self { weights: own, network, report }));
        }
        best.map_or_else(
            || Self { weights: all, network: None, report: KeyReport::default() },
            |(_, published)| published,
        )
    }
}

/// Names and shapes.
fn shapes(weights: &BTreeMap<String, Tensor>) -> Shapes {
    weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect()
}

/// The tensors under the names that they may have been meant to have: as they are, then with one
/// prefix after the other taken off, and what lacks it left out.
fn readings(all: &BTreeMap<String, Tensor>) -> Vec<BTreeMap<String, Tensor>> {
    let mut readings = vec![all.clone()];
    let mut next = 0;
    while next < readings.len() && readings.len() < READINGS {
        for prefix in PREFIXES {
            let below: BTreeMap<String, Tensor> = readings[next]
                .iter()
                .filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone())))
                .collect();
            if !below.is_empty() {
                readings.push(below);
            }
        }
        next += 1;
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use limpid_arch::{Architecture, NetworkConfig, dncnn};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    fn weights(prefix: &str) -> BTreeMap<String, Tensor> {
        let config = dncnn::Config { width: 4, depth: 3, ..dncnn::Config::default() };
        let params = Params::new();
        let scope = params.scope(Stream::new(1, "published"), DType::F32, &Device::Cpu);
        config.define(&scope).unwrap();
        params.tensors().into_iter().map(|(k, t)| (format!("{prefix}{k}"), t)).collect()
    }

    fn opened(tensors: &BTreeMap<String, Tensor>) -> Published {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        tensors::save(&path, tensors, &BTreeMap::new()).unwrap();
        Published::open(&path).unwrap()
    }

    #[test]
    fn weights_are_recognised_behind_any_prefix() {
        for prefix in ["", "module.", "model.", "denoise_fn.", "module.netG."] {
            let published = opened(&weights(prefix));
            assert!(published.report.is_match(), "{prefix}: {}", published.report);
            let Some(AnyConfig::Image(NetworkConfig::Dncnn(config))) = published.network else {
                panic!("{prefix}: {:?}", published.network);
            };
            assert_eq!((config.width, config.depth), (4, 3));
        }
    }

    #[test]
    fn what_is_missing_is_reported_and_what_is_unknown_has_no_network() {
        let mut partial = weights("");
        partial.remove("model.2.bias");
        let published = opened(&partial);
        assert_eq!(published.report.missing, ["model.2.bias"]);
        let strange = BTreeMap::from([("a".to_owned(), Tensor::new(1f32, &Device::Cpu).unwrap())]);
        assert!(opened(&strange).network.is_none());
    }
}
