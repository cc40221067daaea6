//! CPU arithmetic of the softmax. A block holds every element along the dimension for some
//! neighbouring positions of the later dimensions, so that all loops run over neighbours.

#![allow(unsafe_code)] // vector instructions

use crate::Result;
use crate::buffer::{fill, rows_per_chunk};
use crate::element::single_mut;
use crate::math::{Real, exp_of_negative};
use crate::simd::{self, Lanes, Level, MOST_LANES, level, vectorised};

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
    out.copy_from_slice(x);
    let sum = exponentials(out, largest);
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

/// Turns each `x` into `exp(x - from)`, where none is above `from`, and returns their sum.
pub(crate) fn exponentials<T: Real>(x: &mut [T], from: T) -> T {
    let Some(x) = single_mut(x) else {
        x.iter_mut().for_each(|x| *x = (*x - from).exp());
        return lane_sum(x, x, |x, _| x);
    };
    let from = from.f64() as f32;
    // SAFETY: the machine has the level that `level` gives.
    let sum = unsafe {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => single_exponentials::<simd::Avx512>(x, from),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => single_exponentials::<simd::Avx2>(x, from),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => single_exponentials::<simd::Neon>(x, from),
            Level::Portable => single_exponentials::<simd::Portable>(x, from),
        }
    };
    T::of(f64::from(sum))
}

/// As [`exponentials`].
///
/// # Safety
/// As [`Lanes`].
unsafe fn single_exponentials<S: Lanes>(x: &mut [f32], from: f32) -> f32 {
    const N: usize = 4;
    // SAFETY: the level is the caller's; loads and stores lie within the slice or the array.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                let shift = S::splat(from);
                let mut sums = [S::splat(0.0); N];
                let (step, mut i) = (N * S::LANES, 0);
                while i + step <= x.len() {
                    for n in 0..N {
                        let at = x.as_mut_ptr().add(i + n * S::LANES);
                        let e = exp_of_negative::<S>(S::sub(S::load(at), shift));
                        S::store(at, e);
                        sums[n] = S::add(sums[n], e);
                    }
                    i += step;
                }
                let mut total = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
                while i < x.len() {
                    let len = S::LANES.min(x.len() - i);
                    // what fills up the register adds nothing
                    let mut part = [f32::NEG_INFINITY; MOST_LANES];
                    part[..len].copy_from_slice(&x[i..i + len]);
                    let e = exp_of_negative::<S>(S::sub(S::load(part.as_ptr()), shift));
                    S::store(part.as_mut_ptr(), e);
                    x[i..i + len].copy_from_slice(&part[..len]);
                    total = S::add(total, e);
                    i += len;
                }
                let mut lanes = [0f32; MOST_LANES];
                S::store(lanes.as_mut_ptr(), total);
                lanes.iter().sum()
            },
        )
    }
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
