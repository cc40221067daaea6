//! `denoise train`.

use crate::config::Config;
use crate::model_file::axes;
use crate::task;
use limpid_cli::training::{TrainArgs, Training, digest_of};
use limpid_cli::{Failure, print};
use limpid_config::load;
use limpid_export::Card;

pub(crate) fn run(args: &TrainArgs) -> Result<(), Failure> {
    let common = &args.run_args.common;
    common.apply()?;
    let device = common.open_device()?;
    let loaded = load::<Config>(&args.run_args.request.request(Some(args.config.clone())))?;
    let config = &loaded.value;
    if common.dry_run {
        return print(loaded.show(true));
    }
    let data = task::data(config)?;
    let mut model = task::model(config, &data, &device)?;
    let shown = [loaded.show(false), loaded.show(true)];
    let card = Card::new(
        &config.name,
        &config.network,
        axes(&config.network),
        serde_json::to_value(data.normalisers().map_err(Failure::data)?).map_err(Failure::run)?,
        config.data_range.unwrap_or(1.0),
        &shown[0],
    );
    let training = Training {
        args: &args.run_args,
        name: &config.name,
        seed: config.seed,
        device: device.clone(),
        train: &config.train,
        digest: digest_of(config, |config| &mut config.data)?,
        shown,
        card,
        warnings: data.warnings().map_err(Failure::data)?,
        callbacks: Vec::new(),
        program: [env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")],
    };
    training.run(&mut model, &data)
}
