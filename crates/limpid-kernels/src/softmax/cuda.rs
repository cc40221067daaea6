//! The softmax on a GPU.

#![allow(unsafe_code)] // launches of kernels

use super::{log_softmax, softmax};
use crate::Result;
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{Device, Shape, Tensor};

static KERNELS: Kernels =
    Kernels::new("softmax", include_bytes!(concat!(env!("OUT_DIR"), "/softmax.fatbin")));

/// Threads of a block, as in limpid.cuh.
const THREADS: usize = 256;
/// Numbers of a thread in registers, as in op.cu.
const KEPT: usize = 8;

/// Threads for a row: enough to keep it in registers, but where rows lie side by side so few that
/// neighbouring threads read neighbouring rows.
fn lanes(length: usize, inner: usize) -> usize {
    let most = THREADS / if inner == 1 { 1 } else { inner.clamp(1, 32).next_power_of_two() };
    length.div_ceil(KEPT).next_power_of_two().min(most)
}

/// A kernel on arrays of one shape along a dimension.
pub(super) fn run<T: Number>(
    name: &str,
    dim: usize,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Shape)> {
    let dims = args[0].dims;
    let length = dims[dim];
    let inner: usize = dims[dim + 1..].iter().product();
    let rows = dims[..dim].iter().product::<usize>() * inner;
    let lanes = lanes(length, inner);
    let mut out = gpu.alloc::<T>(args[0].count())?;
    let kernel = gpu.function::<T>(&KERNELS, name)?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    for array in args {
        launch.arg(&array.data);
    }
    let lanes_arg = lanes as i32;
    launch.arg(&mut out).arg(&rows).arg(&length).arg(&inner).arg(&lanes_arg);
    // SAFETY: all arrays have `rows` rows of `length` numbers, and the kernel takes as many.
    unsafe { gpu.launch(launch, rows.div_ceil(THREADS / lanes), true) }?;
    Ok((out, dims.into()))
}

pub(crate) fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize); 14] = [
        (&[1], 0),
        (&[1000], 0),
        (&[50, 7], 1),
        (&[300, 9], 1),
        (&[3, 5, 60], 2),
        (&[5, 2048], 1),
        (&[2, 3001], 1),
        (&[9000], 0),
        (&[7, 50], 0),
        (&[2, 9, 700], 1),
        (&[2, 37, 5, 3], 1),
        (&[4100, 2], 0),
        (&[3, 600, 40], 1),
        (&[70, 1, 300], 1),
    ];
    let mut cases = Vec::new();
    for (shape, dim) in shapes {
        for (name, f) in
            [("softmax", softmax as fn(&Tensor, usize) -> _), ("log_softmax", log_softmax)]
        {
            let name = format!("{name} {shape:?} along {dim}");
            cases.push(Case::new(name, &[shape], move |x| f(&x[0], dim)).range(-9.0, 9.0));
        }
    }
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let rows = [[-inf, -inf, -inf], [-inf, 1.0, 2.0], [nan, 1.0, 2.0], [0.0, inf, 1.0]];
    for dim in 0..2 {
        cases.push(
            Case::new(format!("softmax of no numbers along {dim}"), &[&[1]], move |x| {
                let rows = Tensor::new(&rows, &Device::Cpu)?.to_dtype(x[0].dtype())?;
                let rows = rows.to_device(x[0].device())?;
                Ok(Tensor::cat(&[softmax(&rows, dim)?, log_softmax(&rows, dim)?], 0)?)
            })
            .result_only(),
        );
    }
    cases
}
