//! The hand that a model is given to step its optimizers with.

use crate::config::ClipConfig;
use crate::state::Group;
use crate::{Error, Logs, Result, SampleId};
use candle_core::{DType, Tensor};
use limpid_nn::Ctx;
use limpid_nn::optim::{all_finite, clip_grad_norm, clip_grad_value};

/// Scales, differentiates, accumulates, unscales, checks, clips and steps: the same for one loss or
/// five.
pub struct Stepper<'a> {
    pub(crate) groups: &'a mut [Group],
    pub(crate) ctx: Ctx,
    pub(crate) accumulate: u64,
    /// Whether this batch completes an optimizer step.
    pub(crate) boundary: bool,
    pub(crate) clip: Option<ClipConfig>,
    pub(crate) step: u64,
    pub(crate) ids: &'a [SampleId],
    pub(crate) logs: Logs,
}

impl Stepper<'_> {
    /// Context of the forward passes of this step: training mode and its random numbers.
    #[must_use]
    pub fn ctx(&self) -> &Ctx {
        &self.ctx
    }

    /// Optimizer steps done before this one.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Differentiates a scalar loss and steps the named optimizer. After it returns, that
    /// optimizer's parameters have changed (at an accumulation boundary); no other parameter has.
    ///
    /// # Errors
    /// [`Error::UnknownOptimizer`]; [`Error::NonFinite`] naming the loss, or the parameter whose
    /// gradient is not finite.
    pub fn minimise(&mut self, name: &str, loss: &Tensor) -> Result<()> {
        let Some(index) = self.groups.iter().position(|g| g.name == name) else {
            let have = self.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownOptimizer { name: name.to_owned(), have });
        };
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return Err(self.nonfinite(format!("the loss of `{name}` ({value})")));
        }
        let group = &mut self.groups[index];
        let scale = group.scaler.as_ref().map_or(1.0, |s| s.scale()) / self.accumulate as f64;
        let scaled = if scale == 1.0 { loss.clone() } else { (loss * scale)? };
        let mut store = scaled.backward()?;
        for p in &group.params {
            let Some(g) = store.remove(p.var()) else { continue };
            let sum = match group.gradients.remove(p.name()) {
                Some(before) => (before + g)?,
                None => g,
            };
            group.gradients.insert(p.name().to_owned(), sum);
        }
        drop(store);
        if !self.boundary {
            return Ok(());
        }
        let mut gradients = std::mem::take(&mut group.gradients);
        let scaler_scale = group.scaler.as_ref().map(|s| s.scale());
        if let Some(scale) = scaler_scale.filter(|s| *s != 1.0) {
            for g in gradients.values_mut() {
                *g = (&*g * (1.0 / scale))?;
            }
        }
        let bad = all_finite(&gradients)?;
        if let Some(scaler) = &mut group.scaler {
            scaler.update(bad.is_some());
            if bad.is_some() {
                return Ok(());
            }
        } else if let Some(parameter) = bad {
            return Err(self.nonfinite(format!("the gradient of `{parameter}`")));
        }
        let group = &mut self.groups[index];
        match self.clip {
            Some(ClipConfig::Norm { max }) => {
                let norm = clip_grad_norm(&mut gradients, max)?;
                self.logs.insert(format!("grad_norm/{name}"), norm);
            }
            Some(ClipConfig::Value { max }) => clip_grad_value(&mut gradients, max)?,
            None => {}
        }
        let params: Vec<_> =
            group.params.iter().map(|p| (p.name().to_owned(), p.var().clone())).collect();
        group.optimizer.step(&params, &gradients, group.lr)?;
        Ok(())
    }

    fn nonfinite(&self, what: String) -> Error {
        let samples = self.ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::NonFinite { what, step: self.step, place: samples }
    }
}
