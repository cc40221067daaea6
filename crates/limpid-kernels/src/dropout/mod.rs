//! Dropout (Srivastava et al. 2014) with a mask that is computed, not stored.
//!
//! Element `i` (or channel `i`) is dropped if uniform number `i` of the stream is below `p`, so the
//! backward pass makes the same mask from the same [`Stream`], on any number of threads.

#[cfg(test)]
mod tests;

use crate::buffer::{CHUNK, fill};
use crate::check::image;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply, check_dtypes};
use crate::planes::pieces;
use crate::rng::Stream;
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
    /// Which of the four elements or planes from `4 * block` on are kept.
    fn kept(&self, block: usize) -> [bool; 4] {
        // the stream's uniform numbers are multiples of 2^-24
        let limit = self.p * 16_777_216.0;
        self.stream.block(block as u64).map(|word| f64::from(word >> 8) >= limit)
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let x = args[0];
        let scale = T::of(if self.p < 1.0 { 1.0 / (1.0 - self.p) } else { 0.0 });
        let y = fill(self.name, x.data.len(), CHUNK, |start, out| {
            let x = &x.data[start..start + out.len()];
            if self.plane == 1 {
                let blocks = out.chunks_mut(4).zip(x.chunks(4)).enumerate();
                for (i, (out, x)) in blocks {
                    let kept = self.kept(start / 4 + i);
                    for ((o, &x), kept) in out.iter_mut().zip(x).zip(kept) {
                        *o = if kept { x * scale } else { T::zero() };
                    }
                }
                return;
            }
            // a dropped plane stays zero
            for (p, piece) in pieces(start, out.len(), self.plane) {
                if self.kept(p / 4)[p % 4] {
                    for (o, &x) in out[piece.clone()].iter_mut().zip(&x[piece]) {
                        *o = x * scale;
                    }
                }
            }
        })?;
        Ok((y, x.dims.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(*self, &[&at.grad])?)])
    }
}
