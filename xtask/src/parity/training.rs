//! Whole trainings: accumulation, clipping, warm-up, averaging, resumption; and two losses in order.
//!
//! The steps run through the engine's own [`Trainer`], not a copy of its loop.

use candle_core::{DType, Device, Tensor};
use limpid_engine::callback::{Callback, Control, Hook};
use limpid_engine::{
    Batch, Batches, BoxError, CheckpointConfig, ClipConfig, DataModule, Loader, Logs, Model,
    OptimizerSpec, Result as Done, RunDir, SampleId, Score, Silent, Stepper, TrainConfig,
    TrainState, Trainer,
};
use limpid_kernels::rng::Stream;
use limpid_kernels::{ConvSpec, conv, leaky_relu, relu};
use limpid_losses::losses::{gan::bce_with_logits, l1};
use limpid_nn::ema::EmaConfig;
use limpid_nn::optim::{Adam, AdamW, OptimizerConfig};
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Init, Params};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;

use super::fixture::{Fixture, Outcome, Worst, absolute, relative, values};

/// The fixture's batches in order, each tensor `[n, N, …]`.
#[derive(Clone)]
pub(super) struct Sequence(pub(super) BTreeMap<String, Tensor>);

impl Sequence {
    /// The tensors `x` and `y` of the file.
    fn pairs(f: &Fixture) -> Result<Self, String> {
        let named = |name: &str| Ok((name.to_owned(), f.tensor(name)?.clone()));
        ["x", "y"].into_iter().map(named).collect::<Result<_, String>>().map(Self)
    }
}

impl Loader for Sequence {
    fn batches(&self) -> u64 {
        self.0.values().map(|t| t.dims()[0] as u64).min().unwrap_or(0)
    }

    fn epoch(&self, _: u64, first: u64) -> Batches<'_> {
        Box::new((first..self.batches()).map(|i| {
            let at = |(name, t): (&String, &Tensor)| Ok((name.clone(), t.get(i as usize)?));
            let tensors: BTreeMap<_, _> = self.0.iter().map(at).collect::<Done<_>>()?;
            let samples = tensors.values().map(|t| t.dims()[0] as u64).min().unwrap_or(0);
            let id = |index| SampleId { file: "fixture".into(), index, region: Vec::new() };
            Ok(Batch { tensors, ids: (0..samples).map(id).collect() })
        }))
    }
}

impl DataModule for Sequence {
    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError> {
        Ok(Box::new(self.clone()))
    }

    fn validation(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        Ok(Vec::new())
    }

    fn fingerprint(&self) -> String {
        "fixture".into()
    }
}

/// Convolutions `0`, `2`, `4` … of a `Sequential` with an activation between them.
fn sequential(
    params: &Params,
    prefix: &str,
    x: &Tensor,
    spec: &ConvSpec,
    act: fn(&Tensor) -> limpid_kernels::Result<Tensor>,
) -> limpid_kernels::Result<Tensor> {
    let layers: Vec<_> = params.subset(prefix).all();
    let mut weights: Vec<_> = layers.iter().filter(|p| p.name().ends_with(".weight")).collect();
    weights.sort_by_key(|p| p.name().to_owned());
    let mut h = x.clone();
    for (i, w) in weights.iter().enumerate() {
        let bias = params.get(&w.name().replace(".weight", ".bias")).map(|b| b.tensor());
        h = conv(&h, &w.tensor(), bias.as_ref(), spec)?;
        if i + 1 < weights.len() {
            h = act(&h)?;
        }
    }
    Ok(h)
}

/// Parameters with the given values.
fn define(values: &BTreeMap<String, Tensor>) -> limpid_kernels::Result<Params> {
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "init"), DType::F32, &Device::Cpu);
    for (name, t) in values {
        scope.param(name, t.dims(), Init::Zeros)?;
    }
    params.set(values)?;
    Ok(params)
}

/// What a training went through and came to.
#[derive(Default)]
pub(super) struct Run {
    /// Learning rate and logs of every step.
    pub(super) steps: Vec<(f64, Logs)>,
    /// Parameters, `ema.` averages and optimizer states by slot and name.
    pub(super) end: BTreeMap<String, Tensor>,
}

impl Run {
    /// What was logged under `name` in every step.
    pub(super) fn logged(&self, name: &str) -> Vec<f64> {
        self.steps.iter().map(|(_, logs)| logs.get(name).copied().unwrap_or(f64::NAN)).collect()
    }
}

/// Edits the state at the start, and fills a [`Run`].
struct Observer<'o> {
    start: &'o dyn Fn(&mut TrainState<'_>) -> Done<()>,
    run: &'o RefCell<Run>,
}

impl Callback for Observer<'_> {
    fn name(&self) -> &str {
        "observer"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["learning_rates"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Done<()> {
        let mut run = self.run.borrow_mut();
        match hook {
            Hook::TrainStarted => (self.start)(state)?,
            Hook::TrainStepEnded => run.steps.push((state.groups[0].lr, state.logs.clone())),
            Hook::TrainEnded => {
                run.end = state.model.params().tensors();
                let averages = state.ema.iter().flat_map(|ema| ema.tensors());
                run.end.extend(averages.map(|(name, t)| (format!("ema.{name}"), t)));
                for (key, t) in state.groups[0].optimizer.state_tensors()? {
                    if let Some((name, slot)) = key.rsplit_once('.') {
                        run.end.insert(format!("{slot}.{name}"), t);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Trains with the engine's own loop; `start` may edit the state before the first step.
pub(super) fn trained(
    model: &mut dyn Model,
    data: &Sequence,
    config: TrainConfig,
    start: &dyn Fn(&mut TrainState<'_>) -> Done<()>,
) -> Result<Run, Box<dyn Error>> {
    let root = std::env::temp_dir().join(format!("limpid-parity-{}", std::process::id()));
    let run = RefCell::default();
    let mut dir = RunDir::open_or_create(&root, "parity", "fixture", true)?;
    let mut trainer = Trainer::new(config, 0);
    trainer.callbacks.push(Box::new(Observer { start, run: &run }));
    let result = trainer.fit(model, data, &mut dir, &mut Silent);
    drop(trainer);
    drop(dir);
    std::fs::remove_dir_all(&root)?;
    result?;
    Ok(run.take())
}

/// Whether the file lost the weights that training began with: its `init.` are the final ones.
fn start_is_lost(f: &Fixture) -> Result<bool, String> {
    let last = f.part("final.");
    for (name, first) in f.part("init.") {
        match last.get(&name) {
            Some(last) if values(&first)? == values(last)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// No validation, checkpoints only at the end.
pub(super) fn plain(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        validate_every: 0,
        checkpoint: CheckpointConfig {
            every_steps: 0,
            every_minutes: 0.0,
            ..CheckpointConfig::default()
        },
        ..TrainConfig::default()
    }
}

/// Residual denoiser of `train_tiny`.
struct Tiny {
    params: Params,
    steps: u64,
}

impl Model for Tiny {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Done<()> {
        let x = batch.get("x")?;
        let spec = ConvSpec { padding: vec![1, 1], ..ConvSpec::unit(2) };
        let y = (x - sequential(&self.params, "", x, &spec, relu)?)?;
        let loss = l1(&y, batch.get("y")?)?;
        step.log("loss", &loss);
        step.minimise("net", &loss)
    }

    fn validation_step(&self, _: &Batch, _: &Ctx) -> Done<Vec<Logs>> {
        Ok(Vec::new())
    }

    fn predict(&self, input: &Tensor, _: &Ctx) -> Done<Tensor> {
        Ok(input.clone())
    }

    fn scores(&self) -> Vec<Score> {
        Vec::new()
    }

    fn optimizers(&self) -> Vec<OptimizerSpec> {
        vec![OptimizerSpec {
            name: "net".into(),
            params: self.params.clone(),
            optimizer: OptimizerConfig::Adamw(AdamW {
                lr: 5e-3,
                weight_decay: 1e-2,
                ..AdamW::default()
            }),
            schedule: ScheduleConfig::Sequence {
                parts: vec![
                    ScheduleConfig::Linear { start: 0.2, end: 1.0, steps: Some(4) },
                    ScheduleConfig::Cosine { floor: 0.0, steps: Some(self.steps - 5) },
                ],
                milestones: vec![5],
            },
        }]
    }

    fn params(&self) -> &Params {
        &self.params
    }
}

/// `train_tiny`: some steps, with the complete state after part of them: the whole run, where the
/// file still has its start, and the rest of it from that state.
pub(super) fn tiny(f: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    tiny_runs(f, &mut worst).map_err(|e| e.to_string())?;
    worst.done()
}

fn tiny_runs(f: &Fixture, worst: &mut Worst) -> Result<(), Box<dyn Error>> {
    let steps = f.shape("rec.loss")?[0] as u64;
    let data = Sequence::pairs(f)?;
    let accumulate = data.batches() / steps;
    let config = |steps| TrainConfig {
        accumulate,
        clip: Some(ClipConfig::Norm { max: 0.5 }),
        ema: Some(EmaConfig::Constant { decay: 0.9 }),
        ..plain(steps)
    };
    let middle =
        f.names().find_map(|name| name.strip_prefix("step")?.split('.').next()?.parse().ok());
    let middle: u64 = middle.ok_or("no state from the middle of the run")?;
    let half = format!("step{middle}.");
    let saved = f.part(&half);

    if !start_is_lost(f)? {
        for (prefix, until) in [(half.as_str(), middle), ("final.", steps)] {
            let mut model = Tiny { params: define(&f.part("init."))?, steps };
            let run = trained(&mut model, &data, config(until), &|_| Ok(()))?;
            compare_run(worst, f, &run, 0, prefix)?;
        }
    }
    let mut model = Tiny { params: define(&f.part("init."))?, steps };
    let resume = |state: &mut TrainState<'_>| {
        let weights = |(name, t): (&String, &Tensor)| (name.clone(), t.clone());
        let own = state.model.params().tensors();
        let begin = saved.iter().filter(|(name, _)| own.contains_key(*name)).map(weights);
        state.model.params().set(&begin.collect())?;
        let slots = ["exp_avg", "exp_avg_sq"];
        let mut moments = BTreeMap::new();
        for name in own.keys() {
            moments.insert(format!("{name}.step"), Tensor::new(middle as i64, &Device::Cpu)?);
            for slot in slots {
                if let Some(t) = saved.get(&format!("{slot}.{name}")) {
                    moments.insert(format!("{name}.{slot}"), t.clone());
                }
            }
        }
        state.groups[0].optimizer.load_state(&moments)?;
        if let Some(ema) = &mut state.ema {
            let inner = |(name, t): (&String, &Tensor)| {
                Some((name.strip_prefix("ema.")?.to_owned(), t.clone()))
            };
            let averages = saved.iter().filter_map(inner).collect();
            ema.load(&averages, &serde_json::json!({ "updates": middle }))?;
        }
        state.progress.step = middle;
        state.progress.cursor = middle * accumulate;
        Ok(())
    };
    let run = trained(&mut model, &data, config(steps), &resume)?;
    compare_run(worst, f, &run, middle as usize, "final.")
}

/// Compares the steps of a run, of which the first is `first`, and the state at its end.
fn compare_run(
    worst: &mut Worst,
    f: &Fixture,
    run: &Run,
    first: usize,
    prefix: &str,
) -> Result<(), Box<dyn Error>> {
    for (name, expected) in f.part(prefix) {
        let what = format!("{prefix}{name} from step {first}");
        match run.end.get(&name) {
            Some(got) => worst.tensor(&what, got, &expected, absolute(5e-5))?,
            None => worst.require(&format!("{what} is missing"), false),
        }
    }
    let rates: Vec<f64> = run.steps.iter().map(|(lr, _)| *lr).collect();
    for (name, got, tolerance) in [
        ("rec.lr", rates, relative(1e-9)),
        ("rec.loss", run.logged("loss"), relative(1e-5)),
        ("rec.gnorm", run.logged("grad_norm/net"), relative(1e-4)),
    ] {
        let expected = f.values(name)?;
        let expected = expected.get(first..first + got.len()).ok_or("a run of too many steps")?;
        worst.compare(&format!("{name} from step {first}"), &got, expected, tolerance);
    }
    Ok(())
}

/// Generator and discriminator of `train_gan`.
struct Gan {
    params: Params,
}

impl Gan {
    fn generator(&self, x: &Tensor) -> limpid_kernels::Result<Tensor> {
        let spec = ConvSpec { padding: vec![1, 1], ..ConvSpec::unit(2) };
        sequential(&self.params, "G.", x, &spec, relu)
    }

    fn discriminator(&self, image: &Tensor, input: &Tensor) -> limpid_kernels::Result<Tensor> {
        let spec = ConvSpec { stride: vec![2, 2], padding: vec![1, 1], ..ConvSpec::unit(2) };
        let both = Tensor::cat(&[image, input], 1)?;
        sequential(&self.params, "D.", &both, &spec, |x| leaky_relu(x, 0.2))
    }
}

impl Model for Gan {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Done<()> {
        let (x, y) = (batch.get("x")?, batch.get("y")?);
        let bce = |logits: &Tensor, label: f64| {
            bce_with_logits(logits, &(logits.zeros_like()? + label)?, 1.0)
        };
        self.params.subset("D.").freeze(true);
        let fake = self.generator(x)?;
        let reconstruction = l1(&fake, y)?;
        let adversarial = bce(&self.discriminator(&fake, x)?, 1.0)?;
        let total = (&reconstruction + (&adversarial * 0.05)?)?;
        step.minimise("G", &total)?;
        self.params.subset("D.").freeze(false);
        let real = bce(&self.discriminator(y, x)?, 1.0)?;
        let faked = bce(&self.discriminator(&fake.detach(), x)?, 0.0)?;
        step.minimise("D", &(&real + &faked)?)?;
        let logged = [
            ("g_l1", reconstruction),
            ("g_adv", adversarial),
            ("g_total", total),
            ("d_real", real),
            ("d_fake", faked),
        ];
        logged.iter().for_each(|(name, value)| step.log(name, value));
        Ok(())
    }

    fn validation_step(&self, _: &Batch, _: &Ctx) -> Done<Vec<Logs>> {
        Ok(Vec::new())
    }

    fn predict(&self, input: &Tensor, _: &Ctx) -> Done<Tensor> {
        Ok(self.generator(input)?)
    }

    fn scores(&self) -> Vec<Score> {
        Vec::new()
    }

    fn optimizers(&self) -> Vec<OptimizerSpec> {
        ["G", "D"]
            .iter()
            .map(|name| OptimizerSpec {
                name: (*name).to_owned(),
                params: self.params.subset(&format!("{name}.")),
                optimizer: OptimizerConfig::Adam(Adam { lr: 1e-3, ..Adam::default() }),
                schedule: ScheduleConfig::default(),
            })
            .collect()
    }

    fn params(&self) -> &Params {
        &self.params
    }
}

/// `train_gan`: two losses, the second computed after the first step.
pub(super) fn gan(f: &Fixture) -> Result<Outcome, String> {
    if start_is_lost(f)? {
        let reason = "its `init.` weights are the final ones, so the run cannot be repeated";
        return Ok(Outcome::Skipped(reason.into()));
    }
    let mut worst = Worst::default();
    gan_run(f, &mut worst).map_err(|e| e.to_string())?;
    worst.done()
}

fn gan_run(f: &Fixture, worst: &mut Worst) -> Result<(), Box<dyn Error>> {
    let data = Sequence::pairs(f)?;
    let mut model = Gan { params: define(&f.part("init."))? };
    let run = trained(&mut model, &data, plain(data.batches()), &|_| Ok(()))?;
    for (name, expected) in f.part("rec.") {
        let got = run.logged(&name);
        worst.compare(&format!("rec.{name}"), &got, &values(&expected)?, absolute(1e-5));
    }
    for (name, expected) in f.part("final.") {
        let got = run.end.get(&name).ok_or("a parameter is missing")?;
        worst.tensor(&format!("final.{name}"), got, &expected, absolute(1e-5))?;
    }
    Ok(())
}
