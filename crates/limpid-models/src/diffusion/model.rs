//! Training: a network learns to answer at every level.

use super::combine::combine;
use super::sampling::{Degraded, Restorer, SamplingConfig, reference, signed};
use super::{LayerNoise, Level, NoiseField, ProcessConfig, Row};
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
}

/// A loss and what it was computed from.
#[derive(Clone, Debug)]
pub struct DiffusionLoss {
    /// Weighted mean square.
    pub value: Tensor,
    /// What the network saw of the target, `[N, 1, H, W]` in -1…1.
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
            scorer: Scorer { measure },
        })
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &GuidedUnet {
        &self.net
    }

    /// The loss of a batch for given randomness: the network is asked of a corrupted target.
    ///
    /// # Shapes
    /// `input [N, Cc, H, W]`, `target [N, 1 or layers, H, W]`, both in 0…1.
    ///
    /// # Errors
    /// If shapes do not fit, or `draws` lacks layers that the network needs.
    pub fn loss(&self, batch: &Batch, draws: &Draws, ctx: &Ctx) -> Result<DiffusionLoss> {
        let (input, target) = (batch.get("input")?, batch.get("target")?);
        let condition = signed(input)?;
        let clean = signed(&self.learnt(target, draws)?)?;
        let between = draws.layers.as_deref().map(|layers| fractions(layers, target.dims()[1]));
        let source = signed(&reference(input, &between.unwrap_or_default())?)?;
        let (process, at) = (&self.config.process, draws.levels.as_slice());
        let state = process.corrupt(&clean, &source, &draws.noise, at)?;
        let level = Level::inputs(at, input.device())?;
        let layers = draws.layers.as_deref().map(|layers| numbers(layers, input.device()));
        let seen = process.input(&state, at)?;
        let layers = layers.transpose()?;
        let answer = self.net.predict(&seen, &condition, &level, layers.as_ref(), ctx)?.output;
        let asked = process.target(&clean, &state, &draws.noise, at)?;
        let weights = process.weights(at);
        let value = if weights.iter().all(|w| *w == 1.0) {
            l2(&answer, &asked)?
        } else {
            let roots: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
            l2(&combine(&[(&answer, &roots)])?, &combine(&[(&asked, &roots)])?)?
        };
        Ok(DiffusionLoss { value, state, answer })
    }

    /// The layer of each sample that is learnt.
    fn learnt(&self, target: &Tensor, draws: &Draws) -> Result<Tensor> {
        match (&draws.layers, self.network.layer_index) {
            (Some(layers), true) => Ok(Tensor::cat(
                &layers
                    .iter()
                    .enumerate()
                    .map(|(i, &layer)| target.narrow(0, i, 1)?.narrow(1, layer, 1))
                    .collect::<candle_core::Result<Vec<_>>>()?,
                0,
            )?),
            (None, false) => Ok(target.clone()),
            _ => {
                let message = "layers are drawn for networks with `layer_index`, and for no others";
                Err(limpid_kernels::Error::argument("diffusion", message).into())
            }
        }
    }

    /// Random numbers of a training step.
    fn draws(&self, batch: &Batch, stream: Stream) -> Result<Draws> {
        let target = batch.get("target")?;
        let (n, layers, height, width) = target.dims4()?;
        let mut noise = vec![0f32; n * height * width];
        stream.named("noise").fill_normal(&mut noise);
        let mut which = stream.named("layers").draws();
        let mut which = || (0..n).map(|_| which.below(layers as u64) as usize).collect();
        Ok(Draws {
            levels: self.config.process.draw(n, stream.named("levels")),
            noise: Tensor::from_vec(noise, (n, 1, height, width), target.device())?,
            layers: self.network.layer_index.then(&mut which),
        })
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
        let restorer = Restorer {
            net: &self.net,
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

fn numbers(layers: &[usize], device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = layers.iter().map(|&layer| layer as f32).collect();
    Ok(Tensor::from_vec(values, layers.len(), device)?)
}

/// Kaiming normal weights and no offsets for all convolutions and linear maps.
fn redraw(params: &Params, stream: Stream, device: &Device) -> Result<()> {
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
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<Logs> {
        let draws = self.draws(batch, step.ctx().next_stream())?;
        let loss = self.loss(batch, &draws, step.ctx())?.value;
        step.minimise("net", &loss)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(Logs::from([("loss".to_owned(), value)]))
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
        Scorer::list()
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
mod tests {
    use super::*;
    use crate::diffusion::{Input, LevelsConfig, Parametrisation, Weighting};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn network(layers: bool) -> guided_unet::Config {
        guided_unet::Config {
            in_channels: if layers { 3 } else { 2 },
            inner_channels: 16,
            channels: vec![16, 16],
            res_blocks: 1,
            heads: guided_unet::Heads::Count { down: 1, up: 1 },
            dropout: 0.0,
            layer_index: layers,
            ..guided_unet::Config::emdiffuse()
        }
    }

    fn diffusion(process: ProcessConfig, layers: bool) -> Diffusion {
        let config = DiffusionConfig { process, ..DiffusionConfig::default() };
        let denoted: Arc<dyn Fn(&mut [f32]) + Send + Sync> = Arc::new(|_| {});
        let measure = Measure { data_range: 1.0, denormalise: denoted, truth: true };
        Diffusion::new(
            &config,
            &network(layers),
            OptimizerConfig::default(),
            ScheduleConfig::default(),
            measure,
            1,
            &Device::Cpu,
        )
        .unwrap()
    }

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        let init = Init::Uniform { low: 0.0, high: 1.0 };
        init.tensor(shape, Stream::new(seed, "model"), DType::F32, &Device::Cpu).unwrap()
    }

    fn batch(channels: usize, layers: usize) -> Batch {
        let tensors = BTreeMap::from([
            ("input".to_owned(), random(1, &[2, channels, 8, 8])),
            ("target".to_owned(), random(2, &[2, layers, 8, 8])),
        ]);
        Batch { tensors, ids: Vec::new() }
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    /// A new network answers zero, since its last layer is zero: the loss is that of the question.
    #[test]
    fn the_loss_is_the_weighted_square_of_the_question() {
        let batch = batch(1, 1);
        let clean: Vec<f64> =
            numbers(batch.get("target").unwrap()).iter().map(|v| 2.0 * v - 1.0).collect();
        for (weighting, most) in
            [(Weighting::Uniform {}, f64::NAN), (Weighting::MinSnr { most: 5.0 }, 5.0)]
        {
            let process = ProcessConfig::Diffusion {
                predict: Parametrisation::Velocity {},
                input: Input::Gamma,
                weighting,
                train: LevelsConfig::default(),
            };
            let model = diffusion(process, false);
            let draws = model.draws(&batch, Stream::new(5, "draws")).unwrap();
            let loss = model.loss(&batch, &draws, &Ctx::eval()).unwrap();
            assert!(numbers(&loss.answer).iter().all(|a| *a == 0.0));
            let noise = numbers(&draws.noise);
            let mut want = 0.0;
            for (i, at) in draws.levels.iter().enumerate() {
                let snr = (at.clean / at.noise).powi(2);
                // the squared error of x0 counts min(SNR, 5); that of v is larger by SNR + 1
                let weight = if most.is_nan() { 1.0 } else { snr.min(most) / (snr + 1.0) };
                for j in i * 64..(i + 1) * 64 {
                    want += weight * (at.clean * noise[j] - at.noise * clean[j]).powi(2) / 128.0;
                }
            }
            let got = numbers(&loss.value)[0];
            assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
        }
    }

    #[test]
    fn one_layer_of_each_sample_is_learnt() {
        let process = ProcessConfig::Diffusion {
            predict: Parametrisation::Clean {},
            input: Input::Gamma,
            weighting: Weighting::Uniform {},
            train: LevelsConfig::default(),
        };
        let model = diffusion(process, true);
        let batch = batch(2, 5);
        let mut draws = model.draws(&batch, Stream::new(5, "draws")).unwrap();
        draws.layers = Some(vec![4, 1]);
        let loss = numbers(&model.loss(&batch, &draws, &Ctx::eval()).unwrap().value)[0];
        let target = numbers(batch.get("target").unwrap());
        let learnt = target[4 * 64..5 * 64].iter().chain(&target[6 * 64..7 * 64]);
        let want = learnt.map(|v| (2.0 * v - 1.0).powi(2)).sum::<f64>() / 128.0;
        assert!((loss / want - 1.0).abs() < 1e-5, "{loss} {want}");
        draws.layers = None;
        assert!(model.loss(&batch, &draws, &Ctx::eval()).is_err());
    }

    #[test]
    fn validation_draws_all_layers_and_always_the_same() {
        let model = diffusion(ProcessConfig::default(), true);
        let mut batch = batch(2, 3);
        let id = |index| limpid_engine::SampleId { file: "a".into(), index, region: Vec::new() };
        batch.ids = vec![id(0), id(1)];
        let scores = model.validation_step(&batch, &Ctx::eval()).unwrap();
        assert!(scores.len() == 2 && scores.iter().all(|s| s["psnr"].is_finite()));
        let again = model.validation_step(&batch, &Ctx::eval()).unwrap();
        assert_eq!(format!("{scores:?}"), format!("{again:?}"));
        assert_eq!(model.pictures(&batch, &Ctx::eval()).unwrap().len(), 1);
        assert!(model.predict(batch.get("input").unwrap(), &Ctx::eval()).is_err());
    }

    #[test]
    fn initial_weights_are_own_or_those_of_the_reference() {
        let own = diffusion(ProcessConfig::default(), false);
        let last = own.params().get("out.2.weight").unwrap().tensor();
        assert!(numbers(&last).iter().all(|w| *w == 0.0));
        redraw(own.params(), Stream::new(1, "redraw"), &Device::Cpu).unwrap();
        let weights = numbers(&own.params().get("input_blocks.0.0.weight").unwrap().tensor());
        let mean = weights.iter().map(|w| w * w).sum::<f64>() / weights.len() as f64;
        // 2 input channels of 3×3
        assert!((mean.sqrt() / (2.0f64 / 18.0).sqrt() - 1.0).abs() < 0.15, "{}", mean.sqrt());
        let last = numbers(&own.params().get("out.2.weight").unwrap().tensor());
        assert!(last.iter().any(|w| *w != 0.0));
        let norm = numbers(&own.params().get("out.0.weight").unwrap().tensor());
        assert!(norm.iter().all(|w| *w == 1.0));
    }
}
