//! A sequence of updates, which a GPU makes for many tensors at a time.

use super::adam::AdamStep;
use super::cpu::{
    AbsMax, Axpby, AxpbySquare, DivUpdate, InPlace, Lerp, Max, Scale, SqrtDivUpdate, Update,
};
use super::{Gate, adam, check};
use crate::Result;
use candle_core::Tensor;

/// Updates that give what they would one after the other.
///
/// On the CPU each is made at once. On a GPU they wait for [`Updates::run`], which makes the same
/// update of all tensors in one launch where they do not depend on each other: launches of their
/// own would take longer than the work. Until then the tensors are as they were, so nothing else
/// may be done with them.
///
/// The functions are those of this module with the same names, as are their errors.
#[derive(Default)]
pub struct Updates {
    /// Whether a gate on the CPU forbids them.
    shut: bool,
    #[cfg(feature = "cuda")]
    queue: super::cuda::Queue,
}

impl Updates {
    /// Updates that change nothing if the gate is shut.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn behind(gate: &Gate) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if gate.verdict.device().is_cuda() {
            let queue = super::cuda::Queue::behind(gate.verdict.clone());
            return Ok(Self { shut: false, queue });
        }
        let shut = gate.read()?.1;
        Ok(Self {
            shut,
            #[cfg(feature = "cuda")]
            queue: super::cuda::Queue::default(),
        })
    }

    /// Makes the updates that still wait.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if the GPU fails.
    pub fn run(self) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.queue.run()?;
        Ok(())
    }

    /// See [`super::scale_`].
    ///
    /// # Errors
    /// As there; so for all below.
    pub fn scale_(&mut self, dst: &Tensor, a: f64) -> Result<()> {
        check("scale_", dst, &[])?;
        let update = Scale { a };
        if self.is_settled("scale_", &update, &[dst])? {
            return Ok(());
        }
        Ok(dst.inplace_op1(&InPlace(update))?)
    }

    /// See [`super::axpy_`].
    ///
    /// # Errors
    /// As there.
    pub fn axpy_(&mut self, dst: &Tensor, src: &Tensor, a: f64) -> Result<()> {
        self.binary("axpy_", dst, src, Axpby { a: 1.0, b: a })
    }

    /// See [`super::axpby_`].
    ///
    /// # Errors
    /// As there.
    pub fn axpby_(&mut self, dst: &Tensor, a: f64, src: &Tensor, b: f64) -> Result<()> {
        self.binary("axpby_", dst, src, Axpby { a, b })
    }

    /// See [`super::axpby_sq_`].
    ///
    /// # Errors
    /// As there.
    pub fn axpby_sq_(&mut self, dst: &Tensor, a: f64, src: &Tensor, b: f64) -> Result<()> {
        self.binary("axpby_sq_", dst, src, AxpbySquare { a, b })
    }

    /// See [`super::ema_`].
    ///
    /// # Errors
    /// As there.
    pub fn ema_(&mut self, dst: &Tensor, src: &Tensor, decay: f64) -> Result<()> {
        self.binary("ema_", dst, src, Lerp { weight: 1.0 - decay })
    }

    /// See [`super::ema_sq_`].
    ///
    /// # Errors
    /// As there.
    pub fn ema_sq_(&mut self, dst: &Tensor, src: &Tensor, decay: f64) -> Result<()> {
        self.binary("ema_sq_", dst, src, AxpbySquare { a: decay, b: 1.0 - decay })
    }

    /// See [`super::max_`].
    ///
    /// # Errors
    /// As there.
    pub fn max_(&mut self, dst: &Tensor, src: &Tensor) -> Result<()> {
        self.binary("max_", dst, src, Max)
    }

    /// See [`super::max_abs_`].
    ///
    /// # Errors
    /// As there.
    pub fn max_abs_(&mut self, dst: &Tensor, decay: f64, src: &Tensor, eps: f64) -> Result<()> {
        self.binary("max_abs_", dst, src, AbsMax { decay, eps })
    }

    /// See [`super::adam_update_`].
    ///
    /// # Errors
    /// As there.
    pub fn adam_update_(
        &mut self,
        theta: &Tensor,
        m: &Tensor,
        v: &Tensor,
        lr: f64,
        bias2_sqrt: f64,
        eps: f64,
    ) -> Result<()> {
        self.ternary("adam_update_", theta, [m, v], SqrtDivUpdate { lr, bias2_sqrt, eps })
    }

    /// See [`super::div_update_`].
    ///
    /// # Errors
    /// As there.
    pub fn div_update_(
        &mut self,
        theta: &Tensor,
        numerator: &Tensor,
        denominator: &Tensor,
        lr: f64,
    ) -> Result<()> {
        self.ternary("div_update_", theta, [numerator, denominator], DivUpdate { lr })
    }

    /// See [`super::adam_`].
    ///
    /// # Errors
    /// As there.
    pub fn adam_(
        &mut self,
        theta: &Tensor,
        m: &Tensor,
        v: &Tensor,
        g: &Tensor,
        step: AdamStep,
    ) -> Result<()> {
        let g = adam::checked(theta, m, v, g)?;
        #[cfg(feature = "cuda")]
        if theta.device().is_cuda() {
            let AdamStep { betas: [beta1, beta2], lr, bias2_sqrt, eps } = step;
            return self.queue.push(super::cuda::Job {
                op: adam::NAME,
                kernel: "adam",
                numbers: [1.0 - beta1, beta2, 1.0 - beta2, lr, bias2_sqrt, eps],
                tensors: vec![theta.clone(), m.clone(), v.clone(), g],
                written: 3,
            });
        }
        if self.shut { Ok(()) } else { adam::on_cpu([theta, m, v], &g, step) }
    }

    fn binary(
        &mut self,
        op: &'static str,
        dst: &Tensor,
        src: &Tensor,
        update: impl Update<1>,
    ) -> Result<()> {
        check(op, dst, &[src])?;
        let src = src.contiguous()?;
        if self.is_settled(op, &update, &[dst, &src])? {
            return Ok(());
        }
        Ok(dst.inplace_op2(&src, &InPlace(update))?)
    }

    fn ternary(
        &mut self,
        op: &'static str,
        dst: &Tensor,
        [a, b]: [&Tensor; 2],
        update: impl Update<2>,
    ) -> Result<()> {
        check(op, dst, &[a, b])?;
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        if self.is_settled(op, &update, &[dst, &a, &b])? {
            return Ok(());
        }
        Ok(dst.inplace_op3(&a, &b, &InPlace(update))?)
    }

    /// Whether nothing is left to do for an update of the first tensor: it waits for [`Updates::run`], or is forbidden.
    #[cfg(feature = "cuda")]
    fn is_settled<const N: usize, U: Update<N>>(
        &mut self,
        op: &'static str,
        update: &U,
        tensors: &[&Tensor],
    ) -> Result<bool> {
        if !tensors[0].device().is_cuda() {
            return Ok(self.shut);
        }
        self.queue.push(super::cuda::Job {
            op,
            kernel: U::NAME.trim_end_matches('_'),
            numbers: update.numbers(),
            tensors: tensors.iter().map(|&t| t.clone()).collect(),
            written: 1,
        })?;
        Ok(true)
    }

    /// Whether nothing is left to do for an update: it is forbidden.
    #[cfg(not(feature = "cuda"))]
    fn is_settled<const N: usize, U: Update<N>>(
        &mut self,
        _op: &'static str,
        _update: &U,
        _tensors: &[&Tensor],
    ) -> Result<bool> {
        Ok(self.shut)
    }
}
