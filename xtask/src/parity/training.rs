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
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Init, Params};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::rc::Rc;

use super::fixture::{Fixture, Outcome, Worst, absolute, relative, values};

/// The fixture's batches in order, `x [n, N, …]` and `y`.
struct Sequence {
    x: Tensor,
    y: Tensor,
}

impl Loader for Sequence {
    fn batches(&self) -> u64 {
        self.x.dims()[0] as u64
    }

    fn epoch(&self, _: u64, first: u64) -> Batches<'_> {
        Box::new((first..self.batches()).map(|i| {
            let (x, y) = (self.x.get(i as usize)?, self.y.get(i as usize)?);
            let ids = (0..x.dims()[0] as u64)
                .map(|n| SampleId { file: "fixture".into(), index: n, region: Vec::new() })
                .collect();
            Ok(Batch { tensors: BTreeMap::from([("x".into(), x), ("y".into(), y)]), ids })
        }))
    }
}

impl DataModule for Sequence {
    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError> {
        Ok(Box::new(Self { x: self.x.clone(), y: self.y.clone() }))
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

/// Notes learning rates, gradient norms and losses of every step.
struct Recorder(Rc<RefCell<Vec<(f64, Logs)>>>);

impl Callback for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["learning_rates"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Done<()> {
        if hook == Hook::TrainStepEnded {
            self.0.borrow_mut().push((state.groups[0].lr, state.logs.clone()));
        }
        Ok(())
    }
}

fn trained(
    model: &mut dyn Model,
    data: &Sequence,
    config: TrainConfig,
    allow: impl Fn(&TrainState<'_>) + 'static,
) -> Result<Vec<(f64, Logs)>, Box<dyn Error>> {
    let root = std::env::temp_dir().join(format!("limpid-parity-{}", std::process::id()));
    let record = Rc::new(RefCell::new(Vec::new()));
    let mut run = RunDir::open_or_create(&root, "parity", "fixture", true)?;
    let mut trainer = Trainer::new(config, 0);
    trainer.callbacks.push(Box::new(Recorder(record.clone())));
    trainer.callbacks.push(Box::new(Last(allow)));
    let result = trainer.fit(model, data, &mut run, &mut Silent);
    drop(trainer);
    drop(run);
    std::fs::remove_dir_all(&root)?;
    result?;
    Ok(record.take())
}

/// Looks at the state when training has ended.
struct Last<F>(F);

impl<F: Fn(&TrainState<'_>)> Callback for Last<F> {
    fn name(&self) -> &str {
        "last"
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Done<()> {
        if hook == Hook::TrainEnded {
            (self.0)(state);
        }
        Ok(())
    }
}

/// No validation, checkpoints only at the end.
fn plain(steps: u64) -> TrainConfig {
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
    optimizer: OptimizerConfig,
}

impl Model for Tiny {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Done<Logs> {
        let x = batch.get("x")?;
        let spec = ConvSpec { padding: vec![1, 1], ..ConvSpec::unit(2) };
        let y = (x - sequential(&self.params, "", x, &spec, relu)?)?;
        let loss = l1(&y, batch.get("y")?)?;
        step.minimise("net", &loss)?;
        Ok(Logs::from([("loss".to_owned(), f64::from(loss.to_scalar::<f32>()?))]))
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
            optimizer: self.optimizer.clone(),
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

/// `train_tiny`: 20 steps, and the complete state after 10.
pub(super) fn tiny(f: &Fixture) -> Result<Outcome, String> {
    let worst = Rc::new(RefCell::new(Worst::default()));
    tiny_runs(f, &worst).map_err(|e| e.to_string())?;
    worst.take().done()
}

fn tiny_runs(f: &Fixture, worst: &Rc<RefCell<Worst>>) -> Result<(), Box<dyn Error>> {
    let steps = f.shape("rec.loss")?[0] as u64;
    let data = Sequence { x: f.tensor("x")?.clone(), y: f.tensor("y")?.clone() };
    let accumulate = data.batches() / steps;
    let optimizer: OptimizerConfig = serde_json::from_value(
        serde_json::json!({ "kind": "adamw", "lr": 5e-3, "weight_decay": 1e-2 }),
    )?;
    for (prefix, until) in [("step10.", 10), ("final.", steps)] {
        let mut model =
            Tiny { params: define(&f.part("init."))?, steps, optimizer: optimizer.clone() };
        let config = TrainConfig {
            accumulate,
            clip: Some(ClipConfig::Norm { max: 0.5 }),
            ema: Some(EmaConfig::Constant { decay: 0.9 }),
            ..plain(until)
        };
        let want = f.part(prefix);
        let notes = worst.clone();
        let record = trained(&mut model, &data, config, move |state| {
            let mut worst = notes.borrow_mut();
            let mut all = state.model.params().tensors();
            if let Some(ema) = &state.ema {
                all.extend(ema.tensors().into_iter().map(|(k, t)| (format!("ema.{k}"), t)));
            }
            for (key, t) in state.groups[0].optimizer.state_tensors().unwrap_or_default() {
                if let Some((name, slot)) = key.rsplit_once('.') {
                    all.insert(format!("{slot}.{name}"), t);
                }
            }
            for (name, want) in &want {
                let what = format!("{prefix}{name}");
                match (all.get(name).map(values), values(want)) {
                    (Some(Ok(got)), Ok(want)) => worst.compare(&what, &got, &want, absolute(5e-5)),
                    _ => worst.require(&format!("{what} is missing"), false),
                }
            }
        })?;
        let n = record.len();
        let mut worst = worst.borrow_mut();
        let of = |name: &str| -> Vec<f64> {
            record.iter().map(|(_, logs)| logs.get(name).copied().unwrap_or(f64::NAN)).collect()
        };
        let lrs: Vec<f64> = record.iter().map(|(lr, _)| *lr).collect();
        worst.compare("rec.lr", &lrs, &f.values("rec.lr")?[..n], relative(1e-9));
        worst.compare("rec.loss", &of("loss"), &f.values("rec.loss")?[..n], relative(1e-5));
        worst.compare(
            "rec.gnorm",
            &of("grad_norm/net"),
            &f.values("rec.gnorm")?[..n],
            relative(1e-4),
        );
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
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Done<Logs> {
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
        [
            ("g_l1", reconstruction),
            ("g_adv", adversarial),
            ("g_total", total),
            ("d_real", real),
            ("d_fake", faked),
        ]
        .into_iter()
        .map(|(name, t)| Ok((name.to_owned(), f64::from(t.to_scalar::<f32>()?))))
        .collect()
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
                optimizer: serde_json::from_value(
                    serde_json::json!({ "kind": "adam", "lr": 1e-3 }),
                )
                .unwrap_or_default(),
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
    let mut worst = Worst::default();
    gan_run(f, &mut worst).map_err(|e| e.to_string())?;
    worst.done()
}

fn gan_run(f: &Fixture, worst: &mut Worst) -> Result<(), Box<dyn Error>> {
    let data = Sequence { x: f.tensor("x")?.clone(), y: f.tensor("y")?.clone() };
    let mut model = Gan { params: define(&f.part("init."))? };
    let record = trained(&mut model, &data, plain(data.batches()), |_| {})?;
    for (name, want) in f.part("rec.") {
        let got: Vec<f64> =
            record.iter().map(|(_, logs)| logs.get(&name).copied().unwrap_or(f64::NAN)).collect();
        worst.compare(&format!("rec.{name}"), &got, &values(&want)?, absolute(1e-5));
    }
    for (name, want) in f.part("final.") {
        let got = model.params.get(&name).ok_or("a parameter is missing")?;
        worst.tensor(&format!("final.{name}"), &got.tensor(), &want, absolute(1e-5))?;
    }
    Ok(())
}
