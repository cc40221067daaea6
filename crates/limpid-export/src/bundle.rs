//! `model.safetensors`: weights and, in its header, how to use them.

use crate::Published;
use candle_core::{DType, Tensor};
use limpid_arch::NetworkConfig;
use limpid_config::Validate;
use limpid_nn::tensors;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KEY: &str = "limpid";
const VERSION: u32 = 1;

/// What the header of a model file says; `N` is the configuration of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card<N = NetworkConfig> {
    /// Format of this card.
    pub version: u32,
    /// Name of the run it came from.
    pub name: String,
    /// The network.
    pub network: N,
    /// How intensities are prepared and turned back, as the data module wrote it.
    pub normalisation: serde_json::Value,
    /// Span of valid intensities in the unit of the training files.
    pub data_range: f64,
    /// Axes of the network's spatial dimensions, slowest first: `YX` or `ZYX`.
    pub axes: String,
    /// Optimizer steps of the weights.
    pub step: u64,
    /// Score of the weights in validation, if there was one; only a finite one is written.
    pub score: Option<(String, f64)>,
    /// The configuration of the training, as TOML.
    pub config: String,
    /// What else a task has to say of its models.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

/// Weights and their card.
#[derive(Clone, Debug)]
pub struct Bundle<N = NetworkConfig> {
    /// What the weights are.
    pub card: Card<N>,
    /// Weights and buffers by reference name.
    pub weights: BTreeMap<String, Tensor>,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] limpid_nn::CheckpointError),
    /// It is a file of tensors without a card.
    #[error("these are weights without a model card\nhint: {hint}\nfile: {}", path.display())]
    NoCard {
        /// The file.
        path: PathBuf,
        /// Which network the keys belong to, if one fits.
        hint: String,
    },
    /// Its network is none that the program uses.
    #[error("this is a model of another task, its network is `{kind}`\nhint: use it with the program that trained it\nfile: {}", path.display())]
    OtherTask {
        /// The file.
        path: PathBuf,
        /// The network as its card names it.
        kind: String,
    },
    /// Its card cannot be understood.
    #[error("the model card cannot be read: {message}\nhint: the file may come from a newer version\nfile: {}", path.display())]
    BadCard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl<N: Clone> Card<N> {
    /// A card of the current format; `axes` are those of the network's images, slowest first.
    #[must_use]
    pub fn new(
        name: &str,
        network: &N,
        axes: &str,
        normalisation: Value,
        data_range: f64,
        config: &str,
    ) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            network: network.clone(),
            normalisation,
            data_range,
            axes: axes.to_owned(),
            step: 0,
            score: None,
            config: config.to_owned(),
            extra: BTreeMap::new(),
        }
    }
}

impl<N: Clone + Serialize + DeserializeOwned + Validate> Bundle<N> {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// [`BundleError::File`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), BundleError> {
        let mut card = self.card.clone();
        // JSON has no NaN: better no score than a card that cannot be read
        card.score = card.score.filter(|(_, score)| score.is_finite());
        let json = serde_json::to_string(&card)
            .map_err(|e| BundleError::BadCard { path: path.to_owned(), message: e.to_string() })?;
        let metadata =
            BTreeMap::from([(KEY.to_owned(), json), ("format".to_owned(), "pt".to_owned())]);
        Ok(tensors::save(path, &self.weights, &metadata)?)
    }

    /// The same with its weights rounded to 16 bits (ten significant), which are half the bytes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn half(&self) -> candle_core::Result<Self> {
        let half = |(name, tensor): (&String, &Tensor)| {
            let tensor = if tensor.dtype().is_float() {
                tensor.to_dtype(DType::F16)?
            } else {
                tensor.clone()
            };
            Ok((name.clone(), tensor))
        };
        let weights = self.weights.iter().map(half).collect::<candle_core::Result<_>>()?;
        Ok(Self { card: self.card.clone(), weights })
    }

    /// Reads a file that [`Bundle::save`] wrote.
    ///
    /// # Errors
    /// [`BundleError::NoCard`] for other tensor files, naming the network they fit;
    /// [`BundleError::OtherTask`] for models of networks that are not `N`.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        let (weights, metadata) = match tensors::load(path) {
            Ok(file) => file,
            // a PyTorch file has no card, but its keys may tell what it is
            Err(e) => (tensors::load_any(path).map_err(|_| e)?, BTreeMap::new()),
        };
        Self::of(path, weights, &metadata)
    }

    /// Reads the bytes of such a file, which came from `path`.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, BundleError> {
        let (weights, metadata) = tensors::from_bytes(bytes, path)?;
        Self::of(path, weights, &metadata)
    }

    fn of(
        path: &Path,
        weights: BTreeMap<String, Tensor>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, BundleError> {
        let Some(json) = metadata.get(KEY) else {
            let published = Published::of(weights);
            let hint = match published.network {
                Some(network) if published.report.is_match() => format!(
                    "they fit the network `{}`; give published weights with `--weights FILE`",
                    network.settings().kind()
                ),
                Some(network) => format!(
                    "they resemble the network `{}`; `denoise inspect FILE` says how they differ",
                    network.settings().kind()
                ),
                None => "no known network has these keys".to_owned(),
            };
            return Err(BundleError::NoCard { path: path.to_owned(), hint });
        };
        let bad = |message: String| BundleError::BadCard { path: path.to_owned(), message };
        let card: Card<Value> = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        if card.version > VERSION {
            return Err(bad(format!("it is of version {}, we know {VERSION}", card.version)));
        }
        let kind = card.network["kind"].as_str().unwrap_or("of a diffusion").to_owned();
        let network: N = serde_json::from_value(card.network.clone())
            .map_err(|_| BundleError::OtherTask { path: path.to_owned(), kind })?;
        if let Some(finding) = limpid_config::check(&network).first() {
            return Err(bad(format!("its network cannot be built: {finding:?}")));
        }
        Ok(Self { card: card.with(network), weights })
    }
}

impl Card<Value> {
    /// The same with a network.
    fn with<N>(self, network: N) -> Card<N> {
        let Self {
            version, name, normalisation, data_range, axes, step, score, config, extra, ..
        } = self;
        Card { version, name, network, normalisation, data_range, axes, step, score, config, extra }
    }
}
