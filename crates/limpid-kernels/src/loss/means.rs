//! Means over samples of functions of elements, with their gradients.

use super::{KERNELS, Lent, Samples, Work, work};
use crate::Result;
use crate::gpu::{Buffer, Gpu, Number, Slice, with_buffers};
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, DType, Shape, Tensor};

/// A function of one element each of up to three tensors: one of those in `op.cu`, with its
/// parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formula {
    /// Its name there.
    pub name: &'static str,
    /// `p` and `q` there.
    pub numbers: [f64; 2],
}

/// No address, for what a kernel does not need.
const NONE: u64 = 0;

/// The mean of a function over each sample of `[N, ..]` tensors of one shape: `[N]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the tensors do not fit;
/// [`Error::Argument`](crate::Error::Argument) if the GPU fails.
pub fn means(
    op: &'static str,
    formula: Formula,
    args: &[Lent<'_>],
) -> Result<(CudaStorage, Shape)> {
    work(op, args, &Means(formula))
}

struct Means(Formula);

impl Work for Means {
    fn run<T: Number>(&self, gpu: &Gpu, args: &[Buffer<'_, T>]) -> Result<(Slice<T>, Shape)> {
        let Formula { name, numbers: [p, q] } = self.0;
        let samples = Samples::new(args[0].count(), args[0].dims[0]);
        let mut parts = gpu.alloc::<f64>(samples.blocks())?;
        let kernel = gpu.function::<T>(&KERNELS, &format!("loss_{name}_sums"))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        for i in 0..3 {
            match args.get(i) {
                Some(array) => launch.arg(&array.data),
                None => launch.arg(&NONE),
            };
        }
        launch.arg(&mut parts).arg(&samples.size).arg(&samples.count).arg(&samples.pieces);
        launch.arg(&p).arg(&q);
        // SAFETY: the arrays have the shape of the first, whose samples are cut into the pieces
        // that `parts` has a number for; the function reads as many of them as it has arguments,
        // which its caller gives.
        unsafe { gpu.launch(launch, samples.blocks(), true) }?;
        Ok((samples.means(gpu, &parts)?, samples.count.into()))
    }
}

/// The gradients by those tensors that are `wanted`, for a gradient `[N]` by the means, in one
/// pass.
///
/// # Errors
/// As [`means`].
pub fn slopes(
    op: &'static str,
    formula: Formula,
    args: &[&Tensor],
    wanted: &[bool],
    grad: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    match grad.dtype() {
        DType::F64 => slopes_of::<f64>(op, formula, args, wanted, grad),
        _ => slopes_of::<f32>(op, formula, args, wanted, grad),
    }
}

fn slopes_of<T: Number>(
    op: &'static str,
    formula: Formula,
    args: &[&Tensor],
    wanted: &[bool],
    grad: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    let Formula { name, numbers: [p, q] } = formula;
    let all: Vec<&Tensor> = args.iter().copied().chain([grad]).collect();
    with_buffers::<T, _>(op, &all, |gpu, buffers| {
        let (arrays, grad) = (&buffers[..args.len()], &buffers[args.len()]);
        let samples = Samples::new(arrays[0].count(), grad.count());
        let mut out = Vec::with_capacity(args.len());
        for wanted in wanted {
            out.push(wanted.then(|| gpu.alloc::<T>(arrays[0].count())).transpose()?);
        }
        let kernel = gpu.function::<T>(&KERNELS, &format!("loss_{name}_slopes"))?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        for i in 0..3 {
            match arrays.get(i) {
                Some(array) => launch.arg(&array.data),
                None => launch.arg(&NONE),
            };
        }
        launch.arg(&grad.data);
        let mut given = out.iter_mut();
        for _ in 0..3 {
            match given.next() {
                Some(Some(array)) => launch.arg(array),
                _ => launch.arg(&NONE),
            };
        }
        launch.arg(&samples.size).arg(&samples.count).arg(&samples.pieces).arg(&p).arg(&q);
        // SAFETY: arrays and results have as many elements, `grad` one for each sample; the
        // function reads and writes as many arrays as it has arguments, results only where there
        // are.
        unsafe { gpu.launch(launch, samples.blocks(), true) }?;
        let dims = arrays[0].dims;
        Ok(out.into_iter().map(|data| data.map(|data| gpu.tensor(data, dims))).collect())
    })
}
