//! Learning rate schedules, as factors on the optimizer's learning rate: closed forms of the step
//! number, and the plateau rule that follows a score.
//!
//! Steps count from 0: `factor(i)` is for step i. The unit is the caller's, optimizer steps or epochs.
//!
//! Source: `torch.optim.lr_scheduler`; Smith and Topin 2018 (one cycle), Loshchilov and Hutter 2017
//! (restarts), Vaswani et al. 2017 (inverse square root), Hugging Face `optimization.py` (warm-up),
//! nnU-Net's `PolyLRScheduler`, the CycleGAN code (linear decay).

mod config;
mod ramp;
#[cfg(test)]
mod tests;

pub use config::{Anneal, CyclicMode, Plateau, ScheduleConfig, ThresholdMode};
pub use ramp::{Ramp, RampForm};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::f64::consts::PI;

/// A schedule in a run: knows how long the run is, and follows the score if it is a plateau.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    total: u64,
    plateau: PlateauState,
}

/// Memory of the plateau rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PlateauState {
    factor: f64,
    best: Option<f64>,
    bad: u64,
    cooldown: u64,
}

impl Default for PlateauState {
    fn default() -> Self {
        Self { factor: 1.0, best: None, bad: 0, cooldown: 0 }
    }
}

impl Schedule {
    /// The schedule of a run of `total` steps.
    #[must_use]
    pub fn new(config: &ScheduleConfig, total: u64) -> Self {
        Self { config: config.clone(), total, plateau: PlateauState::default() }
    }

    /// The factor on the learning rate for a step, counted from 0.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        self.factor_of(&self.config, step, self.total)
    }

    /// Tells a plateau schedule the score of a validation, where less is better: give the negative
    /// of a score of which more is better. A NaN is no improvement. Other schedules ignore it.
    pub fn observe(&mut self, score: f64) {
        let Some(c) = self.config.plateau() else { return };
        let state = &mut self.plateau;
        let better = state.best.map_or(!score.is_nan(), |best| {
            let margin = match c.threshold_mode {
                ThresholdMode::Rel => best.abs() * c.threshold,
                ThresholdMode::Abs => c.threshold,
            };
            score < best - margin
        });
        if better {
            state.best = Some(score);
            state.bad = 0;
        } else {
            state.bad += 1;
        }
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.bad = 0;
        }
        if state.bad > c.patience {
            state.factor = (state.factor * c.factor).max(c.floor);
            state.cooldown = c.cooldown;
            state.bad = 0;
        }
    }

    /// What [`Self::load`] needs to go on: null unless the schedule follows a score.
    #[must_use]
    pub fn save(&self) -> Value {
        match self.config.plateau() {
            Some(_) => serde_json::to_value(&self.plateau).unwrap_or_default(),
            None => Value::Null,
        }
    }

    /// Goes on from what [`Self::save`] gave; anything else begins afresh.
    pub fn load(&mut self, state: &Value) {
        self.plateau = serde_json::from_value(state.clone()).unwrap_or_default();
    }

    fn factor_of(&self, config: &ScheduleConfig, step: u64, total: u64) -> f64 {
        use ScheduleConfig as C;
        let t = step as f64;
        let length = |steps: &Option<u64>| steps.unwrap_or(total).max(1) as f64;
        match config {
            C::Constant { factor, steps } => {
                if step < *steps {
                    *factor
                } else {
                    1.0
                }
            }
            C::Step { step_size, gamma } => gamma.powf((step / (*step_size).max(1)) as f64),
            C::MultiStep { milestones, gamma } => {
                gamma.powf(milestones.iter().filter(|m| **m <= step).count() as f64)
            }
            C::Exponential { gamma } => gamma.powf(t),
            C::Linear { start, end, steps } => start + (end - start) * (t / length(steps)).min(1.0),
            C::Polynomial { power, steps } => (1.0 - (t / length(steps)).min(1.0)).powf(*power),
            C::Cosine { floor, steps } => floor + (1.0 - floor) * half_cosine(t / length(steps)),
            C::CosineRestarts { first, mult, floor } => {
                let (mut at, mut len) = (step, (*first).max(1));
                if *mult <= 1 {
                    at %= len;
                }
                while at >= len {
                    at -= len;
                    len = len.saturating_mul(*mult);
                }
                floor + (1.0 - floor) * half_cosine(at as f64 / len as f64)
            }
            C::OneCycle { pct_start, anneal, three_phase, div_factor, final_div_factor, steps } => {
                let n = length(steps);
                let (start, last) = (1.0 / div_factor, 1.0 / div_factor / final_div_factor);
                let up = pct_start * n - 1.0;
                let mut phases = vec![(up, start, 1.0)];
                if *three_phase {
                    phases.push((2.0 * pct_start * n - 2.0, 1.0, start));
                    phases.push((n - 1.0, start, last));
                } else {
                    phases.push((n - 1.0, 1.0, last));
                }
                one_cycle(&phases, *anneal, t)
            }
            C::Cyclic { floor, up, down, mode, gamma } => {
                let (up, down) = (*up as f64, down.unwrap_or(*up) as f64);
                let length = (up + down).max(1.0);
                let cycle = (t / length).floor();
                let (x, peak) = (t / length - cycle, up / length);
                let height =
                    if x <= peak && peak > 0.0 { x / peak } else { (1.0 - x) / (1.0 - peak) };
                let scale = match mode {
                    CyclicMode::Triangular => 1.0,
                    CyclicMode::Triangular2 => 0.5f64.powf(cycle),
                    CyclicMode::ExpRange => gamma.powf(t),
                };
                floor + (1.0 - floor) * height * scale
            }
            C::Plateau(_) => self.plateau.factor,
            C::LinearDecay { constant, steps } => {
                let steps = steps.unwrap_or(total.saturating_sub(*constant)) as f64;
                let into = (t + 1.0 - *constant as f64).max(0.0);
                (1.0 - into / (steps + 1.0)).max(0.0)
            }
            C::WarmupCosine { warmup, cycles, steps } => {
                let (w, n) = (*warmup as f64, length(steps));
                let progress = (t - w) / (n - w).max(1.0);
                let wave = 0.5 * (1.0 + (2.0 * PI * cycles * progress).cos());
                if t < w { t / w } else { wave }
            }
            C::WarmupLinear { warmup, steps } => {
                let (w, n) = (*warmup as f64, length(steps));
                if t < w { t / w } else { ((n - t) / (n - w).max(1.0)).max(0.0) }
            }
            C::InverseSqrt { warmup } => {
                let n = t + 1.0;
                n.powf(-0.5).min(n * ((*warmup).max(1) as f64).powf(-1.5))
            }
            C::Sequence { parts, milestones } => {
                let index = milestones.iter().filter(|m| **m <= step).count();
                let begin = index.checked_sub(1).and_then(|i| milestones.get(i)).copied();
                let begin = begin.unwrap_or(0);
                let end = milestones.get(index).copied().unwrap_or(total);
                parts.get(index).map_or(1.0, |part| {
                    self.factor_of(part, step - begin, end.saturating_sub(begin))
                })
            }
        }
    }
}

/// Falls from 1 to 0 as its argument goes from 0 to 1.
fn half_cosine(x: f64) -> f64 {
    0.5 * (1.0 + (PI * x).cos())
}

/// The value at `t` of phases (end, first value, last value) that begin where the one before ends.
fn one_cycle(phases: &[(f64, f64, f64)], anneal: Anneal, t: f64) -> f64 {
    let mut begin = 0.0;
    for (i, &(end, from, to)) in phases.iter().enumerate() {
        if t <= end || i + 1 == phases.len() {
            let x = if end > begin { ((t - begin) / (end - begin)).clamp(0.0, 1.0) } else { 1.0 };
            return match anneal {
                Anneal::Cos => to + (from - to) * half_cosine(x),
                Anneal::Linear => from + (to - from) * x,
            };
        }
        begin = end;
    }
    1.0
}
