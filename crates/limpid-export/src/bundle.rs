//! `model.safetensors`: weights and, in its header, how to use them.

use crate::{CardNetwork, Published};
use candle_core::{DType, Tensor};
use limpid_arch::NetworkConfig;
use limpid_nn::{CheckpointError, tensors};
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
    /// Weights and buffers by reference name; of any float type, which
    /// [`Params::set`](limpid_nn::Params::set) converts.
    pub weights: BTreeMap<String, Tensor>,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// It is a file of tensors without a card.
    #[error("these are weights without a model card\nhint: {hint}\nfile: {}", path.display())]
    NoCard {
        /// The file.
        path: PathBuf,
        /// Which network the keys belong to, if one fits.
        hint: String,
    },
    /// Its network is none that the program uses.
    #[error("this is a model of the network `{kind}`, but {wanted} is needed\nhint: use it with the program that trained it\nfile: {}", path.display())]
    OtherTask {
        /// The file.
        path: PathBuf,
        /// The network of its weights.
        kind: &'static str,
        /// What the program can use.
        wanted: &'static str,
    },
    /// A weight is beyond the range of `f16`.
    #[error("the weight `{name}` is beyond the range of f16\nhint: keep the model in f32")]
    NotHalf {
        /// The weight.
        name: String,
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

/// Whether a file is a model of ours whose card says something under this key of [`Card::extra`]. Only
/// the header of the file is read.
#[must_use]
pub fn says(path: &Path, key: &str) -> bool {
    let card = tensors::metadata(path).ok().and_then(|mut metadata| metadata.remove(KEY));
    let card = card.and_then(|card| serde_json::from_str::<Value>(&card).ok());
    card.is_some_and(|card| card["extra"].get(key).is_some())
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

impl<N: CardNetwork> Bundle<N> {
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

    /// The same with its weights rounded to 16 bits (eleven significant), which are half the bytes.
    ///
    /// # Errors
    /// [`BundleError::NotHalf`] for a weight that `f16` cannot hold.
    pub fn half(&self) -> Result<Self, BundleError> {
        let mut weights = BTreeMap::new();
        for (name, weight) in &self.weights {
            let half = match weight.dtype().is_float() {
                true => weight.to_dtype(DType::F16).map_err(CheckpointError::from)?,
                false => weight.clone(),
            };
            if is_finite(weight)? && !is_finite(&half)? {
                return Err(BundleError::NotHalf { name: name.clone() });
            }
            weights.insert(name.clone(), half);
        }
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
        let card: Card<N> = match serde_json::from_str(json) {
            Ok(card) => card,
            // the weights tell whether it is the card of another network or a damaged one
            Err(e) => match Published::of(weights).network {
                Some(found) if !N::is(&found) => {
                    let (path, kind) = (path.to_owned(), found.settings().kind());
                    return Err(BundleError::OtherTask { path, kind, wanted: N::WHAT });
                }
                _ => return Err(bad(e.to_string())),
            },
        };
        if card.version > VERSION {
            return Err(bad(format!("it is of version {}, we know {VERSION}", card.version)));
        }
        if let Some(finding) = limpid_config::check(&card.network).first() {
            return Err(bad(format!("its network cannot be built: {finding:?}")));
        }
        Ok(Self { card, weights })
    }
}

/// Whether all values are.
fn is_finite(weight: &Tensor) -> Result<bool, CheckpointError> {
    // zero times a value is zero, unless it is not finite
    Ok(weight.to_dtype(DType::F32)?.affine(0.0, 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}
