//! Restoration of images of any size: samples, layers between slices, statistics.
//!
//! A region is drawn whole, its windows jointly. Its rows, layers × samples, are chains of their own:
//! neither threads nor how large images are cut up change a bit of what each pixel's noise is. More
//! images in a batch may change the last bits: small convolutions are then summed in another order.

#[cfg(test)]
mod tests;

use super::sampler::images_held;
use super::sampling::{Estimator, reference, signed, unsigned};
use super::{
    BetaConfig, GridConfig, GuideConfig, JointConfig, JointDenoiser, LayerNoise, LayerPlace, Level,
    NoiseField, NoiseScheduleConfig, ProcessConfig, Row, SamplerConfig, SamplingConfig, Start,
    statistics,
};
use candle_core::{Device, Tensor};
use limpid_arch::{NoisePredictor, guided_unet};
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_engine::infer::{Blend, Needs, Padding, Plan, TileConfig, Tta, mirrored};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// How images are restored by drawing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreConfig {
    /// How a restoration is drawn.
    pub sampling: SamplingConfig,
    /// Restorations that are drawn; the result is their mean, and their standard deviation if there
    /// are several.
    pub samples: usize,
    /// Quantiles of the samples that are given too, from 0 to 1.
    pub quantiles: Vec<f64>,
    /// How layers between slices depend on each other.
    pub layer_noise: LayerNoise,
    /// How large images are drawn.
    pub joint: JointConfig,
}

impl Default for RestoreConfig {
    fn default() -> Self {
        Self {
            sampling: SamplingConfig::default(),
            samples: 1,
            quantiles: Vec::new(),
            layer_noise: LayerNoise::default(),
            joint: JointConfig::default(),
        }
    }
}

impl Validate for RestoreConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("sampling", &self.sampling);
        if !(1..=1 << 16).contains(&self.samples) {
            at.problem("samples", format!("must be from 1 to 65536, got {}", self.samples));
        }
        if !self.quantiles.iter().all(|q| (0.0..=1.0).contains(q)) {
            at.problem("quantiles", format!("must be from 0 to 1, got {:?}", self.quantiles));
        } else if !self.quantiles.is_empty() && self.samples == 1 {
            at.problem("quantiles", "must be left out where one sample is drawn")
                .hint("draw several `samples`");
        }
        at.nested("layer_noise", &self.layer_noise);
        at.nested("joint", &self.joint);
    }
}

impl RestoreConfig {
    /// As EMDiffuse restores: all `steps` of its test schedule from noise alone, ancestrally.
    #[must_use]
    pub fn reference(steps: usize) -> Self {
        let beta = BetaConfig::Linear { first: 1e-4, last: 0.09 };
        let sampling = SamplingConfig {
            sampler: SamplerConfig::Ancestral {},
            grid: GridConfig::Schedule(NoiseScheduleConfig { steps, beta }),
            start: Start::Noise {},
            guide: GuideConfig::None {},
            clip: Some([-1.0, 1.0]),
        };
        Self { sampling, layer_noise: LayerNoise::Independent {}, ..Self::default() }
    }
}

/// What a network asks of the images it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetNeeds {
    /// Sizes must be multiples of this.
    pub divisor: usize,
    /// Bytes of activations per pixel, roughly.
    pub bytes_per_pixel: usize,
}

impl From<&guided_unet::Config> for NetNeeds {
    fn from(config: &guided_unet::Config) -> Self {
        Self { divisor: config.divisor(), bytes_per_pixel: config.activation_bytes() }
    }
}

/// Restores images of any size.
#[derive(Clone)]
pub struct ImageRestorer<'a> {
    /// Answers at any level.
    pub net: &'a dyn NoisePredictor,
    /// What it asks of images.
    pub needs: NetNeeds,
    /// What its answers mean.
    pub process: &'a ProcessConfig,
    /// How images are restored.
    pub config: &'a RestoreConfig,
    /// Of all noise.
    pub seed: u64,
    /// Where the network runs.
    pub device: Device,
}

/// What the restoration of an image comes to.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// Regions, as an [`limpid_engine::infer::Inferencer`] walks them.
    pub regions: Plan,
    /// Windows of each region, at every step.
    pub windows: Plan,
    /// Samples × layers.
    pub rows: usize,
    /// Windows that the network sees in all.
    pub evaluations: u64,
    /// Memory for the network, the state and blending, roughly.
    pub bytes: u64,
}

impl RestorePlan {
    /// Rows and columns of the image at which something is put together, in order: where a window
    /// or a region, without what is dropped of it, begins or ends.
    #[must_use]
    pub fn edges(&self) -> [Vec<usize>; 2] {
        let of = |axis: usize| {
            let inner = self.windows.edges(axis);
            let mut all: Vec<usize> = Vec::new();
            for region in &self.regions.starts {
                // windows of a region lie in the padded image, edges of regions do too
                all.extend(inner.iter().map(|edge| region[axis] + edge));
            }
            all.extend(self.regions.edges(axis));
            let before = self.regions.before[axis];
            let inside = |edge: usize| edge.checked_sub(before).filter(|e| *e > 0);
            let mut all: Vec<usize> = all
                .into_iter()
                .filter_map(inside)
                .filter(|edge| *edge < self.regions.image[axis])
                .collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        [of(0), of(1)]
    }
}

impl std::fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = |v: &[usize]| v.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
        let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (regions, windows) = (&self.regions, &self.windows);
        write!(f, "{} in ", by(&regions.image))?;
        if regions.starts.len() > 1 {
            write!(
                f,
                "{} of {}, each in ",
                many(regions.starts.len(), "region"),
                by(&regions.size)
            )?;
        }
        write!(f, "{} of {}", many(windows.starts.len(), "window"), by(&windows.size))?;
        if self.rows > 1 {
            write!(f, ", {} images to draw", self.rows)?;
        }
        let mib = self.bytes.div_ceil(MIB);
        write!(f, ", {} network evaluations, about {mib} MiB", self.evaluations)
    }
}

impl ImageRestorer<'_> {
    /// Plans the restoration of an image, of `layers` layers after it or, with 0, of itself.
    ///
    /// It is cut into regions only if their memory demands it.
    ///
    /// # Errors
    /// [`limpid_engine::Error::Setting`] for an empty image, and if the configurations do not fit each
    /// other.
    pub fn plan(&self, image: [usize; 2], layers: usize) -> Result<RestorePlan> {
        let joint = &self.config.joint;
        let divisor = self.needs.divisor.max(1);
        let rows = self.config.samples.max(1) * layers.max(1);
        let channels = self.channels(layers);
        // results and statistics; the images of rows that go together; condition and shares
        let held = images_held(&self.config.sampling.sampler) + usize::from(layers > 0);
        let together = joint.batch.clamp(1, rows);
        let bytes_per_pixel = 4 * (rows + channels + together * held + 2 * layers.min(1) + 6);
        let network = |windows: &Plan| {
            let seen = (joint.batch as u64).min(rows as u64 * windows.starts.len() as u64);
            let pixels = windows.size.iter().fold(seen, |p, n| p.saturating_mul(*n as u64));
            pixels.saturating_mul(self.needs.bytes_per_pixel as u64)
        };
        let budget = (joint.region_mib as u64)
            .saturating_sub(network(&joint.plan(image, divisor)?).div_ceil(MIB));
        let regions = |reach: usize| {
            let tiles = TileConfig {
                size: Vec::new(),
                blend: Blend::Cosine {},
                batch: 1,
                tta: Tta::None,
                padding: Padding::Reflect,
                budget_mib: budget as usize,
            };
            let needs = Needs {
                divisor: vec![divisor; 2],
                any_size_from: None,
                fixed_size: None,
                // the outermost windows of a region miss their neighbours
                receptive_field: vec![2 * (joint.overlap + reach); 2],
                bytes_per_pixel,
                channels,
            };
            Plan::new(&tiles, &needs, &image)
        };
        let mut plan = regions(0)?;
        if plan.starts.len() > 1
            && let GuideConfig::LowFrequency { scale, .. } = self.config.sampling.guide
        {
            // and the guide the means beyond: a pixel is drawn by those of the next squares
            plan = regions(2 * scale.max(1))?;
        }
        let windows = joint.plan([plan.size[0], plan.size[1]], divisor)?;
        let evaluations = self.config.sampling.evaluations(self.process)? as u64;
        let seen = (plan.starts.len() * windows.starts.len()) as u64 * rows as u64;
        let bytes = network(&windows)
            .saturating_add(plan.network_bytes())
            .saturating_add(plan.blend_bytes());
        Ok(RestorePlan {
            regions: plan,
            windows,
            rows,
            evaluations: seen.saturating_mul(evaluations),
            bytes,
        })
    }

    /// Channels of a result: statistics × layers.
    #[must_use]
    pub fn channels(&self, layers: usize) -> usize {
        let deviation = usize::from(self.config.samples > 1);
        (1 + deviation + self.config.quantiles.len()) * layers.max(1)
    }

    /// Restores a region; `at` is the place of its first pixel in the image, below 0 where it was
    /// padded, and `slice` the number of the slice, or of the one before the `layers`. `progress` is
    /// told how many windows the network has seen and how many it will; an error of it stops.
    ///
    /// Channels are means of all layers, then standard deviations of all if there are several
    /// samples, then each quantile of all. Rows inside are layer-major, as in the reference.
    ///
    /// # Shapes
    /// `condition [1, Cc, H, W]` in 0…1, of any size → `[1, statistics × layers, H, W]` in 0…1.
    ///
    /// # Errors
    /// If shapes do not fit, or the configurations each other; those of `progress`.
    pub fn region(
        &self,
        condition: &Tensor,
        at: [i64; 2],
        slice: u64,
        layers: &[LayerPlace],
        progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Tensor> {
        let [1, _, height, width] = *condition.dims() else {
            let expected = "one condition [1, Cc, H, W]";
            return Err(limpid_kernels::Error::shape("restore", expected, condition.dims()).into());
        };
        let divisor = self.needs.divisor.max(1);
        let (condition, before) = padded(&condition.to_device(&self.device)?, divisor)?;
        let condition = signed(&condition)?;
        let clip = self.config.sampling.clip;
        let estimator = Estimator { net: self.net, process: self.process, clip };
        let joint = JointDenoiser::new(estimator, &condition, &self.config.joint, divisor)?;

        let rows = self.rows(slice, layers);
        let each = self.config.sampling.evaluations(self.process)? * joint.windows();
        let total = (rows.len() * each) as u64;
        let mut done = 0;
        let mut count = |n: u64| {
            done += n;
            progress(done, total)
        };
        // as many chains as fill a batch
        let together = self.config.joint.batch.div_ceil(joint.windows()).clamp(1, rows.len());
        let at = [at[0] - before[0] as i64, at[1] - before[1] as i64];
        let mut drawn: Vec<Vec<f32>> = Vec::with_capacity(rows.len());
        for rows in rows.chunks(together) {
            let y = self.draw(&joint, &condition, rows, at, &mut count)?;
            let y = unsigned(&y.narrow(2, before[0], height)?.narrow(3, before[1], width)?)?;
            for row in 0..rows.len() {
                drawn.push(y.get(row)?.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        let values = self.statistics(drawn)?;
        let channels = self.channels(layers.len());
        Ok(Tensor::from_vec(values, (1, channels, height, width), &self.device)?)
    }

    /// What is drawn of a slice, layer by layer.
    fn rows(&self, slice: u64, layers: &[LayerPlace]) -> Vec<Row> {
        let samples = 0..self.config.samples.max(1) as u64;
        let of = |layer: Option<LayerPlace>| {
            samples.clone().map(move |sample| Row { sample, slice, layer })
        };
        match layers {
            [] => of(None).collect(),
            layers => layers.iter().flat_map(|layer| of(Some(*layer))).collect(),
        }
    }

    /// One restoration of each row in -1…1, together.
    fn draw(
        &self,
        joint: &JointDenoiser,
        condition: &Tensor,
        rows: &[Row],
        at: [i64; 2],
        done: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Tensor> {
        let (_, _, height, width) = condition.dims4()?;
        let places: Vec<LayerPlace> = rows.iter().filter_map(|row| row.layer).collect();
        let indices: Vec<f64> = places.iter().map(|place| place.index).collect();
        let fractions: Vec<f64> = places.iter().map(|place| place.fraction).collect();
        let reference = reference(condition, &fractions)?;
        let field = NoiseField::new(self.seed);
        let mut noise = |step| {
            let noise = field.fill(rows, step, at, [height, width], &self.config.layer_noise)?;
            Ok(noise.to_device(&self.device)?)
        };
        let mut estimate = |x: &Tensor, level: &Level| joint.estimate(x, &indices, level, done);
        let sampling = &self.config.sampling;
        sampling.draw(self.process, condition, &reference, at, &mut noise, &mut estimate)
    }

    /// Statistics of rows, `[statistics, layers, pixels]`.
    fn statistics(&self, mut rows: Vec<Vec<f32>>) -> Result<Vec<f32>> {
        if self.config.samples <= 1 && self.config.quantiles.is_empty() {
            return Ok(if rows.len() == 1 { rows.swap_remove(0) } else { rows.concat() });
        }
        let mut layers = Vec::new();
        for samples in rows.chunks(self.config.samples.max(1)) {
            let samples: Vec<&[f32]> = samples.iter().map(Vec::as_slice).collect();
            let mut all = statistics(&samples, &self.config.quantiles)?;
            if samples.len() == 1 {
                all.remove(1);
            }
            layers.push(all);
        }
        let kinds = layers.first().map_or(0, Vec::len);
        let ordered = (0..kinds).flat_map(|kind| layers.iter().map(move |all| &all[kind]));
        Ok(ordered.flatten().copied().collect())
    }
}

/// The image with mirrored pixels around it, up to multiples of the divisor, and how many are before.
fn padded(image: &Tensor, divisor: usize) -> Result<(Tensor, [usize; 2])> {
    let mut image = image.clone();
    let mut before = [0; 2];
    for (axis, before) in [2, 3].into_iter().zip(&mut before) {
        let n = image.dims()[axis];
        let size = n.next_multiple_of(divisor);
        if n == 0 || size == n {
            continue;
        }
        *before = (size - n) / 2;
        let pixel = |i: usize| mirrored(i as isize - *before as isize, n) as u32;
        let pixels: Vec<u32> = (0..size).map(pixel).collect();
        let pixels = Tensor::from_vec(pixels, size, image.device())?;
        image = image.contiguous()?.index_select(&pixels, axis)?;
    }
    Ok((image, before))
}
