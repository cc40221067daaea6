//! Products of complex matrices on a GPU.

use super::{Found, KERNELS};
use crate::algebra::complex::{Sizes, complex_product as product};
use crate::gpu::{Buffer, Case, Gpu, Number};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;

/// Rows and columns of the tiles that a block computes.
const TILE: usize = 16;

/// Blocks for matrices of so many rows and columns.
fn tiles(batch: usize, rows: usize, columns: usize) -> usize {
    batch * rows.div_ceil(TILE) * columns.div_ceil(TILE)
}

/// Matrices times their vectors: `args` are real parts, imaginary parts, vectors.
pub(in crate::algebra) fn complex_product<T: Number>(
    Sizes { rows, columns, each }: Sizes,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Found<T> {
    let batch = args[0].dims[0];
    let mut out = gpu.alloc::<T>(batch * each * rows * 2)?;
    let kernel = gpu.function::<T>(&KERNELS, "complex_product")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&args[1].data).arg(&args[2].data).arg(&mut out);
    launch.arg(&batch).arg(&rows).arg(&columns).arg(&each);
    // SAFETY: there are `batch` matrices of these sizes with `each` vectors each, which the caller of
    // `apply` has checked.
    unsafe { gpu.launch(launch, tiles(batch, each, rows), true) }?;
    Ok((out, (batch * each, rows, 2).into()))
}

/// The gradient of one part of the matrices: `args` are the vectors and the products' gradients.
pub(in crate::algebra) fn outer<T: Number>(
    Sizes { rows, columns, each }: Sizes,
    imaginary: bool,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Found<T> {
    let (batch, imaginary) = (args[0].dims[0] / each.max(1), i32::from(imaginary));
    let mut out = gpu.alloc::<T>(batch * rows * columns)?;
    let kernel = gpu.function::<T>(&KERNELS, "complex_outer")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&args[1].data).arg(&mut out);
    launch.arg(&batch).arg(&rows).arg(&columns).arg(&each).arg(&imaginary);
    // SAFETY: there are `each` vectors and products for each of `batch` matrices.
    unsafe { gpu.launch(launch, tiles(batch, rows, columns), true) }?;
    Ok((out, (batch, rows * columns).into()))
}

/// The gradient of the vectors: `args` are real parts, imaginary parts, gradients of the products.
pub(in crate::algebra) fn adjoint<T: Number>(
    Sizes { rows, columns, each }: Sizes,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Found<T> {
    let batch = args[0].dims[0];
    let mut out = gpu.alloc::<T>(batch * each * columns * 2)?;
    let kernel = gpu.function::<T>(&KERNELS, "complex_adjoint")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&args[1].data).arg(&args[2].data).arg(&mut out);
    launch.arg(&batch).arg(&rows).arg(&columns).arg(&each);
    // SAFETY: as in `complex_product`, with products for vectors.
    unsafe { gpu.launch(launch, tiles(batch, each, columns), true) }?;
    Ok((out, (batch * each, columns, 2).into()))
}

pub(super) fn cases() -> Vec<Case> {
    let sizes = [
        [1, 1, 1, 1],
        [20, 12, 36, 8],
        [3, 5, 7, 1],
        [2, 33, 17, 19],
        [300, 2, 3, 4],
        [1, 1, 50, 40],
    ];
    let case = |[n, rows, columns, each]: [usize; 4]| {
        let name = format!("complex_product {n} times [{rows}, {columns}] by {each}");
        let matrix: &[usize] = &[n, rows * columns];
        Case::new(name, &[matrix, matrix, &[n * each, columns, 2]], |x| {
            product(&x[0], &x[1], &x[2])
        })
    };
    sizes.into_iter().map(case).collect()
}
