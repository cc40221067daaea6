//! Joins, parts of tensors, and numbers with their waves on a GPU.

use super::{Found, KERNELS};
use crate::gpu::{Buffer, Case, Gpu, Number};
use crate::order::{from_last, in_memory};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;

/// Where a dimension lies in the memory.
fn place(gpu: &Gpu, dim: usize, rank: usize) -> usize {
    if gpu.last && rank >= 3 { from_last(rank)[dim] } else { dim }
}

/// Arrays side by side along a dimension of the result, whose sizes are `dims`.
pub(in crate::algebra) fn cat<T: Number>(
    dim: usize,
    dims: Vec<usize>,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Found<T> {
    let at = place(gpu, dim, dims.len());
    let lying = in_memory(&dims, gpu.last);
    let inner: usize = lying[at + 1..].iter().product();
    let rows: usize = lying[..at].iter().product();
    let pitch = dims[dim] * inner;
    let mut out = gpu.alloc::<T>(rows * pitch)?;
    let kernel = gpu.function::<T>(&KERNELS, "cat")?;
    let mut first = 0usize;
    for arg in args {
        let width = arg.dims[dim] * inner;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&arg.data).arg(&mut out).arg(&rows).arg(&width).arg(&pitch).arg(&first);
        // SAFETY: a row of the result has the rows of all arguments one after the other.
        unsafe { gpu.launch(launch, rows * width, false) }?;
        first += width;
    }
    Ok((out, dims.into()))
}

/// An array in one of these dimensions from `start` on in dimension `dim`, with zeros around.
pub(in crate::algebra) fn widen<T: Number>(
    [dim, start]: [usize; 2],
    dims: &[usize],
    gpu: &Gpu,
    x: &Buffer<'_, T>,
) -> Found<T> {
    let at = place(gpu, dim, dims.len());
    let lying = in_memory(dims, gpu.last);
    let inner: usize = lying[at + 1..].iter().product();
    let rows: usize = lying[..at].iter().product();
    let (width, pitch, first) = (x.dims[dim] * inner, dims[dim] * inner, start * inner);
    let mut out = gpu.alloc::<T>(rows * pitch)?;
    let kernel = gpu.function::<T>(&KERNELS, "widen")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut out).arg(&rows).arg(&width).arg(&pitch).arg(&first);
    // SAFETY: `x` has `rows` rows of `width` elements, which lie within those of the result.
    unsafe { gpu.launch(launch, rows * pitch, false) }?;
    Ok((out, dims.into()))
}

pub(in crate::algebra) fn with_waves<T: Number>(gpu: &Gpu, args: &[Buffer<'_, T>]) -> Found<T> {
    let (rows, numbers, count) = (args[0].dims[0], args[0].dims[1], args[1].dims[1]);
    let width = numbers + 2 * count;
    let mut out = gpu.alloc::<T>(rows * width)?;
    let kernel = gpu.function::<T>(&KERNELS, "with_waves")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&args[1].data).arg(&mut out);
    launch.arg(&rows).arg(&numbers).arg(&count);
    // SAFETY: the rows of the arguments have `numbers` and `count` elements, those of the result
    // `width`.
    unsafe { gpu.launch(launch, rows * (numbers + count), false) }?;
    Ok((out, (rows, width).into()))
}

pub(super) fn cases() -> Vec<Case> {
    use crate::algebra::{cat, narrow, with_waves};
    let mut cases = Vec::new();
    let joined: [(&[&[usize]], usize); 6] = [
        (&[&[2, 3, 5], &[2, 1, 5]], 1),
        (&[&[1], &[700], &[3], &[2], &[5]], 0),
        (&[&[3, 4, 8], &[3, 2, 8], &[3, 6, 8], &[3, 1, 8]], 1),
        (&[&[70, 3], &[70, 1], &[70, 1], &[70, 9]], 1),
        (&[&[2, 300, 2], &[2, 300, 4]], 2),
        (&[&[5, 2, 3, 7], &[1, 2, 3, 7]], 0),
    ];
    for (shapes, dim) in joined {
        cases.push(Case::new(format!("cat of {shapes:?} along {dim}"), shapes, move |x| {
            cat(&x.iter().collect::<Vec<_>>(), dim)
        }));
    }
    for shape in [&[2, 5, 12][..], &[2, 5, 3, 2, 2], &[2, 60], &[2, 3, 20]] {
        let name = format!("reshape to {shape:?}");
        cases.push(Case::new(name, &[&[2, 5, 3, 4]], move |x| {
            crate::silu(&crate::reshape(&crate::silu(&x[0])?, shape)?)
        }));
    }
    cases.push(Case::new("cat of parts", &[&[5, 3, 7], &[4, 2, 7]], |x| {
        cat(&[&narrow(&x[0], 0, 1, 3)?, &narrow(&x[1], 0, 1, 3)?], 1)
    }));
    let parts: [(&[usize], [usize; 3]); 6] = [
        (&[9], [0, 2, 4]),
        (&[3, 5, 7], [1, 4, 1]),
        (&[3, 5, 7], [2, 0, 3]),
        (&[3, 12, 8], [1, 4, 5]),
        (&[2, 800], [1, 100, 640]),
        (&[6, 4, 4], [0, 5, 1]),
    ];
    for (shape, [dim, start, len]) in parts {
        let name = format!("narrow of {shape:?} along {dim} from {start} by {len}");
        cases.push(Case::new(name, &[shape], move |x| narrow(&x[0], dim, start, len)));
    }
    for [rows, numbers, count] in [[1, 1, 1], [300, 3, 5], [7, 40, 3], [2, 300, 301]] {
        let name = format!("with_waves of {rows} times {numbers} and {count}");
        let case =
            Case::new(name, &[&[rows, numbers], &[rows, count]], |x| with_waves(&x[0], &x[1]));
        cases.push(case.range(-50.0, 50.0));
    }
    cases.push(
        Case::new("with_waves far out", &[&[40, 3], &[40, 7]], |x| with_waves(&x[0], &x[1]))
            .range(-9e4, 9e4),
    );
    cases
}
