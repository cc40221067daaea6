//! The tape: recorded operations in the order of their execution, and the walk back over them.

use super::Gradients;
use crate::cast::{is_half, stored, stored_as};
use crate::op::{Backward, address};
use crate::step::axpy_;
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// What happens to an operation on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Candle's graph takes it.
    Off,
    /// The tape takes it.
    Recording,
    /// Nothing is kept of it.
    Paused,
}

/// An operation that can be differentiated, its type forgotten.
pub(crate) trait Recorded {
    /// One gradient per argument.
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>>;
}

type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

enum Work {
    Op {
        op: Box<dyn Recorded>,
        /// The arguments, without gaps and detached; none if the operation does not look at them.
        args: Vec<Tensor>,
        result: Option<Tensor>,
    },
    Again {
        f: Function,
        inputs: Vec<Tensor>,
    },
}

struct Node {
    id: TensorId,
    sources: Vec<Source>,
    work: Work,
}

/// Where the gradient of an argument goes.
enum Source {
    /// Nowhere.
    Constant,
    /// To a recorded result or a variable.
    Leaf(TensorId),
    /// To the variables that candle computed this from.
    Composed(Tensor),
}

#[derive(Default)]
struct Tape {
    nodes: Vec<Option<Node>>,
    index: HashMap<TensorId, usize>,
    /// Results whose operation has been differentiated.
    spent: HashSet<TensorId>,
}

impl Tape {
    fn source(&self, t: &Tensor) -> Source {
        if t.is_variable() || self.index.contains_key(&t.id()) {
            Source::Leaf(t.id())
        } else if t.track_op() {
            Source::Composed(t.clone())
        } else {
            Source::Constant
        }
    }

    fn push(&mut self, node: Node) {
        self.index.insert(node.id, self.nodes.len());
        self.nodes.push(Some(node));
    }
}

enum Level {
    Recording(Tape),
    Paused,
}

thread_local! {
    static LEVELS: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
    static AGAIN: RefCell<usize> = const { RefCell::new(0) };
}

/// A level of the stack, taken off when dropped, also by an unwinding panic.
pub(super) struct Guard;

impl Guard {
    pub(super) fn recording() -> Self {
        LEVELS.with_borrow_mut(|levels| levels.push(Level::Recording(Tape::default())));
        Self
    }

    fn paused() -> Self {
        LEVELS.with_borrow_mut(|levels| levels.push(Level::Paused));
        Self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // taken out first: dropping tensors must not happen while the stack is borrowed
        let level = LEVELS.with_borrow_mut(Vec::pop);
        drop(level);
    }
}

pub(crate) fn state() -> State {
    LEVELS.with_borrow(|levels| match levels.last() {
        None => State::Off,
        Some(Level::Recording(_)) => State::Recording,
        Some(Level::Paused) => State::Paused,
    })
}

fn with_tape<R>(f: impl FnOnce(&mut Tape) -> R) -> Option<R> {
    LEVELS.with_borrow_mut(|levels| match levels.last_mut() {
        Some(Level::Recording(tape)) => Some(f(tape)),
        _ => None,
    })
}

/// Records that `result` was made of `sources` (`args` are their values, if needed again).
pub(crate) fn register(
    op: impl Recorded + 'static,
    sources: &[&Tensor],
    args: Vec<Tensor>,
    result: &Tensor,
    keep_result: bool,
) {
    let work = Work::Op { op: Box::new(op), args, result: keep_result.then(|| result.detach()) };
    push(sources, work, result.id());
}

/// Records a tensor that shares its memory with `source`, as candle's operations on shapes do.
pub(crate) fn register_view(op: impl Recorded + 'static, source: &Tensor, view: &Tensor) {
    let work = Work::Op { op: Box::new(op), args: Vec::new(), result: None };
    push(&[source], work, view.id());
}

fn push(sources: &[&Tensor], work: Work, id: TensorId) {
    with_tape(|tape| {
        let sources = sources.iter().map(|t| tape.source(t)).collect();
        tape.push(Node { id, sources, work });
    });
}

pub(super) fn is_again() -> bool {
    AGAIN.with_borrow(|depth| *depth > 0)
}

struct Again;

impl Again {
    fn begin() -> Self {
        AGAIN.with_borrow_mut(|depth| *depth += 1);
        Self
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        AGAIN.with_borrow_mut(|depth| *depth -= 1);
    }
}

pub(super) fn recompute(inputs: &[&Tensor], f: Function) -> Result<Tensor> {
    let owned: Vec<Tensor> = inputs.iter().map(|&t| t.clone()).collect();
    if state() != State::Recording {
        return f(&owned);
    }
    let y = {
        let _guard = Guard::paused();
        let detached: Vec<Tensor> = owned.iter().map(Tensor::detach).collect();
        f(&detached)?
    };
    let y = variable(&y)?;
    let stored = stored();
    let f: Function = Box::new(move |inputs| stored_as(stored, || f(inputs)));
    push(inputs, Work::Again { f, inputs: owned }, y.id());
    Ok(y)
}

/// A variable with the values of a tensor.
fn variable(t: &Tensor) -> Result<Tensor> {
    Ok(candle_core::Var::from_tensor(&t.detach())?.into_inner())
}

/// The gradients of `y`, given its own, from the tape in use, which keeps what was not passed.
pub(super) fn backward(y: &Tensor, grad: Tensor) -> Result<Gradients> {
    let mut found = Gradients::default();
    walk(&mut found, y, grad)?;
    Ok(found)
}

/// Adds the gradients from the tape in use to what was found before.
fn walk(found: &mut Gradients, y: &Tensor, grad: Tensor) -> Result<()> {
    let mut tape = with_tape(std::mem::take).unwrap_or_default();
    let result = {
        let _guard = Guard::paused();
        tape.backward(found, y, grad)
    };
    with_tape(|slot| *slot = tape);
    result
}

impl Tape {
    /// Adds the gradients to what was found before.
    fn backward(&mut self, found: &mut Gradients, y: &Tensor, grad: Tensor) -> Result<()> {
        let source = self.source(y);
        self.deliver(found, source, grad, false)?;
        for i in (0..self.nodes.len()).rev() {
            let Some(id) = self.nodes[i].as_ref().map(|node| node.id) else { continue };
            let Some(Slot { tensor: grad, .. }) = found.0.remove(&id) else { continue };
            let Some(node) = self.nodes[i].take() else { continue };
            self.spent.insert(id);
            match node.work {
                Work::Op { op, args, result } => {
                    self.differentiate(found, &*op, node.sources, args, result, grad)?;
                }
                Work::Again { f, inputs } => again(found, &f, &inputs, grad)?,
            }
        }
        // trailing empty places would be walked again by the next call
        while self.nodes.last().is_some_and(Option::is_none) {
            self.nodes.pop();
        }
        Ok(())
    }

    fn differentiate(
        &self,
        found: &mut Gradients,
        op: &dyn Recorded,
        sources: Vec<Source>,
        args: Vec<Tensor>,
        result: Option<Tensor>,
        grad: Tensor,
    ) -> Result<()> {
        let wanted = sources.iter().map(|s| !matches!(s, Source::Constant)).collect();
        let at = Backward { args, wanted, result, grad };
        let gradients = op.gradients(&at)?;
        // memory that others see must not be added to
        let mut seen: Vec<usize> =
            at.args.iter().chain(&at.result).chain([&at.grad]).map(address).collect();
        drop(at);
        for (source, gradient) in sources.into_iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let place = address(&gradient);
            let owned = gradient.is_contiguous() && !seen.contains(&place);
            seen.push(place);
            self.deliver(found, source, gradient, owned)?;
        }
        Ok(())
    }

    /// Adds a gradient to that of its source.
    fn deliver(
        &self,
        found: &mut Gradients,
        source: Source,
        gradient: Tensor,
        owned: bool,
    ) -> Result<()> {
        match source {
            Source::Constant => Ok(()),
            Source::Leaf(id) => {
                self.check_unspent(id)?;
                found.add(id, Slot { tensor: gradient, owned })
            }
            Source::Composed(t) => {
                let variables: Vec<TensorId> =
                    t.sorted_nodes().iter().filter(|n| n.is_variable()).map(|n| n.id()).collect();
                let mut store = t.apply_op1(Seed(gradient))?.backward()?;
                drop(t);
                for id in variables {
                    self.check_unspent(id)?;
                    // detached: candle's gradients remember what they were computed from
                    if let Some(tensor) = take(&mut store, id).map(|t| t.detach()) {
                        found.add(id, Slot { owned: tensor.is_contiguous(), tensor })?;
                    }
                }
                Ok(())
            }
        }
    }

    fn check_unspent(&self, id: TensorId) -> Result<()> {
        if self.spent.contains(&id) {
            let message = "part of this loss was differentiated before; add the losses and differentiate their sum";
            return Err(Error::argument("backward", message));
        }
        Ok(())
    }
}

/// Runs a function again, this time recorded, and differentiates it. What it finds is added where
/// it would have been without: sums keep their order, and with it their bits.
fn again(found: &mut Gradients, f: &Function, inputs: &[Tensor], grad: Tensor) -> Result<()> {
    let _again = Again::begin();
    let _guard = Guard::recording();
    walk(found, &f(inputs)?, grad)
}

/// Takes a gradient out of candle's store, which offers that by tensor only.
fn take(store: &mut candle_core::backprop::GradStore, id: TensorId) -> Option<Tensor> {
    let empty = Tensor::zeros(0, candle_core::DType::U8, &candle_core::Device::Cpu).ok()?;
    store.get_id(id)?;
    store.insert_id(id, empty)
}

/// A gradient, and whether its memory is nobody else's.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) tensor: Tensor,
    pub(super) owned: bool,
}

impl Gradients {
    fn add(&mut self, id: TensorId, new: Slot) -> Result<()> {
        match self.0.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(new);
            }
            Entry::Occupied(mut entry) => {
                let old = entry.get_mut();
                let in_place = !is_half(old.tensor.dtype());
                if old.owned && in_place {
                    axpy_(&old.tensor, &new.tensor.contiguous()?, 1.0)?;
                } else if new.owned && in_place {
                    axpy_(&new.tensor, &old.tensor.contiguous()?, 1.0)?;
                    *old = new;
                } else {
                    let tensor = crate::add(&old.tensor, &new.tensor)?;
                    *old = Slot { tensor, owned: true };
                }
            }
        }
        Ok(())
    }
}

/// Zero forward; the given gradient backward. It lets candle's backward pass begin with a gradient
/// other than one.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, s: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let zero = match s.dtype() {
            candle_core::DType::F64 => CpuStorage::F64(vec![0.0]),
            _ => CpuStorage::F32(vec![0.0]),
        };
        Ok((zero, Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let shape = Shape::from(());
        Ok((s.device().zeros_impl(&shape, s.dtype())?, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
