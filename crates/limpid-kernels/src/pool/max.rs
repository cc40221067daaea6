//! Maximum over windows.

use super::PoolSpec;
use crate::buffer::{CHUNK, fill, rows_per_chunk};
use crate::cast::InHalf;
use crate::interleave::every;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply, check_dtypes, with_slices};
use crate::order::Order;
use crate::planes::pieces;
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{DType, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

const NAME: &str = "max_pool";

/// Maximum over windows; of equal pixels the first counts (and gets the gradient), a NaN counts as
/// the largest.
///
/// # Shapes
/// As [`super::avg_pool`].
///
/// # Errors
/// As [`super::avg_pool`], and [`Error::Shape`] for images of 2^32 pixels or more.
pub fn max_pool(x: &Tensor, spec: &PoolSpec) -> Result<Tensor> {
    apply(MaxPool(windows(x, spec)?), &[x])
}

/// The windows of an image, checked.
fn windows(x: &Tensor, spec: &PoolSpec) -> Result<Windows> {
    let outputs = spec.outputs(NAME, x)?;
    check_dtypes(NAME, &[x])?;
    let spatial = &x.dims()[2..];
    let pixels: usize = spatial.iter().product();
    if u32::try_from(pixels).is_err() {
        return Err(Error::shape(NAME, "images of less than 2^32 pixels", x.dims()));
    }
    Ok(Windows {
        image: three(spatial, 1),
        outputs: three(&outputs, 1),
        kernel: three(&spec.kernel, 1),
        stride: three(&spec.stride, 1),
        padding: three(&spec.padding, 0),
    })
}

/// The pixels of `y` that the windows of `x` pick, for comparisons: else only gradients of gradients
/// apply [`Pick`].
#[cfg(feature = "cuda")]
pub(super) fn picked(x: &Tensor, y: &Tensor, spec: &PoolSpec) -> Result<Tensor> {
    apply(Pick(Arc::new(Picks::of(windows(x, spec)?, x)?)), &[y])
}

/// One to three sizes as three.
fn three(sizes: &[usize], missing: usize) -> [usize; 3] {
    let mut out = [missing; 3];
    out[3 - sizes.len()..].copy_from_slice(sizes);
    out
}

/// Sizes of an image and of its windows, laid out as the kernels for GPUs take them.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Windows {
    pub image: [usize; 3],
    pub outputs: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub padding: [usize; 3],
}

impl Windows {
    /// The pixels of window `i` in dimension `d`.
    fn range(&self, d: usize, i: usize) -> Range<usize> {
        let end = i * self.stride[d] + self.kernel[d] - self.padding[d];
        (i * self.stride[d]).saturating_sub(self.padding[d])..end.min(self.image[d])
    }

    /// The index, within its plane, of the largest pixel of every window of every plane.
    fn picks<T: Real>(&self, x: &[T]) -> Vec<u32> {
        let [oz, oy, ox] = self.outputs;
        let plane: usize = self.image.iter().product();
        let windows = oz * oy * ox;
        let mut picks = vec![0u32; if x.is_empty() { 0 } else { x.len() / plane * windows }];
        let rows = rows_per_chunk(ox);
        picks.par_chunks_mut(rows * ox).enumerate().for_each(|(chunk, picks)| {
            T::with_scratch(2 * ox, |scratch| {
                let (best, taps) = scratch.split_at_mut(ox);
                for (r, picks) in picks.chunks_mut(ox).enumerate() {
                    self.row(chunk * rows + r, x, best, Some(picks), taps);
                }
            });
        });
        picks
    }

    /// One row of windows, counted over all planes: the largest pixels, and where they are. All
    /// windows take their taps in step, without a branch that depends on the pixels.
    fn row<T: Real>(
        &self,
        row: usize,
        x: &[T],
        best: &mut [T],
        mut picks: Option<&mut [u32]>,
        taps: &mut [T],
    ) {
        let ([d, h, w], [oz, oy, _]) = (self.image, self.outputs);
        let (stride, padding) = (self.stride[2], self.padding[2]);
        let x = &x[row / (oz * oy) * d * h * w..][..d * h * w];
        let (zs, ys) = (self.range(0, row / oy % oz), self.range(1, row % oy));
        best.fill(T::LOWEST);
        if let Some(picks) = picks.as_deref_mut() {
            // if nothing exceeds minus infinity, the first pixel of the window stands
            let first = (zs.start * h + ys.start) * w;
            for (i, pick) in picks.iter_mut().enumerate() {
                *pick = (first + (i * stride).saturating_sub(padding)) as u32;
            }
        }
        for line in zs.flat_map(|z| ys.clone().map(move |y| (z * h + y) * w)) {
            for tap in 0..self.kernel[2] {
                // the windows whose tap lies in the image: 0 <= i * stride + tap - padding < w
                let begin = padding.saturating_sub(tap).div_ceil(stride);
                let end = (w + padding).saturating_sub(tap).div_ceil(stride).min(best.len());
                if begin >= end {
                    continue;
                }
                let at = line + begin * stride + tap - padding;
                let (best, taps) = (&mut best[begin..end], &mut taps[begin..end]);
                let picks = picks.as_deref_mut().map(|picks| &mut picks[begin..end]);
                vectorised(
                    #[inline(always)]
                    || {
                        every(taps, x, stride, at);
                        match picks {
                            Some(picks) => {
                                // by index: over zipped iterators this becomes no vectors
                                let (n, at, stride) = (best.len(), at as u32, stride as u32);
                                let (taps, picks) = (&taps[..n], &mut picks[..n]);
                                for i in 0..n {
                                    let v = taps[i];
                                    let better = (v > best[i]) | v.is_nan();
                                    best[i] = if better { v } else { best[i] };
                                    // within the plane, so below 2^32
                                    let here = at.wrapping_add((i as u32).wrapping_mul(stride));
                                    picks[i] = if better { here } else { picks[i] };
                                }
                            }
                            None => {
                                for (best, &mut v) in best.iter_mut().zip(taps) {
                                    *best = if (v > *best) | v.is_nan() { v } else { *best };
                                }
                            }
                        }
                    },
                );
            }
        }
    }
}

/// Image to the largest pixels of its windows.
struct MaxPool(Windows);

impl Op for MaxPool {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, windows) = (args[0], &self.0);
        let [oz, oy, ox] = windows.outputs;
        let planes = x.dims[0] * x.dims[1];
        let rows = rows_per_chunk(ox);
        let y = fill(NAME, planes * oz * oy * ox, rows * ox, |start, out| {
            T::with_scratch(ox, |taps| {
                for (r, out) in out.chunks_mut(ox).enumerate() {
                    windows.row(start / ox + r, x.data, out, None, taps);
                }
            });
        })?;
        Ok((y, with_spatial(x.dims, windows.outputs)))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let y = super::cuda::max_pool(&self.0, gpu, &args[0])?;
        Ok((y, with_spatial(args[0].dims, self.0.outputs)))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        // found again rather than stored: most forward passes have no backward
        let picks = Arc::new(Picks::of(self.0, &at.args[0])?);
        Ok(vec![Some(apply(PutBack(picks), &[&at.grad])?)])
    }
}

/// The dimensions of an image of other spatial sizes.
fn with_spatial(dims: &[usize], sizes: [usize; 3]) -> Shape {
    [&dims[..2], &sizes[5 - dims.len()..]].concat().into()
}

/// Which pixel of its plane each output takes.
struct Picks {
    indices: Indices,
    windows: Windows,
}

/// The pixels of all windows of all planes, where the image is.
enum Indices {
    Cpu(Vec<u32>),
    /// And whether they lie as an image whose channels lie last.
    #[cfg(feature = "cuda")]
    Cuda(crate::gpu::Slice<u32>, bool),
}

impl Picks {
    fn of(windows: Windows, x: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let (indices, last) = crate::gpu::in_numbers(x.dtype(), OnGpu(&windows, x))?;
            return Ok(Self { indices: Indices::Cuda(indices, last), windows });
        }
        let indices = match x.dtype() {
            DType::F64 => with_slices(NAME, [x], |[x]: [&[f64]; 1]| Ok(windows.picks(x)))?,
            _ => with_slices(NAME, [x], |[x]: [&[f32]; 1]| Ok(windows.picks(x)))?,
        };
        Ok(Self { indices: Indices::Cpu(indices), windows })
    }

    /// That of what they are applied to.
    fn order(&self) -> Order {
        match self.indices {
            #[cfg(feature = "cuda")]
            Indices::Cuda(_, true) => Order::Last,
            _ => Order::First,
        }
    }

    fn on_cpu(&self) -> Result<&[u32]> {
        match &self.indices {
            Indices::Cpu(indices) => Ok(indices),
            #[cfg(feature = "cuda")]
            Indices::Cuda(..) => Err(Error::shape(NAME, "tensors on one device", "some elsewhere")),
        }
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> Result<&crate::gpu::Slice<u32>> {
        match &self.indices {
            Indices::Cuda(indices, _) => Ok(indices),
            Indices::Cpu(_) => Err(Error::shape(NAME, "tensors on one device", "some elsewhere")),
        }
    }
}

/// The picks of an image on a GPU.
#[cfg(feature = "cuda")]
struct OnGpu<'a>(&'a Windows, &'a Tensor);

#[cfg(feature = "cuda")]
impl crate::gpu::Work for OnGpu<'_> {
    type Output = (crate::gpu::Slice<u32>, bool);

    fn of<T: crate::gpu::Number>(self) -> Result<Self::Output> {
        super::cuda::max_picks::<T>(self.0, self.1)
    }
}

/// Image to picked pixels: the gradient of [`PutBack`].
struct Pick(Arc<Picks>);

impl Op for Pick {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        NAME
    }

    fn order(&self, _args: &[&Tensor]) -> Order {
        self.0.order()
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, picks) = (args[0], self.0.on_cpu()?);
        let plane: usize = self.0.windows.image.iter().product();
        let windows: usize = self.0.windows.outputs.iter().product();
        let y = fill(NAME, picks.len(), CHUNK, |start, out| {
            for (p, piece) in pieces(start, out.len(), windows) {
                let x = &x.data[p * plane..(p + 1) * plane];
                let picks = &picks[start + piece.start..start + piece.end];
                for (o, &pick) in out[piece].iter_mut().zip(picks) {
                    *o = x[pick as usize];
                }
            }
        })?;
        Ok((y, with_spatial(x.dims, self.0.windows.outputs)))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let y = super::cuda::pick(&self.0.windows, self.0.on_cuda()?, gpu, &args[0])?;
        Ok((y, with_spatial(args[0].dims, self.0.windows.outputs)))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(PutBack(self.0.clone()), &[&at.grad])?)])
    }
}

/// Picked pixels to where they came from, added up where windows overlap.
struct PutBack(Arc<Picks>);

impl Op for PutBack {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        NAME
    }

    fn order(&self, _args: &[&Tensor]) -> Order {
        self.0.order()
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (y, picks) = (args[0], self.0.on_cpu()?);
        let plane: usize = self.0.windows.image.iter().product();
        let windows: usize = self.0.windows.outputs.iter().product();
        let planes = y.dims[0] * y.dims[1];
        let chunk = rows_per_chunk(plane) * plane;
        let x = fill(NAME, planes * plane, chunk, |start, out| {
            for (p, piece) in pieces(start, out.len(), plane) {
                let at = p * windows..(p + 1) * windows;
                let x = &mut out[piece];
                for (&pick, &v) in picks[at.clone()].iter().zip(&y.data[at]) {
                    x[pick as usize] += v;
                }
            }
        })?;
        Ok((x, with_spatial(y.dims, self.0.windows.image)))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let x = super::cuda::put_back(&self.0.windows, self.0.on_cuda()?, gpu, &args[0])?;
        Ok((x, with_spatial(args[0].dims, self.0.windows.image)))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(Pick(self.0.clone()), &[&at.grad])?)])
    }
}
