//! CPU arithmetic of the in-place updates: fixed chunks over rayon, one vectorised loop per chunk.

use crate::buffer::CHUNK;
use crate::element::{Element, contiguous};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Storage, Tensor};
use rayon::prelude::*;

/// An elementwise update of a destination from `N` sources of the same length.
pub(super) trait Update<const N: usize>: Sync {
    const NAME: &'static str;
    /// Its parameters, as the kernel of a GPU takes them.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    fn numbers(&self) -> [f64; 6];
    fn apply<T: Element>(&self, dst: &mut [T], src: [&[T]; N]);
}

/// Makes candle's in-place operation of an [`Update`].
pub(super) struct InPlace<U>(pub U);

impl<U: Update<0>> InplaceOp1 for InPlace<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn cpu_fwd(&self, dst: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        run(&self.0, dst, layout, [])
    }
}

impl<U: Update<1>> InplaceOp2 for InPlace<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        s1: &CpuStorage,
        l1: &Layout,
    ) -> candle_core::Result<()> {
        run(&self.0, dst, layout, [(s1, l1)])
    }
}

impl<U: Update<2>> InplaceOp3 for InPlace<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<()> {
        run(&self.0, dst, layout, [(s1, l1), (s2, l2)])
    }
}

fn run<const N: usize, U: Update<N>>(
    update: &U,
    dst: &mut CpuStorage,
    layout: &Layout,
    sources: [(&CpuStorage, &Layout); N],
) -> candle_core::Result<()> {
    match dst.dtype() {
        DType::F64 => run_typed::<f64, N, U>(update, dst, layout, sources),
        _ => run_typed::<f32, N, U>(update, dst, layout, sources),
    }
}

fn run_typed<T: Element, const N: usize, U: Update<N>>(
    update: &U,
    dst: &mut CpuStorage,
    layout: &Layout,
    sources: [(&CpuStorage, &Layout); N],
) -> candle_core::Result<()> {
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(sources) {
        *slice = contiguous(U::NAME, storage, layout)?;
    }
    let (Some((start, end)), Some(data)) = (layout.contiguous_offsets(), T::slice_mut(dst)) else {
        candle_core::bail!("{}: expected a contiguous destination of f32 or f64", U::NAME)
    };
    data[start..end].par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let src = slices.map(|s| &s[i * CHUNK..i * CHUNK + chunk.len()]);
        vectorised(
            #[inline(always)]
            || update.apply(chunk, src),
        );
    });
    Ok(())
}

pub(super) struct Scale {
    pub a: f64,
}

impl Update<0> for Scale {
    const NAME: &'static str = "scale_";

    fn numbers(&self) -> [f64; 6] {
        [self.a, 0.0, 0.0, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], _: [&[T]; 0]) {
        let a = T::from_f64(self.a);
        for d in dst {
            *d *= a;
        }
    }
}

pub(super) struct Axpby {
    pub a: f64,
    pub b: f64,
}

impl Update<1> for Axpby {
    const NAME: &'static str = "axpby_";

    fn numbers(&self) -> [f64; 6] {
        [self.a, self.b, 0.0, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [src]: [&[T]; 1]) {
        let (a, b) = (T::from_f64(self.a), T::from_f64(self.b));
        for (d, &s) in dst.iter_mut().zip(src) {
            *d = *d * a + b * s;
        }
    }
}

pub(super) struct AxpbySquare {
    pub a: f64,
    pub b: f64,
}

impl Update<1> for AxpbySquare {
    const NAME: &'static str = "axpby_sq_";

    fn numbers(&self) -> [f64; 6] {
        [self.a, self.b, 0.0, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [src]: [&[T]; 1]) {
        let (a, b) = (T::from_f64(self.a), T::from_f64(self.b));
        for (d, &s) in dst.iter_mut().zip(src) {
            *d = *d * a + b * s * s;
        }
    }
}

pub(super) struct Lerp {
    pub weight: f64,
}

impl Update<1> for Lerp {
    const NAME: &'static str = "ema_";

    fn numbers(&self) -> [f64; 6] {
        [self.weight, 0.0, 0.0, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [src]: [&[T]; 1]) {
        // the two forms of torch.lerp: each is exact at its own end
        if self.weight < 0.5 {
            let w = T::from_f64(self.weight);
            for (d, &s) in dst.iter_mut().zip(src) {
                *d += w * (s - *d);
            }
        } else {
            let rest = T::from_f64(1.0 - self.weight);
            for (d, &s) in dst.iter_mut().zip(src) {
                *d = s - (s - *d) * rest;
            }
        }
    }
}

pub(super) struct Max;

impl Update<1> for Max {
    const NAME: &'static str = "max_";

    fn numbers(&self) -> [f64; 6] {
        [0.0; 6]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [src]: [&[T]; 1]) {
        for (d, &s) in dst.iter_mut().zip(src) {
            *d = larger(*d, s);
        }
    }
}

pub(super) struct AbsMax {
    pub decay: f64,
    pub eps: f64,
}

impl Update<1> for AbsMax {
    const NAME: &'static str = "max_abs_";

    fn numbers(&self) -> [f64; 6] {
        [self.decay, self.eps, 0.0, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [src]: [&[T]; 1]) {
        let (decay, eps) = (T::from_f64(self.decay), T::from_f64(self.eps));
        for (d, &s) in dst.iter_mut().zip(src) {
            *d = larger(*d * decay, s.abs() + eps);
        }
    }
}

/// The larger of two, or NaN if either is NaN.
#[inline(always)]
#[allow(clippy::eq_op)] // `b != b` is NaN without a branch
fn larger<T: Element>(a: T, b: T) -> T {
    if b > a || b != b { b } else { a }
}

pub(super) struct SqrtDivUpdate {
    pub lr: f64,
    pub bias2_sqrt: f64,
    pub eps: f64,
}

impl Update<2> for SqrtDivUpdate {
    const NAME: &'static str = "adam_update_";

    fn numbers(&self) -> [f64; 6] {
        [self.lr, self.bias2_sqrt, self.eps, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [m, v]: [&[T]; 2]) {
        let (step, eps) = (T::from_f64(-self.lr), T::from_f64(self.eps));
        let bias2_sqrt = T::from_f64(self.bias2_sqrt);
        for ((d, &m), &v) in dst.iter_mut().zip(m).zip(v) {
            *d += step * m / (v.sqrt() / bias2_sqrt + eps);
        }
    }
}

pub(super) struct DivUpdate {
    pub lr: f64,
}

impl Update<2> for DivUpdate {
    const NAME: &'static str = "div_update_";

    fn numbers(&self) -> [f64; 6] {
        [self.lr, 0.0, 0.0, 0.0, 0.0, 0.0]
    }

    #[inline(always)]
    fn apply<T: Element>(&self, dst: &mut [T], [numerator, denominator]: [&[T]; 2]) {
        let step = T::from_f64(-self.lr);
        for ((d, &n), &q) in dst.iter_mut().zip(numerator).zip(denominator) {
            *d += step * n / q;
        }
    }
}

/// See [`super::sum_squares`]; `t` is contiguous f32 or f64 on the CPU.
pub(super) fn sum_squares(t: &Tensor) -> Result<f64> {
    fn sum<T: Element>(data: &[T]) -> f64 {
        const LANES: usize = 16;
        let partial = |chunk: &[T]| {
            vectorised(
                #[inline(always)]
                || {
                    let mut lanes = [0f64; LANES];
                    let (blocks, rest) = chunk.as_chunks::<LANES>();
                    for block in blocks {
                        for (lane, x) in lanes.iter_mut().zip(block) {
                            let x = x.to_f64();
                            *lane += x * x;
                        }
                    }
                    let rest: f64 = rest.iter().map(|x| x.to_f64() * x.to_f64()).sum();
                    lanes.iter().sum::<f64>() + rest
                },
            )
        };
        // collected before they are added: rayon's own sum depends on how it split the work
        data.par_chunks(CHUNK).map(partial).collect::<Vec<f64>>().into_iter().sum()
    }
    match t.dtype() {
        DType::F64 => read::<f64, _>("sum_squares", t, sum),
        _ => read::<f32, _>("sum_squares", t, sum),
    }
}

/// See [`super::all_finite`]; `t` is contiguous f32 or f64 on the CPU.
pub(super) fn all_finite(t: &Tensor) -> Result<bool> {
    fn all<T: Element>(data: &[T]) -> bool {
        data.par_chunks(CHUNK).all(|chunk| {
            vectorised(
                #[inline(always)]
                || chunk.iter().fold(true, |finite, x| finite & x.finite()),
            )
        })
    }
    match t.dtype() {
        DType::F64 => read::<f64, _>("all_finite", t, all),
        _ => read::<f32, _>("all_finite", t, all),
    }
}

fn read<T: Element, R>(op: &'static str, t: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(contiguous(op, storage, layout)?)),
        _ => Err(Error::shape(op, "a tensor on the CPU", t.device().location())),
    }
}
