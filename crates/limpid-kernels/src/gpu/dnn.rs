//! Convolutions by cuDNN. Sums are f32 or wider in any case.

#![allow(unsafe_code)] // cuDNN

use super::plan::{Algorithm, Descriptors, Form, Plan, is_full, plan};
use super::rounded::{Half, Rounding};
use super::{Buffer, Gpu, Number};
use crate::{Error, Result};
use candle_core::DType;
use candle_core::cuda_backend::cudarc::cudnn::result::{self, CudnnError};
use candle_core::cuda_backend::cudarc::cudnn::sys::{self, cudnnDataType_t};
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr::from_ref;
use std::sync::Arc;

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

thread_local! {
    static HANDLES: RefCell<HashMap<usize, Handle>> = RefCell::default();
}

/// One map: the two operands, in the order of [`Map`]'s description, to what it gives.
///
/// Numbers of 16 bits have their channels last, as tensor cores want them; f32 is turned and rounded on the way, there
/// and back, if that is chosen.
///
/// # Errors
/// [`Error::Argument`] if cuDNN is missing or refuses, or memory runs out.
pub(crate) fn convolve<T: Number>(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    [first, second]: [&Buffer<'_, T>; 2],
) -> Result<CudaSlice<T>> {
    // what begins anywhere is copied to where tensor cores read
    let at = |x: &Buffer<'_, T>| x.data.device_ptr(&gpu.stream).0;
    let copied = |x: &Buffer<'_, T>| {
        let moves = !at(x).is_multiple_of(16);
        moves.then(|| gpu.copied(&x.data)).transpose()
    };
    let copies = [copied(first)?, copied(second)?];
    let views = [placed(first, copies[0].as_ref()), placed(second, copies[1].as_ref())];
    let (a, _a) = views[0].device_ptr(&gpu.stream);
    let (b, _b) = views[1].device_ptr(&gpu.stream);
    let mut out = gpu.alloc::<T>(count(dims(map, sizes)[2]))?;
    {
        let (y, _y) = out.device_ptr_mut(&gpu.stream);
        match (Rounding::of::<T>(), T::DTYPE) {
            (Rounding::Bf16, _) => rounded::<half::bf16>(gpu, map, sizes, [a, b], y)?,
            (Rounding::F16, _) => rounded::<half::f16>(gpu, map, sizes, [a, b], y)?,
            (_, DType::BF16) => stored::<half::bf16>(gpu, map, sizes, [a, b], y)?,
            (_, DType::F16) => stored::<half::f16>(gpu, map, sizes, [a, b], y)?,
            _ => in_order(gpu, map, sizes, T::DNN, [a, b], y)?,
        }
    }
    Ok(out)
}

/// Where an operand is read.
fn placed<'a, T>(x: &'a Buffer<'_, T>, copy: Option<&'a CudaSlice<T>>) -> CudaView<'a, T> {
    copy.map_or_else(|| x.data.slice(..), CudaSlice::as_view)
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

/// Of f32, turned and rounded to numbers of 16 bits and back.
fn rounded<H: Half>(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    operands: [CUdeviceptr; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let of = dims(map, sizes);
    let to = |i: usize| H::turned_to(gpu, operands[i], planes(of[i]));
    let (a, b) = (to(0)?, to(1)?);
    let mut small = gpu.alloc::<H>(count(of[2]))?;
    {
        let (a, _a) = a.device_ptr(&gpu.stream);
        let (b, _b) = b.device_ptr(&gpu.stream);
        let (small, _small) = small.device_ptr_mut(&gpu.stream);
        stored::<H>(gpu, map, sizes, [a, b], small)?;
    }
    drop((a, b));
    let [n, channels, pixels] = planes(of[2]);
    let (small, _small) = small.device_ptr(&gpu.stream);
    H::turned_from_at(gpu, small, y, [n, pixels, channels])
}

/// Of numbers that have 16 bits, channels last; by way of f32 where cuDNN has nothing for them.
fn stored<H: Half>(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    operands: [CUdeviceptr; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let form = Form { number: H::DNN, last: true };
    let of = dims(map, sizes);
    if let Some(plan) = plan(gpu, handle(gpu)?, map, sizes, form)? {
        return run(gpu, &plan, operands, y);
    }
    let from = |i: usize| {
        let [n, channels, pixels] = planes(of[i]);
        H::turned_from(gpu, operands[i], [n, pixels, channels])
    };
    let (a, b) = (from(0)?, from(1)?);
    let mut wide = gpu.alloc::<f32>(count(of[2]))?;
    {
        let (a, _a) = a.device_ptr(&gpu.stream);
        let (b, _b) = b.device_ptr(&gpu.stream);
        let (wide, _wide) = wide.device_ptr_mut(&gpu.stream);
        in_order(gpu, map, sizes, f32::DNN, [a, b], wide)?;
    }
    let (wide, _wide) = wide.device_ptr(&gpu.stream);
    H::turned_to_at(gpu, wide, y, planes(of[2]))
}

fn count(dims: &[c_int]) -> usize {
    dims.iter().map(|&d| d as usize).product()
}

/// Items, channels, and pixels of each.
fn planes(dims: &[c_int]) -> [usize; 3] {
    [dims[0] as usize, dims[1] as usize, count(&dims[2..])]
}

/// Of numbers whose channels lie first.
fn in_order(
    gpu: &Gpu,
    map: Map,
    sizes: &Sizes,
    number: cudnnDataType_t,
    operands: [CUdeviceptr; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let form = Form { number, last: false };
    let Some(plan) = plan(gpu, handle(gpu)?, map, sizes, form)? else {
        let message = format!("cuDNN has no algorithm for {sizes:?}");
        return Err(Error::argument(gpu.op, message));
    };
    run(gpu, &plan, operands, y)
}

/// A plan with what lies at `a` and `b`, to `y`.
fn run(gpu: &Gpu, plan: &Plan, [a, b]: [CUdeviceptr; 2], y: CUdeviceptr) -> Result<()> {
    let handle = handle(gpu)?;
    let mut space = gpu.alloc::<u8>(plan.workspace.max(1))?;
    let (space, _space) = space.device_ptr_mut(&gpu.stream);
    let (a, b, y, space) = (a as *const _, b as *const _, y as *mut _, space as *mut _);
    // the factors of sums have the type of these
    let (single, double) = ([1f32, 0.0], [1f64, 0.0]);
    let [one, zero] = match plan.number {
        cudnnDataType_t::CUDNN_DATA_DOUBLE => double.each_ref().map(|x| from_ref(x).cast()),
        _ => single.each_ref().map(|x| from_ref(x).cast()),
    };
    let Descriptors { image, result, weight, convolution } = &plan.of;
    let (c, size) = (convolution.0, plan.workspace);
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
        let message = format!("cuDNN failed: {e}");
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
            let message = match is_full(e.0) {
                true => format!("no room for cuDNN on the GPU: {e}"),
                false => format!("cuDNN cannot be used: {e}; install cuDNN 9 (libcudnn.so.9)"),
            };
            Error::argument(gpu.op, message)
        })?;
        let raw = handle.0;
        handles.insert(context, handle);
        Ok(raw)
    })
}
