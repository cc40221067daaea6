//! `train` of both programs.

use crate::axial::Gap;
use crate::config::{Config, ModelConfig};
use crate::model::Task;
use crate::start::Start;
use crate::task;
use candle_core::Device;
use limpid_cli::training::{TrainArgs, Training, digest_of};
use limpid_cli::{Failure, Verbosity, print, report};
use limpid_config::load;
use limpid_datamodule::Data;
use limpid_engine::Model;
use limpid_engine::callback::Callback;
use limpid_export::{Card, CardNetwork};

/// Trains what the configuration describes; `layers` says which program it must be for.
///
/// # Errors
/// The configuration is of the other program, data cannot be read, or training fails.
pub fn run(args: &TrainArgs, layers: bool, program: &str) -> Result<(), Failure> {
    let common = &args.run_args.common;
    common.apply()?;
    let device = common.open_device()?;
    let loaded = load::<Config>(&args.run_args.request.request(Some(args.config.clone())))?;
    let config = &loaded.value;
    if config.layers().is_some() != layers {
        let (what, other) = if layers {
            ("has nothing to do with layers between slices", "emdiffuse")
        } else {
            ("is about layers between slices", "vemdiffuse")
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
    let shown = [loaded.show(false), loaded.show(true)];
    let spacing = task::spacing(config)?;
    let begun = Begun { args, config, device, data: &data, shown, program };
    match &config.model {
        ModelConfig::Axial(axial) => {
            let mut card = begun.card(&axial.network)?;
            Gap::of(config, spacing).put(&mut card)?;
            begun.run(&mut *model, card, Vec::new())
        }
        _ => {
            let mut card = begun.card(&config.network)?;
            Task::of(config, spacing).put(&mut card)?;
            let callbacks = start.map(|start| Box::new(start) as _).into_iter().collect();
            begun.run(&mut *model, card, callbacks)
        }
    }
}

/// A training whose data are open.
struct Begun<'a> {
    args: &'a TrainArgs,
    config: &'a Config,
    data: &'a Data,
    device: Device,
    /// As in [`Training::shown`].
    shown: [String; 2],
    program: &'a str,
}

impl Begun<'_> {
    /// What the model file says of a network.
    fn card<N: Clone>(&self, network: &N) -> Result<Card<N>, Failure> {
        let normalisers = self.data.normalisers().map_err(Failure::data)?;
        Ok(Card::new(
            &self.config.name,
            network,
            "YX",
            serde_json::to_value(normalisers).map_err(Failure::run)?,
            self.config.data_range.unwrap_or(1.0),
            &self.shown[0],
        ))
    }

    fn run<N: CardNetwork + 'static>(
        self,
        model: &mut dyn Model,
        card: Card<N>,
        callbacks: Vec<Box<dyn Callback>>,
    ) -> Result<(), Failure> {
        let Self { args, config, data, device, shown, program } = self;
        let training = Training {
            args: &args.run_args,
            name: &config.name,
            seed: config.seed,
            device,
            train: &config.train,
            digest: digest_of(config, |config| &mut config.data)?,
            shown,
            card,
            warnings: data.warnings().map_err(Failure::data)?,
            callbacks,
            program: [program, env!("CARGO_PKG_VERSION")],
        };
        training.run(model, data)
    }
}
