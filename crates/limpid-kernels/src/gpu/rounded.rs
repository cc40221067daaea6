//! Numbers of 16 bits on their way to and from products, whose sums are f32.

#![allow(unsafe_code)] // launches of kernels

use super::{Gpu, Kernels, Number};
use crate::{Precision, Result, precision};
use candle_core::DType;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg};

static KERNELS: Kernels =
    Kernels::new("gpu", include_bytes!(concat!(env!("OUT_DIR"), "/gpu.fatbin")));

/// To what the factors of products are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// They have 16 bits themselves.
    Stored,
    /// They are f32 or f64, and stay so.
    None,
    /// They are f32.
    Bf16,
    /// They are f32.
    F16,
}

impl Rounding {
    /// That of numbers of a type at the present precision.
    pub(super) fn of<T: Number>() -> Self {
        match (T::DTYPE, precision()) {
            (DType::BF16 | DType::F16, _) => Self::Stored,
            (DType::F32, Precision::Bf16) => Self::Bf16,
            (DType::F32, Precision::F16) => Self::F16,
            _ => Self::None,
        }
    }
}

/// A number of 16 bits, from and to f32.
pub(super) trait Half: Number<Wide = f32> {
    /// `count` numbers of f32, rounded.
    fn rounded(gpu: &Gpu, x: CUdeviceptr, count: usize) -> Result<CudaSlice<Self>> {
        let mut out = gpu.alloc::<Self>(count)?;
        let kernel = gpu.function::<Self>(&KERNELS, "rounded_to")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x).arg(&mut out).arg(&count);
        // SAFETY: both arrays have `count` elements.
        unsafe { gpu.launch(launch, count, false) }?;
        Ok(out)
    }

    /// `[n, rows, columns]` of f32 to `[n, columns, rows]`, rounded.
    fn turned_to(gpu: &Gpu, x: CUdeviceptr, sizes: [usize; 3]) -> Result<CudaSlice<Self>> {
        let mut out = gpu.alloc::<Self>(sizes.iter().product())?;
        let [n, rows, columns] = sizes;
        let kernel = gpu.function::<Self>(&KERNELS, "turned_to")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x).arg(&mut out).arg(&n).arg(&rows).arg(&columns);
        // SAFETY: both arrays have as many elements as the product of the sizes.
        unsafe { gpu.launch(launch, squares(sizes), true) }?;
        Ok(out)
    }

    /// `[n, rows, columns]` in half precision to `[n, columns, rows]` of f32 at `y`.
    fn turned_from(
        gpu: &Gpu,
        x: &CudaSlice<Self>,
        y: CUdeviceptr,
        sizes: [usize; 3],
    ) -> Result<()> {
        let [n, rows, columns] = sizes;
        let kernel = gpu.function::<Self>(&KERNELS, "turned_from")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(x).arg(&y).arg(&n).arg(&rows).arg(&columns);
        // SAFETY: both arrays have as many elements as the product of the sizes.
        unsafe { gpu.launch(launch, squares(sizes), true) }
    }
}

impl Half for half::bf16 {}
impl Half for half::f16 {}

/// `[n, rows, columns]` of 16 bits to `[n, columns, rows]`, plus a number of `bias` for each column if it is not 0.
pub(super) fn turned<T: Number>(
    gpu: &Gpu,
    x: CUdeviceptr,
    sizes: [usize; 3],
    bias: CUdeviceptr,
) -> Result<CudaSlice<T>> {
    let mut out = gpu.alloc::<T>(sizes.iter().product())?;
    let [n, rows, columns] = sizes;
    let kernel = gpu.function::<T>(&KERNELS, "turned")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x).arg(&mut out).arg(&n).arg(&rows).arg(&columns).arg(&bias);
    // SAFETY: both arrays have as many elements as the product of the sizes, the bias one for each column.
    unsafe { gpu.launch(launch, squares(sizes), true) }?;
    Ok(out)
}

/// Squares that `turned` moves.
fn squares([n, rows, columns]: [usize; 3]) -> usize {
    const SIDE: usize = 32;
    n * rows.div_ceil(SIDE) * columns.div_ceil(SIDE)
}
