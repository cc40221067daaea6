//! The training loop. Going on from checkpoints, and back to them, is in `restore`.

mod feed;
mod memory;
mod restore;

use crate::callback::decisive_score;
use crate::callback::{self, Callback, Control, Hook};
use crate::checkpoint::{CheckpointInfo, Checkpoints};
use crate::rundir::BestScore;
use crate::state::{Group, Progress};
use crate::stepper::{BatchOutcome, Mode, Reading};
use crate::{
    Batch, Communicator, DataModule, Error, Event, GpuPrecision, Loader, Logs, Model, NonFinite,
    Outcome, Recompute, Result, RunDir, Sink, Stepper, TrainConfig, TrainState,
};
use candle_core::{Device, Tensor};
use feed::Feed;
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_nn::ema::Ema;
use limpid_nn::optim::Optimizer;
use limpid_nn::scaler::{GradScaler, ScalerConfig};
use limpid_nn::schedule::Schedule;
use limpid_nn::{Ctx, Replay};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A training step that replaces the model's for a run.
pub type StepFn<'a> = dyn FnMut(&mut dyn Model, &Batch, &mut Stepper<'_>) -> Result<()> + 'a;

/// Trains a model: same configuration, same bits, whether interrupted or not.
pub struct Trainer<'a> {
    /// Settings.
    pub config: TrainConfig,
    /// Seed of everything random.
    pub seed: u64,
    /// Where tensors live.
    pub device: Device,
    /// What happens around the steps; begins as [`callback::usual`].
    pub callbacks: Vec<Box<dyn Callback + 'a>>,
    /// Replaces the model's `train_step`.
    pub step_fn: Option<Box<StepFn<'a>>>,
    /// The group that it trains in, if it is not alone.
    pub communicator: Option<Arc<dyn Communicator>>,
    /// Set from outside (a signal handler) to stop after the current step with a checkpoint.
    pub interrupt: Arc<AtomicBool>,
    /// Resume even though configuration, data or parameters differ from the checkpoint's. The run
    /// keeps its digest of the configuration unless the caller changes it by [`RunDir::update`].
    pub allow_changed: bool,
}

impl<'a> Trainer<'a> {
    /// A trainer on the CPU with the usual callbacks.
    #[must_use]
    pub fn new(config: TrainConfig, seed: u64) -> Self {
        let callbacks =
            callback::usual(&config).into_iter().map(|c| c as Box<dyn Callback>).collect();
        Self {
            config,
            seed,
            device: Device::Cpu,
            callbacks,
            step_fn: None,
            communicator: None,
            interrupt: Arc::new(AtomicBool::new(false)),
            allow_changed: false,
        }
    }

    /// Trains until all steps are done, a callback stops it, or it is interrupted. Goes on from the
    /// newest checkpoint in the run directory if there is one.
    ///
    /// # Errors
    /// Those of the data, the model, the callbacks and the file system. An error leaves the last
    /// checkpoint in place, and writes one more if the state is that between two steps.
    pub fn fit(
        &mut self,
        model: &mut dyn Model,
        data: &dyn DataModule,
        run: &mut RunDir,
        sink: &mut dyn Sink,
    ) -> Result<Outcome> {
        let began = Instant::now();
        self.prepare_device(sink);
        let mut result = self.attempt(model, data, run, sink);
        let status = match &result {
            Ok(Outcome::Finished) => "finished",
            Ok(Outcome::Interrupted) => "interrupted",
            Ok(Outcome::Failed) | Err(_) => "failed",
        };
        if let Err(e) = run.update(|s| s.status = status.to_owned()) {
            // the error of the training itself is what the user must see
            match &result {
                Ok(_) => result = Err(e),
                Err(_) => sink.event(&Event::Warning { message: format!("while ending: {e}") }),
            }
        }
        let outcome = *result.as_ref().unwrap_or(&Outcome::Failed);
        let (step, seconds) = (run.status().step, began.elapsed().as_secs_f64());
        sink.event(&Event::Ended { step, outcome, seconds });
        result
    }

    /// Puts the choices for a GPU into effect.
    fn prepare_device(&self, sink: &mut dyn Sink) {
        let gpu = self.config.gpu;
        if !self.device.is_cpu() {
            limpid_kernels::set_precision(gpu.precision.into());
            limpid_kernels::set_deterministic(gpu.deterministic);
        } else if gpu.precision != GpuPrecision::F32 {
            let message = "`train.gpu.precision` has no effect: training is on the CPU, in f32";
            sink.event(&Event::Warning { message: message.into() });
        }
    }

    /// How losses are scaled: as configured, or as usual if gradients are f16.
    fn scaler(&self) -> Option<GradScaler> {
        let is_half = !self.device.is_cpu() && self.config.gpu.precision == GpuPrecision::F16;
        match &self.config.loss_scale {
            Some(config) => Some(GradScaler::new(config)),
            None => is_half.then(|| GradScaler::new(&ScalerConfig::default())),
        }
    }

    fn attempt(
        &mut self,
        model: &mut dyn Model,
        data: &dyn DataModule,
        run: &mut RunDir,
        sink: &mut dyn Sink,
    ) -> Result<Outcome> {
        callback::order(&mut self.callbacks)?;
        if self.communicator.is_some() && self.config.nonfinite != NonFinite::Stop {
            return Err(Error::Setting {
                message: "a group of trainings cannot leave out what is not finite".into(),
                hint: "set `train.nonfinite` to `stop`".into(),
            });
        }
        decisive_score(&*model, &self.config.checkpoint.best.metric)?;
        let state = self.initial_state(model)?;
        let mut fit = Fit {
            trainer: self,
            state,
            checkpoints: Checkpoints::new(&run.path().join("checkpoints")),
            fingerprint: data.fingerprint(),
            run,
            sink,
            dirty: true,
            bad_in_a_row: 0,
            rollback: None,
            buffers: BTreeMap::new(),
            micro: 0,
            micro_logs: Vec::new(),
            replay: Replay::new(),
            refusal_told: false,
        };
        let result = fit.train(data);
        if result.is_err() {
            fit.rescue();
        }
        result
    }

    fn initial_state<'m>(&self, model: &'m mut dyn Model) -> Result<TrainState<'m>> {
        let groups = model
            .optimizers()
            .into_iter()
            .map(|spec| {
                let optimizer = Optimizer::new(&spec.optimizer)?;
                Ok(Group {
                    name: spec.name,
                    params: spec.params.trainable(),
                    lr: optimizer.base_lr(),
                    optimizer,
                    schedule: Schedule::new(&spec.schedule, self.config.steps),
                    scaler: self.scaler(),
                    gradients: BTreeMap::new(),
                    overflow: None,
                    overflows: 0,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let ema = self.config.ema.as_ref().map(|c| Ema::new(c, model.params())).transpose()?;
        Ok(TrainState {
            model,
            groups,
            ema,
            progress: Progress::default(),
            batch: None,
            logs: Logs::new(),
            scores: Logs::new(),
            decisive: None,
        })
    }
}

/// One call of [`Trainer::fit`].
struct Fit<'f, 'a, 'm> {
    trainer: &'f mut Trainer<'a>,
    state: TrainState<'m>,
    checkpoints: Checkpoints,
    fingerprint: String,
    run: &'f mut RunDir,
    sink: &'f mut dyn Sink,
    /// Between the beginning of a step and the last word of the callbacks on it.
    dirty: bool,
    bad_in_a_row: u64,
    /// Where the policy `rollback` goes back to.
    rollback: Option<CheckpointInfo>,
    /// Buffers before the current optimizer step, for the policy `skip`.
    buffers: BTreeMap<String, Tensor>,
    /// Batches accumulated towards the next optimizer step, and what they logged.
    micro: u64,
    micro_logs: Vec<Logs>,
    /// The passes of a step, where a GPU repeats them by itself.
    replay: Replay<BatchOutcome>,
    refusal_told: bool,
}

/// What became of a batch.
enum Batched {
    /// It was consumed; an optimizer step is complete or not.
    Done { step: bool },
    /// It was left out.
    Skipped,
}

impl Fit<'_, '_, '_> {
    fn train(&mut self, data: &dyn DataModule) -> Result<Outcome> {
        let steps = self.trainer.config.steps;
        let loader = data.train().map_err(Error::Data)?;
        self.resume()?;
        self.sink.event(&Event::Started {
            run: self.run.name().to_owned(),
            step: self.state.progress.step,
            steps,
            parameters: self.state.model.params().count(),
            batches: loader.batches(),
        });
        self.note("running")?;
        if self.trainer.step_fn.is_none() {
            self.plan_memory(&*loader)?;
        }
        let mut control = Control::default();
        self.fire(Hook::TrainStarted, &mut control)?;
        self.dirty = false;
        self.prepare_rollback()?;
        let mut interrupted = false;
        while self.state.progress.step < steps && !control.stop && !interrupted {
            interrupted = self.epoch(&*loader, data, &mut control)?;
        }
        if !interrupted && self.state.progress.validated != self.state.progress.step {
            self.dirty = true;
            self.validate(data, &mut control)?;
            self.dirty = false;
        }
        self.checkpoint(&mut control)?;
        self.fire(Hook::TrainEnded, &mut control)?;
        Ok(if interrupted { Outcome::Interrupted } else { Outcome::Finished })
    }

    /// Trains to the end of the epoch, of the run, or until stopped; true if interrupted.
    fn epoch(
        &mut self,
        loader: &dyn Loader,
        data: &dyn DataModule,
        control: &mut Control,
    ) -> Result<bool> {
        let epoch = self.state.progress.epoch;
        if self.state.progress.cursor == 0 {
            self.fire(Hook::EpochStarted, control)?;
        }
        let batches = loader.epoch(epoch, self.state.progress.cursor);
        let mut feed = Feed::new(batches, &self.trainer.device)?;
        while let Some(fed) = feed.next()? {
            self.dirty = true;
            match self.batch(fed, &mut feed, control)? {
                Batched::Done { step: true } => {
                    self.fire(Hook::TrainStepEnded, control)?;
                    if std::mem::take(&mut control.validate) {
                        self.validate(data, control)?;
                    }
                    self.dirty = false;
                    if std::mem::take(&mut control.checkpoint) {
                        self.checkpoint(control)?;
                    }
                }
                Batched::Done { step: false } | Batched::Skipped => self.dirty = self.micro > 0,
            }
            if self.micro == 0 && self.interrupted() {
                return Ok(true);
            }
            if control.stop || self.state.progress.step >= self.trainer.config.steps {
                return Ok(false);
            }
        }
        self.fire(Hook::EpochEnded, control)?;
        self.state.progress.epoch += 1;
        self.state.progress.cursor = 0;
        Ok(false)
    }

    /// Whether a signal or a file `STOP` in the run directory asks to stop.
    fn interrupted(&self) -> bool {
        let file = self.run.path().join("STOP");
        if file.exists() {
            let _ = std::fs::remove_file(&file);
            return true;
        }
        self.trainer.interrupt.load(Ordering::Relaxed)
    }

    fn batch(
        &mut self,
        fed: feed::Fed,
        feed: &mut Feed<'_>,
        control: &mut Control,
    ) -> Result<Batched> {
        self.state.batch = Some(fed.batch);
        if self.micro == 0 {
            self.fire(Hook::TrainStepStarted, control)?;
        }
        let batch = self.state.batch.take();
        let result = match batch {
            Some(batch) if !std::mem::take(&mut control.skip) => {
                self.step(batch, fed.nonfinite, feed)
            }
            _ => Ok(Batched::Skipped),
        };
        self.state.progress.cursor += 1;
        match result {
            Err(e @ Error::NonFinite { .. }) => self.recover(e),
            other => {
                self.bad_in_a_row = 0;
                other
            }
        }
    }

    fn step(
        &mut self,
        batch: Batch,
        nonfinite: Option<(String, crate::SampleId)>,
        feed: &mut Feed<'_>,
    ) -> Result<Batched> {
        if self.micro == 0 && self.trainer.config.nonfinite == NonFinite::Skip {
            self.buffers = restore::buffers(self.state.model)?;
        }
        if let Some((tensor, id)) = nonfinite {
            return Err(Error::NonFinite {
                what: format!("the input `{tensor}`"),
                step: self.state.progress.step,
                place: id.to_string(),
            });
        }
        let boundary = self.micro + 1 == self.trainer.config.accumulate;
        let samples = batch.len() as u64;
        let ctx = self.ctx();
        let batch = self.state.model.prepare(batch, &ctx)?;
        let outcome = self.passes(&batch, &ctx, boundary)?;
        // the next batch comes while a GPU is busy with this one
        feed.fetch();
        let reading = Reading {
            groups: &mut self.state.groups,
            boundary,
            norms: matches!(self.trainer.config.clip, Some(crate::ClipConfig::Norm { .. })),
            step: self.state.progress.step,
            ids: &batch.ids,
        };
        let logs = match reading.read(&outcome) {
            Err(e) => return Err(self.with_layer(e, &batch)?),
            Ok(logs) => logs,
        };
        self.micro_logs.push(logs);
        self.state.progress.samples += samples;
        self.micro = if boundary { 0 } else { self.micro + 1 };
        if boundary {
            self.state.progress.step += 1;
            self.state.logs = means(self.micro_logs.iter());
            self.micro_logs.clear();
        }
        Ok(Batched::Done { step: boundary })
    }

    /// The context of the passes over the current batch.
    fn ctx(&self) -> Ctx {
        let progress = &self.state.progress;
        let recompute = self.trainer.config.recompute == Recompute::Blocks;
        let stream = Stream::new(self.trainer.seed, "model").at(progress.epoch, progress.cursor);
        Ctx::train(stream).recomputing(recompute)
    }

    /// The passes of the model over a prepared batch and the steps of its optimizers.
    fn passes(&mut self, batch: &Batch, ctx: &Ctx, boundary: bool) -> Result<BatchOutcome> {
        let accumulate = self.trainer.config.accumulate;
        let scales = self.state.groups.iter().map(|g| {
            let Some(scaler) = &g.scaler else { return Ok(None) };
            Ok(Some(Tensor::new(scaler.scale() / accumulate as f64, &self.trainer.device)?))
        });
        let scales = scales.collect::<Result<Vec<_>>>()?;
        if self.trainer.step_fn.is_some()
            || accumulate > 1
            || !self.trainer.config.gpu.graphs
            || !self.state.model.is_fixed()
            || self.trainer.communicator.is_some()
        {
            return self.run_step(batch, ctx, &scales, boundary, Mode::Step);
        }
        let names: Vec<&String> = batch.tensors.keys().collect();
        let inputs: Vec<&Tensor> = batch.tensors.values().chain(scales.iter().flatten()).collect();
        let mut replay = std::mem::replace(&mut self.replay, Replay::new());
        let outcome = replay.run(&inputs, ctx, |tensors, ctx| {
            let (of_batch, of_scales) = tensors.split_at(names.len());
            let of_batch = names.iter().map(|&name| name.clone()).zip(of_batch.iter().cloned());
            let batch = Batch { tensors: of_batch.collect(), ids: batch.ids.clone() };
            let mut of_scales = of_scales.iter().cloned();
            let scales: Vec<_> =
                scales.iter().map(|s| s.as_ref().and_then(|_| of_scales.next())).collect();
            self.run_step(&batch, ctx, &scales, boundary, Mode::Gradients)
        });
        self.replay = replay;
        let mut outcome = outcome?;
        if let Some(why) = self.replay.refusal().filter(|_| !self.refusal_told) {
            self.refusal_told = true;
            let message = format!("steps are given to the GPU kernel by kernel: {why}");
            self.sink.event(&Event::Warning { message });
        }
        let (groups, config) = (&mut self.state.groups, &self.trainer.config);
        Stepper::new(groups, config, ctx, &scales, Mode::Step).make_steps(&mut outcome)?;
        Ok(outcome)
    }

    /// The model's step on a prepared batch.
    fn run_step(
        &mut self,
        batch: &Batch,
        ctx: &Ctx,
        scales: &[Option<Tensor>],
        boundary: bool,
        mode: Mode,
    ) -> Result<BatchOutcome> {
        let (groups, config) = (&mut self.state.groups, &self.trainer.config);
        let communicator = self.trainer.communicator.clone();
        let mut stepper = Stepper::new(groups, config, ctx, scales, mode);
        (stepper.boundary, stepper.step) = (boundary, self.state.progress.step);
        stepper.communicator = communicator.as_deref();
        let outcome = autograd::record(|| {
            match &mut self.trainer.step_fn {
                Some(f) => f(self.state.model, batch, &mut stepper),
                None => self.state.model.train_step(batch, &mut stepper),
            }?;
            stepper.outcome()
        })?;
        if self.trainer.config.recompute == Recompute::Blocks && ctx.blocks() == 0 {
            return Err(Error::Setting {
                message: "`train.recompute` is `blocks`, but this network has none".into(),
                hint: "leave it at `none`; a smaller patch or batch needs less memory too".into(),
            });
        }
        Ok(outcome)
    }

    fn validate(&mut self, data: &dyn DataModule, control: &mut Control) -> Result<()> {
        self.fire(Hook::ValidationStarted, control)?;
        let step = self.state.progress.step;
        let trained = match &self.state.ema {
            Some(ema) => {
                let trained = copies(&self.state.model.params().tensors())?;
                self.state.model.params().set(&ema.tensors())?;
                Some(trained)
            }
            None => None,
        };
        let result = self.score(data, step);
        if let Some(trained) = trained {
            self.state.model.params().set(&trained)?;
        }
        result?;
        self.state.progress.validated = step;
        self.fire(Hook::ValidationEnded, control)?;
        self.note("running")
    }

    fn score(&mut self, data: &dyn DataModule, step: u64) -> Result<()> {
        let model = &*self.state.model;
        let _no_grad = model.params().no_grad();
        self.state.scores.clear();
        self.state.decisive = None;
        for (set, loader) in data.validation().map_err(Error::Data)? {
            let began = Instant::now();
            let mut cases = Vec::new();
            for (i, batch) in loader.epoch(0, 0).enumerate() {
                let batch = batch.map_err(Error::Data)?.to_device(&self.trainer.device)?;
                let ctx = Ctx::eval();
                let scores = model.validation_step(&batch, &ctx)?;
                cases.extend(batch.ids.iter().cloned().zip(scores));
                if i == 0 {
                    for picture in model.pictures(&batch, &ctx)? {
                        self.sink.event(&Event::Picture { step, set: set.clone(), picture });
                    }
                }
            }
            let scores = means(cases.iter().map(|(_, s)| s));
            for (name, value) in &scores {
                self.state.scores.insert(format!("{set}/{name}"), *value);
            }
            self.state.decisive.get_or_insert_with(|| set.clone());
            let seconds = began.elapsed().as_secs_f64();
            self.sink.event(&Event::Validation { step, set, scores, cases, seconds });
        }
        Ok(())
    }

    fn checkpoint(&mut self, control: &mut Control) -> Result<()> {
        let path = self.checkpoints.save(&self.snapshot()?)?;
        let step = self.state.progress.step;
        if self.rollback.is_some() && self.regular(step) {
            self.rollback = Some(CheckpointInfo { step, path: path.clone() });
        }
        let mut keep: Vec<u64> = self.state.progress.best.iter().map(|(s, _)| *s).collect();
        keep.extend(self.rollback.iter().map(|c| c.step));
        self.checkpoints.retain(self.trainer.config.checkpoint.keep_last, &keep);
        self.fire(Hook::CheckpointSaved, control)?;
        let best = std::mem::take(&mut control.best);
        control.checkpoint = false;
        self.sink.event(&Event::Checkpoint { step, path, best });
        self.note("running")
    }

    fn fire(&mut self, hook: Hook, control: &mut Control) -> Result<()> {
        for c in &mut self.trainer.callbacks {
            c.on(hook, &mut self.state, control)?;
            for event in control.events.drain(..) {
                self.sink.event(&event);
            }
        }
        Ok(())
    }

    /// Writes how the run stands.
    fn note(&mut self, status: &str) -> Result<()> {
        let step = self.state.progress.step;
        let steps = self.trainer.config.steps;
        let score =
            decisive_score(&*self.state.model, &self.trainer.config.checkpoint.best.metric)?;
        let best =
            self.state.progress.best.first().zip(score).map(|(&(step, value), score)| BestScore {
                metric: score.name,
                value,
                step,
            });
        self.run.update(|s| {
            s.status = status.to_owned();
            (s.step, s.steps, s.best) = (step, steps, best);
        })
    }
}

fn copies(tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    tensors.iter().map(|(k, t)| Ok((k.clone(), t.copy()?))).collect()
}

/// Mean of each value over the cases that have it.
fn means<'l>(cases: impl Iterator<Item = &'l Logs>) -> Logs {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for case in cases {
        for (name, value) in case {
            let entry = sums.entry(name.clone()).or_default();
            entry.0 += value;
            entry.1 += 1.0;
        }
    }
    sums.into_iter().map(|(name, (sum, n))| (name, sum / n)).collect()
}
