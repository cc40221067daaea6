//! Drawing restorations of images that the network sees whole.

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
    /// How often the network is asked.
    ///
    /// # Errors
    /// If the grid does not fit the process.
    pub fn evaluations(&self) -> Result<usize> {
        Ok(evaluations(&self.sampling.sampler, &self.sampling.grid.levels(self.process)?))
    }

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
        let levels = self.sampling.grid.levels(self.process)?;
        let (condition, reference) = (signed(image.condition)?, signed(image.reference)?);
        let guide: Box<dyn Guide> = self.sampling.guide.guide(&reference, &condition)?;
        let start = noise(levels.len())?;
        let start = self.sampling.start.state(&self.sampling.grid, &levels, &reference, &start)?;
        let mut estimate = |x: &Tensor, at: &Level| -> Result<Tensor> {
            let seen = self.process.input(x, &[*at])?;
            let level = Level::inputs(&[*at], x.device())?;
            let answer = self.net.predict(&seen, &condition, &level, image.layers, ctx)?.output;
            let clean = self.process.clean(&answer, x, &[*at])?;
            Ok(match self.sampling.clip {
                Some([low, high]) => clean.clamp(low, high)?,
                None => clean,
            })
        };
        let mut observe = |_: &_, _: &Tensor, _: &Tensor| Ok(());
        let sampler = &self.sampling.sampler;
        let x = sample(sampler, &levels, start, &*guide, noise, &mut estimate, &mut observe)?;
        unsigned(&x)
    }
}

/// From 0…1 to -1…1, which networks see.
pub(super) fn signed(x: &Tensor) -> Result<Tensor> {
    Ok(x.affine(2.0, -1.0)?)
}

/// From -1…1 to 0…1.
fn unsigned(x: &Tensor) -> Result<Tensor> {
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
}
