//! A network that is exactly right: clean images are normal about the condition.

use super::{Input, Level, ProcessConfig};
use candle_core::{DType, Tensor};
use limpid_arch::NoisePredictor;
use limpid_arch::guided_unet::Prediction;
use limpid_nn::{Ctx, Result};

/// Answers what [`ProcessConfig::default`] asks where every pixel of a clean image is
/// `N(mean of the condition's channels, variance)`, independent of the others.
pub(super) struct Exact {
    pub(super) variance: f64,
}

impl Exact {
    /// The expectation of the clean image given a state at a level, and the mean of its prior.
    pub(super) fn clean(&self, x: f64, mean: f64, at: &Level) -> f64 {
        let gain = at.clean * self.variance / (at.clean.powi(2) * self.variance + at.noise.powi(2));
        mean + gain * (x - at.clean * mean)
    }
}

impl NoisePredictor for Exact {
    fn predict(
        &self,
        x: &Tensor,
        condition: &Tensor,
        level: &Tensor,
        _layer: Option<&Tensor>,
        _ctx: &Ctx,
    ) -> Result<Prediction> {
        let mean = condition.mean_keepdim(1)?.broadcast_as(x.shape())?;
        let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        let (gammas, means) = (numbers(level)?, numbers(&mean)?);
        let each = x.elem_count() / x.dims()[0];
        let values = numbers(x)?.into_iter().zip(means).enumerate().map(|(i, (x, mean))| {
            let at = Level::of_gamma(gammas[(i / each).min(gammas.len() - 1)], Input::Gamma);
            (x - at.clean * self.clean(x, mean, &at)) / at.noise
        });
        let output = Tensor::from_iter(values, x.device())?.reshape(x.shape())?;
        Ok(Prediction { output: output.to_dtype(x.dtype())?, variance: None })
    }
}

#[test]
fn its_answers_give_the_expectation() {
    let exact = Exact { variance: 0.04 };
    let device = candle_core::Device::Cpu;
    let x = Tensor::new(&[[[[0.7f64, -0.2]]]], &device).unwrap();
    let condition = Tensor::new(&[[[[0.1f64, 0.2]], [[0.3, 0.2]]]], &device).unwrap();
    let at = Level::of_gamma(0.3, Input::Gamma);
    let level = Tensor::new(&[at.input], &device).unwrap();
    let answer = exact.predict(&x, &condition, &level, None, &Ctx::eval()).unwrap().output;
    let clean = ProcessConfig::default().clean(&answer, &x, &[at]).unwrap();
    let clean = clean.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (got, x) in clean.iter().zip([0.7, -0.2]) {
        assert!((got - exact.clean(x, 0.2, &at)).abs() < 1e-12);
    }
}
