//! Separable maps on a GPU: one launch for all dimensions where outputs have few taps, else several.

#![allow(unsafe_code)] // launches of kernels

use super::{AxisMap, Separable};
use crate::cast::is_half;
use crate::gpu::graph::{is_recording, keep};
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice};
use crate::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, CudaView, DeviceRepr, PushKernelArg,
};
use candle_core::{Shape, Tensor};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

static KERNELS: Kernels =
    Kernels::new("separable", include_bytes!(concat!(env!("OUT_DIR"), "/separable.fatbin")));

/// An output with more taps in one dimension than this is made of pieces.
const MOST_TAPS: usize = 32;
/// With more input rows than this in an output row, a launch per dimension is less work.
const MOST_ROWS: usize = 16;

pub(super) fn run<T: Number>(
    op: &Separable,
    gpu: &Gpu,
    x: &Buffer<'_, T>,
) -> Result<(Slice<T>, Shape)> {
    let (leading, _) = x.dims.split_at(x.dims.len() - op.maps.len());
    let outputs: Vec<usize> = op.maps.iter().map(AxisMap::outputs).collect();
    let rest = T::wide(op.rest);
    let mut planes: usize = leading.iter().product();
    // channels that lie last are a dimension that stays as it is
    let channels = gpu.last.then_some(x.dims[1]);
    if let Some(channels) = channels {
        planes /= channels.max(1);
    }
    let steps = prepared::<T>(op, channels, gpu)?;
    let Some((last, before)) = steps.split_last() else {
        return Err(Error::argument(op.name, "there is no dimension to map"));
    };
    // what is between two steps is not rounded
    let mut between: Option<Slice<T::Wide>> = None;
    for step in before {
        between = Some(match &between {
            None => step.run(gpu, &between_kernel::<T>(gpu, "widening")?, planes, rest, &x.data)?,
            Some(x) => {
                let kernel = gpu.function::<T::Wide>(&KERNELS, "separable")?;
                step.run(gpu, &kernel, planes, rest, &x.as_view())?
            }
        });
    }
    let data = match &between {
        None => {
            let kernel = gpu.function::<T>(&KERNELS, "separable")?;
            last.run(gpu, &kernel, planes, rest, &x.data)?
        }
        Some(x) => {
            let kernel = between_kernel::<T>(gpu, "narrowing")?;
            last.run(gpu, &kernel, planes, rest, &x.as_view())?
        }
    };
    Ok((data, [leading, &outputs].concat().into()))
}

/// The kernel from or to numbers that are computed with.
fn between_kernel<T: Number>(gpu: &Gpu, how: &str) -> Result<CudaFunction> {
    match is_half(T::DTYPE) {
        true => gpu.function::<T>(&KERNELS, &format!("separable_{how}")),
        false => gpu.function::<T>(&KERNELS, "separable"),
    }
}

/// Maps of some dimensions, with the tables of their taps on the GPU.
struct Step<T: Number> {
    maps: Maps,
    /// Rows and row lengths of a plane of the result.
    outputs: [usize; 2],
    table: Slice<u32>,
    weights: Slice<T::Wide>,
}

/// Three dimensions, and where the inputs of taps begin in the table: laid out as the kernel's.
#[derive(Clone, Copy)]
#[repr(C)]
struct Maps {
    axes: [Axis; 3],
    index: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Axis {
    inputs: u32,
    outputs: u32,
    /// Where the first taps of the outputs begin in the table.
    starts: u32,
    /// Whether the outputs are the inputs, and there is no table.
    same: u32,
}

// SAFETY: numbers alone, in the order of the kernel's structure.
unsafe impl DeviceRepr for Maps {}

impl<T: Number> Step<T> {
    /// Maps by their dimension; `sizes` are those of the input, and then those of the output.
    fn new(
        op: &'static str,
        maps: &[(usize, AxisMap)],
        sizes: &mut [usize; 3],
        gpu: &Gpu,
    ) -> Result<Self> {
        let small = |n: usize| {
            u32::try_from(n).map_err(|_| Error::argument(op, format!("{n} taps are too many")))
        };
        // with a word in front, for a buffer must not be empty
        let (mut axes, mut table) = ([Axis::default(); 3], vec![0]);
        let (mut index, mut weights) = (Vec::new(), Vec::new());
        for (d, axis) in axes.iter_mut().enumerate() {
            let Some((_, map)) = maps.iter().find(|(of, _)| *of == d) else {
                let size = small(sizes[d])?;
                *axis = Axis { inputs: size, outputs: size, starts: 0, same: 1 };
                continue;
            };
            let (inputs, outputs) = (small(map.inputs)?, small(map.outputs())?);
            *axis = Axis { inputs, outputs, starts: small(table.len())?, same: 0 };
            sizes[d] = map.outputs();
            let before = index.len();
            for start in &map.starts {
                table.push(small(before + start)?);
            }
            for &i in &map.index {
                index.push(small(i)?);
            }
            weights.extend(map.weight.iter().map(|&w| T::wide(w)));
        }
        let maps = Maps { axes, index: small(table.len())? };
        table.extend(index);
        weights.push(T::wide(0.0));
        let outputs = [sizes[0] * sizes[1], sizes[2]];
        let failed = |e| Error::argument(op, format!("its tables do not fit on the GPU: {e}"));
        let table = gpu.stream.clone_htod(&table).map_err(failed)?;
        let weights = gpu.stream.clone_htod(&weights).map_err(failed)?;
        Ok(Self { maps, outputs, table, weights })
    }

    fn run<From, To: DeviceRepr>(
        &self,
        gpu: &Gpu,
        kernel: &CudaFunction,
        planes: usize,
        rest: T::Wide,
        x: &CudaView<'_, From>,
    ) -> Result<Slice<To>> {
        let [rows, width] = self.outputs;
        let rows = planes.checked_mul(rows);
        let count = rows.and_then(|rows| rows.checked_mul(width));
        let (Some(rows), Some(count)) = (rows, count) else {
            let message = format!("{planes} images of {:?} pixels are too large", self.outputs);
            return Err(Error::argument(gpu.op, message));
        };
        let mut out = gpu.alloc::<To>(count)?;
        let mut launch = gpu.stream.launch_builder(kernel);
        launch.arg(x).arg(&mut out).arg(&self.table).arg(&self.weights);
        launch.arg(&self.maps).arg(&rows).arg(&rest);
        // SAFETY: `x` has `planes` images of the inputs' sizes, which all taps are within; the result
        // has `rows` rows.
        unsafe { gpu.launch(launch, count, false) }?;
        Ok(out)
    }
}

/// Steps for some maps, in use or kept for the next call.
struct Prepared {
    stream: Arc<CudaStream>,
    maps: Vec<AxisMap>,
    /// If these lie last.
    channels: Option<usize>,
    /// An array of [`Step`] of one of the number types.
    steps: Arc<dyn Any + Send + Sync>,
}

/// The latest are at the end.
static PREPARED: Mutex<Vec<Prepared>> = Mutex::new(Vec::new());
/// As many are kept: more than the layers of a network resize.
const KEPT: usize = 64;

/// The steps of an operation. A network applies the same ones again and again, so they are kept.
fn prepared<T: Number>(
    op: &Separable,
    channels: Option<usize>,
    gpu: &Gpu,
) -> Result<Arc<Vec<Step<T>>>> {
    let mut kept = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = kept.iter().enumerate().find_map(|(i, old)| {
        let same = Arc::ptr_eq(&old.stream, &gpu.stream)
            && old.channels == channels
            && old.maps == op.maps;
        let steps = same.then(|| old.steps.clone().downcast().ok()).flatten();
        steps.map(|steps: Arc<Vec<Step<T>>>| (i, steps))
    });
    if let Some((i, steps)) = found {
        kept[i..].rotate_left(1);
        keep(&steps);
        return Ok(steps);
    }
    if is_recording() {
        return Err(Error::argument(op.name, "tables that are new cannot be recorded"));
    }
    let mut sizes = [1; 3];
    let count = op.maps.len() + usize::from(channels.is_some());
    let missing = sizes
        .len()
        .checked_sub(count)
        .ok_or_else(|| Error::argument(op.name, format!("{count} dimensions are too many")))?;
    for (size, map) in sizes[missing..].iter_mut().zip(&op.maps) {
        *size = map.inputs;
    }
    if let (Some(size), Some(channels)) = (sizes.last_mut(), channels) {
        *size = channels;
    }
    let maps = op.maps.iter().enumerate().map(|(i, map)| (i + missing, map));
    let steps = steps(maps)
        .iter()
        .map(|maps| Step::new(op.name, maps, &mut sizes, gpu))
        .collect::<Result<Vec<_>>>()?;
    let steps = Arc::new(steps);
    if kept.len() == KEPT {
        kept.remove(0);
    }
    let (stream, maps) = (gpu.stream.clone(), op.maps.clone());
    kept.push(Prepared { stream, maps, channels, steps: steps.clone() });
    Ok(steps)
}

/// What is done one after the other; each step has maps of some of three dimensions.
fn steps<'a>(maps: impl Iterator<Item = (usize, &'a AxisMap)>) -> Vec<Vec<(usize, AxisMap)>> {
    const LAST: usize = 2;
    let (mut steps, mut left) = (Vec::new(), Vec::new());
    for (axis, map) in maps.filter(|(_, map)| !map.is_identity()) {
        let mut map = map.clone();
        while map.most_taps() > MOST_TAPS {
            let (pieces, sums) = cut(&map);
            steps.push(vec![(axis, pieces)]);
            map = sums;
        }
        left.push((axis, map));
    }
    // alone go those that shrink first
    left.sort_by_key(|(_, map)| map.outputs() > map.inputs);
    let outer = |left: &[(usize, AxisMap)]| {
        let taps = left.iter().map(|(axis, map)| if *axis == LAST { 1 } else { map.most_taps() });
        let too_many = taps.product::<usize>() > MOST_ROWS;
        too_many.then(|| left.iter().position(|(axis, _)| *axis != LAST)).flatten()
    };
    while let Some(i) = outer(&left) {
        steps.push(vec![left.remove(i)]);
    }
    steps.push(left);
    steps
}

/// A map as two: of pieces of its rows, and of their sums. A piece has every so manyth tap of the
/// row, so that neighbouring pieces read neighbours.
fn cut(map: &AxisMap) -> (AxisMap, AxisMap) {
    let mut pieces: Vec<Vec<(usize, f64)>> = Vec::new();
    let mut starts = vec![0];
    for i in 0..map.outputs() {
        let taps: Vec<_> = map.taps(i).collect();
        let count = taps.len().div_ceil(MOST_TAPS);
        pieces.extend((0..count).map(|p| taps.iter().copied().skip(p).step_by(count).collect()));
        starts.push(pieces.len());
    }
    let sums = AxisMap::new(pieces.len(), map.outputs(), |i| {
        (starts[i]..starts[i + 1]).map(|piece| (piece, 1.0))
    });
    (AxisMap::new(map.inputs, pieces.len(), |i| pieces[i].iter().copied()), sums)
}

pub(crate) fn cases() -> Vec<Case> {
    [map_cases(), resize_cases(), pad_cases()].into_iter().flatten().collect()
}

fn map_cases() -> Vec<Case> {
    let case = |name: &str, shape: &[usize], maps: Vec<AxisMap>, rest: f64| {
        Case::new(format!("separable {name}"), &[shape], move |x| {
            super::apply_maps("separable", &x[0], maps.clone(), rest)
        })
    };
    let same = |n: usize| AxisMap::new(n, n, |i| [(i, 1.0)]);
    let mean = |n: usize| AxisMap::new(n, 1, move |_| (0..n).map(move |j| (j, 1.0 / n as f64)));
    let blur = |n: usize| AxisMap::new(n, n, move |i| (0..5).map(move |k| ((i + k) % n, 0.2)));
    // all taps of half the rows, none of the other half
    let wide = |n: usize| {
        AxisMap::new(n, 4, move |i| {
            (0..i % 2 * n).map(move |j| (j, (0.1 + i as f64) / (1.0 + j as f64)))
        })
    };
    vec![
        case("one dimension", &[3, 5], vec![blur(5)], 0.0),
        case("no leading one", &[6, 5], vec![same(6), blur(5)], 0.0),
        case("blur", &[2, 5, 6, 7], vec![blur(5), blur(6), blur(7)], 0.0),
        case("blur of rows", &[2, 7, 300], vec![blur(7), same(300)], 0.0),
        case("blur of planes", &[2, 7, 3, 40], vec![blur(7), same(3), same(40)], 0.0),
        case("mean", &[3, 33, 40, 65], vec![mean(33), mean(40), mean(65)], 0.0),
        case("mean of rows", &[3, 5, 1100], vec![same(5), mean(1100)], 0.0),
        case("without taps", &[2, 70, 70], vec![wide(70), wide(70)], 0.0),
        case("with a rest", &[2, 3, 70], vec![same(3), wide(70)], 7.0),
    ]
}

fn resize_cases() -> Vec<Case> {
    use crate::resize::{Resize, resize, resize_by};
    let modes = [
        Resize::Nearest,
        Resize::Linear { align_corners: false },
        Resize::Linear { align_corners: true },
        Resize::Cubic { align_corners: false },
        Resize::Cubic { align_corners: true },
        Resize::LinearSmoothed,
        Resize::CubicSmoothed,
    ];
    let sizes: [(&[usize], &[usize]); 5] = [
        (&[2, 3, 9], &[400]),
        (&[2, 3, 9, 7], &[18, 14]),
        (&[1, 2, 33, 50], &[7, 90]),
        (&[1, 2, 200, 3], &[3, 1]),
        (&[1, 2, 5, 6, 9], &[9, 4, 18]),
    ];
    let mut cases = Vec::new();
    for mode in modes {
        for (shape, size) in sizes {
            let size = size.to_vec();
            let name = format!("resize {mode:?} of {shape:?} to {size:?}");
            cases.push(Case::new(name, &[shape], move |x| resize(&x[0], &size, mode)));
        }
        cases.push(Case::new(format!("resize_by {mode:?}"), &[&[1, 2, 9, 20]], move |x| {
            resize_by(&x[0], &[2.3, 0.4], mode)
        }));
    }
    cases
}

fn pad_cases() -> Vec<Case> {
    use crate::pad::{Pad, pad};
    let shapes: [(&[usize], &[(usize, usize)]); 4] = [
        (&[2, 3, 9], &[(4, 300)]),
        (&[2, 3, 5, 70], &[(1, 2), (4, 0)]),
        (&[2, 3, 5, 70], &[(3, 0), (0, 0)]),
        (&[2, 3, 4, 5, 6], &[(1, 2), (0, 0), (3, 5)]),
    ];
    let mut cases = Vec::new();
    for (shape, amounts) in shapes {
        for mode in [Pad::Zero, Pad::Constant(-1.5), Pad::Reflect, Pad::Replicate] {
            let fits = amounts.iter().zip(&shape[2..]).all(|(a, n)| a.0.max(a.1) < *n);
            if mode != Pad::Reflect || fits {
                let name = format!("pad {mode:?} of {shape:?} by {amounts:?}");
                cases
                    .push(Case::new(name, &[shape], move |x: &[Tensor]| pad(&x[0], amounts, mode)));
            }
        }
    }
    cases
}
