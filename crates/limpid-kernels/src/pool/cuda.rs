//! Maximum over windows on a GPU.

#![allow(unsafe_code)] // launches of kernels

use super::PoolSpec;
use super::max::{Windows, picked};
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice, with_images};
use crate::order::Order;
use crate::{Error, Result};
use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, PushKernelArg};

static KERNELS: Kernels =
    Kernels::new("pool", include_bytes!(concat!(env!("OUT_DIR"), "/pool.fatbin")));

// SAFETY: sizes alone, in the order of the kernels' structure.
unsafe impl DeviceRepr for Windows {}

impl Windows {
    fn pixels(&self) -> usize {
        self.image.iter().product()
    }

    fn count(&self) -> usize {
        self.outputs.iter().product()
    }
}

/// Planes of an image, and elements of several side by side in one: see `each_place`.
fn planes(gpu: &Gpu, dims: &[usize]) -> [usize; 2] {
    if gpu.last { [dims[0], dims[1]] } else { [dims[0] * dims[1], 1] }
}

/// The largest pixel of every window of every plane.
pub(super) fn max_pool<T: Number>(
    windows: &Windows,
    gpu: &Gpu,
    x: &Buffer<'_, T>,
) -> Result<Slice<T>> {
    let [planes, inner] = planes(gpu, x.dims);
    let count = planes * inner * windows.count();
    let rows = planes * windows.outputs[0] * windows.outputs[1];
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "max_pool")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut out).arg(&rows).arg(&inner).arg(windows);
    // SAFETY: `x` has the planes of `rows` rows of windows, which end where it does.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}

/// The index, within its plane, of the largest pixel of every window of every plane, and whether channels lie last.
pub(super) fn max_picks<T: Number>(windows: &Windows, x: &Tensor) -> Result<(Slice<u32>, bool)> {
    with_images::<T, _>("max_pool", &[x], Order::AsGiven, |gpu, args| {
        let [planes, inner] = planes(gpu, args[0].dims);
        let count = planes * inner * windows.count();
        let rows = planes * windows.outputs[0] * windows.outputs[1];
        let mut picks = gpu.alloc::<u32>(count)?;
        let kernel = gpu.function::<T>(&KERNELS, "max_picks")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&args[0].data).arg(&mut picks).arg(&rows).arg(&inner).arg(windows);
        // SAFETY: as in `max_pool`.
        unsafe { gpu.launch(launch, count, false) }?;
        Ok((picks, gpu.last))
    })
}

/// Image to picked pixels.
pub(super) fn pick<T: Number>(
    windows: &Windows,
    picks: &Slice<u32>,
    gpu: &Gpu,
    x: &Buffer<'_, T>,
) -> Result<Slice<T>> {
    let (pixels, each) = (windows.pixels(), windows.count());
    let [planes, inner] = planes(gpu, x.dims);
    let count = planes * inner * each;
    check(picks, count)?;
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "pick")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(picks).arg(&mut out);
    launch.arg(&planes).arg(&inner).arg(&pixels).arg(&each);
    // SAFETY: `x` has `planes` planes of `pixels`, the picks are below that, and `each` of a plane.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}

/// Picked pixels to where they came from.
pub(super) fn put_back<T: Number>(
    windows: &Windows,
    picks: &Slice<u32>,
    gpu: &Gpu,
    y: &Buffer<'_, T>,
) -> Result<Slice<T>> {
    check(picks, y.count())?;
    let [planes, inner] = planes(gpu, y.dims);
    let count = planes * inner * windows.pixels();
    let rows = planes * windows.image[0] * windows.image[1];
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "put_back")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&y.data).arg(picks).arg(&mut out).arg(&rows).arg(&inner).arg(windows);
    // SAFETY: the result has `rows` rows of pixels, `y` and the picks an element for each window.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}

fn check(picks: &Slice<u32>, count: usize) -> Result<()> {
    if picks.len() == count {
        return Ok(());
    }
    Err(Error::shape("max_pool", format!("{} windows", picks.len()), count))
}

pub(crate) fn cases() -> Vec<Case> {
    let spec = |kernel: &[usize], stride: &[usize], padding: &[usize]| PoolSpec {
        kernel: kernel.to_vec(),
        stride: stride.to_vec(),
        padding: padding.to_vec(),
    };
    // odd sizes, overlaps, gaps, padding, all ranks
    let shapes: [(&[usize], PoolSpec); 8] = [
        (&[2, 1, 7], spec(&[3], &[2], &[1])),
        (&[1, 1, 1], PoolSpec::cubic(1, 1)),
        (&[1, 2, 1500], spec(&[5], &[1], &[2])),
        (&[2, 3, 6, 5], PoolSpec::cubic(2, 2)),
        (&[2, 3, 13, 70], spec(&[3, 2], &[2, 1], &[1, 0])),
        (&[1, 1, 5, 5], spec(&[2, 1], &[3, 2], &[0, 0])),
        (&[1, 2, 9, 80], spec(&[3, 3], &[2, 2], &[1, 1])),
        (&[1, 2, 4, 5, 6], spec(&[2, 3, 2], &[2, 1, 2], &[1, 1, 0])),
    ];
    type Pool = fn(&Tensor, &PoolSpec) -> Result<Tensor>;
    let pools: [(&str, Pool); 5] = [
        ("max_pool", super::max_pool),
        // few different pixels: of equal ones the first counts
        ("max_pool of equals", |x, spec| {
            let steps = (x.detach() * 2.0)?.round()?;
            super::max_pool(&((x - x.detach())? + steps)?, spec)
        }),
        ("max_pool picks", |x, spec| picked(&x.detach(), x, spec)),
        ("avg_pool", |x, spec| super::avg_pool(x, spec, true)),
        ("avg_pool of pixels", |x, spec| super::avg_pool(x, spec, false)),
    ];
    let mut cases = Vec::new();
    for (shape, spec) in shapes {
        for (name, pool) in pools {
            let PoolSpec { kernel, stride, padding } = &spec;
            let name = format!("{name} {kernel:?} by {stride:?} around {padding:?} of {shape:?}");
            let spec = spec.clone();
            cases.push(Case::new(name, &[shape], move |x| pool(&x[0], &spec)));
        }
    }
    let special = |x: &Tensor| -> Result<Tensor> {
        let zero = x.zeros_like()?;
        let infinite = ((&zero - 1.0)? / &zero)?;
        let nan = (&infinite * 0.0)?;
        let some = x.lt(-0.5)?.where_cond(&nan, x)?;
        Ok(x.gt(0.0)?.where_cond(&infinite, &some)?)
    };
    cases.push(
        Case::new("max_pool of NaN and infinity", &[&[2, 3, 9, 11]], move |x| {
            super::max_pool(&special(&x[0])?, &PoolSpec::cubic(2, 2))
        })
        .result_only(),
    );
    let sizes: [(&[usize], &[usize]); 6] = [
        (&[1, 1, 5], &[3]),
        (&[1, 2, 5, 7], &[3, 8]),
        (&[2, 3, 70, 90], &[1, 1]),
        (&[2, 1, 5000], &[1]),
        (&[2, 1, 90, 301], &[2, 7]),
        (&[1, 2, 8, 9, 10], &[3, 3, 3]),
    ];
    for (shape, size) in sizes {
        let size = size.to_vec();
        cases.push(Case::new(
            format!("adaptive_avg_pool of {shape:?} to {size:?}"),
            &[shape],
            move |x| super::adaptive_avg_pool(&x[0], &size),
        ));
    }
    cases
}
