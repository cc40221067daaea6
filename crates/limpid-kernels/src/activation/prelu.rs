//! ReLU with a learned slope (He et al., arXiv:1502.01852).

use crate::buffer::{CHUNK, fill};
use crate::cast::InHalf;
use crate::math::Real;
#[cfg(feature = "cuda")]
use crate::op::gradients_on_gpu;
use crate::op::{Array, Backward, Op, apply, with_slices};
use crate::order::Order;
use crate::planes::{pieces, reduce, sums};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{DType, Shape, Tensor};

const NAME: &str = "prelu";

/// `x` above zero, `w * x` elsewhere, with one slope for all (`w [1]`) or one per channel (`w [C]`,
/// `x [N, C, ..]`). Differentiable once.
///
/// # Errors
/// [`Error::Shape`] if `w` has another shape or a tensor another dtype than f32 or f64.
pub fn prelu(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let channels = x.dims().get(1).copied().unwrap_or(1);
    if w.dims() != [1] && w.dims() != [channels] {
        return Err(Error::shape(NAME, format!("w [1] or [{channels}]"), w.dims()));
    }
    apply(Prelu, &[x, w])
}

struct Prelu;

impl Op for Prelu {
    const TWICE: bool = false;
    const IN_HALF: InHalf = InHalf::Kept;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, slopes) = (args[0], args[1].data);
        let plane = plane_of(x.dims, slopes.len());
        let y = fill(NAME, x.data.len(), CHUNK, |start, out| {
            for (p, piece) in pieces(start, out.len(), plane) {
                let slope = slopes[p % slopes.len()];
                let x = &x.data[start + piece.start..start + piece.end];
                let out = &mut out[piece];
                vectorised(
                    #[inline(always)]
                    || {
                        for (o, &x) in out.iter_mut().zip(x) {
                            *o = if x > T::zero() { x } else { x * slope };
                        }
                    },
                );
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
        super::cuda::prelu(gpu, args)
    }

    #[cfg(feature = "cuda")]
    fn gradients_cuda<T: crate::gpu::Number>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (x, w) = (&at.args[0], &at.args[1]);
        crate::gpu::with_images::<T, _>(NAME, &[x, w, &at.grad], Order::AsGiven, |gpu, args| {
            let (dx, dw) = super::cuda::prelu_gradients(gpu, args)?;
            Ok(vec![Some(gpu.image(dx, x.dims())?), Some(gpu.tensor(dw, w.shape()))])
        })
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        #[cfg(feature = "cuda")]
        if at.grad.device().is_cuda() {
            return gradients_on_gpu(self, at);
        }
        match at.grad.dtype() {
            DType::F64 => gradients::<f64>(&at.args[0], &at.args[1], &at.grad),
            _ => gradients::<f32>(&at.args[0], &at.args[1], &at.grad),
        }
    }
}

fn gradients<T: Real>(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
    with_slices(NAME, [x, w, grad], |[xs, slopes, grads]: [&[T]; 3]| {
        let plane = plane_of(x.dims(), slopes.len());
        let dx = fill(NAME, xs.len(), CHUNK, |start, out| {
            for (p, piece) in pieces(start, out.len(), plane) {
                let slope = slopes[p % slopes.len()];
                let at = start + piece.start..start + piece.end;
                let (x, g) = (&xs[at.clone()], &grads[at]);
                let out = &mut out[piece];
                vectorised(
                    #[inline(always)]
                    || {
                        for ((o, &x), &g) in out.iter_mut().zip(x).zip(g) {
                            *o = if x > T::zero() { g } else { g * slope };
                        }
                    },
                );
            }
        })?;
        let below = |[x, g]: [T; 2]| if x > T::zero() { [0.0] } else { [x.f64() * g.f64()] };
        let per_plane = reduce(
            xs.len() / plane,
            plane,
            |at| sums([&xs[at.clone()], &grads[at]], below),
            |[a], [b]| [a + b],
        );
        let mut dw = vec![0f64; slopes.len()];
        for (p, [sum]) in per_plane.iter().enumerate() {
            dw[p % slopes.len()] += sum;
        }
        let dw: Vec<T> = dw.into_iter().map(T::of).collect();
        Ok(vec![
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, w.shape(), x.device())?),
        ])
    })
}

/// Elements that follow each other and share a slope.
fn plane_of(dims: &[usize], slopes: usize) -> usize {
    let skipped = if slopes == 1 { 0 } else { 2 };
    dims[skipped..].iter().product::<usize>().max(1)
}
