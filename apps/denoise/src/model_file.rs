//! Finding and reading the model that a command is to use.

use candle_core::{DType, Device};
use limpid_arch::{ImageArchitecture, Network, NetworkConfig};
use limpid_cli::prediction::by_type;
use limpid_cli::{Failure, find_model};
use limpid_datamodule::normalise::Normalisers;
use limpid_engine::infer::Needs;
use limpid_export::{Bundle, Card};
use limpid_kernels::rng::Stream;
use limpid_nn::Params;
use std::path::{Path, PathBuf};

/// A trained network, ready to predict.
pub(crate) struct Trained {
    pub(crate) path: PathBuf,
    pub(crate) card: Card,
    pub(crate) net: Box<dyn Network>,
    pub(crate) params: Params,
    pub(crate) intensities: Intensities,
    pub(crate) device: Device,
}

/// How intensities of files become those of the network.
pub(crate) enum Intensities {
    /// As in training.
    OfModel(Normalisers),
    /// From the given range, or else that of the sample type, to 0 and 1; `f32` as it is.
    OfType(Option<(f64, f64)>),
}

impl Intensities {
    /// What it is for a file.
    pub(crate) fn of(&self, path: &Path) -> Result<Normalisers, Failure> {
        match self {
            Self::OfModel(normalisers) => Ok(normalisers.clone()),
            Self::OfType(range) => by_type(path, *range),
        }
    }
}

impl Trained {
    /// Reads the model that the user named: a run, a file, the name of runs, or (none) the last run
    /// in `runs/`.
    pub(crate) fn open(named: Option<&Path>, device: &Device) -> Result<Self, Failure> {
        let path = find_model(named, "denoise")?;
        let bundle = Bundle::load(&path).map_err(Failure::data)?;
        Self::of(path, bundle, device)
    }

    /// The network of a model file, with its weights.
    pub(crate) fn of(path: PathBuf, bundle: Bundle, device: &Device) -> Result<Self, Failure> {
        let normalisers =
            serde_json::from_value(bundle.card.normalisation.clone()).map_err(|e| {
                Failure::data(format!("the normalisation of the model cannot be read: {e}"))
                    .hint("the file may come from a newer version")
                    .file(&path)
            })?;
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "init"), DType::F32, device);
        let net = bundle.card.network.build(&scope).map_err(Failure::data)?;
        let report = limpid_nn::compare(&params.shapes(), &bundle.weights);
        if !report.is_match() {
            return Err(Failure::data(format!("the weights do not fit the network\n{report}"))
                .hint("the file is damaged or was put together by hand")
                .file(&path));
        }
        params.set(&bundle.weights).map_err(Failure::data)?;
        let intensities = Intensities::OfModel(normalisers);
        let device = device.clone();
        Ok(Self { path, card: bundle.card, net, params, intensities, device })
    }

    /// What the network asks of its windows.
    pub(crate) fn needs(&self) -> Needs {
        needs(&self.card.network)
    }
}

/// Axes of a network's images, slowest first.
pub(crate) fn axes(network: &NetworkConfig) -> &'static str {
    if network.dims() == 3 { "ZYX" } else { "YX" }
}

/// What a network asks of its windows.
pub(crate) fn needs(network: &NetworkConfig) -> Needs {
    Needs {
        channels: network.out_channels(),
        divisor: network.divisor(),
        any_size_from: network.any_size_from(),
        fixed_size: network.fixed_size(),
        receptive_field: network.receptive_field(),
        bytes_per_pixel: network.activation_bytes(),
    }
}
