//! Uncertainty in one pass: a second head that learns how far off the answers of a trained network are.
//!
//! As EMDiffuse's aleatoric networks did before they left its repository (commit 1f252a7,
//! `models/EMDiffuse_network_aleatoric.py`; the likelihood is that of Kendall & Gal 2017,
//! arXiv:1703.04977). At five levels a frozen copy of the trained network answers as in training; the
//! head sees the condition in the place of the state, so that nothing has to be drawn to ask it.
//!
//! The likelihood counts the head's output twice, so it is the logarithm of the *deviation*:
//! `loss = ½·mean(e^(-2v)·(answer - right answer)² + 2v)`. The reference shows `√(e^v)` for a deviation,
//! which is the root of it; [`VarianceHead::deviation`] is `e^v`.

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
        self.loss_of(&Question::new(&self.config.process, batch, draws)?, ctx)
    }

    fn loss_of(&self, question: &Question, ctx: &Ctx) -> Result<AleatoricLoss> {
        let answer = question.put(&self.trained, &Ctx::eval())?;
        let Question { condition, level, layers, .. } = question;
        let variance = self.head().answer(condition, level, layers.as_ref(), ctx)?;
        let twice = limpid_kernels::scale(&variance, 2.0)?;
        let value = gaussian_nll_logvar(&answer, &question.answer, &twice)?;
        Ok(AleatoricLoss { value, answer, variance })
    }

    /// Its head, as it is.
    #[must_use]
    pub fn head(&self) -> VarianceHead<'_> {
        let Self { net, config: AleatoricConfig { process, times, .. }, .. } = self;
        VarianceHead { net, process, times }
    }
}

/// The variance head of a network, without the network that it was trained beside.
#[derive(Clone, Copy, Debug)]
pub struct VarianceHead<'a> {
    /// The network.
    pub net: &'a GuidedUnet,
    /// The process that it was trained in.
    pub process: &'a ProcessConfig,
    /// As [`AleatoricConfig::times`].
    pub times: &'a [usize],
}

impl VarianceHead<'_> {
    /// What it says at a level: the logarithm of the deviation of the network's answer there.
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
        self.answer(&signed(condition)?, &level, layers, ctx)
    }

    /// The mean of [`VarianceHead::variance_at`] over the levels that were learnt.
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
    /// As [`VarianceHead::variance_at`].
    pub fn deviation(
        &self,
        condition: &Tensor,
        layers: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        Ok(self.variance(condition, layers, ctx)?.exp()?)
    }

    /// [`VarianceHead::deviation`] of each layer of these numbers; of the image, if there are none.
    ///
    /// # Shapes
    /// `condition [N, Cc, H, W]` in 0…1 → `[N, layers or 1, H, W]`
    ///
    /// # Errors
    /// As [`VarianceHead::variance_at`].
    pub fn deviations(&self, condition: &Tensor, layers: &[f64], ctx: &Ctx) -> Result<Tensor> {
        if layers.is_empty() {
            return self.deviation(condition, None, ctx);
        }
        let each = layers.iter().map(|layer| {
            let layer = Tensor::full(*layer as f32, condition.dims()[0], condition.device())?;
            self.deviation(condition, Some(&layer), ctx)
        });
        Ok(Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 1)?)
    }

    /// The head's output for a condition in -1…1, the mean of whose channels takes the place of the
    /// state.
    fn answer(
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
        self.times.iter().map(|time| self.process.part(*time, 0.5))
    }
}

impl Model for Aleatoric {
    fn prepare(&self, batch: Batch, ctx: &Ctx) -> Result<Batch> {
        let (stream, target) = (ctx.next_stream(), batch.get("target")?);
        let AleatoricConfig { process, times, .. } = &self.config;
        let mut which = stream.named("levels").draws();
        let mut level = || {
            let time = times[which.below(times.len() as u64) as usize];
            process.part(time, which.uniform() as f32)
        };
        let levels = (0..target.dims()[0]).map(|_| level()).collect();
        let draws = Draws::new(target, levels, self.network.layer_index, stream)?;
        let question = Question::new(process, &batch, &draws)?;
        Ok(Batch { tensors: question.into_tensors(), ids: batch.ids })
    }

    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()> {
        let loss = self.loss_of(&Question::of(batch)?, step.ctx())?.value;
        step.log("loss", &loss);
        step.minimise("net", &loss)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    /// The loss of each sample over all levels, with the same noise in every epoch.
    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>> {
        let levels: Vec<Level> = self.head().levels().collect();
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

    /// [`VarianceHead::deviation`].
    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.head().deviation(input, None, ctx)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{
        BetaConfig, Input, LevelsConfig, NoiseScheduleConfig, Parametrisation, TimesConfig,
        Weighting,
    };
    use limpid_engine::SampleId;
    use limpid_kernels::autograd;
    use limpid_nn::Init;

    fn network() -> guided_unet::Config {
        guided_unet::Config {
            inner_channels: 16,
            channels: vec![16, 16],
            res_blocks: 1,
            heads: guided_unet::Heads::Count { down: 1, up: 1 },
            dropout: 0.0,
            variance: true,
            ..guided_unet::Config::emdiffuse()
        }
    }

    fn process(predict: Parametrisation) -> ProcessConfig {
        let beta = BetaConfig::Linear { first: 1e-4, last: 0.1 };
        ProcessConfig::Diffusion {
            predict,
            input: Input::Gamma,
            weighting: Weighting::Uniform {},
            train: LevelsConfig::Schedule(NoiseScheduleConfig { steps: 50, beta }),
        }
    }

    /// Weights of a network without the head, all of them random.
    fn weights() -> BTreeMap<String, Tensor> {
        let params = Params::new();
        let plain = guided_unet::Config { variance: false, ..network() };
        plain.build(&params.scope(Stream::new(7, "w"), DType::F32, &Device::Cpu)).unwrap();
        let init = Init::Normal { mean: 0.1, std: 0.1 };
        let random = |(name, shape): (String, Vec<usize>)| {
            let stream = Stream::new(8, "w").named(&name);
            let value = init.tensor(&shape, stream, DType::F32, &Device::Cpu).unwrap();
            (name, value)
        };
        params.shapes().into_iter().map(random).collect()
    }

    fn model(config: &AleatoricConfig, weights: &BTreeMap<String, Tensor>) -> Result<Aleatoric> {
        let (optimizer, schedule) = (OptimizerConfig::default(), ScheduleConfig::default());
        Aleatoric::new(config, &network(), weights, optimizer, schedule, 1, &Device::Cpu)
    }

    fn batch() -> Batch {
        let init = Init::Uniform { low: 0.0, high: 1.0 };
        let image = |seed| {
            let stream = Stream::new(seed, "image");
            init.tensor(&[2, 1, 8, 8], stream, DType::F32, &Device::Cpu).unwrap()
        };
        let tensors = BTreeMap::from([("input".into(), image(1)), ("target".into(), image(2))]);
        let id = |index| SampleId { file: "a".into(), index, region: Vec::new() };
        Batch { tensors, ids: vec![id(0), id(1)] }
    }

    fn draws(model: &Aleatoric) -> Draws {
        let levels = model.head().levels().take(2).collect();
        Draws::new(batch().get("target").unwrap(), levels, false, Stream::new(3, "draws")).unwrap()
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    /// The new head's last layer is zero but for an offset, so that it says the same everywhere.
    #[test]
    fn the_head_learns_the_logarithm_of_the_deviation() {
        let predict = Parametrisation::Noise {};
        let config = AleatoricConfig { process: process(predict), ..AleatoricConfig::default() };
        let model = model(&config, &weights()).unwrap();
        let draws = draws(&model);
        let offset = model.params().get("out_variance.2.bias").unwrap();
        let at = |v: f64| {
            offset.set(&Tensor::new(&[v as f32], &Device::Cpu).unwrap()).unwrap();
            model.loss(&batch(), &draws, &Ctx::eval()).unwrap()
        };
        let start = at(0.0);
        let errors: Vec<f64> =
            numbers(&start.answer).iter().zip(numbers(&draws.noise)).map(|(a, n)| a - n).collect();
        let square = errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64;
        let best = square.sqrt().ln();
        for v in [0.0, -0.7, best] {
            let want = 0.5 * ((-2.0 * v).exp() * square + 2.0 * v);
            assert!((numbers(&at(v).value)[0] - want).abs() < 1e-5, "{v}");
        }
        // there the loss is least, and the image of deviations is the deviation
        let gradients = autograd::backward(&at(best).value).unwrap();
        assert!(numbers(gradients.get(offset.var()).unwrap())[0].abs() < 1e-5);
        let shown = model.predict(batch().get("input").unwrap(), &Ctx::eval()).unwrap();
        assert!(numbers(&shown).iter().all(|v| (v / square.sqrt() - 1.0).abs() < 1e-5));
    }

    #[test]
    fn only_what_is_not_frozen_learns() {
        for freeze_trunk in [true, false] {
            let config = AleatoricConfig { freeze_trunk, ..AleatoricConfig::default() };
            let model = model(&config, &weights()).unwrap();
            let last = model.params().get("out_variance.2.weight").unwrap();
            last.set(&(last.tensor().detach() + 0.1).unwrap()).unwrap();
            let loss = model.loss(&batch(), &draws(&model), &Ctx::eval()).unwrap().value;
            let gradients = autograd::backward(&loss).unwrap();
            let learns =
                |name: &str| gradients.get(model.params().get(name).unwrap().var()).is_some();
            assert!(learns("out_variance.2.weight") && learns("out_variance.0.bias"));
            assert_eq!(learns("input_blocks.0.0.weight"), !freeze_trunk);
            // the answers are those of the copy
            assert!(!learns("out.2.weight"));
            let moved = model.optimizers()[0].params.all();
            assert_eq!(moved.iter().all(|p| p.name().starts_with(HEAD)), freeze_trunk);
        }
    }

    #[test]
    fn what_it_says_is_averaged_over_the_levels() {
        let config = AleatoricConfig {
            process: process(Parametrisation::Noise {}),
            ..AleatoricConfig::default()
        };
        let mut given = weights();
        let head = given
            .clone()
            .into_iter()
            .filter_map(|(name, t)| Some((format!("{HEAD}{}", name.strip_prefix("out.")?), t)));
        given.extend(head.collect::<Vec<_>>());
        let model = model(&config, &given).unwrap();
        let beta = BetaConfig::Linear { first: 1e-4, last: 0.1 };
        let schedule =
            crate::diffusion::NoiseSchedule::new(&NoiseScheduleConfig { steps: 50, beta });
        let (batch, mut sum) = (batch(), vec![0.0; 128]);
        let condition = batch.get("input").unwrap();
        for t in [25, 12, 6, 3, 1] {
            let level = Level::of_gamma(schedule.gamma_before(t, 0.5), Input::Gamma);
            let said = model.head().variance_at(condition, &[level], None, &Ctx::eval()).unwrap();
            sum.iter_mut().zip(numbers(&said)).for_each(|(sum, v)| *sum += v / 5.0);
        }
        let mean = model.head().variance(condition, None, &Ctx::eval()).unwrap();
        let deviation = model.head().deviation(condition, None, &Ctx::eval()).unwrap();
        for ((want, got), deviation) in sum.iter().zip(numbers(&mean)).zip(numbers(&deviation)) {
            assert!((want - got).abs() < 1e-5 && (deviation / got.exp() - 1.0).abs() < 1e-5);
        }
        let scores = model.validation_step(&batch, &Ctx::eval()).unwrap();
        assert!(scores.len() == 2 && scores.iter().all(|s| s["loss"].is_finite()));
        let again = model.validation_step(&batch, &Ctx::eval()).unwrap();
        assert_eq!(format!("{scores:?}"), format!("{again:?}"));
    }

    #[test]
    fn levels_of_other_processes_are_parts_of_the_way() {
        let flow = ProcessConfig::Flow { train: TimesConfig::Uniform {} };
        assert_eq!(flow.part(4, 0.9), flow.at(0.25));
        // never beyond the last step
        let diffusion = process(Parametrisation::Noise {});
        assert_eq!(diffusion.part(1, 1.0).input, diffusion.range()[0].input as f32 as f64);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let config = AleatoricConfig::default();
        let mut lacking = weights();
        lacking.remove("out.2.bias");
        let e = model(&config, &lacking).err().unwrap().to_string();
        assert!(e.contains("out.2.bias"), "{e}");
        let mut strange = weights();
        strange.insert("other".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        assert!(model(&config, &strange).is_err());
        let plain = guided_unet::Config { variance: false, ..network() };
        let (optimizer, schedule) = (OptimizerConfig::default(), ScheduleConfig::default());
        let refused =
            Aleatoric::new(&config, &plain, &weights(), optimizer, schedule, 1, &Device::Cpu);
        assert!(refused.err().unwrap().to_string().contains("variance = true"));
        let bad = AleatoricConfig { times: vec![4, 1], ..config };
        assert_eq!(limpid_config::check(&bad).len(), 1);
    }
}
