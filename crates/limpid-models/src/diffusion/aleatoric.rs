//! Uncertainty in one pass: a second head that learns how far off the answers of a trained network are.
//!
//! As EMDiffuse's aleatoric networks did before they left its repository (commit 1f252a7,
//! `models/EMDiffuse_network_aleatoric.py`; the likelihood is that of Kendall & Gal 2017,
//! arXiv:1703.04977). At five levels a frozen copy of the trained network answers as in training; the
//! head sees the condition in the place of the state, so that nothing has to be drawn to ask it.
//!
//! The likelihood counts the head's output twice, so it is the logarithm of the *deviation*:
//! `loss = ½·mean(e^(-2v)·(answer - right answer)² + 2v)`. The reference shows `√(e^v)` for a deviation,
//! which is the root of it; [`Aleatoric::deviation`] is `e^v`.

use super::model::Question;
use super::sampling::signed;
use super::{Draws, Level, ProcessConfig};
use candle_core::{DType, Device, Tensor};
use limpid_arch::NoisePredictor;
use limpid_arch::guided_unet::{self, GuidedUnet};
use limpid_config::{Check, Validate};
use limpid_engine::{Batch, Error, Logs, Model, OptimizerSpec, Result, Score, Stepper};
use limpid_kernels::rng::Stream;
use limpid_losses::losses::gaussian_nll_logvar;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the names of the head's parameters begin with.
const HEAD: &str = "out_variance.";

/// How the head is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AleatoricConfig {
    /// The process that the network was trained in. Its weighting does not count here.
    pub process: ProcessConfig,
    /// Levels that are learnt, as divisors: 4 is a quarter of the way from the image to noise, in
    /// steps of the schedule where there is one.
    pub times: Vec<usize>,
    /// Only the head learns. Otherwise the whole network does, and the answers of its first head
    /// are lost.
    pub freeze_trunk: bool,
}

impl Default for AleatoricConfig {
    /// The reference's levels.
    fn default() -> Self {
        Self { process: ProcessConfig::default(), times: vec![2, 4, 8, 16, 32], freeze_trunk: true }
    }
}

impl Validate for AleatoricConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("process", &self.process);
        if self.times.is_empty() {
            at.problem("times", "must name at least one level");
        }
        for (i, time) in self.times.iter().enumerate().filter(|(_, time)| **time < 2) {
            at.problem(format!("times.{i}"), format!("must be at least 2, got {time}"));
        }
    }
}

/// A loss and what it was computed from.
#[derive(Clone, Debug)]
pub struct AleatoricLoss {
    /// Mean negative logarithm of the likelihood.
    pub value: Tensor,
    /// What the trained network answered, `[N, 1, H, W]`.
    pub answer: Tensor,
    /// What the head said of it, `[N, 1, H, W]`.
    pub variance: Tensor,
}

/// A network whose variance head is under training.
pub struct Aleatoric {
    net: GuidedUnet,
    params: Params,
    /// The trained network as it was.
    trained: GuidedUnet,
    config: AleatoricConfig,
    network: guided_unet::Config,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
}

impl Aleatoric {
    /// Builds the network from weights of a trained one, which may lack the variance head: then it is
    /// drawn from the seed. The weights are not part of checkpoints: give them again to resume.
    ///
    /// # Errors
    /// [`Error::Setting`] if the network has no variance head, or the weights are not its own.
    pub fn new(
        config: &AleatoricConfig,
        network: &guided_unet::Config,
        weights: &BTreeMap<String, Tensor>,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        if !network.variance {
            return Err(Error::Setting {
                message: "the network has no head to learn the variance with".into(),
                hint: "set `variance = true` in its configuration".into(),
            });
        }
        let build = |network: &guided_unet::Config, weights: &BTreeMap<String, Tensor>| {
            let params = Params::new();
            let scope = params.scope(Stream::new(seed, "init"), DType::F32, device);
            let net = network.build(&scope)?;
            let mut wanted = params.shapes();
            wanted.retain(|name, _| !name.starts_with(HEAD) || weights.contains_key(name));
            let report = limpid_nn::compare(&wanted, weights);
            if !report.is_match() {
                return Err(Error::Setting {
                    message: format!("the weights are not those of the network: {report}"),
                    hint: "give the weights of the model whose answers are to be judged, and its network".into(),
                });
            }
            params.set(weights)?;
            Ok((params, net))
        };
        let (params, net) = build(network, weights)?;
        let mut weights = weights.clone();
        weights.retain(|name, _| !name.starts_with(HEAD));
        let plain = guided_unet::Config { variance: false, ..network.clone() };
        let (frozen, trained) = build(&plain, &weights)?;
        frozen.freeze(true);
        if config.freeze_trunk {
            params.freeze(true);
            params.subset(HEAD).freeze(false);
        }
        Ok(Self {
            net,
            params,
            trained,
            config: config.clone(),
            network: network.clone(),
            optimizer,
            schedule,
        })
    }

    /// The loss of a batch for given randomness. A mask does not count.
    ///
    /// # Shapes
    /// `input [N, Cc, H, W]`, `target [N, 1 or layers, H, W]`, both in 0…1.
    ///
    /// # Errors
    /// As [`super::Diffusion::loss`].
    pub fn loss(&self, batch: &Batch, draws: &Draws, ctx: &Ctx) -> Result<AleatoricLoss> {
        let question = Question::new(&self.config.process, batch, draws)?;
        let answer = question.put(&self.trained, &Ctx::eval())?;
        let Question { condition, level, layers, .. } = &question;
        let variance = self.head(condition, level, layers.as_ref(), ctx)?;
        let twice = limpid_kernels::scale(&variance, 2.0)?;
        let value = gaussian_nll_logvar(&answer, &question.answer, &twice)?;
        Ok(AleatoricLoss { value, answer, variance })
    }

    /// What the head says at a level: the logarithm of the deviation of the network's answer there.
    ///
    /// # Shapes
    /// `condition [N, Cc, H, W]` in 0…1; one level, or N; `layers` with N elements, for networks that
    /// draw layers between slices → `[N, 1, H, W]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn variance_at(
        &self,
        condition: &Tensor,
        at: &[Level],
        layers: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        let level = Level::inputs(at, condition.device())?;
        self.head(&signed(condition)?, &level, layers, ctx)
    }

    /// The mean of [`Aleatoric::variance_at`] over the levels that were learnt.
    ///
    /// # Errors
    /// As there.
    pub fn variance(
        &self,
        condition: &Tensor,
        layers: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        let each = self.levels().map(|level| self.variance_at(condition, &[level], layers, ctx));
        Ok(Tensor::stack(&each.collect::<Result<Vec<_>>>()?, 0)?.mean(0)?)
    }

    /// The image of deviations, in units of the network's answer: of unit noise, for networks that
    /// answer noise.
    ///
    /// # Errors
    /// As [`Aleatoric::variance_at`].
    pub fn deviation(
        &self,
        condition: &Tensor,
        layers: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        Ok(self.variance(condition, layers, ctx)?.exp()?)
    }

    /// The head's output for a condition in -1…1, the mean of whose channels takes the place of the
    /// state.
    fn head(
        &self,
        condition: &Tensor,
        level: &Tensor,
        layers: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        let state = condition.mean_keepdim(1)?;
        let said = self.net.predict(&state, condition, level, layers, ctx)?.variance;
        said.ok_or_else(|| Error::Setting {
            message: "the network says no variance".into(),
            hint: "set `variance = true` in its configuration".into(),
        })
    }

    /// The levels that are learnt; of a schedule, those in the middle between two steps.
    fn levels(&self) -> impl Iterator<Item = Level> {
        self.config.times.iter().map(|time| self.config.process.part(*time, 0.5))
    }
}

impl Model for Aleatoric {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<Logs> {
        let (stream, target) = (step.ctx().next_stream(), batch.get("target")?);
        let AleatoricConfig { process, times, .. } = &self.config;
        let mut which = stream.named("levels").draws();
        let mut level = || {
            let time = times[which.below(times.len() as u64) as usize];
            process.part(time, which.uniform() as f32)
        };
        let levels = (0..target.dims()[0]).map(|_| level()).collect();
        let draws = Draws::new(target, levels, self.network.layer_index, stream)?;
        let loss = self.loss(batch, &draws, step.ctx())?.value;
        step.minimise("net", &loss)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(Logs::from([("loss".to_owned(), value)]))
    }

    /// The loss of each sample over all levels, with the same noise in every epoch.
    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>> {
        let levels: Vec<Level> = self.levels().collect();
        (0..batch.len())
            .map(|i| {
                let mut one = batch.sample(i)?;
                for tensor in one.tensors.values_mut() {
                    *tensor = Tensor::cat(&vec![&*tensor; levels.len()], 0)?;
                }
                let (target, stream) = (one.get("target")?, Stream::new(0, "validation"));
                let draws = Draws::new(target, levels.clone(), self.network.layer_index, stream)?;
                let loss = self.loss(&one, &draws, ctx)?.value.to_dtype(DType::F64)?;
                Ok(Logs::from([("loss".to_owned(), loss.to_scalar::<f64>()?)]))
            })
            .collect()
    }

    /// [`Aleatoric::deviation`].
    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.deviation(input, None, ctx)
    }

    fn scores(&self) -> Vec<Score> {
        vec![Score { name: "loss".into(), higher_is_better: false }]
    }

    fn optimizers(&self) -> Vec<OptimizerSpec> {
        let head = self.config.freeze_trunk;
        vec![OptimizerSpec {
            name: "net".to_owned(),
            params: if head { self.params.subset(HEAD) } else { self.params.clone() },
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
        }]
    }

    fn params(&self) -> &Params {
        &self.params
    }
}
