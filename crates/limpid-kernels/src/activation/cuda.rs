//! The functions on a GPU.

#![allow(unsafe_code)] // launches of kernels

use super::functions::Function;
use crate::Result;
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{Shape, Tensor};

static KERNELS: Kernels =
    Kernels::new("activation", include_bytes!(concat!(env!("OUT_DIR"), "/activation.fatbin")));

/// `order` (`value`, `first` or `second`) of the function at the first array, times the second if there is one.
pub(super) fn run<F: Function, T: Number>(
    f: F,
    order: &str,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Shape)> {
    let count = args[0].count();
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, &format!("{}_{order}", F::NAME))?;
    let [p, q] = f.parameters().map(T::wide);
    let mut launch = gpu.stream.launch_builder(&kernel);
    for array in args {
        launch.arg(&array.data);
    }
    launch.arg(&mut out).arg(&count).arg(&p).arg(&q);
    // SAFETY: the arrays have `count` elements, and the kernel takes one or two by its order.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok((out, args[0].dims.into()))
}

/// How many elements share a slope, and the number of channels if these lie last and have slopes of their own.
fn planes(gpu: &Gpu, dims: &[usize], slopes: usize) -> [usize; 2] {
    if slopes == 1 { [dims.iter().product(), 0] } else { gpu.planes(dims) }
}

/// `w` has a slope for each channel of `x`, or for all of it (see [`super::prelu`]).
pub(super) fn prelu<T: Number>(gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)> {
    let (x, w) = (&args[0], &args[1]);
    let (count, slopes) = (x.count(), w.count());
    let [plane, channels] = planes(gpu, x.dims, slopes);
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "prelu")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&w.data).arg(&mut out);
    launch.arg(&count).arg(&plane).arg(&channels).arg(&slopes);
    // SAFETY: `x` and the result have `count` elements, `w` has `slopes`.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok((out, x.dims.into()))
}

/// Elements of a slope that one block takes.
const PART: usize = 4096;

/// The gradients of `x` and `w`, given the result's: `args` are all three.
pub(super) fn prelu_gradients<T: Number>(
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Slice<T::Wide>)> {
    let (x, w, g) = (&args[0], &args[1], &args[2]);
    let (count, slopes) = (x.count(), w.count());
    let [plane, channels] = planes(gpu, x.dims, slopes);
    let parts = (count / slopes.max(1)).div_ceil(PART);
    let mut dx = gpu.alloc::<T>(count)?;
    let mut sums = gpu.alloc::<f64>(slopes * parts)?;
    let kernel = gpu.function::<T>(&KERNELS, "prelu_gradients")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&w.data).arg(&g.data).arg(&mut dx).arg(&mut sums);
    launch.arg(&count).arg(&plane).arg(&channels).arg(&slopes).arg(&parts).arg(&PART);
    // SAFETY: `x`, `g` and `dx` have `count` elements, and each element is in one part of one slope.
    unsafe { gpu.launch(launch, slopes * parts, true) }?;

    let mut dw = gpu.alloc::<T::Wide>(slopes)?;
    let kernel = gpu.function::<T::Wide>(&KERNELS, "prelu_sums")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&sums).arg(&mut dw).arg(&slopes).arg(&parts);
    // SAFETY: there are `parts` sums for each of `slopes` slopes.
    unsafe { gpu.launch(launch, slopes, true) }?;
    Ok((dx, dw))
}

/// Each function, with its derivatives.
pub(crate) fn cases() -> Vec<Case> {
    type Plain = fn(&Tensor) -> Result<Tensor>;
    let plain: [(&str, Plain); 8] = [
        ("relu", super::relu),
        ("abs", super::abs),
        ("sigmoid", super::sigmoid),
        ("tanh", super::tanh),
        ("silu", super::silu),
        ("gelu", super::gelu),
        ("gelu_tanh", super::gelu_tanh),
        ("mish", super::mish),
    ];
    let shape: &[&[usize]] = &[&[3, 5, 7, 11]];
    let of = |name: &str, f: Plain| Case::new(name, shape, move |x| f(&x[0])).range(-6.0, 6.0);
    let mut cases: Vec<_> = plain.into_iter().map(|(name, f)| of(name, f)).collect();
    cases.push(of("leaky_relu", |x| super::leaky_relu(x, 0.2)));
    cases.push(of("elu", |x| super::elu(x, 0.7)));
    cases.push(of("softplus", |x| super::softplus(x, 1.5, 4.0)));
    let shapes: [[&[usize]; 2]; 8] = [
        [&[3, 5, 7, 11], &[5]],
        [&[3, 5, 7, 11], &[1]],
        [&[9], &[1]],
        [&[1, 1], &[1]],
        [&[300, 7], &[7]],
        [&[2, 3, 2500], &[3]],
        [&[3, 3001], &[1]],
        [&[2, 4, 3, 5, 7], &[4]],
    ];
    for shapes in shapes {
        let name = format!("prelu of {:?} with {:?}", shapes[0], shapes[1]);
        cases.push(Case::new(name, &shapes, |x| super::prelu(&x[0], &x[1])));
    }
    cases
}
