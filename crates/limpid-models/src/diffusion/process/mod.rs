//! How a clean image becomes a state, what a network is asked for there, and how a clean estimate
//! follows from its answer.
//!
//! | process | state | answer |
//! |---|---|---|
//! | diffusion (Ho et al. 2020, arXiv:2006.11239) | `√γ·x0 + √(1-γ)·ε` | see [`Parametrisation`] |
//! | rectified flow (Liu et al. 2022, arXiv:2209.03003) | `(1-t)·x0 + t·ε` | `ε - x0` |
//! | bridge, I²SB (Liu et al. 2023, arXiv:2302.05872) | between x0 and the degraded y | `(x - x0)/√S` |
//!
//! The first two are one family: the answer is `a·x0 + b·ε`, so with `x = α·x0 + σ·ε` the clean image
//! is `(b·x - σ·answer) / (α·b - σ·a)`. Factors are computed in f64 and images in their own type, which
//! must be f32 at least: `1/√γ` goes up to 1e10.

#[cfg(test)]
mod tests;

use super::combine::combine;
use super::level::{Level, TIMES};
use super::{Input, NoiseSchedule, NoiseScheduleConfig};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_kernels::rng::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Least time at which a bridge is trained: at 0 nothing is left to say.
const LEAST_TIME: f64 = 1e-4;

/// The path from a clean image to what sampling starts from, and the question to the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProcessConfig {
    /// Noise that takes the place of the image, at constant variance.
    Diffusion {
        /// What the network is asked for.
        #[serde(default)]
        predict: Parametrisation,
        /// What the network is told of the level.
        #[serde(default)]
        input: Input,
        /// How much each level counts.
        #[serde(default)]
        weighting: Weighting,
        /// Levels that are trained.
        #[serde(default)]
        train: LevelsConfig,
    },
    /// A straight line to noise; the network is asked for its direction.
    Flow {
        /// Times that are trained.
        #[serde(default)]
        train: TimesConfig,
    },
    /// A path to the degraded image itself.
    Bridge {
        /// Variance of the whole path, in units of the square of the network's intensities.
        #[serde(default = "strength")]
        strength: f64,
        /// With the noise of a Brownian bridge, else on a straight line.
        #[serde(default = "yes")]
        stochastic: bool,
    },
}

fn strength() -> f64 {
    0.1
}

fn yes() -> bool {
    true
}

impl Default for ProcessConfig {
    /// EMDiffuse's.
    fn default() -> Self {
        Self::Diffusion {
            predict: Parametrisation::default(),
            input: Input::default(),
            weighting: Weighting::default(),
            train: LevelsConfig::default(),
        }
    }
}

/// What a diffusion's network is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Parametrisation {
    /// The noise ε.
    Noise {},
    /// `√γ·ε - √(1-γ)·x0` (Salimans & Ho 2022, arXiv:2202.00512).
    Velocity {},
    /// The clean image.
    Clean {},
    /// What preconditioning leaves to the network, whose input is scaled to unit variance (Karras et
    /// al. 2022, arXiv:2206.00364, table 1).
    Edm {
        /// Standard deviation of clean images, in the network's intensities.
        sigma_data: f64,
    },
}

impl Default for Parametrisation {
    fn default() -> Self {
        Self::Noise {}
    }
}

/// How much the error at each level counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// That of the network's answer, at every level the same.
    Uniform {},
    /// That of the clean image, by the signal-to-noise ratio up to a limit (Hang et al. 2023,
    /// arXiv:2303.09556).
    MinSnr {
        /// The limit; the paper's is 5.
        most: f64,
    },
}

impl Default for Weighting {
    fn default() -> Self {
        Self::Uniform {}
    }
}

/// Levels at which a diffusion is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LevelsConfig {
    /// Between the steps of a schedule: a step uniformly, then γ uniformly between it and the one
    /// before.
    Schedule(NoiseScheduleConfig),
    /// Uniform in the logarithm of the signal-to-noise ratio.
    LogSnr {
        /// γ of the noisiest level.
        low: f64,
        /// γ of the least noisy level.
        high: f64,
    },
    /// Normal in the logarithm of `√(1/γ - 1)`, noise in units of the signal; what lies beyond the
    /// limits is moved onto them.
    LogNormal {
        /// Mean; EDM's is -1.2.
        mean: f64,
        /// Standard deviation; EDM's is 1.2.
        std: f64,
        /// γ of the noisiest level.
        low: f64,
        /// γ of the least noisy level.
        high: f64,
    },
}

impl Default for LevelsConfig {
    fn default() -> Self {
        Self::Schedule(NoiseScheduleConfig::default())
    }
}

/// Times at which a flow is trained, from 0 (clean) to 1 (noise).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TimesConfig {
    /// All alike.
    Uniform {},
    /// `ln(t/(1-t))` is normal (Esser et al. 2024, arXiv:2403.03206).
    LogitNormal {
        /// Its mean.
        mean: f64,
        /// Its standard deviation.
        std: f64,
    },
}

impl Default for TimesConfig {
    fn default() -> Self {
        Self::Uniform {}
    }
}

impl Validate for LevelsConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::Schedule(schedule) => schedule.validate(at),
            Self::LogSnr { low, high } | Self::LogNormal { low, high, .. } => {
                if !(*low > 0.0 && low < high && *high < 1.0) {
                    let message = format!(
                        "must be above 0 and below `high`, both below 1, got {low} and {high}"
                    );
                    at.problem("low", message);
                }
                if let Self::LogNormal { mean, std, .. } = self {
                    normal(*mean, *std, at);
                }
            }
        }
    }
}

fn normal(mean: f64, std: f64, at: &mut Check) {
    if !mean.is_finite() {
        at.problem("mean", format!("must be finite, got {mean}"));
    }
    if !(std > 0.0 && std.is_finite()) {
        at.problem("std", format!("must be above 0, got {std}"));
    }
}

impl Validate for TimesConfig {
    fn validate(&self, at: &mut Check) {
        if let Self::LogitNormal { mean, std } = self {
            normal(*mean, *std, at);
        }
    }
}

impl Validate for ProcessConfig {
    fn validate(&self, at: &mut Check) {
        let mut positive = |key: &str, value: f64| {
            if !(value > 0.0 && value.is_finite()) {
                at.problem(key, format!("must be above 0, got {value}"));
            }
        };
        match self {
            Self::Diffusion { predict, weighting, train, .. } => {
                if let Parametrisation::Edm { sigma_data } = predict {
                    positive("predict.sigma_data", *sigma_data);
                }
                if let Weighting::MinSnr { most } = weighting {
                    positive("weighting.most", *most);
                }
                at.nested("train", train);
            }
            Self::Flow { train } => at.nested("train", train),
            Self::Bridge { strength, .. } => positive("strength", *strength),
        }
    }
}

impl LevelsConfig {
    /// γ of the noisiest and of the least noisy level.
    fn range(&self) -> [f64; 2] {
        match self {
            Self::Schedule(schedule) => {
                let gammas = NoiseSchedule::new(schedule).gammas;
                [gammas.last(), gammas.first()].map(|g| g.copied().unwrap_or(1.0))
            }
            Self::LogSnr { low, high } | Self::LogNormal { low, high, .. } => [*low, *high],
        }
    }

    /// γ of `n` levels.
    fn draw(&self, n: usize, stream: Stream) -> Vec<f64> {
        let mut draws = stream.draws();
        match self {
            Self::Schedule(schedule) => {
                let schedule = NoiseSchedule::new(schedule);
                let last = schedule.gammas.len().saturating_sub(1);
                let mut gamma = || {
                    let t = (1 + draws.below(last as u64) as usize).min(last);
                    schedule.gamma_before(t, draws.uniform() as f32)
                };
                (0..n).map(|_| gamma()).collect()
            }
            Self::LogSnr { low, high } => {
                let [low, high] = [*low, *high].map(half_log_snr);
                (0..n).map(|_| gamma_of(draws.range(low, high))).collect()
            }
            Self::LogNormal { mean, std, low, high } => {
                let mut gamma = || gamma_of(-(mean + std * draws.normal())).clamp(*low, *high);
                (0..n).map(|_| gamma()).collect()
            }
        }
    }
}

/// λ of a γ.
pub(super) fn half_log_snr(gamma: f64) -> f64 {
    0.5 * (gamma / (1.0 - gamma)).ln()
}

/// γ of a λ.
pub(super) fn gamma_of(lambda: f64) -> f64 {
    1.0 / (1.0 + (-2.0 * lambda).exp())
}

impl ProcessConfig {
    /// The most and the least noisy level that is trained.
    #[must_use]
    pub fn range(&self) -> [Level; 2] {
        match self {
            Self::Diffusion { train, input, .. } => {
                train.range().map(|gamma| Level::of_gamma(gamma, *input))
            }
            Self::Flow { .. } => [1.0, 0.0].map(|t| self.at(t)),
            Self::Bridge { .. } => [1.0, LEAST_TIME].map(|t| self.at(t)),
        }
    }

    /// Levels of `n` training samples.
    #[must_use]
    pub fn draw(&self, n: usize, stream: Stream) -> Vec<Level> {
        let mut draws = stream.draws();
        match self {
            Self::Diffusion { train, input, .. } => train
                .draw(n, stream)
                .into_iter()
                .map(|gamma| Level::of_gamma(gamma, *input))
                .collect(),
            Self::Flow { train: TimesConfig::Uniform {} } => {
                (0..n).map(|_| self.at(draws.uniform())).collect()
            }
            Self::Flow { train: TimesConfig::LogitNormal { mean, std } } => {
                (0..n).map(|_| self.at(logistic(mean + std * draws.normal()))).collect()
            }
            Self::Bridge { .. } => (0..n).map(|_| self.at(draws.range(LEAST_TIME, 1.0))).collect(),
        }
    }

    /// The level at a time from 0 (clean) to 1 of a flow or a bridge; of a diffusion, the level with
    /// as much noise in units of the signal as a flow has.
    #[must_use]
    pub fn at(&self, time: f64) -> Level {
        let (clean, input) = (1.0 - time, TIMES * time);
        match self {
            Self::Diffusion { input, .. } => {
                let gamma = Level { clean, source: 0.0, noise: time, input: 0.0 }.gamma();
                Level::of_gamma(gamma, *input)
            }
            Self::Flow { .. } => Level { clean, source: 0.0, noise: time, input },
            Self::Bridge { strength, stochastic } => {
                let source = time * time * (3.0 - 2.0 * time);
                let clean = 1.0 - source;
                let noise =
                    if *stochastic { (strength * source * clean).max(0.0).sqrt() } else { 0.0 };
                Level { clean, source, noise, input }
            }
        }
    }

    /// The level after one of `parts` equal parts of the way to noise. Steps of a schedule are
    /// counted, and `within` goes from the step before, at 0, to that step.
    pub(super) fn part(&self, parts: usize, within: f32) -> Level {
        if let Self::Diffusion { train: LevelsConfig::Schedule(schedule), input, .. } = self {
            let step = (schedule.steps / parts).min(schedule.steps - 1);
            let gamma = NoiseSchedule::new(schedule).gamma_before(step, within);
            return Level::of_gamma(gamma, *input);
        }
        self.at(1.0 / parts as f64)
    }

    /// The level with a share `gamma` of signal; none for a bridge.
    #[must_use]
    pub fn at_gamma(&self, gamma: f64) -> Option<Level> {
        match self {
            Self::Diffusion { input, .. } => Some(Level::of_gamma(gamma, *input)),
            Self::Flow { .. } => {
                let (clean, noise) = (gamma.sqrt(), (1.0 - gamma).sqrt());
                Some(self.at(noise / (clean + noise)))
            }
            Self::Bridge { .. } => None,
        }
    }

    /// States: `clean`, `source` (the degraded image) and unit `noise` mixed.
    ///
    /// # Shapes
    /// All `[N, C, s…]`; `at` one level, or N.
    ///
    /// # Errors
    /// If shapes differ, or the number of levels.
    pub fn corrupt(
        &self,
        clean: &Tensor,
        source: &Tensor,
        noise: &Tensor,
        at: &[Level],
    ) -> Result<Tensor> {
        let of = |part: fn(&Level) -> f64| at.iter().map(part).collect::<Vec<_>>();
        combine(&[
            (clean, &of(|l| l.clean)),
            (source, &of(|l| l.source)),
            (noise, &of(|l| l.noise)),
        ])
    }

    /// The state as the network sees it.
    ///
    /// # Errors
    /// As [`ProcessConfig::corrupt`].
    pub fn input(&self, x: &Tensor, at: &[Level]) -> Result<Tensor> {
        let Self::Diffusion { predict: Parametrisation::Edm { sigma_data }, .. } = self else {
            return Ok(x.clone());
        };
        let scale = at.iter().map(|l| 1.0 / l.noise.hypot(l.clean * sigma_data));
        combine(&[(x, &scale.collect::<Vec<_>>())])
    }

    /// What the network should answer to the state `x`.
    ///
    /// # Errors
    /// As [`ProcessConfig::corrupt`].
    pub fn target(
        &self,
        clean: &Tensor,
        x: &Tensor,
        noise: &Tensor,
        at: &[Level],
    ) -> Result<Tensor> {
        if let Self::Bridge { strength, .. } = self {
            let factor = |sign: f64| move |l: &Level| sign / (strength * l.source).sqrt();
            let of = |sign| at.iter().map(factor(sign)).collect::<Vec<_>>();
            return combine(&[(x, &of(1.0)), (clean, &of(-1.0))]);
        }
        let (a, b): (Vec<f64>, Vec<f64>) = at.iter().map(|l| self.question(l)).unzip();
        combine(&[(clean, &a), (noise, &b)])
    }

    /// The clean images that follow from the network's answers to the states `x`, in the type of `x`.
    ///
    /// # Errors
    /// As [`ProcessConfig::corrupt`]; [`limpid_kernels::Error::Argument`] at a level where nothing
    /// follows, such as from noise at γ = 0.
    pub fn clean(&self, output: &Tensor, x: &Tensor, at: &[Level]) -> Result<Tensor> {
        let factors = at.iter().map(|l| {
            if let Self::Bridge { strength, .. } = self {
                return (1.0, -(strength * l.source).sqrt());
            }
            let (a, b) = self.question(l);
            let whole = l.clean * b - l.noise * a;
            (b / whole, -l.noise / whole)
        });
        let (of_x, of_output): (Vec<f64>, Vec<f64>) = factors.unzip();
        if of_x.iter().chain(&of_output).any(|f| !f.is_finite()) {
            let message = "no clean image follows from the answer where no signal is left (γ = 0); \
                           use a schedule that leaves some";
            return Err(limpid_kernels::Error::argument("diffusion", message).into());
        }
        combine(&[(x, &of_x), (&output.to_dtype(x.dtype())?, &of_output)])
    }

    /// How much the squared error of each answer counts.
    #[must_use]
    pub fn weights(&self, at: &[Level]) -> Vec<f64> {
        let weight = |l: &Level| match self {
            Self::Diffusion { weighting: Weighting::MinSnr { most }, .. } => {
                let (a, b) = self.question(l);
                let of_clean = l.noise / (l.clean * b - l.noise * a);
                (l.clean / l.noise).powi(2).min(*most) * of_clean * of_clean
            }
            _ => 1.0,
        };
        at.iter().map(weight).collect()
    }

    /// The answer as `a·x0 + b·ε`; a bridge's is not of this form.
    fn question(&self, l: &Level) -> (f64, f64) {
        match self {
            Self::Diffusion { predict, .. } => match predict {
                Parametrisation::Noise {} => (0.0, 1.0),
                Parametrisation::Velocity {} => (-l.noise, l.clean),
                Parametrisation::Clean {} => (1.0, 0.0),
                Parametrisation::Edm { sigma_data: d } => {
                    // with s = noise/clean, both divided by √(s²+d²)
                    let whole = l.noise.hypot(l.clean * d);
                    (l.noise / (d * whole), -d * l.clean / whole)
                }
            },
            Self::Flow { .. } | Self::Bridge { .. } => (-1.0, 1.0),
        }
    }
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
