//! How a network of kernels is optimised.

use super::Loss;
use candle_core::{DType, Device, Tensor};
use limpid_arch::grog_mlp::{self, GrogMlp};
use limpid_engine::{Batch, Logs, Model, OptimizerSpec, Result, Score, Stepper};
use limpid_kernels::rng::Stream;
use limpid_losses::losses::{complex_l1, complex_l1_parts, complex_l2};
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};

/// A network of kernels under training.
pub struct KernelModel {
    net: GrogMlp,
    params: Params,
    loss: Loss,
    l2: f64,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
}

impl KernelModel {
    /// A network on a device, with initial weights drawn from the seed.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn new(
        network: &grog_mlp::Config,
        (loss, l2): (Loss, f64),
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        (seed, device): (u64, &Device),
    ) -> Result<Self> {
        let params = Params::new();
        let scope = params.scope(Stream::new(seed, "init"), DType::F32, device);
        let net = network.build(&scope)?;
        Ok(Self { net, params, loss, l2, optimizer, schedule })
    }

    fn compare(&self, pred: &Tensor, target: &Tensor) -> Result<Tensor> {
        Ok(match self.loss {
            Loss::Modulus => complex_l1(pred, target),
            Loss::Parts => complex_l1_parts(pred, target),
            Loss::Squared => complex_l2(pred, target),
        }?)
    }
}

impl Model for KernelModel {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()> {
        let (features, sources) = (batch.get("dk")?, batch.get("source_ksp")?);
        let target = batch.get("target_ksp")?;
        let loss = if self.l2 > 0.0 {
            let kernel = self.net.kernel(features)?;
            let error = self.compare(&self.net.apply(&kernel, sources)?, target)?;
            step.log("error", &error);
            (error + (kernel.sqr()?.mean_all()? * (2.0 * self.l2))?)?
        } else {
            self.compare(&self.net.forward(features, sources)?, target)?
        };
        step.log("loss", &loss);
        step.minimise("net", &loss)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    /// For every pair the error relative to the root mean square of all targets of the batch, whose mean
    /// square is comparable over losses.
    fn validation_step(&self, batch: &Batch, _: &Ctx) -> Result<Vec<Logs>> {
        let target = batch.get("target_ksp")?;
        let pred = self.net.forward(batch.get("dk")?, batch.get("source_ksp")?)?;
        let power = scalar(&target.sqr()?.mean_all()?)? * 2.0;
        let error = (pred - target)?.sqr()?.sum(2)?.mean(1)?.to_vec1::<f32>()?;
        let relative = |e: f32| (f64::from(e) / power.max(f64::MIN_POSITIVE)).sqrt();
        Ok(error.into_iter().map(|e| Logs::from([("error".to_owned(), relative(e))])).collect())
    }

    fn predict(&self, input: &Tensor, _: &Ctx) -> Result<Tensor> {
        Ok(self.net.kernel(input)?)
    }

    fn scores(&self) -> Vec<Score> {
        vec![Score { name: "error".to_owned(), higher_is_better: false }]
    }

    fn optimizers(&self) -> Vec<OptimizerSpec> {
        vec![OptimizerSpec {
            name: "net".to_owned(),
            params: self.params.clone(),
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
        }]
    }

    fn params(&self) -> &Params {
        &self.params
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
