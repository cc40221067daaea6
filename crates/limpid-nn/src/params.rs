//! The ordered, named parameter store, and the cursor with which networks define parameters.

use crate::{Error, Init, Result};
use candle_core::{DType, Device, Tensor, Var};
use limpid_kernels::rng::Stream;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A named tensor of a network: a trainable parameter, or a buffer such as a running mean.
#[derive(Clone, Debug)]
pub struct Param(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    var: Var,
    trainable: bool,
    frozen: AtomicBool,
    /// Shared with the store: while above zero no parameter of the store is tracked.
    untracked: Arc<AtomicUsize>,
}

impl Param {
    /// Full name, equal to the reference `state_dict` key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value for use in a forward pass: tracked by autograd unless it is a buffer, frozen, or
    /// the store is under [`Params::no_grad`].
    #[must_use]
    pub fn tensor(&self) -> Tensor {
        let tracked = self.0.trainable
            && !self.0.frozen.load(Ordering::Relaxed)
            && self.0.untracked.load(Ordering::Relaxed) == 0;
        if tracked { self.0.var.as_tensor().clone() } else { self.0.var.as_detached_tensor() }
    }

    /// [`Param::tensor`] in numbers of the type of another tensor, for candle's operations of both.
    ///
    /// # Errors
    /// Those of candle.
    pub fn like(&self, x: &Tensor) -> Result<Tensor> {
        limpid_kernels::cast(&self.tensor(), x.dtype())
    }

    /// The variable itself, for optimizers.
    #[must_use]
    pub fn var(&self) -> &Var {
        &self.0.var
    }

    /// Shape of the value.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.0.var.dims()
    }

    /// Whether an optimizer may change it (buffers are not trainable).
    #[must_use]
    pub fn trainable(&self) -> bool {
        self.0.trainable
    }

    /// Replaces the value, converting the dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape differs.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        if value.dims() != self.shape() {
            return Err(Error::Shape {
                op: "set parameter",
                expected: format!("{:?} for `{}`", self.shape(), self.name()),
                got: format!("{:?}", value.dims()),
            });
        }
        let value = value.to_dtype(self.0.var.dtype())?.to_device(self.0.var.device())?;
        Ok(self.0.var.set(&value.detach())?)
    }

    /// Freezes or unfreezes: a frozen parameter receives no gradient.
    pub fn freeze(&self, frozen: bool) {
        self.0.frozen.store(frozen, Ordering::Relaxed);
    }
}

/// Parameters and buffers in the order of their definition.
#[derive(Clone, Debug, Default)]
pub struct Params {
    entries: Arc<Mutex<Vec<Param>>>,
    untracked: Arc<AtomicUsize>,
}

/// While it lives, no parameter of its store is tracked by autograd.
#[derive(Debug)]
pub struct NoGrad(Arc<AtomicUsize>);

impl Drop for NoGrad {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Params {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The root cursor of a network defined into this store.
    ///
    /// Initial values are drawn from `stream` by parameter name, so they do not depend on the order
    /// of definition.
    #[must_use]
    pub fn scope(&self, stream: Stream, dtype: DType, device: &Device) -> Scope {
        let (params, device) = (self.clone(), device.clone());
        Scope { params, prefix: String::new(), stream, dtype, device, rule: None }
    }

    /// Parameters and buffers in order of definition.
    #[must_use]
    pub fn all(&self) -> Vec<Param> {
        self.lock().clone()
    }

    /// Trainable parameters in order of definition.
    #[must_use]
    pub fn trainable(&self) -> Vec<Param> {
        self.lock().iter().filter(|p| p.trainable()).cloned().collect()
    }

    /// The entry of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Param> {
        self.lock().iter().find(|p| p.name() == name).cloned()
    }

    /// Number of trainable scalars.
    #[must_use]
    pub fn count(&self) -> usize {
        self.trainable().iter().map(|p| p.shape().iter().product::<usize>()).sum()
    }

    /// Shapes by name, buffers included.
    #[must_use]
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.lock().iter().map(|p| (p.name().to_owned(), p.shape().to_vec())).collect()
    }

    /// Values by name, buffers included, detached from autograd.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.lock().iter().map(|p| (p.name().to_owned(), p.var().as_detached_tensor())).collect()
    }

    /// The entries whose name starts with `prefix`, as a store of its own sharing the values.
    #[must_use]
    pub fn subset(&self, prefix: &str) -> Self {
        let entries =
            self.lock().iter().filter(|p| p.name().starts_with(prefix)).cloned().collect();
        Self { entries: Arc::new(Mutex::new(entries)), untracked: self.untracked.clone() }
    }

    /// Freezes or unfreezes every parameter.
    pub fn freeze(&self, frozen: bool) {
        for p in self.lock().iter() {
            p.freeze(frozen);
        }
    }

    /// Stops gradient tracking until the guard is dropped, so that inference keeps no graph.
    #[must_use]
    pub fn no_grad(&self) -> NoGrad {
        self.untracked.fetch_add(1, Ordering::Relaxed);
        NoGrad(self.untracked.clone())
    }

    /// Overwrites entries by name; names that the store lacks are an error.
    ///
    /// # Errors
    /// [`Error::Argument`] for an unknown name, [`Error::Shape`] for a wrong shape. Entries before
    /// the bad one have been set.
    pub fn set(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, value) in values {
            let p = self.get(name).ok_or_else(|| {
                Error::argument("set parameters", format!("no parameter is named `{name}`"))
            })?;
            p.set(value)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Param>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the parameter tree; `pp` goes one level down, as `cd` does in a file system.
#[derive(Clone, Debug)]
pub struct Scope {
    params: Params,
    prefix: String,
    stream: Stream,
    dtype: DType,
    device: Device,
    rule: Option<InitRule>,
}

/// The initialiser of a trainable parameter from its name, its shape and the layer's own.
pub type InitRule = fn(&str, &[usize], Init) -> Init;

impl Scope {
    /// The scope with another initialisation of what is defined from here on, for references that
    /// go over a whole network after it is built (`net.apply(init)`). Buffers keep theirs.
    #[must_use]
    pub fn initialised(&self, rule: InitRule) -> Self {
        Self { rule: Some(rule), ..self.clone() }
    }

    /// The scope one level down.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.join(&name.to_string()), ..self.clone() }
    }

    /// Defines a trainable parameter.
    ///
    /// # Errors
    /// [`Error::Argument`] if the name is taken.
    pub fn param(&self, name: &str, shape: &[usize], init: Init) -> Result<Param> {
        self.define(name, shape, init, true)
    }

    /// Defines a buffer: saved with the weights, never touched by an optimizer.
    ///
    /// # Errors
    /// [`Error::Argument`] if the name is taken.
    pub fn buffer(&self, name: &str, shape: &[usize], init: Init) -> Result<Param> {
        self.define(name, shape, init, false)
    }

    /// Draws the initial value of an entry defined here again, from another distribution; for
    /// networks that initialise their layers in their own way.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no entry of that name.
    pub fn redraw(&self, name: &str, init: Init) -> Result<()> {
        let name = self.join(name);
        let Some(param) = self.params.get(&name) else {
            return Err(Error::argument("redraw", format!("no parameter is named `{name}`")));
        };
        let stream = self.stream.named(&name);
        param.set(&init.tensor(param.shape(), stream, self.dtype, &self.device)?)
    }

    /// The store being filled.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    fn define(&self, name: &str, shape: &[usize], init: Init, trainable: bool) -> Result<Param> {
        let name = self.join(name);
        let mut entries = self.params.lock();
        if entries.iter().any(|p| p.name() == name) {
            return Err(Error::argument("define parameter", format!("`{name}` is defined twice")));
        }
        let init = match self.rule {
            Some(rule) if trainable => rule(&name, shape, init),
            _ => init,
        };
        let value = init.tensor(shape, self.stream.named(&name), self.dtype, &self.device)?;
        let param = Param(Arc::new(Inner {
            name,
            var: Var::from_tensor(&value)?,
            trainable,
            frozen: AtomicBool::new(false),
            untracked: self.params.untracked.clone(),
        }));
        entries.push(param.clone());
        Ok(param)
    }

    fn join(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (Params, Param, Param) {
        let params = Params::new();
        let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu);
        let w =
            scope.pp("a").param("weight", &[2, 3], Init::Normal { mean: 0.0, std: 1.0 }).unwrap();
        let m = scope.pp("a").buffer("running_mean", &[2], Init::Zeros).unwrap();
        (params, w, m)
    }

    #[test]
    fn names_order_and_counts() {
        let (params, w, _) = store();
        assert_eq!(w.name(), "a.weight");
        let names: Vec<_> = params.all().iter().map(|p| p.name().to_owned()).collect();
        assert_eq!(names, ["a.weight", "a.running_mean"]);
        assert_eq!((params.count(), params.trainable().len()), (6, 1));
        assert_eq!(params.subset("a.run").all().len(), 1);
    }

    #[test]
    fn only_live_trainable_parameters_are_tracked() {
        let (params, w, m) = store();
        assert!(w.tensor().track_op() && !m.tensor().track_op());
        {
            let _guard = params.no_grad();
            assert!(!w.tensor().track_op());
        }
        w.freeze(true);
        assert!(!w.tensor().track_op());
        w.freeze(false);
        assert!(w.tensor().track_op());
    }

    #[test]
    fn redrawing_changes_the_value_and_nothing_else() {
        let (params, w, _) = store();
        let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu).pp("a");
        scope.redraw("weight", Init::Const(2.0)).unwrap();
        assert_eq!(w.tensor().to_vec2::<f32>().unwrap(), [[2.0; 3]; 2]);
        assert_eq!(params.all().len(), 2);
        assert!(scope.redraw("wait", Init::Zeros).unwrap_err().to_string().contains("`a.wait`"));
    }

    #[test]
    fn a_rule_replaces_the_initialisers_of_parameters_only() {
        let params = Params::new();
        let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu);
        let rule: InitRule = |name, shape, own| match (name.ends_with("bias"), shape.len()) {
            (true, _) => Init::Const(2.0),
            (_, 1) => own,
            _ => Init::Zeros,
        };
        let inner = scope.initialised(rule).pp("a");
        let mean = |p: Param| p.tensor().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(mean(inner.param("bias", &[3], Init::Ones).unwrap()), 2.0);
        assert_eq!(mean(inner.param("norm", &[3], Init::Ones).unwrap()), 1.0);
        assert_eq!(mean(inner.param("weight", &[3, 3], Init::Ones).unwrap()), 0.0);
        assert_eq!(mean(inner.buffer("running_bias", &[3], Init::Ones).unwrap()), 1.0);
        assert_eq!(mean(scope.param("bias", &[3], Init::Ones).unwrap()), 1.0);
    }

    #[test]
    fn a_name_cannot_be_taken_twice_and_shapes_are_checked() {
        let (params, w, _) = store();
        let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu);
        let twice = scope.pp("a").param("weight", &[1], Init::Zeros).unwrap_err();
        assert!(twice.to_string().contains("`a.weight` is defined twice"));
        let bad = w.set(&Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()).unwrap_err();
        assert!(bad.to_string().contains("[2, 3] for `a.weight`"), "{bad}");
    }
}
