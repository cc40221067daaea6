//! The callbacks that every run has unless it replaces them.

use super::{Callback, Control, Hook};
use crate::config::{BestConfig, CheckpointConfig, EarlyStopConfig, TrainConfig};
use crate::{Error, Event, Logs, Model, Result, Score, TrainState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// The usual callbacks of a configuration.
#[must_use]
pub fn usual(config: &TrainConfig) -> Vec<Box<dyn Callback>> {
    let mut list: Vec<Box<dyn Callback>> = vec![
        Box::new(LearningRates),
        Box::new(UpdateEma),
        Box::new(StepLog::new(config.log_every, config.steps)),
        Box::new(ValidateEvery { steps: config.validate_every }),
        Box::new(CheckpointPolicy::new(config.checkpoint.clone())),
    ];
    if let Some(stop) = config.early_stop {
        list.push(Box::new(EarlyStop::new(stop, config.checkpoint.best.clone())));
    }
    list
}

/// Sets every learning rate from its schedule before a step; feeds plateau schedules.
#[derive(Debug)]
pub struct LearningRates;

impl Callback for LearningRates {
    fn name(&self) -> &str {
        "learning_rates"
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Result<()> {
        match hook {
            Hook::TrainStepStarted => {
                for g in &mut state.groups {
                    g.lr = g.optimizer.base_lr() * g.schedule.factor(state.progress.step);
                }
            }
            Hook::ValidationEnded => {
                if let Some((score, higher)) = selected(state, "")? {
                    // an infinity would not outlive a checkpoint; a NaN is no improvement either
                    let score = if score.is_finite() { score } else { f64::NAN };
                    for g in &mut state.groups {
                        g.schedule.observe(if higher { -score } else { score });
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Moves the averaged weights after a step.
#[derive(Debug)]
pub struct UpdateEma;

impl Callback for UpdateEma {
    fn name(&self) -> &str {
        "ema"
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Result<()> {
        if hook == Hook::TrainStepEnded
            && let Some(ema) = &mut state.ema
        {
            ema.update(state.model.params())?;
        }
        Ok(())
    }
}

/// Sends the mean of the logged values every so many steps.
#[derive(Debug)]
pub struct StepLog {
    every: u64,
    steps: u64,
    began: Instant,
    sums: BTreeMap<String, Sum>,
}

/// Of a value since the last line; not every step logs every value.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sum {
    #[serde(with = "crate::number")]
    sum: f64,
    count: u64,
}

impl StepLog {
    /// A line every `every` of `steps` steps.
    #[must_use]
    pub fn new(every: u64, steps: u64) -> Self {
        Self { every: every.max(1), steps, began: Instant::now(), sums: BTreeMap::new() }
    }
}

impl Callback for StepLog {
    fn name(&self) -> &str {
        "step_log"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["learning_rates"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, control: &mut Control) -> Result<()> {
        match hook {
            Hook::TrainStarted => self.began = Instant::now(),
            Hook::TrainStepEnded => {
                for (name, value) in &state.logs {
                    let entry = self.sums.entry(name.clone()).or_default();
                    entry.sum += value;
                    entry.count += 1;
                }
                let step = state.progress.step;
                if step.is_multiple_of(self.every) || step == self.steps {
                    let mut logs: Logs = std::mem::take(&mut self.sums)
                        .into_iter()
                        .map(|(name, s)| (name, s.sum / s.count as f64))
                        .collect();
                    for g in &state.groups {
                        logs.insert(format!("lr/{}", g.name), g.lr);
                    }
                    control.events.push(Event::Step {
                        step,
                        steps: self.steps,
                        epoch: state.progress.epoch,
                        logs,
                        samples: state.progress.samples,
                        seconds: self.began.elapsed().as_secs_f64(),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn save(&self) -> serde_json::Value {
        serde_json::to_value(&self.sums).unwrap_or_default()
    }

    fn load(&mut self, value: &serde_json::Value) -> Result<()> {
        self.sums = parse("step_log", value)?;
        Ok(())
    }
}

/// Asks for a validation every so many steps; 0: never.
#[derive(Debug)]
pub struct ValidateEvery {
    /// Steps between validations.
    pub steps: u64,
}

impl Callback for ValidateEvery {
    fn name(&self) -> &str {
        "validation"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["ema"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, control: &mut Control) -> Result<()> {
        if hook == Hook::TrainStepEnded
            && self.steps > 0
            && state.progress.step.is_multiple_of(self.steps)
        {
            control.validate = true;
        }
        Ok(())
    }
}

/// Asks for checkpoints by steps, by time and when the score is among the best.
#[derive(Debug)]
pub struct CheckpointPolicy {
    config: CheckpointConfig,
    last: Instant,
}

impl CheckpointPolicy {
    /// The policy of a configuration.
    #[must_use]
    pub fn new(config: CheckpointConfig) -> Self {
        Self { config, last: Instant::now() }
    }
}

impl Callback for CheckpointPolicy {
    fn name(&self) -> &str {
        "checkpoint"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["validation"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, control: &mut Control) -> Result<()> {
        match hook {
            Hook::TrainStarted | Hook::CheckpointSaved => self.last = Instant::now(),
            Hook::TrainStepEnded => {
                let c = &self.config;
                let by_step =
                    c.every_steps > 0 && state.progress.step.is_multiple_of(c.every_steps);
                let minutes = self.last.elapsed().as_secs_f64() / 60.0;
                let by_time = c.every_minutes > 0.0 && minutes >= c.every_minutes;
                control.checkpoint |= by_step || by_time;
            }
            Hook::ValidationEnded => {
                let Some((score, higher)) = selected(state, &self.config.best.metric)? else {
                    return Ok(());
                };
                let step = state.progress.step;
                let best = &mut state.progress.best;
                best.retain(|(s, _)| *s != step);
                if !score.is_finite() {
                    let message = format!("a score of {score} at step {step} is never the best");
                    control.events.push(Event::Warning { message });
                    return Ok(());
                }
                let better = |a: f64, b: f64| if higher { a > b } else { a < b };
                let at = best.iter().position(|(_, b)| better(score, *b)).unwrap_or(best.len());
                best.insert(at, (step, score));
                best.truncate(self.config.best.keep);
                let kept = best.iter().any(|(s, _)| *s == step);
                control.checkpoint |= kept;
                control.best |= kept && at == 0;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Ends training when the score no longer improves.
#[derive(Debug)]
pub struct EarlyStop {
    config: EarlyStopConfig,
    best: BestConfig,
    seen: Seen,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    best: Option<f64>,
    without: u64,
}

impl EarlyStop {
    /// Watches the score that also decides which checkpoint is best.
    #[must_use]
    pub fn new(config: EarlyStopConfig, best: BestConfig) -> Self {
        Self { config, best, seen: Seen::default() }
    }

    fn observe(&mut self, score: f64, higher: bool) {
        let better = match self.seen.best {
            None => true,
            Some(best) if higher => score > best + self.config.min_delta,
            Some(best) => score < best - self.config.min_delta,
        };
        if better && score.is_finite() {
            self.seen = Seen { best: Some(score), without: 0 };
        } else {
            self.seen.without += 1;
        }
    }
}

impl Callback for EarlyStop {
    fn name(&self) -> &str {
        "early_stop"
    }

    fn dependencies(&self) -> Vec<&str> {
        vec!["checkpoint"]
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, control: &mut Control) -> Result<()> {
        match hook {
            // a process killed after it had decided to stop left a checkpoint that says so
            Hook::TrainStarted => {}
            Hook::ValidationEnded => match selected(state, &self.best.metric)? {
                Some((score, higher)) => self.observe(score, higher),
                None => return Ok(()),
            },
            _ => return Ok(()),
        }
        if self.seen.without >= self.config.patience {
            control.stop = true;
            control.events.push(Event::Warning {
                message: format!(
                    "stopped early: no improvement in {} validations",
                    self.seen.without
                ),
            });
        }
        Ok(())
    }

    fn save(&self) -> serde_json::Value {
        serde_json::to_value(&self.seen).unwrap_or_default()
    }

    fn load(&mut self, value: &serde_json::Value) -> Result<()> {
        self.seen = parse("early_stop", value)?;
        Ok(())
    }
}

/// The score that decides: the named one, or the model's first.
pub(crate) fn decisive_score(model: &dyn Model, metric: &str) -> Result<Option<Score>> {
    let scores = model.scores();
    if metric.is_empty() {
        return Ok(scores.into_iter().next());
    }
    let names = scores.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let error = Error::Setting {
        message: format!("the model has no score `{metric}`"),
        hint: format!("set `train.checkpoint.best.metric` to one of {names}"),
    };
    scores.into_iter().find(|s| s.name == metric).map(Some).ok_or(error)
}

/// Value of the deciding score in the first validation set, and whether more is better. None if
/// nothing was validated.
fn selected(state: &TrainState<'_>, metric: &str) -> Result<Option<(f64, bool)>> {
    let score = decisive_score(&*state.model, metric)?;
    Ok(score.zip(state.decisive.as_ref()).and_then(|(score, set)| {
        let value = state.scores.get(&format!("{set}/{}", score.name))?;
        Some((*value, score.higher_is_better))
    }))
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str, value: &serde_json::Value) -> Result<T> {
    serde_json::from_value(value.clone()).map_err(|e| Error::Setting {
        message: format!("the saved state of callback `{name}` cannot be read: {e}"),
        hint: "the checkpoint was written by another version; begin again with `--fresh`".into(),
    })
}
