//! The levels that a sampler visits.

use super::process::{gamma_of, half_log_snr};
use super::{Level, NoiseSchedule, NoiseScheduleConfig, ProcessConfig};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_engine::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most levels of a grid.
const MOST_STEPS: usize = 1 << 20;

/// The share of signal from which a start from noise alone is no start at all.
const MOST_SIGNAL: f64 = 1e-3;

/// The levels that a sampler visits; each is one evaluation of the network, for most samplers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GridConfig {
    /// All steps of a schedule, as EMDiffuse: also those that were never trained.
    Schedule(NoiseScheduleConfig),
    /// Uniform in the logarithm of the signal-to-noise ratio.
    LogSnr {
        /// Number of levels.
        steps: usize,
        /// γ of the first; at least the least that was trained.
        start: f64,
        /// γ of the last; at most the most that was trained.
        end: f64,
    },
    /// A power of noise in units of the signal is uniform (Karras et al. 2022, arXiv:2206.00364,
    /// eq. 5).
    Karras {
        /// Number of levels.
        steps: usize,
        /// γ of the first; at least the least that was trained.
        start: f64,
        /// γ of the last; at most the most that was trained.
        end: f64,
        /// The inverse of the power; the paper's is 7.
        rho: f64,
    },
    /// Uniform in the time of a flow or a bridge, down to 0.
    Time {
        /// Number of levels.
        steps: usize,
        /// Time of the first, at most 1.
        start: f64,
    },
}

/// What a sampler starts from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// Noise alone, which the first level must be.
    Noise {},
    /// The degraded image with the noise of the first level.
    Condition {},
}

impl Validate for GridConfig {
    fn validate(&self, at: &mut Check) {
        let steps = match self {
            Self::Schedule(schedule) => return schedule.validate(at),
            Self::LogSnr { steps, .. } | Self::Karras { steps, .. } | Self::Time { steps, .. } => {
                *steps
            }
        };
        if !(1..=MOST_STEPS).contains(&steps) {
            at.problem("steps", format!("must be from 1 to 2^20, got {steps}"));
        }
        match self {
            Self::LogSnr { start, end, .. } | Self::Karras { start, end, .. } => {
                if !(*start >= 0.0 && start < end && *end <= 1.0) {
                    let message = format!(
                        "must be at least 0 and below `end`, which is at most 1, got {start} and {end}"
                    );
                    at.problem("start", message);
                }
            }
            Self::Time { start, .. } if !(*start > 0.0 && *start <= 1.0) => {
                at.problem("start", format!("must be above 0 and at most 1, got {start}"));
            }
            Self::Time { .. } | Self::Schedule(_) => {}
        }
        if let Self::Karras { rho, .. } = self
            && !(*rho >= 1.0 && rho.is_finite())
        {
            at.problem("rho", format!("must be at least 1, got {rho}"));
        }
    }
}

impl GridConfig {
    /// The levels, noisiest first; the last is the clean image.
    ///
    /// # Errors
    /// [`Error::Setting`] if the process has no such levels, or none of them was trained.
    pub fn levels(&self, process: &ProcessConfig) -> Result<Vec<Level>> {
        let gamma = |gamma: f64| process.at_gamma(gamma).ok_or_else(bridged);
        let mut levels = match *self {
            Self::Schedule(ref schedule) => {
                let gammas = NoiseSchedule::new(schedule).gammas;
                gammas.into_iter().rev().map(gamma).collect::<Result<Vec<_>>>()?
            }
            Self::LogSnr { steps, start, end } => {
                let [start, end] = trained(process, start, end)?.map(half_log_snr);
                spread(steps, start, end).map(|l| gamma(gamma_of(l))).collect::<Result<_>>()?
            }
            Self::Karras { steps, start, end, rho } => {
                let root = |gamma: f64| (-half_log_snr(gamma) / rho).exp();
                let [start, end] = trained(process, start, end)?.map(root);
                spread(steps, start, end)
                    .map(|root| gamma(gamma_of(-rho * root.ln())))
                    .collect::<Result<_>>()?
            }
            Self::Time { steps, start } => {
                if matches!(process, ProcessConfig::Diffusion { .. }) {
                    return Err(Error::Setting {
                        message: "a diffusion has no times".into(),
                        hint: "use the grid `log_snr` or `karras`".into(),
                    });
                }
                (0..steps).map(|i| process.at(start * (1.0 - i as f64 / steps as f64))).collect()
            }
        };
        levels.push(Level::CLEAN);
        Ok(levels)
    }
}

impl Start {
    /// The state that sampling starts from.
    ///
    /// # Shapes
    /// `reference`, the degraded image, and unit `noise` as the state; `levels` those of `grid`.
    ///
    /// # Errors
    /// [`Error::Setting`] for noise alone where the first level has signal; it is left to the grid
    /// `schedule`, since the reference does so.
    pub fn state(
        self,
        grid: &GridConfig,
        levels: &[Level],
        reference: &Tensor,
        noise: &Tensor,
    ) -> Result<Tensor> {
        let first = levels.first().unwrap_or(&Level::CLEAN);
        match self {
            Self::Noise {} => {
                let faithful = matches!(grid, GridConfig::Schedule(_));
                if !faithful && (first.source > 0.0 || first.gamma() > MOST_SIGNAL) {
                    return Err(Error::Setting {
                        message: format!(
                            "sampling cannot start from noise alone at a level with a share of {:.1e} \
                             of signal",
                            if first.source > 0.0 { 1.0 } else { first.gamma() }
                        ),
                        hint: "start from the condition, or lower `grid.start` below 1e-3".into(),
                    });
                }
                Ok(noise.clone())
            }
            Self::Condition {} => {
                let image = limpid_kernels::scale(reference, first.clean + first.source)?;
                if first.noise == 0.0 {
                    return Ok(image);
                }
                Ok(limpid_kernels::add(&image, &limpid_kernels::scale(noise, first.noise)?)?)
            }
        }
    }
}

/// γ from `start` to `end`, inside what was trained.
fn trained(process: &ProcessConfig, start: f64, end: f64) -> Result<[f64; 2]> {
    const FLOW: [f64; 2] = [1e-6, 1.0 - 1e-6]; // its ends have no logarithm
    let [low, high] = match process {
        ProcessConfig::Diffusion { .. } => process.range().map(|level| level.gamma()),
        ProcessConfig::Flow { .. } => FLOW,
        ProcessConfig::Bridge { .. } => return Err(bridged()),
    };
    let range = [start.max(low), end.min(high)];
    if range[0] < range[1] {
        return Ok(range);
    }
    Err(Error::Setting {
        message: format!(
            "the grid goes from γ = {start:.3e} to {end:.3e}, the network was trained from {low:.3e} to {high:.3e}"
        ),
        hint: "choose `grid.start` and `grid.end` inside what was trained".into(),
    })
}

fn bridged() -> Error {
    Error::Setting {
        message: "a bridge has no levels of noise alone".into(),
        hint: "use the grid `time`".into(),
    }
}

/// `n` numbers from `start` to `end`, both exact.
fn spread(n: usize, start: f64, end: f64) -> impl Iterator<Item = f64> {
    let last = n.saturating_sub(1);
    (0..n).map(move |i| {
        if i > 0 && i == last { end } else { start + (end - start) * i as f64 / last.max(1) as f64 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::BetaConfig;

    fn gammas(grid: &GridConfig, process: &ProcessConfig) -> Vec<f64> {
        assert!(limpid_config::check(grid).is_empty(), "{grid:?}");
        grid.levels(process).unwrap().iter().map(Level::gamma).collect()
    }

    #[test]
    fn grids_stay_inside_what_was_trained() {
        let process = ProcessConfig::default();
        let [low, high] = process.range().map(|l| l.gamma());
        assert!((low / 4.39e-5 - 1.0).abs() < 1e-2 && (1.0 - high - 1e-6).abs() < 1e-9);
        for grid in [
            GridConfig::LogSnr { steps: 7, start: 0.0, end: 1.0 },
            GridConfig::Karras { steps: 7, start: 0.0, end: 1.0, rho: 7.0 },
        ] {
            let got = gammas(&grid, &process);
            assert_eq!(got.len(), 8);
            assert!((got[0] / low - 1.0).abs() < 1e-9 && (got[6] - high).abs() < 1e-9, "{got:?}");
            assert_eq!(got[7], 1.0);
            assert!(got.windows(2).all(|g| g[0] < g[1]), "{got:?}");
        }
        let below = GridConfig::LogSnr { steps: 2, start: 1e-9, end: 1e-8 };
        let message = below.levels(&process).unwrap_err().to_string();
        assert!(message.contains("trained from 4.3"), "{message}");
    }

    #[test]
    fn grids_are_uniform_in_their_variable() {
        let process = ProcessConfig::default();
        let even = |values: Vec<f64>| {
            let step = values[1] - values[0];
            for pair in values.windows(2) {
                assert!((pair[1] - pair[0] - step).abs() < 1e-6 * step.abs(), "{values:?}");
            }
        };
        let levels = |grid: GridConfig| {
            let mut levels = grid.levels(&process).unwrap();
            levels.pop();
            levels
        };
        let grid = GridConfig::LogSnr { steps: 6, start: 1e-3, end: 0.999 };
        even(levels(grid).iter().map(Level::lambda).collect());
        let grid = GridConfig::Karras { steps: 6, start: 1e-3, end: 0.999, rho: 3.0 };
        even(levels(grid).iter().map(|l| (l.noise / l.clean).cbrt()).collect());
        let flow = ProcessConfig::Flow { train: super::super::TimesConfig::Uniform {} };
        let times = GridConfig::Time { steps: 4, start: 1.0 }.levels(&flow).unwrap();
        assert_eq!(times.iter().map(|l| l.noise).collect::<Vec<_>>(), [1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn the_schedule_is_visited_whole_from_its_end() {
        let schedule = NoiseScheduleConfig {
            steps: 1000,
            beta: BetaConfig::Linear { first: 1e-4, last: 0.09 },
        };
        let expected = NoiseSchedule::new(&schedule).gammas;
        let levels = GridConfig::Schedule(schedule).levels(&ProcessConfig::default()).unwrap();
        assert_eq!(levels.len(), 1001);
        assert!((levels[0].input / 6.6e-21 - 1.0).abs() < 1e-2);
        assert_eq!(levels[0].input, expected[999]);
        assert_eq!((levels[999].input, levels[1000]), (expected[0], Level::CLEAN));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bridge = ProcessConfig::Bridge { strength: 0.1, stochastic: true };
        let log_snr = GridConfig::LogSnr { steps: 4, start: 0.05, end: 0.999 };
        assert!(log_snr.levels(&bridge).is_err());
        let time = GridConfig::Time { steps: 4, start: 1.0 };
        assert!(time.levels(&ProcessConfig::default()).is_err());
        let image = Tensor::ones((1, 1, 2, 2), candle_core::DType::F32, &candle_core::Device::Cpu);
        let image = image.unwrap();
        let levels = log_snr.levels(&ProcessConfig::default()).unwrap();
        assert!(Start::Noise {}.state(&log_snr, &levels, &image, &image).is_err());
        let start = Start::Condition {}.state(&log_snr, &levels, &image, &image).unwrap();
        let expected = 0.05f64.sqrt() + 0.95f64.sqrt();
        let got = start.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((f64::from(got[0]) - expected).abs() < 1e-6);
        // a bridge starts from the degraded image itself
        let levels = time.levels(&bridge).unwrap();
        let start = Start::Condition {}.state(&time, &levels, &image, &image).unwrap();
        assert_eq!(start.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [1.0; 4]);
        for grid in [
            GridConfig::LogSnr { steps: 0, start: 0.1, end: 0.9 },
            GridConfig::Karras { steps: 3, start: 0.9, end: 0.1, rho: 7.0 },
            GridConfig::Karras { steps: 3, start: 0.1, end: 0.9, rho: f64::NAN },
            GridConfig::Time { steps: 3, start: 1.5 },
        ] {
            assert_eq!(limpid_config::check(&grid).len(), 1, "{grid:?}");
        }
    }
}
