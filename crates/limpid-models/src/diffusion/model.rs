//! Training: a network learns to answer at every level.

use super::sampling::{Degraded, Restorer, SamplingConfig, reference, signed};
use super::{LayerNoise, Level, NoiseField, ProcessConfig, Recorded, Row};
use crate::scores::{Measure, Scorer};
use candle_core::{DType, Device, Tensor};
use limpid_arch::NoisePredictor;
use limpid_arch::guided_unet::{self, GuidedUnet};
use limpid_config::{Check, Validate};
use limpid_engine::{Batch, Error, Logs, Model, OptimizerSpec, Picture, Result, Score, Stepper};
use limpid_kernels::rng::Stream;
use limpid_losses::losses::l2;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Init, Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is optimised, and how validation draws.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// The path from a clean image to noise, and the question to the network.
    pub process: ProcessConfig,
    /// Initial weights.
    pub init: InitConfig,
    /// How validation draws restorations.
    pub validation: SamplingConfig,
}

/// Initial weights of a diffusion network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitConfig {
    /// As the network is built: the last layer of every block is zero, so that blocks begin as
    /// identities.
    #[default]
    Own,
    /// As EMDiffuse's training script, which draws every convolution and linear map anew (Kaiming
    /// normal), those that should be zero too.
    Reference,
}

impl Validate for DiffusionConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("process", &self.process);
        at.nested("validation", &self.validation);
    }
}

/// The randomness of a training step.
#[derive(Clone, Debug)]
pub struct Draws {
    /// A level for each sample.
    pub levels: Vec<Level>,
    /// Unit normal noise, `[N, 1, H, W]`.
    pub noise: Tensor,
    /// Which layer of each sample is learnt, for networks that draw layers between slices.
    pub layers: Option<Vec<usize>>,
    /// 1 where the target is to be restored and 0 where it is known, `[N, 1, H, W]`; all of it is
    /// to be restored without.
    pub mask: Option<Tensor>,
}

impl Draws {
    /// Random numbers of a training step on this target; a layer is drawn among its channels if
    /// `layer_index`.
    pub(super) fn new(
        target: &Tensor,
        levels: Vec<Level>,
        layer_index: bool,
        stream: Stream,
    ) -> Result<Self> {
        let (n, layers, height, width) = target.dims4()?;
        let mut noise = vec![0f32; n * height * width];
        stream.named("noise").fill_normal(&mut noise);
        let mut which = stream.named("layers").draws();
        let mut which = || (0..n).map(|_| which.below(layers as u64) as usize).collect();
        Ok(Self {
            levels,
            noise: Tensor::from_vec(noise, (n, 1, height, width), target.device())?,
            layers: layer_index.then(&mut which),
            mask: None,
        })
    }
}

/// What a network is asked in a training step.
pub(super) struct Question {
    /// What it sees beside the state, `[N, Cc, H, W]` in -1…1.
    pub(super) condition: Tensor,
    /// What the target became, `[N, 1, H, W]`.
    pub(super) state: Tensor,
    /// What the network is told of each level, `[N]`.
    pub(super) level: Tensor,
    /// Numbers of the layers, `[N]`.
    pub(super) layers: Option<Tensor>,
    /// The right answer.
    pub(super) answer: Tensor,
    /// The state as the network sees it.
    seen: Tensor,
    /// Square roots of the weights of the samples, `[N, 1, 1, 1]`, unless all are 1.
    roots: Option<Tensor>,
    /// As that of [`Draws`].
    mask: Option<Tensor>,
}

impl Question {
    /// # Shapes
    /// `input [N, Cc, H, W]`, `target [N, 1 or layers, H, W]`, both in 0…1.
    pub(super) fn new(process: &ProcessConfig, batch: &Batch, draws: &Draws) -> Result<Self> {
        let (input, target) = (batch.get("input")?, batch.get("target")?);
        let (layers, at) = (draws.layers.as_deref(), draws.levels.as_slice());
        let clean = signed(&learnt(target, layers)?)?;
        let between = layers.map(|layers| fractions(layers, target.dims()[1]));
        let source = signed(&reference(input, &between.unwrap_or_default())?)?;
        let state = process.corrupt(&clean, &source, &draws.noise, at)?;
        let known = match &draws.mask {
            Some(mask) => {
                let restored = state.broadcast_mul(mask)?;
                limpid_kernels::add(&restored, &clean.broadcast_mul(&mask.affine(-1.0, 1.0)?)?)?
            }
            None => state.clone(),
        };
        let roots: Vec<f64> = process.weights(at).iter().map(|w| w.sqrt()).collect();
        let weighted = roots.iter().any(|root| *root != 1.0);
        let roots = weighted.then(|| {
            let roots = Tensor::from_slice(&roots, (roots.len(), 1, 1, 1), input.device())?;
            roots.to_dtype(input.dtype())
        });
        Ok(Self {
            condition: signed(input)?,
            level: Level::inputs(at, input.device())?,
            layers: layers.map(|layers| numbers(layers, input.device())).transpose()?,
            answer: process.target(&clean, &state, &draws.noise, at)?,
            seen: process.input(&known, at)?,
            state,
            roots: roots.transpose()?,
            mask: draws.mask.clone(),
        })
    }

    /// As tensors of a batch.
    pub(super) fn into_tensors(self) -> BTreeMap<String, Tensor> {
        let Self { condition, state, level, layers, answer, seen, roots, mask } = self;
        let always = [
            ("condition", condition),
            ("state", state),
            ("level", level),
            ("answer", answer),
            ("seen", seen),
        ];
        let sometimes = [("layers", layers), ("roots", roots), ("mask", mask)];
        let sometimes = sometimes.into_iter().filter_map(|(name, t)| Some((name, t?)));
        always.into_iter().chain(sometimes).map(|(name, t)| (name.to_owned(), t)).collect()
    }

    /// That of a batch made of [`Question::into_tensors`].
    pub(super) fn of(batch: &Batch) -> Result<Self> {
        let always = |name| batch.get(name).cloned();
        let sometimes = |name| batch.tensors.get(name).cloned();
        Ok(Self {
            condition: always("condition")?,
            state: always("state")?,
            level: always("level")?,
            answer: always("answer")?,
            seen: always("seen")?,
            layers: sometimes("layers"),
            roots: sometimes("roots"),
            mask: sometimes("mask"),
        })
    }

    /// What a network answers.
    pub(super) fn put(&self, net: &GuidedUnet, ctx: &Ctx) -> Result<Tensor> {
        let layers = self.layers.as_ref();
        Ok(net.predict(&self.seen, &self.condition, &self.level, layers, ctx)?.output)
    }

    /// The weighted mean square of the difference of an answer from the right one.
    fn loss(&self, answer: &Tensor) -> Result<Tensor> {
        let counted = |answer: &Tensor| -> Result<Tensor> {
            let mut answer = answer.clone();
            for factor in [&self.roots, &self.mask].into_iter().flatten() {
                answer = answer.broadcast_mul(factor)?;
            }
            Ok(answer)
        };
        Ok(l2(&counted(answer)?, &counted(&self.answer)?)?)
    }
}

/// A loss and what it was computed from.
#[derive(Clone, Debug)]
pub struct DiffusionLoss {
    /// Weighted mean square.
    pub value: Tensor,
    /// What the target became, `[N, 1, H, W]`, before known pixels are put back.
    pub state: Tensor,
    /// What it answered.
    pub answer: Tensor,
}

/// A network that restores by drawing, under training.
pub struct Diffusion {
    net: GuidedUnet,
    params: Params,
    config: DiffusionConfig,
    network: guided_unet::Config,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    scorer: Scorer,
}

impl Diffusion {
    /// Builds the network with initial weights drawn from the seed.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn new(
        config: &DiffusionConfig,
        network: &guided_unet::Config,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        measure: Measure,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::new();
        let stream = Stream::new(seed, "init");
        let net = network.build(&params.scope(stream, DType::F32, device))?;
        if config.init == InitConfig::Reference {
            redraw(&params, stream.named("reference"), device)?;
        }
        Ok(Self {
            net,
            params,
            config: config.clone(),
            network: network.clone(),
            optimizer,
            schedule,
            scorer: Scorer { measure, drawn: true },
        })
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &GuidedUnet {
        &self.net
    }

    /// The loss of a batch for given randomness: the network is asked of a corrupted target. Pixels
    /// that the mask says are known are shown and do not count, though the mean is over all.
    ///
    /// # Shapes
    /// `input [N, Cc, H, W]`, `target [N, 1 or layers, H, W]`, both in 0…1.
    ///
    /// # Errors
    /// If shapes do not fit, or `draws` has no layers and the network needs them, or the reverse.
    pub fn loss(&self, batch: &Batch, draws: &Draws, ctx: &Ctx) -> Result<DiffusionLoss> {
        let question = Question::new(&self.config.process, batch, draws)?;
        let answer = question.put(&self.net, ctx)?;
        let value = question.loss(&answer)?;
        Ok(DiffusionLoss { value, state: question.state, answer })
    }

    /// Random numbers of a training step.
    fn draws(&self, batch: &Batch, stream: Stream) -> Result<Draws> {
        let target = batch.get("target")?;
        let levels = self.config.process.draw(target.dims()[0], stream.named("levels"));
        Draws::new(target, levels, self.network.layer_index, stream)
    }

    /// One restoration of each image; of a network that draws layers, all `layers` of them as channels.
    fn restored(&self, input: &Tensor, layers: usize, ctx: &Ctx) -> Result<Tensor> {
        if !self.network.layer_index {
            let reference = reference(input, &[])?;
            return self
                .draw(Degraded { condition: input, reference: &reference, layers: None }, ctx);
        }
        let layer = |c: usize| {
            let number = numbers(&[c], input.device())?;
            let reference = reference(input, &fractions(&vec![c; input.dims()[0]], layers))?;
            let image = Degraded { condition: input, reference: &reference, layers: Some(&number) };
            self.draw(image, ctx)
        };
        let drawn = (0..layers).map(layer).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&drawn, 1)?)
    }

    /// One restoration of every row.
    fn draw(&self, image: Degraded, ctx: &Ctx) -> Result<Tensor> {
        let (n, _, height, width) = image.condition.dims4()?;
        let net = Recorded::new(&self.net);
        let restorer = Restorer {
            net: &net,
            process: &self.config.process,
            sampling: &self.config.validation,
        };
        // the same noise for every image and epoch: scores differ by the weights alone
        let rows = vec![Row { sample: 0, slice: 0, layer: None }; n];
        let field = NoiseField::new(0);
        let mut noise = |step| {
            let independent = LayerNoise::Independent {};
            let noise = field.fill(&rows, step, [0, 0], [height, width], &independent)?;
            Ok(noise.to_device(image.condition.device())?)
        };
        restorer.draw(image, &mut noise, ctx)
    }
}

/// How far the layers are on the way to the next slice, of `count` in between.
fn fractions(layers: &[usize], count: usize) -> Vec<f64> {
    layers.iter().map(|&c| (c + 1) as f64 / (count + 1) as f64).collect()
}

/// The layer of each sample that is learnt, or the target itself.
fn learnt(target: &Tensor, layers: Option<&[usize]>) -> Result<Tensor> {
    let Some(layers) = layers else { return Ok(target.clone()) };
    let rows = layers
        .iter()
        .enumerate()
        .map(|(i, &layer)| target.narrow(0, i, 1)?.narrow(1, layer, 1))
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&rows, 0)?)
}

fn numbers(layers: &[usize], device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = layers.iter().map(|&layer| layer as f32).collect();
    Ok(Tensor::from_vec(values, layers.len(), device)?)
}

/// Kaiming normal weights and no offsets for all convolutions and linear maps.
pub(super) fn redraw(params: &Params, stream: Stream, device: &Device) -> Result<()> {
    for param in params.all() {
        let name = param.name();
        let of_weight = name.strip_suffix(".bias").and_then(|n| params.get(&format!("{n}.weight")));
        let init = match of_weight {
            Some(weight) if weight.shape().len() > 1 => Init::Zeros,
            None if param.shape().len() > 1 => Init::KaimingNormal { a: 0.0 },
            _ => continue,
        };
        param.set(&init.tensor(param.shape(), stream.named(name), DType::F32, device)?)?;
    }
    Ok(())
}

impl Model for Diffusion {
    fn prepare(&self, batch: Batch, ctx: &Ctx) -> Result<Batch> {
        let draws = self.draws(&batch, ctx.next_stream())?;
        let question = Question::new(&self.config.process, &batch, &draws)?;
        Ok(Batch { tensors: question.into_tensors(), ids: batch.ids })
    }

    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()> {
        let question = Question::of(batch)?;
        let loss = question.loss(&question.put(&self.net, step.ctx())?)?;
        step.log("loss", &loss);
        step.minimise("net", &loss)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>> {
        let input = batch.get("input")?;
        let truth = self.scorer.truth(batch)?.ok_or_else(|| Error::Setting {
            message: "validation of a diffusion model needs the truth".into(),
            hint: "give pairs, or simulate the degradation".into(),
        })?;
        let y = self.restored(input, truth.dims()[1], ctx)?;
        (0..batch.len())
            .map(|i| self.scorer.scores(&input.get(i)?, &y.get(i)?, &truth.get(i)?))
            .collect()
    }

    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        if self.network.layer_index {
            let message = "layers between slices are predicted by their number, see `Restorer`";
            return Err(limpid_kernels::Error::argument("diffusion", message).into());
        }
        self.restored(input, 1, ctx)
    }

    fn scores(&self) -> Vec<Score> {
        self.scorer.list()
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
        let layers = batch.get("target").map_or(1, |target| target.dims()[1]);
        self.scorer.pictures(batch, &|input| self.restored(input, layers, ctx))
    }
}

#[cfg(test)]
mod tests;
