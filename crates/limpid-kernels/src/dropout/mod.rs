//! Dropout (Srivastava et al. 2014) with a mask that is computed, not stored.
//!
//! Element `i` (or channel `i`) is dropped if uniform number `i` of the stream is below `p`, so the
//! backward pass makes the same mask from the same [`Stream`], on any number of threads.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
#[cfg(test)]
mod tests;

use crate::buffer::{CHUNK, fill};
use crate::cast::InHalf;
use crate::check::image;
use crate::interleave::interleave;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply, check_dtypes};
use crate::order::Order;
use crate::planes::pieces;
use crate::rng::Stream;
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

/// Zeroes each element with probability `p` and divides the others by `1 - p`.
///
/// # Errors
/// [`Error::Argument`] unless `p` is from 0 to 1; [`Error::Shape`] unless `x` is f32 or f64.
pub fn dropout(x: &Tensor, p: f64, stream: Stream) -> Result<Tensor> {
    run("dropout", x, p, stream, 1)
}

/// Zeroes each channel of each batch item with probability `p` and divides the others by `1 - p`,
/// as `Dropout1d/2d/3d`.
///
/// # Shapes
/// `x [N, C, s..]` with one to three spatial sizes → the same
///
/// # Errors
/// As [`dropout`]; [`Error::Shape`] also for another rank.
pub fn dropout_channels(x: &Tensor, p: f64, stream: Stream) -> Result<Tensor> {
    let op = "dropout_channels";
    let (_, _, spatial) = image(op, x)?;
    run(op, x, p, stream, spatial.iter().product())
}

fn run(op: &'static str, x: &Tensor, p: f64, stream: Stream, plane: usize) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&p) {
        let message = format!("`p` is {p}, but a probability is from 0 to 1");
        return Err(Error::Argument { op, message });
    }
    check_dtypes(op, &[x])?;
    if p == 0.0 {
        return Ok(x.clone());
    }
    apply(Dropout { name: op, p, stream, plane }, &[x])
}

#[derive(Clone, Copy)]
struct Dropout {
    name: &'static str,
    p: f64,
    stream: Stream,
    /// Neighbouring elements that are dropped together.
    plane: usize,
}

impl Dropout {
    /// Words of the stream below this, in their upper 24 bits, drop: its uniform numbers are these
    /// bits divided by 2^24.
    fn limit(&self) -> u32 {
        (self.p * 16_777_216.0).ceil() as u32
    }

    /// What is not dropped is multiplied by this.
    fn scale(&self) -> f64 {
        if self.p < 1.0 { 1.0 / (1.0 - self.p) } else { 0.0 }
    }

    /// Elements one by one, from element `start` on, a multiple of four.
    #[inline(always)]
    fn elements<T: Real>(&self, start: usize, out: &mut [T], x: &[T], scale: T) {
        let limit = self.limit();
        // many blocks of random words at once, for the vector unit
        const BLOCKS: usize = 64;
        let mut words = [0u32; 4 * BLOCKS];
        let runs = out.chunks_mut(words.len()).zip(x.chunks(words.len())).enumerate();
        for (i, (out, x)) in runs {
            let blocks = self.stream.blocks::<BLOCKS>((start / 4 + i * BLOCKS) as u64);
            interleave(&mut words, 4, |k| &blocks[k]);
            for ((o, &x), &word) in out.iter_mut().zip(x).zip(&words) {
                *o = if word >> 8 < limit { T::zero() } else { x * scale };
            }
        }
    }

    /// Planes as a whole; a dropped one stays zero.
    fn planes<T: Real>(&self, start: usize, out: &mut [T], x: &[T], scale: T) {
        let limit = self.limit();
        for (p, piece) in pieces(start, out.len(), self.plane) {
            if self.stream.block(p as u64 / 4)[p % 4] >> 8 >= limit {
                for (o, &x) in out[piece.clone()].iter_mut().zip(&x[piece]) {
                    *o = x * scale;
                }
            }
        }
    }
}

impl Op for Dropout {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, scale) = (args[0], T::of(self.scale()));
        let y = fill(self.name, x.data.len(), CHUNK, |start, out| {
            let x = &x.data[start..start + out.len()];
            vectorised(
                #[inline(always)]
                || match self.plane {
                    1 => self.elements(start, out, x, scale),
                    _ => self.planes(start, out, x, scale),
                },
            );
        })?;
        Ok((y, x.dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::run(self, gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(*self, &[&at.grad])?)])
    }
}
