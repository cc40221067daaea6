//! Pixel shuffle and its inverse in one to three dimensions (Shi et al., arXiv:1609.05158).
//!
//! Channel `(c, dz, dy, dx)`, with the last offset fastest, goes to pixel `(r z + dz, r y + dy,
//! r x + dx)` of channel `c`: the order of `torch.nn.functional.pixel_shuffle` in 2-D and of MONAI's
//! `pixelshuffle` in 3-D. Each is the gradient of the other.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
#[cfg(test)]
mod tests;

use crate::buffer::{fill, rows_per_chunk};
use crate::cast::InHalf;
use crate::check::image;
use crate::interleave::{every, interleave};
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

/// Moves groups of `r^d` channels into blocks of `r` pixels in each of the `d` dimensions.
///
/// # Shapes
/// `x [N, C * r^d, s..]` → `[N, C, s * r..]`
///
/// # Errors
/// [`Error::Shape`] if `r^d` does not divide the channels, or for another rank or dtype;
/// [`Error::Argument`] if `r` is 0.
pub fn pixel_shuffle(x: &Tensor, r: usize) -> Result<Tensor> {
    let op = "pixel_shuffle";
    let (_, channels, spatial) = image(op, x)?;
    let block = block(op, r, spatial.len())?;
    if !channels.is_multiple_of(block) {
        return Err(Error::shape(op, format!("channels divisible by {block}"), x.dims()));
    }
    apply(Shuffle { name: op, r, inverse: false }, &[x])
}

/// Moves blocks of `r` pixels in each of the `d` dimensions into groups of `r^d` channels.
///
/// # Shapes
/// `x [N, C, s * r..]` → `[N, C * r^d, s..]`
///
/// # Errors
/// [`Error::Shape`] if `r` does not divide the spatial sizes, or for another rank or dtype;
/// [`Error::Argument`] if `r` is 0.
pub fn pixel_unshuffle(x: &Tensor, r: usize) -> Result<Tensor> {
    let op = "pixel_unshuffle";
    let (_, _, spatial) = image(op, x)?;
    block(op, r, spatial.len())?;
    if spatial.iter().any(|s| !s.is_multiple_of(r)) {
        return Err(Error::shape(op, format!("spatial sizes divisible by {r}"), x.dims()));
    }
    apply(Shuffle { name: op, r, inverse: true }, &[x])
}

/// Pixels of a block.
fn block(op: &'static str, r: usize, rank: usize) -> Result<usize> {
    let block = r.checked_pow(rank as u32).filter(|&b| b > 0);
    block.ok_or_else(|| {
        Error::argument(op, format!("`r` is {r}, but must be at least 1 and not huge"))
    })
}

struct Shuffle {
    name: &'static str,
    r: usize,
    /// Whether pixels become channels.
    inverse: bool,
}

impl Shuffle {
    /// The grid of an image of these dimensions, and the dimensions of the result.
    fn grid(&self, dims: &[usize]) -> (Grid, Vec<usize>) {
        let r = self.r;
        let rank = dims.len() - 2;
        let block = r.pow(rank as u32);
        let scaled = |d: usize| if self.inverse { dims[d] / r } else { dims[d] * r };
        let mut shape = dims.to_vec();
        shape[1] = if self.inverse { dims[1] * block } else { dims[1] / block };
        (2..dims.len()).for_each(|d| shape[d] = scaled(d));

        // sizes of the side with few pixels and many channels, as three dimensions
        let small = if self.inverse { &shape } else { dims };
        let mut sizes = [1; 3];
        sizes[3 - rank..].copy_from_slice(&small[2..]);
        let factors = std::array::from_fn(|d| if d + rank < 3 { 1 } else { r });
        (Grid { sizes, factors }, shape)
    }
}

impl Op for Shuffle {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (grid, shape) = self.grid(args[0].dims);
        let y = if self.inverse {
            grid.unshuffle(self.name, args[0].data)
        } else {
            grid.shuffle(self.name, args[0].data)
        }?;
        Ok((y, shape.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let (grid, shape) = self.grid(args[0].dims);
        Ok((cuda::run(&grid, self.inverse, gpu, &args[0])?, shape.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let op = Shuffle { name: self.name, r: self.r, inverse: !self.inverse };
        Ok(vec![Some(apply(op, &[&at.grad])?)])
    }
}

/// Sizes of the image with many channels, and the factors to the one with many pixels.
struct Grid {
    sizes: [usize; 3],
    factors: [usize; 3],
}

impl Grid {
    /// For row `row` of the large image: the first element, in the small image, of the row that
    /// goes to its first pixel, and the distance to the row that goes to the next one.
    fn source(&self, row: usize) -> (usize, usize) {
        let ([d, h, w], [rz, ry, rx]) = (self.sizes, self.factors);
        let (y, rest) = (row % (h * ry), row / (h * ry));
        let (z, channel) = (rest % (d * rz), rest / (d * rz));
        let plane = d * h * w;
        let first = ((channel * rz + z % rz) * ry + y % ry) * rx * plane;
        (first + (z / rz * h + y / ry) * w, plane)
    }

    fn shuffle<T: Real>(&self, op: &'static str, x: &[T]) -> Result<Vec<T>> {
        let (w, rx) = (self.sizes[2], self.factors[2]);
        let row = w * rx;
        fill(op, x.len(), row * rows_per_chunk(row), |start, out| {
            for (i, out) in out.chunks_mut(row).enumerate() {
                let (first, plane) = self.source(start / row + i);
                vectorised(
                    #[inline(always)]
                    || interleave(out, rx, |dx| &x[first + dx * plane..][..w]),
                );
            }
        })
    }

    fn unshuffle<T: Real>(&self, op: &'static str, x: &[T]) -> Result<Vec<T>> {
        let ([d, h, w], [rz, ry, rx]) = (self.sizes, self.factors);
        fill(op, x.len(), w * rows_per_chunk(w), |start, out| {
            for (i, out) in out.chunks_mut(w).enumerate() {
                // row (channel, dz, dy, dx, z, y) of the small image
                let row = start / w + i;
                let (y, rest) = (row % h, row / h);
                let (z, rest) = (rest % d, rest / d);
                let (dx, rest) = (rest % rx, rest / rx);
                let (dy, rest) = (rest % ry, rest / ry);
                let (dz, channel) = (rest % rz, rest / rz);
                let line = (channel * d * rz + z * rz + dz) * h * ry + y * ry + dy;
                let x = &x[line * w * rx..(line + 1) * w * rx];
                vectorised(
                    #[inline(always)]
                    || every(out, x, rx, dx),
                );
            }
        })
    }
}
