//! What a differentiable operation has to say, and its adapter to candle's custom operations.
//!
//! candle has three traits, for one to three tensors, each with untyped storages. An [`Op`] says the
//! same things once: its arithmetic over slices of either float type, and its gradients.

use crate::algebra::permute;
use crate::autograd::{Recorded, State, backward_argument, register, state};
use crate::cast::{InHalf, Types, cast, is_half, types, widened};
use crate::element::contiguous;
use crate::math::Real;
use crate::order::{LyingLast, Order, from_last, in_memory, ordered};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Shape, Storage, Tensor,
};

/// A contiguous array: what an operation sees of a tensor.
#[derive(Clone, Copy)]
pub(crate) struct Array<'a, T> {
    pub data: &'a [T],
    pub dims: &'a [usize],
}

/// The state in which the gradients of an operation are asked for.
///
/// Tensors are detached, unless second derivatives are wanted (see [`backward_argument`]).
pub(crate) struct Backward {
    /// The arguments of the operation, if it says that it reads them.
    pub args: Vec<Tensor>,
    /// Which of them need a gradient.
    pub wanted: Vec<bool>,
    /// What the operation returned, if it says that it reads it.
    pub result: Option<Tensor>,
    /// The gradient of what it returned.
    pub grad: Tensor,
}

impl Backward {
    /// Whether the gradients are to be differentiated in turn.
    pub(crate) fn is_differentiated(&self) -> bool {
        self.args.iter().chain([&self.grad]).any(Tensor::track_op)
    }

    /// What the operation returned.
    ///
    /// # Errors
    /// If it did not say that it reads it.
    pub(crate) fn result(&self, op: &'static str) -> Result<&Tensor> {
        self.result.as_ref().ok_or_else(|| Error::argument(op, "its result was not kept"))
    }
}

/// A differentiable operation of tensors of one float type; [`Op::IN_HALF`] says how others become that.
pub(crate) trait Op: Send + Sync + 'static {
    /// Whether its gradients look at the arguments; if not, these need not be kept.
    const READS_ARGS: bool = true;
    /// Whether its gradients look at the result.
    const READS_RESULT: bool = false;
    /// Whether its gradients can be differentiated in turn; if not, asking for that is an error.
    const TWICE: bool = true;
    /// What becomes of operands of 16 bits.
    const IN_HALF: InHalf = InHalf::Widened;
    /// Where it wants the channels of images, unless [`Op::order`] knows better.
    const ORDER: Order = Order::First;

    /// Its name in errors.
    fn name(&self) -> &'static str;

    /// How many of its operands, the first ones, are no parameters: see [`InHalf::Kept`].
    fn images(&self) -> usize {
        1
    }

    /// Where it wants the channels of these images.
    fn order(&self, _args: &[&Tensor]) -> Order {
        Self::ORDER
    }

    /// The result and its shape. The caller of [`apply`] has checked the shapes.
    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)>;

    /// The same on a GPU, whose `last` says where channels lie.
    ///
    /// # Errors
    /// [`Error::Argument`] unless the operation has kernels for it.
    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        _gpu: &crate::gpu::Gpu,
        _args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        Err(Error::argument(self.name(), "it does not run on a GPU; use `--device cpu`"))
    }

    /// The gradients on a GPU, of operations that have kernels for them (see [`gradients_on_gpu`]).
    ///
    /// # Errors
    /// [`Error::Argument`] unless it is one.
    #[cfg(feature = "cuda")]
    fn gradients_cuda<T: crate::gpu::Number>(&self, _at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Err(Error::argument(self.name(), "it has no gradients of its own on a GPU"))
    }

    /// One gradient per argument; it may be `None` where it is not wanted or zero.
    fn backward(&self, _at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Err(candle_core::Error::BackwardNotSupported { op: self.name() }.into())
    }
}

/// Applies an operation; tensors need not be contiguous.
///
/// # Errors
/// [`Error::Shape`] unless all are f32 or all are f64 (on a GPU also of 16 bits), or whatever the operation returns.
pub(crate) fn apply<O: Op>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    check_dtypes(op.name(), args)?;
    let Some(Types { operands, parameters, result }) = types(O::IN_HALF, op.images(), args) else {
        return apply_as_given(op, args);
    };
    let wanted = |i| if i < op.images() { operands } else { parameters };
    let args = args.iter().enumerate().map(|(i, t)| cast(t, wanted(i)));
    let args = args.collect::<Result<Vec<_>>>()?;
    cast(&apply_as_given(op, &args.iter().collect::<Vec<_>>())?, result)
}

fn apply_as_given<O: Op>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    let tracked = args.iter().any(|t| t.track_op());
    if tracked && state() == State::Off {
        // candle's graph has numbers of 32 bits: kernels of 16 may want channels where it does not put them
        let half = args.iter().map(|t| t.dtype()).find(|&dtype| is_half(dtype));
        let Some(half) = half else { return by_candle(op, args) };
        let wide = args.iter().map(|t| widened(t)).collect::<Result<Vec<_>>>()?;
        return cast(&by_candle(op, &wide.iter().collect::<Vec<_>>())?, half);
    }
    let last = op.order(args).is_last(args);
    let values = args.iter().map(|t| ordered(t, last)).collect::<Result<Vec<_>>>()?;
    let (storage, shape) = compute(&op, &values, last)?;
    let recorded = tracked && state() == State::Recording;
    let values = if O::READS_ARGS { values } else { Vec::new() };
    let rank = shape.rank();
    if !last || rank < 3 {
        let y = Tensor::from_storage(storage, shape, BackpropOp::none(), recorded);
        if recorded {
            register(op, args, values, &y, O::READS_RESULT);
        }
        return Ok(y);
    }
    let y =
        Tensor::from_storage(storage, in_memory(shape.dims(), true), BackpropOp::none(), recorded);
    if recorded {
        register(LyingLast(op), args, values, &y, O::READS_RESULT);
    }
    permute(&y, &from_last(rank))
}

/// The operation as a node of candle's graph, which takes up to three tensors.
fn by_candle<O: Op>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    let args = args.iter().map(|t| t.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
    let op = Adapter(op);
    match args.as_slice() {
        [a] => Ok(a.apply_op1(op)?),
        [a, b] => Ok(a.apply_op2(b, op)?),
        [a, b, c] => Ok(a.apply_op3(b, c, op)?),
        _ => Err(Error::shape(op.0.name(), "one to three tensors", args.len())),
    }
}

/// The result of an operation on tensors without gaps, whose channels may lie last on a GPU.
fn compute<O: Op>(op: &O, args: &[Tensor], last: bool) -> Result<(Storage, Shape)> {
    let guards: Vec<_> = args.iter().map(Tensor::storage_and_layout).collect();
    #[cfg(feature = "cuda")]
    if guards.iter().any(|(storage, _)| matches!(**storage, Storage::Cuda(_))) {
        let storages: Vec<_> = guards
            .iter()
            .filter_map(|(storage, layout)| match &**storage {
                Storage::Cuda(storage) => Some((storage, *layout)),
                _ => None,
            })
            .collect();
        if storages.len() < args.len() {
            return Err(Error::shape(op.name(), "all operands on one device", "some elsewhere"));
        }
        let (storage, shape) = run_cuda(op, &storages, last)?;
        return Ok((Storage::Cuda(storage), shape));
    }
    let _ = last;
    let mut storages = Vec::with_capacity(args.len());
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cpu(storage) => storages.push((storage, *layout)),
            _ => return Err(Error::shape(op.name(), "a tensor on the CPU", "one elsewhere")),
        }
    }
    let (storage, shape) = match args.first().map(Tensor::dtype) {
        Some(DType::F64) => run::<O, f64>(op, &storages)?,
        _ => run::<O, f32>(op, &storages)?,
    };
    Ok((Storage::Cpu(storage), shape))
}

fn run<O: Op, T: Real>(op: &O, args: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
    let arrays = args
        .iter()
        .map(|(storage, layout)| {
            Ok(Array { data: contiguous(op.name(), storage, layout)?, dims: layout.dims() })
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    let (data, shape) = op.forward::<T>(&arrays)?;
    Ok((T::to_cpu_storage_owned(data), shape))
}

#[cfg(feature = "cuda")]
fn run_cuda<O: Op>(
    op: &O,
    args: &[(&candle_core::CudaStorage, &Layout)],
    last: bool,
) -> Result<(candle_core::CudaStorage, Shape)> {
    struct Computed<'a, O>(&'a O, &'a [(&'a candle_core::CudaStorage, &'a Layout)], bool);
    impl<O: Op> crate::gpu::Work for Computed<'_, O> {
        type Output = (candle_core::CudaStorage, Shape);
        fn of<T: crate::gpu::Number>(self) -> Result<Self::Output> {
            let Self(op, args, last) = self;
            crate::gpu::run::<T, _>(op.name(), args, last, |gpu, args| {
                let (data, shape) = op.forward_cuda(gpu, args)?;
                Ok((gpu.storage(data), shape))
            })
        }
    }
    let first = args.first().map_or(DType::F32, |(storage, _)| storage.dtype());
    crate::gpu::in_numbers(first, Computed(op, args, last))
}

/// [`Op::gradients_cuda`] in the numbers of the gradient of the result.
///
/// # Errors
/// Those of the operation.
#[cfg(feature = "cuda")]
pub(crate) fn gradients_on_gpu<O: Op>(op: &O, at: &Backward) -> Result<Vec<Option<Tensor>>> {
    struct Differentiated<'a, O>(&'a O, &'a Backward);
    impl<O: Op> crate::gpu::Work for Differentiated<'_, O> {
        type Output = Vec<Option<Tensor>>;
        fn of<T: crate::gpu::Number>(self) -> Result<Self::Output> {
            self.0.gradients_cuda::<T>(self.1)
        }
    }
    crate::gpu::in_numbers(at.grad.dtype(), Differentiated(op, at))
}

/// Checks that tensors are all f32 or all f64; or, on a GPU, that they are such that [`apply`] makes them so.
///
/// # Errors
/// [`Error::Shape`] if not.
pub(crate) fn check_dtypes(op: &'static str, args: &[&Tensor]) -> Result<()> {
    let mut halves = args.iter().filter(|t| t.device().is_cuda() && is_half(t.dtype()));
    if let Some(half) = halves.next() {
        let fits = |t: &&&Tensor| [half.dtype(), DType::F32].contains(&t.dtype());
        return match args.iter().find(|t| !fits(t)) {
            Some(t) => {
                Err(Error::shape(op, format!("operands of {:?} or F32", half.dtype()), t.dtype()))
            }
            None => Ok(()),
        };
    }
    let first = args.first().map_or(DType::F32, |t| t.dtype());
    if !matches!(first, DType::F32 | DType::F64) {
        return Err(Error::shape(op, "a tensor of f32 or f64; convert it with `to_dtype`", first));
    }
    match args.iter().find(|t| t.dtype() != first) {
        Some(t) => Err(Error::shape(op, format!("all operands of {first:?}"), t.dtype())),
        None => Ok(()),
    }
}

/// Lends `f` tensors on the CPU.
///
/// # Errors
/// [`Error::Shape`] if one is elsewhere, and whatever `f` returns.
pub(crate) fn with_arrays<T: Real, R>(
    op: &'static str,
    tensors: &[&Tensor],
    f: impl FnOnce(&[Array<T>]) -> Result<R>,
) -> Result<R> {
    let held = tensors.iter().map(|t| t.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
    let guards: Vec<_> = held.iter().map(Tensor::storage_and_layout).collect();
    let mut arrays = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        arrays.push(match &**storage {
            Storage::Cpu(storage) => {
                Array { data: contiguous(op, storage, layout)?, dims: layout.dims() }
            }
            _ => return Err(Error::shape(op, "a tensor on the CPU", "one elsewhere")),
        });
    }
    f(&arrays)
}

/// Lends `f` the elements of tensors on the CPU.
///
/// # Errors
/// As [`with_arrays`].
pub(crate) fn with_slices<T: Real, R, const N: usize>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    with_arrays(op, &tensors, |arrays| f(std::array::from_fn(|i| arrays[i].data)))
}

/// Where the storage of a tensor lies: equal for tensors that share it.
pub(crate) fn address(t: &Tensor) -> usize {
    let (storage, _) = t.storage_and_layout();
    std::ptr::from_ref::<Storage>(&storage).addr()
}

/// Lends `f` the bytes of a contiguous tensor of the CPU.
///
/// # Errors
/// [`Error::Shape`] if it is none, or its type is not known here.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)] // changes the type of a slice
pub(crate) fn bytes<R>(op: &'static str, t: &Tensor, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
    fn of<T: Copy>(numbers: &[T]) -> &[u8] {
        // SAFETY: numbers have no gaps, and any byte is one.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
    }
    let (storage, layout) = t.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        return Err(Error::shape(op, "a contiguous tensor on the CPU", t.layout()));
    };
    let all = match storage {
        CpuStorage::U8(x) => of(&x[start..end]),
        CpuStorage::U32(x) => of(&x[start..end]),
        CpuStorage::I64(x) => of(&x[start..end]),
        CpuStorage::F32(x) => of(&x[start..end]),
        CpuStorage::F64(x) => of(&x[start..end]),
        other => return Err(Error::shape(op, "numbers of a known type", other.dtype())),
    };
    Ok(f(all))
}

struct Adapter<O>(O);

impl<O: Op> Recorded for O {
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        self.backward(at)
    }
}

impl<O: Op> Adapter<O> {
    fn run(&self, args: &[(&CpuStorage, &Layout)]) -> candle_core::Result<(CpuStorage, Shape)> {
        match args[0].0.dtype() {
            DType::F64 => run::<O, f64>(&self.0, args),
            _ => run::<O, f32>(&self.0, args),
        }
        .map_err(wrapped)
    }

    fn gradients<const N: usize>(
        &self,
        args: [&Tensor; N],
        result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; N]> {
        let at = Backward {
            wanted: args.iter().map(|t| t.track_op()).collect(),
            args: args.iter().map(|t| backward_argument(t)).collect(),
            result: O::READS_RESULT.then(|| backward_argument(result)),
            grad: grad.clone(),
        };
        let mut found = self.0.backward(&at).map_err(wrapped)?;
        if !O::TWICE {
            for gradient in found.iter_mut().flatten() {
                for cause in at.args.iter().chain([&at.grad]).filter(|t| t.track_op()) {
                    let op = Final(self.0.name());
                    *gradient = gradient.force_contiguous()?.apply_op2(cause, op)?;
                }
            }
        }
        let mut found = found.into_iter();
        Ok(std::array::from_fn(|_| found.next().flatten()))
    }
}

impl<O: Op> CustomOp1 for Adapter<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run(&[(s, l)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        run_cuda(&self.0, &[(s, l)], false).map_err(wrapped)
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [da] = self.gradients([a], y, grad)?;
        Ok(da)
    }
}

impl<O: Op> CustomOp2 for Adapter<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run(&[(s1, l1), (s2, l2)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        run_cuda(&self.0, &[(s1, l1), (s2, l2)], false).map_err(wrapped)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = self.gradients([a, b], y, grad)?;
        Ok((da, db))
    }
}

impl<O: Op> CustomOp3 for Adapter<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
        s3: &candle_core::CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        run_cuda(&self.0, &[(s1, l1), (s2, l2), (s3, l3)], false).map_err(wrapped)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = self.gradients([a, b, c], y, grad)?;
        Ok((da, db, dc))
    }
}

/// A gradient and what it was computed from, by an operation that cannot be differentiated twice:
/// without this the second derivative would silently be zero.
struct Final(&'static str);

impl CustomOp2 for Final {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        l: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((gradient.try_clone(l)?, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gradient: &candle_core::CudaStorage,
        l: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        Ok((gradient.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Err(candle_core::Error::BackwardNotSupported { op: self.0 })
    }
}

/// Our error in candle's clothes, for the way through its traits.
fn wrapped(e: Error) -> candle_core::Error {
    match e {
        Error::Candle(e) => e,
        other => candle_core::Error::wrap(other),
    }
}
