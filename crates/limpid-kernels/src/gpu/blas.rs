//! Products of matrices by cuBLAS.

#![allow(unsafe_code)] // cuBLAS

use super::rounded::{Half, Rounding};
use super::{Buffer, Gpu, Number};
use crate::{Error, Precision, Result, precision};
use candle_core::cuda_backend::cudarc::cublas::result as blas;
use candle_core::cuda_backend::cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use std::ptr::from_ref;

/// `batch` products of `a [m, k]` and `b [k, n]`, matrices by rows that follow each other; each is stored
/// transposed if `swapped` says so.
///
/// # Errors
/// [`Error::Argument`] if cuBLAS is missing or refuses, or memory runs out.
pub(crate) fn product<T: Number>(
    gpu: &Gpu,
    batch: usize,
    [m, n, k]: [usize; 3],
    [a, b]: [&Buffer<'_, T>; 2],
    swapped: [bool; 2],
) -> Result<CudaSlice<T>> {
    let count = batch * m * n;
    if count == 0 || k == 0 {
        return gpu.zeros(count);
    }
    let mut y = gpu.alloc::<T>(count)?;
    {
        let (y, _y) = y.device_ptr_mut(&gpu.stream);
        let sizes = [batch, m, n, k];
        match Rounding::of::<T>() {
            Rounding::Bf16 => rounded::<half::bf16, T>(gpu, sizes, [a, b], swapped, y)?,
            Rounding::F16 => rounded::<half::f16, T>(gpu, sizes, [a, b], swapped, y)?,
            Rounding::Stored | Rounding::None => {
                let (left, _a) = a.data.device_ptr(&gpu.stream);
                let (right, _b) = b.data.device_ptr(&gpu.stream);
                run(gpu, sizes, [T::BLAS; 2], [left, right], swapped, y)?;
            }
        }
    }
    Ok(y)
}

/// The products of f32 that is rounded first.
fn rounded<H: Half, T: Number>(
    gpu: &Gpu,
    sizes: [usize; 4],
    [a, b]: [&Buffer<'_, T>; 2],
    swapped: [bool; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let small = |x: &Buffer<'_, T>| {
        let (start, _x) = x.data.device_ptr(&gpu.stream);
        H::rounded(gpu, start, x.count())
    };
    let (a, b) = (small(a)?, small(b)?);
    let (left, _a) = a.device_ptr(&gpu.stream);
    let (right, _b) = b.device_ptr(&gpu.stream);
    run(gpu, sizes, [H::BLAS, T::BLAS], [left, right], swapped, y)
}

/// The products of what lies at `a` and `b`, numbers of the first type, to `y`, of the second.
fn run(
    gpu: &Gpu,
    [batch, m, n, k]: [usize; 4],
    [number, result]: [cudaDataType; 2],
    [a, b]: [CUdeviceptr; 2],
    swapped: [bool; 2],
    y: CUdeviceptr,
) -> Result<()> {
    let too_large =
        |_| Error::argument(gpu.op, format!("a product of {m} x {k} x {n} is too large"));
    let int = |x: usize| i32::try_from(x).map_err(too_large);
    let operation = |swapped| match swapped {
        true => cublasOperation_t::CUBLAS_OP_T,
        false => cublasOperation_t::CUBLAS_OP_N,
    };
    // cuBLAS has matrices by columns: what is asked for is yᵀ = bᵀ·aᵀ
    let (lda, ldb) = (if swapped[0] { m } else { k }, if swapped[1] { k } else { n });
    let (single, double) = ([1f32, 0.0], [1f64, 0.0]);
    let is_double = result == cudaDataType::CUDA_R_64F;
    let [one, zero] = match is_double {
        true => double.each_ref().map(|x| from_ref(x).cast()),
        false => single.each_ref().map(|x| from_ref(x).cast()),
    };
    let compute = match precision() {
        _ if is_double => cublasComputeType_t::CUBLAS_COMPUTE_64F,
        Precision::Tf32 if number == cudaDataType::CUDA_R_32F => {
            cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        }
        _ => cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let handle = gpu.device.cublas_handle();
    // SAFETY: the buffers hold `batch` matrices of these sizes, and are freed in the order of the stream.
    let done = unsafe {
        blas::gemm_strided_batched_ex(
            *handle.handle(),
            operation(swapped[1]),
            operation(swapped[0]),
            int(n)?,
            int(m)?,
            int(k)?,
            one,
            b as *const _,
            number,
            int(ldb)?,
            (k * n) as i64,
            a as *const _,
            number,
            int(lda)?,
            (m * k) as i64,
            zero,
            y as *mut _,
            result,
            int(n)?,
            (m * n) as i64,
            int(batch)?,
            compute,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    };
    done.map_err(|e| {
        let message = format!("cuBLAS failed on {batch} products of {m} x {k} x {n}: {e}");
        Error::argument(gpu.op, message)
    })
}
