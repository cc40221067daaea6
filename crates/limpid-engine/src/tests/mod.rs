//! The training loop on a model small enough to reason about.

mod group;
mod resume;

use crate::*;
use candle_core::{DType, Device, Tensor};
use limpid_kernels::rng::Stream;
use limpid_nn::layers::Linear;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Init, Param, Params};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BATCHES: u64 = 7;

/// Two vectors, each with its own optimizer; the second loss depends on the first vector as the
/// first step left it.
struct Twin {
    params: Params,
    a: Param,
    b: Param,
    seen_in_second: Vec<f32>,
    /// Score and logged value, if not what they are.
    score: Option<f64>,
}

impl Twin {
    fn new() -> Self {
        let params = Params::new();
        let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu);
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let a = scope.pp("first").param("a", &[3], init).unwrap();
        let b = scope.pp("second").param("b", &[3], init).unwrap();
        Self { params, a, b, seen_in_second: Vec::new(), score: None }
    }
}

impl Model for Twin {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()> {
        let x = batch.get("input")?.mean(0)?;
        let dropped = limpid_kernels::dropout(&x, 0.3, step.ctx().next_stream())?;
        let first = (self.a.tensor() - &dropped)?.sqr()?.mean_all()?;
        step.minimise("first", &first)?;
        self.seen_in_second = self.a.tensor().to_vec1()?;
        let second = (self.b.tensor() - self.a.tensor().detach())?.sqr()?.mean_all()?;
        step.minimise("second", &second)?;
        let logged = match self.score {
            Some(score) => Tensor::new(score, &Device::Cpu)?,
            None => first,
        };
        step.log("loss", &logged);
        Ok(())
    }

    fn validation_step(&self, batch: &Batch, _: &Ctx) -> Result<Vec<Logs>> {
        let norm = f64::from(self.a.tensor().sqr()?.sum_all()?.to_scalar::<f32>()?);
        Ok(vec![Logs::from([("norm".to_owned(), self.score.unwrap_or(norm))]); batch.len()])
    }

    fn predict(&self, input: &Tensor, _: &Ctx) -> Result<Tensor> {
        Ok(input.clone())
    }

    fn scores(&self) -> Vec<Score> {
        vec![Score { name: "norm".into(), higher_is_better: false }]
    }

    fn optimizers(&self) -> Vec<OptimizerSpec> {
        ["first", "second"]
            .iter()
            .map(|name| OptimizerSpec {
                name: (*name).to_owned(),
                params: self.params.subset(&format!("{name}.")),
                optimizer: OptimizerConfig::default(),
                schedule: ScheduleConfig::default(),
            })
            .collect()
    }

    fn params(&self) -> &Params {
        &self.params
    }
}

/// Batches that are functions of (epoch, index); one may hold a NaN.
struct Toy {
    bad: Option<(u64, u64)>,
    /// Interrupts the run when this batch is read.
    stop_at: Option<(u64, u64)>,
    interrupt: Arc<AtomicBool>,
}

impl Toy {
    fn new() -> Self {
        Self { bad: None, stop_at: None, interrupt: Arc::new(AtomicBool::new(false)) }
    }
}

impl Loader for Toy {
    fn batches(&self) -> u64 {
        BATCHES
    }

    fn epoch(&self, epoch: u64, first: u64) -> Batches<'_> {
        Box::new((first..BATCHES).map(move |i| {
            if self.stop_at == Some((epoch, i)) {
                self.interrupt.store(true, Ordering::Relaxed);
            }
            let mut values = vec![0f32; 6];
            Stream::new(5, "toy").at(epoch, i).fill_normal(&mut values);
            if self.bad == Some((epoch, i)) {
                values[4] = f32::NAN;
            }
            let input = Tensor::from_vec(values, (2, 3), &Device::Cpu)?;
            let id =
                |n| SampleId { file: format!("e{epoch}b{i}.tif"), index: n, region: Vec::new() };
            Ok(Batch {
                tensors: BTreeMap::from([("input".into(), input)]),
                ids: vec![id(0), id(1)],
            })
        }))
    }
}

impl DataModule for Toy {
    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError> {
        Ok(Box::new(Self { interrupt: self.interrupt.clone(), ..*self }))
    }

    fn validation(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        Ok(vec![("validation".into(), Box::new(Self::new()))])
    }

    fn fingerprint(&self) -> String {
        "toy".into()
    }
}

#[derive(Default)]
struct Record(Vec<Event>);

impl Sink for Record {
    fn event(&mut self, event: &Event) {
        self.0.push(event.clone());
    }
}

impl Record {
    fn warnings(&self) -> Vec<String> {
        let all = self.0.iter();
        all.filter_map(|e| match e {
            Event::Warning { message } => Some(message.clone()),
            _ => None,
        })
        .collect()
    }
}

fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        accumulate: 2,
        clip: Some(ClipConfig::Norm { max: 0.5 }),
        ema: Some(limpid_nn::ema::EmaConfig::default()),
        validate_every: 4,
        log_every: 3,
        checkpoint: CheckpointConfig { every_steps: 3, ..CheckpointConfig::default() },
        ..TrainConfig::default()
    }
}

struct Trained {
    result: Result<Outcome>,
    model: Twin,
    record: Record,
}

fn train(root: &Path, config: TrainConfig, data: &Toy) -> Trained {
    train_model(Twin::new(), root, config, data, None)
}

fn train_model(
    mut model: Twin,
    root: &Path,
    config: TrainConfig,
    data: &Toy,
    callback: Option<Box<dyn Callback>>,
) -> Trained {
    let mut run = RunDir::open_or_create(root, "toy", "digest", false).unwrap();
    let mut trainer = Trainer::new(config, 9);
    trainer.interrupt = data.interrupt.clone();
    trainer.callbacks.extend(callback);
    let mut record = Record::default();
    let result = trainer.fit(&mut model, data, &mut run, &mut record);
    Trained { result, model, record }
}

fn list(root: &Path) -> Vec<CheckpointInfo> {
    Checkpoints::new(&root.join("toy-0001/checkpoints")).list()
}

#[test]
fn the_second_loss_sees_what_the_first_step_left() {
    let root = tempfile::tempdir().unwrap();
    let one = TrainConfig { accumulate: 1, ema: None, ..config(1) };
    let before: Vec<f32> = Twin::new().a.tensor().to_vec1().unwrap();
    let trained = train(root.path(), one, &Toy::new());
    trained.result.unwrap();
    assert_ne!(trained.model.seen_in_second, before);
    assert_eq!(trained.model.seen_in_second, trained.model.a.tensor().to_vec1::<f32>().unwrap());
}

#[test]
fn a_value_that_is_not_finite_is_named_and_the_policy_followed() {
    let bad = || Toy { bad: Some((0, 3)), ..Toy::new() };
    let root = tempfile::tempdir().unwrap();
    let stop = train(root.path(), config(11), &bad()).result.unwrap_err().to_string();
    assert!(stop.contains("the input `input`") && stop.contains("e0b3.tif (sample 1)"), "{stop}");

    for policy in [NonFinite::Skip, NonFinite::Rollback] {
        let root = tempfile::tempdir().unwrap();
        let config = TrainConfig { nonfinite: policy, ..config(11) };
        let trained = train(root.path(), config, &bad());
        assert_eq!(trained.result.unwrap(), Outcome::Finished);
        assert_eq!(trained.record.warnings().len(), 1);
        let finite = trained.model.a.tensor().to_vec1::<f32>().unwrap();
        assert!(finite.iter().all(|v| v.is_finite()));
    }
}

/// Trains with a step whose gradient is not finite from batch `from` on.
fn train_overflowing(root: &Path, config: TrainConfig, from: u64) -> String {
    let mut run = RunDir::open_or_create(root, "toy", "digest", false).unwrap();
    let mut trainer = Trainer::new(config, 9);
    let mut batch = 0;
    trainer.step_fn = Some(Box::new(move |model, _, step| {
        batch += 1;
        let a = model.params().get("first.a").unwrap().tensor();
        // the derivative of the root at 0 is infinite
        let root = (&a - a.detach())?.sqrt()?;
        let loss = if batch > from { root.sum_all()? } else { a.sum_all()? };
        step.minimise("first", &loss)
    }));
    let error = trainer.fit(&mut Twin::new(), &Toy::new(), &mut run, &mut Silent).unwrap_err();
    assert_eq!(run.status().status, "failed");
    error.to_string()
}

#[test]
fn a_gradient_that_is_not_finite_is_named_with_the_batch_at_fault() {
    let root = tempfile::tempdir().unwrap();
    let error = train_overflowing(root.path(), config(11), 4);
    assert!(error.contains("the gradient of `first.a`") && error.contains("e0b4.tif"), "{error}");
    assert!(list(root.path()).is_empty(), "half a step is not saved");
}

#[test]
fn a_loss_that_is_not_finite_is_named_with_the_layer_it_began_in() {
    let root = tempfile::tempdir().unwrap();
    let mut run = RunDir::open_or_create(root.path(), "toy", "digest", false).unwrap();
    let mut trainer = Trainer::new(TrainConfig { accumulate: 1, ema: None, ..config(11) }, 9);
    let params = Params::new();
    let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu);
    let layers = [0, 1].map(|i| Linear::new(3, 3, true, &scope.pp("net").pp(i)).unwrap());
    let mut batch = 0;
    trainer.step_fn = Some(Box::new(move |model, _, step| {
        batch += 1;
        let a = model.params().get("first.a").unwrap().tensor();
        step.minimise("first", &a.sum_all()?)?;
        if batch == 3 {
            layers[1].bias.as_ref().unwrap().set(&Tensor::full(f32::NAN, 3, &Device::Cpu)?)?;
        }
        let y = layers[1].forward(&layers[0].forward(&a.reshape((1, 3))?)?)?;
        step.minimise("second", &y.sum_all()?)
    }));
    let mut model = Twin::new();
    let error = trainer.fit(&mut model, &Toy::new(), &mut run, &mut Silent).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("the loss of `second` (NaN), first after layer `net.1`, is not finite"),
        "{error}"
    );
    assert!(error.contains("at step 2") && error.contains(".tif"), "{error}");
}

#[test]
fn a_loss_must_be_one_number() {
    let root = tempfile::tempdir().unwrap();
    for logged in [false, true] {
        let mut run = RunDir::open_or_create(root.path(), "toy", "digest", true).unwrap();
        let mut trainer = Trainer::new(config(11), 9);
        trainer.step_fn = Some(Box::new(move |model, _, step| {
            let a = model.params().get("first.a").unwrap().tensor();
            if logged {
                step.log("a", &a);
                return Ok(());
            }
            step.minimise("first", &a)
        }));
        let error = trainer.fit(&mut Twin::new(), &Toy::new(), &mut run, &mut Silent).unwrap_err();
        let name = if logged { "a" } else { "first" };
        let wanted = format!("expected one number for `{name}`, got [3]");
        assert!(error.to_string().contains(&wanted), "{error}");
    }
}

#[test]
fn loss_scaling_gives_up_when_the_scale_is_not_at_fault() {
    let root = tempfile::tempdir().unwrap();
    let scaled = TrainConfig {
        loss_scale: Some(limpid_nn::scaler::ScalerConfig::default()),
        accumulate: 1,
        ..config(400)
    };
    let error = train_overflowing(root.path(), scaled, 2);
    assert!(error.contains("`first.a` is still not finite at step 3"), "{error}");
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn a_failing_callback_leaves_no_half_done_step() {
    struct Fail;
    impl Callback for Fail {
        fn name(&self) -> &str {
            "fail"
        }
        fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Result<()> {
            match hook {
                Hook::TrainStepEnded if state.progress.step == 5 => Err(Error::Data("no".into())),
                _ => Ok(()),
            }
        }
    }
    let root = tempfile::tempdir().unwrap();
    let failed =
        train_model(Twin::new(), root.path(), config(11), &Toy::new(), Some(Box::new(Fail)));
    assert_eq!(failed.result.unwrap_err().to_string(), "no");
    assert!(list(root.path()).iter().all(|c| c.step < 5));
    let end = failed.record.0.last();
    assert!(matches!(end, Some(Event::Ended { step: 5, outcome: Outcome::Failed, .. })), "{end:?}");
}

#[test]
fn an_unknown_metric_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(11);
    config.checkpoint.best.metric = "psnr".into();
    let trained = train(root.path(), config, &Toy::new());
    let error = trained.result.unwrap_err().to_string();
    assert!(error.contains("no score `psnr`") && error.contains("one of norm"), "{error}");
    assert!(list(root.path()).is_empty());
    assert!(matches!(trained.record.0[..], [Event::Ended { .. }]));
    let run = RunDir::open(&root.path().join("toy-0001")).unwrap();
    assert_eq!(run.status().status, "failed");
}

#[test]
fn settings_that_cannot_work_are_reported_with_their_keys() {
    let mut bad = TrainConfig {
        accumulate: u64::MAX,
        ema: Some(limpid_nn::ema::EmaConfig::Constant { decay: 1.5 }),
        early_stop: Some(EarlyStopConfig { patience: 1, min_delta: f64::NAN }),
        ..config(11)
    };
    bad.loss_scale = Some(limpid_nn::scaler::ScalerConfig { backoff: 2.0, ..Default::default() });
    let keys: Vec<_> = limpid_config::check(&bad).into_iter().map(|f| f.key).collect();
    assert_eq!(keys, ["accumulate", "ema.decay", "loss_scale.backoff", "early_stop.min_delta"]);
}

#[test]
fn callbacks_and_step_functions_may_change_a_run() {
    struct Skip;
    impl Callback for Skip {
        fn name(&self) -> &str {
            "skip"
        }
        fn on(
            &mut self,
            hook: Hook,
            state: &mut TrainState<'_>,
            control: &mut Control,
        ) -> Result<()> {
            if hook == Hook::TrainStepStarted {
                control.skip = state.progress.cursor == 0;
                for g in &mut state.groups {
                    g.lr = 0.0;
                }
            }
            Ok(())
        }
        fn dependencies(&self) -> Vec<&str> {
            vec!["learning_rates"]
        }
    }
    let root = tempfile::tempdir().unwrap();
    let mut run = RunDir::open_or_create(root.path(), "toy", "digest", false).unwrap();
    let mut model = Twin::new();
    let before: Vec<f32> = model.a.tensor().to_vec1().unwrap();
    let mut trainer = Trainer::new(TrainConfig { accumulate: 1, ..config(6) }, 9);
    trainer.callbacks.push(Box::new(Skip));
    let mut calls = 0;
    trainer.step_fn = Some(Box::new(|model, batch, step| {
        calls += 1;
        model.train_step(batch, step)
    }));
    trainer.fit(&mut model, &Toy::new(), &mut run, &mut Silent).unwrap();
    drop(trainer);
    assert_eq!(calls, 6);
    let change: f32 = before
        .iter()
        .zip(model.a.tensor().to_vec1::<f32>().unwrap())
        .map(|(a, b)| (a - b).abs())
        .sum();
    assert!(change < 1e-6, "a learning rate of 0 moves nothing");
}

#[test]
fn best_checkpoints_are_kept_and_early_stop_stops() {
    let root = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        steps: 400,
        validate_every: 2,
        early_stop: Some(EarlyStopConfig { patience: 3, min_delta: 1e9 }),
        ..config(400)
    };
    let trained = train(root.path(), config, &Toy::new());
    assert_eq!(trained.result.unwrap(), Outcome::Finished);
    assert!(trained.record.warnings()[0].contains("stopped early"));
    let run = RunDir::open(&root.path().join("toy-0001")).unwrap();
    let best = run.status().best.clone().unwrap();
    let steps: Vec<u64> =
        Checkpoints::new(&run.path().join("checkpoints")).list().iter().map(|c| c.step).collect();
    assert!(steps.contains(&best.step), "{best:?} in {steps:?}");
}
