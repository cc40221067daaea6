//! Averaged copies of the weights: moving averages with constant or growing decay, and the plain
//! mean of stochastic weight averaging.
//!
//! Source: `torch.optim.swa_utils`, TensorFlow's `ExponentialMovingAverage` (warm-up), diffusers'
//! `EMAModel` (power); Izmailov et al. 2018 (mean).

use crate::error::require_valid;
use crate::{Error, Params, Result};
use candle_core::{DType, Tensor};
use limpid_config::{Check, Validate};
use limpid_kernels::step::Updates;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How the weights are averaged. With decay d, `average = d·average + (1 - d)·weights` after every
/// step; t counts these updates from 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EmaConfig {
    /// The same decay always.
    Constant {
        /// Decay per step.
        #[serde(default = "decay_999")]
        decay: f64,
    },
    /// Decay `(1 + t) / (10 + t)` until it reaches its limit, so that the first weights are soon
    /// forgotten.
    Warmup {
        /// Largest decay per step.
        #[serde(default = "decay_9999")]
        decay: f64,
    },
    /// Decay `1 - (1 + (t - 1) / inv_gamma)^-power` until it reaches its limit.
    Power {
        /// Exponent: 2/3 for a million steps and more, 3/4 for fewer.
        #[serde(default = "three_quarters")]
        power: f64,
        /// Steps that count as one.
        #[serde(default = "one")]
        inv_gamma: f64,
        /// Largest decay per step.
        #[serde(default = "decay_9999")]
        decay: f64,
    },
    /// The mean of the weights after all steps and before the first.
    Mean {},
}

fn decay_999() -> f64 {
    0.999
}

fn decay_9999() -> f64 {
    0.9999
}

fn three_quarters() -> f64 {
    0.75
}

fn one() -> f64 {
    1.0
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self::Warmup { decay: decay_9999() }
    }
}

impl EmaConfig {
    /// Decay of update `t`, counted from 1.
    #[must_use]
    pub fn decay(&self, t: u64) -> f64 {
        let n = t as f64;
        match *self {
            Self::Constant { decay } => decay,
            Self::Warmup { decay } => decay.min((1.0 + n) / (10.0 + n)),
            Self::Power { power, inv_gamma, decay } => {
                decay.min(1.0 - (1.0 + (n - 1.0).max(0.0) / inv_gamma).powf(-power))
            }
            Self::Mean {} => n / (n + 1.0),
        }
    }
}

impl Validate for EmaConfig {
    fn validate(&self, at: &mut Check) {
        if let Self::Constant { decay } | Self::Warmup { decay } | Self::Power { decay, .. } = self
            && !(0.0..1.0).contains(decay)
        {
            at.problem("decay", format!("must be in [0, 1), got {decay}"));
        }
        if let Self::Power { power, inv_gamma, .. } = self {
            for (key, value) in [("power", power), ("inv_gamma", inv_gamma)] {
                if !(value.is_finite() && *value > 0.0) {
                    at.problem(key, format!("must be above 0, got {value}"));
                }
            }
        }
    }
}

/// Averages of the trainable parameters of a network. Buffers such as running statistics are not
/// averaged: they stay those of the network.
#[derive(Debug)]
pub struct Ema {
    config: EmaConfig,
    updates: u64,
    averages: BTreeMap<String, Tensor>,
}

impl Ema {
    /// Begins with copies of the present values, in f32 or f64.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range.
    pub fn new(config: &EmaConfig, params: &Params) -> Result<Self> {
        require_valid("weight average", config)?;
        let mut averages = BTreeMap::new();
        for p in params.trainable() {
            averages.insert(p.name().to_owned(), wide(p.var())?.copy()?);
        }
        Ok(Self { config: config.clone(), updates: 0, averages })
    }

    /// Moves the averages towards the present values.
    ///
    /// # Errors
    /// [`Error::Argument`] if the network has other parameters than at the beginning.
    pub fn update(&mut self, params: &Params) -> Result<()> {
        let params = params.trainable();
        let known = params.iter().filter(|p| self.averages.contains_key(p.name())).count();
        if (known, params.len()) != (self.averages.len(), self.averages.len()) {
            let message = "the network has other parameters than when averaging began";
            return Err(Error::argument("weight average", message));
        }
        self.updates += 1;
        let decay = self.config.decay(self.updates);
        let mut updates = Updates::default();
        for p in &params {
            updates.ema_(&self.averages[p.name()], &wide(p.var())?, decay)?;
        }
        updates.run()
    }

    /// The averages by parameter name. They are not copies: the next update changes them.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.averages.clone()
    }

    /// What [`Self::load`] needs besides the tensors.
    #[must_use]
    pub fn state(&self) -> Value {
        json!({ "updates": self.updates })
    }

    /// Replaces the averages by copies of those that [`Self::tensors`] and [`Self::state`] gave.
    ///
    /// # Errors
    /// [`Error::Argument`] or [`Error::Shape`] if names or shapes differ, or the state is not one;
    /// nothing is changed then.
    pub fn load(&mut self, tensors: &BTreeMap<String, Tensor>, state: &Value) -> Result<()> {
        let op = "load weight average";
        let updates = state.get("updates").and_then(Value::as_u64).ok_or_else(|| {
            Error::argument(op, format!("expected a state with `updates`, got {state}"))
        })?;
        if let Some(name) = tensors.keys().find(|name| !self.averages.contains_key(*name)) {
            return Err(Error::argument(op, format!("`{name}` is no parameter")));
        }
        let mut averages = BTreeMap::new();
        for (name, average) in &self.averages {
            let Some(tensor) = tensors.get(name) else {
                return Err(Error::argument(op, format!("`{name}` is missing")));
            };
            if tensor.dims() != average.dims() {
                let expected = format!("{:?} for `{name}`", average.dims());
                return Err(Error::shape(op, expected, tensor.dims()));
            }
            let tensor = tensor.detach().to_dtype(average.dtype())?.to_device(average.device())?;
            let tensor = tensor.contiguous()?.copy()?;
            averages.insert(name.clone(), tensor);
        }
        (self.averages, self.updates) = (averages, updates);
        Ok(())
    }
}

/// The value in the precision of its average.
fn wide(tensor: &Tensor) -> Result<Tensor> {
    let dtype = if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(tensor.detach().to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use crate::golden::{difference, load};
    use candle_core::Device;
    use limpid_kernels::rng::Stream;

    /// A network of one parameter `w`, and a buffer.
    fn network(first: &Tensor) -> Params {
        let params = Params::new();
        let scope = params.scope(Stream::new(1, "init"), first.dtype(), &Device::Cpu);
        scope.param("w", first.dims(), Init::Zeros).unwrap().set(first).unwrap();
        scope.buffer("running_mean", &[1], Init::Zeros).unwrap();
        params
    }

    #[test]
    fn every_decay_follows_the_reference() {
        let Some(fixture) = load("engine/ema.safetensors") else { return };
        let path = &fixture["traj"];
        let cases = [
            ("const_0.9", EmaConfig::Constant { decay: 0.9 }),
            ("const_0.99", EmaConfig::Constant { decay: 0.99 }),
            ("tf_warmup_0.9999", EmaConfig::default()),
            (
                "diffusers_power_0.75",
                EmaConfig::Power { power: 0.75, inv_gamma: 1.0, decay: 0.9999 },
            ),
            ("swa_mean", EmaConfig::Mean {}),
        ];
        for (name, config) in cases {
            let params = network(&path.get(0).unwrap());
            let mut ema = Ema::new(&config, &params).unwrap();
            for i in 0..path.dim(0).unwrap() {
                if i > 0 {
                    params.get("w").unwrap().set(&path.get(i).unwrap()).unwrap();
                    ema.update(&params).unwrap();
                }
                let error = difference(&ema.tensors()["w"], &fixture[name].get(i).unwrap());
                assert!(error < 1e-6, "{name} at {i}: off by {error:e}");
                if i == 20 {
                    let (tensors, state) = (ema.tensors(), ema.state());
                    ema = Ema::new(&config, &params).unwrap();
                    ema.load(&tensors, &state).unwrap();
                }
            }
            assert_eq!(ema.tensors().len(), 1);
        }
    }

    #[test]
    fn averages_are_apart_from_the_weights_and_checked_when_loaded() {
        let two = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let params = network(&two);
        let mut ema = Ema::new(&EmaConfig::Constant { decay: 0.5 }, &params).unwrap();
        params.get("w").unwrap().set(&(&two + 2.0).unwrap()).unwrap();
        assert_eq!(difference(&ema.tensors()["w"], &two), 0.0);
        let state = ema.state();
        let short = BTreeMap::from([("w".to_owned(), Tensor::new(&[1f32], &Device::Cpu).unwrap())]);
        let error = ema.load(&short, &state).unwrap_err().to_string();
        assert_eq!(error, "load weight average: expected [2] for `w`, got [1]");
        assert!(ema.load(&BTreeMap::new(), &state).unwrap_err().to_string().contains("is missing"));
        assert!(ema.load(&ema.tensors(), &Value::Null).is_err());
        ema.update(&params).unwrap();
        assert_eq!(difference(&ema.tensors()["w"], &(two + 1.0).unwrap()), 0.0);
        let one = Ema::new(&EmaConfig::Constant { decay: 1.0 }, &params).unwrap_err().to_string();
        assert_eq!(one, "weight average: `decay` must be in [0, 1), got 1");
    }
}
