//! Winograd's minimal filtering for 3×3 and 3×3×3 kernels of stride one: F(4, 3) along y and x,
//! F(2, 3) along z (Lavin & Gray, arXiv:1509.09308), in f32.

mod buffer;
mod collect;
mod correlate;
mod filter;
mod product;
mod spread;
#[cfg(test)]
mod tests;
mod tiling;
mod transform;
mod weight;

use super::output::Output;
use crate::Result;
use crate::conv::geometry::Geometry;
use crate::simd::{self, Level};
use correlate::Correlation;
use filter::Weight;
use spread::Patches;
use tiling::Tiling;
use weight::WeightGrad;

/// Whether this code can compute the convolution at all.
pub(super) fn applies(g: &Geometry) -> bool {
    let [z, y, x] = g.kernel;
    g.stride == [1; 3]
        && g.dilation == [1; 3]
        && g.groups == 1
        && matches!(z, 1 | 3)
        && [y, x] == [3, 3]
}

/// Whether it is faster than the direct path.
pub(super) fn worth_it(g: &Geometry) -> bool {
    applies(g) && g.batch > 0 && g.channels.min(g.features) >= 16
}

/// `image` to `result`, or back if `transposed`; writes every element of `output`.
pub(super) fn correlate(
    level: Level,
    g: &Geometry,
    transposed: bool,
    [source, weight]: [&[f32]; 2],
    bias: Option<&[f32]>,
    output: &Output<f32>,
) -> Result<()> {
    let deep = g.kernel[0] == 3;
    let weight = Weight::new(weight, [g.features, g.channels], deep, transposed);
    let (from, to) = if transposed { (g.result, g.image) } else { (g.image, g.result) };
    let tiling = Tiling::new(g.batch, to, deep);
    let origin = std::array::from_fn(|d| {
        let padding = g.padding[d] as isize;
        if transposed { padding - (g.kernel[d] as isize - 1) } else { -padding }
    });
    let patches =
        Patches { data: source, channels: weight.inputs, dims: from, origin, tiling, deep };
    let correlation =
        Correlation { patches, tiling, deep, outputs: weight.outputs, target: to, bias, output };
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => correlation.run::<simd::Avx512, 8, 2>(&weight),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => correlation.run::<simd::Avx2, 6, 2>(&weight),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => correlation.run::<simd::Neon, 6, 4>(&weight),
        Level::Portable => correlation.run::<simd::Portable, 4, 1>(&weight),
    }
}

/// `image` and `result` to the gradient of the weight; writes every element of `weight`.
pub(super) fn weight_grad(
    level: Level,
    g: &Geometry,
    image: &[f32],
    result: &[f32],
    weight: &Output<f32>,
) -> Result<()> {
    let deep = g.kernel[0] == 3;
    let tiling = Tiling::new(g.batch, g.result, deep);
    let sums = WeightGrad {
        image: Patches {
            data: image,
            channels: g.channels,
            dims: g.image,
            origin: g.padding.map(|padding| -(padding as isize)),
            tiling,
            deep,
        },
        result: Patches {
            data: result,
            channels: g.features,
            dims: g.result,
            origin: [0; 3],
            tiling,
            deep,
        },
        weight,
    };
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => sums.run::<simd::Avx512, 8, 2>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => sums.run::<simd::Avx2, 6, 2>(),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => sums.run::<simd::Neon, 6, 4>(),
        Level::Portable => sums.run::<simd::Portable, 4, 1>(),
    }
}
