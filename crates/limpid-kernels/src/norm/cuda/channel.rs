//! Normalisation with parameters per channel, and a function of it.

use super::{KERNELS, Rows, Shared, Sums, kept, measure, named, with_statistics};
use crate::Result;
use crate::activation::{Activation, Function, Visit};
use crate::gpu::{Buffer, Gpu, Number, Slice, push, with_images};
use crate::norm::channel::{Normalise, Sharing};
use crate::op::{Backward, Op};
use candle_core::cuda_backend::cudarc::driver::{CudaView, LaunchArgs, PushKernelArg};
use candle_core::{Shape, Tensor};

/// The name of a function and what it takes besides.
fn function(activation: Activation) -> (&'static str, [f64; 2]) {
    struct Named;
    impl Visit for Named {
        type Output = (&'static str, [f64; 2]);
        fn visit<F: Function>(self, f: F) -> Self::Output {
            (F::NAME, f.parameters())
        }
    }
    activation.visit(Named)
}

/// The planes of each of the arrays that are normalised together.
fn planes<T>(gpu: &Gpu, sharing: &Sharing, sources: &[Buffer<'_, T>]) -> Vec<Rows> {
    let Sharing { batch, channels, plane, .. } = *sharing;
    let all = Rows::new::<T>(batch * channels, plane);
    let mut end = 0;
    let each = sources.iter().map(|x| {
        let own = x.dims[1];
        let (count, first) = (batch * own, end);
        end += own;
        match gpu.last {
            true => Rows::of_slabs::<T>([batch, plane], own, first, channels),
            false => Rows { count, own, first, all: channels, ..all },
        }
    });
    each.collect()
}

/// Which planes share a statistic.
fn shared(sharing: &Sharing) -> Shared {
    let statistics = sharing.statistics();
    match sharing.groups {
        Some(groups) => Shared { statistics, members: sharing.channels / groups, strided: 0 },
        None => Shared { statistics, members: sharing.batch, strided: 1 },
    }
}

/// What goes into the function, `(x - mean) * scale + shift` by plane, and the function.
struct Inner<'a, T: Number> {
    name: &'static str,
    pq: [T::Wide; 2],
    statistics: &'a CudaView<'a, f64>,
    weight: Option<&'a CudaView<'a, T>>,
    bias: Option<&'a CudaView<'a, T>>,
    /// How many weights or biases there are.
    parameters: usize,
    shared: Shared,
}

impl<'a, T: Number> Inner<'a, T> {
    fn new(op: &Normalise, args: &'a [Buffer<'_, T>], statistics: &'a CudaView<'a, f64>) -> Self {
        let (weight, bias) = (op.affine.weight(args), op.affine.bias(args));
        let (name, pq) = function(op.activation);
        Self {
            name,
            pq: pq.map(T::wide),
            statistics,
            weight: weight.map(|w| &w.data),
            bias: bias.map(|b| &b.data),
            parameters: weight.or(bias).map_or(op.sharing.channels, Buffer::count),
            shared: shared(&op.sharing),
        }
    }

    fn kernel(&self, gpu: &Gpu, what: &str) -> String {
        format!("{}_{}", named(gpu, what), self.name)
    }

    fn push_line<'l>(&'l self, launch: &mut LaunchArgs<'l>) {
        launch.arg(self.statistics);
        push(launch, self.weight);
        push(launch, self.bias);
    }

    fn push_rest<'l>(&'l self, launch: &mut LaunchArgs<'l>, rows: &'l Rows) {
        launch.arg(rows).arg(&self.shared).arg(&self.parameters).arg(&self.pq[0]).arg(&self.pq[1]);
    }

    /// The function at the planes of one array, into those of the result.
    fn values(&self, gpu: &Gpu, x: &Buffer<'_, T>, rows: &Rows, out: &mut Slice<T>) -> Result<()> {
        let kernel = gpu.function::<T>(&KERNELS, &self.kernel(gpu, "values"))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x.data);
        self.push_line(&mut launch);
        launch.arg(out);
        self.push_rest(&mut launch, rows);
        // SAFETY: `x` has these planes, the result all that are joined, and there are statistics
        // and parameters for each.
        unsafe { rows.launch::<T>(gpu, launch) }
    }

    /// The sums of the pieces of one array's planes, of which `grad` has all that are joined.
    fn sums(
        &self,
        gpu: &Gpu,
        [x, grad]: [&Buffer<'_, T>; 2],
        rows: &Rows,
        parts: &mut Slice<f64>,
    ) -> Result<()> {
        let kernel = gpu.function::<T>(&KERNELS, &self.kernel(gpu, "sums"))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x.data).arg(&grad.data);
        self.push_line(&mut launch);
        launch.arg(parts);
        self.push_rest(&mut launch, rows);
        // SAFETY: as of `values`, and `parts` has two numbers for each piece of all planes.
        unsafe { rows.launch::<T>(gpu, launch) }
    }

    /// The gradient of one array; without slopes and levels the statistics are constants.
    fn gradient(
        &self,
        gpu: &Gpu,
        [x, grad]: [&Buffer<'_, T>; 2],
        tilts: Option<&Slice<f64>>,
        rows: &Rows,
    ) -> Result<Tensor> {
        let mut out = gpu.alloc::<T>(x.count())?;
        let kernel = gpu.function::<T>(&KERNELS, &self.kernel(gpu, "gradient"))?;
        let tilts = tilts.map(Slice::as_view);
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x.data).arg(&grad.data);
        self.push_line(&mut launch);
        push(&mut launch, tilts.as_ref());
        launch.arg(&mut out);
        self.push_rest(&mut launch, rows);
        // SAFETY: as of `values`; the result has the planes of `x`, and there is a slope for each
        // statistic.
        unsafe { rows.launch::<T>(gpu, launch) }?;
        gpu.image(out, x.dims)
    }
}

/// The function of the normal planes; finds the statistics unless they are constants.
pub(in crate::norm) fn forward<T: Number>(
    op: &Normalise,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Shape)> {
    let (sharing, sources) = (&op.sharing, op.affine.sources(args));
    let rows = planes(gpu, sharing, sources);
    if !op.fixed {
        // what shares a statistic follows each other, if it is in one array
        let found = if sharing.groups.is_some() && sources.len() == 1 && !gpu.last {
            let (statistics, members, strided) = (sharing.statistics(), 1, 0);
            let rows = Rows::new::<T>(statistics, sharing.count());
            measure(gpu, sources, &[rows], Shared { statistics, members, strided }, op.eps)?
        } else {
            measure(gpu, sources, &rows, shared(sharing), op.eps)?
        };
        op.statistics.get_or_init(|| kept(gpu, found, sharing.statistics()));
    }
    let mut dims = args[0].dims.to_vec();
    dims[1] = sharing.channels;
    let mut out = gpu.alloc::<T>(dims.iter().product())?;
    with_statistics(op.name, &op.statistics, |statistics| {
        let inner = Inner::new(op, args, statistics);
        sources.iter().zip(&rows).try_for_each(|(x, rows)| inner.values(gpu, x, rows, &mut out))
    })?;
    Ok((out, dims.into()))
}

/// The gradients of the operands.
pub(in crate::norm) fn gradients<T: Number>(
    op: &Normalise,
    at: &Backward,
) -> Result<Vec<Option<Tensor>>> {
    let operands: Vec<&Tensor> = at.args.iter().chain([&at.grad]).collect();
    with_images::<T, _>(op.name, &operands, op.order(&operands), |gpu, buffers| {
        with_statistics(op.name, &op.statistics, |statistics| {
            let (args, grad) = (&buffers[..at.args.len()], &buffers[at.args.len()]);
            let sources = op.affine.sources(args);
            let rows = planes(gpu, &op.sharing, sources);
            let inner = Inner::new(op, args, statistics);
            let shape = op.affine.weight(args).or(op.affine.bias(args));
            let shape = shape.map_or(vec![op.sharing.channels], |t| t.dims.to_vec());

            let count = op.sharing.batch * op.sharing.channels;
            let mut parts = gpu.alloc::<f64>(2 * count * rows[0].pieces)?;
            for (x, rows) in sources.iter().zip(&rows) {
                inner.sums(gpu, [x, grad], rows, &mut parts)?;
            }
            let sums = Sums {
                parts: &parts,
                statistics,
                weight: inner.weight,
                rows: rows[0],
                shared: inner.shared,
                count: op.sharing.count(),
            };
            let tilted = if op.fixed { 0 } else { op.sharing.statistics() };
            let found = sums.finish(gpu, tilted, inner.parameters)?;
            let tilts = (!op.fixed).then_some(&found.tilts);
            let mut dx = Vec::with_capacity(args.len());
            for ((x, rows), &wanted) in sources.iter().zip(&rows).zip(&at.wanted) {
                let of = || inner.gradient(gpu, [x, grad], tilts, rows);
                dx.push(wanted.then(of).transpose()?);
            }
            let [dw, db] = [found.dw, found.db].map(|d| gpu.tensor(d, shape.as_slice()));
            Ok(op.affine.gradients(dx, dw, db))
        })
    })
}
