//! Numbers with the cosines and sines of angles, as networks of coordinates take them.

use crate::buffer::{fill, rows_per_chunk};
use crate::math::{MOST_TURNED, Real};
use crate::op::{Array, Backward, Op, apply};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

const NAME: &str = "with_waves";

/// Random Fourier features (Tancik et al. 2020): `x [N, F]`, `angles [N, P]` in radians →
/// `[N, F + 2P]`, the numbers, the cosines of the angles, their sines.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn with_waves(x: &Tensor, angles: &Tensor) -> Result<Tensor> {
    match (x.dims(), angles.dims()) {
        ([n, _], [m, _]) if n == m => apply(WithWaves, &[x, angles]),
        (dims, other) => Err(Error::shape(NAME, format!("angles [N, P] for x {dims:?}"), other)),
    }
}

struct WithWaves;

impl Op for WithWaves {
    const READS_RESULT: bool = true;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (n, [f, p]) = (args[0].dims[0], [args[0].dims[1], args[1].dims[1]]);
        let width = f + 2 * p;
        if width == 0 {
            return Ok((Vec::new(), (n, width).into()));
        }
        // a cosine is the work of a dozen copies
        let y = fill(NAME, n * width, width * rows_per_chunk(f + 24 * p), |start, out| {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let row = start / width + row;
                let angles = &args[1].data[row * p..][..p];
                let (same, waves) = out.split_at_mut(f);
                same.copy_from_slice(&args[0].data[row * f..][..f]);
                let (cosines, sines) = waves.split_at_mut(p);
                let each = angles.iter().zip(cosines).zip(sines);
                if angles.iter().all(|a| a.abs().f64() <= MOST_TURNED) {
                    vectorised(
                        #[inline(always)]
                        || each.for_each(|((a, c), s)| [*c, *s] = a.cos_sin()),
                    );
                } else {
                    each.for_each(|((a, c), s)| [*c, *s] = a.f64().cos_sin().map(T::of));
                }
            }
        })?;
        Ok((y, (n, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::parts::with_waves(gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (x, angles, g) = (&at.args[0], &at.args[1], &at.grad);
        let (f, p) = (x.dims()[1], angles.dims()[1]);
        let part = |first: usize, count: usize| g.narrow(1, first, count)?.contiguous();
        let y = at.result(NAME)?;
        let of = |first: usize| y.narrow(1, first, p);
        let turned = || (part(f + p, p)? * of(f)?)? - (part(f, p)? * of(f + p)?)?;
        Ok(vec![
            at.wanted[0].then(|| part(0, f)).transpose()?,
            at.wanted[1].then(turned).transpose()?,
        ])
    }
}
