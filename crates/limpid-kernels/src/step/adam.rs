//! Adam's step in one pass over parameter, gradient and both moments.

use super::check;
use super::cpu::{AxpbySquare, Lerp, SqrtDivUpdate, Update};
use crate::buffer::CHUNK;
use crate::element::{Element, contiguous};
use crate::op::address;
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Tensor};
use rayon::prelude::*;
use std::cell::RefCell;

pub(super) const NAME: &str = "adam_";

/// Elements that stay in the first-level cache for all three updates.
const PART: usize = 1024;

/// Numbers of one step of [`super::adam_`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Decay of the averages of the gradient and of its square.
    pub betas: [f64; 2],
    /// Learning rate, already divided by `1 - beta1^t`.
    pub lr: f64,
    /// `sqrt(1 - beta2^t)`.
    pub bias2_sqrt: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// Checks the tensors of a step; returns the gradient, contiguous.
///
/// # Errors
/// Those of [`super::adam_`].
pub(super) fn checked(theta: &Tensor, m: &Tensor, v: &Tensor, g: &Tensor) -> Result<Tensor> {
    check(NAME, theta, &[m, v, g])?;
    check(NAME, m, &[])?;
    check(NAME, v, &[])?;
    let g = g.contiguous()?;
    let places = [theta, m, v, &g].map(address);
    if (0..4).any(|i| places[..i].contains(&places[i])) {
        return Err(Error::shape(NAME, "four tensors with memory of their own", "shared memory"));
    }
    Ok(g)
}

/// Changes parameter and averages by a gradient; all are [`checked`].
///
/// # Errors
/// [`Error::Shape`] unless they lie on the CPU.
pub(super) fn on_cpu(changed: [&Tensor; 3], g: &Tensor, step: AdamStep) -> Result<()> {
    let (storage, layout) = g.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::shape(NAME, "tensors on the CPU", "one elsewhere"));
    };
    match g.dtype() {
        DType::F64 => run::<f64>(changed, contiguous(NAME, storage, layout)?, step),
        _ => run::<f32>(changed, contiguous(NAME, storage, layout)?, step),
    }
}

fn run<T: Element>([theta, m, v]: [&Tensor; 3], g: &[T], step: AdamStep) -> Result<()> {
    let lerp = Lerp { weight: 1.0 - step.betas[0] };
    let square = AxpbySquare { a: step.betas[1], b: 1.0 - step.betas[1] };
    let AdamStep { lr, bias2_sqrt, eps, .. } = step;
    let update = SqrtDivUpdate { lr, bias2_sqrt, eps };
    lend(theta, |theta: &mut [T]| {
        lend(m, |m: &mut [T]| {
            lend(v, |v: &mut [T]| {
                let chunks = theta.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK));
                chunks.zip(v.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK)).for_each(
                    |(((theta, m), v), g)| {
                        let parts = theta.chunks_mut(PART).zip(m.chunks_mut(PART));
                        for (((theta, m), v), g) in
                            parts.zip(v.chunks_mut(PART)).zip(g.chunks(PART))
                        {
                            vectorised(
                                #[inline(always)]
                                || {
                                    lerp.apply(m, [g]);
                                    square.apply(v, [g]);
                                    update.apply(theta, [&*m, &*v]);
                                },
                            );
                        }
                    },
                );
                Ok(())
            })
        })
    })
}

/// Lends `f` the elements of a contiguous tensor to change.
fn lend<T: Element>(t: &Tensor, f: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
    let lend = Lend { f: RefCell::new(Some(f)), element: std::marker::PhantomData };
    Ok(t.inplace_op1(&lend)?)
}

/// candle lends one storage at a time; nested, these lend several.
struct Lend<F, T> {
    f: RefCell<Option<F>>,
    element: std::marker::PhantomData<T>,
}

impl<T: Element, F: FnOnce(&mut [T]) -> Result<()>> InplaceOp1 for Lend<F, T> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some(f), Some((start, end)), Some(data)) =
            (self.f.take(), layout.contiguous_offsets(), T::slice_mut(storage))
        else {
            candle_core::bail!("{NAME}: expected contiguous f32 or f64")
        };
        f(&mut data[start..end]).map_err(candle_core::Error::wrap)
    }
}
