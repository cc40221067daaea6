//! Convolutions by cuDNN.
//!
//! A plan is what is found once for a convolution's sizes: descriptors, algorithm, size of the workspace. Plans are
//! kept per thread, since a handle of cuDNN serves one. Sums are f32 or wider in any case.

#![allow(unsafe_code)] // cuDNN

use super::rounded::{Half, Rounding, turned};
use super::{Buffer, Gpu, Number};
use crate::algebra::add_bias;
use crate::determinism::is_deterministic;
use crate::{Error, Precision, Result, precision};
use candle_core::cuda_backend::cudarc::cudnn::result::{self, CudnnError};
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    self, cudnnConvolutionBwdDataAlgo_t as DataAlgorithm, cudnnConvolutionBwdDataAlgoPerf_t,
    cudnnConvolutionBwdFilterAlgo_t as FilterAlgorithm, cudnnConvolutionBwdFilterAlgoPerf_t,
    cudnnConvolutionDescriptor_t, cudnnConvolutionFwdAlgo_t as ForwardAlgorithm,
    cudnnConvolutionFwdAlgoPerf_t, cudnnConvolutionMode_t, cudnnDataType_t, cudnnDeterminism_t,
    cudnnFilterDescriptor_t, cudnnMathType_t, cudnnStatus_t, cudnnTensorDescriptor_t,
    cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr::from_ref;
use std::rc::Rc;
use std::sync::Arc;

/// The most memory that an algorithm may work in, in bytes.
const WORKSPACE: usize = 1 << 30;
/// Algorithms that cuDNN ranks.
const RANKED: usize = 8;

/// Which of the three maps of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Map {
    /// Image and weight to result.
    Forward,
    /// Result and weight to image.
    Data,
    /// Image and result to weight.
    Filter,
}

/// The sizes of a convolution with two or three spatial dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    /// `[N, C, s..]`
    pub image: Vec<c_int>,
    /// `[K, C/groups, k..]`
    pub weight: Vec<c_int>,
    /// `[N, K, s'..]`
    pub result: Vec<c_int>,
    pub stride: Vec<c_int>,
    pub padding: Vec<c_int>,
    pub dilation: Vec<c_int>,
    pub groups: c_int,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    context: usize,
    map: Map,
    sizes: Sizes,
    form: Form,
    precision: Precision,
    is_deterministic: bool,
}

enum Algorithm {
    Forward(ForwardAlgorithm),
    Data(DataAlgorithm),
    Filter(FilterAlgorithm),
}

struct Plan {
    image: TensorDescriptor,
    result: TensorDescriptor,
    weight: FilterDescriptor,
    convolution: ConvolutionDescriptor,
    algorithm: Algorithm,
    workspace: usize,
}

thread_local! {
    static HANDLES: RefCell<HashMap<usize, Handle>> = RefCell::default();
    static PLANS: RefCell<HashMap<Key, Rc<Plan>>> = RefCell::default();
}

/// One map: the two operands, in the order of [`Map`]'s description, to what it gives, plus a number of the bias for
/// each of its channels.
///
/// Numbers of 16 bits have their channels last for cuDNN, as tensor cores want them. They are turned, and f32 is
/// rounded if that is chosen, in one pass each.
///
/// # Errors
/// [`Error::Argument`] if cuDNN is missing or refuses, or memory runs out.
pub(crate) fn convolve<T: Number>(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    [first, second]: [&Buffer<'_, T>; 2],
    bias: Option<&Buffer<'_, T>>,
) -> Result<CudaSlice<T>> {
    let (a, _a) = first.data.device_ptr(&gpu.stream);
    let (b, _b) = second.data.device_ptr(&gpu.stream);
    let of_y = dims(map, sizes)[2];
    let plane = count(&of_y[2..]);
    if Rounding::of::<T>() == Rounding::Stored {
        return stored(gpu, map, sizes, [a, b], bias);
    }
    let mut out = gpu.alloc::<T>(count(of_y))?;
    {
        let (y, _y) = out.device_ptr_mut(&gpu.stream);
        match Rounding::of::<T>() {
            Rounding::Bf16 => rounded::<half::bf16>(gpu, map, sizes, [a, b], y)?,
            Rounding::F16 => rounded::<half::f16>(gpu, map, sizes, [a, b], y)?,
            _ => run(gpu, map, sizes, Form { number: T::DNN, last: false }, [a, b], y)?,
        }
    }
    if let Some(bias) = bias {
        add_bias(gpu, &mut out, bias, plane)?;
    }
    Ok(out)
}

/// The dimensions of the operands and of the result.
fn dims(map: Map, sizes: &Sizes) -> [&[c_int]; 3] {
    let Sizes { image, weight, result, .. } = sizes;
    match map {
        Map::Forward => [image, weight, result],
        Map::Data => [result, weight, image],
        Map::Filter => [image, result, weight],
    }
}

/// Of f32, rounded to and from numbers of 16 bits.
fn rounded<H: Half>(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    [a, b]: [CUdeviceptr; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let [of_a, of_b, of_y] = dims(map, sizes);
    let (a, b) = (H::turned_to(gpu, a, planes(of_a))?, H::turned_to(gpu, b, planes(of_b))?);
    let mut small = gpu.alloc::<H>(count(of_y))?;
    {
        let (a, _a) = a.device_ptr(&gpu.stream);
        let (b, _b) = b.device_ptr(&gpu.stream);
        let (y, _y) = small.device_ptr_mut(&gpu.stream);
        run(gpu, map, sizes, Form { number: H::DNN, last: true }, [a, b], y)?;
    }
    drop((a, b));
    let [n, channels, pixels] = planes(of_y);
    H::turned_from(gpu, &small, y, [n, pixels, channels])
}

/// Of numbers that have 16 bits.
fn stored<T: Number>(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    operands: [CUdeviceptr; 2],
    bias: Option<&Buffer<'_, T>>,
) -> Result<CudaSlice<T>> {
    let of = dims(map, sizes);
    // one channel, or one pixel, lies the same either way; what begins anywhere is copied to where cuDNN expects it
    let turns = |dims: &[c_int]| planes(dims)[1..].iter().all(|&size| size > 1);
    let moves = |x: CUdeviceptr, dims: &[c_int]| turns(dims) || !x.is_multiple_of(16);
    let mut held = Vec::with_capacity(operands.len());
    for (x, dims) in operands.into_iter().zip(of) {
        held.push(moves(x, dims).then(|| turned::<T>(gpu, x, planes(dims), 0)).transpose()?);
    }
    let mut y = gpu.alloc::<T>(count(of[2]))?;
    {
        let views: Vec<_> =
            held.iter().map(|x| x.as_ref().map(|x| x.device_ptr(&gpu.stream))).collect();
        let [a, b] = [0, 1].map(|i| views[i].as_ref().map_or(operands[i], |(x, _)| *x));
        let (y, _y) = y.device_ptr_mut(&gpu.stream);
        run(gpu, map, sizes, Form { number: T::DNN, last: true }, [a, b], y)?;
    }
    drop(held);
    let [n, channels, pixels] = planes(of[2]);
    if !turns(of[2]) {
        if let Some(bias) = bias {
            add_bias(gpu, &mut y, bias, pixels)?;
        }
        return Ok(y);
    }
    let (x, _x) = y.device_ptr(&gpu.stream);
    let bias = bias.map(|bias| bias.data.device_ptr(&gpu.stream));
    let start = bias.as_ref().map_or(0, |(start, _)| *start);
    turned::<T>(gpu, x, [n, pixels, channels], start)
}

fn count(dims: &[c_int]) -> usize {
    dims.iter().map(|&d| d as usize).product()
}

/// Items, channels, and pixels of each.
fn planes(dims: &[c_int]) -> [usize; 3] {
    [dims[0] as usize, dims[1] as usize, count(&dims[2..])]
}

/// How the numbers of a convolution are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    number: cudnnDataType_t,
    /// Whether channels are the fastest axis, else the slowest but one.
    last: bool,
}

/// One map of what lies at `a` and `b` to `y`.
fn run(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    form: Form,
    [a, b]: [CUdeviceptr; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let handle = handle(gpu)?;
    let plan = plan(gpu, handle, map, sizes, form)?;
    let mut space = gpu.alloc::<u8>(plan.workspace.max(1))?;
    let (space, _space) = space.device_ptr_mut(&gpu.stream);
    let (a, b, y, space) = (a as *const _, b as *const _, y as *mut _, space as *mut _);
    // the factors of sums have the type of these
    let (single, double) = ([1f32, 0.0], [1f64, 0.0]);
    let [one, zero] = match form.number {
        cudnnDataType_t::CUDNN_DATA_DOUBLE => double.each_ref().map(|x| from_ref(x).cast()),
        _ => single.each_ref().map(|x| from_ref(x).cast()),
    };
    let Plan { image, result, weight, convolution, workspace: size, .. } = &*plan;
    let (c, size) = (convolution.0, *size);
    // SAFETY: the buffers have the sizes of the descriptors, and live until work queued here is done, since they are
    // freed in the order of the stream.
    let status = unsafe {
        match plan.algorithm {
            Algorithm::Forward(algorithm) => sys::cudnnConvolutionForward(
                handle, one, image.0, a, weight.0, b, c, algorithm, space, size, zero, result.0, y,
            ),
            Algorithm::Data(algorithm) => sys::cudnnConvolutionBackwardData(
                handle, one, weight.0, b, result.0, a, c, algorithm, space, size, zero, image.0, y,
            ),
            Algorithm::Filter(algorithm) => sys::cudnnConvolutionBackwardFilter(
                handle, one, image.0, a, result.0, b, c, algorithm, space, size, zero, weight.0, y,
            ),
        }
    };
    status.result().map_err(|e| {
        let message = format!("cuDNN failed on {sizes:?}: {e}");
        Error::argument(gpu.op, message)
    })
}

/// A handle of cuDNN.
struct Handle(sys::cudnnHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `handle`, and used by this thread alone.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// This thread's handle of the device.
fn handle(gpu: &Gpu) -> Result<sys::cudnnHandle_t> {
    let context = Arc::as_ptr(gpu.stream.context()).addr();
    let made = || {
        let handle = Handle(result::create_handle()?);
        // SAFETY: the stream is candle's only one of this device, which outlives its tensors.
        unsafe { result::set_stream(handle.0, gpu.stream.cu_stream().cast()) }?;
        Ok(handle)
    };
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&context) {
            return Ok(handle.0);
        }
        let handle = made().map_err(|e: CudnnError| {
            let message = format!("cuDNN cannot be used: {e}; install cuDNN 9 (libcudnn.so.9)");
            Error::argument(gpu.op, message)
        })?;
        let raw = handle.0;
        handles.insert(context, handle);
        Ok(raw)
    })
}

/// What is known of a convolution, found at its first use.
fn plan(
    gpu: &Gpu,
    handle: sys::cudnnHandle_t,
    map: Map,
    sizes: &Sizes,
    form: Form,
) -> Result<Rc<Plan>> {
    let key = Key {
        context: Arc::as_ptr(gpu.stream.context()).addr(),
        map,
        sizes: sizes.clone(),
        form,
        precision: precision(),
        is_deterministic: is_deterministic(),
    };
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&key).cloned()) {
        return Ok(plan);
    }
    let plan = Plan::new(handle, map, sizes, form).map_err(|e| {
        let message = format!("cuDNN has no algorithm for {sizes:?}: {e}");
        Error::argument(gpu.op, message)
    })?;
    let plan = Rc::new(plan);
    PLANS.with_borrow_mut(|plans| plans.insert(key, plan.clone()));
    Ok(plan)
}

impl Plan {
    fn new(
        handle: sys::cudnnHandle_t,
        map: Map,
        sizes: &Sizes,
        form: Form,
    ) -> std::result::Result<Self, CudnnError> {
        let image = TensorDescriptor::new(form, &sizes.image)?;
        let result = TensorDescriptor::new(form, &sizes.result)?;
        let weight = FilterDescriptor::new(form, &sizes.weight)?;
        let convolution = ConvolutionDescriptor::new(form.number, sizes)?;
        // tensor cores round what is f32
        let is_exact = matches!(
            form.number,
            cudnnDataType_t::CUDNN_DATA_FLOAT | cudnnDataType_t::CUDNN_DATA_DOUBLE
        ) && precision() != Precision::Tf32;
        let (mut count, mut workspace) = (0, 0);
        let (x, y, w, c) = (image.0, result.0, weight.0, convolution.0);
        let most = RANKED as c_int;
        // SAFETY: the descriptors are set, and there is room for as many answers as are asked for.
        let algorithm = unsafe {
            match map {
                Map::Forward => {
                    let mut found = [cudnnConvolutionFwdAlgoPerf_t::unset(); RANKED];
                    let to = found.as_mut_ptr();
                    sys::cudnnGetConvolutionForwardAlgorithm_v7(
                        handle, x, w, c, y, most, &mut count, to,
                    )
                    .result()?;
                    let algo = best(&found, count, is_exact)?.algo;
                    sys::cudnnGetConvolutionForwardWorkspaceSize(
                        handle,
                        x,
                        w,
                        c,
                        y,
                        algo,
                        &mut workspace,
                    )
                    .result()?;
                    Algorithm::Forward(algo)
                }
                Map::Data => {
                    let mut found = [cudnnConvolutionBwdDataAlgoPerf_t::unset(); RANKED];
                    let to = found.as_mut_ptr();
                    sys::cudnnGetConvolutionBackwardDataAlgorithm_v7(
                        handle, w, y, c, x, most, &mut count, to,
                    )
                    .result()?;
                    let algo = best(&found, count, is_exact)?.algo;
                    sys::cudnnGetConvolutionBackwardDataWorkspaceSize(
                        handle,
                        w,
                        y,
                        c,
                        x,
                        algo,
                        &mut workspace,
                    )
                    .result()?;
                    Algorithm::Data(algo)
                }
                Map::Filter => {
                    let mut found = [cudnnConvolutionBwdFilterAlgoPerf_t::unset(); RANKED];
                    let to = found.as_mut_ptr();
                    sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7(
                        handle, x, y, c, w, most, &mut count, to,
                    )
                    .result()?;
                    let algo = best(&found, count, is_exact)?.algo;
                    sys::cudnnGetConvolutionBackwardFilterWorkspaceSize(
                        handle,
                        x,
                        y,
                        c,
                        w,
                        algo,
                        &mut workspace,
                    )
                    .result()?;
                    Algorithm::Filter(algo)
                }
            }
        };
        Ok(Self { image, result, weight, convolution, algorithm, workspace })
    }
}

/// An algorithm as cuDNN ranks it.
trait Ranked: Copy {
    fn unset() -> Self;
    fn is_usable(&self, is_exact: bool) -> bool;
}

macro_rules! ranked {
    ($kind:ty, $first:expr) => {
        impl Ranked for $kind {
            fn unset() -> Self {
                Self {
                    algo: $first,
                    status: cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED,
                    time: 0.0,
                    memory: 0,
                    determinism: cudnnDeterminism_t::CUDNN_NON_DETERMINISTIC,
                    mathType: cudnnMathType_t::CUDNN_DEFAULT_MATH,
                    reserved: [0; 3],
                }
            }

            fn is_usable(&self, is_exact: bool) -> bool {
                let repeats = self.determinism == cudnnDeterminism_t::CUDNN_DETERMINISTIC;
                let keeps = self.mathType == cudnnMathType_t::CUDNN_FMA_MATH
                    || self.mathType == cudnnMathType_t::CUDNN_DEFAULT_MATH;
                self.status == cudnnStatus_t::CUDNN_STATUS_SUCCESS
                    && self.memory <= WORKSPACE
                    && (repeats || !is_deterministic())
                    && (keeps || !is_exact)
            }
        }
    };
}

ranked!(cudnnConvolutionFwdAlgoPerf_t, ForwardAlgorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);
ranked!(cudnnConvolutionBwdDataAlgoPerf_t, DataAlgorithm::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1);
ranked!(cudnnConvolutionBwdFilterAlgoPerf_t, FilterAlgorithm::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);

/// The fastest, by cuDNN's ranking, that keeps to the options.
fn best<R: Ranked>(
    found: &[R],
    count: c_int,
    is_exact: bool,
) -> std::result::Result<R, CudnnError> {
    let count = usize::try_from(count).unwrap_or(0);
    let usable = found.iter().take(count).find(|one| one.is_usable(is_exact));
    usable.copied().ok_or(CudnnError(cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED))
}

struct TensorDescriptor(cudnnTensorDescriptor_t);

impl TensorDescriptor {
    /// Of a tensor without gaps.
    fn new(form: Form, dims: &[c_int]) -> std::result::Result<Self, CudnnError> {
        let made = Self(result::create_tensor_descriptor()?);
        let mut order: Vec<usize> = (0..dims.len()).collect();
        if form.last {
            order[1..].rotate_left(1);
        }
        let (mut strides, mut step) = (vec![1; dims.len()], 1);
        for &d in order.iter().rev() {
            strides[d] = step;
            step *= dims[d];
        }
        // SAFETY: both arrays are as long as is said.
        unsafe {
            sys::cudnnSetTensorNdDescriptor(
                made.0,
                form.number,
                dims.len() as c_int,
                dims.as_ptr(),
                strides.as_ptr(),
            )
        }
        .result()?;
        Ok(made)
    }
}

impl Drop for TensorDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0) };
    }
}

struct FilterDescriptor(cudnnFilterDescriptor_t);

impl FilterDescriptor {
    fn new(form: Form, dims: &[c_int]) -> std::result::Result<Self, CudnnError> {
        let made = Self(result::create_filter_descriptor()?);
        let format = match form.last {
            true => cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
            false => cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
        };
        // SAFETY: the array is as long as is said.
        unsafe {
            sys::cudnnSetFilterNdDescriptor(
                made.0,
                form.number,
                format,
                dims.len() as c_int,
                dims.as_ptr(),
            )
        }
        .result()?;
        Ok(made)
    }
}

impl Drop for FilterDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_filter_descriptor(self.0) };
    }
}

struct ConvolutionDescriptor(cudnnConvolutionDescriptor_t);

impl ConvolutionDescriptor {
    fn new(number: cudnnDataType_t, sizes: &Sizes) -> std::result::Result<Self, CudnnError> {
        let made = Self(result::create_convolution_descriptor()?);
        let sums = match number {
            cudnnDataType_t::CUDNN_DATA_DOUBLE => number,
            _ => cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let math = match (number, precision() == Precision::Tf32) {
            (cudnnDataType_t::CUDNN_DATA_FLOAT, false) => cudnnMathType_t::CUDNN_FMA_MATH,
            _ => cudnnMathType_t::CUDNN_DEFAULT_MATH,
        };
        // SAFETY: the three arrays have one entry per spatial dimension.
        unsafe {
            sys::cudnnSetConvolutionNdDescriptor(
                made.0,
                sizes.stride.len() as c_int,
                sizes.padding.as_ptr(),
                sizes.stride.as_ptr(),
                sizes.dilation.as_ptr(),
                cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sums,
            )
            .result()?;
            sys::cudnnSetConvolutionGroupCount(made.0, sizes.groups).result()?;
            sys::cudnnSetConvolutionMathType(made.0, math).result()?;
        }
        Ok(made)
    }
}

impl Drop for ConvolutionDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_convolution_descriptor(self.0) };
    }
}
