//! Mean structural similarity of samples, with its gradient.

use super::linear::{Axis, along_axes};
use super::{KERNELS, Lent, Samples, Work, work};
use crate::Result;
use crate::gpu::{Buffer, Gpu, Number, Slice, with_buffers};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, DType, Shape, Tensor};

/// A variant of structural similarity.
#[derive(Clone, Debug)]
pub struct Similarity {
    /// The windows, where they fit.
    pub windows: Vec<Axis>,
    /// Their adjoint.
    pub spreads: Vec<Axis>,
    /// `C1`, `C2` and the factor from population to the wanted covariance.
    pub constants: [f64; 3],
}

impl Similarity {
    /// Windowed means of x, y, x², y² and x y, and how many each has.
    fn means<T: Number>(
        &self,
        gpu: &Gpu,
        [x, y]: [&Buffer<'_, T>; 2],
    ) -> Result<(Slice<f64>, usize)> {
        let count = x.count();
        let mut products = gpu.alloc::<f64>(5 * count)?;
        let kernel = gpu.function::<T>(&KERNELS, "loss_ssim_products")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x.data).arg(&y.data).arg(&mut products).arg(&count);
        // SAFETY: both images have `count` elements, the result five times as many.
        unsafe { gpu.launch(launch, count, false) }?;
        let mut dims: Vec<usize> = [&[5], x.dims].concat();
        let means = along_axes(gpu, products, &mut dims, &self.windows)?;
        Ok((means, dims[1..].iter().product()))
    }
}

/// Mean similarity of each sample of two tensors `[N, C, ..]`: `[N]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the tensors do not fit;
/// [`Error::Argument`](crate::Error::Argument) if the GPU fails.
pub fn similarities(
    op: &'static str,
    images: [Lent<'_>; 2],
    variant: &Similarity,
) -> Result<(CudaStorage, Shape)> {
    work(op, &images, &Similarities { variant })
}

struct Similarities<'a> {
    variant: &'a Similarity,
}

impl Work for Similarities<'_> {
    fn run<T: Number>(&self, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)> {
        let [c1, c2, covariance] = self.variant.constants;
        let (means, count) = self.variant.means(gpu, [&args[0], &args[1]])?;
        let samples = Samples::new(count, args[0].dims[0]);
        let mut parts = gpu.alloc::<f64>(samples.blocks())?;
        let kernel = gpu.function::<f64>(&KERNELS, "loss_ssim_sums")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&means).arg(&mut parts);
        launch.arg(&samples.size).arg(&samples.count).arg(&samples.pieces);
        launch.arg(&c1).arg(&c2).arg(&covariance);
        // SAFETY: `means` has five arrays of all samples, `parts` a number for each piece.
        unsafe { gpu.launch(launch, samples.blocks(), true) }?;
        Ok((samples.means(gpu, &parts)?, samples.count.into()))
    }
}

/// The gradients by those images that are `wanted`, for a gradient `[N]` by the means.
///
/// # Errors
/// As [`similarities`].
pub fn similarity_gradients(
    op: &'static str,
    images: [&Tensor; 2],
    wanted: [bool; 2],
    grad: &Tensor,
    variant: &Similarity,
) -> Result<[Option<Tensor>; 2]> {
    match grad.dtype() {
        DType::F64 => gradients_of::<f64>(op, images, wanted, grad, variant),
        _ => gradients_of::<f32>(op, images, wanted, grad, variant),
    }
}

fn gradients_of<T: Number>(
    op: &'static str,
    [x, y]: [&Tensor; 2],
    wanted: [bool; 2],
    grad: &Tensor,
    variant: &Similarity,
) -> Result<[Option<Tensor>; 2]> {
    let [c1, c2, covariance] = variant.constants;
    with_buffers::<T, _>(op, &[x, y, grad], |gpu, buffers| {
        let (x, y, grad) = (&buffers[0], &buffers[1], &buffers[2]);
        let (means, count) = variant.means(gpu, [x, y])?;
        let samples = Samples::new(count, grad.count());
        let places: Vec<usize> = variant.windows.iter().map(|axis| axis.length).collect();
        let mut gradients = [None, None];
        for (k, gradient) in gradients.iter_mut().enumerate().filter(|(k, _)| wanted[*k]) {
            let (a, b) = if k == 0 { (x, y) } else { (y, x) };
            let mut slopes = gpu.alloc::<f64>(3 * count)?;
            let swapped = k as i32;
            let kernel = gpu.function::<T>(&KERNELS, "loss_ssim_slopes")?;
            let mut launch = gpu.stream.launch_builder(&kernel);
            launch.arg(&means).arg(&grad.data).arg(&mut slopes);
            launch.arg(&samples.size).arg(&samples.count).arg(&samples.pieces).arg(&swapped);
            launch.arg(&c1).arg(&c2).arg(&covariance);
            // SAFETY: `means` has five arrays of all samples, the result three, `grad` a number for
            // each sample.
            unsafe { gpu.launch(launch, samples.blocks(), true) }?;
            let mut dims: Vec<usize> = [&[3], &a.dims[..2], &places].concat();
            let spread = along_axes(gpu, slopes, &mut dims, &variant.spreads)?;
            let elements = a.count();
            let mut out = gpu.alloc::<T>(elements)?;
            let kernel = gpu.function::<T>(&KERNELS, "loss_ssim_gradient")?;
            let mut launch = gpu.stream.launch_builder(&kernel);
            launch.arg(&spread).arg(&a.data).arg(&b.data).arg(&mut out).arg(&elements);
            // SAFETY: images and result have as many elements, `spread` three times as many: the
            // adjoint of the windows ends at the shape of the images.
            unsafe { gpu.launch(launch, elements, false) }?;
            *gradient = Some(gpu.tensor(out, a.dims));
        }
        Ok(gradients)
    })
}
