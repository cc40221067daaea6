//! Products of complex matrices and vectors, one pair per sample.

use crate::buffer::{fill, rows_per_chunk};
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

const NAME: &str = "complex_product";

/// `y[n, m] = Σ_k (re + i·im)[n, m, k] · v[n, k]`: real and imaginary parts `re`, `im [N, M·K]` of a
/// matrix per sample, vectors `v [N, K, 2]` as pairs → `[N, M, 2]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn complex_product(re: &Tensor, im: &Tensor, v: &Tensor) -> Result<Tensor> {
    match (re.dims(), v.dims()) {
        ([n, area], [samples, k, 2])
            if n == samples && im.dims() == re.dims() && *k > 0 && area.is_multiple_of(*k) =>
        {
            apply(ComplexProduct { rows: area / k, columns: *k }, &[re, im, v])
        }
        (dims, other) => {
            let expected = format!("v [N, K, 2] and equal parts [N, M·K], got {dims:?} and");
            Err(Error::shape(NAME, expected, (im.dims(), other)))
        }
    }
}

struct ComplexProduct {
    rows: usize,
    columns: usize,
}

impl Op for ComplexProduct {
    const TWICE: bool = false;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let [re, im, v] = [args[0].data, args[1].data, args[2].data];
        let (m, k) = (self.rows, self.columns);
        let y = per_sample(args[0].dims[0], [m * 2, m * k], |n, out: &mut [T]| {
            let (re, im) = (&re[n * m * k..][..m * k], &im[n * m * k..][..m * k]);
            let v = Parts::of(&v[n * k * 2..][..k * 2]);
            let rows = re.chunks_exact(k).zip(im.chunks_exact(k));
            for (out, (re, im)) in out.chunks_exact_mut(2).zip(rows) {
                out[0] = dot(re, &v.re) - dot(im, &v.im);
                out[1] = dot(re, &v.im) + dot(im, &v.re);
            }
        })?;
        Ok((y, (args[0].dims[0], m, 2).into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let [re, im, v] = [&at.args[0], &at.args[1], &at.args[2]];
        let (rows, columns) = (self.rows, self.columns);
        let outer = |imaginary: bool| apply(Outer { rows, columns, imaginary }, &[v, &at.grad]);
        let adjoint = || apply(Adjoint { rows, columns }, &[re, im, &at.grad]);
        Ok(vec![
            at.wanted[0].then(|| outer(false)).transpose()?,
            at.wanted[1].then(|| outer(true)).transpose()?,
            at.wanted[2].then(adjoint).transpose()?,
        ])
    }
}

/// The gradient of one part of the matrix: `Re(g · conj(v))` or `Im(g · conj(v))`.
struct Outer {
    rows: usize,
    columns: usize,
    imaginary: bool,
}

impl Op for Outer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let [v, g] = [args[0].data, args[1].data];
        let (n, m, k) = (args[0].dims[0], self.rows, self.columns);
        let y = per_sample(n, [m * k, m * k], |n, out: &mut [T]| {
            let v = Parts::of(&v[n * k * 2..][..k * 2]);
            let g = &g[n * m * 2..][..m * 2];
            for (out, g) in out.chunks_exact_mut(k).zip(g.chunks_exact(2)) {
                let (a, b) = if self.imaginary { (g[1], -g[0]) } else { (g[0], g[1]) };
                for ((out, &re), &im) in out.iter_mut().zip(&v.re).zip(&v.im) {
                    *out = a * re + b * im;
                }
            }
        })?;
        Ok((y, (n, m * k).into()))
    }
}

/// The gradient of the vector: the conjugate transpose of the matrix times `g`.
struct Adjoint {
    rows: usize,
    columns: usize,
}

impl Op for Adjoint {
    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let [re, im, g] = [args[0].data, args[1].data, args[2].data];
        let (n, m, k) = (args[0].dims[0], self.rows, self.columns);
        let y = per_sample(n, [k * 2, m * k], |n, out: &mut [T]| {
            let (re, im) = (&re[n * m * k..][..m * k], &im[n * m * k..][..m * k]);
            for (row, g) in g[n * m * 2..][..m * 2].chunks_exact(2).enumerate() {
                let (re, im) = (&re[row * k..][..k], &im[row * k..][..k]);
                for ((out, &re), &im) in out.chunks_exact_mut(2).zip(re).zip(im) {
                    out[0] += re * g[0] + im * g[1];
                    out[1] += re * g[1] - im * g[0];
                }
            }
        })?;
        Ok((y, (n, k, 2).into()))
    }
}

/// `f(sample, out)` for the `len` numbers of each sample, which take `work` steps.
fn per_sample<T: Real>(
    samples: usize,
    [len, work]: [usize; 2],
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Result<Vec<T>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    fill(NAME, samples * len, len * rows_per_chunk(work), |start, out| {
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
