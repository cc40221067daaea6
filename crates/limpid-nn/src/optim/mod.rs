//! Optimizers: PyTorch's rules, updated in place, with state by parameter name that saves and loads
//! exactly.

mod clip;
mod config;
mod rules;
#[cfg(test)]
mod tests;

pub use clip::{clip_grad_norm, clip_grad_value};
pub use config::{Adagrad, Adam, AdamW, Adamax, NAdam, OptimizerConfig, RAdam, RmsProp, Sgd};

use crate::error::require_valid;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use limpid_kernels::step::{Gate, Updates};
use rules::State;
use std::collections::{BTreeMap, BTreeSet};

/// Parameters that are moved differently from the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Names of the parameters.
    pub names: Vec<String>,
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Weight decay; none: the optimizer's.
    pub weight_decay: Option<f64>,
}

/// An optimizer with its state.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    groups: Vec<Group>,
    /// Group of each parameter that has one.
    group_of: BTreeMap<String, usize>,
    states: BTreeMap<String, State>,
    /// How far each parameter was before the last step behind a gate: its steps, its product of momenta, and
    /// whether it had slots.
    before: BTreeMap<String, (u64, f64, bool)>,
}

impl Optimizer {
    /// An optimizer that treats all parameters alike.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range.
    pub fn new(config: &OptimizerConfig) -> Result<Self> {
        Self::grouped(config, Vec::new())
    }

    /// An optimizer with parameter groups; parameters in no group follow the configuration.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range or a name is in two groups.
    pub fn grouped(config: &OptimizerConfig, groups: Vec<Group>) -> Result<Self> {
        require_valid("optimizer", config)?;
        let mut group_of = BTreeMap::new();
        for (i, group) in groups.iter().enumerate() {
            let decay = group.weight_decay.unwrap_or(0.0);
            for (what, value) in [("lr_scale", group.lr_scale), ("weight_decay", decay)] {
                if !(value.is_finite() && value >= 0.0) {
                    let message = format!("`{what}` of group {i} must be at least 0, got {value}");
                    return Err(Error::argument("optimizer", message));
                }
            }
            for name in &group.names {
                if group_of.insert(name.clone(), i).is_some() {
                    let message = format!("`{name}` is in two parameter groups");
                    return Err(Error::argument("optimizer", message));
                }
            }
        }
        Ok(Self {
            config: config.clone(),
            groups,
            group_of,
            states: BTreeMap::new(),
            before: BTreeMap::new(),
        })
    }

    /// Learning rate before any schedule.
    #[must_use]
    pub fn base_lr(&self) -> f64 {
        self.config.lr()
    }

    /// Tensors of a parameter's size that it keeps for each.
    #[must_use]
    pub fn tensors_per_parameter(&self) -> usize {
        let slots = self.config.slots();
        slots.iter().filter(|slot| !matches!(**slot, "step" | "mu_product")).count()
    }

    /// Moves the parameters that have a gradient, in place, with learning rate `lr` (times the
    /// `lr_scale` of a group). The others stay as they are, as does their state.
    ///
    /// Everything is checked before anything is changed.
    ///
    /// # Errors
    /// [`Error::Argument`] if a gradient or a group names no parameter, [`Error::Shape`] if a
    /// gradient or a loaded state does not fit its parameter.
    pub fn step(
        &mut self,
        params: &[(String, Var)],
        gradients: &BTreeMap<String, Tensor>,
        lr: f64,
    ) -> Result<()> {
        self.check(params, gradients)?;
        self.moved(params, gradients, lr, Updates::default())
    }

    /// As [`Self::step`], but if the gate is shut no tensor changes; that may be known only later, and then
    /// [`Self::take_back`] is to be called.
    ///
    /// # Errors
    /// As there.
    pub fn step_behind(
        &mut self,
        gate: &Gate,
        params: &[(String, Var)],
        gradients: &BTreeMap<String, Tensor>,
        lr: f64,
    ) -> Result<()> {
        self.check(params, gradients)?;
        self.before.clear();
        for name in gradients.keys() {
            let (step, mu_product, has_slots) = match self.states.get(name) {
                Some(state) => (state.step, state.mu_product, !state.slots.is_empty()),
                None => (0, 1.0, false),
            };
            self.before.insert(name.clone(), (step, mu_product, has_slots));
        }
        self.moved(params, gradients, lr, Updates::behind(gate)?)
    }

    /// Counts the last step behind a gate, which was shut, as not made.
    pub fn take_back(&mut self) {
        for (name, (step, mu_product, has_slots)) in std::mem::take(&mut self.before) {
            if !has_slots && step == 0 {
                self.states.remove(&name);
            } else if let Some(state) = self.states.get_mut(&name) {
                (state.step, state.mu_product) = (step, mu_product);
            }
        }
    }

    fn moved(
        &mut self,
        params: &[(String, Var)],
        gradients: &BTreeMap<String, Tensor>,
        lr: f64,
        mut updates: Updates,
    ) -> Result<()> {
        for (name, var) in params {
            let Some(g) = gradients.get(name) else { continue };
            let p = var.as_detached_tensor();
            let g = g.detach().to_dtype(p.dtype())?.contiguous()?;
            let group = self.group_of.get(name).map(|&i| &self.groups[i]);
            let lr = lr * group.map_or(1.0, |group| group.lr_scale);
            let decay = group.and_then(|group| group.weight_decay);
            let decay = decay.unwrap_or_else(|| self.config.weight_decay());
            let state = self.states.entry(name.clone()).or_default();
            rules::update(&self.config, &p, &g, lr, decay, state, &mut updates)?;
        }
        updates.run()
    }

    /// What a later [`Self::load_state`] needs to go on bit for bit: `{parameter}.{slot}` with
    /// PyTorch's slot names (`exp_avg`, `momentum_buffer`, …) and the number of steps as i64.
    ///
    /// The tensors are not copies: the next step changes them.
    ///
    /// # Errors
    /// Only if memory runs out.
    pub fn state_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut out = BTreeMap::new();
        for (name, state) in &self.states {
            for slot in self.config.slots() {
                let tensor = match slot {
                    "step" => Tensor::new(state.step as i64, &Device::Cpu)?,
                    "mu_product" => Tensor::new(state.mu_product, &Device::Cpu)?,
                    slot => match state.slots.get(slot) {
                        Some(tensor) => tensor.clone(),
                        None => continue,
                    },
                };
                out.insert(format!("{name}.{slot}"), tensor);
            }
        }
        Ok(out)
    }

    /// Replaces the state by copies of tensors from [`Self::state_tensors`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a slot that this optimizer does not have and for a parameter whose
    /// slots are not complete; the state is unchanged then.
    pub fn load_state(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let op = "load optimizer state";
        let slots = self.config.slots();
        let mut states = BTreeMap::<String, State>::new();
        let mut seen = BTreeSet::new();
        for (key, tensor) in tensors {
            let known = key.rsplit_once('.').and_then(|(name, slot)| {
                Some((name, *slots.iter().find(|known| **known == slot)?))
            });
            let Some((name, slot)) = known else {
                let have = if slots.is_empty() { "none".to_owned() } else { slots.join(", ") };
                let message =
                    format!("`{key}` is of another optimizer, this one's slots are: {have}");
                return Err(Error::argument(op, message));
            };
            let state = states.entry(name.to_owned()).or_default();
            match slot {
                "step" => {
                    let steps = scalar(key, tensor)?;
                    if !(steps >= 0.0 && steps.fract() == 0.0) {
                        let message = format!("`{key}` must be a number of steps, got {steps}");
                        return Err(Error::argument(op, message));
                    }
                    state.step = steps as u64;
                }
                "mu_product" => state.mu_product = scalar(key, tensor)?,
                slot => {
                    state.slots.insert(slot, tensor.detach().contiguous()?.copy()?);
                }
            }
            seen.insert((name, slot));
        }
        for name in states.keys() {
            if let Some(slot) = slots.iter().find(|slot| !seen.contains(&(name.as_str(), **slot))) {
                return Err(Error::argument(op, format!("`{name}.{slot}` is missing")));
            }
        }
        self.states = states;
        Ok(())
    }

    fn check(&self, params: &[(String, Var)], gradients: &BTreeMap<String, Tensor>) -> Result<()> {
        let op = "optimizer step";
        let by_name: BTreeMap<&String, &Var> = params.iter().map(|(n, v)| (n, v)).collect();
        if let Some(name) = self.group_of.keys().find(|name| !by_name.contains_key(name)) {
            let message = format!("the parameter group names `{name}`, which is no parameter");
            return Err(Error::argument(op, message));
        }
        for (name, g) in gradients {
            let Some(var) = by_name.get(name) else {
                let message = format!("there is a gradient for `{name}`, which is no parameter");
                return Err(Error::argument(op, message));
            };
            let wrong = |what: &str, expected: String, got: String| {
                Err(Error::Shape {
                    op,
                    expected: format!("{expected} for {what} of `{name}`"),
                    got,
                })
            };
            let dims = var.dims();
            if !matches!(var.dtype(), DType::F32 | DType::F64) || !var.is_contiguous() {
                return wrong(
                    "the value",
                    "contiguous f32 or f64".into(),
                    format!("{:?}", var.dtype()),
                );
            }
            if g.dims() != dims {
                return wrong("the gradient", format!("{dims:?}"), format!("{:?}", g.dims()));
            }
            let slots = self.states.get(name).map(|state| &state.slots);
            for (slot, tensor) in slots.into_iter().flatten() {
                if tensor.dims() != dims || tensor.dtype() != var.dtype() {
                    let expected = format!("{:?} {dims:?}", var.dtype());
                    let got = format!("{:?} {:?}", tensor.dtype(), tensor.dims());
                    return wrong(&format!("the state `{slot}`"), expected, got);
                }
            }
        }
        Ok(())
    }
}

fn scalar(key: &str, tensor: &Tensor) -> Result<f64> {
    if tensor.elem_count() != 1 {
        let expected = format!("one number in `{key}`");
        return Err(Error::shape("load optimizer state", expected, tensor.dims()));
    }
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?[0])
}
