//! The step of a training, as the engine's `Stepper` does it.

use candle_core::{DType, Tensor, Var};
use limpid_kernels::autograd::{Gradients, backward};
use limpid_nn::optim::{Adam, Optimizer, OptimizerConfig, survey};
use limpid_nn::{Error, Params, Result};
use std::collections::BTreeMap;

const RATE: f64 = 1e-4;

/// The gradients of a loss. Nothing else here knows how they come about.
pub(crate) fn gradients(loss: &Tensor) -> Result<Gradients> {
    backward(loss)
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

    pub(crate) fn minimise(&mut self, loss: &Tensor) -> Result<()> {
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return Err(Error::argument("bench", format!("the loss is {value}")));
        }
        let mut store = gradients(loss)?;
        let gradient = |(name, var): &(String, Var)| Some((name.clone(), store.remove(var)?));
        let found: BTreeMap<String, Tensor> = self.vars.iter().filter_map(gradient).collect();
        drop(store);
        if let Some(name) = survey(&found)?.nonfinite {
            return Err(Error::argument(
                "bench",
                format!("the gradient of `{name}` is not finite"),
            ));
        }
        self.optimizer.step(&self.vars, &found, RATE)
    }
}
