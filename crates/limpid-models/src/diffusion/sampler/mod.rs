//! Samplers: from the first level of a grid to the clean image, by estimates of the clean image.
//!
//! A sampler knows neither network nor process: it is handed levels and a closure
//! `(state, level) → clean estimate`.
//!
//! | sampler | step |
//! |---|---|
//! | ancestral | Ho et al. 2020 (arXiv:2006.11239), as EMDiffuse |
//! | DDIM | Song et al. 2020 (arXiv:2010.02502) |
//! | DPM-Solver++ 2M, SDE | Lu et al. 2022 (arXiv:2211.01095), algorithm 2 and appendix B |
//! | UniPC | Zhao et al. 2023 (arXiv:2302.04867), of clean estimates, `B(h) = e^h - 1` |
//! | Heun | Karras et al. 2022 (arXiv:2206.00364), algorithm 1 |
//! | bridge | Liu et al. 2023 (arXiv:2302.05872) |

mod heun;
#[cfg(test)]
mod tests;
mod unipc;

use super::combine::combine;
use super::{Level, Transition};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_engine::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to go from level to level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SamplerConfig {
    /// With all the noise that the posterior of a step has: EMDiffuse's.
    Ancestral {},
    /// With a share of that noise.
    Ddim {
        /// The share, from 0 (deterministic) to 1 (ancestral).
        #[serde(default)]
        eta: f64,
    },
    /// DPM-Solver++; of order 2 it continues the line through the last two estimates.
    DpmSolver {
        /// 1 or 2.
        order: usize,
        /// With noise, as the stochastic equation has it.
        #[serde(default)]
        stochastic: bool,
    },
    /// Predictor and corrector of several steps.
    #[serde(rename = "unipc")]
    UniPc {
        /// 2 or 3.
        order: usize,
    },
    /// The mean of the slopes at both ends of a step; two evaluations per step.
    Heun {},
    /// The posterior of a bridge between the clean and the degraded image.
    Bridge {},
}

impl Validate for SamplerConfig {
    fn validate(&self, at: &mut Check) {
        match *self {
            Self::Ddim { eta } if !(0.0..=1.0).contains(&eta) => {
                at.problem("eta", format!("must be from 0 to 1, got {eta}"));
            }
            Self::DpmSolver { order, .. } if !(1..=2).contains(&order) => {
                at.problem("order", format!("must be 1 or 2, got {order}"));
            }
            Self::UniPc { order } if !(2..=3).contains(&order) => {
                at.problem("order", format!("must be 2 or 3, got {order}"));
            }
            _ => {}
        }
    }
}

/// One step of a sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Its number, from 0 on.
    pub index: usize,
    /// How many there are.
    pub of: usize,
    /// The level of the state.
    pub level: Level,
    /// The level it goes to.
    pub next: Level,
}

/// Corrects a sampler on the way; whatever is not overridden leaves things as they are.
pub trait Guide {
    /// Corrects an estimate of the clean image.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn estimate(&self, _at: &Step, clean: Tensor) -> Result<Tensor> {
        Ok(clean)
    }

    /// Corrects the next state before noise is added.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn mean(&self, _at: &Step, mean: Tensor) -> Result<Tensor> {
        Ok(mean)
    }

    /// Corrects the next state.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn state(&self, _at: &Step, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
}

/// No guide.
impl Guide for () {}

/// Draws a clean image: walks from the state `start` at the first of `levels` to the last.
///
/// `noise(i)` gives unit normal noise for step `i`, asked for only where it counts;
/// `estimate(x, level)` the clean image that a state tells of; `observe` is told of each step the
/// clean estimate and the next state as it was before [`Guide::state`].
///
/// # Shapes
/// All tensors have that of `start`, f32 or f64.
///
/// # Errors
/// [`Error::Setting`] if the sampler cannot walk these levels; those of the closures.
pub fn sample(
    config: &SamplerConfig,
    levels: &[Level],
    start: Tensor,
    guide: &dyn Guide,
    noise: &mut dyn FnMut(usize) -> Result<Tensor>,
    estimate: &mut dyn FnMut(&Tensor, &Level) -> Result<Tensor>,
    observe: &mut dyn FnMut(&Step, &Tensor, &Tensor) -> Result<()>,
) -> Result<Tensor> {
    fits(config, levels)?;
    let mut walk = Walk { levels, guide, noise, estimate, observe };
    match *config {
        SamplerConfig::Ancestral {} | SamplerConfig::Bridge {} => walk.linear(start, 1.0, 1),
        SamplerConfig::Ddim { eta } => walk.linear(start, eta, 1),
        SamplerConfig::DpmSolver { order, stochastic } => {
            walk.linear(start, f64::from(u8::from(stochastic)), order)
        }
        SamplerConfig::UniPc { order } => walk.unipc(start, order),
        SamplerConfig::Heun {} => walk.heun(start),
    }
}

/// How often a sampler asks for an estimate.
#[must_use]
pub fn evaluations(config: &SamplerConfig, levels: &[Level]) -> usize {
    let steps = levels.len().saturating_sub(1);
    match config {
        SamplerConfig::Heun {} => (2 * steps).saturating_sub(1),
        _ => steps,
    }
}

/// Images that a sampler holds of each row at a time, states and estimates, roughly.
pub(super) fn images_held(config: &SamplerConfig) -> usize {
    match config {
        SamplerConfig::Ancestral {} | SamplerConfig::Ddim { .. } | SamplerConfig::Bridge {} => 4,
        SamplerConfig::DpmSolver { .. } | SamplerConfig::Heun {} => 5,
        SamplerConfig::UniPc { order } => 4 + order,
    }
}

/// Whether a sampler can walk the levels.
fn fits(config: &SamplerConfig, levels: &[Level]) -> Result<()> {
    let setting = |message: &str, hint: &str| {
        Err(Error::Setting { message: message.to_owned(), hint: hint.to_owned() })
    };
    let walked = levels.split_last().map_or(levels, |(_, walked)| walked);
    let bridged = walked.iter().any(|level| level.source > 0.0);
    if bridged != matches!(config, SamplerConfig::Bridge {}) {
        return setting(
            "the sampler `bridge` and a bridge go together, and neither with anything else",
            "choose the sampler for what the network was trained on",
        );
    }
    if !bridged && walked.iter().any(|level| !(level.noise > 0.0)) {
        return setting("only the last level of a grid can be without noise", "lower `grid.end`");
    }
    if matches!(config, SamplerConfig::Heun {}) && walked.iter().any(|level| level.clean == 0.0) {
        return setting(
            "the sampler `heun` cannot start where no signal is left",
            "lower `grid.start` of a flow below 1, or use another sampler",
        );
    }
    Ok(())
}

/// A sampler on its way.
struct Walk<'a> {
    levels: &'a [Level],
    guide: &'a dyn Guide,
    noise: &'a mut dyn FnMut(usize) -> Result<Tensor>,
    estimate: &'a mut dyn FnMut(&Tensor, &Level) -> Result<Tensor>,
    observe: &'a mut dyn FnMut(&Step, &Tensor, &Tensor) -> Result<()>,
}

impl Walk<'_> {
    fn steps(&self) -> Vec<Step> {
        let of = self.levels.len().saturating_sub(1);
        let pairs = self.levels.windows(2).enumerate();
        pairs.map(|(index, pair)| Step { index, of, level: pair[0], next: pair[1] }).collect()
    }

    /// The guided estimate of the clean image.
    fn clean(&mut self, at: &Step, x: &Tensor) -> Result<Tensor> {
        let clean = (self.estimate)(x, &at.level)?;
        self.guide.estimate(at, clean)
    }

    /// The next state, from its mean and the standard deviation of its noise.
    fn next(&mut self, at: &Step, clean: &Tensor, mean: Tensor, noise: f64) -> Result<Tensor> {
        let mut x = self.guide.mean(at, mean)?;
        if noise > 0.0 {
            x = combine(&[(&x, &[1.0]), (&(self.noise)(at.index)?, &[noise])])?;
        }
        (self.observe)(at, clean, &x)?;
        self.guide.state(at, x)
    }

    /// Steps that are linear in state and clean estimate; of order 2 the estimate is continued to
    /// the middle of the step along the line through the one before.
    fn linear(&mut self, mut x: Tensor, eta: f64, order: usize) -> Result<Tensor> {
        let mut before: Option<(Tensor, f64)> = None;
        for at in self.steps() {
            let clean = self.clean(&at, &x)?;
            let step = Transition::between(&at.level, &at.next, eta);
            let h = at.next.lambda() - at.level.lambda();
            // 0 where either step is infinitely long
            let part = match &before {
                Some((_, h_before)) if order == 2 => h / (2.0 * h_before),
                _ => 0.0,
            };
            let part = if part.is_finite() { part } else { 0.0 };
            let older = before.as_ref().map_or(&clean, |(clean, _)| clean);
            let mean = combine(&[
                (&clean, &[step.clean * (1.0 + part)]),
                (older, &[-step.clean * part]),
                (&x, &[step.state]),
            ])?;
            x = self.next(&at, &clean, mean, step.noise)?;
            before = Some((clean, h));
        }
        Ok(x)
    }
}
