//! From a configuration to a model on its data.

use crate::config::Config;
use candle_core::Device;
use limpid_arch::ImageArchitecture as _;
use limpid_cli::Failure;
use limpid_datamodule::Data;
use limpid_datamodule::dataset::DatasetConfig;
use limpid_datamodule::normalise::Normaliser;
use limpid_datamodule::split::SplitConfig;
use limpid_engine::{DataModule, Error};
use limpid_models::{Measure, Restoration};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Opened, checked data.
pub(crate) fn data(config: &Config) -> Result<Data, Failure> {
    let mut data = Data::new(config.data.clone(), config.seed);
    data.preprocess().map_err(Failure::data)?;
    Ok(data)
}

/// The model of a task, with initial weights.
pub(crate) fn model(config: &Config, data: &Data, device: &Device) -> Result<Restoration, Failure> {
    let (channels, targets) = data.channels().map_err(Failure::data)?;
    if targets != config.network.out_channels() {
        return Err(Failure::config(format!(
            "the targets have {targets} channel(s), the network gives {}",
            config.network.out_channels()
        ))
        .hint("set the network's output channels to those of the targets"));
    }
    if channels != config.network.in_channels() {
        return Err(Failure::config(format!(
            "the images have {channels} channel(s), the network takes {}",
            config.network.in_channels()
        ))
        .hint("set the network's input channels to those of the images"));
    }
    Restoration::new(
        &config.model,
        &config.network,
        config.optimizer.clone(),
        config.schedule.clone(),
        measure(config, data)?,
        config.seed,
        device,
    )
    .map_err(|e| Failure::config(e.to_string()))
}

/// How validation measures: in the unit of the files where normalisation is one for all of them.
fn measure(config: &Config, data: &Data) -> Result<Measure, Failure> {
    let normalisers = data.normalisers().map_err(Failure::data)?;
    let known = match (&normalisers.target, &normalisers.input) {
        (Some(target), _) => Some(target.clone()),
        (None, Normaliser::Dataset { normalisation }) => Some(normalisation.clone()),
        (None, Normaliser::Image { .. }) => None,
    };
    Ok(Measure {
        // normalised by its own image, a range of about one is all that can be said
        data_range: config.data_range.filter(|_| known.is_some()).unwrap_or(1.0),
        denormalise: match known {
            Some(normalisation) => Arc::new(move |values| normalisation.invert(values)),
            None => Arc::new(|_| {}),
        },
        truth: match &config.data.validation.split {
            SplitConfig::Sets { sets } => sets.values().all(knows_truth),
            _ => knows_truth(&config.data.dataset),
        },
    })
}

/// Whether a dataset comes with clean images.
fn knows_truth(dataset: &DatasetConfig) -> bool {
    matches!(dataset, DatasetConfig::Paired { .. } | DatasetConfig::Simulated { .. })
}

/// What identifies a run: its whole configuration, less what cannot change the result.
pub(crate) fn digest(config: &Config) -> Result<String, Failure> {
    let mut config = config.clone();
    config.data.workers = 1;
    config.data.prefetch = 1;
    config.data.cache_mib = 0;
    config.data.prefetch_mib = 1;
    let text = toml::to_string(&config).map_err(Failure::run)?;
    Ok(Sha256::digest(text.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect())
}

/// An error of the engine as the user sees it: data, settings or the run itself.
pub(crate) fn failure(error: Error) -> Failure {
    match error {
        Error::Data(e) => Failure::data(e),
        e @ (Error::Setting { .. } | Error::UnknownDependency { .. } | Error::DependencyCycle(_)) => {
            Failure::config(e)
        }
        e @ (Error::Checkpoint { .. } | Error::RunDir { .. }) => Failure::data(e),
        e @ Error::NonFinite { .. } => Failure::run(e).hint(
            "lower `optimizer.lr`, limit the gradient with `train.clip`, or leave such batches out with `train.nonfinite = \"skip\"`",
        ),
        e => Failure::run(e),
    }
}
