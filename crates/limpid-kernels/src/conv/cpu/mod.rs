//! CPU arithmetic of the convolution maps.
//!
//! All three read the image through [`gather::Gather`], which says where each tap of the kernel
//! looks for each output pixel. [`correlate`] computes forward and data gradient, [`weight`] the
//! weight gradient, both by matrix products. In f32, [`scatter`] computes the data
//! gradient of most strided kernels, [`few`] and [`few_weight`] what has few channels per group, and
//! [`winograd`] kernels of three taps per dimension. Work is cut by tile index, never by thread
//! count, so that sums come out with the same bits however many threads there are.

#![allow(unsafe_code)] // outputs are written uninitialised and by several threads: output.rs

mod correlate;
mod few;
mod few_weight;
mod gather;
mod scatter;
#[cfg(test)]
mod tests;
mod weight;
mod winograd;

use super::algorithm::{ConvAlgorithm, conv_algorithm};
use super::geometry::Geometry;
use crate::element::{Element, single};
use crate::math::Real;
use crate::output::Output;
use crate::parts::{Outputs, Parts};
use crate::{Result, planes, simd};
use correlate::{Correlation, Lattice};
use few_weight::FewWeight;
use gather::{Axis, Gather};
use rayon::prelude::*;
use scatter::Scatter;
use std::ops::Range;

/// Pixels of a tile: a row of the column buffer takes 2 kB.
fn tile_pixels<T>() -> usize {
    2048 / size_of::<T>()
}

/// Rows (channel and tap) of the column buffer, which then takes 0.75 MB and stays in L2.
const COLUMN_ROWS: usize = 384;

/// Parallel tasks worth having; more are made only where the sizes do not give as many.
const TASKS: usize = 16;

/// `image [batch, channels, ..]` to `result [batch, features, ..]`, whose features are cut to parts
/// of the numbers in `to`.
pub(super) fn forward<T: Element>(
    g: &Geometry,
    image: &Parts<T>,
    weight: &[T],
    bias: Option<&[T]>,
    to: &[usize],
) -> Result<Vec<Vec<T>>> {
    let output = Outputs::new("conv", g.batch, to, g.result_pixels())?;
    if !by_winograd(g, false, image, weight, bias, &output)? {
        direct_forward(g, image, weight, bias, &output);
    }
    // SAFETY: every element was written.
    Ok(unsafe { output.into_vecs() })
}

/// Writes every element of `output`.
fn direct_forward<T: Element>(
    g: &Geometry,
    image: &Parts<T>,
    weight: &[T],
    bias: Option<&[T]>,
    output: &Outputs<T>,
) {
    let correlation = Correlation {
        batch: g.batch,
        groups: g.groups,
        inputs: g.group_channels(),
        outputs: g.group_features(),
        gather: image_gather(g),
        lattice: Lattice::dense(g.result),
    };
    // the lattice is dense, so this is every element
    correlation.run(image, weight, bias, output);
}

/// `result [batch, features, ..]` to `image [batch, channels, ..]`, whose channels are cut to parts of
/// the numbers in `to`.
///
/// With stride `s`, image pixels that share their position modulo `s` see the same taps: each such
/// phase is a correlation of the result at stride one with part of the kernel (Shi et al.,
/// arXiv:1609.07009).
pub(super) fn data_grad<T: Element>(
    g: &Geometry,
    result: &Parts<T>,
    weight: &[T],
    bias: Option<&[T]>,
    to: &[usize],
) -> Result<Vec<Vec<T>>> {
    let output = Outputs::new("conv_transpose", g.batch, to, g.image_pixels())?;
    if !by_winograd(g, true, result, weight, bias, &output)? {
        direct_data_grad(g, result, weight, bias, &output)?;
    }
    // SAFETY: every element was written.
    Ok(unsafe { output.into_vecs() })
}

/// Writes every element of `output`: the phases together are all image pixels.
fn direct_data_grad<T: Element>(
    g: &Geometry,
    result: &Parts<T>,
    weight: &[T],
    bias: Option<&[T]>,
    output: &Outputs<T>,
) -> Result<()> {
    if let (Some(result), Some(weight), Some(output)) =
        (result.single(), single(weight), output.single())
        && scatter::applies(g)
    {
        Scatter { g, result: &result, weight, bias: bias.and_then(single), output }.run();
        return Ok(());
    }
    for start in phases(g) {
        let phase: [Phase; 3] = std::array::from_fn(|d| Phase::new(g, d, start[d]));
        let correlation = Correlation {
            batch: g.batch,
            groups: g.groups,
            inputs: g.group_features(),
            outputs: g.group_channels(),
            gather: Gather::new(std::array::from_fn(|d| phase[d].axis.clone())),
            lattice: Lattice { image: g.image, start, step: g.stride },
        };
        let weight = phase_weight(g, weight, &phase)?;
        correlation.run(result, &weight, bias, output);
    }
    Ok(())
}

/// `image [batch, channels, ..]` and `result [batch, features, ..]` to
/// `weight [features, channels / groups, ..]`.
pub(super) fn weight_grad<T: Element>(
    g: &Geometry,
    image: &Parts<T>,
    result: &Parts<T>,
) -> Result<Vec<T>> {
    if let (Some(image), Some(result)) = (image.single(), result.single())
        && use_winograd(g)
    {
        let output = Output::new("conv_weight_grad", g.features * g.channels * g.taps())?;
        if let Some(weight) = output.single() {
            winograd::weight_grad(simd::level(), g, &image, &result, weight)?;
            // SAFETY: every element was written.
            return Ok(unsafe { output.into_vec() });
        }
    }
    let gather = image_gather(g);
    let (inputs, outputs) = (g.group_channels(), g.group_features());
    if let (Some(image), Some(result)) = (image.single(), result.single())
        && few_weight::applies(&gather, inputs, outputs)
    {
        let (batch, groups, gather) = (g.batch, g.groups, &gather);
        let (image, result) = (&image, &result);
        let sums = FewWeight { batch, groups, inputs, outputs, gather, image, result };
        return Ok(sums.run(simd::level()).into_iter().map(|w| T::from_f64(w.into())).collect());
    }
    weight::weight_grad(g, image, result)
}

fn use_winograd(g: &Geometry) -> bool {
    conv_algorithm() == ConvAlgorithm::Auto && winograd::worth_it(g)
}

/// Writes all of `output` by Winograd's algorithm, where that is possible and faster.
fn by_winograd<T: Element>(
    g: &Geometry,
    transposed: bool,
    source: &Parts<T>,
    weight: &[T],
    bias: Option<&[T]>,
    output: &Outputs<T>,
) -> Result<bool> {
    let (Some(source), Some(weight), Some(output)) =
        (source.single(), single(weight), output.single())
    else {
        return Ok(false);
    };
    if !use_winograd(g) {
        return Ok(false);
    }
    let bias = bias.and_then(single);
    winograd::correlate(simd::level(), g, transposed, &source, weight, bias, output)?;
    Ok(true)
}

/// Sums of `data [batch, channels, ..]` over all but the channels, accumulated in f64.
pub(super) fn channel_sums<T: Real>(data: &[T], batch: usize, channels: usize) -> Vec<T> {
    let planes = batch * channels;
    let sum = |range: Range<usize>| {
        let [sum] = planes::sums([&data[range]], |[x]| [x.f64()]);
        sum
    };
    let sums = planes::reduce(planes, data.len() / planes.max(1), sum, |a, b| a + b);
    (0..channels).map(|c| T::of(sums.iter().skip(c).step_by(channels).sum())).collect()
}

/// Where the taps of the kernel read the image, for each pixel of the result.
fn image_gather(g: &Geometry) -> Gather {
    Gather::new(std::array::from_fn(|d| {
        let offset = |tap: usize| (tap * g.dilation[d]) as isize - g.padding[d] as isize;
        Axis::new(g.result[d], g.image[d], g.stride[d], (0..g.kernel[d]).map(offset).collect())
    }))
}

/// The first image pixels of all phases of the data gradient.
fn phases(g: &Geometry) -> Vec<[usize; 3]> {
    let per_dim: [usize; 3] = std::array::from_fn(|d| g.stride[d].min(g.image[d]));
    let [nz, ny, nx] = per_dim;
    (0..nz * ny * nx).map(|i| [i / (ny * nx), i / nx % ny, i % nx]).collect()
}

/// One dimension of a phase: the image pixels `start + stride * j`.
struct Phase {
    /// The taps that reach these pixels.
    taps: Vec<usize>,
    /// Where they read the result.
    axis: Axis,
}

impl Phase {
    fn new(g: &Geometry, d: usize, start: usize) -> Self {
        let stride = g.stride[d] as isize;
        // image pixel i is reached from result pixel (i + padding - tap * dilation) / stride
        let distance =
            |tap: usize| (start + g.padding[d]) as isize - (tap * g.dilation[d]) as isize;
        let taps: Vec<usize> =
            (0..g.kernel[d]).filter(|&tap| distance(tap) % stride == 0).collect();
        let offsets = taps.iter().map(|&tap| distance(tap) / stride).collect();
        let len = (g.image[d] - start).div_ceil(g.stride[d]);
        Self { axis: Axis::new(len, g.result[d], 1, offsets), taps }
    }
}

/// The weights of one phase as `[groups, channels per group, features per group, taps]`.
fn phase_weight<T: Element>(g: &Geometry, weight: &[T], phase: &[Phase; 3]) -> Result<Vec<T>> {
    // neighbouring channels of a feature lie together in memory
    const BLOCK: usize = 8;
    let (channels, features) = (g.group_channels(), g.group_features());
    let [_, ky, kx] = g.kernel;
    let mut taps = Vec::new();
    for z in &phase[0].taps {
        for y in &phase[1].taps {
            taps.extend(phase[2].taps.iter().map(|x| (z * ky + y) * kx + x));
        }
    }
    let row = features * taps.len();
    let packed = Output::new("conv_transpose", g.channels * row)?;
    let blocks = channels.div_ceil(BLOCK);
    (0..g.groups * blocks).into_par_iter().for_each(|task| {
        let (group, start) = (task / blocks, task % blocks * BLOCK);
        let count = BLOCK.min(channels - start);
        let to: *mut T = packed.at((group * channels + start) * row, count * row);
        for k in 0..features {
            for c in 0..count {
                let kernel = (group * features + k) * channels + start + c;
                let kernel = &weight[kernel * g.taps()..][..g.taps()];
                for (i, &tap) in taps.iter().enumerate() {
                    // SAFETY: within the rows of this task.
                    unsafe { to.add(c * row + k * taps.len() + i).write(kernel[tap]) };
                }
            }
        }
    });
    // SAFETY: every element was written.
    Ok(unsafe { packed.into_vec() })
}
