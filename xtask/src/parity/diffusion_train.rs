//! EMDiffuse's training with recorded randomness: losses and gradients, optimizer steps with averaged
//! weights, and the head that learns the variance.

use candle_core::{Device, Tensor};
use limpid_engine::{
    Batch, ClipConfig, Logs, Model, OptimizerSpec, Result as Done, Score, Stepper, TrainConfig,
};
use limpid_kernels::autograd;
use limpid_models::Measure;
use limpid_models::diffusion::{
    Aleatoric, AleatoricConfig, Diffusion, DiffusionConfig, Draws, Input, Level, LevelsConfig,
    NoiseSchedule, Parametrisation, ProcessConfig, Weighting,
};
use limpid_nn::ema::EmaConfig;
use limpid_nn::optim::{Adam, OptimizerConfig};
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use super::emdiffuse::Entry;
use super::fixture::{Fixture, Outcome, Worst, absolute, relative, text};
use super::guided::{self, GRADIENT, OUTPUT};
use super::training::{Run, Sequence, plain, trained};

#[derive(serde::Deserialize)]
struct Meta {
    weights_file: String,
    schedule: Entry,
    dropout: Option<f64>,
    restoration_schedule: Option<Entry>,
}

/// EMDiffuse's process on a schedule of its own.
fn process(schedule: &Entry) -> Result<ProcessConfig, String> {
    Ok(ProcessConfig::Diffusion {
        predict: Parametrisation::Noise {},
        input: Input::Gamma,
        weighting: Weighting::Uniform {},
        train: LevelsConfig::Schedule(schedule.config()?),
    })
}

/// The model whose weights lie beside the fixture.
fn model(fixture: &Fixture, meta: &Meta) -> Result<Diffusion, String> {
    let (mut network, weights) = guided::network_beside(fixture, &meta.weights_file)?;
    network.dropout = meta.dropout.unwrap_or(network.dropout);
    let config =
        DiffusionConfig { process: process(&meta.schedule)?, ..DiffusionConfig::default() };
    let model = Diffusion::new(
        &config,
        &network,
        // as `train_steps` says in words
        OptimizerConfig::Adam(Adam { lr: 5e-5, ..Adam::default() }),
        ScheduleConfig::default(),
        Measure { data_range: 1.0, denormalise: Arc::new(|_| {}), truth: true },
        0,
        &Device::Cpu,
    )
    .map_err(text)?;
    model.params().set(&weights).map_err(text)?;
    Ok(model)
}

/// From the network's intensities to those of batches.
fn unsigned(x: &Tensor) -> Result<Tensor, String> {
    x.affine(0.5, 0.5).map_err(text)
}

fn batch(condition: &Tensor, clean: &Tensor) -> Result<Batch, String> {
    let tensors = BTreeMap::from([
        ("input".to_owned(), unsigned(condition)?),
        ("target".to_owned(), unsigned(clean)?),
    ]);
    Ok(Batch { tensors, ids: Vec::new() })
}

/// The levels between steps, as drawn: `t` for each row and `u` below `prefix`.
fn levels(
    fixture: &Fixture,
    prefix: &str,
    schedule: &Entry,
    times: &[usize],
) -> Result<Vec<Level>, String> {
    let schedule = NoiseSchedule::new(&schedule.config()?);
    let parts = fixture.values(&format!("{prefix}u"))?;
    if parts.len() != times.len() {
        return Err(format!("{} levels and {} parts of one", times.len(), parts.len()));
    }
    let level = |(t, u): (&usize, &f64)| {
        Level::of_gamma(schedule.gamma_before(*t, *u as f32), Input::Gamma)
    };
    Ok(times.iter().zip(&parts).map(level).collect())
}

/// The randomness below `prefix`.
fn draws(fixture: &Fixture, prefix: &str, levels: Vec<Level>) -> Result<Draws, String> {
    let optional = |name: &str| fixture.tensors.get(&format!("{prefix}{name}"));
    let layers = optional("channel_index").map(|_| whole(fixture, prefix, "channel_index"));
    Ok(Draws {
        levels,
        noise: fixture.tensor(&format!("{prefix}noise"))?.clone(),
        layers: layers.transpose()?,
        mask: optional("mask").cloned(),
    })
}

fn whole(fixture: &Fixture, prefix: &str, name: &str) -> Result<Vec<usize>, String> {
    let values = fixture.values(&format!("{prefix}{name}"))?;
    Ok(values.into_iter().map(|v| v as usize).collect())
}

/// Compares γ of every row.
fn check_levels(
    worst: &mut Worst,
    fixture: &Fixture,
    key: &str,
    levels: &[Level],
) -> Result<(), String> {
    let gammas: Vec<f64> = levels.iter().map(|level| level.input).collect();
    worst.compare(key, &gammas, &fixture.values(key)?, absolute(1e-7));
    Ok(())
}

/// Compares the gradients of a loss with those below `prefix`.
fn check_gradients(
    worst: &mut Worst,
    fixture: &Fixture,
    prefix: &str,
    params: &Params,
    loss: &Tensor,
) -> Result<(), String> {
    let gradients = autograd::backward(loss).map_err(text)?;
    for (key, expected) in limpid_arch::reference_entries(fixture.part(prefix)) {
        let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
        let got = gradients.get(param.var()).ok_or_else(|| format!("no gradient of `{key}`"))?;
        worst.tensor(&format!("{prefix}{key}"), got, &expected, GRADIENT)?;
    }
    Ok(())
}

/// `diffusion_train_*`: the loss of a batch, everything on the way and the gradients.
pub(super) fn losses(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let model = model(fixture, &meta)?;
    let mut worst = Worst::default();
    let variants = fixture.names().filter_map(|n| n.strip_prefix("in.")?.strip_suffix(".y_0"));
    for variant in variants {
        let prefix = format!("in.{variant}.");
        let input = |name: &str| fixture.tensor(&format!("{prefix}{name}"));
        let times = whole(fixture, &prefix, "t")?;
        let levels = levels(fixture, &prefix, &meta.schedule, &times)?;
        let key = |name: &str| format!("out.{variant}.{name}");
        check_levels(&mut worst, fixture, &key("sample_gammas"), &levels)?;
        let draws = draws(fixture, &prefix, levels)?;
        let batch = batch(input("y_cond")?, input("y_0")?)?;
        let loss = model.loss(&batch, &draws, &Ctx::eval()).map_err(text)?;
        for (name, got, tolerance) in [
            ("y_noisy", &loss.state, absolute(1e-6)),
            ("noise_hat", &loss.answer, OUTPUT),
            ("loss", &loss.value, relative(1e-5)),
        ] {
            worst.tensor(&key(name), got, fixture.tensor(&key(name))?, tolerance)?;
        }
        let prefix = format!("grad.{variant}.");
        check_gradients(&mut worst, fixture, &prefix, model.params(), &loss.value)?;
    }
    worst.done()
}

/// A model that is given its randomness, step by step.
struct Replay {
    model: Diffusion,
    draws: Vec<Draws>,
}

impl Model for Replay {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Done<()> {
        let draws = &self.draws[step.step() as usize];
        let loss = self.model.loss(batch, draws, step.ctx())?.value;
        step.log("loss", &loss);
        step.minimise("net", &loss)
    }

    fn validation_step(&self, _: &Batch, _: &Ctx) -> Done<Vec<Logs>> {
        Ok(Vec::new())
    }

    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Done<Tensor> {
        self.model.predict(input, ctx)
    }

    fn scores(&self) -> Vec<Score> {
        Vec::new()
    }

    fn optimizers(&self) -> Vec<OptimizerSpec> {
        self.model.optimizers()
    }

    fn params(&self) -> &Params {
        self.model.params()
    }
}

/// `train_steps_*`: optimizer steps through the engine's trainer, with two averages of the weights.
pub(super) fn steps(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for (prefix, decay) in [("out.ema.", 0.9999), ("out.ema_fast.", 0.9)] {
        let run = replayed(fixture, decay).map_err(|e| e.to_string())?;
        for (prefix, own) in [("out.param.", ""), (prefix, "ema.")] {
            for (name, expected) in limpid_arch::reference_entries(fixture.part(prefix)) {
                let got = run.end.get(&format!("{own}{name}"));
                let got = got.ok_or_else(|| format!("no parameter `{own}{name}`"))?;
                worst.tensor(&format!("{prefix}{name}"), got, &expected, absolute(2e-6))?;
            }
        }
        for (key, logged, tolerance) in [
            ("out.losses", "loss", relative(1e-5)),
            ("out.grad_norms", "grad_norm/net", relative(1e-4)),
        ] {
            worst.compare(key, &run.logged(logged), &fixture.values(key)?, tolerance);
        }
    }
    worst.done()
}

fn replayed(fixture: &Fixture, decay: f64) -> Result<Run, Box<dyn Error>> {
    let meta: Meta = fixture.json("config")?;
    let steps = fixture.shape("out.losses")?.first().copied().unwrap_or(0);
    let draws = (0..steps).map(|step| {
        let prefix = format!("in.{step}.");
        let times = whole(fixture, &prefix, "t")?;
        draws(fixture, &prefix, levels(fixture, &prefix, &meta.schedule, &times)?)
    });
    let draws = draws.collect::<Result<_, String>>()?;
    // every step sees the same batch
    let one = batch(fixture.tensor("in.y_cond")?, fixture.tensor("in.y_0")?)?.tensors;
    let repeated = |(name, t): (String, Tensor)| Ok((name, Tensor::stack(&vec![t; steps], 0)?));
    let data = Sequence(one.into_iter().map(repeated).collect::<Result<_, candle_core::Error>>()?);
    let config = TrainConfig {
        ema: Some(EmaConfig::Constant { decay }),
        // never reached, but it logs the norm
        clip: Some(ClipConfig::Norm { max: 1e9 }),
        ..plain(steps as u64)
    };
    trained(&mut Replay { model: model(fixture, &meta)?, draws }, &data, config, &|_| Ok(()))
}

/// `aleatoric_*`: losses of the variance head, gradients, the deviation, and what the head says at the end
/// of a restoration.
pub(super) fn aleatoric(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let (network, weights) = guided::network_beside(fixture, &meta.weights_file)?;
    let config = AleatoricConfig {
        process: process(&meta.schedule)?,
        freeze_trunk: false,
        ..AleatoricConfig::default()
    };
    let (optimizer, schedule) = (OptimizerConfig::default(), ScheduleConfig::default());
    let model = Aleatoric::new(&config, &network, &weights, optimizer, schedule, 0, &Device::Cpu)
        .map_err(text)?;
    let condition = fixture.tensor("in.y_cond")?;
    let batch = batch(condition, fixture.tensor("in.gt")?)?;
    let mut worst = Worst::default();
    let (mut said, mut losses) = (Vec::new(), Vec::new());
    for time in &config.times {
        let prefix = format!("in.{time}.");
        let step = meta.schedule.n_timestep / time;
        let rows = vec![step; condition.dims()[0]];
        let levels = levels(fixture, &prefix, &meta.schedule, &rows)?;
        let key = |name: &str| format!("out.{time}.{name}");
        check_levels(&mut worst, fixture, &key("sample_gammas"), &levels)?;
        let draws = draws(fixture, &prefix, levels)?;
        let loss = model.loss(&batch, &draws, &Ctx::eval()).map_err(text)?;
        for (name, got, tolerance) in [
            ("noise_hat", &loss.answer, OUTPUT),
            ("variance", &loss.variance, OUTPUT),
            ("loss", &loss.value, relative(1e-5)),
        ] {
            worst.tensor(&key(name), got, fixture.tensor(&key(name))?, tolerance)?;
        }
        said.push(loss.variance);
        losses.push(loss.value);
    }
    // gradients are recorded of the loss at a quarter of the way
    let quarter = config.times.iter().position(|time| *time == 4).and_then(|i| losses.get(i));
    let quarter = quarter.ok_or("there is no loss at a quarter of the way")?;
    check_gradients(&mut worst, fixture, "grad.", model.params(), quarter)?;
    let mean = Tensor::stack(&said, 0).and_then(|t| t.mean(0)).map_err(text)?;
    worst.tensor("out.variance_mean", &mean, fixture.tensor("out.variance_mean")?, OUTPUT)?;
    // the reference's: of what the head says, not of twice that
    let deviation = mean.exp().and_then(|v| v.sqrt()).map_err(text)?;
    worst.tensor("out.sigma_image", &deviation, fixture.tensor("out.sigma_image")?, OUTPUT)?;

    let key = "out.restoration.variance";
    let expected = fixture.tensor(key)?;
    let schedule = meta.restoration_schedule.ok_or("the metadata has no `restoration_schedule`")?;
    let gammas = NoiseSchedule::new(&schedule.config()?).gammas;
    let gamma = gammas.get(1).ok_or("the restoration has a single step")?;
    let level = [Level::of_gamma(*gamma, Input::Gamma)];
    let of = |layer: Option<&Tensor>| {
        model.head().variance_at(&batch.tensors["input"], &level, layer, &Ctx::eval()).map_err(text)
    };
    let layers = if network.layer_index { expected.dims()[1] } else { 0 };
    let drawn =
        (0..layers).map(|c| of(Some(&Tensor::new(&[c as f32], condition.device()).map_err(text)?)));
    let drawn = drawn.collect::<Result<Vec<_>, String>>()?;
    let got = if drawn.is_empty() { of(None)? } else { Tensor::cat(&drawn, 1).map_err(text)? };
    worst.tensor(key, &got, expected, OUTPUT)?;
    worst.done()
}
