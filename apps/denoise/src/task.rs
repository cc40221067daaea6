//! From a configuration to a model on its data.

use crate::config::Config;
use candle_core::Device;
use limpid_arch::ImageArchitecture as _;
use limpid_cli::Failure;
use limpid_cli::training::measure;
use limpid_datamodule::Data;
use limpid_engine::DataModule;
use limpid_models::Restoration;

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
        measure(&config.data, data, config.data_range)?,
        config.seed,
        device,
    )
    .map_err(|e| Failure::config(e.to_string()))
}
