//! Sums and products with constants on a GPU.

#![allow(unsafe_code)] // launches of kernels

pub(super) mod complex;
pub(super) mod parts;

use crate::Result;
use crate::gpu::blas;
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice, push};
use candle_core::Shape;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DevicePtrMut, PushKernelArg};

static KERNELS: Kernels =
    Kernels::new("algebra", include_bytes!(concat!(env!("OUT_DIR"), "/algebra.fatbin")));

type Found<T> = Result<(Slice<T>, Shape)>;

pub(super) fn add<T: Number>(gpu: &Gpu, args: &[Buffer<'_, T>]) -> Found<T> {
    let count = args[0].count();
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "add")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&args[1].data).arg(&mut out).arg(&count);
    // SAFETY: all arrays have `count` elements, which the caller of `apply` has checked.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok((out, args[0].dims.into()))
}

pub(super) fn scale<T: Number>(factor: f64, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Found<T> {
    let (count, factor) = (args[0].count(), T::wide(factor));
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "scale")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&factor).arg(&mut out).arg(&count);
    // SAFETY: both arrays have `count` elements.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok((out, args[0].dims.into()))
}

/// A kernel on the elements of `x` and the number of their plane.
pub(super) fn by_plane<T: Number>(name: &str, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Found<T> {
    let (count, numbers) = (args[0].count(), args[1].count());
    let [plane, channels] = gpu.planes(args[0].dims);
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, name)?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&args[0].data).arg(&args[1].data).arg(&mut out);
    launch.arg(&count).arg(&plane).arg(&channels).arg(&numbers);
    // SAFETY: `x` and the result have `count` elements, and there are `numbers` numbers.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok((out, args[0].dims.into()))
}

/// A kernel that makes a number of each plane of one or two arrays: their sums, or those of their products.
pub(super) fn of_planes<T: Number>(name: &str, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Found<T> {
    let dims = args[0].dims;
    let planes = dims[0] * dims[1];
    let plane: usize = dims[2..].iter().product();
    if gpu.last {
        let views: Vec<_> = args.iter().map(|array| &array.data).collect();
        let sums = column_sums(gpu, &views, [dims[0], plane, dims[1]])?;
        return Ok((sums, (dims[0], dims[1]).into()));
    }
    let mut out = gpu.alloc::<T>(planes)?;
    let kernel = gpu.function::<T>(&KERNELS, name)?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    for array in args {
        launch.arg(&array.data);
    }
    launch.arg(&mut out).arg(&planes).arg(&plane);
    // SAFETY: the arrays have `planes` planes of `plane` elements, the result as many elements as planes.
    unsafe { gpu.launch(launch, planes, true) }?;
    Ok((out, (dims[0], dims[1]).into()))
}

/// Adds one number per channel in place, to planes as [`Gpu::planes`] tells them.
pub(crate) fn add_bias<T: Number>(
    gpu: &Gpu,
    y: &mut Slice<T>,
    bias: &Buffer<'_, T>,
    [plane, channels]: [usize; 2],
) -> Result<()> {
    let (count, numbers) = (y.len(), bias.count());
    let (at, _at) = y.device_ptr_mut(&gpu.stream);
    let kernel = gpu.function::<T>(&KERNELS, "add_to_channels")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&at).arg(&bias.data).arg(&at);
    launch.arg(&count).arg(&plane).arg(&channels).arg(&numbers);
    // SAFETY: `y` has `count` elements, the bias `numbers`, and each thread reads what it writes.
    unsafe { gpu.launch(launch, count, false) }
}

/// Rows through a weight, plus a bias.
pub(super) fn linear<T: Number>(gpu: &Gpu, args: &[Buffer<'_, T>]) -> Found<T> {
    let (x, w) = (&args[0], &args[1]);
    let [rows, inputs, outputs] = [x.dims[0], x.dims[1], w.dims[0]];
    let mut y = blas::product(gpu, 1, [rows, outputs, inputs], [x, w], [false, true])?;
    if let Some(bias) = args.get(2) {
        add_bias(gpu, &mut y, bias, [1, 0])?;
    }
    Ok((y, (rows, outputs).into()))
}

/// Rows that one thread adds up.
const ROWS: usize = 256;

/// The sum of each column of each of `batch` matrices of `rows` and `width`, or of its products with another's.
pub(crate) fn column_sums<T: Number>(
    gpu: &Gpu,
    x: &[&CudaView<'_, T>],
    [batch, rows, width]: [usize; 3],
) -> Result<Slice<T>> {
    if batch * rows * width == 0 {
        return gpu.zeros(batch * width);
    }
    let pieces = rows.div_ceil(ROWS);
    let mut parts = gpu.alloc::<f64>(batch * pieces * width)?;
    let kernel = gpu.function::<T>(&KERNELS, "column_parts")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(x[0]);
    push(&mut launch, x.get(1).copied());
    launch.arg(&mut parts).arg(&batch).arg(&rows).arg(&width).arg(&ROWS);
    // SAFETY: the matrices have `batch` times `rows` rows of `width` elements, `parts` a row for every `ROWS` of them.
    unsafe { gpu.launch(launch, batch * pieces * width, false) }?;
    let mut out = gpu.alloc::<T>(batch * width)?;
    let kernel = gpu.function::<T>(&KERNELS, "column_ends")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&parts).arg(&mut out).arg(&batch).arg(&pieces).arg(&width);
    // SAFETY: as above; the result has `width` elements for each matrix.
    unsafe { gpu.launch(launch, batch * width, true) }?;
    Ok(out)
}

pub(crate) fn cases() -> Vec<Case> {
    [own_cases(), complex::cases(), parts::cases()].into_iter().flatten().collect()
}

fn own_cases() -> Vec<Case> {
    let image: &[usize] = &[3, 5, 7, 11];
    vec![
        Case::new("add", &[image, image], |x| super::add(&x[0], &x[1])),
        Case::new("scale", &[image], |x| super::scale(&x[0], -0.3)),
        Case::new("add_to_channels", &[image, &[3, 5]], |x| super::add_to_channels(&x[0], &x[1])),
        Case::new("add_to_channels shared", &[&[2, 5, 300], &[1, 5]], |x| {
            super::add_to_channels(&x[0], &x[1])
        }),
        Case::new("scale_channels", &[image, &[3, 5]], |x| super::scale_channels(&x[0], &x[1])),
        Case::new("scale_channels shared", &[&[2, 5, 300], &[1, 5]], |x| {
            super::scale_channels(&x[0], &x[1])
        }),
        Case::new("matmul", &[&[5, 7, 3], &[5, 3, 11]], |x| super::matmul(&x[0], &x[1])),
        Case::new("matmul_transposed", &[&[2, 3, 7, 5], &[2, 3, 4, 5]], |x| {
            super::matmul_transposed(&x[0], &x[1])
        }),
        Case::new("linear", &[&[601, 13], &[9, 13], &[9]], |x| {
            super::linear(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}
