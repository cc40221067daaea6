//! What the losses of `limpid-losses` are made of, on a GPU: their own arithmetic is for the CPU.
//!
//! Functions take what candle's custom operations are lent, and return what these return.
//! Arithmetic is f64.

#![allow(unsafe_code)] // launches of kernels

mod linear;
mod means;
mod similarity;

pub use linear::{Axis, correlate, half_spectrum, half_spectrum_adjoint};
pub use means::{Formula, means, slopes};
pub use similarity::{Similarity, similarities, similarity_gradients};

use crate::gpu::{Buffer, Gpu, Kernels, Number, Slice, run};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, DType, Layout, Shape};

static KERNELS: Kernels =
    Kernels::new("loss", include_bytes!(concat!(env!("OUT_DIR"), "/loss.fatbin")));

/// Elements of a sample that a block adds up, as in op.cu.
const PIECE: usize = 8192;

/// What a custom operation is lent of a tensor; it must be contiguous and of f32 or f64.
pub type Lent<'a> = (&'a CudaStorage, &'a Layout);

/// Something to be done with buffers of either float type.
trait Work {
    fn run<T: Number>(&self, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)>;
}

/// Does it with tensors of one type.
fn work(op: &'static str, args: &[Lent<'_>], work: &impl Work) -> Result<(CudaStorage, Shape)> {
    fn of<T: Number>(
        op: &'static str,
        args: &[Lent<'_>],
        work: &impl Work,
    ) -> Result<(CudaStorage, Shape)> {
        run::<T, _>(op, args, false, |gpu, args| {
            let (data, shape) = work.run(gpu, args)?;
            Ok((gpu.storage(data), shape))
        })
    }
    match args.first().map(|(storage, _)| storage.dtype()) {
        Some(DType::F64) => of::<f64>(op, args, work),
        Some(DType::F32) => of::<f32>(op, args, work),
        other => Err(Error::shape(op, "tensors of f32 or f64", other)),
    }
}

/// Samples `[N, ..]` cut into pieces for blocks.
#[derive(Clone, Copy)]
struct Samples {
    count: usize,
    size: usize,
    pieces: usize,
}

impl Samples {
    fn new(elements: usize, count: usize) -> Self {
        let size = elements / count.max(1);
        Self { count, size, pieces: size.div_ceil(PIECE).max(1) }
    }

    fn blocks(self) -> usize {
        self.count * self.pieces
    }

    /// The mean of each sample, from the sums of its pieces.
    fn means<T: Number>(self, gpu: &Gpu, parts: &Slice<f64>) -> Result<Slice<T>> {
        let mut out = gpu.alloc::<T>(self.count)?;
        let kernel = gpu.function::<T>(&KERNELS, "loss_means")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(parts).arg(&mut out).arg(&self.size).arg(&self.count).arg(&self.pieces);
        // SAFETY: `parts` has a number for each piece of each sample, the result one for each
        // sample.
        unsafe { gpu.launch(launch, self.count, true) }?;
        Ok(out)
    }
}

/// A copy of `x` in f64.
fn widened<T: Number>(gpu: &Gpu, x: &Buffer<'_, T>) -> Result<Slice<f64>> {
    let count = x.count();
    let mut out = gpu.alloc::<f64>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "loss_widen")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut out).arg(&count);
    // SAFETY: both arrays have `count` elements.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}

/// A copy of `count` elements in another type.
fn narrowed<T: Number>(gpu: &Gpu, x: &Slice<f64>, count: usize) -> Result<Slice<T>> {
    let mut out = gpu.alloc::<T>(count)?;
    let kernel = gpu.function::<T>(&KERNELS, "loss_narrow")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(x).arg(&mut out).arg(&count);
    // SAFETY: both arrays have `count` elements.
    unsafe { gpu.launch(launch, count, false) }?;
    Ok(out)
}
