//! Attention on a GPU; op.cu says how.

#![allow(unsafe_code)] // launches of kernels

use super::sizes::{Broadcast, Sizes};
use super::{Attention, Kept, NAME, attention};
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice, push, with_buffers};
use crate::op::Backward;
use crate::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, LaunchArgs, PushKernelArg};
use candle_core::{Device, Shape, Tensor};

static KERNELS: Kernels =
    Kernels::new("attention", include_bytes!(concat!(env!("OUT_DIR"), "/attention.fatbin")));

/// Rows and columns of a tile of scores, as in op.cu.
const TILE: usize = 64;
/// Blocks that keep any GPU busy.
const ENOUGH: usize = 1024;
/// Leading dimensions at most.
const MOST_DIMS: usize = 8;

/// Some dimensions, the last one first: where a running index over them leads.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Walk {
    rank: usize,
    sizes: [usize; MOST_DIMS],
    strides: [usize; MOST_DIMS],
}

// SAFETY: op.cu has the same structure of numbers.
unsafe impl DeviceRepr for Walk {}

impl Walk {
    /// Over dimensions of some sizes and strides, the first one first.
    fn new(dims: &[[usize; 2]]) -> Result<Self> {
        if dims.len() > MOST_DIMS {
            let message = format!("a GPU takes up to {MOST_DIMS} leading dimensions; merge some");
            return Err(Error::argument(NAME, message));
        }
        let mut walk = Self { rank: dims.len(), ..Self::default() };
        for (i, &[size, stride]) in dims.iter().rev().enumerate() {
            walk.sizes[i] = size;
            walk.strides[i] = stride;
        }
        Ok(walk)
    }
}

/// The sizes of an attention, as kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Problem {
    batch: usize,
    queries: u32,
    keys: u32,
    depth: u32,
    values: u32,
    k_stride: u32,
    v_stride: u32,
    v_start: u32,
    bias_row: u32,
    bias_column: u32,
    bias: Walk,
    scale: f64,
}

// SAFETY: op.cu has the same structure of numbers.
unsafe impl DeviceRepr for Problem {}

impl Problem {
    fn new(x: &Attention) -> Result<Self> {
        let Sizes { batch, queries, keys, depth, values } = x.sizes;
        let packed = x.is_packed();
        let [k_stride, v_stride] = if packed { [depth + values; 2] } else { [depth, values] };
        // the kernels count the elements of one batch index in 32 bits
        let widest = depth + values;
        if queries.max(keys).saturating_mul(widest).max(queries * keys) > u32::MAX as usize / 2 {
            let message = format!("{queries} queries and {keys} keys are too many for a GPU");
            return Err(Error::argument(NAME, message));
        }
        let [bias_row, bias_column] = x.broadcast.as_ref().map_or([0; 2], |b| [b.row, b.column]);
        Ok(Self {
            batch,
            queries: queries as u32,
            keys: keys as u32,
            depth: depth as u32,
            values: values as u32,
            k_stride: k_stride as u32,
            v_stride: v_stride as u32,
            v_start: if packed { depth as u32 } else { 0 },
            bias_row: bias_row as u32,
            bias_column: bias_column as u32,
            bias: Walk::new(x.broadcast.as_ref().map_or(&[], |b| &b.leading))?,
            scale: x.scale,
        })
    }
}

/// The operands on a GPU.
struct Operands<'a, T> {
    problem: Problem,
    q: &'a CudaView<'a, T>,
    k: &'a CudaView<'a, T>,
    v: &'a CudaView<'a, T>,
    bias: Option<&'a CudaView<'a, T>>,
}

impl<'a, T> Operands<'a, T> {
    fn new(
        x: &Attention,
        args: [&'a Buffer<'a, T>; 3],
        constant: &'a [Buffer<'a, T>],
    ) -> Result<Self> {
        let [a, b, c] = args.map(|buffer| &buffer.data);
        let packed = x.is_packed();
        Ok(Self {
            problem: Problem::new(x)?,
            q: a,
            k: b,
            v: if packed { b } else { c },
            bias: if packed { Some(c) } else { constant.first().map(|bias| &bias.data) },
        })
    }

    fn push<'b>(&'b self, launch: &mut LaunchArgs<'b>) {
        launch.arg(self.q).arg(self.k).arg(self.v);
        push(launch, self.bias);
    }
}

/// What kernels are called for that compute up to as many columns at a time.
fn chunked(name: &str, columns: usize) -> (String, usize) {
    let chunk = match columns {
        0..=32 => 32,
        33..=64 => 64,
        _ => 128,
    };
    (format!("{name}_{chunk}"), columns.div_ceil(chunk))
}

/// The bias that needs no gradient, in numbers of the operands' type.
fn constant<T: Number>(x: &Attention) -> Result<Option<Tensor>> {
    let cast = |bias: &Tensor| bias.to_dtype(T::DTYPE);
    Ok(x.constant.as_ref().map(cast).transpose()?)
}

/// The result, and largest score and factor of each row.
pub(super) fn forward<T: Number>(
    x: &Attention,
    gpu: &Gpu,
    args: &[Buffer<'_, T>],
) -> Result<(Slice<T>, Shape)> {
    let constant = constant::<T>(x)?;
    if constant.iter().any(|bias| !bias.device().same_device(&Device::Cuda(gpu.device.clone()))) {
        return Err(Error::shape(NAME, "a bias on the device of q", "one elsewhere"));
    }
    let compute = |constant: &[Buffer<'_, T>]| {
        let operands = Operands::new(x, [&args[0], &args[1], &args[2]], constant)?;
        let Sizes { batch, queries, values, .. } = x.sizes;
        let mut y = gpu.alloc::<T>(batch * queries * values)?;
        let mut scales = gpu.alloc::<T::Wide>(2 * batch * queries)?;
        let (name, chunks) = chunked("attention_forward", values);
        let kernel = gpu.function::<T>(&KERNELS, &name)?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        operands.push(&mut launch);
        launch.arg(&mut y).arg(&mut scales).arg(&operands.problem);
        // SAFETY: `Sizes` and `Broadcast` have checked the operands; `y` and `scales` have a
        // row for each query.
        unsafe { gpu.launch(launch, batch * queries.div_ceil(TILE) * chunks, true) }?;
        Ok((y, scales))
    };
    let (y, scales) = match &constant {
        None => compute(&[]),
        Some(constant) => with_buffers(NAME, &[constant], |_, constant| compute(constant)),
    }?;
    // already set only if this very operation ran before, on the same operands
    let scales = gpu.tensor(scales, (x.sizes.batch * x.sizes.queries, 2));
    let _ = x.scales.set(Kept::Cuda(scales));
    Ok((y, x.dims.as_slice().into()))
}

/// The gradients of the operands.
pub(super) fn backward<T: Number>(x: &Attention, at: &Backward) -> Result<Vec<Option<Tensor>>> {
    let Some(Kept::Cuda(scales)) = x.scales.get() else {
        return Err(Error::argument(NAME, "the backward pass ran before the forward pass"));
    };
    let [a, b, c] = [&at.args[0], &at.args[1], &at.args[2]];
    let constant = constant::<T>(x)?;
    let tensors: Vec<&Tensor> =
        [a, b, c, at.result(NAME)?, &at.grad].into_iter().chain(&constant).collect();
    let scaled = |gpu: &Gpu, buffers: &[Buffer<'_, T>], scales: &Buffer<'_, T::Wide>| {
        let [a, b, c, y, g, constant @ ..] = buffers else {
            return Err(Error::shape(NAME, "five tensors or more", buffers.len()));
        };
        let operands = Operands::new(x, [a, b, c], constant)?;
        let levels = levels(gpu, &x.sizes, y, g)?;
        let gradients = Gradients { gpu, operands, scales, levels: &levels.slice(..), g };
        let Sizes { batch, queries, keys, depth, values } = x.sizes;
        let leading = &x.dims[..x.dims.len() - 2];
        let tensor = |data: Slice<T>, rows: usize, columns: usize| {
            gpu.tensor(data, [leading, &[rows, columns]].concat())
        };
        let alloc = |rows: usize, columns: usize| gpu.alloc::<T>(batch * rows * columns);
        let mut found = vec![None, None, None];
        if at.wanted[0] {
            let mut out = alloc(queries, depth)?;
            gradients.run("attention_q_gradient", [queries, depth], &mut out, 0, depth)?;
            found[0] = Some(tensor(out, queries, depth));
        }
        if x.is_packed() {
            if at.wanted[1] {
                let width = depth + values;
                let mut out = alloc(keys, width)?;
                gradients.run("attention_k_gradient", [keys, depth], &mut out, 0, width)?;
                gradients.run("attention_v_gradient", [keys, values], &mut out, depth, width)?;
                found[1] = Some(tensor(out, keys, width));
            }
            if let (true, Some(broadcast)) = (at.wanted[2], &x.broadcast) {
                found[2] = Some(gradients.bias(broadcast, &x.sizes, at.args[2].shape())?);
            }
            return Ok(found);
        }
        for (i, name, columns) in
            [(1, "attention_k_gradient", depth), (2, "attention_v_gradient", values)]
        {
            if at.wanted[i] {
                let mut out = alloc(keys, columns)?;
                gradients.run(name, [keys, columns], &mut out, 0, columns)?;
                found[i] = Some(tensor(out, keys, columns));
            }
        }
        Ok(found)
    };
    with_buffers(NAME, &tensors, |gpu, buffers| {
        with_buffers(NAME, &[scales], |_, scales| scaled(gpu, buffers, &scales[0]))
    })
}

/// The products of the rows of the result and its gradient.
fn levels<T: Number>(
    gpu: &Gpu,
    sizes: &Sizes,
    y: &Buffer<'_, T>,
    g: &Buffer<'_, T>,
) -> Result<Slice<T::Wide>> {
    let rows = sizes.batch * sizes.queries;
    let mut out = gpu.alloc::<T::Wide>(rows)?;
    let kernel = gpu.function::<T>(&KERNELS, "attention_levels")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&y.data).arg(&g.data).arg(&mut out).arg(&rows).arg(&sizes.values);
    // SAFETY: both arrays have `rows` rows of `values` elements; a warp takes a row.
    unsafe { gpu.launch(launch, 32 * rows, false) }?;
    Ok(out)
}

/// What the gradients are made from.
struct Gradients<'a, T: Number> {
    gpu: &'a Gpu,
    operands: Operands<'a, T>,
    scales: &'a Buffer<'a, T::Wide>,
    levels: &'a CudaView<'a, T::Wide>,
    g: &'a Buffer<'a, T>,
}

impl<T: Number> Gradients<'_, T> {
    fn push<'b>(&'b self, launch: &mut LaunchArgs<'b>) {
        self.operands.push(launch);
        launch.arg(&self.scales.data).arg(self.levels).arg(&self.g.data);
    }

    /// Fills `columns` columns of `out`, whose rows are `stride` apart, from `start` on.
    fn run(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
        out: &mut Slice<T>,
        start: usize,
        stride: usize,
    ) -> Result<()> {
        let (name, chunks) = chunked(name, columns);
        let kernel = self.gpu.function::<T>(&KERNELS, &name)?;
        let mut launch = self.gpu.stream.launch_builder(&kernel);
        self.push(&mut launch);
        launch.arg(out).arg(&start).arg(&stride).arg(&self.operands.problem);
        let blocks = self.operands.problem.batch * rows.div_ceil(TILE) * chunks;
        // SAFETY: the operands are those of the forward pass, and `out` has `rows` rows for each
        // batch index.
        unsafe { self.gpu.launch(launch, blocks, true) }
    }

    fn bias(&self, broadcast: &Broadcast, sizes: &Sizes, shape: &Shape) -> Result<Tensor> {
        let gpu = self.gpu;
        let len = broadcast.len;
        if len == 0 {
            return Ok(Tensor::zeros(shape, T::DTYPE, &Device::Cuda(gpu.device.clone()))?);
        }
        // batch indices that have a plane of the bias each, and those that share it
        let (mut own, mut shared) = (Vec::new(), Vec::new());
        let mut stride = 1;
        for &[size, bias_stride] in broadcast.leading.iter().rev() {
            let dims = if bias_stride == 0 { &mut shared } else { &mut own };
            dims.insert(0, [size, stride]);
            stride *= size;
        }
        let count = |dims: &[[usize; 2]]| dims.iter().map(|[size, _]| size).product::<usize>();
        let (planes, members) = (count(&own), count(&shared));
        let (own, shared) = (Walk::new(&own)?, Walk::new(&shared)?);
        let tiles = |stride: usize, count: usize| match stride {
            0 => [1, count.div_ceil(TILE)],
            _ => [count.div_ceil(TILE), 1],
        };
        let ([down, rows], [across, columns]) =
            (tiles(broadcast.row, sizes.queries), tiles(broadcast.column, sizes.keys));
        let (blocks, terms) = (planes * down * across, members * rows * columns);
        // few tiles with many terms are cut into parts that are added up at the end
        let parts = ENOUGH.div_ceil(blocks.max(1)).min(terms).max(1);
        let mut found = gpu.alloc::<T::Wide>(parts * len)?;
        let kernel = gpu.function::<T>(&KERNELS, "attention_bias_gradient")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        self.push(&mut launch);
        launch.arg(&mut found).arg(&own).arg(&shared).arg(&planes).arg(&members).arg(&parts);
        launch.arg(&self.operands.problem);
        // SAFETY: the operands are those of the forward pass, and `found` has `parts` times the
        // elements of the bias.
        unsafe { gpu.launch(launch, parts * blocks, true) }?;
        if parts == 1 && size_of::<T>() == size_of::<T::Wide>() {
            return Ok(gpu.tensor(found, shape));
        }
        let mut out = gpu.alloc::<T>(len)?;
        let kernel = gpu.function::<T>(&KERNELS, "attention_sum_parts")?;
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&found).arg(&mut out).arg(&len).arg(&parts);
        // SAFETY: `found` has `parts` times the `len` elements of `out`.
        unsafe { gpu.launch(launch, len, false) }?;
        Ok(gpu.tensor(out, shape))
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, leading: &[usize], [l, m]: [usize; 2], [d, e]: [usize; 2]| {
        let shape = |rows, columns| [leading, &[rows, columns]].concat();
        let shapes = [shape(l, d), shape(m, d), shape(m, e)];
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let scale = 2.0 / (d as f64).sqrt();
        Case::new(format!("attention {name}"), &shapes, move |x| {
            attention(&x[0], &x[1], &x[2], scale, None)
        })
        .range(-2.0, 2.0)
    };
    let mut cases = vec![
        case("of one score", &[], [1, 1], [1, 1]).result_only(),
        case("of windows", &[2, 3], [49, 49], [30, 30]),
        case("of whole tiles", &[2], [64, 128], [32, 64]),
        case("over tiles", &[1, 2], [130, 199], [45, 67]),
        case("of one query", &[2], [1, 500], [16, 12]),
        case("of two keys", &[2], [100, 2], [3, 70]),
        case("of 100 and 130", &[2], [33, 70], [100, 130]),
        case("of 256", &[1], [65, 40], [256, 256]),
    ];
    let (q, k, v): (&[usize], &[usize], &[usize]) =
        (&[2, 3, 70, 6], &[2, 3, 67, 6], &[2, 3, 67, 8]);
    let biases: [&[usize]; 6] =
        [&[2, 3, 70, 67], &[3, 70, 67], &[2, 1, 70, 67], &[70, 67], &[67], &[1, 3, 1, 67]];
    for bias in biases {
        cases.push(Case::new(format!("attention with {bias:?}"), &[q, k, v, bias], |x| {
            attention(&x[0], &x[1], &x[2], 0.8, Some(&x[3]))
        }));
    }
    // a softmax does not change with what all its scores share: the gradient of that is nothing
    // but rounding, which is compared beside another one
    for bias in [&[2, 3, 70, 1], &[1, 3, 1, 1]] {
        let bias: &[usize] = bias;
        cases.push(Case::new(format!("attention with {bias:?}"), &[q, k, v, bias], |x| {
            let y = attention(&x[0], &x[1], &x[2], 0.8, Some(&x[3]))?;
            let flat = |t: &Tensor| t.flatten_all();
            Ok(Tensor::cat(&[flat(&y)?, flat(&x[3])?], 0)?)
        }));
    }
    let constants: [(&str, &[usize], fn(usize) -> f64); 4] = [
        ("a constant bias", &[3, 70, 67], |i| (i as f64).sin()),
        ("a bias for each key", &[2, 1, 1, 67], |i| (i as f64).cos()),
        // the first tile is masked
        ("a mask", &[67], |i| if i < 65 { f64::NEG_INFINITY } else { 0.0 }),
        ("a row masked", &[70, 1], |i| if i == 66 { f64::NEG_INFINITY } else { 0.0 }),
    ];
    for (name, dims, bias) in constants {
        cases.push(Case::new(format!("attention with {name}"), &[q, k, v], move |x| {
            let values = (0..dims.iter().product()).map(bias).collect();
            let bias = Tensor::from_vec(values, dims, &Device::Cpu)?;
            let bias = bias.to_dtype(x[0].dtype())?.to_device(x[0].device())?;
            attention(&x[0], &x[1], &x[2], 0.8, Some(&bias))
        }));
    }
    cases
}
