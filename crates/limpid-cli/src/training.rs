//! A training run from the command line: its folder, its files, what is said of it, and the model
//! file at its end.

use crate::args::{RunArgs, Verbosity};
use crate::failure::{Failure, failure};
use crate::interrupt;
use crate::prediction::progress;
use crate::terminal::report;
use candle_core::Tensor;
use limpid_config::Check;
use limpid_datamodule::dataset::DatasetConfig;
use limpid_datamodule::normalise::Normaliser;
use limpid_datamodule::split::SplitConfig;
use limpid_datamodule::{Data, DataConfig};
use limpid_engine::callback::{Callback, Control, Hook};
use limpid_engine::{
    Checkpoints, DataModule, Error, Event, Model, Outcome, Result as Done, RunDir, Sink,
    TrainConfig, TrainState, Trainer,
};
use limpid_export::{Bundle, Card, CardNetwork};
use limpid_models::Measure;
use limpid_track::{MetricsLog, Pictures};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// The arguments of every `train`.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainArgs {
    /// Configuration file
    pub config: PathBuf,
    /// All else.
    #[command(flatten)]
    pub run_args: RunArgs,
}

/// A run that is about to begin or to go on.
pub struct Training<'a, N> {
    /// The command line.
    pub args: &'a RunArgs,
    /// Name of the runs.
    pub name: &'a str,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps, checkpoints, validation.
    pub train: &'a TrainConfig,
    /// What identifies the run, see [`digest_of`].
    pub digest: String,
    /// The configuration as TOML, and the same with the origin of every value.
    pub shown: [String; 2],
    /// What the model file will say, but for steps and score.
    pub card: Card<N>,
    /// What the user should know of the data.
    pub warnings: Vec<String>,
    /// Where tensors live.
    pub device: candle_core::Device,
    /// What happens around the steps besides the usual.
    pub callbacks: Vec<Box<dyn Callback>>,
    /// Name and version of the program.
    pub program: [&'a str; 2],
}

impl<N: CardNetwork + 'static> Training<'_, N> {
    /// Trains to the end, or until it is interrupted.
    ///
    /// # Errors
    /// The folder belongs to another configuration or cannot be written; those of training.
    pub fn run(self, model: &mut dyn Model, data: &dyn DataModule) -> Result<(), Failure> {
        let Self { args, train, digest, .. } = &self;
        let common = &args.common;
        let talk = common.verbosity() > Verbosity::Quiet;
        let root = common.out.clone().unwrap_or_else(|| PathBuf::from("runs"));
        let mut run = match &args.run {
            Some(dir) => RunDir::open(dir),
            None => RunDir::open_or_create(&root, self.name, digest, args.fresh),
        }
        .map_err(failure)?;
        if args.run.is_some() && run.status().config != *digest && !args.allow_changed {
            return Err(Failure::config("the run was made with another configuration")
                .hint(
                    "go on all the same with `--allow-changed`, or begin a new run without `--run`",
                )
                .file(run.path()));
        }
        if run.status().config != *digest {
            // accepted above: from now on the run is one of this configuration
            run.update(|s| s.config.clone_from(digest)).map_err(failure)?;
        }
        let [plain, origins] = &self.shown;
        run.write("config.toml", plain.as_bytes()).map_err(failure)?;
        run.write("origins.toml", origins.as_bytes()).map_err(failure)?;
        run.write("env.json", environment(self.program).to_string().as_bytes()).map_err(failure)?;
        if talk {
            report(format!("run {}", run.path().display()));
            for warning in &self.warnings {
                report(format!("warning: {warning}"));
            }
        }
        let mut trainer = Trainer::new(TrainConfig::clone(train), self.seed);
        trainer.device = self.device.clone();
        trainer.allow_changed = args.allow_changed;
        trainer.interrupt = interrupt::install()?.flag();
        let metric = match train.checkpoint.best.metric.as_str() {
            "" => model.scores().first().map_or_else(String::new, |s| s.name.clone()),
            name => name.to_owned(),
        };
        let names = model.weights().shapes().into_keys().collect();
        let card = Card { name: run.name().to_owned(), ..self.card };
        trainer.callbacks.extend(self.callbacks);
        trainer.callbacks.push(Box::new(Deploy {
            dir: run.path().to_owned(),
            card,
            metric,
            names,
        }));
        let mut sinks: Vec<Box<dyn Sink>> = vec![
            Box::new(MetricsLog::new(run.path(), report)),
            Box::new(Pictures::new(run.path())),
            progress(common),
        ];
        match trainer.fit(model, data, &mut run, &mut sinks).map_err(failure)? {
            Outcome::Interrupted => Err(Failure::interrupted("")),
            _ => Ok(()),
        }
    }
}

/// What identifies a run: its whole configuration, less what cannot change the result, which
/// `data_of` finds in a copy of it.
///
/// # Errors
/// Never, unless there is a bug: a configuration is plain.
pub fn digest_of<C: Clone + Serialize>(
    config: &C,
    data_of: impl Fn(&mut C) -> &mut DataConfig,
) -> Result<String, Failure> {
    let mut config = config.clone();
    let data = data_of(&mut config);
    (data.workers, data.prefetch, data.cache_mib, data.prefetch_mib) = (1, 1, 0, 1);
    Ok(digest(&toml::to_string(&config).map_err(Failure::run)?))
}

/// Finds fault with a `name` that cannot be that of a run's folder.
pub fn check_name(name: &str, at: &mut Check) {
    let fine = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(fine) {
        at.problem("name", "must be letters, digits, `-` and `_`")
            .hint("it becomes the name of a folder");
    }
}

/// Identifies a text.
#[must_use]
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// How validation measures: in the unit of the files where normalisation is one for all of them.
///
/// # Errors
/// The data have not been opened.
pub fn measure(
    config: &DataConfig,
    data: &Data,
    data_range: Option<f64>,
) -> Result<Measure, Failure> {
    let normalisers = data.normalisers().map_err(Failure::data)?;
    let known = match (&normalisers.target, &normalisers.input) {
        (Some(target), _) => Some(target.clone()),
        (None, Normaliser::Dataset { normalisation }) => Some(normalisation.clone()),
        (None, Normaliser::Image { .. }) => None,
    };
    Ok(Measure {
        // normalised by its own image, a range of about one is all that can be said
        data_range: data_range.filter(|_| known.is_some()).unwrap_or(1.0),
        denormalise: match known {
            Some(normalisation) => Arc::new(move |values| normalisation.invert(values)),
            None => Arc::new(|_| {}),
        },
        truth: match &config.validation.split {
            SplitConfig::Sets { sets } => sets.values().all(knows_truth),
            _ => knows_truth(&config.dataset),
        },
    })
}

/// Whether a dataset comes with clean images.
fn knows_truth(dataset: &DatasetConfig) -> bool {
    matches!(
        dataset,
        DatasetConfig::Paired { .. }
            | DatasetConfig::Simulated { .. }
            | DatasetConfig::Layers { .. }
            | DatasetConfig::Thinned { .. }
    )
}

/// Writes `model.safetensors` whenever the state is the best so far, and at the end.
struct Deploy<N> {
    dir: PathBuf,
    card: Card<N>,
    metric: String,
    /// What a model file holds of a checkpoint.
    names: BTreeSet<String>,
}

impl<N: CardNetwork> Deploy<N> {
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

impl<N: CardNetwork> Callback for Deploy<N> {
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
fn environment([program, version]: [&str; 2]) -> serde_json::Value {
    json!({
        "program": program,
        "version": version,
        "command": std::env::args().collect::<Vec<_>>(),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "threads": rayon::current_num_threads(),
    })
}
