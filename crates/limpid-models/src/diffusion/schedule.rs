//! Noise schedules: the variance that each step of a diffusion adds, and what follows from it.
//!
//! Reference: `make_beta_schedule` of guided-diffusion, as EMDiffuse has it; Ho et al. 2020
//! (arXiv:2006.11239), cosine: Nichol & Dhariwal 2021 (arXiv:2102.09672).

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most steps of a schedule.
const MOST_STEPS: usize = 1 << 20;

/// A noise schedule: its shape and its number of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseScheduleConfig {
    /// Number of steps.
    pub steps: usize,
    /// Variance added by each.
    pub beta: BetaConfig,
}

impl Default for NoiseScheduleConfig {
    /// EMDiffuse's training schedule.
    fn default() -> Self {
        Self { steps: 2000, beta: BetaConfig::Linear { first: 1e-6, last: 1e-2 } }
    }
}

/// How the variance that is added goes from the first step to the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BetaConfig {
    /// In equal steps.
    Linear {
        /// Variance of the first step.
        first: f64,
        /// Variance of the last step.
        last: f64,
    },
    /// Its root in equal steps.
    Quadratic {
        /// Variance of the first step.
        first: f64,
        /// Variance of the last step.
        last: f64,
    },
    /// In equal steps at the beginning, then constant.
    Warmup {
        /// Variance of the first step.
        first: f64,
        /// Variance after the warm-up.
        last: f64,
        /// Part of the steps that the warm-up takes.
        part: f64,
    },
    /// Constant.
    Constant {
        /// Variance of every step.
        value: f64,
    },
    /// `1/n, 1/(n-1), …, 1`: all that is left is noise.
    Jsd {},
    /// The part of the signal that is left falls as a squared cosine.
    Cosine {
        /// Offset of the first step, as a part of all; the paper's is 0.008.
        offset: f64,
    },
}

impl Validate for NoiseScheduleConfig {
    fn validate(&self, at: &mut Check) {
        if !(1..=MOST_STEPS).contains(&self.steps) {
            at.problem("steps", format!("must be from 1 to 2^20, got {}", self.steps));
        }
        let variances: &[(&str, f64)] = match &self.beta {
            BetaConfig::Linear { first, last }
            | BetaConfig::Quadratic { first, last }
            | BetaConfig::Warmup { first, last, .. } => {
                &[("beta.first", *first), ("beta.last", *last)]
            }
            BetaConfig::Constant { value } => &[("beta.value", *value)],
            BetaConfig::Jsd {} | BetaConfig::Cosine { .. } => &[],
        };
        for (key, value) in variances {
            if !(0.0..=1.0).contains(value) {
                at.problem(key, format!("must be from 0 to 1, got {value}"));
            }
        }
        if let BetaConfig::Warmup { part, .. } = self.beta
            && !(0.0..=1.0).contains(&part)
        {
            at.problem("beta.part", format!("must be from 0 to 1, got {part}"));
        }
        if let BetaConfig::Cosine { offset } = self.beta
            && !(0.0..1.0).contains(&offset)
        {
            at.problem("beta.offset", format!("must be at least 0 and below 1, got {offset}"));
        }
    }
}

impl NoiseScheduleConfig {
    /// Variance added by each step.
    fn betas(&self) -> Vec<f64> {
        let n = self.steps;
        let spread = |from: f64, to: f64, n: usize| -> Vec<f64> {
            let gap = (to - from) / (n.max(2) - 1) as f64;
            // the last is exact, as numpy's linspace has it
            (0..n).map(|i| if i > 0 && i + 1 == n { to } else { from + i as f64 * gap }).collect()
        };
        match self.beta {
            BetaConfig::Linear { first, last } => spread(first, last, n),
            BetaConfig::Quadratic { first, last } => {
                spread(first.sqrt(), last.sqrt(), n).into_iter().map(|b| b * b).collect()
            }
            BetaConfig::Warmup { first, last, part } => {
                let mut betas = spread(first, last, ((n as f64 * part) as usize).min(n));
                betas.resize(n, last);
                betas
            }
            BetaConfig::Constant { value } => vec![value; n],
            BetaConfig::Jsd {} => spread(n as f64, 1.0, n).into_iter().map(|b| 1.0 / b).collect(),
            BetaConfig::Cosine { offset } => {
                let left = |i: usize| {
                    let u = i as f64 / n as f64 + offset;
                    (u / (1.0 + offset) * std::f64::consts::FRAC_PI_2).cos().powi(2)
                };
                (0..n).map(|i| (1.0 - left(i + 1) / left(i)).min(0.999)).collect()
            }
        }
    }
}

/// A noise schedule and what training and sampling need of it, one value per step, in `f64`.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// Variance that the step adds.
    pub betas: Vec<f64>,
    /// Part of the signal's variance that is left after the step: the product of `1 - beta`.
    pub gammas: Vec<f64>,
    /// `√(1/γ)`; infinite where nothing is left.
    pub sqrt_recip_gammas: Vec<f64>,
    /// `√(1/γ - 1)`; infinite where nothing is left.
    pub sqrt_recipm1_gammas: Vec<f64>,
    /// Weight of the restored image in the mean of the step back.
    pub posterior_mean_coef1: Vec<f64>,
    /// Weight of the noisy image in the mean of the step back.
    pub posterior_mean_coef2: Vec<f64>,
    /// Logarithm of the variance of the step back, cut off at `1e-20`.
    pub posterior_log_variance_clipped: Vec<f64>,
}

impl NoiseSchedule {
    /// Computes the schedule.
    #[must_use]
    pub fn new(config: &NoiseScheduleConfig) -> Self {
        let betas = config.betas();
        let mut left = 1.0;
        let gammas: Vec<f64> = betas
            .iter()
            .map(|beta| {
                left *= 1.0 - beta;
                left
            })
            .collect();
        let before: Vec<f64> =
            std::iter::once(1.0).chain(gammas.iter().copied()).take(gammas.len()).collect();
        let each = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
            (0..betas.len()).map(|i| f(betas[i], gammas[i], before[i])).collect()
        };
        Self {
            sqrt_recip_gammas: each(&|_, now, _| (1.0 / now).sqrt()),
            sqrt_recipm1_gammas: each(&|_, now, _| (1.0 / now - 1.0).sqrt()),
            posterior_mean_coef1: each(&|beta, now, was| beta * was.sqrt() / (1.0 - now)),
            posterior_mean_coef2: each(&|beta, now, was| {
                (1.0 - was) * (1.0 - beta).sqrt() / (1.0 - now)
            }),
            posterior_log_variance_clipped: each(&|beta, now, was| {
                (beta * (1.0 - was) / (1.0 - now)).max(1e-20).ln()
            }),
            betas,
            gammas,
        }
    }

    /// γ between step `t`, at `part` 1, and the step before, at 0; before the first it is 1. In f32
    /// as the reference, which trains at these levels.
    #[must_use]
    pub fn gamma_before(&self, t: usize, part: f32) -> f64 {
        let at = |t: Option<usize>| t.and_then(|t| self.gammas.get(t)).map_or(1.0, |g| *g as f32);
        let (now, before) = (at(Some(t)), at(t.checked_sub(1)));
        f64::from((now - before) * part + before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(steps: usize, beta: BetaConfig) -> NoiseSchedule {
        let config = NoiseScheduleConfig { steps, beta };
        assert!(limpid_config::check(&config).is_empty());
        NoiseSchedule::new(&config)
    }

    #[test]
    fn the_mean_of_the_step_back_of_a_clean_image_is_that_image() {
        // with x_t at its expectation √γ·x0, the posterior mean is √γ_{t-1}·x0
        let all = [
            BetaConfig::Linear { first: 1e-4, last: 0.02 },
            BetaConfig::Quadratic { first: 1e-4, last: 0.02 },
            BetaConfig::Warmup { first: 1e-4, last: 0.02, part: 0.1 },
            BetaConfig::Constant { value: 0.02 },
            BetaConfig::Cosine { offset: 8e-3 },
        ];
        for beta in all {
            let s = schedule(50, beta);
            for t in 1..50 {
                let mean =
                    s.posterior_mean_coef1[t] + s.posterior_mean_coef2[t] * s.gammas[t].sqrt();
                assert!((mean - s.gammas[t - 1].sqrt()).abs() < 1e-12, "{beta:?} at {t}");
            }
            assert!(s.gammas.windows(2).all(|g| g[1] < g[0]), "{beta:?}");
        }
    }

    #[test]
    fn nothing_is_left_at_the_end_of_jsd() {
        let s = schedule(20, BetaConfig::Jsd {});
        assert_eq!((s.betas[0], s.betas[19], s.gammas[19]), (0.05, 1.0, 0.0));
        assert_eq!(s.sqrt_recip_gammas[19], f64::INFINITY);
    }

    #[test]
    fn levels_between_steps_begin_at_the_step_before() {
        let s = schedule(50, BetaConfig::Constant { value: 0.1 });
        for t in 0..50 {
            let before = if t == 0 { 1.0 } else { s.gammas[t - 1] };
            assert_eq!(s.gamma_before(t, 0.0), f64::from(before as f32));
            assert!((s.gamma_before(t, 1.0) - s.gammas[t]).abs() < 1e-6);
            let half = s.gamma_before(t, 0.5);
            assert!(half < before && half > s.gammas[t]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = [
            NoiseScheduleConfig { steps: 0, ..NoiseScheduleConfig::default() },
            NoiseScheduleConfig { steps: 5, beta: BetaConfig::Constant { value: f64::NAN } },
            NoiseScheduleConfig { steps: 5, beta: BetaConfig::Cosine { offset: 1.0 } },
        ];
        for config in wrong {
            assert_eq!(limpid_config::check(&config).len(), 1, "{config:?}");
        }
    }
}
