//! A place between a clean image and noise: what a state is made of there.
//!
//! Every process (diffusion, flow, bridge) is a path of levels, and samplers know nothing else of it:
//! `x = clean·x0 + source·y + noise·ε` with the clean image x0, the degraded image y and unit noise ε.

use candle_core::{Device, Tensor};
use limpid_engine::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far `λ` goes in what a network is told, to either side.
const MOST_LAMBDA: f64 = 10.0;

/// Span of the numbers that are embedded in place of a time or of `λ`.
pub(super) const TIMES: f64 = 1000.0;

/// What a state is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Factor of the clean image.
    pub clean: f64,
    /// Factor of the degraded image.
    pub source: f64,
    /// Standard deviation of the noise.
    pub noise: f64,
    /// What the network is told.
    pub input: f64,
}

/// What a network is told of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The signal's share γ of the variance, as EMDiffuse.
    #[default]
    Gamma,
    /// The logarithm λ of the ratio of signal and noise, from ±10 spread over 0 to 1000: its
    /// embedding tells apart the levels near either end.
    LogSnr,
}

impl Level {
    /// The clean image itself.
    pub const CLEAN: Self = Self { clean: 1.0, source: 0.0, noise: 0.0, input: 1.0 };

    /// The level of a diffusion at which the signal has the share `gamma` of the variance.
    #[must_use]
    pub fn of_gamma(gamma: f64, input: Input) -> Self {
        let mut level =
            Self { clean: gamma.sqrt(), source: 0.0, noise: (1.0 - gamma).sqrt(), input: gamma };
        if input == Input::LogSnr {
            let lambda = level.lambda().clamp(-MOST_LAMBDA, MOST_LAMBDA);
            level.input = TIMES * (MOST_LAMBDA - lambda) / (2.0 * MOST_LAMBDA);
        }
        level
    }

    /// The signal's share of the variance.
    #[must_use]
    pub fn gamma(&self) -> f64 {
        let signal = self.clean * self.clean;
        signal / (signal + self.noise * self.noise)
    }

    /// `ln(clean/noise)`, half the logarithm of the signal-to-noise ratio; infinite at the clean end.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        (self.clean / self.noise).ln()
    }

    /// What the network is told of several levels, f32 `[N]`.
    ///
    /// # Errors
    /// If there is no memory on the device.
    pub fn inputs(at: &[Self], device: &Device) -> Result<Tensor> {
        let inputs: Vec<f32> = at.iter().map(|level| level.input as f32).collect();
        Ok(Tensor::from_vec(inputs, at.len(), device)?)
    }
}

/// A step from one level to another: `x' = clean·x0 + state·x + noise·z` with the clean image x0, the
/// state x and fresh unit noise z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// Factor of the clean image.
    pub clean: f64,
    /// Factor of the state.
    pub state: f64,
    /// Standard deviation of the noise that is added.
    pub noise: f64,
}

impl Transition {
    /// The step between two levels of one process, given the clean image: its mean is that of x'
    /// given x and x0.
    ///
    /// Without a degraded image, as a share `eta` of the posterior's noise (Song et al. 2020,
    /// arXiv:2010.02502, eq. 12 and 16): 1 is ancestral sampling, Ho et al. 2020's posterior, 0 is
    /// deterministic. With one, the posterior of a Brownian bridge (Liu et al. 2023, I²SB,
    /// arXiv:2302.05872, eq. 4), whatever `eta`.
    #[must_use]
    pub fn between(from: &Level, to: &Level, eta: f64) -> Self {
        if from.source > 0.0 {
            let state = to.source / from.source;
            let share = (1.0 - state) / (1.0 - to.source);
            return Self { clean: 1.0 - state, state, noise: to.noise * share.sqrt() };
        }
        // (signal-to-noise ratio of `from`) / (that of `to`), as a ratio of amplitudes
        let ratio = (to.noise * from.clean) / (from.noise * to.clean);
        let fresh = eta * (1.0 - ratio * ratio).max(0.0).sqrt();
        let state = to.noise / from.noise * (1.0 - fresh * fresh).max(0.0).sqrt();
        Self { clean: to.clean - state * from.clean, state, noise: to.noise * fresh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{BetaConfig, NoiseSchedule, NoiseScheduleConfig};

    #[test]
    fn ancestral_steps_are_the_posterior_of_the_reference() {
        for (steps, first, last) in [(12, 1e-3, 0.5), (1000, 1e-4, 0.09)] {
            let beta = BetaConfig::Linear { first, last };
            let s = NoiseSchedule::new(&NoiseScheduleConfig { steps, beta });
            let at = |gamma| Level::of_gamma(gamma, Input::Gamma);
            for t in 1..steps {
                let step = Transition::between(&at(s.gammas[t]), &at(s.gammas[t - 1]), 1.0);
                for (got, expected) in [
                    (step.clean, s.posterior_mean_coef1[t]),
                    (step.state, s.posterior_mean_coef2[t]),
                    (step.noise, (s.posterior_log_variance_clipped[t] / 2.0).exp()),
                ] {
                    assert!(
                        (got - expected).abs() < 1e-9 * expected.max(1e-4),
                        "{t}: {got} {expected}"
                    );
                }
            }
            let end = Transition::between(&at(s.gammas[0]), &Level::CLEAN, 1.0);
            assert_eq!(end, Transition { clean: 1.0, state: 0.0, noise: 0.0 });
        }
    }

    #[test]
    fn a_step_keeps_mean_and_variance() {
        let (gamma, flow) = (
            [0.05, 0.4].map(|g| Level::of_gamma(g, Input::Gamma)),
            [0.9, 0.3].map(|t| Level { clean: 1.0 - t, source: 0.0, noise: t, input: t }),
        );
        for [from, to] in [gamma, flow] {
            for eta in [0.0, 0.4, 1.0] {
                let step = Transition::between(&from, &to, eta);
                assert!((step.clean + step.state * from.clean - to.clean).abs() < 1e-12);
                let variance = (step.state * from.noise).powi(2) + step.noise.powi(2);
                assert!((variance - to.noise.powi(2)).abs() < 1e-12);
                assert_eq!(step.noise == 0.0, eta == 0.0);
            }
        }
        // a bridge of strength 0.3
        let at = |u: f64| Level {
            clean: 1.0 - u,
            source: u,
            noise: (0.3 * u * (1.0 - u)).sqrt(),
            input: 0.0,
        };
        for (from, to) in [(1.0, 0.6), (0.6, 0.25), (0.25, 0.0)] {
            let (from, to) = (at(from), at(to));
            let step = Transition::between(&from, &to, 1.0);
            assert!((step.clean + step.state * from.clean - to.clean).abs() < 1e-12);
            assert!((step.state * from.source - to.source).abs() < 1e-12);
            let variance = (step.state * from.noise).powi(2) + step.noise.powi(2);
            assert!((variance - to.noise.powi(2)).abs() < 1e-12);
        }
    }

    #[test]
    fn what_the_network_is_told_is_bounded_and_falls_with_the_signal() {
        let told: Vec<f64> = [0.0, 1e-4, 0.5, 0.9999, 1.0]
            .map(|gamma| Level::of_gamma(gamma, Input::LogSnr).input)
            .to_vec();
        assert_eq!((told[0], told[2], told[4]), (1000.0, 500.0, 0.0));
        assert!(told.windows(2).all(|t| t[1] < t[0]), "{told:?}");
        assert_eq!(Level::of_gamma(0.3, Input::Gamma).input, 0.3);
    }
}
