//! The step of a training, as the engine's `Stepper` does it.

use candle_core::{Tensor, Var};
use limpid_kernels::autograd::{Gradients, backward};
use limpid_kernels::step::{Gate, Judgement, Look};
use limpid_nn::optim::{Adam, Optimizer, OptimizerConfig};
use limpid_nn::{Error, Params, Result};
use std::collections::BTreeMap;

const RATE: f64 = 1e-4;

/// The gradients of a loss. Nothing else here knows how they come about.
pub(crate) fn gradients(loss: &Tensor) -> Result<Gradients> {
    backward(loss)
}

/// What a loss leads to.
#[derive(Clone)]
pub(crate) struct Found {
    gradients: BTreeMap<String, Tensor>,
    look: Look,
}

/// Parameters and the optimizer that moves them.
pub(crate) struct Trained {
    pub(crate) params: Params,
    vars: Vec<(String, Var)>,
    optimizer: Optimizer,
}

impl Trained {
    pub(crate) fn new(params: Params) -> Result<Self> {
        let trainable = params.trainable();
        let vars = trainable.iter().map(|p| (p.name().to_owned(), p.var().clone())).collect();
        let optimizer = Optimizer::new(&OptimizerConfig::Adam(Adam::default()))?;
        Ok(Self { params, vars, optimizer })
    }

    /// As [`Trained::step`], with the gradients of a loss.
    pub(crate) fn minimise(&mut self, loss: &Tensor) -> Result<Gate> {
        let found = self.find(loss)?;
        self.step(&found)
    }

    /// The gradients of a loss, with a look at them.
    pub(crate) fn find(&self, loss: &Tensor) -> Result<Found> {
        let mut store = gradients(loss)?;
        let gradient = |(name, var): &(String, Var)| Some((name.clone(), store.remove(var)?));
        let gradients: BTreeMap<String, Tensor> = self.vars.iter().filter_map(gradient).collect();
        let loss = loss.detach();
        let look = Look::at(&gradients.values().chain([&loss]).collect::<Vec<_>>())?;
        Ok(Found { gradients, look })
    }

    /// Moves the parameters, if the gate that is returned is open.
    pub(crate) fn step(&mut self, Found { gradients, look }: &Found) -> Result<Gate> {
        let judgement =
            Judgement { gradients: gradients.len(), scale: 1.0, max_norm: None, after: None };
        let gate = Gate::new(look, judgement)?;
        self.optimizer.step_behind(&gate, &self.vars, gradients, RATE)?;
        Ok(gate)
    }
}

/// Whether steps were made: what a GPU is waited for once in each step of a training.
pub(crate) fn made(gates: &[Gate]) -> Result<()> {
    for gate in gates {
        if gate.read()?.1 {
            return Err(Error::argument("bench", "a loss or a gradient is not finite"));
        }
    }
    Ok(())
}
