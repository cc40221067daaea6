//! EMDiffuse's sampling: the arithmetic of a step, whole chains with recorded noise, and an image
//! from 8 bits to 8 bits.

use candle_core::{DType, Tensor};
use limpid_arch::NoisePredictor;
use limpid_arch::guided_unet::GuidedUnet;
use limpid_models::diffusion::{
    Adjust, GridConfig, Guide, Inpaint, Input, Level, NoiseSchedule, NoiseScheduleConfig,
    ProcessConfig, SamplerConfig, Transition, sample,
};
use limpid_nn::Ctx;

use super::emdiffuse::Entry;
use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, text};
use super::guided::{self, OUTPUT};
use super::networks::filled;

/// Chains contract what they are disturbed by.
const CHAIN: Tolerance = absolute(1e-4);

/// Range of intensities with and without `norm`.
const CLIP: [f64; 2] = [-1.0, 1.0];
const CLIP_RAW: [f64; 2] = [0.0, 1.0];

#[derive(serde::Deserialize)]
struct Meta {
    weights_file: String,
    schedule: Entry,
    sample_num: Option<usize>,
}

/// The network whose weights lie beside the fixture.
fn network(fixture: &Fixture, meta: &Meta) -> Result<GuidedUnet, String> {
    let (config, weights) = guided::network_beside(fixture, &meta.weights_file)?;
    Ok(filled(&weights, |scope| config.build(scope))?.1)
}

/// Any trouble as one of the engine, which samplers speak.
fn data(message: String) -> limpid_engine::Error {
    limpid_engine::Error::Data(message.into())
}

/// The reference sampler on a network, condition and schedule.
struct Chain<'a> {
    net: &'a GuidedUnet,
    schedule: NoiseScheduleConfig,
    condition: Tensor,
    layer: Option<Tensor>,
    clip: [f64; 2],
}

impl Chain<'_> {
    /// Estimate of the clean image, clipped.
    fn estimate(&self, x: &Tensor, at: &Level) -> limpid_engine::Result<Tensor> {
        let process = ProcessConfig::default();
        let told = Level::inputs(&[*at], x.device())?;
        let layer = self.layer.as_ref();
        let answer = self.net.predict(x, &self.condition, &told, layer, &Ctx::eval())?.output;
        let [low, high] = self.clip;
        Ok(process.clean(&answer, x, &[*at])?.clamp(low, high)?)
    }

    /// Samples with the noise of each step; `seen` is told the step's `t`, estimate and next state.
    fn run(
        &self,
        start: &Tensor,
        guide: &dyn Guide,
        noise: &dyn Fn(usize) -> Result<Tensor, String>,
        seen: &mut dyn FnMut(usize, &Tensor, &Tensor) -> Result<(), String>,
    ) -> Result<Tensor, String> {
        let grid = GridConfig::Schedule(self.schedule.clone());
        let levels = grid.levels(&ProcessConfig::default()).map_err(text)?;
        sample(
            &SamplerConfig::Ancestral {},
            &levels,
            start.clone(),
            guide,
            &mut |step| noise(step).map_err(data),
            &mut |x, level| self.estimate(x, level),
            &mut |at, clean, x| seen(at.of - 1 - at.index, clean, x).map_err(data),
        )
        .map_err(text)
    }
}

/// Compares what is seen on the way with the `y.<t>` and `y0hat.<t>` below a prefix.
struct Way<'a> {
    fixture: &'a Fixture,
    prefix: &'a str,
    compared: usize,
}

impl<'a> Way<'a> {
    fn new(fixture: &'a Fixture, prefix: &'a str) -> Self {
        Self { fixture, prefix, compared: 0 }
    }

    fn see(
        &mut self,
        worst: &mut Worst,
        t: usize,
        clean: &Tensor,
        x: &Tensor,
    ) -> Result<(), String> {
        for (name, got) in [("y", x), ("y0hat", clean)] {
            let key = format!("{}{name}.{t}", self.prefix);
            if let Some(expected) = self.fixture.tensors.get(&key) {
                worst.tensor(&key, got, expected, CHAIN)?;
                self.compared += 1;
            }
        }
        Ok(())
    }

    /// That nothing was left out.
    fn end(&self, worst: &mut Worst) {
        let of = |name: &str| self.fixture.part(&format!("{}{name}.", self.prefix)).len();
        let missed = of("y") + of("y0hat") - self.compared;
        worst.require(&format!("{missed} states of {} were not visited", self.prefix), missed == 0);
    }
}

/// `diffusion_ops`: states, estimates and the mean and variance of a step.
pub(super) fn ops(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let net = network(fixture, &meta)?;
    let process = ProcessConfig::default();
    let gammas = NoiseSchedule::new(&meta.schedule.config()?).gammas;
    let at = |gamma: f64| Level::of_gamma(gamma, Input::Gamma);
    let input = |name: &str| fixture.tensor(&format!("in.{name}"));
    let (clean, noise, x, condition) =
        (input("y_0")?, input("noise")?, input("y_t")?, input("y_cond")?);
    let mut worst = Worst::default();

    let drawn: Vec<Level> = fixture.values("in.sample_gammas")?.into_iter().map(at).collect();
    let state = process.corrupt(clean, clean, noise, &drawn).map_err(text)?;
    worst.tensor("out.q_sample", &state, fixture.tensor("out.q_sample")?, OUTPUT)?;

    let times: Vec<usize> = fixture.values("in.t")?.into_iter().map(|t| t as usize).collect();
    let levels: Vec<Level> = times.iter().map(|t| at(gammas[*t])).collect();
    let estimate = process.clean(noise, x, &levels).map_err(text)?;
    let key = "out.predict_start_from_noise";
    worst.tensor(key, &estimate, fixture.tensor(key)?, OUTPUT)?;

    let steps: Vec<Transition> = times
        .iter()
        .zip(&levels)
        .map(|(t, level)| {
            let next = t.checked_sub(1).map_or(Level::CLEAN, |t| at(gammas[t]));
            Transition::between(level, &next, 1.0)
        })
        .collect();
    let column = |of: fn(&Transition) -> f64| {
        let values: Vec<f32> = steps.iter().map(|step| of(step) as f32).collect();
        Tensor::from_vec(values, (steps.len(), 1, 1, 1), x.device())
    };
    let (of_clean, of_x) = (column(|s| s.clean).map_err(text)?, column(|s| s.state).map_err(text)?);
    let mean = |clean: &Tensor| -> Result<Tensor, String> {
        let mean = clean.broadcast_mul(&of_clean).map_err(text)?;
        (mean + x.broadcast_mul(&of_x).map_err(text)?).map_err(text)
    };
    let log_variance: Vec<f64> = steps.iter().map(|s| s.noise.powi(2).max(1e-20).ln()).collect();
    let variance = super::fixture::relative(1e-6);
    let key = "out.q_posterior";
    worst.tensor(
        &format!("{key}.mean"),
        &mean(clean)?,
        fixture.tensor(&format!("{key}.mean"))?,
        OUTPUT,
    )?;
    for key in fixture.names().filter(|name| name.ends_with(".log_variance")) {
        worst.compare(key, &log_variance, &fixture.values(key)?, variance);
    }

    let told = Level::inputs(&levels, x.device()).map_err(text)?;
    let answer = net.predict(x, condition, &told, None, &Ctx::eval()).map_err(text)?.output;
    worst.tensor("out.noise_hat", &answer, fixture.tensor("out.noise_hat")?, OUTPUT)?;
    let estimate = process.clean(&answer, x, &levels).map_err(text)?;
    let clamped = |[low, high]: [f64; 2]| estimate.clamp(low, high).map_err(text);
    for (name, estimate) in [
        ("clip_True", clamped(CLIP)?),
        ("clip_False", estimate.clone()),
        ("norm_False", clamped(CLIP_RAW)?),
    ] {
        let key = |part: &str| format!("out.p_mean_variance.{name}.{part}");
        for (key, got) in [(key("y_0_hat"), &estimate), (key("mean"), &mean(&estimate)?)] {
            worst.tensor(&key, got, fixture.tensor(&key)?, OUTPUT)?;
        }
    }
    worst.done()
}

/// `diffusion_restore_2d`: the chain by itself, adjusted, with a known part, and on raw intensities.
pub(super) fn restore(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let net = network(fixture, &meta)?;
    let condition = fixture.tensor("in.y_cond")?;
    let steps = meta.schedule.n_timestep;
    let kept = steps / meta.sample_num.ok_or("the metadata has no `sample_num`")?;
    let starts = fixture.names().filter_map(|n| n.strip_prefix("in.")?.strip_suffix(".y_T"));
    let mut worst = Worst::default();
    for variant in starts {
        let input = |name: &str| fixture.tensor(&format!("in.{variant}.{name}"));
        let guide: Box<dyn Guide> = match variant {
            "plain" | "norm_False" => Box::new(()),
            "adjust" => Box::new(Adjust::new(condition).map_err(text)?),
            "mask" => Box::new(Inpaint::new(input("y_0")?, input("mask")?).map_err(text)?),
            other => return Err(format!("no variant of the sampler is called `{other}`")),
        };
        let clip = if variant == "norm_False" { CLIP_RAW } else { CLIP };
        let (schedule, condition) = (meta.schedule.config()?, condition.clone());
        let chain = Chain { net: &net, schedule, condition, layer: None, clip };
        let start = input("y_T")?;
        let prefix = format!("out.{variant}.");
        let mut way = Way::new(fixture, &prefix);
        let mut arranged = vec![start.clone()];
        let noise = |step: usize| input(&format!("noise.{}", steps - 1 - step)).cloned();
        let end = chain.run(start, guide.as_ref(), &noise, &mut |t, clean, x| {
            if t % kept == 0 {
                arranged.push(clean.clone());
            }
            way.see(&mut worst, t, clean, x)
        })?;
        way.end(&mut worst);
        let arranged = Tensor::cat(&arranged, 0).map_err(text)?;
        for (name, got) in [("final", &end), ("ret_arr", &arranged)] {
            let key = format!("{prefix}{name}");
            worst.tensor(&key, got, fixture.tensor(&key)?, CHAIN)?;
        }
    }
    worst.done()
}

/// `diffusion_restore_3d`: all layers between two slices as rows of one batch, layer by layer.
pub(super) fn restore_layers(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let net = network(fixture, &meta)?;
    let condition = fixture.tensor("in.y_cond")?;
    let (layers, images) = (fixture.part("in.y_T.").len(), condition.dims()[0]);
    let starts = (0..layers).map(|c| fixture.tensor(&format!("in.y_T.{c}")));
    let start = Tensor::cat(&starts.collect::<Result<Vec<_>, _>>()?, 0).map_err(text)?;
    let numbers: Vec<f32> = (0..layers * images).map(|row| (row / images) as f32).collect();
    let layer = Tensor::from_vec(numbers, layers * images, start.device()).map_err(text)?;
    let condition = Tensor::cat(&vec![condition; layers], 0).map_err(text)?;
    let schedule = meta.schedule.config()?;
    let chain = Chain { net: &net, schedule, condition, layer: Some(layer), clip: CLIP };
    let mut worst = Worst::default();
    let mut way = Way::new(fixture, "out.");
    let noise = |step: usize| {
        fixture.tensor(&format!("in.noise.{}", meta.schedule.n_timestep - 1 - step)).cloned()
    };
    let end =
        chain.run(&start, &(), &noise, &mut |t, clean, x| way.see(&mut worst, t, clean, x))?;
    way.end(&mut worst);
    let by_image = |rows: &Tensor| -> Result<Tensor, String> {
        let size = &rows.dims()[2..];
        let rows = rows.reshape([&[layers, images], size].concat()).map_err(text)?;
        rows.transpose(0, 1).map_err(text)
    };
    for (name, got) in [("final", &end), ("ret_arr", &start)] {
        let key = format!("out.{name}");
        worst.tensor(&key, &by_image(got)?, fixture.tensor(&key)?, CHAIN)?;
    }
    worst.done()
}

/// The stacked noise `name` in the order of the steps.
fn stacked<'a>(
    fixture: &'a Fixture,
    name: &str,
) -> Result<impl Fn(usize) -> Result<Tensor, String> + 'a, String> {
    let noise = fixture.tensor(name)?;
    Ok(move |step: usize| noise.get(step).map_err(text))
}

/// `diffusion_restore_real_schedule`: a thousand steps, over half of them below what was trained.
pub(super) fn restore_shipped(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let net = network(fixture, &meta)?;
    let (schedule, condition) = (meta.schedule.config()?, fixture.tensor("in.y_cond")?.clone());
    let chain = Chain { net: &net, schedule, condition, layer: None, clip: CLIP };
    let mut worst = Worst::default();
    let mut way = Way::new(fixture, "out.");
    let end = chain.run(
        fixture.tensor("in.y_T")?,
        &(),
        &stacked(fixture, "in.noise")?,
        &mut |t, clean, x| way.see(&mut worst, t, clean, x),
    )?;
    way.end(&mut worst);
    worst.tensor("out.final", &end, fixture.tensor("out.final")?, CHAIN)?;
    worst.done()
}

/// `diffusion_mean_std`: several samples of an image, their mean and their deviation.
pub(super) fn mean_and_deviation(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let net = network(fixture, &meta)?;
    let (schedule, condition) = (meta.schedule.config()?, fixture.tensor("in.y_cond")?.clone());
    let chain = Chain { net: &net, schedule, condition, layer: None, clip: CLIP };
    let mut worst = Worst::default();
    let mut ends = Vec::new();
    for k in (0..).take_while(|k| fixture.tensors.contains_key(&format!("in.{k}.y_T"))) {
        let start = fixture.tensor(&format!("in.{k}.y_T"))?;
        let noise = stacked(fixture, &format!("in.{k}.noise"))?;
        let end = chain.run(start, &(), &noise, &mut |_, _, _| Ok(()))?;
        let key = format!("out.{k}.final");
        worst.tensor(&key, &end, fixture.tensor(&key)?, CHAIN)?;
        ends.push(end);
    }
    let ends = Tensor::stack(&ends, 0).map_err(text)?;
    let mean = ends.mean(0).map_err(text)?;
    let deviation = ends.var(0).and_then(|v| v.sqrt()).map_err(text)?;
    for (key, got) in [("out.mean", &mean), ("out.std", &deviation)] {
        worst.tensor(key, got, fixture.tensor(key)?, CHAIN)?;
    }
    worst.done()
}

/// `e2e_denoise_64`: from 8 bits to 8 bits, by itself and adjusted.
pub(super) fn from_bits_to_bits(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Meta = fixture.json("config")?;
    let net = network(fixture, &meta)?;
    let start = fixture.tensor("in.y_T")?;
    let noisy = fixture.tensor("in.noisy_u8")?.to_dtype(DType::F32).map_err(text)?;
    let noisy = noisy.affine(1.0 / 255.0, 0.0).and_then(|t| t.affine(2.0, -1.0)).map_err(text)?;
    let condition = noisy.reshape(start.shape()).map_err(text)?;
    let (schedule, adjust) = (meta.schedule.config()?, Adjust::new(&condition).map_err(text)?);
    let chain = Chain { net: &net, schedule, condition, layer: None, clip: CLIP };
    let mut worst = Worst::default();
    for (prefix, guide) in [("out.", &() as &dyn Guide), ("out.adjust.", &adjust)] {
        let noise = stacked(fixture, "in.noise")?;
        let end = chain.run(start, guide, &noise, &mut |_, _, _| Ok(()))?;
        let key = format!("{prefix}final");
        worst.tensor(&key, &end, fixture.tensor(&key)?, CHAIN)?;
        // before rounding: half a grey level, and what the chain may be off
        let grey = end.clamp(-1.0, 1.0).and_then(|t| (t + 1.0)? * 127.5).map_err(text)?;
        let grey = grey.flatten_all().map_err(text)?;
        let key = format!("{prefix}final_u8");
        let expected = fixture.tensor(&key)?.flatten_all().map_err(text)?;
        worst.tensor(&key, &grey, &expected, absolute(0.5 + 127.5 * CHAIN.absolute))?;
    }
    worst.done()
}
