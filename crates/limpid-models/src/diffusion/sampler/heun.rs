//! Heun's method on the probability flow in `x/clean` over `noise/clean`.

use super::Walk;
use crate::diffusion::Transition;
use crate::diffusion::combine::combine;
use candle_core::Tensor;
use limpid_engine::Result;

impl Walk<'_> {
    pub(super) fn heun(&mut self, mut x: Tensor) -> Result<Tensor> {
        let steps = self.steps();
        for (i, at) in steps.iter().enumerate() {
            let clean = self.clean(at, &x)?;
            let step = Transition::between(&at.level, &at.next, 0.0);
            let euler = combine(&[(&clean, &[step.clean]), (&x, &[step.state])])?;
            let mean = match steps.get(i + 1) {
                Some(next) => {
                    let there = self.guide.state(at, self.guide.mean(at, euler)?)?;
                    let end = self.clean(next, &there)?;
                    // half of Euler's way and half of the way that the slope at its end goes
                    let back = (at.level.noise * at.next.clean) / (at.next.noise * at.level.clean);
                    combine(&[
                        (&x, &[0.5 * at.next.clean / at.level.clean]),
                        (&there, &[1.0 - 0.5 * back]),
                        (&end, &[-0.5 * at.next.clean * (1.0 - back)]),
                    ])?
                }
                None => euler,
            };
            x = self.next(at, &clean, mean, 0.0)?;
        }
        Ok(x)
    }
}
