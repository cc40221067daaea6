//! Normalisation on a GPU. Statistics stay there, as a tensor of doubles.

#![allow(unsafe_code)] // launches of kernels

mod cases;
pub(super) mod channel;
pub(super) mod layer;

pub(crate) use cases::cases;

use super::moments::{Statistics, on_device};
use crate::Result;
use crate::gpu::{Buffer, Gpu, Kernels, NULL, Number, Slice, push, with_buffers};
use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, LaunchArgs, PushKernelArg};
use std::sync::OnceLock;

static KERNELS: Kernels =
    Kernels::new("norm", include_bytes!(concat!(env!("OUT_DIR"), "/norm.fatbin")));

/// Threads of a block.
const THREADS: usize = 256;

/// How the rows of an array are cut to pieces.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
    width: usize,
    /// Rows of a batch item in this array, the number of those before it, and of all that are
    /// joined.
    own: usize,
    first: usize,
    all: usize,
    /// Elements of a piece, pieces of a row, threads of a piece; or side by side, of slabs.
    piece: usize,
    pieces: usize,
    lanes: usize,
}

// SAFETY: numbers in C's layout, as `Rows` in op.cu.
unsafe impl DeviceRepr for Rows {}

impl Rows {
    /// All rows of an array, in enough pieces to fill a device. The cuts depend on the shape alone.
    fn new<T>(count: usize, width: usize) -> Self {
        const PIECES: usize = 4096;
        let wanted = PIECES.div_ceil(count.max(1));
        // a multiple of what a warp reads at once
        let piece = width.div_ceil(wanted).next_multiple_of(512).clamp(2048, 8192);
        let pieces = width.div_ceil(piece).max(1);
        let packs = (width.min(piece) * size_of::<T>()).div_ceil(16);
        let lanes = packs.clamp(1, 32).next_power_of_two();
        Self { count, width, own: 1, first: 0, all: 1, piece, pieces, lanes }
    }

    /// The planes of an image whose channels lie last, as `last.cuh` has it: `own` channels of each item from channel
    /// `first` of `all` on. Its pieces are slabs, whose pixels depend on the shape of what is joined alone.
    fn of_slabs<T>([batch, plane]: [usize; 2], own: usize, first: usize, all: usize) -> Self {
        const SLABS: usize = 1024;
        let lanes_of = |channels: usize| {
            let packs = (channels * size_of::<T>()).div_ceil(16);
            (packs.clamp(1, 32).next_power_of_two(), packs)
        };
        let (across, packs) = lanes_of(all);
        let wanted = SLABS.div_ceil((batch * packs.div_ceil(across)).max(1));
        // a multiple of what the threads of a block read at once
        let piece = plane.div_ceil(wanted).max(1).next_multiple_of(4 * THREADS / across);
        let pieces = plane.div_ceil(piece).max(1);
        let (lanes, _) = lanes_of(own);
        Self { count: batch * own, width: plane, own, first, all, piece, pieces, lanes }
    }

    /// Starts a kernel that goes by pieces, or by slabs if channels lie last.
    ///
    /// # Safety
    /// As of [`Gpu::launch`].
    unsafe fn launch<T>(&self, gpu: &Gpu, kernel: LaunchArgs<'_>) -> Result<()> {
        let threads = self.count * self.pieces * self.lanes;
        let across = (self.own * size_of::<T>()).div_ceil(16).div_ceil(self.lanes);
        let slabs = self.count / self.own.max(1) * self.pieces * across;
        // SAFETY: the caller's.
        unsafe { gpu.launch(kernel, if gpu.last { slabs } else { threads }, gpu.last) }
    }
}

/// Which rows share a statistic: `members` that follow each other, or every `statistics`th.
#[repr(C)]
#[derive(Clone, Copy)]
struct Shared {
    statistics: usize,
    members: usize,
    strided: i32,
}

// SAFETY: numbers in C's layout, as `Sharing` in op.cu.
unsafe impl DeviceRepr for Shared {}

/// The kernel for where channels lie.
fn named(gpu: &Gpu, what: &str) -> String {
    format!("{}_{what}", if gpu.last { "norm_last" } else { "norm" })
}

/// The statistics of arrays, each cut to rows of its own, with as many pieces per row.
fn measure<T: Number>(
    gpu: &Gpu,
    arrays: &[Buffer<'_, T>],
    rows: &[Rows],
    shared: Shared,
    eps: f64,
) -> Result<Slice<f64>> {
    let mut statistics = gpu.alloc::<f64>(3 * shared.statistics)?;
    let Some(&first) = rows.first() else { return Ok(statistics) };
    let kernel = gpu.function::<T>(&KERNELS, &named(gpu, "moments"))?;
    if !gpu.last && rows.len() == 1 && shared.members * first.pieces == 1 {
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&arrays[0].data).arg(&NULL).arg(&mut statistics).arg(&first).arg(&eps);
        // SAFETY: the array has these rows, and there is a statistic for each.
        unsafe { first.launch::<T>(gpu, launch) }?;
        return Ok(statistics);
    }
    let mut parts = gpu.alloc::<f64>(2 * shared.statistics * shared.members * first.pieces)?;
    for (x, rows) in arrays.iter().zip(rows) {
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x.data).arg(&mut parts);
        if gpu.last {
            launch.arg(rows);
        } else {
            launch.arg(&NULL).arg(rows).arg(&eps);
        }
        // SAFETY: the array has these rows, which are among the members of all statistics.
        unsafe { rows.launch::<T>(gpu, launch) }?;
    }
    let kernel = gpu.function::<f64>(&KERNELS, "norm_statistics")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&parts).arg(&mut statistics).arg(&first).arg(&shared).arg(&eps);
    // SAFETY: all parts are there: the arrays together have the members of all statistics.
    unsafe { gpu.launch(launch, shared.statistics, true) }?;
    Ok(statistics)
}

/// What the second pass backward adds up: see `norm_finish`.
struct Sums<'a, T> {
    parts: &'a Slice<f64>,
    statistics: &'a CudaView<'a, f64>,
    weight: Option<&'a CudaView<'a, T>>,
    rows: Rows,
    shared: Shared,
    /// Elements that share a statistic.
    count: usize,
}

/// What comes of the sums: the slopes and levels of the first `tilted` statistics, and the
/// gradients of `parameters` weights and biases.
struct Finished<T: Number> {
    tilts: Slice<f64>,
    dw: Slice<T::Wide>,
    db: Slice<T::Wide>,
}

impl<T: Number> Sums<'_, T> {
    fn finish(&self, gpu: &Gpu, tilted: usize, parameters: usize) -> Result<Finished<T>> {
        let count = self.count as f64;
        let mut tilts = gpu.alloc::<f64>(2 * tilted.max(1))?;
        let mut dw = gpu.alloc::<T::Wide>(parameters.max(1))?;
        let mut db = gpu.alloc::<T::Wide>(parameters.max(1))?;
        let kernel = gpu.function::<T::Wide>(&KERNELS, "norm_finish")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(self.parts).arg(self.statistics);
        push(&mut launch, self.weight);
        launch.arg(&mut tilts).arg(&mut dw).arg(&mut db).arg(&self.rows).arg(&self.shared);
        launch.arg(&tilted).arg(&parameters).arg(&count);
        // SAFETY: `parts` has two numbers for each piece of the members of all statistics; weight
        // and gradients have `parameters` numbers, which divides the number of members.
        unsafe { gpu.launch(launch, tilted + parameters, true) }?;
        Ok(Finished { tilts, dw, db })
    }
}

/// Lends `f` statistics that lie on a GPU.
fn with_statistics<R>(
    op: &'static str,
    statistics: &OnceLock<Statistics>,
    f: impl FnOnce(&CudaView<'_, f64>) -> Result<R>,
) -> Result<R> {
    with_buffers::<f64, _>(op, &[on_device(op, statistics)?], |_, buffers| f(&buffers[0].data))
}

/// What a kernel has found, to be kept.
fn kept(gpu: &Gpu, statistics: Slice<f64>, count: usize) -> Statistics {
    Statistics::Device(gpu.tensor(statistics, (3, count)))
}

/// The statistics that means and variances in f64 make.
pub(super) fn given(
    op: &'static str,
    mean: &Tensor,
    variance: &Tensor,
    eps: f64,
) -> Result<Statistics> {
    with_buffers::<f64, _>(op, &[mean, variance], |gpu, args| {
        let count = args[0].count();
        let mut statistics = gpu.alloc::<f64>(3 * count)?;
        let kernel = gpu.function::<f64>(&KERNELS, "norm_given")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&args[0].data).arg(&args[1].data).arg(&mut statistics).arg(&count).arg(&eps);
        // SAFETY: both have `count` numbers, which the caller has checked, the statistics three
        // times as many.
        unsafe { gpu.launch(launch, count, false) }?;
        Ok(kept(gpu, statistics, count))
    })
}
