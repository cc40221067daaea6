//! Numbers of 16 bits on their way to and from products, whose sums are f32.

#![allow(unsafe_code)] // launches of kernels

use super::{Gpu, Kernels, Number, with_buffers};
use crate::{Precision, Result, precision};
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, PushKernelArg,
};
use candle_core::{DType, Tensor};

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
    fn turned_to(gpu: &Gpu, x: CUdeviceptr, sizes: Sizes) -> Result<CudaSlice<Self>> {
        turned_from_to(gpu, x, sizes, Self::turned_to_at)
    }

    /// `[n, rows, columns]` in half precision to `[n, columns, rows]` of f32.
    fn turned_from(gpu: &Gpu, x: CUdeviceptr, sizes: Sizes) -> Result<CudaSlice<f32>> {
        turned_from_to(gpu, x, sizes, Self::turned_from_at)
    }

    /// As [`Half::turned_to`], to what lies at `y`.
    fn turned_to_at(gpu: &Gpu, x: CUdeviceptr, y: CUdeviceptr, sizes: Sizes) -> Result<()> {
        turn(gpu, &gpu.function::<Self>(&KERNELS, "turned_to")?, x, y, sizes)
    }

    /// As [`Half::turned_from`], to what lies at `y`.
    fn turned_from_at(gpu: &Gpu, x: CUdeviceptr, y: CUdeviceptr, sizes: Sizes) -> Result<()> {
        turn(gpu, &gpu.function::<Self>(&KERNELS, "turned_from")?, x, y, sizes)
    }
}

/// Of what is turned: items, rows, columns.
type Sizes = [usize; 3];

impl Half for half::bf16 {}
impl Half for half::f16 {}

/// Contiguous `[n, rows, columns]` of 16 bits to `[n, columns, rows]`.
///
/// # Errors
/// [`crate::Error::Shape`] unless it is such a tensor; if there is no room for the result.
pub(crate) fn turned<T: Number>(t: &Tensor) -> Result<Tensor> {
    let (n, rows, columns) = t.dims3()?;
    with_buffers::<T, _>("turned", &[t], |gpu, args| {
        let (x, _x) = args[0].data.device_ptr(&gpu.stream);
        let out = turned_from_to::<T>(gpu, x, [n, rows, columns], |gpu, x, y, sizes| {
            turn(gpu, &gpu.function::<T>(&KERNELS, "turned")?, x, y, sizes)
        })?;
        Ok(gpu.tensor(out, (n, columns, rows)))
    })
}

/// What `turn` writes to the address that it is given second.
fn turned_from_to<To: DeviceRepr>(
    gpu: &Gpu,
    x: CUdeviceptr,
    sizes: Sizes,
    turn: impl FnOnce(&Gpu, CUdeviceptr, CUdeviceptr, Sizes) -> Result<()>,
) -> Result<CudaSlice<To>> {
    let mut out = gpu.alloc::<To>(sizes.iter().product())?;
    {
        let (y, _y) = out.device_ptr_mut(&gpu.stream);
        turn(gpu, x, y, sizes)?;
    }
    Ok(out)
}

/// Turns what lies at `x` to `y` by one of the kernels.
fn turn(
    gpu: &Gpu,
    kernel: &CudaFunction,
    x: CUdeviceptr,
    y: CUdeviceptr,
    [n, rows, columns]: Sizes,
) -> Result<()> {
    const SIDE: usize = 32;
    let mut launch = gpu.stream.launch_builder(kernel);
    launch.arg(&x).arg(&y).arg(&n).arg(&rows).arg(&columns);
    let squares = n * rows.div_ceil(SIDE) * columns.div_ceil(SIDE);
    // SAFETY: both arrays have as many elements as the product of the sizes, of the kernel's types.
    unsafe { gpu.launch(launch, squares, true) }
}
