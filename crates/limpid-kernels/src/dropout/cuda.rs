//! Dropout on a GPU, with the masks of the CPU.

#![allow(unsafe_code)] // launches of kernels

use super::Dropout;
use crate::Result;
use crate::gpu::graph::Words;
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice};
use crate::rng::Stream;
use candle_core::Shape;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;

static KERNELS: Kernels =
    Kernels::new("dropout", include_bytes!(concat!(env!("OUT_DIR"), "/dropout.fatbin")));

/// Elements that one thread draws for.
const DRAWN: usize = 4;

pub(super) fn run<T: Number>(
    op: &Dropout,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Shape)> {
    let x = &args[0];
    let out = if op.plane == 1 { elements(op, gpu, x) } else { planes(op, gpu, x) }?;
    Ok((out, x.dims.into()))
}

fn elements<T: Number>(op: &Dropout, gpu: &Gpu, x: &Buffer<'_, T>) -> Result<Slice<T>> {
    let count = x.count();
    let (scale, limit) = (T::wide(op.scale()), op.limit());
    let Words { key, sub, at } = Words::of(op.name, op.stream)?;
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, if gpu.last { "dropout_last" } else { "dropout" })?;
    let [plane, channels] = if gpu.last { gpu.planes(x.dims) } else { [0; 2] };
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut out).arg(&count).arg(&scale).arg(&limit);
    launch.arg(&key).arg(&sub).arg(&at);
    if gpu.last {
        launch.arg(&plane).arg(&channels);
    }
    // SAFETY: both arrays have `count` elements, channels last as told; two words lie at an address that is not 0.
    unsafe { gpu.launch(launch, count.div_ceil(DRAWN), false) }?;
    Ok(out)
}

fn planes<T: Number>(op: &Dropout, gpu: &Gpu, x: &Buffer<'_, T>) -> Result<Slice<T>> {
    let count = x.count();
    let [plane, channels] = gpu.planes(x.dims);
    let planes = count / plane.max(1);
    let (scale, limit) = (T::wide(op.scale()), op.limit());
    let Words { key, sub, at } = Words::of(op.name, op.stream)?;
    let mut factors = gpu.alloc::<T::Wide>(planes)?;
    let kernel = gpu.function::<T::Wide>(&KERNELS, "dropout_factors")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut factors).arg(&planes).arg(&scale).arg(&limit);
    launch.arg(&key).arg(&sub).arg(&at);
    // SAFETY: there is a factor for each plane; two words lie at an address that is not 0.
    unsafe { gpu.launch(launch, planes.div_ceil(DRAWN), false) }?;

    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "drop_planes")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&factors).arg(&mut out).arg(&count).arg(&plane).arg(&channels);
    // SAFETY: both arrays have `planes` planes of `plane` elements, with a factor each.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}

pub(crate) fn cases() -> Vec<Case> {
    let stream = || Stream::new(7, "dropout").at(2, 3);
    let mut cases = Vec::new();
    let shapes: [&[usize]; 4] = [&[1], &[3, 5, 7, 11], &[40_003], &[2, 64, 32]];
    for (shape, p) in shapes.into_iter().zip([0.5, 0.3, 0.1, 1.0]) {
        let name = format!("dropout {p} of {shape:?}");
        cases.push(Case::new(name, &[shape], move |x| super::dropout(&x[0], p, stream())));
    }
    // a part of a tensor, which begins between packs
    cases.push(Case::new("dropout of a part", &[&[5, 7, 9]], move |x| {
        super::dropout(&crate::algebra::narrow(&x[0], 0, 1, 3)?, 0.4, stream())
    }));
    let shapes: [&[usize]; 5] =
        [&[5, 7, 3, 2], &[3, 5, 700], &[40, 50, 1], &[2, 3, 5, 7, 11], &[2, 3, 4]];
    for (shape, p) in shapes.into_iter().zip([0.5, 0.3, 0.1, 0.7, 1.0]) {
        let name = format!("dropout_channels {p} of {shape:?}");
        cases.push(Case::new(name, &[shape], move |x| super::dropout_channels(&x[0], p, stream())));
    }
    cases
}
