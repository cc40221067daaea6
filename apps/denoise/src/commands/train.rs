//! `denoise train`.

use crate::config::Config;
use crate::task::{self, failure};
use candle_core::Tensor;
use limpid_cli::{Failure, HELP, RunArgs, Verbosity, interrupt, print, report};
use limpid_config::load;
use limpid_engine::callback::{Callback, Control, Hook};
use limpid_engine::{
    Checkpoints, Error, Event, Model, Outcome, Result as Done, RunDir, Sink, TrainState, Trainer,
};
use limpid_export::{Bundle, Card};
use limpid_track::{JsonLines, MetricsLog, Pictures, Plain, Terminal};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::PathBuf;

/// Train a network; the same command goes on with an interrupted run
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  denoise train configs/denoise/em-demo.toml
  denoise train my.toml --set optimizer.lr=1e-4 --set train.steps=20000
  denoise train my.toml --dry-run"
)]
pub(crate) struct Args {
    /// Configuration file
    config: PathBuf,
    /// Go on with this run, whatever its name
    #[arg(long, value_name = "DIR", conflicts_with = "fresh")]
    run: Option<PathBuf>,
    /// Go on although configuration or data have changed
    #[arg(long)]
    allow_changed: bool,
    #[command(flatten)]
    run_args: RunArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let common = &args.run_args.common;
    common.apply()?;
    common.device.resolve()?;
    let device = candle_core::Device::Cpu;
    let loaded = load::<Config>(&args.run_args.request.request(Some(args.config.clone())))?;
    let config = &loaded.value;
    if common.dry_run {
        return print(loaded.show(true));
    }
    let talk = common.verbosity() > Verbosity::Quiet;
    let data = task::data(config)?;
    let mut model = task::model(config, &data, &device)?;
    let digest = task::digest(config)?;
    let root = common.out.clone().unwrap_or_else(|| PathBuf::from("runs"));
    let mut run = match &args.run {
        Some(dir) => RunDir::open(dir),
        None => RunDir::open_or_create(&root, &config.name, &digest, args.run_args.fresh),
    }
    .map_err(failure)?;
    if args.run.is_some() && run.status().config != digest && !args.allow_changed {
        return Err(Failure::config("the run was made with another configuration")
            .hint("go on all the same with `--allow-changed`, or begin a new run without `--run`")
            .file(run.path()));
    }
    if run.status().config != digest {
        // accepted above: from now on the run is one of this configuration
        run.update(|s| s.config.clone_from(&digest)).map_err(failure)?;
    }
    run.write("config.toml", loaded.show(false).as_bytes()).map_err(failure)?;
    run.write("origins.toml", loaded.show(true).as_bytes()).map_err(failure)?;
    run.write("env.json", environment().to_string().as_bytes()).map_err(failure)?;
    if talk {
        report(format!("run {}", run.path().display()));
        for warning in data.warnings().map_err(Failure::data)? {
            report(format!("warning: {warning}"));
        }
    }
    let mut trainer = Trainer::new(config.train.clone(), config.seed);
    trainer.allow_changed = args.allow_changed;
    trainer.interrupt = interrupt::install()?.flag();
    let card = Card::new(
        run.name(),
        &config.network,
        serde_json::to_value(data.normalisers().map_err(Failure::data)?).map_err(Failure::run)?,
        config.data_range.unwrap_or(1.0),
        &loaded.show(false),
    );
    let metric = match config.train.checkpoint.best.metric.as_str() {
        "" => model.scores().first().map_or_else(String::new, |s| s.name.clone()),
        name => name.to_owned(),
    };
    let names = model.weights().shapes().into_keys().collect();
    trainer.callbacks.push(Box::new(Deploy { dir: run.path().to_owned(), card, metric, names }));
    let mut sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(MetricsLog::new(run.path(), report)), Box::new(Pictures::new(run.path()))];
    if common.json {
        sinks.push(Box::new(JsonLines::new(std::io::stdout())));
    } else if talk {
        sinks.push(if std::io::stderr().is_terminal() {
            Box::new(Terminal::new())
        } else {
            Box::new(Plain::new(std::io::stderr()))
        });
    }
    match trainer.fit(&mut model, &data, &mut run, &mut sinks).map_err(failure)? {
        Outcome::Interrupted => Err(Failure::interrupted("")),
        _ => Ok(()),
    }
}

/// Writes `model.safetensors` whenever the state is the best so far, and at the end.
struct Deploy {
    dir: PathBuf,
    card: Card,
    metric: String,
    /// What a model file holds of a checkpoint.
    names: BTreeSet<String>,
}

impl Deploy {
    fn save(
        &self,
        mut weights: BTreeMap<String, Tensor>,
        step: u64,
        score: Option<f64>,
    ) -> Done<()> {
        weights.retain(|name, _| self.names.contains(name));
        let score = score.map(|s| (self.metric.clone(), s));
        let card = Card { step, score, ..self.card.clone() };
        Bundle { card, weights }
            .save(&self.dir.join("model.safetensors"))
            .map_err(|e| Error::Data(Box::new(e)))
    }
}

impl Callback for Deploy {
    fn name(&self) -> &str {
        "deploy"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["checkpoint"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, control: &mut Control) -> Done<()> {
        let best = state.progress.best.first().copied();
        match hook {
            Hook::CheckpointSaved if control.best => {
                let mut weights = state.model.weights().tensors();
                if let Some(ema) = &state.ema {
                    weights.extend(ema.tensors());
                }
                self.save(weights, state.progress.step, best.map(|b| b.1))
            }
            // a process killed between checkpoint and model left an older one: the end sets it right
            Hook::TrainEnded => {
                let list = Checkpoints::new(&self.dir.join("checkpoints")).list();
                let wanted = best.map_or(state.progress.step, |b| b.0);
                match list.iter().find(|c| c.step == wanted) {
                    Some(info) => {
                        self.save(Checkpoints::weights(&info.path)?, wanted, best.map(|b| b.1))
                    }
                    None => {
                        let message = format!(
                            "the checkpoint of step {wanted} is gone; the model is that of an earlier step"
                        );
                        control.events.push(Event::Warning { message });
                        Ok(())
                    }
                }
            }
            _ => Ok(()),
        }
    }
}

/// What the run ran on.
fn environment() -> serde_json::Value {
    json!({
        "program": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "threads": rayon::current_num_threads(),
    })
}
