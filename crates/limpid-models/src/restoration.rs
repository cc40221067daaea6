//! A network that maps an image to a better one, trained on pairs or on noisy images alone.
//!
//! Supervised; Noise2Noise (Lehtinen et al. 2018, arXiv:1803.04189): the target is another noisy
//! image of the same object; Noise2Void (Krull et al. 2019, arXiv:1811.10980): the target is the
//! noisy image itself at pixels that were masked in the input.

use candle_core::{DType, Device, Tensor};
use limpid_arch::{ImageArchitecture, Network, NetworkConfig};
use limpid_config::{Check, Validate};
use limpid_engine::{Batch, Error, Logs, Model, OptimizerSpec, Picture, Result, Score, Stepper};
use limpid_kernels::Pad;
use limpid_kernels::rng::Stream;
use limpid_losses::losses::{LossConfig, Objective, masked_l2};
use limpid_losses::metrics::{Image, SsimSpec, psnr, ssim};
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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

/// How validation measures: in which unit, against what.
#[derive(Clone)]
pub struct Measure {
    /// Span of valid intensities after `denormalise`, for PSNR and SSIM.
    pub data_range: f64,
    /// Turns normalised intensities back into those of the file, in place.
    pub denormalise: Arc<dyn Fn(&mut [f32]) + Send + Sync>,
    /// Whether validation batches hold the truth (`clean`, or `target` in the supervised case).
    /// Without it only the loss is known.
    pub truth: bool,
}

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measure")
            .field("data_range", &self.data_range)
            .field("truth", &self.truth)
            .finish_non_exhaustive()
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
    measure: Measure,
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
            measure,
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

    /// The truth of a validation batch.
    fn truth<'b>(&self, batch: &'b Batch) -> Result<Option<&'b Tensor>> {
        if !self.measure.truth {
            return Ok(None);
        }
        batch.get("clean").or_else(|_| batch.get("target")).map(Some)
    }

    /// One sample in the intensities of the file.
    fn physical(&self, sample: &Tensor) -> Result<Vec<f32>> {
        let mut values = sample.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        (self.measure.denormalise)(&mut values);
        Ok(values)
    }

    /// Scores of one sample `[C, s…]`; channels are averaged.
    fn score(&self, sample: &Tensor, truth: &[f32], dims: &[usize]) -> Result<[f64; 2]> {
        let values = self.physical(sample)?;
        let voxels: usize = dims[1..].iter().product();
        let mut sums = [0.0; 2];
        for (a, b) in values.chunks(voxels).zip(truth.chunks(voxels)) {
            let (a, b) = (image(a, &dims[1..])?, image(b, &dims[1..])?);
            sums[0] += psnr(&a, &b, self.measure.data_range).map_err(boxed)?;
            // images smaller than the window have no SSIM
            let range = self.measure.data_range;
            sums[1] += ssim(&a, &b, range, &SsimSpec::SKIMAGE).unwrap_or(f64::NAN);
        }
        Ok(sums.map(|s| s / dims[0] as f64))
    }
}

fn image<'a>(values: &'a [f32], shape: &'a [usize]) -> Result<Image<'a>> {
    Image::new(values, shape).map_err(boxed)
}

fn boxed(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Data(Box::new(e))
}

impl Model for Restoration {
    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<Logs> {
        let y = self.net.forward(batch.get("input")?, step.ctx())?;
        let (loss, terms) = self.loss(batch, &y)?;
        step.minimise("net", &loss)?;
        let mut logs = Logs::from([("loss".to_owned(), scalar(&loss)?)]);
        if terms.len() > 1 {
            for (name, value) in terms {
                logs.insert(format!("loss/{name}"), scalar(&value)?);
            }
        }
        Ok(logs)
    }

    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>> {
        let input = batch.get("input")?;
        let y = self.predict(input, ctx)?;
        let truth = self.truth(batch)?;
        (0..batch.len())
            .map(|i| {
                let Some(truth) = truth else {
                    let one = batch.sample(i)?;
                    let loss = scalar(&self.loss(&one, &y.narrow(0, i, 1)?)?.0)?;
                    return Ok(Logs::from([("loss".to_owned(), loss)]));
                };
                let dims = &truth.dims()[1..];
                let truth = self.physical(&truth.get(i)?)?;
                let [psnr, ssim] = self.score(&y.get(i)?, &truth, dims)?;
                let mut logs = Logs::from([("psnr".to_owned(), psnr), ("ssim".to_owned(), ssim)]);
                if input.dims() == y.dims() {
                    let [before, _] = self.score(&input.get(i)?, &truth, dims)?;
                    logs.insert("psnr_gain".to_owned(), psnr - before);
                }
                Ok(logs)
            })
            .collect()
    }

    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let size = &input.dims()[2..];
        let pads: Vec<(usize, usize)> =
            size.iter().zip(&self.divisor).map(|(n, d)| (0, n.next_multiple_of(*d) - n)).collect();
        if pads.iter().all(|p| p.1 == 0) {
            return Ok(self.net.forward(input, ctx)?);
        }
        // sizes that the network cannot halve are continued by their last pixels, and cut again
        let mut y = self.net.forward(&limpid_kernels::pad(input, &pads, Pad::Replicate)?, ctx)?;
        for (axis, n) in size.iter().enumerate() {
            y = y.narrow(axis + 2, 0, *n)?;
        }
        Ok(y.contiguous()?)
    }

    fn scores(&self) -> Vec<Score> {
        let score = |name: &str, higher_is_better| Score { name: name.into(), higher_is_better };
        if self.measure.truth {
            vec![score("psnr", true), score("ssim", true), score("psnr_gain", true)]
        } else {
            vec![score("loss", false)]
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
        let input = batch.get("input")?.narrow(0, 0, 1)?;
        let y = self.predict(&input, ctx)?;
        let mut panels = vec![("input", input), ("output", y)];
        let reference = batch.get("clean").or_else(|_| batch.get("target"));
        if let Ok(target) = reference {
            panels.push(("target", target.narrow(0, 0, 1)?));
        }
        let dims = panels[0].1.dims().to_vec();
        let size = [dims[dims.len() - 2], dims[dims.len() - 1]];
        let panels = panels
            .into_iter()
            .map(|(title, t)| {
                // the first channel; the middle slice of a volume
                let values = self.physical(&t.get(0)?)?;
                let plane = size[0] * size[1];
                let slices = t.dims()[2..t.rank() - 2].iter().product::<usize>();
                let middle = slices / 2 * plane;
                Ok((title.to_owned(), values[middle..middle + plane].to_vec()))
            })
            .collect::<Result<Vec<_>>>()?;
        let window = display_window(&panels[panels.len() - 1].1);
        let name = batch.ids.first().map_or_else(String::new, |id| stem(&id.file));
        Ok(vec![Picture { name, size, panels, window }])
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

/// The 1st and 99.5th percentile: the intensities that a viewer would show black and white.
#[must_use]
pub fn display_window(values: &[f32]) -> [f32; 2] {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    if sorted.is_empty() {
        return [0.0, 1.0];
    }
    sorted.sort_by(f32::total_cmp);
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q) as usize];
    [at(0.01), at(0.995)]
}

fn stem(file: &str) -> String {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).to_owned()
}
