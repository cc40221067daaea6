//! Pixel shuffle on a GPU.

#![allow(unsafe_code)] // launches of kernels

use super::Grid;
use crate::Result;
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;

static KERNELS: Kernels =
    Kernels::new("shuffle", include_bytes!(concat!(env!("OUT_DIR"), "/shuffle.fatbin")));

pub(super) fn run<T: Number>(
    grid: &Grid,
    inverse: bool,
    gpu: &Gpu,
    x: &Buffer<'_, T>,
) -> Result<Slice<T>> {
    let (count, inverse) = (x.count(), i32::from(inverse));
    let rows = count / (grid.sizes[2] * grid.factors[2]).max(1);
    let sizes = [grid.sizes, grid.factors];
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "shuffle")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut out).arg(&rows).arg(&sizes).arg(&inverse);
    // SAFETY: both arrays have the elements of the grid; `sizes` is laid out as the kernel's.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [(&[usize], usize); 7] = [
        (&[2, 6, 5], 3),
        (&[1, 3, 700], 3),
        (&[2, 8, 3, 5], 2),
        (&[1, 18, 2, 140], 3),
        (&[1, 36, 1, 1], 6),
        (&[2, 16, 2, 3, 4], 2),
        (&[1, 3, 2, 2], 1),
    ];
    for (shape, r) in shapes {
        let rank = shape.len() - 2;
        let name = format!("pixel_shuffle by {r} of {shape:?}");
        cases.push(Case::new(name, &[shape], move |x| super::pixel_shuffle(&x[0], r)));
        let mut large = vec![shape[0], shape[1] / r.pow(rank as u32)];
        large.extend(shape[2..].iter().map(|s| s * r));
        let name = format!("pixel_unshuffle by {r} of {large:?}");
        cases.push(Case::new(name, &[&large], move |x| super::pixel_unshuffle(&x[0], r)));
    }
    cases
}
