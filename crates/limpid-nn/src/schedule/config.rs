//! Which schedule, with which settings. Names and defaults are PyTorch's where it has them.

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate changes. Where `steps` is left out, the schedule ends with the run or with
/// its part of a sequence. Floors and factors are fractions of the optimizer's learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The full rate, after some steps at a fraction of it.
    Constant {
        /// Factor in the first steps.
        #[serde(default = "one")]
        factor: f64,
        /// How many first steps.
        #[serde(default)]
        steps: u64,
    },
    /// Times `gamma` every `step_size` steps.
    Step {
        /// Steps between changes.
        step_size: u64,
        /// Factor of a change.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// Times `gamma` at every milestone.
    MultiStep {
        /// Steps at which the rate changes.
        milestones: Vec<u64>,
        /// Factor of a change.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// Times `gamma` every step.
    Exponential {
        /// Factor per step.
        gamma: f64,
    },
    /// On a line from one factor to another, then constant: also a plain warm-up.
    Linear {
        /// First factor.
        #[serde(default = "third")]
        start: f64,
        /// Last factor.
        #[serde(default = "one")]
        end: f64,
        /// Steps from first to last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// `(1 - t / steps)^power`; nnU-Net uses 0.9 with epochs for steps.
    Polynomial {
        /// Exponent.
        #[serde(default = "nine_tenths")]
        power: f64,
        /// Steps until zero.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Half a cosine from the full rate to the floor. After its steps it rises again, as in PyTorch.
    Cosine {
        /// Least factor.
        #[serde(default)]
        floor: f64,
        /// Steps until the floor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Half cosines, each starting at the full rate.
    CosineRestarts {
        /// Steps of the first.
        first: u64,
        /// Each is this many times as long as the one before.
        #[serde(default = "one_u64")]
        mult: u64,
        /// Least factor.
        #[serde(default)]
        floor: f64,
    },
    /// Up to the full rate and down again, far below the start.
    OneCycle {
        /// Fraction of the steps spent rising.
        #[serde(default = "three_tenths")]
        pct_start: f64,
        /// Form of rise and fall.
        #[serde(default)]
        anneal: Anneal,
        /// Fall to the start as fast as the rise was, and only then to the end.
        #[serde(default)]
        three_phase: bool,
        /// The first factor is one over this.
        #[serde(default = "twenty_five")]
        div_factor: f64,
        /// The last factor is the first over this.
        #[serde(default = "ten_thousand")]
        final_div_factor: f64,
        /// Steps in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Up and down between the floor and the full rate, again and again.
    Cyclic {
        /// Least factor.
        #[serde(default)]
        floor: f64,
        /// Steps of a rise.
        up: u64,
        /// Steps of a fall; none: as many as of a rise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        down: Option<u64>,
        /// What becomes of the height from cycle to cycle.
        #[serde(default)]
        mode: CyclicMode,
        /// Factor on the height per step, for `exp_range`.
        #[serde(default = "one")]
        gamma: f64,
    },
    /// Times `factor` when the validation score has not improved for a while.
    Plateau(Plateau),
    /// The full rate, then down on a line that would reach zero one step after the last (CycleGAN).
    LinearDecay {
        /// Steps at the full rate.
        constant: u64,
        /// Steps of the fall.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Up on a line from zero, then on a cosine (Hugging Face).
    WarmupCosine {
        /// Steps of the rise.
        warmup: u64,
        /// Waves of the cosine; a half falls to zero once.
        #[serde(default = "half")]
        cycles: f64,
        /// Steps in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Up on a line from zero, then down on a line to zero (Hugging Face).
    WarmupLinear {
        /// Steps of the rise.
        warmup: u64,
        /// Steps in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// `min(n^-½, n·warmup^-3/2)` with `n = t + 1`: its peak is `warmup^-½` (Transformer).
    InverseSqrt {
        /// Steps of the rise.
        warmup: u64,
    },
    /// One schedule after the other; each counts its own steps from 0.
    Sequence {
        /// The schedules.
        parts: Vec<ScheduleConfig>,
        /// Step at which each but the first begins.
        milestones: Vec<u64>,
    },
}

/// Settings of the plateau rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plateau {
    /// Factor of a reduction.
    pub factor: f64,
    /// Validations without improvement that are tolerated.
    pub patience: u64,
    /// Least change that counts as an improvement.
    pub threshold: f64,
    /// Whether the threshold is a fraction of the best score or a difference.
    pub threshold_mode: ThresholdMode,
    /// Validations after a reduction during which none is counted.
    pub cooldown: u64,
    /// Least factor.
    pub floor: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self {
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Rel,
            cooldown: 0,
            floor: 0.0,
        }
    }
}

/// Form of a rise or fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anneal {
    /// Half a cosine.
    #[default]
    Cos,
    /// A line.
    Linear,
}

/// What becomes of the height of a cyclic schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CyclicMode {
    /// It stays.
    #[default]
    Triangular,
    /// It halves with every cycle.
    Triangular2,
    /// It is multiplied by `gamma` in every step.
    ExpRange,
}

/// How the threshold of the plateau rule is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdMode {
    /// A fraction of the best score's magnitude.
    #[default]
    Rel,
    /// A difference of scores.
    Abs,
}

fn half() -> f64 {
    0.5
}

fn third() -> f64 {
    1.0 / 3.0
}

fn tenth() -> f64 {
    0.1
}

fn three_tenths() -> f64 {
    0.3
}

fn nine_tenths() -> f64 {
    0.9
}

fn one() -> f64 {
    1.0
}

fn one_u64() -> u64 {
    1
}

fn twenty_five() -> f64 {
    25.0
}

fn ten_thousand() -> f64 {
    1e4
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant { factor: 1.0, steps: 0 }
    }
}

impl ScheduleConfig {
    /// The plateau rule, here or in a sequence.
    pub(super) fn plateau(&self) -> Option<&Plateau> {
        match self {
            Self::Plateau(plateau) => Some(plateau),
            Self::Sequence { parts, .. } => parts.iter().find_map(Self::plateau),
            _ => None,
        }
    }
}

impl Validate for ScheduleConfig {
    fn validate(&self, at: &mut Check) {
        let mut range = |key: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                let message = match high {
                    f64::INFINITY => format!("must be at least {low}, got {value}"),
                    high => format!("must be in [{low}, {high}], got {value}"),
                };
                at.problem(key, message);
            }
        };
        let most = f64::INFINITY;
        match self {
            Self::Constant { factor, .. } => range("factor", *factor, 0.0, most),
            Self::Step { step_size, gamma } => {
                range("step_size", *step_size as f64, 1.0, most);
                range("gamma", *gamma, 0.0, most);
            }
            Self::MultiStep { gamma, .. } | Self::Exponential { gamma } => {
                range("gamma", *gamma, 0.0, most);
            }
            Self::Linear { start, end, .. } => {
                range("start", *start, 0.0, most);
                range("end", *end, 0.0, most);
            }
            Self::Polynomial { power, .. } => range("power", *power, 0.0, most),
            Self::Cosine { floor, .. } => range("floor", *floor, 0.0, 1.0),
            Self::CosineRestarts { first, mult, floor } => {
                range("first", *first as f64, 1.0, most);
                range("mult", *mult as f64, 1.0, most);
                range("floor", *floor, 0.0, 1.0);
            }
            Self::OneCycle { pct_start, three_phase, div_factor, final_div_factor, .. } => {
                range("pct_start", *pct_start, 0.0, if *three_phase { 0.5 } else { 1.0 });
                range("div_factor", *div_factor, 1.0, most);
                range("final_div_factor", *final_div_factor, 1.0, most);
            }
            Self::Cyclic { floor, up, down, gamma, .. } => {
                range("floor", *floor, 0.0, 1.0);
                range("up", *up as f64, 1.0, most);
                range("down", down.unwrap_or(1) as f64, 1.0, most);
                range("gamma", *gamma, 0.0, most);
            }
            Self::Plateau(c) => {
                range("factor", c.factor, 0.0, 1.0);
                range("threshold", c.threshold, 0.0, most);
                range("floor", c.floor, 0.0, 1.0);
            }
            Self::WarmupCosine { cycles, .. } => range("cycles", *cycles, 0.0, most),
            Self::LinearDecay { .. } | Self::WarmupLinear { .. } => {}
            Self::InverseSqrt { warmup } => range("warmup", *warmup as f64, 1.0, most),
            Self::Sequence { parts, milestones } => {
                if parts.len() != milestones.len() + 1 {
                    let (n, m) = (parts.len(), milestones.len());
                    at.problem(
                        "milestones",
                        format!("must be one less than the parts, got {m} for {n}"),
                    );
                }
                if !milestones.is_sorted() {
                    at.problem("milestones", "must rise");
                }
                if parts.iter().filter(|part| part.plateau().is_some()).count() > 1 {
                    at.problem("parts", "must not hold more than one plateau");
                }
                at.nested("parts", parts);
            }
        }
    }
}
