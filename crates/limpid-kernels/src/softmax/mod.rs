//! Softmax and its logarithm along any dimension, as `torch.softmax` and `torch.log_softmax`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;

pub(crate) use cpu::{exponentials, lane_sum, largest};

use crate::cast::InHalf;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

/// `exp(x) / sum(exp(x))` along dimension `dim`.
///
/// # Errors
/// [`Error::Shape`] unless `x` is f32 or f64; [`Error::Argument`] if there is no such dimension.
pub fn softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    run("softmax", x, dim, false)
}

/// `x - ln(sum(exp(x)))` along dimension `dim`.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    run("log_softmax", x, dim, true)
}

fn run(op: &'static str, x: &Tensor, dim: usize, log: bool) -> Result<Tensor> {
    if dim >= x.rank() {
        let message = format!("`dim` is {dim}, but x has {} dimensions", x.rank());
        return Err(Error::Argument { op, message });
    }
    apply(Softmax { name: op, dim, log }, &[x])
}

struct Softmax {
    name: &'static str,
    dim: usize,
    log: bool,
}

impl Op for Softmax {
    const READS_ARGS: bool = false;
    const READS_RESULT: bool = true;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let x = args[0];
        let view = cpu::View::new(x.dims, self.dim);
        Ok((cpu::forward(self.name, x.data, view, self.log)?, x.dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let name = if self.log { "log_softmax_value" } else { "softmax_value" };
        cuda::run(name, self.dim, gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (y, g) = (at.result(self.name)?, &at.grad);
        if !at.is_differentiated() {
            let op = Gradient { name: self.name, dim: self.dim, log: self.log };
            return Ok(vec![Some(apply(op, &[y, g])?)]);
        }
        let dx = if self.log {
            g.sub(&y.exp()?.broadcast_mul(&g.sum_keepdim(self.dim)?)?)?
        } else {
            (y * g.broadcast_sub(&(y * g)?.sum_keepdim(self.dim)?)?)?
        };
        Ok(vec![Some(dx)])
    }
}

/// The gradient of [`Softmax`] from its result and the gradient of that.
struct Gradient {
    name: &'static str,
    dim: usize,
    log: bool,
}

impl Op for Gradient {
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (y, g) = (args[0], args[1]);
        let view = cpu::View::new(y.dims, self.dim);
        Ok((cpu::backward(self.name, y.data, g.data, view, self.log)?, y.dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let name = if self.log { "log_softmax_gradient" } else { "softmax_gradient" };
        cuda::run(name, self.dim, gpu, args)
    }
}
