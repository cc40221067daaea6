//! Normalisation of rows with parameters per element of a row.

use super::{KERNELS, Rows, Shared, Sums, kept, measure, with_statistics};
use crate::Result;
use crate::gpu::{Buffer, Gpu, Number, Slice, push, with_buffers};
use crate::norm::layer::{LayerNorm, NAME};
use crate::op::Backward;
use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{Shape, Tensor};

/// Each row is a statistic's.
fn alone(rows: Rows) -> Shared {
    Shared { statistics: rows.count, members: 1, strided: 0 }
}

/// The normal rows; a row of one piece is measured on the way.
pub(in crate::norm) fn forward<T: Number>(
    op: &LayerNorm,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Shape)> {
    let x = &args[0];
    let rows = Rows::new::<T>(x.count() / op.width, op.width);
    let mut statistics = if rows.pieces == 1 {
        gpu.alloc::<f64>(3 * rows.count)?
    } else {
        measure(gpu, op.affine.sources(args), &[rows], alone(rows), op.eps)?
    };
    let mut out = gpu.alloc::<T>(x.count())?;
    let kernel = gpu.function::<T>(&KERNELS, "layer_values")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut statistics);
    push(&mut launch, op.affine.weight(args).map(|w| &w.data));
    push(&mut launch, op.affine.bias(args).map(|b| &b.data));
    launch.arg(&mut out).arg(&rows).arg(&op.eps);
    // SAFETY: `x` and the result have these rows, the parameters the width of one.
    unsafe { rows.launch::<T>(gpu, launch) }?;
    op.statistics.get_or_init(|| kept(gpu, statistics, rows.count));
    Ok((out, x.dims.into()))
}

/// The gradients of the operands.
pub(in crate::norm) fn gradients<T: Number>(
    op: &LayerNorm,
    at: &Backward,
) -> Result<Vec<Option<Tensor>>> {
    let operands: Vec<&Tensor> = at.args.iter().chain([&at.grad]).collect();
    with_buffers::<T, _>(NAME, &operands, |gpu, buffers| {
        with_statistics(NAME, &op.statistics, |statistics| {
            let (args, grad) = (&buffers[..at.args.len()], &buffers[at.args.len()]);
            let (x, weight) = (&args[0], op.affine.weight(args).map(|w| &w.data));
            let rows = Rows::new::<T>(x.count() / op.width, op.width);
            let dx = at.wanted[0].then(|| data_gradient(gpu, [x, grad], statistics, weight, rows));
            let [dw, db] = parameter_gradients(gpu, [x, grad], statistics, rows)?
                .map(|d| gpu.tensor(d, op.dims.as_slice()));
            Ok(op.affine.gradients(vec![dx.transpose()?], dw, db))
        })
    })
}

fn data_gradient<T: Number>(
    gpu: &Gpu,
    [x, grad]: [&Buffer<'_, T>; 2],
    statistics: &CudaView<'_, f64>,
    weight: Option<&CudaView<'_, T>>,
    rows: Rows,
) -> Result<Tensor> {
    // the slopes and levels of rows of several pieces
    let mut tilts = None;
    if rows.pieces > 1 {
        let mut parts = gpu.alloc::<f64>(2 * rows.count * rows.pieces)?;
        let kernel = gpu.function::<T>(&KERNELS, "layer_sums")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x.data).arg(&grad.data).arg(statistics);
        push(&mut launch, weight);
        launch.arg(&mut parts).arg(&rows);
        // SAFETY: the arrays have these rows, the weight the width of one; two numbers for each
        // piece.
        unsafe { rows.launch::<T>(gpu, launch) }?;
        let (shared, count) = (alone(rows), rows.width);
        let weight = None::<&CudaView<'_, T>>; // is in the sums
        let sums = Sums { parts: &parts, statistics, weight, rows, shared, count };
        tilts = Some(sums.finish(gpu, rows.count, 0)?.tilts);
    }
    let mut out = gpu.alloc::<T>(x.count())?;
    let tilts = tilts.as_ref().map(Slice::as_view);
    let kernel = gpu.function::<T>(&KERNELS, "layer_gradient")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&grad.data).arg(statistics);
    push(&mut launch, tilts.as_ref());
    push(&mut launch, weight);
    launch.arg(&mut out).arg(&rows);
    // SAFETY: as above; there is a slope for each row, if any.
    unsafe { rows.launch::<T>(gpu, launch) }?;
    Ok(gpu.tensor(out, x.dims))
}

/// The gradients of weight and bias: sums over slabs of rows, then over the slabs.
fn parameter_gradients<T: Number>(
    gpu: &Gpu,
    [x, grad]: [&Buffer<'_, T>; 2],
    statistics: &CudaView<'_, f64>,
    rows: Rows,
) -> Result<[Slice<T::Wide>; 2]> {
    let (count, width) = (rows.count, rows.width);
    let across = width.div_ceil(32);
    let most = (1024 / across).clamp(1, 256);
    let height = count.div_ceil(most).max(32);
    let slabs = count.div_ceil(height);
    let mut parts = gpu.alloc::<f64>(2 * width * slabs.max(1))?;
    let kernel = gpu.function::<T>(&KERNELS, "layer_slabs")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&grad.data).arg(statistics).arg(&mut parts);
    launch.arg(&count).arg(&width).arg(&height);
    // SAFETY: both arrays have `count` rows, and there are two numbers for each column of a slab.
    unsafe { gpu.launch(launch, across * slabs, true) }?;
    let (mut dw, mut db) = (gpu.alloc::<T::Wide>(width)?, gpu.alloc::<T::Wide>(width)?);
    let kernel = gpu.function::<T::Wide>(&KERNELS, "layer_parameters")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&parts).arg(&mut dw).arg(&mut db).arg(&width).arg(&slabs);
    // SAFETY: as above; both gradients have a number for each column.
    unsafe { gpu.launch(launch, 2 * width, false) }?;
    Ok([dw, db])
}
