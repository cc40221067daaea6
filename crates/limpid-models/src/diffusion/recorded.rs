//! A network that a GPU is asked without asking for every kernel.

use candle_core::Tensor;
use limpid_arch::NoisePredictor;
use limpid_arch::guided_unet::Prediction;
use limpid_kernels::recording::is_recordable;
use limpid_nn::{Ctx, Replay, Result};
use std::sync::{Mutex, PoisonError};

/// A network whose pass a GPU repeats by itself from the second question of the same shapes on. Weights may not be
/// replaced meanwhile, but may change. On the CPU it is the network.
pub struct Recorded<N> {
    net: N,
    pass: Mutex<Replay<Prediction>>,
}

impl<N: NoisePredictor> Recorded<N> {
    /// Of a network.
    #[must_use]
    pub fn new(net: N) -> Self {
        Self { net, pass: Mutex::new(Replay::new()) }
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &N {
        &self.net
    }

    /// Why the last passes were not recorded, if that was tried.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        pass.refusal().map(str::to_owned)
    }
}

impl<N: NoisePredictor> NoisePredictor for Recorded<N> {
    fn predict(
        &self,
        x: &Tensor,
        condition: &Tensor,
        level: &Tensor,
        layer: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Prediction> {
        if !is_recordable(x.device()) {
            return self.net.predict(x, condition, level, layer, ctx);
        }
        let inputs: Vec<&Tensor> = [x, condition, level].into_iter().chain(layer).collect();
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let prediction = pass.run(&inputs, ctx, |inputs, ctx| {
            self.net.predict(&inputs[0], &inputs[1], &inputs[2], inputs.get(3), ctx)
        })?;
        // samplers remember what was said before
        let copy = |t: &Tensor| t.detach().copy();
        let variance = prediction.variance.as_ref().map(copy).transpose()?;
        Ok(Prediction { output: copy(&prediction.output)?, variance })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Exact;
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_recorded_network_says_what_the_network_says() {
        let recorded = Recorded::new(Exact { variance: 0.1 });
        let level = Tensor::full(0.5f32, 1, &Device::Cpu).unwrap();
        for i in 0..4 {
            let x = Tensor::full(i as f32, (1, 1, 4, 4), &Device::Cpu).unwrap();
            let said = recorded.predict(&x, &x, &level, None, &Ctx::eval()).unwrap().output;
            let plain = recorded.net().predict(&x, &x, &level, None, &Ctx::eval()).unwrap().output;
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&said), values(&plain));
        }
    }
}
