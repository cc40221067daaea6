//! `train` of both programs.

use crate::config::Config;
use crate::model::Task;
use crate::start::Start;
use crate::task;
use limpid_cli::training::{TrainArgs, Training, digest_of};
use limpid_cli::{Failure, Verbosity, print, report};
use limpid_config::load;
use limpid_export::Card;

/// Trains what the configuration describes; `layers` says which program it must be for.
///
/// # Errors
/// The configuration is of the other program, data cannot be read, or training fails.
pub fn run(args: &TrainArgs, layers: bool, program: &str) -> Result<(), Failure> {
    let common = &args.run_args.common;
    common.apply()?;
    common.device.resolve()?;
    let device = candle_core::Device::Cpu;
    let loaded = load::<Config>(&args.run_args.request.request(Some(args.config.clone())))?;
    let config = &loaded.value;
    if config.network.layer_index != layers {
        let (what, other) = if layers {
            ("does not draw layers between slices", "emdiffuse")
        } else {
            ("draws layers between slices", "vemdiffuse")
        };
        return Err(Failure::config(format!("the configuration {what}"))
            .hint(format!("train it with `{other} train`"))
            .file(&args.config));
    }
    if common.dry_run {
        return print(loaded.show(true));
    }
    let start = config.start.as_deref();
    let start = start.map(|named| Start::open(named, &config.network, program)).transpose()?;
    if let Some(start) = start.as_ref().filter(|_| common.verbosity() > Verbosity::Quiet) {
        report(&start.said);
    }
    let data = task::data(config)?;
    let mut model = task::model(config, &data, start.as_ref(), &device)?;
    let normalisers = data.normalisers().map_err(Failure::data)?;
    let shown = [loaded.show(false), loaded.show(true)];
    let mut card = Card::new(
        &config.name,
        &config.network,
        "YX",
        serde_json::to_value(normalisers).map_err(Failure::run)?,
        config.data_range.unwrap_or(1.0),
        &shown[0],
    );
    Task::of(config, task::spacing(config)?).put(&mut card)?;
    let training = Training {
        args,
        name: &config.name,
        seed: config.seed,
        train: &config.train,
        digest: digest_of(config, |config| &mut config.data)?,
        shown,
        card,
        callbacks: start.map(|start| Box::new(start) as _).into_iter().collect(),
        program: [program, env!("CARGO_PKG_VERSION")],
    };
    training.run(&mut *model, &data)
}
