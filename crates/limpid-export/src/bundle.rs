//! `model.safetensors`: weights and, in its header, how to use them.

use crate::Published;
use candle_core::Tensor;
use limpid_arch::{ImageArchitecture, NetworkConfig};
use limpid_nn::tensors;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KEY: &str = "limpid";
const VERSION: u32 = 1;

/// What the header of a model file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Format of this card.
    pub version: u32,
    /// Name of the run it came from.
    pub name: String,
    /// The network.
    pub network: NetworkConfig,
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
}

/// Weights and their card.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What the weights are.
    pub card: Card,
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
    /// Its card cannot be understood.
    #[error("the model card cannot be read: {message}\nhint: the file may come from a newer version\nfile: {}", path.display())]
    BadCard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl Card {
    /// A card of the current format.
    #[must_use]
    pub fn new(
        name: &str,
        network: &NetworkConfig,
        normalisation: serde_json::Value,
        data_range: f64,
        config: &str,
    ) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            network: network.clone(),
            normalisation,
            data_range,
            axes: if network.dims() == 3 { "ZYX" } else { "YX" }.to_owned(),
            step: 0,
            score: None,
            config: config.to_owned(),
        }
    }
}

impl Bundle {
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

    /// Reads a file that [`Bundle::save`] wrote.
    ///
    /// # Errors
    /// [`BundleError::NoCard`] for other tensor files, naming the network they fit.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        let (weights, metadata) = match tensors::load(path) {
            Ok(file) => file,
            // a PyTorch file has no card, but its keys may tell what it is
            Err(e) => (tensors::load_any(path).map_err(|_| e)?, BTreeMap::new()),
        };
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
        let card: Card = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        if card.version > VERSION {
            return Err(bad(format!("it is of version {}, we know {VERSION}", card.version)));
        }
        if let Some(finding) = limpid_config::check(&card.network).first() {
            return Err(bad(format!("its network cannot be built: {finding:?}")));
        }
        Ok(Self { card, weights })
    }
}
