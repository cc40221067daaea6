//! The linear map of rows, `y = x·Wᵀ + b`.

use super::product::Product;
use crate::cast::InHalf;
use crate::check::shape_of;
use crate::math::Real;
use crate::matrix::{Matrix, half_product, is_half, shared_product};
use crate::op::{Array, Backward, Op, apply};
use crate::{Error, Result};
use candle_core::{Shape, Tensor};
use rayon::prelude::*;

/// `x·Wᵀ + b`: `x [n, in]`, `w [out, in]`, `b [out]` → `[n, out]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let op = "linear";
    let ([_, inputs], [outputs, width]) = (x.dims(), w.dims()) else {
        return Err(Error::shape(op, "x [n, in] and w [out, in]", (x.dims(), w.dims())));
    };
    if inputs != width {
        return Err(Error::shape(op, format!("w [{outputs}, {inputs}]"), w.dims()));
    }
    shape_of(op, "b", b, &[*outputs])?;
    let args: Vec<&Tensor> = [x, w].into_iter().chain(b).collect();
    let half = is_half() && !args.iter().any(|t| t.track_op());
    apply(Linear { half }, &args)
}

struct Linear {
    /// Whether its factors are rounded to bf16 where the machine can.
    half: bool,
}

impl Op for Linear {
    const IN_HALF: InHalf = InHalf::Rounded;

    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, w, bias) = (args[0], args[1], args.get(2).map(|b| b.data));
        let ([n, inputs], outputs) = ([x.dims[0], x.dims[1]], w.dims[0]);
        let size = [n, outputs, inputs];
        if self.half
            && let Some(y) = half_product(self.name(), size, x.data, w.data, bias)?
        {
            return Ok((y, (n, outputs).into()));
        }
        let w = Matrix::rows(w.data, inputs).transposed();
        let x = Matrix::rows(x.data, inputs);
        let y = shared_product(self.name(), size, x, w, bias)?;
        Ok((y, (n, outputs).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::linear(gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (x, w, g) = (&at.args[0], &at.args[1], &at.grad);
        let dx =
            at.wanted[0].then(|| apply(Product { swapped: [false; 2] }, &[g, w])).transpose()?;
        let dw =
            at.wanted[1].then(|| apply(Product { swapped: [true, false] }, &[g, x])).transpose()?;
        let mut found = vec![dx, dw];
        if let Some(&wanted) = at.wanted.get(2) {
            found.push(wanted.then(|| apply(ColumnSums, &[g])).transpose()?);
        }
        Ok(found)
    }
}

/// `[n, m]` → `[m]`
struct ColumnSums;

impl Op for ColumnSums {
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let width = args[0].dims[1];
        let partial = |rows: &[T]| {
            let mut sums = vec![0f64; width];
            for row in rows.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.f64());
            }
            sums
        };
        let parts: Vec<_> = args[0].data.par_chunks((width * 1024).max(1)).map(partial).collect();
        let total = |i: usize| T::of(parts.iter().map(|part| part[i]).sum());
        Ok(((0..width).map(total).collect(), width.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let (rows, width) = (args[0].dims[0], args[0].dims[1]);
        let sums = super::cuda::column_sums(gpu, &[&args[0].data], [1, rows, width])?;
        Ok((sums, width.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(at.grad.broadcast_as(at.args[0].shape())?)])
    }
}
