//! A network that maps an image to a better one, trained on pairs or on noisy images alone.
//!
//! Supervised; Noise2Noise (Lehtinen et al. 2018, arXiv:1803.04189): the target is another noisy
//! image of the same object; Noise2Void (Krull et al. 2019, arXiv:1811.10980): the target is the
//! noisy image itself at pixels that were masked in the input.

use crate::scores::{Measure, Scorer};
use candle_core::{DType, Device, Tensor};
use limpid_arch::{ImageArchitecture, Network, NetworkConfig};
use limpid_config::{Check, Validate};
use limpid_engine::{Batch, Logs, Model, OptimizerSpec, Picture, Result, Score, Stepper};
use limpid_kernels::Pad;
use limpid_kernels::rng::Stream;
use limpid_losses::losses::{LossConfig, Objective, masked_l2};
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the target is, and how a prediction is compared with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelConfig {
    /// Degraded images with their references.
    Supervised {
        /// Terms of the loss, in normalised intensities.
        #[serde(default = "l1")]
        losses: Vec<LossConfig>,
    },
    /// Pairs of noisy images of the same object, with independent noise of zero mean.
    Noise2noise {
        /// Terms of the loss, in normalised intensities; the squared error makes the mean of the
        /// noisy targets the optimum.
        #[serde(default = "l2")]
        losses: Vec<LossConfig>,
    },
    /// Single noisy images whose noise is independent from pixel to pixel; squared error at the
    /// masked pixels.
    Noise2void {},
}

fn l1() -> Vec<LossConfig> {
    vec![LossConfig::L1 { weight: 1.0 }]
}

fn l2() -> Vec<LossConfig> {
    vec![LossConfig::L2 { weight: 1.0 }]
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Supervised { losses: l1() }
    }
}

impl Validate for ModelConfig {
    fn validate(&self, at: &mut Check) {
        if let Self::Supervised { losses } | Self::Noise2noise { losses } = self
            && let Err(e) = Objective::new(losses)
        {
            at.problem("losses", format!("cannot be used: {e}"));
        }
    }
}

/// A network under training, or ready to predict.
pub struct Restoration {
    net: Box<dyn Network>,
    params: Params,
    divisor: Vec<usize>,
    /// None: masked squared error.
    objective: Option<Objective>,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    scorer: Scorer,
}

impl Restoration {
    /// Builds the network with initial weights drawn from the seed.
    ///
    /// # Errors
    /// If the network cannot be built or a loss has a parameter out of range.
    pub fn new(
        model: &ModelConfig,
        network: &NetworkConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        measure: Measure,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::new();
        let net = network.build(&params.scope(Stream::new(seed, "init"), DType::F32, device))?;
        let objective = match model {
            ModelConfig::Supervised { losses } | ModelConfig::Noise2noise { losses } => {
                Some(Objective::new(losses)?)
            }
            ModelConfig::Noise2void {} => None,
        };
        Ok(Self {
            net,
            params,
            divisor: network.divisor(),
            objective,
            optimizer,
            schedule,
            scorer: Scorer { measure, drawn: false },
        })
    }

    /// Loss of a prediction and the values of its terms.
    fn loss(&self, batch: &Batch, y: &Tensor) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let target = batch.get("target")?;
        Ok(match &self.objective {
            Some(objective) => objective.evaluate(y, target)?,
            None => (masked_l2(y, target, batch.get("mask")?)?, Vec::new()),
        })
    }
}

impl Model for Restoration {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()> {
        let y = self.net.forward(batch.get("input")?, step.ctx())?;
        let (loss, terms) = self.loss(batch, &y)?;
        step.log("loss", &loss);
        if terms.len() > 1 {
            for (name, value) in terms {
                step.log(&format!("loss/{name}"), &value);
            }
        }
        step.minimise("net", &loss)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>> {
        let input = batch.get("input")?;
        let y = self.predict(input, ctx)?;
        let truth = self.scorer.truth(batch)?;
        (0..batch.len())
            .map(|i| {
                let Some(truth) = truth else {
                    let one = batch.sample(i)?;
                    let loss = scalar(&self.loss(&one, &y.narrow(0, i, 1)?)?.0)?;
                    return Ok(Logs::from([("loss".to_owned(), loss)]));
                };
                self.scorer.scores(&input.get(i)?, &y.get(i)?, &truth.get(i)?)
            })
            .collect()
    }

    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        padded(input, &self.divisor, |input| Ok(self.net.forward(input, ctx)?))
    }

    fn scores(&self) -> Vec<Score> {
        if self.scorer.measure.truth {
            self.scorer.list()
        } else {
            vec![Score { name: "loss".into(), higher_is_better: false }]
        }
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

    fn pictures(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Picture>> {
        self.scorer.pictures(batch, &|input| self.predict(input, ctx))
    }
}

/// What a network makes of an image of any size, whose axes it wants as multiples of `divisor`: they are
/// continued by their last pixels, and cut again.
pub(crate) fn padded(
    input: &Tensor,
    divisor: &[usize],
    forward: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let size = &input.dims()[2..];
    let pads: Vec<(usize, usize)> =
        size.iter().zip(divisor).map(|(n, d)| (0, n.next_multiple_of(*d) - n)).collect();
    if pads.iter().all(|p| p.1 == 0) {
        return forward(input);
    }
    let mut y = forward(&limpid_kernels::pad(input, &pads, Pad::Replicate)?)?;
    for (axis, (n, pad)) in size.iter().zip(&pads).enumerate() {
        if pad.1 > 0 {
            y = y.narrow(axis + 2, 0, *n)?;
        }
    }
    Ok(y.contiguous()?)
}

pub(crate) fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
