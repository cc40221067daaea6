//! Other shapes of the same memory.

use crate::Result;
use crate::autograd::{Recorded, State, register_view, state};
use crate::buffer::{CHUNK, fill};
use crate::cast::InHalf;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::order::{Order, from_last, in_memory, to_last};
use candle_core::{Shape, Tensor};

/// The same elements in another shape.
///
/// # Errors
/// If the number of elements differs.
pub fn reshape(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    let y = reshaped(x, &shape.into())?;
    Ok(recorded(x, y, || Reshaped(x.shape().clone())))
}

/// Channels that lie last stay there if only pixels are counted anew.
fn reshaped(x: &Tensor, shape: &Shape) -> Result<Tensor> {
    let (from, to) = (x.dims(), shape.dims());
    let keeps = from.len().min(to.len()) >= 3 && from[..2] == to[..2];
    if !(keeps && Order::AsGiven.is_last(&[x])) {
        return Ok(x.reshape(shape)?);
    }
    let rows = x.permute(to_last(from.len()))?.reshape(in_memory(to, true))?;
    Ok(rows.permute(from_last(to.len()))?)
}

/// The dimensions in another order: dimension `i` of the result is dimension `order[i]` of `x`.
///
/// # Errors
/// If `order` does not name every dimension once.
pub fn permute(x: &Tensor, order: &[usize]) -> Result<Tensor> {
    let y = x.permute(order)?;
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &d)| inverse[d] = i);
    Ok(recorded(x, y, || Permuted(inverse)))
}

/// The part of `x` with indices `start..start + len` along dimension `dim`.
///
/// # Errors
/// If there are no such indices.
pub fn narrow(x: &Tensor, dim: usize, start: usize, len: usize) -> Result<Tensor> {
    let y = x.narrow(dim, start, len)?;
    if len == x.dims()[dim] {
        return Ok(y);
    }
    Ok(recorded(x, y, || Narrowed { dim, start, shape: x.dims().to_vec() }))
}

/// The view `y` of `x`, with its gradient on the tape if there is one.
fn recorded<R: Recorded + 'static>(x: &Tensor, y: Tensor, op: impl FnOnce() -> R) -> Tensor {
    if x.track_op() && state() == State::Recording && y.id() != x.id() {
        register_view(op(), x, &y);
    }
    y
}

struct Reshaped(Shape);

impl Recorded for Reshaped {
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(reshaped(&at.grad, &self.0)?)])
    }
}

struct Permuted(Vec<usize>);

impl Recorded for Permuted {
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(at.grad.permute(self.0.as_slice())?)])
    }
}

struct Narrowed {
    dim: usize,
    start: usize,
    shape: Vec<usize>,
}

impl Recorded for Narrowed {
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let op = Widen { dim: self.dim, start: self.start, shape: self.shape.clone() };
        Ok(vec![Some(apply(op, &[&at.grad])?)])
    }
}

/// The part of a tensor of that shape, with zeros around it.
struct Widen {
    dim: usize,
    start: usize,
    shape: Vec<usize>,
}

impl Op for Widen {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "narrow"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let inner: usize = self.shape[self.dim + 1..].iter().product();
        let (row, part) = (self.shape[self.dim] * inner, args[0].dims[self.dim] * inner);
        let first = self.start * inner;
        let len = self.shape.iter().product();
        let y = fill("narrow", len, row * (CHUNK / row.max(1)).max(1), |start, out: &mut [T]| {
            for (i, out) in out.chunks_mut(row).enumerate() {
                let source = &args[0].data[(start / row + i) * part..][..part];
                out[first..first + part].copy_from_slice(source);
            }
        })?;
        Ok((y, self.shape.as_slice().into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::parts::widen([self.dim, self.start], &self.shape, gpu, &args[0])
    }
}
