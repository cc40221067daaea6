//! Correlations along axes, and half spectra with their adjoint.

use super::{KERNELS, Lent, Work, narrowed, widened, work};
use crate::Result;
use crate::gpu::{Buffer, Gpu, Number, Slice};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Shape};
use std::f64::consts::TAU;

/// A correlation along one axis, with zeros outside.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The weights.
    pub taps: Vec<f64>,
    /// How long the axis of the result is.
    pub length: usize,
    /// Where the first tap lies, relative to the place of the result.
    pub shift: isize,
}

/// Correlates the last axes.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the tensor is not contiguous;
/// [`Error::Argument`](crate::Error::Argument) if the GPU fails.
pub fn correlate(op: &'static str, x: Lent<'_>, axes: &[Axis]) -> Result<(CudaStorage, Shape)> {
    work(op, &[x], &Correlate { axes })
}

struct Correlate<'a> {
    axes: &'a [Axis],
}

impl Work for Correlate<'_> {
    fn run<T: Number>(&self, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)> {
        let mut dims = args[0].dims.to_vec();
        let y = along_axes(gpu, widened(gpu, &args[0])?, &mut dims, self.axes)?;
        Ok((narrowed(gpu, &y, dims.iter().product())?, dims.into()))
    }
}

/// Correlates the last axes of an array, and changes its shape accordingly.
pub(super) fn along_axes(
    gpu: &Gpu,
    mut x: Slice<f64>,
    dims: &mut [usize],
    axes: &[Axis],
) -> Result<Slice<f64>> {
    let first = dims.len() - axes.len();
    for (i, axis) in axes.iter().enumerate() {
        let len = std::mem::replace(&mut dims[first + i], axis.length);
        let inner: usize = dims[first + i + 1..].iter().product();
        let count: usize = dims.iter().product();
        let taps = gpu.table(&axis.taps)?;
        let (size, shift) = (axis.taps.len() as i32, axis.shift as i32);
        let mut out = gpu.alloc::<f64>(count)?;
        let kernel = gpu.function::<f64>(&KERNELS, "loss_correlate")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x).arg(&*taps).arg(&mut out).arg(&count).arg(&len).arg(&axis.length);
        launch.arg(&inner).arg(&size).arg(&shift);
        // SAFETY: `x` has `len` elements along the axis, the result `length` and `count` in all;
        // places outside are not read.
        unsafe { gpu.launch(launch, count, false) }?;
        x = out;
    }
    Ok(x)
}

/// Half spectrum of the spatial axes of `[N, C, ..]`, scaled by `scale`: the last axis `w` becomes
/// `w / 2 + 1` frequencies, and a new last axis holds real and imaginary part.
///
/// # Errors
/// As [`correlate`].
pub fn half_spectrum(op: &'static str, x: Lent<'_>, scale: f64) -> Result<(CudaStorage, Shape)> {
    work(op, &[x], &HalfSpectrum { scale })
}

/// The adjoint of [`half_spectrum`]: from a spectrum to an array of the shape `domain`.
///
/// # Errors
/// As [`correlate`].
pub fn half_spectrum_adjoint(
    op: &'static str,
    y: Lent<'_>,
    domain: &[usize],
    scale: f64,
) -> Result<(CudaStorage, Shape)> {
    work(op, &[y], &Adjoint { domain, scale })
}

/// A Fourier sum along one axis.
struct Sum {
    inputs: usize,
    outputs: usize,
    inner: usize,
    /// Of the root of one.
    order: usize,
    direction: f64,
    scale: f64,
    real_x: bool,
    real_out: bool,
}

impl Sum {
    /// Of an array of `lines` lines.
    fn run(&self, gpu: &Gpu, x: &Slice<f64>, lines: usize) -> Result<Slice<f64>> {
        let turn = |i: usize| {
            let (sin, cos) = (TAU * i as f64 / self.order as f64).sin_cos();
            [cos, sin]
        };
        let turns = gpu.table(&(0..self.order).flat_map(turn).collect::<Vec<f64>>())?;
        let count = lines * self.outputs;
        let mut out = gpu.alloc::<f64>(if self.real_out { count } else { 2 * count })?;
        let (real_x, real_out) = (i32::from(self.real_x), i32::from(self.real_out));
        let kernel = gpu.function::<f64>(&KERNELS, "loss_fourier")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(x).arg(&*turns).arg(&mut out).arg(&count).arg(&self.inputs).arg(&self.outputs);
        launch.arg(&self.inner).arg(&self.order).arg(&self.direction).arg(&self.scale);
        launch.arg(&real_x).arg(&real_out);
        // SAFETY: `x` has `inputs` numbers or pairs in each line, the result `outputs`; the steps
        // in `turns` are below `order`.
        unsafe { gpu.launch(launch, count, false) }?;
        Ok(out)
    }
}

struct HalfSpectrum {
    scale: f64,
}

impl Work for HalfSpectrum {
    fn run<T: Number>(&self, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)> {
        let mut dims = args[0].dims.to_vec();
        let last = dims.len() - 1;
        let width = dims[last];
        dims[last] = width / 2 + 1;
        let sum = Sum {
            inputs: width,
            outputs: dims[last],
            inner: 1,
            order: width,
            direction: -1.0,
            scale: self.scale,
            real_x: true,
            real_out: false,
        };
        let lines = dims[..last].iter().product();
        let y = sum.run(gpu, &widened(gpu, &args[0])?, lines)?;
        let y = other_axes(gpu, y, &dims, -1.0)?;
        dims.push(2);
        Ok((narrowed(gpu, &y, dims.iter().product())?, dims.into()))
    }
}

struct Adjoint<'a> {
    domain: &'a [usize],
    scale: f64,
}

impl Work for Adjoint<'_> {
    fn run<T: Number>(&self, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)> {
        let mut dims = self.domain.to_vec();
        let last = dims.len() - 1;
        let width = dims[last];
        dims[last] = width / 2 + 1;
        let x = other_axes(gpu, widened(gpu, &args[0])?, &dims, 1.0)?;
        let sum = Sum {
            inputs: dims[last],
            outputs: width,
            inner: 1,
            order: width,
            direction: 1.0,
            scale: self.scale,
            real_x: false,
            real_out: true,
        };
        let x = sum.run(gpu, &x, dims[..last].iter().product())?;
        Ok((narrowed(gpu, &x, self.domain.iter().product())?, self.domain.into()))
    }
}

/// Transforms the spatial axes but the last.
fn other_axes(gpu: &Gpu, mut x: Slice<f64>, dims: &[usize], direction: f64) -> Result<Slice<f64>> {
    let count: usize = dims.iter().product();
    for axis in 2..dims.len() - 1 {
        let len = dims[axis];
        let sum = Sum {
            inputs: len,
            outputs: len,
            inner: dims[axis + 1..].iter().product(),
            order: len,
            direction,
            scale: 1.0,
            real_x: false,
            real_out: false,
        };
        x = sum.run(gpu, &x, count / len)?;
    }
    Ok(x)
}
