//! Joint denoising: one state over a whole region, estimated window by window at every step.
//!
//! As MultiDiffusion (Bar-Tal et al. 2023, arXiv:2302.08113, eq. 5), but what is averaged are clean
//! estimates, after clipping, with weights that fade towards the edges of a window. The sampler moves
//! the whole field, so windows see each other's pixels from step to step and no seam can grow.

use super::Level;
use super::sampling::Estimator;
use candle_core::{DType, Tensor};
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_engine::infer::{Blend, Needs, Padding, Plan, TileConfig, Tta};
use limpid_nn::Ctx;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How images that are larger than the network's window are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JointConfig {
    /// Side of the windows that the network sees, in pixels. Group norms and attention depend on
    /// it: best near the size of the training patches.
    pub window: usize,
    /// Pixels that neighbouring windows share at least; an eighth of the window in any case.
    pub overlap: usize,
    /// Windows of rows (samples and layers) that the network sees at a time.
    pub batch: usize,
    /// Memory for drawing, in MiB (an estimate): the network and the state of a region. Images that
    /// need more are drawn in regions, which are blended at the end.
    pub region_mib: usize,
}

impl Default for JointConfig {
    fn default() -> Self {
        Self { window: 256, overlap: 64, batch: 1, region_mib: 2048 }
    }
}

impl Validate for JointConfig {
    fn validate(&self, at: &mut Check) {
        if !(8..=1 << 16).contains(&self.window) {
            at.problem("window", format!("must be from 8 to 65536, got {}", self.window));
        }
        if self.overlap > self.window / 2 {
            let message = format!(
                "must be at most half of `window`, {}, got {}",
                self.window / 2,
                self.overlap
            );
            at.problem("overlap", message);
        }
        if !(1..=1 << 16).contains(&self.batch) {
            at.problem("batch", format!("must be from 1 to 65536, got {}", self.batch));
        }
        if self.region_mib > 1 << 30 {
            at.problem("region_mib", format!("must be at most 2^30, got {}", self.region_mib));
        }
    }
}

impl JointConfig {
    /// The windows of a region.
    ///
    /// The overlap stands for the receptive field: halos by the true one would let windows advance
    /// by 3/8 of their size only, at every step. What a halo is for, windows get from the state,
    /// which is one over all of them.
    ///
    /// # Errors
    /// [`limpid_engine::Error::Setting`] if there are too many.
    pub fn plan(&self, region: [usize; 2], divisor: usize) -> Result<Plan> {
        let divisor = divisor.max(1);
        let field = region.map(|n| {
            let size = self.window.min(n).next_multiple_of(divisor);
            self.overlap.saturating_sub((size / 8).max(1)) / 2 * 2
        });
        let tiles = TileConfig {
            size: vec![self.window; 2],
            blend: Blend::Cosine {},
            batch: self.batch,
            tta: Tta::None,
            padding: Padding::Reflect,
            budget_mib: 0,
        };
        let needs = Needs {
            divisor: vec![divisor; 2],
            any_size_from: None,
            fixed_size: None,
            receptive_field: field.to_vec(),
            bytes_per_pixel: 0,
            channels: 1,
        };
        Plan::new(&tiles, &needs, &region)
    }
}

/// Estimates clean images of a region through windows.
pub struct JointDenoiser<'a> {
    estimator: Estimator<'a>,
    condition: Tensor,
    windows: Vec<Window>,
    size: [usize; 2],
    batch: usize,
}

/// A window and its share in the weighted mean of those before it and itself, pixel by pixel; none of
/// the only one.
struct Window {
    start: [usize; 2],
    share: Vec<f32>,
}

impl<'a> JointDenoiser<'a> {
    /// # Shapes
    /// `condition [1, Cc, H, W]` in -1…1, with H and W multiples of `divisor`.
    ///
    /// # Errors
    /// If it has another shape, or there are too many windows.
    pub fn new(
        estimator: Estimator<'a>,
        condition: &Tensor,
        config: &JointConfig,
        divisor: usize,
    ) -> Result<Self> {
        let [1, _, height, width] = *condition.dims() else {
            return Err(misfit("one condition [1, Cc, H, W]", condition));
        };
        if height % divisor.max(1) != 0 || width % divisor.max(1) != 0 {
            return Err(misfit(&format!("sizes that are multiples of {divisor}"), condition));
        }
        let plan = config.plan([height, width], divisor)?;
        let size = [plan.size[0], plan.size[1]];
        let windows = if plan.starts.len() == 1 {
            vec![Window { start: [0, 0], share: Vec::new() }]
        } else {
            shares(&plan, [height, width])
        };
        let batch = config.batch.max(1);
        Ok(Self { estimator, condition: condition.clone(), windows, size, batch })
    }

    /// Number of windows.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The clean images that states `x` at a level tell of; `done` is told of every batch how many
    /// windows of rows it had.
    ///
    /// # Shapes
    /// `x [M, 1, H, W]` f32, with the size of the condition; `layers` empty or M numbers →
    /// `[M, 1, H, W]` in -1…1.
    ///
    /// # Errors
    /// If shapes do not fit; those of the network and of `done`.
    pub fn estimate(
        &self,
        x: &Tensor,
        layers: &[f64],
        at: &Level,
        done: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Tensor> {
        let (rows, _, height, width) = x.dims4()?;
        let whole = self.windows.len() == 1;
        if [height, width] != self.condition.dims()[2..] {
            let expected = format!("states as large as the condition, {:?}", self.condition.dims());
            return Err(misfit(&expected, x));
        }
        let mut parts = Vec::new();
        let mut field = if whole { Vec::new() } else { vec![0f32; rows * height * width] };
        let jobs: Vec<(usize, usize)> =
            (0..self.windows.len()).flat_map(|w| (0..rows).map(move |row| (w, row))).collect();
        for jobs in jobs.chunks(self.batch) {
            let clean = self.batch(x, layers, jobs, at)?;
            if whole {
                parts.push(clean);
            } else {
                let clean = clean.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                for ((w, row), clean) in jobs.iter().zip(clean.chunks(self.size[0] * self.size[1]))
                {
                    let field = &mut field[row * height * width..][..height * width];
                    self.blend(&self.windows[*w], clean, field, width);
                }
            }
            done(jobs.len() as u64)?;
        }
        match parts.as_slice() {
            [] => Ok(Tensor::from_vec(field, x.shape(), x.device())?),
            [one] => Ok(one.clone()),
            parts => Ok(Tensor::cat(parts, 0)?),
        }
    }

    /// Clean images of windows of rows.
    fn batch(
        &self,
        x: &Tensor,
        layers: &[f64],
        jobs: &[(usize, usize)],
        at: &Level,
    ) -> Result<Tensor> {
        let (mut states, mut conditions) = (Vec::new(), Vec::new());
        // rows of one window follow each other
        for run in jobs.chunk_by(|a, b| a.0 == b.0) {
            let (window, first) = run[0];
            let [y, x_] = self.windows[window].start;
            let cut = |t: &Tensor| t.narrow(2, y, self.size[0])?.narrow(3, x_, self.size[1]);
            states.push(cut(&x.narrow(0, first, run.len())?)?);
            let condition = cut(&self.condition)?;
            let mut shape = condition.dims().to_vec();
            shape[0] = run.len();
            conditions.push(condition.broadcast_as(shape)?);
        }
        let numbers = |row: &(usize, usize)| layers.get(row.1).map(|layer| *layer as f32);
        let numbers: Vec<f32> = jobs.iter().filter_map(numbers).collect();
        let numbers = if layers.is_empty() {
            None
        } else {
            Some(Tensor::from_vec(numbers, jobs.len(), x.device())?)
        };
        let (x, condition) = (Tensor::cat(&states, 0)?, Tensor::cat(&conditions, 0)?);
        self.estimator.estimate(&x, &condition, numbers.as_ref(), at, &Ctx::eval())
    }

    /// Moves the mean of a row towards a window's estimate; equal values move nothing.
    fn blend(&self, window: &Window, clean: &[f32], field: &mut [f32], width: usize) {
        let [y, x] = window.start;
        let lines = clean.chunks(self.size[1]).zip(window.share.chunks(self.size[1]));
        for (line, (clean, share)) in lines.enumerate() {
            let means = &mut field[(y + line) * width + x..][..self.size[1]];
            for ((mean, clean), share) in means.iter_mut().zip(clean).zip(share) {
                if *share == 1.0 {
                    *mean = *clean;
                } else if *share > 0.0 {
                    *mean += (clean - *mean) * share;
                }
            }
        }
    }
}

/// The windows of a plan with their shares.
fn shares(plan: &Plan, [height, width]: [usize; 2]) -> Vec<Window> {
    let [_, columns] = [plan.size[0], plan.size[1]];
    let mut sums = vec![0f32; height * width];
    let window = |start: &Vec<usize>| {
        let mut share = plan.weight(start).into_owned();
        for (line, share) in share.chunks_mut(columns).enumerate() {
            let sums = &mut sums[(start[0] + line) * width + start[1]..][..columns];
            for (sum, weight) in sums.iter_mut().zip(share) {
                *sum += *weight;
                // nothing counts where it has no weight
                *weight = if *weight > 0.0 { *weight / *sum } else { 0.0 };
            }
        }
        Window { start: [start[0], start[1]], share }
    };
    plan.starts.iter().map(window).collect()
}

fn misfit(expected: &str, got: &Tensor) -> limpid_engine::Error {
    limpid_kernels::Error::shape("joint denoising", expected, got.dims()).into()
}
