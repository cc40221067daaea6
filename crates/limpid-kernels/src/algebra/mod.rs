//! Sums, products, joins and views of tensors with gradients that touch memory once.
//!
//! candle has most of these; inside a recorded step its versions would cut the tape into pieces (see
//! [`crate::autograd`]). It has neither products of complex matrices nor numbers with their waves.

mod channels;
mod complex;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::{add_bias, cases, column_sums};
mod join;
mod linear;
mod product;
#[cfg(test)]
mod tests;
mod view;
mod waves;

pub use channels::{add_to_channels, scale_channels};
pub use complex::complex_product;
pub use join::cat;
pub use linear::linear;
pub use product::{matmul, matmul_transposed};
pub use view::{narrow, permute, reshape};
pub use waves::with_waves;

use crate::Result;
use crate::buffer::{map, map2};
use crate::cast::InHalf;
use crate::check::shape_of;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::order::Order;
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

struct Add;

impl Op for Add {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

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
    const ORDER: Order = Order::AsGiven;

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
