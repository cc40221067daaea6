//! What operations need of a GPU: buffers, kernels by name, launches.
//!
//! Everything of a device runs on candle's one stream of it, in order. Kernels are compiled by `build.rs` from the
//! `op.cu` of each operation's folder, and loaded at their first use. Nothing here has met a GPU yet.

#![allow(unsafe_code)] // launches of kernels

pub(crate) mod blas;
mod cases;
mod device;
pub(crate) mod dnn;
pub(crate) mod graph;
mod plan;
mod random;
mod rounded;
pub(crate) mod upload;

pub use cases::{Case, Comparison, cases, compare_all};
pub use device::{Clock, describe, open};
pub(crate) use device::{memory, watch_memory};
pub use random::random_cases;
pub(crate) use rounded::turned;

use crate::math::Real;
use crate::memory::shown;
use crate::order::{Order, from_last, in_memory, offsets, ordered};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::sys::cudaDataType;
use candle_core::cuda_backend::cudarc::cudnn::sys::cudnnDataType_t;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, DeviceRepr,
    DriverError, LaunchArgs, LaunchConfig, PushKernelArg, ValidAsZeroBits,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Layout, Shape, Storage, Tensor, WithDType};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A number that kernels exist for.
pub(crate) trait Number: WithDType + CudaDType + DeviceRepr + ValidAsZeroBits {
    /// What kernels compute in: numbers of 16 bits are only stored.
    type Wide: Number + Real;
    /// How the names of its kernels end.
    const SUFFIX: &'static str;
    /// What cuDNN calls it.
    const DNN: cudnnDataType_t;
    /// What cuBLAS calls it.
    const BLAS: cudaDataType;

    /// What kernels take for a number.
    fn wide(x: f64) -> Self::Wide {
        Self::Wide::of(x)
    }
}

impl Number for f32 {
    type Wide = Self;
    const SUFFIX: &'static str = "f32";
    const DNN: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_FLOAT;
    const BLAS: cudaDataType = cudaDataType::CUDA_R_32F;
}

impl Number for f64 {
    type Wide = Self;
    const SUFFIX: &'static str = "f64";
    const DNN: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_DOUBLE;
    const BLAS: cudaDataType = cudaDataType::CUDA_R_64F;
}

impl Number for half::bf16 {
    type Wide = f32;
    const SUFFIX: &'static str = "bf16";
    const DNN: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_BFLOAT16;
    const BLAS: cudaDataType = cudaDataType::CUDA_R_16BF;
}

impl Number for half::f16 {
    type Wide = f32;
    const SUFFIX: &'static str = "f16";
    const DNN: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_HALF;
    const BLAS: cudaDataType = cudaDataType::CUDA_R_16F;
}

/// What an operation returns.
pub(crate) type Slice<T> = CudaSlice<T>;

/// An array without gaps on a GPU: what an operation sees of a tensor. [`Gpu::last`] says where channels lie.
pub(crate) struct Buffer<'a, T> {
    pub data: CudaView<'a, T>,
    pub dims: &'a [usize],
}

impl<T> Buffer<'_, T> {
    /// How many elements it has.
    pub(crate) fn count(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The kernels of an operation's folder.
pub(crate) struct Kernels {
    name: &'static str,
    image: &'static [u8],
    /// By the context that they are loaded in.
    loaded: Mutex<Vec<(usize, Arc<CudaModule>)>>,
}

impl Kernels {
    pub(crate) const fn new(name: &'static str, image: &'static [u8]) -> Self {
        Self { name, image, loaded: Mutex::new(Vec::new()) }
    }

    fn module(&'static self, context: &Arc<CudaContext>) -> Result<Arc<CudaModule>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(context).addr();
        if let Some((_, module)) = loaded.iter().find(|(context, _)| *context == key) {
            return Ok(module.clone());
        }
        let module = context.load_module(Ptx::from_binary(self.image.to_vec())).map_err(|e| {
            let full = e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
            let why = if full { "" } else { "; is the driver too old?" };
            Error::argument(self.name, format!("its kernels cannot be loaded: {e}{why}"))
        })?;
        loaded.push((key, module.clone()));
        Ok(module)
    }
}

/// A pointer to nothing, for arrays that are not there.
pub(crate) const NULL: u64 = 0;

/// Threads of a block, as in `limpid.cuh`.
const THREADS: u32 = 256;
/// Blocks of a grid at most: enough to fill any device several times; a thread steps on by the grid.
const BLOCKS: usize = 4096;

/// A device at work for one operation.
pub(crate) struct Gpu {
    pub op: &'static str,
    pub device: CudaDevice,
    pub stream: Arc<CudaStream>,
    /// Whether the channels of images, arrays of three dimensions or more, lie last.
    pub last: bool,
}

impl Gpu {
    pub(crate) fn new(op: &'static str, device: &CudaDevice) -> Self {
        Self { op, device: device.clone(), stream: device.cuda_stream(), last: false }
    }

    /// How kernels find the plane of an element of an image: the pixels of a plane, and the number of channels if these
    /// lie last, else 0.
    pub(crate) fn planes(&self, dims: &[usize]) -> [usize; 2] {
        let is_image = self.last && dims.len() >= 3;
        [dims[2..].iter().product(), if is_image { dims[1] } else { 0 }]
    }

    /// What a kernel has filled, as candle stores it.
    pub(crate) fn storage<T: Number>(&self, data: CudaSlice<T>) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(data, self.device.clone())
    }

    /// What a kernel has filled, as a tensor.
    pub(crate) fn tensor<T: Number>(&self, data: CudaSlice<T>, shape: impl Into<Shape>) -> Tensor {
        let storage = Storage::Cuda(self.storage(data));
        Tensor::from_storage(storage, shape, BackpropOp::none(), false)
    }

    /// What a kernel has filled with an image of these dimensions.
    ///
    /// # Errors
    /// Those of candle.
    pub(crate) fn image<T: Number>(&self, data: CudaSlice<T>, dims: &[usize]) -> Result<Tensor> {
        let image = self.tensor(data, in_memory(dims, self.last));
        match self.last && dims.len() >= 3 {
            true => Ok(image.permute(from_last(dims.len()))?),
            false => Ok(image),
        }
    }

    /// A buffer that a kernel is about to fill.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not enough memory.
    pub(crate) fn alloc<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: every element is written before it is read, by the kernel of the caller.
        unsafe { self.stream.alloc(len) }.map_err(|e| self.no_room::<T>(len, &e))
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not enough memory.
    pub(crate) fn zeros<T: Number>(&self, len: usize) -> Result<CudaSlice<T>> {
        self.stream.alloc_zeros(len).map_err(|e| self.no_room::<T>(len, &e))
    }

    /// A copy, which begins where packs of numbers do.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not enough memory.
    pub(crate) fn copied<T: Number>(&self, x: &CudaView<'_, T>) -> Result<CudaSlice<T>> {
        self.stream.clone_dtod(x).map_err(|e| self.no_room::<T>(x.len(), &e))
    }

    fn no_room<T>(&self, len: usize, e: &DriverError) -> Error {
        let bytes = len.saturating_mul(size_of::<T>());
        // with what the pool keeps for later
        let free = memory(&self.device).map_or(0, |memory| memory.free);
        let message = format!(
            "no room for {} on the GPU, which has {} left: {e}",
            shown(bytes as u64),
            shown(free)
        );
        Error::argument(self.op, message)
    }

    /// The kernel of a name for a type of number.
    ///
    /// # Errors
    /// [`Error::Argument`] if it cannot be loaded.
    pub(crate) fn function<T: Number>(
        &self,
        kernels: &'static Kernels,
        name: &str,
    ) -> Result<CudaFunction> {
        self.kernel(kernels, &format!("{name}_{}", T::SUFFIX))
    }

    /// The kernel of a name.
    ///
    /// # Errors
    /// [`Error::Argument`] if it cannot be loaded.
    pub(crate) fn kernel(&self, kernels: &'static Kernels, name: &str) -> Result<CudaFunction> {
        let module = kernels.module(self.stream.context())?;
        module
            .load_function(name)
            .map_err(|e| Error::argument(self.op, format!("kernel {name}: {e}")))
    }

    /// Starts a kernel with a thread for each of `items`, or a block for each if `blocks`.
    ///
    /// # Errors
    /// [`Error::Argument`] if it does not start.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and its accesses lie within them.
    pub(crate) unsafe fn launch(
        &self,
        mut kernel: LaunchArgs<'_>,
        items: usize,
        blocks: bool,
    ) -> Result<()> {
        let wanted = if blocks { items } else { items.div_ceil(THREADS as usize) };
        let grid = wanted.clamp(1, BLOCKS) as u32;
        let config = LaunchConfig {
            grid_dim: (grid, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller's.
        let launched = unsafe { kernel.launch(config) }.map(drop);
        let done = match launched {
            Ok(()) if is_blocking() && !graph::is_recording() => self.stream.synchronize(),
            launched => launched,
        };
        done.map_err(|e| {
            Error::argument(self.op, format!("its kernel failed on {items} items: {e}"))
        })
    }
}

/// Whether every kernel is waited for, so that an error is its own: CUDA's own variable of the environment.
pub(crate) fn is_blocking() -> bool {
    static BLOCKING: OnceLock<bool> = OnceLock::new();
    *BLOCKING.get_or_init(|| std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|value| value == "1"))
}

/// The error, with the shapes of the operands if the driver or a library has answered with one.
fn with_shapes<T>(e: Error, operands: &[Buffer<'_, T>]) -> Error {
    match e {
        Error::Argument { op, message }
            if ["CUDA_ERROR", "CUDNN_STATUS", "CUBLAS_STATUS"]
                .iter()
                .any(|s| message.contains(s))
                && !message.contains("(operands") =>
        {
            let shapes: Vec<String> = operands.iter().map(|b| format!("{:?}", b.dims)).collect();
            Error::argument(op, format!("{message} (operands {})", shapes.join(", ")))
        }
        e => e,
    }
}

/// Appends an array to a kernel's arguments, or a pointer to nothing where there is none.
pub(crate) fn push<'a, 'b: 'a, 'c: 'b, T>(
    launch: &mut LaunchArgs<'a>,
    array: Option<&'b CudaView<'c, T>>,
) {
    match array {
        Some(array) => launch.arg(array),
        None => launch.arg(&NULL),
    };
}

/// Something to be done in numbers of a type that is known only where it is called.
pub(crate) trait Work {
    type Output;

    /// Does it.
    ///
    /// # Errors
    /// Its own.
    fn of<T: Number>(self) -> Result<Self::Output>;
}

/// Does it in numbers of this type.
///
/// # Errors
/// Those of the work.
pub(crate) fn in_numbers<W: Work>(dtype: DType, work: W) -> Result<W::Output> {
    match dtype {
        DType::F64 => work.of::<f64>(),
        DType::BF16 => work.of::<half::bf16>(),
        DType::F16 => work.of::<half::f16>(),
        _ => work.of::<f32>(),
    }
}

/// Elements of a tensor. Parameters of f32 beside numbers of 16 bits are lent as if they were such: kernels that take
/// them, those of [`crate::cast::InHalf::Kept`], know better.
fn lent<T: Number>(storage: &CudaStorage, range: Range<usize>) -> Result<CudaView<'_, T>> {
    if storage.dtype() != T::Wide::DTYPE {
        return Ok(storage.as_cuda_slice::<T>()?.slice(range));
    }
    let wide = storage.as_cuda_slice::<T::Wide>()?.slice(range);
    // SAFETY: the host looks at no element, and the memory is not made longer.
    let view = unsafe { wide.transmute::<T>(wide.len()) };
    view.ok_or_else(|| Error::argument("gpu", "an array is too short"))
}

/// Runs `f` on what is stored on a GPU.
///
/// # Errors
/// [`Error::Shape`] if it has gaps or another order, another type, or is on several devices; those of `f`.
pub(crate) fn run<T: Number, R>(
    op: &'static str,
    args: &[(&CudaStorage, &Layout)],
    last: bool,
    f: impl FnOnce(&Gpu, &[Buffer<'_, T>]) -> Result<R>,
) -> Result<R> {
    let Some((first, _)) = args.first() else {
        return Err(Error::shape(op, "at least one tensor", "none"));
    };
    let device = first.device();
    let mut buffers = Vec::with_capacity(args.len());
    for (storage, layout) in args {
        if storage.device().id() != device.id() {
            return Err(Error::shape(op, "operands on one device", "operands on several"));
        }
        let Some((start, end)) = offsets(layout, last) else {
            return Err(Error::shape(op, "operands without gaps", layout.stride()));
        };
        let data = lent::<T>(storage, start..end)?;
        buffers.push(Buffer { data, dims: layout.dims() });
    }
    f(&Gpu { last, ..Gpu::new(op, device) }, &buffers).map_err(|e| with_shapes(e, &buffers))
}

/// Lends `f` tensors that lie on a GPU, with the channels of images first.
///
/// # Errors
/// As [`run`]; [`Error::Shape`] if one lies elsewhere.
pub(crate) fn with_buffers<T: Number, R>(
    op: &'static str,
    tensors: &[&Tensor],
    f: impl FnOnce(&Gpu, &[Buffer<'_, T>]) -> Result<R>,
) -> Result<R> {
    with_images(op, tensors, Order::First, f)
}

/// As [`with_buffers`], with the channels of images in some order.
///
/// # Errors
/// As [`with_buffers`].
pub(crate) fn with_images<T: Number, R>(
    op: &'static str,
    tensors: &[&Tensor],
    order: Order,
    f: impl FnOnce(&Gpu, &[Buffer<'_, T>]) -> Result<R>,
) -> Result<R> {
    let last = order.is_last(tensors);
    let held = tensors.iter().map(|t| ordered(t, last)).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = held.iter().map(Tensor::storage_and_layout).collect();
    let mut storages = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cuda(storage) => storages.push((storage, *layout)),
            _ => return Err(Error::shape(op, "operands on one device", "some elsewhere")),
        }
    }
    run(op, &storages, last, f)
}
