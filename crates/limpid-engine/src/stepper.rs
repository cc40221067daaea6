//! The hand that a model is given to step its optimizers with.

use crate::config::{ClipConfig, TrainConfig};
use crate::state::Group;
use crate::{Communicator, Error, Logs, Result, SampleId};
use candle_core::{DType, Device, Tensor};
use limpid_kernels::autograd;
use limpid_kernels::step::{Gate, Judgement, Look};
use limpid_nn::Ctx;
use limpid_nn::optim::clip_grad_value;
use std::collections::BTreeMap;

/// Loss scale at which a gradient that is not finite is no longer the scale's doing, and how many
/// steps in a row may be left out before.
const LEAST_SCALE: f64 = 1e-4;
const OVERFLOW_LIMIT: u64 = 100;

/// Scales, differentiates, accumulates, unscales, checks, clips and steps: the same for one loss or
/// five.
///
/// Nothing of this waits for a GPU: whether a step may be made is judged where the gradients are, and a bad one changes
/// nothing. What was found is read once, after the model's step.
pub struct Stepper<'a> {
    groups: &'a mut [Group],
    ctx: &'a Ctx,
    accumulate: u64,
    /// Whether this batch completes an optimizer step.
    pub(crate) boundary: bool,
    clip: Option<ClipConfig>,
    pub(crate) step: u64,
    pub(crate) communicator: Option<&'a dyn Communicator>,
    /// Loss scales of the groups that have one.
    scales: &'a [Option<Tensor>],
    mode: Mode,
    /// What was minimised, in order.
    found: Vec<Found>,
    /// What is to be logged: scalars.
    logs: Vec<(String, Tensor)>,
    /// What the next step depends on: the last one of this batch.
    gate: Option<Gate>,
}

/// What a stepper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything.
    Step,
    /// Only the gradients are found; the steps follow by [`Stepper::make_steps`].
    Gradients,
    /// Nothing: the passes of a step are only watched.
    Rehearsal,
}

/// What one loss has led to; all of it may still be on a GPU.
#[derive(Clone)]
struct Found {
    group: usize,
    loss: Tensor,
    /// By name of the parameter.
    gradients: BTreeMap<String, Tensor>,
    names: Vec<String>,
    /// At the gradients, then the loss.
    look: Look,
    /// Whether the optimizer has stepped, if the gate was open.
    stepped: bool,
}

/// What a batch has led to.
#[derive(Clone)]
pub(crate) struct BatchOutcome {
    found: Vec<Found>,
    logs: Vec<String>,
    /// For everything found the loss and what the look has found; then what is logged. In f64.
    numbers: Tensor,
}

impl<'a> Stepper<'a> {
    pub(crate) fn new(
        groups: &'a mut [Group],
        config: &TrainConfig,
        ctx: &'a Ctx,
        scales: &'a [Option<Tensor>],
        mode: Mode,
    ) -> Self {
        Self {
            groups,
            ctx,
            accumulate: config.accumulate,
            boundary: true,
            clip: config.clip,
            step: 0,
            communicator: None,
            scales,
            mode,
            found: Vec::new(),
            logs: Vec::new(),
            gate: None,
        }
    }

    /// Context of the forward passes of this step: training mode and its random numbers.
    #[must_use]
    pub fn ctx(&self) -> &'a Ctx {
        self.ctx
    }

    /// Optimizer steps done before this one.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Logs a scalar of this step. Its value is read after the step.
    pub fn log(&mut self, name: &str, value: &Tensor) {
        self.logs.push((name.to_owned(), value.detach()));
    }

    /// Differentiates a scalar loss and steps the named optimizer. After it returns, that
    /// optimizer's parameters have changed (at an accumulation boundary); no other parameter has.
    ///
    /// A loss or a gradient that is not finite changes nothing, and later steps of the batch neither; the trainer then
    /// deals with it.
    ///
    /// # Errors
    /// [`Error::UnknownOptimizer`]; [`Error::Tensor`] if the loss is no scalar; those of the operations.
    pub fn minimise(&mut self, name: &str, loss: &Tensor) -> Result<()> {
        let Some(index) = self.groups.iter().position(|g| g.name == name) else {
            let have = self.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownOptimizer { name: name.to_owned(), have });
        };
        scalar(name, loss)?;
        if self.mode == Mode::Rehearsal {
            return Ok(());
        }
        let scaled = match &self.scales[index] {
            Some(scale) => (loss * scale.to_dtype(loss.dtype())?)?,
            None if self.accumulate == 1 => loss.clone(),
            None => (loss * (1.0 / self.accumulate as f64))?,
        };
        let mut store = autograd::backward(&scaled)?;
        let group = &mut self.groups[index];
        let mut gradients = std::mem::take(&mut group.gradients);
        for p in &group.params {
            let Some(g) = store.remove(p.var()) else { continue };
            let sum = match gradients.remove(p.name()) {
                Some(before) => (before + g)?,
                None => g.detach(),
            };
            gradients.insert(p.name().to_owned(), sum);
        }
        drop(store);
        let mut loss = loss.detach();
        if let Some(communicator) = self.communicator.filter(|_| self.boundary) {
            // the loss too: one that is not finite for a member is so for all
            let mut all: Vec<_> = gradients.values_mut().chain([&mut loss]).collect();
            communicator.mean(&mut all)?;
        }
        // now, not at the boundary: the batch at fault is the one whose samples are at hand
        let look = Look::at(&gradients.values().chain([&loss]).collect::<Vec<_>>())?;
        let names = gradients.keys().cloned().collect();
        self.found.push(Found { group: index, loss, gradients, names, look, stepped: false });
        if self.mode == Mode::Gradients { Ok(()) } else { self.make_step(self.found.len() - 1) }
    }

    /// Makes the steps of what was found before, where nothing is left to compute.
    pub(crate) fn make_steps(&mut self, outcome: &mut BatchOutcome) -> Result<()> {
        self.found = std::mem::take(&mut outcome.found);
        let made = (0..self.found.len()).try_for_each(|i| self.make_step(i));
        outcome.found = std::mem::take(&mut self.found);
        made
    }

    /// Makes the step of what was found, or keeps its gradients for the next batch.
    fn make_step(&mut self, found: usize) -> Result<()> {
        let found = &mut self.found[found];
        let group = &mut self.groups[found.group];
        if !self.boundary {
            group.gradients = std::mem::take(&mut found.gradients);
            return Ok(());
        }
        if group.overflow.is_some() {
            return Ok(()); // an earlier batch of this step was bad
        }
        let scale = group.scaler.as_ref().map_or(1.0, |s| s.scale());
        let max_norm = match self.clip {
            Some(ClipConfig::Norm { max }) => Some(max),
            _ => None,
        };
        // where losses are scaled, those of others may be good
        let after = if group.scaler.is_some() { None } else { self.gate.as_ref() };
        let count = found.gradients.len();
        let judgement = Judgement { gradients: count, scale, max_norm, after };
        let gate = Gate::new(&found.look, judgement)?;
        let mut gradients = found.gradients.clone();
        if scale != 1.0 || max_norm.is_some() {
            let scaled = gate.scaled(&gradients.values().collect::<Vec<_>>())?;
            gradients.values_mut().zip(scaled).for_each(|(g, scaled)| *g = scaled);
        }
        if let Some(ClipConfig::Value { max }) = self.clip {
            clip_grad_value(&mut gradients, max)?;
        }
        let params: Vec<_> =
            group.params.iter().map(|p| (p.name().to_owned(), p.var().clone())).collect();
        group.optimizer.step_behind(&gate, &params, &gradients, group.lr)?;
        found.stepped = true;
        self.gate = Some(gate);
        Ok(())
    }

    /// What the batch has led to, on its way from the device.
    pub(crate) fn outcome(self) -> Result<BatchOutcome> {
        let mut numbers = Vec::new();
        let flat = |t: &Tensor| t.detach().to_dtype(DType::F64)?.flatten_all();
        for found in &self.found {
            numbers.push(flat(&found.loss)?);
            numbers.push(found.look.sums().flatten_all()?);
        }
        let device = numbers.first().map(|t| t.device().clone());
        let mut logs = Vec::with_capacity(self.logs.len());
        for (name, value) in self.logs {
            scalar(&name, &value)?;
            let value = flat(&value)?;
            numbers.push(match &device {
                Some(device) => value.to_device(device)?,
                None => value,
            });
            logs.push(name);
        }
        let numbers = match numbers.as_slice() {
            [] => Tensor::zeros(0, DType::F64, &Device::Cpu)?,
            all => Tensor::cat(all, 0)?,
        };
        Ok(BatchOutcome { found: self.found, logs, numbers })
    }
}

/// Checks that a loss, or what is logged, is one number.
fn scalar(name: &str, value: &Tensor) -> Result<()> {
    if value.elem_count() == 1 {
        return Ok(());
    }
    let expected = format!("one number for `{name}`");
    Err(limpid_kernels::Error::shape("training step", expected, value.dims()).into())
}

/// What has to be known to read an outcome.
pub(crate) struct Reading<'a> {
    pub groups: &'a mut [Group],
    pub boundary: bool,
    /// Whether the norms of gradients are logged.
    pub norms: bool,
    pub step: u64,
    pub ids: &'a [SampleId],
}

impl Reading<'_> {
    /// Waits for the numbers of a batch, and draws the consequences: what is logged.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the loss (and a parameter that was not finite before it), or the parameter whose
    /// gradient is not finite; [`Error::Setting`] if gradients stay so however small the loss scale.
    pub(crate) fn read(mut self, outcome: &BatchOutcome) -> Result<Logs> {
        let numbers = outcome.numbers.to_vec1::<f64>()?;
        let mut rest = numbers.as_slice();
        let mut logs = Logs::new();
        for (i, found) in outcome.found.iter().enumerate() {
            let (own, after) = rest.split_at(3 + 2 * found.names.len());
            rest = after;
            if let Err(e) = self.consequences(found, own, &mut logs) {
                for (j, other) in outcome.found.iter().enumerate().skip(i) {
                    let group = &mut self.groups[other.group];
                    // later steps depended on this one, unless losses are scaled
                    if other.stepped && (j == i || group.scaler.is_none()) {
                        group.optimizer.take_back();
                    }
                }
                return Err(e);
            }
        }
        logs.extend(outcome.logs.iter().cloned().zip(rest.iter().copied()));
        Ok(logs)
    }

    /// Of one loss: its value, then for all gradients and the loss the sum of squares and whether it is bad.
    fn consequences(&mut self, found: &Found, numbers: &[f64], logs: &mut Logs) -> Result<()> {
        let (loss, sums) = (numbers[0], numbers[1..].as_chunks::<2>().0);
        let (sums, _) = sums.split_at(sums.len() - 1);
        if !loss.is_finite() {
            let name = &self.groups[found.group].name;
            let cause = match nonfinite_parameter(self.groups)? {
                Some(parameter) => format!(", with parameter `{parameter}` not finite before"),
                None => String::new(),
            };
            return Err(self.nonfinite(format!("the loss of `{name}` ({loss}{cause})")));
        }
        let group = &mut self.groups[found.group];
        if let Some(at) = sums.iter().position(|[_, bad]| *bad > 0.0) {
            let parameter = found.names[at].clone();
            if group.scaler.is_none() {
                return Err(self.nonfinite(format!("the gradient of `{parameter}`")));
            }
            group.overflow.get_or_insert(parameter);
        }
        if !self.boundary {
            return Ok(());
        }
        let mut scale = 1.0;
        if let Some(scaler) = &mut group.scaler {
            scale = scaler.scale();
            let overflow = group.overflow.take();
            scaler.update(overflow.is_some());
            if let Some(parameter) = overflow {
                if found.stepped {
                    group.optimizer.take_back();
                }
                group.overflows += 1;
                if scale <= LEAST_SCALE || group.overflows >= OVERFLOW_LIMIT {
                    return Err(self.overflow(&parameter, scale));
                }
                return Ok(());
            }
            group.overflows = 0;
        }
        if self.norms {
            let squares = sums.iter().fold(0.0, |sum, [squares, _]| sum + squares);
            logs.insert(format!("grad_norm/{}", group.name), squares.sqrt() / scale);
        }
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
