//! Winograd's minimal filtering for f32 kernels of 3×3 and 3×3×3 with stride 1: F(4, 3) along y and
//! x, F(2, 3) along z (Lavin & Gray, arXiv:1509.09308), which saves three of four and five of six
//! multiplications.
//!
//! Images are cut to tiles (`tiling`), whose patches are transformed to 36 or 144 points (`spread`,
//! `transform`). At each point a matrix product (`product`) over the channels with the transformed
//! filter (`filter`) gives the points of the outputs, which are transformed back (`collect`).
//! `correlate` does so for forward and data gradient. The weight gradient multiplies the points of
//! patches and of gradients of outputs and sums over tiles (`weight`).
//!
//! Vectors hold channels, since then tiles of small and ragged images cost no more than others and
//! the three maps share all transforms. Either each task takes some tiles all the way, its
//! intermediate results in its second-level cache, or, for large filters, tasks share transformed
//! tiles in the third-level cache. A sum is never cut by the number of threads. Arrays of registers
//! are not zeroed before they are filled, which would cost as much as to transform them.

pub(super) mod buffer;
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

use crate::Result;
use crate::conv::geometry::Geometry;
use crate::output::Output;
use crate::parts::{Outputs, Parts};
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

/// Multiplications of a direct convolution, below which it is left to be one: about 0.2 ms.
const LEAST_PRODUCTS: usize = 1 << 24;

/// Whether it is faster than the direct path: measured with AVX-512, where it is three to six times
/// as fast on large images and 1.4 times on four tiles of 256 channels.
///
/// Narrow layers leave lanes empty, and so do images of fewer tiles than a product has rows; tiles
/// that hang over the border compute what is thrown away. Where sums of products take a fraction of
/// a millisecond, their smaller error is worth more than the rest of the time.
pub(super) fn worth_it(g: &Geometry) -> bool {
    let products = g.batch * g.result_pixels() * g.features * g.channels * g.taps();
    if !applies(g) || g.channels.min(g.features) < 12 || products < LEAST_PRODUCTS {
        return false;
    }
    let deep = g.kernel[0] == 3;
    let overhang = |target: [usize; 3]| {
        let tiling = Tiling::new(1, target, deep);
        let covered = tiling.len() * tiling.step.iter().product::<usize>();
        covered > 2 * target.iter().product::<usize>() || g.batch * tiling.len() < 4
    };
    !overhang(g.result) && !overhang(g.image)
}

/// `image` to `result`, or back if `transposed`; writes every element of `output`.
pub(super) fn correlate(
    level: Level,
    g: &Geometry,
    transposed: bool,
    source: &Parts<f32>,
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &Outputs<f32>,
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
    image: &Parts<f32>,
    result: &Parts<f32>,
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
