//! Numbers that whole planes share: sums and products with them.

use crate::buffer::{CHUNK, fill};
use crate::cast::{InHalf, cast, widened};
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::order::Order;
use crate::planes::{pieces, reduce, sums};
use crate::{Error, Result};
use candle_core::{Shape, Tensor};
use std::ops::Range;

/// Adds one number to each plane: `x [N, C, s..]`, `shift [N, C]` or `[1, C]` → the same as `x`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn add_to_channels(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    check("add_to_channels", x, shift)?;
    apply(AddToChannels, &[x, shift])
}

/// Each plane times one number: `x [N, C, s..]`, `factor [N, C]` or `[1, C]` → the same as `x`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn scale_channels(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    check("scale_channels", x, factor)?;
    apply(ScaleChannels, &[x, factor])
}

fn check(op: &'static str, x: &Tensor, numbers: &Tensor) -> Result<()> {
    match (x.dims(), numbers.dims()) {
        ([n, c, ..], [m, d]) if c == d && (m == n || *m == 1) => Ok(()),
        (dims, other) => {
            Err(Error::shape(op, format!("one number per plane of an x of shape {dims:?}"), other))
        }
    }
}

/// The elements of `x` and the number of their plane through `f`.
fn by_plane<T: Real>(
    op: &'static str,
    args: &[Array<T>],
    f: impl Fn(T, T) -> T + Sync,
) -> Result<(Vec<T>, Shape)> {
    let (x, numbers) = (args[0], args[1].data);
    let plane: usize = x.dims[2..].iter().product();
    let y = fill(op, x.data.len(), CHUNK, |start, out| {
        for (p, piece) in pieces(start, out.len(), plane) {
            let number = numbers[p % numbers.len()];
            let x = &x.data[start + piece.start..start + piece.end];
            for (o, &x) in out[piece].iter_mut().zip(x) {
                *o = f(x, number);
            }
        }
    })?;
    Ok((y, x.dims.into()))
}

/// What `of` gives for the elements of each plane, added up where it is asked for parts of one.
fn of_planes<T: Real>(dims: &[usize], of: impl Fn(Range<usize>) -> f64 + Sync) -> (Vec<T>, Shape) {
    let (planes, plane) = (dims[0] * dims[1], dims[2..].iter().product());
    let found = reduce(planes, plane, of, |a, b| a + b);
    (found.into_iter().map(T::of).collect(), (dims[0], dims[1]).into())
}

/// Numbers of planes `[N, C]`, added up if there is one for all items of a batch.
fn shared(planes: &Tensor, like: &Tensor) -> Result<Tensor> {
    if like.dims()[0] != 1 || planes.dims()[0] == 1 {
        return Ok(planes.clone());
    }
    cast(&widened(planes)?.sum_keepdim(0)?, planes.dtype())
}

struct AddToChannels;

impl Op for AddToChannels {
    const IN_HALF: InHalf = InHalf::First;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "add_to_channels"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        by_plane(self.name(), args, |x, shift| x + shift)
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::by_plane("add_to_channels", gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let shift = &at.args[1];
        let sum = at.wanted[1].then(|| shared(&apply(PlaneSums, &[&at.grad])?, shift));
        Ok(vec![Some(at.grad.clone()), sum.transpose()?])
    }
}

struct ScaleChannels;

impl Op for ScaleChannels {
    const IN_HALF: InHalf = InHalf::First;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "scale_channels"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        by_plane(self.name(), args, |x, factor| x * factor)
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::by_plane("scale_channels", gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (x, factor, g) = (&at.args[0], &at.args[1], &at.grad);
        let dx = at.wanted[0].then(|| apply(ScaleChannels, &[g, factor]));
        let sums = at.wanted[1].then(|| shared(&apply(PlaneProducts, &[x, g])?, factor));
        Ok(vec![dx.transpose()?, sums.transpose()?])
    }
}

/// The sums over planes of products: two of `[N, C, s..]` → `[N, C]`
struct PlaneProducts;

impl Op for PlaneProducts {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "plane_products"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, y) = (args[0].data, args[1].data);
        Ok(of_planes(args[0].dims, |range| {
            sums([&x[range.clone()], &y[range]], |[x, y]| [x.f64() * y.f64()])[0]
        }))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::of_planes("plane_products", gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let of =
            |i: usize| at.wanted[i].then(|| apply(ScaleChannels, &[&at.args[1 - i], &at.grad]));
        Ok(vec![of(0).transpose()?, of(1).transpose()?])
    }
}

/// `[N, C, s..]` → `[N, C]`
struct PlaneSums;

impl Op for PlaneSums {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "plane_sums"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let x = args[0].data;
        Ok(of_planes(args[0].dims, |range| sums([&x[range]], |[x]| [x.f64()])[0]))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::of_planes("plane_sums", gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let shape = at.args[0].dims();
        let mut dims = vec![1; shape.len()];
        dims[..2].copy_from_slice(&shape[..2]);
        Ok(vec![Some(at.grad.reshape(dims)?.broadcast_as(shape)?)])
    }
}
