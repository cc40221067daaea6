//! Products of complex matrices with the vectors of each.

use crate::buffer::{fill, rows_per_chunk};
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

const NAME: &str = "complex_product";

/// `y[n·R + r, m] = Σ_k (re + i·im)[n, m, k] · v[n·R + r, k]`: real and imaginary parts `re`, `im [N, M·K]`
/// of matrices, `R` vectors in a row for each, `v [N·R, K, 2]` as pairs → `[N·R, M, 2]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn complex_product(re: &Tensor, im: &Tensor, v: &Tensor) -> Result<Tensor> {
    match (re.dims(), v.dims()) {
        ([n, area], [vectors, k, 2])
            if vectors.is_multiple_of((*n).max(1))
                && (*n == 0) == (*vectors == 0)
                && im.dims() == re.dims()
                && *k > 0
                && *area > 0
                && area.is_multiple_of(*k) =>
        {
            let (rows, columns, each) = (area / k, *k, vectors / (*n).max(1));
            apply(ComplexProduct(Sizes { rows, columns, each }), &[re, im, v])
        }
        (dims, other) => {
            let expected = format!("v [N·R, K, 2] and equal parts [N, M·K], got {dims:?} and");
            Err(Error::shape(NAME, expected, (im.dims(), other)))
        }
    }
}

/// Of a matrix, and how many vectors it multiplies.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub rows: usize,
    pub columns: usize,
    pub each: usize,
}

impl Sizes {
    /// Numbers of a part of a matrix, of its vectors, and of their products.
    fn lens(self) -> [usize; 3] {
        let Self { rows, columns, each } = self;
        [rows * columns, each * columns * 2, each * rows * 2]
    }
}

struct ComplexProduct(Sizes);

impl Op for ComplexProduct {
    const TWICE: bool = false;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let [re, im, v] = [args[0].data, args[1].data, args[2].data];
        let Sizes { rows, columns: k, each } = self.0;
        let [matrix, vectors, products] = self.0.lens();
        let n = args[0].dims[0];
        let y = per_matrix(n, [products, each * matrix], |n, out: &mut [T]| {
            let (re, im) = (&re[n * matrix..][..matrix], &im[n * matrix..][..matrix]);
            let v = &v[n * vectors..][..vectors];
            for (out, v) in out.chunks_exact_mut(rows * 2).zip(v.chunks_exact(k * 2)) {
                let v = Parts::of(v);
                let rows = re.chunks_exact(k).zip(im.chunks_exact(k));
                for (out, (re, im)) in out.chunks_exact_mut(2).zip(rows) {
                    out[0] = dot(re, &v.re) - dot(im, &v.im);
                    out[1] = dot(re, &v.im) + dot(im, &v.re);
                }
            }
        })?;
        Ok((y, (n * each, rows, 2).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::complex::complex_product(self.0, gpu, args)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let [re, im, v] = [&at.args[0], &at.args[1], &at.args[2]];
        let outer = |imaginary| apply(Outer { sizes: self.0, imaginary }, &[v, &at.grad]);
        Ok(vec![
            at.wanted[0].then(|| outer(false)).transpose()?,
            at.wanted[1].then(|| outer(true)).transpose()?,
            at.wanted[2].then(|| apply(Adjoint(self.0), &[re, im, &at.grad])).transpose()?,
        ])
    }
}

/// The gradient of one part of the matrix: the sum over its vectors of `Re(g · conj(v))` or
/// `Im(g · conj(v))`.
struct Outer {
    sizes: Sizes,
    imaginary: bool,
}

impl Op for Outer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let [v, g] = [args[0].data, args[1].data];
        let Sizes { rows, columns: k, each } = self.sizes;
        let [matrix, vectors, products] = self.sizes.lens();
        let n = args[0].dims[0] / each.max(1);
        let y = per_matrix(n, [matrix, each * matrix], |n, out: &mut [T]| {
            let (v, g) = (&v[n * vectors..][..vectors], &g[n * products..][..products]);
            for (v, g) in v.chunks_exact(k * 2).zip(g.chunks_exact(rows * 2)) {
                let v = Parts::of(v);
                for (out, g) in out.chunks_exact_mut(k).zip(g.chunks_exact(2)) {
                    let (a, b) = if self.imaginary { (g[1], -g[0]) } else { (g[0], g[1]) };
                    for ((out, &re), &im) in out.iter_mut().zip(&v.re).zip(&v.im) {
                        *out += a * re + b * im;
                    }
                }
            }
        })?;
        Ok((y, (n, matrix).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::complex::outer(self.sizes, self.imaginary, gpu, args)
    }
}

/// The gradient of the vectors: the conjugate transpose of their matrix times `g`.
struct Adjoint(Sizes);

impl Op for Adjoint {
    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let [re, im, g] = [args[0].data, args[1].data, args[2].data];
        let Sizes { rows, columns: k, each } = self.0;
        let [matrix, vectors, products] = self.0.lens();
        let n = args[0].dims[0];
        let y = per_matrix(n, [vectors, each * matrix], |n, out: &mut [T]| {
            let (re, im) = (&re[n * matrix..][..matrix], &im[n * matrix..][..matrix]);
            let g = g[n * products..][..products].chunks_exact(rows * 2);
            for (out, g) in out.chunks_exact_mut(k * 2).zip(g) {
                for (row, g) in g.chunks_exact(2).enumerate() {
                    let (re, im) = (&re[row * k..][..k], &im[row * k..][..k]);
                    for ((out, &re), &im) in out.chunks_exact_mut(2).zip(re).zip(im) {
                        out[0] += re * g[0] + im * g[1];
                        out[1] += re * g[1] - im * g[0];
                    }
                }
            }
        })?;
        Ok((y, (n * each, k, 2).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::complex::adjoint(self.0, gpu, args)
    }
}

/// `f(matrix, out)` for the `len` numbers of each matrix, which take `work` steps.
fn per_matrix<T: Real>(
    matrices: usize,
    [len, work]: [usize; 2],
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Result<Vec<T>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    fill(NAME, matrices * len, len * rows_per_chunk(work), |start, out| {
        vectorised(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(len).enumerate() {
                    f(start / len + i, out);
                }
            },
        );
    })
}

/// A vector of pairs as two vectors.
struct Parts<T> {
    re: Vec<T>,
    im: Vec<T>,
}

impl<T: Real> Parts<T> {
    fn of(pairs: &[T]) -> Self {
        let part = |i: usize| pairs[i..].iter().step_by(2).copied().collect();
        Self { re: part(0), im: part(1) }
    }
}

/// A product of two vectors, summed in interleaved lanes that are the same on every machine.
#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    const LANES: usize = 8;
    let mut sums = [T::zero(); LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(T::zero(), |sum, (&a, &b)| sum + a * b);
    sums.into_iter().fold(rest, |sum, s| sum + s)
}
