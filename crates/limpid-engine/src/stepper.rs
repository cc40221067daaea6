//! The hand that a model is given to step its optimizers with.

use crate::config::ClipConfig;
use crate::state::Group;
use crate::{Error, Logs, Result, SampleId};
use candle_core::{DType, Tensor};
use limpid_kernels::autograd;
use limpid_nn::Ctx;
use limpid_nn::optim::{clip_grad_norm, clip_grad_value, survey};

/// Loss scale at which a gradient that is not finite is no longer the scale's doing, and how many
/// steps in a row may be left out before.
const LEAST_SCALE: f64 = 1e-4;
const OVERFLOW_LIMIT: u64 = 100;

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
    /// Whether to leave everything as it is: the passes of a step are only watched.
    pub(crate) rehearsal: bool,
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
    /// [`Error::UnknownOptimizer`]; [`Error::NonFinite`] naming the loss (and a parameter that was
    /// not finite before it), or the parameter whose gradient is not finite; [`Error::Setting`] if
    /// gradients stay so however small the loss scale.
    pub fn minimise(&mut self, name: &str, loss: &Tensor) -> Result<()> {
        let Some(index) = self.groups.iter().position(|g| g.name == name) else {
            let have = self.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownOptimizer { name: name.to_owned(), have });
        };
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if self.rehearsal && value.is_finite() {
            return Ok(());
        }
        if !value.is_finite() {
            let cause = match nonfinite_parameter(self.groups)? {
                Some(parameter) => format!(", with parameter `{parameter}` not finite before"),
                None => String::new(),
            };
            return Err(self.nonfinite(format!("the loss of `{name}` ({value}{cause})")));
        }
        let group = &mut self.groups[index];
        let scale = group.scaler.as_ref().map_or(1.0, |s| s.scale()) / self.accumulate as f64;
        let scaled = if scale == 1.0 { loss.clone() } else { (loss * scale)? };
        let mut store = autograd::backward(&scaled)?;
        for p in &group.params {
            let Some(g) = store.remove(p.var()) else { continue };
            let sum = match group.gradients.remove(p.name()) {
                Some(before) => (before + g)?,
                None => g,
            };
            group.gradients.insert(p.name().to_owned(), sum);
        }
        drop(store);
        // now, not at the boundary: the batch at fault is the one whose samples are at hand
        let mut norm = None;
        if group.overflow.is_none() {
            let found = survey(&group.gradients)?;
            norm = found.norm;
            if let Some(parameter) = found.nonfinite {
                if group.scaler.is_none() {
                    return Err(self.nonfinite(format!("the gradient of `{parameter}`")));
                }
                group.overflow = Some(parameter);
            }
        }
        if !self.boundary {
            return Ok(());
        }
        let mut gradients = std::mem::take(&mut group.gradients);
        if let Some(scaler) = &mut group.scaler {
            let scale = scaler.scale();
            let overflow = group.overflow.take();
            scaler.update(overflow.is_some());
            if let Some(parameter) = overflow {
                group.overflows += 1;
                if scale <= LEAST_SCALE || group.overflows >= OVERFLOW_LIMIT {
                    return Err(self.overflow(&parameter, scale));
                }
                return Ok(());
            }
            group.overflows = 0;
            if scale != 1.0 {
                for g in gradients.values_mut() {
                    *g = (&*g * (1.0 / scale))?;
                }
                norm = norm.map(|norm| norm / scale);
            }
        }
        let group = &mut self.groups[index];
        match self.clip {
            Some(ClipConfig::Norm { max }) => {
                let norm = clip_grad_norm(&mut gradients, max, norm)?;
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
        Error::NonFinite { what, step: self.step, place: self.samples() }
    }

    fn overflow(&self, parameter: &str, scale: f64) -> Error {
        let (step, samples) = (self.step, self.samples());
        Error::Setting {
            message: format!(
                "the gradient of `{parameter}` is still not finite at step {step}, with the loss scale down to {scale:e}: {samples}"
            ),
            hint: "it is not the scale that overflows: train in f32, clip gradients or lower the learning rate".into(),
        }
    }

    fn samples(&self) -> String {
        self.ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// The first parameter of the groups that is not finite.
fn nonfinite_parameter(groups: &[Group]) -> Result<Option<&str>> {
    let params: Vec<_> = groups.iter().flat_map(|g| &g.params).collect();
    let values: Vec<Tensor> = params.iter().map(|p| p.var().as_detached_tensor()).collect();
    let found = limpid_kernels::step::first_nonfinite(&values.iter().collect::<Vec<_>>())?;
    Ok(found.map(|i| params[i].name()))
}
