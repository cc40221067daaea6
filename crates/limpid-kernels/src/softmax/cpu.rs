//! CPU arithmetic of the softmax. A block holds every element along the dimension for some
//! neighbouring positions of the later dimensions, so that all loops run over neighbours.

use crate::Result;
use crate::buffer::{fill, rows_per_chunk};
use crate::math::Real;
use crate::simd::vectorised;

/// A tensor as `[outer, length, inner]`.
#[derive(Clone, Copy)]
pub(super) struct View {
    length: usize,
    inner: usize,
}

impl View {
    pub(super) fn new(dims: &[usize], dim: usize) -> Self {
        Self { length: dims[dim], inner: dims[dim + 1..].iter().product() }
    }

    /// Elements of one outer index, and of as many as make a chunk.
    fn block(self) -> (usize, usize) {
        let block = self.length * self.inner;
        (block, block * rows_per_chunk(block))
    }
}

pub(super) fn forward<T: Real>(op: &'static str, x: &[T], view: View, log: bool) -> Result<Vec<T>> {
    let (block, chunk) = view.block();
    fill(op, x.len(), chunk, |start, out| {
        for (b, out) in out.chunks_mut(block).enumerate() {
            let x = &x[start + b * block..][..block];
            vectorised(
                #[inline(always)]
                || match view.inner {
                    1 => row(x, out, log),
                    inner => columns(x, out, inner, log),
                },
            );
        }
    })
}

#[inline(always)]
fn row<T: Real>(x: &[T], out: &mut [T], log: bool) {
    let largest = largest(x);
    for (o, &x) in out.iter_mut().zip(x) {
        *o = (x - largest).exp();
    }
    let sum = lane_sum(out, out, |o, _| o);
    if log {
        let shift = sum.ln();
        for (o, &x) in out.iter_mut().zip(x) {
            *o = x - largest - shift;
        }
    } else {
        let factor = T::one() / sum;
        for o in out.iter_mut() {
            *o *= factor;
        }
    }
}

#[inline(always)]
fn columns<T: Real>(x: &[T], out: &mut [T], inner: usize, log: bool) {
    let mut largest = x[..inner].to_vec();
    for x in x.chunks(inner) {
        for (m, &x) in largest.iter_mut().zip(x) {
            *m = if x > *m { x } else { *m };
        }
    }
    let mut sum = vec![T::zero(); inner];
    for (out, x) in out.chunks_mut(inner).zip(x.chunks(inner)) {
        for (((o, &x), &m), s) in out.iter_mut().zip(x).zip(&largest).zip(&mut sum) {
            *o = (x - m).exp();
            *s += *o;
        }
    }
    for s in &mut sum {
        *s = if log { s.ln() } else { T::one() / *s };
    }
    for (out, x) in out.chunks_mut(inner).zip(x.chunks(inner)) {
        for (((o, &x), &m), &s) in out.iter_mut().zip(x).zip(&largest).zip(&sum) {
            *o = if log { x - m - s } else { *o * s };
        }
    }
}

/// `y (g - sum(g y))`, or `g - exp(y) sum(g)` for the logarithm.
pub(super) fn backward<T: Real>(
    op: &'static str,
    y: &[T],
    g: &[T],
    view: View,
    log: bool,
) -> Result<Vec<T>> {
    let (block, chunk) = view.block();
    fill(op, y.len(), chunk, |start, out| {
        for (b, out) in out.chunks_mut(block).enumerate() {
            let at = start + b * block..start + (b + 1) * block;
            let (y, g) = (&y[at.clone()], &g[at]);
            vectorised(
                #[inline(always)]
                || {
                    if view.inner == 1 {
                        let sum = lane_sum(y, g, |y, g| if log { g } else { g * y });
                        for ((o, &y), &g) in out.iter_mut().zip(y).zip(g) {
                            *o = if log { g - y.exp() * sum } else { y * (g - sum) };
                        }
                        return;
                    }
                    let inner = view.inner;
                    let mut sum = vec![T::zero(); inner];
                    for (y, g) in y.chunks(inner).zip(g.chunks(inner)) {
                        for ((s, &y), &g) in sum.iter_mut().zip(y).zip(g) {
                            *s += if log { g } else { g * y };
                        }
                    }
                    let rows = out.chunks_mut(inner).zip(y.chunks(inner)).zip(g.chunks(inner));
                    for ((out, y), g) in rows {
                        for (((o, &y), &g), &s) in out.iter_mut().zip(y).zip(g).zip(&sum) {
                            *o = if log { g - y.exp() * s } else { y * (g - s) };
                        }
                    }
                },
            );
        }
    })
}

const LANES: usize = 16;

/// The largest element; a NaN never is.
#[inline(always)]
pub(crate) fn largest<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::LOWEST; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (m, &x) in lanes.iter_mut().zip(block) {
            *m = if x > *m { x } else { *m };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(T::LOWEST, |m, &x| if x > m { x } else { m })
}

/// The sum of `f` over pairs of elements, in a fixed order of sixteen interleaved partial sums.
#[inline(always)]
pub(crate) fn lane_sum<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += f(a, b);
    }
    lanes.iter().fold(T::zero(), |sum, &lane| sum + lane)
}
