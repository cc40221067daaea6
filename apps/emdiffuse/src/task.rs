//! From a configuration to a model on its data.

use crate::config::{Config, ModelConfig};
use crate::start::Start;
use candle_core::Device;
use limpid_cli::{Failure, failure};
use limpid_datamodule::dataset::DatasetConfig;
use limpid_datamodule::{Data, ImageFile};
use limpid_engine::{DataModule, Model};
use limpid_io::{Axis, VolumeInfo};
use limpid_models::AxialSuperResolution;
use limpid_models::diffusion::{Aleatoric, Diffusion};

/// Opened, checked data.
///
/// # Errors
/// They cannot be read or do not fit the configuration.
pub fn data(config: &Config) -> Result<Data, Failure> {
    let mut data = Data::new(config.data.clone(), config.seed);
    data.preprocess().map_err(Failure::data)?;
    let (channels, _) = data.channels().map_err(Failure::data)?;
    let expected = match config.model {
        ModelConfig::Axial(_) => channels, // as many slices as the dataset gives
        _ => config.network.condition_channels(),
    };
    if channels != expected {
        return Err(Failure::config(format!(
            "the images have {channels} channel(s), the network is conditioned on {expected}"
        ))
        .hint("give grey images"));
    }
    Ok(data)
}

/// The model of a task, with initial weights, or for a variance head with those of `start`.
///
/// # Errors
/// The network cannot be built.
pub fn model(
    config: &Config,
    data: &Data,
    start: Option<&Start>,
    device: &Device,
) -> Result<Box<dyn Model>, Failure> {
    let measure = limpid_cli::training::measure(&config.data, data, config.data_range)?;
    match &config.model {
        ModelConfig::Diffusion(diffusion) => {
            let model = Diffusion::new(
                diffusion,
                &config.network,
                config.optimizer.clone(),
                config.schedule.clone(),
                measure,
                config.seed,
                device,
            );
            Ok(Box::new(model.map_err(failure)?))
        }
        ModelConfig::Aleatoric(aleatoric) => {
            let none = std::collections::BTreeMap::new();
            let model = Aleatoric::new(
                aleatoric,
                &config.network,
                start.map_or(&none, Start::weights),
                config.optimizer.clone(),
                config.schedule.clone(),
                config.seed,
                device,
            );
            Ok(Box::new(model.map_err(failure)?))
        }
        ModelConfig::Axial(axial) => {
            let model = AxialSuperResolution::new(
                axial,
                config.layers().unwrap_or_default() + 1,
                config.optimizer.clone(),
                config.schedule.clone(),
                measure,
                config.seed,
                device,
            );
            Ok(Box::new(model.map_err(failure)?))
        }
    }
}

/// Distance of neighbouring slices of the volumes that layers are learnt from, if the first says so.
///
/// # Errors
/// The volume cannot be read.
pub fn spacing(config: &Config) -> Result<Option<f64>, Failure> {
    let (DatasetConfig::Layers { volume, .. } | DatasetConfig::Thinned { volume, .. }) =
        &config.data.dataset
    else {
        return Ok(None);
    };
    let axes = config.data.axes.as_ref().map(|a| a.parse()).transpose().map_err(Failure::config)?;
    let volumes = limpid_datamodule::dataset::volumes(volume).map_err(Failure::data)?;
    let Some(first) = volumes.first() else { return Ok(None) };
    let file = ImageFile::open(first, 2, axes.as_ref()).map_err(Failure::data)?;
    Ok(distance(&file.info))
}

/// Distance of neighbouring slices, if the file says so.
#[must_use]
pub fn distance(info: &VolumeInfo) -> Option<f64> {
    info.spacing_of(Axis::Z).filter(|z| *z > 0.0)
}
