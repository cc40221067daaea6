//! The update rules, with the operations of PyTorch's single-tensor code in its order and precision:
//! tensors in their own dtype, scalars in f64.
//!
//! Source: `torch/optim/*.py`; Kingma and Ba 2015 (Adam, Adamax), Loshchilov and Hutter 2019 (AdamW),
//! Reddi et al. 2018 (AMSGrad), Dozat 2016 (NAdam), Liu et al. 2020 (RAdam), Duchi et al. 2011
//! (Adagrad).

use super::config::OptimizerConfig;
use crate::Result;
use candle_core::Tensor;
use limpid_kernels::step::{AdamStep, Updates};
use std::collections::BTreeMap;

/// What an optimizer keeps for one parameter.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Steps this parameter has made.
    pub step: u64,
    /// NAdam's product of momenta.
    pub mu_product: f64,
    /// Tensors of the parameter's shape and dtype.
    pub slots: BTreeMap<&'static str, Tensor>,
}

impl Default for State {
    fn default() -> Self {
        Self { step: 0, mu_product: 1.0, slots: BTreeMap::new() }
    }
}

impl State {
    /// The tensor of a slot, at first filled with `value`, on the device of the parameter.
    fn slot(&mut self, name: &'static str, like: &Tensor, value: f64) -> Result<Tensor> {
        let tensor = match self.slots.get(name) {
            Some(tensor) if tensor.device().same_device(like.device()) => return Ok(tensor.clone()),
            // as it was read from a file
            Some(tensor) => tensor.to_device(like.device())?,
            None if value == 0.0 => like.detach().zeros_like()?,
            None => (like.detach().zeros_like()? + value)?,
        };
        self.slots.insert(name, tensor.clone());
        Ok(tensor)
    }

    fn zeros(&mut self, name: &'static str, like: &Tensor) -> Result<Tensor> {
        self.slot(name, like, 0.0)
    }
}

/// Moves the parameter `p` against its gradient `g` (same shape and dtype, contiguous), at the
/// latest when the updates run.
pub(super) fn update(
    config: &OptimizerConfig,
    p: &Tensor,
    g: &Tensor,
    lr: f64,
    weight_decay: f64,
    state: &mut State,
    updates: &mut Updates,
) -> Result<()> {
    state.step += 1;
    let t = state.step as f64;
    let mut g = g.clone();
    if weight_decay != 0.0 {
        if config.decoupled() {
            updates.scale_(p, 1.0 - lr * weight_decay)?;
        } else {
            let sum = g.zeros_like()?;
            updates.axpby_(&sum, 0.0, &g, 1.0)?;
            updates.axpy_(&sum, p, weight_decay)?;
            g = sum;
        }
    }
    let g = &g;
    match config {
        OptimizerConfig::Sgd(c) => {
            if c.momentum == 0.0 {
                return updates.axpy_(p, g, -lr);
            }
            let first = !state.slots.contains_key("momentum_buffer");
            let buffer = state.zeros("momentum_buffer", p)?;
            updates.axpby_(&buffer, c.momentum, g, if first { 1.0 } else { 1.0 - c.dampening })?;
            if c.nesterov {
                updates.axpy_(p, g, -lr)?;
                updates.axpy_(p, &buffer, -lr * c.momentum)
            } else {
                updates.axpy_(p, &buffer, -lr)
            }
        }
        OptimizerConfig::Adam(c) => adam(p, g, lr, c.betas, c.eps, c.amsgrad, state, updates),
        OptimizerConfig::Adamw(c) => adam(p, g, lr, c.betas, c.eps, c.amsgrad, state, updates),
        OptimizerConfig::Nadam(c) => {
            let (m, v) = moments(p, g, c.betas, state, updates)?;
            let momentum = |t: f64| c.betas[0] * (1.0 - 0.5 * 0.96f64.powf(t * c.momentum_decay));
            let (mu, mu_next) = (momentum(t), momentum(t + 1.0));
            state.mu_product *= mu;
            let bias2_sqrt = (1.0 - c.betas[1].powf(t)).sqrt();
            let now = lr * (1.0 - mu) / (1.0 - state.mu_product);
            let next = lr * mu_next / (1.0 - state.mu_product * mu_next);
            updates.adam_update_(p, g, &v, now, bias2_sqrt, c.eps)?;
            updates.adam_update_(p, &m, &v, next, bias2_sqrt, c.eps)
        }
        OptimizerConfig::Radam(c) => {
            let (m, v) = moments(p, g, c.betas, state, updates)?;
            let decay2 = c.betas[1].powf(t);
            let (bias1, bias2) = (1.0 - c.betas[0].powf(t), 1.0 - decay2);
            let rho_inf = 2.0 / (1.0 - c.betas[1]) - 1.0;
            let rho = rho_inf - 2.0 * t * decay2 / bias2;
            if rho <= 5.0 {
                return updates.axpy_(p, &m, -lr / bias1);
            }
            let rectification = ((rho - 4.0) * (rho - 2.0) * rho_inf
                / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
                .sqrt();
            updates.adam_update_(p, &m, &v, lr / bias1 * bias2.sqrt() * rectification, 1.0, c.eps)
        }
        OptimizerConfig::Rmsprop(c) => {
            let mut square = state.zeros("square_avg", p)?;
            updates.ema_sq_(&square, g, c.alpha)?;
            if c.centered {
                let mean = state.zeros("grad_avg", p)?;
                updates.ema_(&mean, g, c.alpha)?;
                let variance = square.zeros_like()?;
                updates.axpby_(&variance, 0.0, &square, 1.0)?;
                updates.axpby_sq_(&variance, 1.0, &mean, -1.0)?;
                // rounding may leave a variance just below zero
                updates.max_(&variance, &variance.zeros_like()?)?;
                square = variance;
            }
            if c.momentum > 0.0 {
                let buffer = state.zeros("momentum_buffer", p)?;
                updates.scale_(&buffer, c.momentum)?;
                updates.adam_update_(&buffer, g, &square, -1.0, 1.0, c.eps)?;
                updates.axpy_(p, &buffer, -lr)
            } else {
                updates.adam_update_(p, g, &square, lr, 1.0, c.eps)
            }
        }
        OptimizerConfig::Adamax(c) => {
            let (m, largest) = (state.zeros("exp_avg", p)?, state.zeros("exp_inf", p)?);
            updates.ema_(&m, g, c.betas[0])?;
            updates.max_abs_(&largest, c.betas[1], g, c.eps)?;
            updates.div_update_(p, &m, &largest, lr / (1.0 - c.betas[0].powf(t)))
        }
        OptimizerConfig::Adagrad(c) => {
            let sum = state.slot("sum", p, c.initial_accumulator_value)?;
            updates.axpby_sq_(&sum, 1.0, g, 1.0)?;
            updates.adam_update_(p, g, &sum, lr / (1.0 + (t - 1.0) * c.lr_decay), 1.0, c.eps)
        }
    }
}

fn adam(
    p: &Tensor,
    g: &Tensor,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    amsgrad: bool,
    state: &mut State,
    updates: &mut Updates,
) -> Result<()> {
    let t = state.step as f64;
    let (bias1, bias2) = (1.0 - betas[0].powf(t), 1.0 - betas[1].powf(t));
    let (lr, bias2_sqrt) = (lr / bias1, bias2.sqrt());
    if amsgrad {
        let (m, v) = moments(p, g, betas, state, updates)?;
        let largest = state.zeros("max_exp_avg_sq", p)?;
        updates.max_(&largest, &v)?;
        return updates.adam_update_(p, &m, &largest, lr, bias2_sqrt, eps);
    }
    let (m, v) = (state.zeros("exp_avg", p)?, state.zeros("exp_avg_sq", p)?);
    updates.adam_(p, &m, &v, g, AdamStep { betas, lr, bias2_sqrt, eps })
}

/// The averages of the gradient and of its square, brought up to date.
fn moments(
    p: &Tensor,
    g: &Tensor,
    betas: [f64; 2],
    state: &mut State,
    updates: &mut Updates,
) -> Result<(Tensor, Tensor)> {
    let (m, v) = (state.zeros("exp_avg", p)?, state.zeros("exp_avg_sq", p)?);
    updates.ema_(&m, g, betas[0])?;
    updates.ema_sq_(&v, g, betas[1])?;
    Ok((m, v))
}
