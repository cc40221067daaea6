//! The model that a command uses: a trained one, the one that comes with the program, or weights
//! that others published.

use crate::axial;
use crate::config::{Config, ModelConfig};
use candle_core::{DType, Device};
use limpid_arch::AnyConfig;
use limpid_arch::guided_unet::{self, GuidedUnet};
use limpid_arch::raft::Raft;
use limpid_cli::prediction::by_type;
use limpid_cli::{Failure, find_model};
use limpid_datamodule::normalise::Normalisers;
use limpid_export::{Bundle, Card, Published};
use limpid_kernels::rng::Stream;
use limpid_models::diffusion::{ProcessConfig, Recorded, RestoreConfig};
use limpid_nn::Params;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where a model file keeps [`Task`].
const KEY: &str = "diffusion";

/// The model that comes with `emdiffuse`, for micrographs with the noise of few electrons
/// (`models/README.md`).
const SHIPPED: &[u8] = include_bytes!("../models/fib25.safetensors");

/// What a model of this task is, beyond its network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// The process it was trained for.
    pub process: ProcessConfig,
    /// How it restores unless told otherwise.
    pub restore: RestoreConfig,
    /// How many times as many rows and columns the restored image has.
    pub scale: usize,
    /// Layers between two slices.
    pub layers: Option<usize>,
    /// Distance of the two slices, in the unit of the training files.
    pub gap: Option<f64>,
    /// Levels at which a variance head has learnt how far off the answers are, as
    /// [`limpid_models::diffusion::AleatoricConfig::times`]; none without such a head.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<usize>,
    /// What makes an interval of a deviation.
    pub calibration: Option<Calibration>,
}

/// The factor that makes a deviation an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Times the deviation (or the floor, if that is larger) to either side of the mean.
    pub factor: f64,
    /// Least deviation, as a part of the data range.
    pub floor: f64,
    /// Share of pixels whose truth lies inside.
    pub coverage: f64,
    /// Chance that it does not hold.
    pub delta: f64,
    /// Mean squared error of the mean in units of the mean variance.
    pub variance_ratio: f64,
    /// Samples of which the deviation was taken.
    pub samples: usize,
}

/// A model, ready to restore.
pub struct Trained {
    /// Where it comes from.
    pub origin: String,
    /// Its file, if it has one that can be written again.
    pub path: Option<PathBuf>,
    /// Its card.
    pub card: Card<guided_unet::Config>,
    /// What it is beyond its network.
    pub task: Task,
    /// The network.
    pub net: Recorded<GuidedUnet>,
    /// Its parameters.
    pub params: Params,
    /// How intensities of files become those of the network; none: by sample type.
    pub normalisers: Option<Normalisers>,
    /// Where it lies.
    pub device: Device,
}

impl Task {
    /// The task of a configuration, for volumes whose slices lie `spacing` apart.
    #[must_use]
    pub fn of(config: &Config, spacing: Option<f64>) -> Self {
        let layers = config.layers();
        Self {
            process: config.model.process().cloned().unwrap_or_default(),
            restore: config.restore.clone(),
            scale: config.scale,
            layers,
            gap: layers.zip(spacing).map(|(layers, spacing)| (layers + 1) as f64 * spacing),
            times: match &config.model {
                ModelConfig::Aleatoric(aleatoric) => aleatoric.times.clone(),
                _ => Vec::new(),
            },
            calibration: None,
        }
    }

    /// Writes it into a card.
    ///
    /// # Errors
    /// Never, unless there is a bug: the settings are plain.
    pub fn put(&self, card: &mut Card<guided_unet::Config>) -> Result<(), Failure> {
        let value = serde_json::to_value(self).map_err(Failure::run)?;
        card.extra.insert(KEY.to_owned(), value);
        Ok(())
    }
}

impl Trained {
    /// Reads the model that the user named: a run, a file or the name of runs; the last run if none
    /// is named.
    ///
    /// # Errors
    /// There is no such model, or it is of another task.
    pub fn open(named: Option<&Path>, program: &str, device: &Device) -> Result<Self, Failure> {
        let path = find_model(named, program)?;
        if limpid_export::says(&path, axial::KEY) {
            return Err(Failure::data("the model fills in layers in one pass")
                .hint("use it with `vemdiffuse predict`; measure its volumes without `--model`")
                .file(&path));
        }
        let bundle = Bundle::load(&path).map_err(Failure::data)?;
        let origin = path.display().to_string();
        Self::of(origin, Some(path), bundle, device)
    }

    /// As [`Trained::open`]; if none is named, the model that comes with `emdiffuse`.
    ///
    /// # Errors
    /// There is no such model, or it is of another task.
    pub fn open_or_shipped(named: Option<&Path>, device: &Device) -> Result<Self, Failure> {
        if named.is_some() {
            return Self::open(named, "emdiffuse", device);
        }
        let origin = "fib25, which comes with emdiffuse".to_owned();
        let bundle = Bundle::from_bytes(SHIPPED, Path::new(&origin)).map_err(Failure::data)?;
        Self::of(origin, None, bundle, device)
    }

    /// A model from the contents of its file.
    ///
    /// # Errors
    /// It is damaged.
    pub fn of(
        origin: String,
        path: Option<PathBuf>,
        bundle: Bundle<guided_unet::Config>,
        device: &Device,
    ) -> Result<Self, Failure> {
        let unreadable = |what: &str, e: serde_json::Error| {
            Failure::data(format!("the {what} of the model cannot be read: {e}"))
                .hint("the file may come from a newer version")
        };
        let Bundle { card, weights } = bundle;
        let task = match card.extra.get(KEY) {
            Some(task) => {
                serde_json::from_value(task.clone()).map_err(|e| unreadable("task", e))?
            }
            None => {
                return Err(Failure::data(format!("{origin} is not a model of a diffusion"))
                    .hint("train one with `emdiffuse train`"));
            }
        };
        let normalisers = serde_json::from_value(card.normalisation.clone())
            .map_err(|e| unreadable("normalisation", e))?;
        let (net, params) = built(&card.network, device)?;
        let report = limpid_nn::compare(&params.shapes(), &weights);
        if !report.is_match() {
            return Err(Failure::data(format!(
                "the weights of {origin} do not fit their network\n{report}"
            ))
            .hint("the file is damaged or was put together by hand"));
        }
        params.set(&weights).map_err(Failure::data)?;
        let (normalisers, device) = (Some(normalisers), device.clone());
        let net = Recorded::new(net);
        Ok(Self { origin, path, card, task, net, params, normalisers, device })
    }

    /// Published weights as a model of EMDiffuse's own process; `scale` and `layers` are what they
    /// cannot tell.
    ///
    /// # Errors
    /// They are no network of EMDiffuse.
    pub fn published(
        path: &Path,
        scale: usize,
        layers: Option<usize>,
        device: &Device,
    ) -> Result<Self, Failure> {
        let (network, published) = published_network(path)?;
        let (net, params) = built(&network, device)?;
        params.set(&published.weights).map_err(Failure::data)?;
        let name = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let layers = if network.layer_index { layers } else { None };
        let task = Task { scale, layers, ..Task::default() };
        let mut card = Card::new(&name, &network, "YX", serde_json::Value::Null, 1.0, "");
        task.put(&mut card)?;
        let origin = path.display().to_string();
        let (normalisers, device) = (None, device.clone());
        let net = Recorded::new(net);
        Ok(Self { origin, path: None, card, task, net, params, normalisers, device })
    }

    /// How intensities of a file become those of the network: as the model says, unless `range` says
    /// which are 0 and 1.
    ///
    /// # Errors
    /// The file cannot be read, or its type says nothing.
    pub fn normalisers_for(
        &self,
        path: &Path,
        range: Option<(f64, f64)>,
    ) -> Result<Normalisers, Failure> {
        match &self.normalisers {
            Some(normalisers) if range.is_none() => Ok(normalisers.clone()),
            _ => by_type(path, range),
        }
    }
}

/// The network that published weights belong to, and the weights.
///
/// # Errors
/// They cannot be read, or belong to another network.
pub fn published_network(path: &Path) -> Result<(guided_unet::Config, Published), Failure> {
    let published = Published::open(path).map_err(Failure::data)?;
    let network = match &published.network {
        Some(AnyConfig::GuidedUnet(network)) => network.clone(),
        Some(other) => {
            let kind = other.settings().kind().to_owned();
            return Err(Failure::data(format!("these are weights of `{kind}`"))
                .hint("`denoise predict --weights` takes networks of one pass")
                .file(path));
        }
        None => {
            return Err(Failure::data("no network of ours has these weights")
                .hint("`denoise inspect FILE` lists what is in it")
                .file(path));
        }
    };
    if !published.report.is_match() {
        return Err(Failure::data(format!(
            "the weights do not fit the network of EMDiffuse\n{}",
            published.report
        ))
        .file(path));
    }
    Ok((network, published))
}

/// A network with weights of its own yet to be set.
fn built(network: &guided_unet::Config, device: &Device) -> Result<(GuidedUnet, Params), Failure> {
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "init"), DType::F32, device);
    let net = network.build(&scope).map_err(Failure::data)?;
    Ok((net, params))
}

/// RAFT with the weights of a file.
///
/// # Errors
/// They cannot be read, or are of another network.
pub fn built_raft(path: &Path, device: &Device) -> Result<(Raft, Params), Failure> {
    let published = Published::open(path).map_err(Failure::data)?;
    let Some(AnyConfig::Raft(config)) = published.network.filter(|_| published.report.is_match())
    else {
        return Err(Failure::data("these are no weights of RAFT")
            .hint("give `raft-things.pth` or another of its published files")
            .file(path));
    };
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "init"), DType::F32, device);
    let net = config.build(&scope).map_err(Failure::data)?;
    params.set(&published.weights).map_err(Failure::data)?;
    Ok((net, params))
}
