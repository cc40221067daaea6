//! Sums, products, joins and views of tensors with gradients that touch memory once.
//!
//! candle has most of these; inside a recorded step its versions would cut the tape into pieces (see
//! [`crate::autograd`]). It has neither products of complex matrices nor numbers with their waves.

mod complex;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::{add_bias, cases};
mod join;
mod linear;
mod product;
#[cfg(test)]
mod tests;
mod view;
mod waves;

pub use complex::complex_product;
pub use join::cat;
pub use linear::linear;
pub use product::{matmul, matmul_transposed};
pub use view::{narrow, permute, reshape};
pub use waves::with_waves;

use crate::buffer::{CHUNK, fill, map, map2};
use crate::cast::InHalf;
use crate::check::shape_of;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::planes::{pieces, reduce, sums};
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

/// The sum of two tensors of one shape.
///
/// # Errors
/// [`Error::Shape`] if shapes or float types differ.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    shape_of("add", "y", Some(y), x.dims())?;
    apply(Add, &[x, y])
}

/// A tensor times a constant.
///
/// # Errors
/// [`Error::Shape`] unless it is f32 or f64.
pub fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    apply(Scale(factor), &[x])
}

/// Adds one number to each plane: `x [N, C, s..]`, `shift [N, C]` or `[1, C]` → the same as `x`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn add_to_channels(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let op = "add_to_channels";
    match (x.dims(), shift.dims()) {
        ([n, c, ..], [m, d]) if c == d && (m == n || *m == 1) => apply(AddToChannels, &[x, shift]),
        (dims, other) => {
            Err(Error::shape(op, format!("shift [N, C] for an x of shape {dims:?}"), other))
        }
    }
}

struct Add;

impl Op for Add {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        "add"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let sum = map2(
            "add",
            args[0].data,
            args[1].data,
            #[inline(always)]
            |x, y| x + y,
        )?;
        Ok((sum, args[0].dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::add(gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(at.grad.clone()); 2])
    }
}

struct Scale(f64);

impl Op for Scale {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        "scale"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let factor = T::of(self.0);
        let y = map(
            "scale",
            args[0].data,
            #[inline(always)]
            |x| x * factor,
        )?;
        Ok((y, args[0].dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::scale(self.0, gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(scale(&at.grad, self.0)?)])
    }
}

struct AddToChannels;

impl Op for AddToChannels {
    const IN_HALF: InHalf = InHalf::First;

    fn name(&self) -> &'static str {
        "add_to_channels"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, shift) = (args[0], args[1].data);
        let plane: usize = x.dims[2..].iter().product();
        let y = fill(self.name(), x.data.len(), CHUNK, |start, out| {
            for (p, piece) in pieces(start, out.len(), plane) {
                let b = shift[p % shift.len()];
                let x = &x.data[start + piece.start..start + piece.end];
                for (o, &x) in out[piece].iter_mut().zip(x) {
                    *o = x + b;
                }
            }
        })?;
        Ok((y, x.dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::add_to_channels(gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let shift = &at.args[1];
        let sum = at.wanted[1].then(|| -> Result<Tensor> {
            let planes = apply(PlaneSums, &[&at.grad])?;
            Ok(if shift.dims()[0] == 1 { planes.sum_keepdim(0)? } else { planes })
        });
        Ok(vec![Some(at.grad.clone()), sum.transpose()?])
    }
}

/// `[N, C, s..]` → `[N, C]`
struct PlaneSums;

impl Op for PlaneSums {
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        "plane_sums"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let Array { data, dims } = args[0];
        let planes = dims[0] * dims[1];
        let of = |range: std::ops::Range<usize>| sums([&data[range]], |[x]| [x.f64()])[0];
        let found = reduce(planes, data.len() / planes.max(1), of, |a, b| a + b);
        Ok((found.into_iter().map(T::of).collect(), (dims[0], dims[1]).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::plane_sums(gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let shape = at.args[0].dims();
        let mut dims = vec![1; shape.len()];
        dims[..2].copy_from_slice(&shape[..2]);
        Ok(vec![Some(at.grad.reshape(dims)?.broadcast_as(shape)?)])
    }
}
