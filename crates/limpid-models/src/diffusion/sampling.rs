//! Drawing restorations: what all ways of it share, and that of images which the network sees whole.

use super::combine::combine;
use super::{
    GridConfig, Guide, GuideConfig, Level, ProcessConfig, SamplerConfig, Start, evaluations, sample,
};
use candle_core::Tensor;
use limpid_arch::NoisePredictor;
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_nn::Ctx;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How restorations are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// How to go from level to level.
    pub sampler: SamplerConfig,
    /// The levels.
    pub grid: GridConfig,
    /// What it starts from.
    pub start: Start,
    /// What corrects it on the way.
    pub guide: GuideConfig,
    /// Bounds of clean estimates, in the network's intensities (-1 to 1).
    pub clip: Option<[f64; 2]>,
}

impl Default for SamplingConfig {
    /// Ten evaluations from the noised condition on.
    fn default() -> Self {
        Self {
            sampler: SamplerConfig::DpmSolver { order: 2, stochastic: false },
            grid: GridConfig::LogSnr { steps: 10, start: 0.05, end: 0.999 },
            start: Start::Condition {},
            guide: GuideConfig::None {},
            clip: Some([-1.0, 1.0]),
        }
    }
}

impl Validate for SamplingConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("sampler", &self.sampler);
        at.nested("grid", &self.grid);
        at.nested("guide", &self.guide);
        if let Some([low, high]) = self.clip
            && !(low < high)
        {
            at.problem("clip", format!("must be a lower and a higher bound, got {low} and {high}"));
        }
    }
}

impl SamplingConfig {
    /// How often the network is asked.
    ///
    /// # Errors
    /// If the grid does not fit the process.
    pub fn evaluations(&self, process: &ProcessConfig) -> Result<usize> {
        Ok(evaluations(&self.sampler, &self.grid.levels(process)?))
    }

    /// Draws one restoration of each row in -1…1; `estimate` is asked for clean images. `at` is where
    /// they begin in the whole image.
    ///
    /// # Shapes
    /// `condition [1 or N, Cc, H, W]` and `reference [1 or N, 1, H, W]` in -1…1; `noise` as in
    /// [`Restorer::draw`], whose N is that of the result.
    pub(super) fn draw(
        &self,
        process: &ProcessConfig,
        condition: &Tensor,
        reference: &Tensor,
        at: [i64; 2],
        noise: &mut dyn FnMut(usize) -> Result<Tensor>,
        estimate: &mut dyn FnMut(&Tensor, &Level) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let levels = self.grid.levels(process)?;
        let guide: Box<dyn Guide> = self.guide.guide(reference, condition, at)?;
        let start = noise(levels.len())?;
        let reference = reference.broadcast_as(start.shape())?;
        let start = self.start.state(&self.grid, &levels, &reference, &start)?;
        let mut observe = |_: &_, _: &Tensor, _: &Tensor| Ok(());
        sample(&self.sampler, &levels, start, &*guide, noise, estimate, &mut observe)
    }
}

/// A network, what its answers mean and what clean images can be: enough to estimate them.
#[derive(Clone, Copy)]
pub struct Estimator<'a> {
    /// Answers at any level.
    pub net: &'a dyn NoisePredictor,
    /// What the answers mean.
    pub process: &'a ProcessConfig,
    /// Bounds of clean estimates, in -1…1.
    pub clip: Option<[f64; 2]>,
}

impl Estimator<'_> {
    /// The clean images that states `x` tell of, of windows that the network sees whole.
    ///
    /// # Shapes
    /// `x [N, 1, H, W]`, `condition [N, Cc, H, W]` in -1…1, `layers [N]` → `[N, 1, H, W]` in -1…1.
    ///
    /// # Errors
    /// Those of the network and the process.
    pub fn estimate(
        &self,
        x: &Tensor,
        condition: &Tensor,
        layers: Option<&Tensor>,
        at: &Level,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        let seen = self.process.input(x, &[*at])?;
        let level = Level::inputs(&[*at], x.device())?;
        // no state remembers how it came about
        let answer = self.net.predict(&seen, condition, &level, layers, ctx)?.output.detach();
        let clean = self.process.clean(&answer, x, &[*at])?;
        Ok(match self.clip {
            Some([low, high]) => clean.clamp(low, high)?,
            None => clean,
        })
    }
}

/// A network with what it was trained for.
#[derive(Clone, Copy)]
pub struct Restorer<'a> {
    /// Answers at any level.
    pub net: &'a dyn NoisePredictor,
    /// What the answers mean.
    pub process: &'a ProcessConfig,
    /// How to ask.
    pub sampling: &'a SamplingConfig,
}

/// What is restored: rows of a batch.
#[derive(Clone, Copy)]
pub struct Degraded<'a> {
    /// What the network sees, `[N, Cc, H, W]` in 0…1.
    pub condition: &'a Tensor,
    /// The condition as an estimate of the clean image, `[N, 1, H, W]` in 0…1.
    pub reference: &'a Tensor,
    /// Numbers of layers, `[N]`, for networks that draw layers between slices.
    pub layers: Option<&'a Tensor>,
}

impl Restorer<'_> {
    /// Draws one restoration of each row, `[N, 1, H, W]` in 0…1.
    ///
    /// `noise(i)` is unit normal noise of that shape, of step `i` for `i` below the number of levels
    /// and for the start at that number.
    ///
    /// # Errors
    /// If shapes do not fit, or the configurations each other.
    pub fn draw(
        &self,
        image: Degraded,
        noise: &mut dyn FnMut(usize) -> Result<Tensor>,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        let Self { net, process, sampling } = *self;
        let (condition, reference) = (signed(image.condition)?, signed(image.reference)?);
        let estimator = Estimator { net, process, clip: sampling.clip };
        let mut estimate =
            |x: &Tensor, at: &Level| estimator.estimate(x, &condition, image.layers, at, ctx);
        unsigned(&sampling.draw(process, &condition, &reference, [0, 0], noise, &mut estimate)?)
    }
}

/// The condition as an estimate of the clean image: its first channel, or between two slices their
/// interpolation at `fractions` of the way.
///
/// # Shapes
/// `condition [N, Cc, H, W]`, no fractions or N; of one image as many as wanted → `[N, 1, H, W]`.
pub(super) fn reference(condition: &Tensor, fractions: &[f64]) -> Result<Tensor> {
    if fractions.is_empty() {
        return Ok(condition.narrow(1, 0, 1)?);
    }
    let slice = |i| -> Result<Tensor> {
        let slice = condition.narrow(1, i, 1)?;
        let [n, channels, height, width] = *slice.dims() else { return Ok(slice) };
        let rows = if n == 1 { fractions.len() } else { n };
        Ok(slice.broadcast_as((rows, channels, height, width))?)
    };
    // EMDiffuse's input has the slice after the gap first
    let before: Vec<f64> = fractions.iter().map(|after| 1.0 - after).collect();
    combine(&[(&slice(0)?, fractions), (&slice(1)?, &before)])
}

/// From 0…1 to -1…1, which networks see.
pub(super) fn signed(x: &Tensor) -> Result<Tensor> {
    Ok(x.affine(2.0, -1.0)?)
}

/// From -1…1 to 0…1.
pub(super) fn unsigned(x: &Tensor) -> Result<Tensor> {
    Ok(x.affine(0.5, 0.5)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Exact;
    use super::super::{LayerNoise, NoiseField, Row};
    use super::*;
    use candle_core::Device;

    #[test]
    fn draws_have_the_mean_and_the_spread_of_the_truth() {
        // x0 ~ N(condition, 0.04) in -1…1 at every pixel
        let net = Exact { variance: 0.04 };
        let process = ProcessConfig::default();
        let (n, side) = (4, 64);
        let condition = Tensor::full(0.6f32, (n, 1, side, side), &Device::Cpu).unwrap();
        let field = NoiseField::new(3);
        let rows: Vec<Row> =
            (0..n as u64).map(|sample| Row { sample, slice: 0, layer: None }).collect();
        for (sampler, start, tolerance) in [
            (SamplerConfig::DpmSolver { order: 2, stochastic: false }, 1e-4, 0.04),
            (SamplerConfig::UniPc { order: 2 }, 1e-4, 0.04),
            (SamplerConfig::Heun {}, 1e-4, 0.04),
        ] {
            let sampling = SamplingConfig {
                sampler,
                grid: GridConfig::LogSnr { steps: 40, start, end: 0.9999 },
                start: Start::Noise {},
                clip: None,
                ..SamplingConfig::default()
            };
            let restorer = Restorer { net: &net, process: &process, sampling: &sampling };
            let mut noise =
                |step| field.fill(&rows, step, [0, 0], [side, side], &LayerNoise::Independent {});
            let image = Degraded { condition: &condition, reference: &condition, layers: None };
            let y = restorer.draw(image, &mut noise, &Ctx::eval()).unwrap();
            let v = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mean = v.iter().map(|&v| f64::from(v)).sum::<f64>() / v.len() as f64;
            let square = v.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
            let deviation = (square / v.len() as f64).sqrt();
            assert!((mean - 0.6).abs() < 0.003, "{sampler:?}: mean {mean}");
            // 0.2 in -1…1 is 0.1 in 0…1
            assert!((deviation / 0.1 - 1.0).abs() < tolerance, "{sampler:?}: {deviation}");
        }
    }

    #[test]
    fn a_start_from_noise_needs_a_level_of_noise() {
        let net = Exact { variance: 0.04 };
        let process = ProcessConfig::default();
        let sampling = SamplingConfig { start: Start::Noise {}, ..SamplingConfig::default() };
        let restorer = Restorer { net: &net, process: &process, sampling: &sampling };
        let condition = Tensor::full(0.5f32, (1, 1, 8, 8), &Device::Cpu).unwrap();
        let image = Degraded { condition: &condition, reference: &condition, layers: None };
        let mut noise = |_| Ok(condition.zeros_like()?);
        let e = restorer.draw(image, &mut noise, &Ctx::eval()).unwrap_err();
        assert!(e.to_string().contains("noise alone"), "{e}");
    }

    #[test]
    fn between_slices_the_reference_is_their_interpolation() {
        let input =
            Tensor::new(&[[[[1.0f32]], [[0.0]]], [[[1.0]], [[0.5]]]], &Device::Cpu).unwrap();
        let numbers = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // the slice after the gap comes first
        let got = numbers(reference(&input, &[1.0 / 6.0, 5.0 / 6.0]).unwrap());
        assert!(
            (got[0] - 1.0 / 6.0).abs() < 1e-6 && (got[1] - (5.0 / 6.0 + 0.5 / 6.0)).abs() < 1e-6
        );
        // one pair of slices for several layers
        let pair = input.narrow(0, 1, 1).unwrap();
        assert_eq!(numbers(reference(&pair, &[0.5, 1.0, 0.0]).unwrap()), [0.75, 1.0, 0.5]);
        assert_eq!(numbers(reference(&input, &[]).unwrap()), [1.0, 1.0]);
    }
}
