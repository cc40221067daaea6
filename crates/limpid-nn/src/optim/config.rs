//! Which optimizer, with which settings. Names and defaults are PyTorch's.

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An optimizer and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent, with momentum if wanted.
    Sgd(Sgd),
    /// Adam; weight decay is added to the gradient.
    Adam(Adam),
    /// Adam with weight decay apart from the gradient.
    Adamw(AdamW),
    /// Adam with Nesterov momentum.
    Nadam(NAdam),
    /// Adam that rectifies the variance of its first steps, so that it needs no warm-up.
    Radam(RAdam),
    /// Gradient over the root of its moving average of squares.
    Rmsprop(RmsProp),
    /// Adam with the largest instead of the average magnitude.
    Adamax(Adamax),
    /// Gradient over the root of its sum of squares.
    Adagrad(Adagrad),
}

/// Settings of stochastic gradient descent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Share of the previous direction that is kept; 0: none.
    pub momentum: f64,
    /// Share of the gradient that does not enter the momentum.
    pub dampening: f64,
    /// Nesterov's look ahead; needs momentum without dampening.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

/// Settings of Adam.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay per step of the averages of the gradient and of its square.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Divide by the largest average of squares so far (AMSGrad).
    pub amsgrad: bool,
}

/// Settings of AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay per step of the averages of the gradient and of its square.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Shrinks the weights by this times the learning rate in every step.
    pub weight_decay: f64,
    /// Divide by the largest average of squares so far (AMSGrad).
    pub amsgrad: bool,
}

/// Settings of NAdam.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NAdam {
    /// Learning rate.
    pub lr: f64,
    /// Decay per step of the averages of the gradient and of its square.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty, added to the gradient unless decoupled.
    pub weight_decay: f64,
    /// How fast the momentum grows to its final value.
    pub momentum_decay: f64,
    /// Decay the weights apart from the gradient, as AdamW does.
    pub decoupled_weight_decay: bool,
}

/// Settings of RAdam.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RAdam {
    /// Learning rate.
    pub lr: f64,
    /// Decay per step of the averages of the gradient and of its square.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty, added to the gradient unless decoupled.
    pub weight_decay: f64,
    /// Decay the weights apart from the gradient, as AdamW does.
    pub decoupled_weight_decay: bool,
}

/// Settings of RMSprop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RmsProp {
    /// Learning rate.
    pub lr: f64,
    /// Decay per step of the average of squares.
    pub alpha: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Share of the previous direction that is kept; 0: none.
    pub momentum: f64,
    /// Divide by the variance instead of the mean square.
    pub centered: bool,
}

/// Settings of Adamax.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adamax {
    /// Learning rate.
    pub lr: f64,
    /// Decay per step of the average and of the largest magnitude.
    pub betas: [f64; 2],
    /// Added to the magnitude.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

/// Settings of Adagrad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adagrad {
    /// Learning rate.
    pub lr: f64,
    /// The learning rate of step t is divided by `1 + (t - 1) lr_decay`.
    pub lr_decay: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// First value of the sum of squares.
    pub initial_accumulator_value: f64,
    /// Added to the denominator.
    pub eps: f64,
}

const BETAS: [f64; 2] = [0.9, 0.999];

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::Adamw(AdamW::default())
    }
}

impl Default for Sgd {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl Default for Adam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: BETAS, eps: 1e-8, weight_decay: 0.0, amsgrad: false }
    }
}

impl Default for AdamW {
    fn default() -> Self {
        Self { lr: 1e-3, betas: BETAS, eps: 1e-8, weight_decay: 1e-2, amsgrad: false }
    }
}

impl Default for NAdam {
    fn default() -> Self {
        Self {
            lr: 2e-3,
            betas: BETAS,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum_decay: 4e-3,
            decoupled_weight_decay: false,
        }
    }
}

impl Default for RAdam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: BETAS, eps: 1e-8, weight_decay: 0.0, decoupled_weight_decay: false }
    }
}

impl Default for RmsProp {
    fn default() -> Self {
        Self { lr: 1e-2, alpha: 0.99, eps: 1e-8, weight_decay: 0.0, momentum: 0.0, centered: false }
    }
}

impl Default for Adamax {
    fn default() -> Self {
        Self { lr: 2e-3, betas: BETAS, eps: 1e-8, weight_decay: 0.0 }
    }
}

impl Default for Adagrad {
    fn default() -> Self {
        Self {
            lr: 1e-2,
            lr_decay: 0.0,
            weight_decay: 0.0,
            initial_accumulator_value: 0.0,
            eps: 1e-10,
        }
    }
}

impl OptimizerConfig {
    /// Learning rate before any schedule.
    #[must_use]
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd(c) => c.lr,
            Self::Adam(c) => c.lr,
            Self::Adamw(c) => c.lr,
            Self::Nadam(c) => c.lr,
            Self::Radam(c) => c.lr,
            Self::Rmsprop(c) => c.lr,
            Self::Adamax(c) => c.lr,
            Self::Adagrad(c) => c.lr,
        }
    }

    /// Weight decay of parameters whose group sets none.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd(c) => c.weight_decay,
            Self::Adam(c) => c.weight_decay,
            Self::Adamw(c) => c.weight_decay,
            Self::Nadam(c) => c.weight_decay,
            Self::Radam(c) => c.weight_decay,
            Self::Rmsprop(c) => c.weight_decay,
            Self::Adamax(c) => c.weight_decay,
            Self::Adagrad(c) => c.weight_decay,
        }
    }

    /// Whether weight decay shrinks the weights instead of entering the gradient.
    pub(super) fn decoupled(&self) -> bool {
        match self {
            Self::Adamw(_) => true,
            Self::Nadam(c) => c.decoupled_weight_decay,
            Self::Radam(c) => c.decoupled_weight_decay,
            _ => false,
        }
    }

    /// Names of what is kept per parameter between steps, as in PyTorch's `state_dict`.
    pub(super) fn slots(&self) -> Vec<&'static str> {
        let adam = |amsgrad: bool| {
            let mut slots = vec!["step", "exp_avg", "exp_avg_sq"];
            slots.extend(amsgrad.then_some("max_exp_avg_sq"));
            slots
        };
        match self {
            Self::Sgd(c) if c.momentum == 0.0 => vec![],
            Self::Sgd(_) => vec!["momentum_buffer"],
            Self::Adam(c) => adam(c.amsgrad),
            Self::Adamw(c) => adam(c.amsgrad),
            Self::Nadam(_) => vec!["step", "mu_product", "exp_avg", "exp_avg_sq"],
            Self::Radam(_) => adam(false),
            Self::Rmsprop(c) => {
                let mut slots = vec!["step", "square_avg"];
                slots.extend((c.momentum > 0.0).then_some("momentum_buffer"));
                slots.extend(c.centered.then_some("grad_avg"));
                slots
            }
            Self::Adamax(_) => vec!["step", "exp_avg", "exp_inf"],
            Self::Adagrad(_) => vec!["step", "sum"],
        }
    }
}

impl Validate for OptimizerConfig {
    fn validate(&self, at: &mut Check) {
        let mut least_zero = |pairs: &[(&str, f64)]| {
            for (key, value) in pairs {
                if !(value.is_finite() && *value >= 0.0) {
                    at.problem(key, format!("must be a number of at least 0, got {value}"));
                }
            }
        };
        least_zero(&[("lr", self.lr()), ("weight_decay", self.weight_decay())]);
        match self {
            Self::Sgd(c) => least_zero(&[("momentum", c.momentum), ("dampening", c.dampening)]),
            Self::Adam(c) => least_zero(&[("eps", c.eps)]),
            Self::Adamw(c) => least_zero(&[("eps", c.eps)]),
            Self::Nadam(c) => least_zero(&[("eps", c.eps), ("momentum_decay", c.momentum_decay)]),
            Self::Radam(c) => least_zero(&[("eps", c.eps)]),
            Self::Rmsprop(c) => {
                least_zero(&[("eps", c.eps), ("momentum", c.momentum), ("alpha", c.alpha)]);
            }
            Self::Adamax(c) => least_zero(&[("eps", c.eps)]),
            Self::Adagrad(c) => least_zero(&[
                ("eps", c.eps),
                ("lr_decay", c.lr_decay),
                ("initial_accumulator_value", c.initial_accumulator_value),
            ]),
        }
        let betas = match self {
            Self::Adam(Adam { betas, .. })
            | Self::Adamw(AdamW { betas, .. })
            | Self::Nadam(NAdam { betas, .. })
            | Self::Radam(RAdam { betas, .. })
            | Self::Adamax(Adamax { betas, .. }) => &betas[..],
            _ => &[],
        };
        for (i, beta) in betas.iter().enumerate() {
            if !(0.0..1.0).contains(beta) {
                at.problem(format!("betas.{i}"), format!("must be in [0, 1), got {beta}"));
            }
        }
        if let Self::Sgd(c) = self
            && c.nesterov
            && (c.momentum == 0.0 || c.dampening != 0.0)
        {
            at.problem("nesterov", "needs momentum without dampening")
                .hint("set `momentum` to 0.9, or `nesterov` to false");
        }
    }
}
