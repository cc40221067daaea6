//! The three maps on a GPU: cuDNN's, and the sums that a bias takes.

#![allow(unsafe_code)] // launches of kernels

use super::geometry::Geometry;
use crate::algebra::{add_bias, column_sums};
use crate::gpu::dnn::{self, Map, Sizes};
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, Slice};
use crate::{Error, Result};
use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;

static KERNELS: Kernels =
    Kernels::new("conv", include_bytes!(concat!(env!("OUT_DIR"), "/conv.fatbin")));

/// Elements of a channel that one block adds up.
const PIECE: usize = 1 << 14;

/// What cuDNN is told of a convolution. It has no single spatial dimension: that becomes a row.
fn sizes(gpu: &Gpu, geometry: &Geometry) -> Result<Sizes> {
    let skip = 3 - geometry.rank.max(2);
    let int = |x: usize| {
        i32::try_from(x).map_err(|_| Error::argument(gpu.op, format!("a size of {x} is too large")))
    };
    let ints = |x: &[usize]| x.iter().map(|&x| int(x)).collect::<Result<Vec<_>>>();
    let of = |first: usize, second: usize, spatial: [usize; 3]| {
        ints(&[&[first, second], &spatial[skip..]].concat())
    };
    let Geometry { batch, channels, features, groups, .. } = *geometry;
    let d = skip..3;
    for d in d {
        let span = geometry.dilation[d] * (geometry.kernel[d] - 1) + 1;
        let steps = (geometry.image[d] + 2 * geometry.padding[d] - span) / geometry.stride[d] + 1;
        if steps != geometry.result[d] {
            let message = "an output padding of the stride or more does not run on a GPU";
            return Err(Error::argument(gpu.op, message));
        }
    }
    Ok(Sizes {
        image: of(batch, channels, geometry.image)?,
        weight: of(features, channels / groups, geometry.kernel)?,
        result: of(batch, features, geometry.result)?,
        stride: ints(&geometry.stride[skip..])?,
        padding: ints(&geometry.padding[skip..])?,
        dilation: ints(&geometry.dilation[skip..])?,
        groups: int(groups)?,
    })
}

/// One of the maps of two operands, plus a bias per channel of what comes out.
pub(super) fn convolve<T: Number>(
    gpu: &Gpu,
    map: Map,
    geometry: &Geometry,
    operands: [&Buffer<'_, T>; 2],
    bias: Option<&Buffer<'_, T>>,
) -> Result<Slice<T>> {
    let sizes = sizes(gpu, geometry)?;
    let out = match map {
        Map::Forward => &sizes.result,
        Map::Data => &sizes.image,
        Map::Filter => &sizes.weight,
    };
    let dims: Vec<usize> = out.iter().map(|&d| d as usize).collect();
    let count = dims.iter().product();
    let is_empty = operands.iter().any(|operand| operand.count() == 0);
    let mut y = match is_empty || count == 0 {
        true => gpu.zeros(count)?,
        false => dnn::convolve(gpu, map, &sizes, operands)?,
    };
    if let Some(bias) = bias {
        add_bias(gpu, &mut y, bias, gpu.planes(&dims))?;
    }
    Ok(y)
}

/// The sum over everything but the second dimension.
pub(super) fn channel_sums<T: Number>(gpu: &Gpu, x: &Buffer<'_, T>) -> Result<Slice<T>> {
    let (batch, channels) = (x.dims[0], x.dims[1]);
    let plane: usize = x.dims[2..].iter().product();
    if x.count() == 0 {
        return gpu.zeros(channels);
    }
    if gpu.last {
        return column_sums(gpu, &[&x.data], [1, batch * plane, channels]);
    }
    let pieces = (batch * plane).div_ceil(PIECE);
    let mut parts = gpu.alloc::<f64>(channels * pieces)?;
    let kernel = gpu.function::<T>(&KERNELS, "channel_parts")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&x.data).arg(&mut parts);
    launch.arg(&batch).arg(&channels).arg(&plane).arg(&pieces);
    // SAFETY: `x` has `batch` times `channels` planes, `parts` a number per channel and piece.
    unsafe { gpu.launch(launch, channels * pieces, true) }?;
    let mut out = gpu.alloc::<T>(channels)?;
    let kernel = gpu.function::<T>(&KERNELS, "channel_ends")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&parts).arg(&mut out).arg(&channels).arg(&pieces);
    // SAFETY: as above; the result has a number per channel.
    unsafe { gpu.launch(launch, channels, false) }?;
    Ok(out)
}

pub(crate) fn cases() -> Vec<Case> {
    use super::{ConvSpec, ConvTransposeSpec, conv, conv_cat, conv_transpose};
    let unit = ConvSpec::unit;
    let conv_case = |name: &str, shapes: &[&[usize]], spec: ConvSpec| {
        let f = move |x: &[Tensor]| conv(&x[0], &x[1], x.get(2), &spec);
        Case::new(format!("conv {name}"), shapes, f).rounded()
    };
    let back_case = |name: &str, shapes: &[&[usize]], spec: ConvTransposeSpec| {
        let name = format!("conv_transpose {name}");
        Case::new(name, shapes, move |x| conv_transpose(&x[0], &x[1], x.get(2), &spec)).rounded()
    };
    let same = |rank: usize| ConvSpec { padding: vec![1; rank], ..unit(rank) };
    let odd = ConvSpec { stride: vec![2, 3], padding: vec![2, 0], dilation: vec![1, 2], groups: 2 };
    let wide = ConvSpec { dilation: vec![3; 2], ..unit(2) };
    let doubled = |rank: usize| ConvTransposeSpec {
        stride: vec![2; rank],
        padding: vec![1; rank],
        output_padding: vec![1; rank],
        ..ConvTransposeSpec::unit(rank)
    };
    vec![
        conv_case("1-D", &[&[2, 3, 17], &[4, 3, 5], &[4]], unit(1)),
        conv_case("3x3", &[&[2, 3, 9, 11], &[5, 3, 3, 3], &[5]], same(2)),
        conv_case("stride, dilation, groups", &[&[2, 4, 13, 17], &[6, 2, 3, 4], &[6]], odd),
        conv_case("dilation of 3", &[&[2, 3, 12, 11], &[4, 3, 3, 3], &[4]], wide),
        conv_case("whole packs", &[&[2, 16, 5, 7], &[8, 16, 3, 3], &[8]], same(2)),
        conv_case("1x1 without bias", &[&[1, 6, 7, 5], &[3, 6, 1, 1]], unit(2)),
        conv_case("3x3x3", &[&[1, 2, 5, 6, 7], &[3, 2, 3, 3, 3], &[3]], same(3)),
        Case::new("conv of a part", &[&[3, 50], &[4, 3, 3, 3]], |x| {
            let part = crate::narrow(&crate::reshape(&x[0], 150)?, 0, 3, 126)?;
            conv(&crate::reshape(&part, (2, 3, 3, 7))?, &x[1], None, &ConvSpec::unit(2))
        })
        .rounded(),
        Case::new("conv joined", &[&[1, 16, 6, 5], &[1, 3, 6, 5], &[4, 19, 3, 3]], |x| {
            conv_cat(&[&x[0], &x[1]], &x[2], None, &ConvSpec::unit(2))
        }),
        back_case("1-D", &[&[2, 3, 9], &[3, 4, 4], &[4]], doubled(1)),
        back_case("2-D", &[&[2, 3, 5, 7], &[3, 4, 4, 4], &[4]], doubled(2)),
        back_case("3-D", &[&[1, 3, 3, 4, 2], &[3, 2, 2, 3, 4], &[2]], doubled(3)),
    ]
}
