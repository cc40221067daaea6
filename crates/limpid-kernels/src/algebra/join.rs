//! Several tensors side by side in one.

#![allow(unsafe_code)] // results are written to memory that is not zeroed first

use crate::Result;
use crate::autograd::takes_many;
use crate::buffer::{CHUNK, fill_unset};
use crate::cast::InHalf;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::order::Order;
use crate::parts::joined;
use candle_core::{Shape, Tensor};
use std::mem::MaybeUninit;

/// Joins tensors along dimension `dim`; their other dimensions are equal.
///
/// # Errors
/// [`Error::Shape`] if they do not fit each other, [`Error::Argument`] if there is no such
/// dimension or no tensor.
pub fn cat(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
    let op = "cat";
    joined(op, tensors, dim)?;
    if let [only] = tensors {
        return Ok((*only).clone());
    }
    // candle's nodes take three tensors; one by one costs a copy, but only outside of a recorded step
    if tensors.len() > 3 && !takes_many(tensors) {
        let (last, rest) = (tensors.len() - 1, &tensors[..tensors.len() - 1]);
        return cat(&[&cat(rest, dim)?, tensors[last]], dim);
    }
    let sizes = tensors.iter().map(|t| t.dims()[dim]).collect();
    apply(Cat { dim, sizes }, tensors)
}

struct Cat {
    dim: usize,
    sizes: Vec<usize>,
}

impl Cat {
    /// The dimensions of the result, given those of an argument.
    fn dims(&self, of: &[usize]) -> Vec<usize> {
        let mut dims = of.to_vec();
        dims[self.dim] = self.sizes.iter().sum();
        dims
    }
}

impl Op for Cat {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "cat"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let dims = self.dims(args[0].dims);
        let inner: usize = dims[self.dim + 1..].iter().product();
        let row = dims[self.dim] * inner;
        let len = dims.iter().product();
        // pieces of one source, so that one task does not copy a whole image
        let values = |start: usize, out: &mut [MaybeUninit<T>]| {
            let mut at = 0;
            while at < out.len() {
                let (outer, mut within) = ((start + at) / row, (start + at) % row);
                for (arg, size) in args.iter().zip(&self.sizes) {
                    let width = size * inner;
                    if within < width {
                        let count = (width - within).min(out.len() - at);
                        let from = &arg.data[outer * width + within..][..count];
                        out[at..at + count].write_copy_of_slice(from);
                        at += count;
                        break;
                    }
                    within -= width;
                }
            }
        };
        // SAFETY: the loop ends when all of the chunk has been copied to.
        let y = unsafe { fill_unset("cat", len, CHUNK, values) }?;
        Ok((y, dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::parts::cat(self.dim, self.dims(args[0].dims), gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let mut gradients = Vec::with_capacity(self.sizes.len());
        for (&size, &wanted) in self.sizes.iter().zip(&at.wanted) {
            let part = wanted.then(|| super::narrow(&at.grad, self.dim, start, size));
            gradients.push(part.transpose()?);
            start += size;
        }
        Ok(gradients)
    }
}
