//! Buffers in half precision: operands of products, whose sums are f32.

#![allow(unsafe_code)] // launches of kernels

use super::{Gpu, Kernels, Number};
use crate::{Precision, Result, precision};
use candle_core::DType;
use candle_core::cuda_backend::cudarc::cublas::sys::cudaDataType;
use candle_core::cuda_backend::cudarc::cudnn::sys::cudnnDataType_t;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg};

static KERNELS: Kernels =
    Kernels::new("gpu", include_bytes!(concat!(env!("OUT_DIR"), "/gpu.fatbin")));

/// A number of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Bf16,
    F16,
}

impl Half {
    /// That of the present precision, if it is one and numbers are f32.
    pub(super) fn of<T: Number>() -> Option<Self> {
        match precision() {
            _ if T::DTYPE != DType::F32 => None,
            Precision::Bf16 => Some(Self::Bf16),
            Precision::F16 => Some(Self::F16),
            Precision::F32 | Precision::Tf32 => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    pub(super) fn dnn(self) -> cudnnDataType_t {
        match self {
            Self::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            Self::F16 => cudnnDataType_t::CUDNN_DATA_HALF,
        }
    }

    pub(super) fn blas(self) -> cudaDataType {
        match self {
            Self::Bf16 => cudaDataType::CUDA_R_16BF,
            Self::F16 => cudaDataType::CUDA_R_16F,
        }
    }

    /// `count` numbers of f32, rounded.
    pub(super) fn rounded(self, gpu: &Gpu, x: CUdeviceptr, count: usize) -> Result<CudaSlice<u16>> {
        let mut out = gpu.alloc::<u16>(count)?;
        let kernel = gpu.kernel(&KERNELS, &format!("rounded_to_{}", self.name()))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x).arg(&mut out).arg(&count);
        // SAFETY: both arrays have `count` elements.
        unsafe { gpu.launch(launch, count, false) }?;
        Ok(out)
    }

    /// `[n, rows, columns]` of f32 to `[n, columns, rows]`, rounded.
    pub(super) fn turned(
        self,
        gpu: &Gpu,
        x: CUdeviceptr,
        [n, rows, columns]: [usize; 3],
    ) -> Result<CudaSlice<u16>> {
        let mut out = gpu.alloc::<u16>(n * rows * columns)?;
        let kernel = gpu.kernel(&KERNELS, &format!("turned_to_{}", self.name()))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x).arg(&mut out).arg(&n).arg(&rows).arg(&columns);
        // SAFETY: both arrays have as many elements as the product of the sizes.
        unsafe { gpu.launch(launch, squares([n, rows, columns]), true) }?;
        Ok(out)
    }

    /// `[n, rows, columns]` in half precision to `[n, columns, rows]` of f32 at `y`.
    pub(super) fn turned_back(
        self,
        gpu: &Gpu,
        x: &CudaSlice<u16>,
        y: CUdeviceptr,
        [n, rows, columns]: [usize; 3],
    ) -> Result<()> {
        let kernel = gpu.kernel(&KERNELS, &format!("turned_from_{}", self.name()))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(x).arg(&y).arg(&n).arg(&rows).arg(&columns);
        // SAFETY: both arrays have as many elements as the product of the sizes.
        unsafe { gpu.launch(launch, squares([n, rows, columns]), true) }
    }
}

/// Squares that `turned` moves.
fn squares([n, rows, columns]: [usize; 3]) -> usize {
    const SIDE: usize = 32;
    n * rows.div_ceil(SIDE) * columns.div_ceil(SIDE)
}
