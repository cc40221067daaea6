//! Slices between slices in one pass: the 3D-SR-Unet (Heinrich et al. 2017, arXiv:1706.03142) as
//! EMDiffuse trains it beside its own models (`3D-SR-Unet/`).
//!
//! A cubic interpolation says which voxels are hard, and these count up to twice: it is
//! `scipy.ndimage.zoom` of order 3 along z, so of D slices made `s·D`, slice `i` lies at
//! `i·(D - 1)/(s·D - 1)` of the given ones. **The first slices coincide and so do the last ones; those
//! between do not**, other than by chance. What the network itself gives where is decided by the
//! batches: a target whose slices `0, s, 2s…` are the input teaches it to begin at the first slice and to
//! go on by `s - 1` slices beyond the last.

use crate::restoration::padded;
use crate::scores::{Measure, Scorer};
use candle_core::{DType, Device, Tensor};
use limpid_arch::mixed;
use limpid_arch::sr_unet3d::{self, SrUNet3d};
use limpid_config::{Check, Validate};
use limpid_engine::{Batch, Error, Logs, Model, OptimizerSpec, Picture, Result, Score, Stepper};
use limpid_kernels::rng::Stream;
use limpid_losses::losses::interpolation_weighted_l2;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use limpid_nn::{Ctx, Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a prepared batch has the interpolation.
const INTERPOLATED: &str = "interpolated";

/// What is optimised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AxialConfig {
    /// The network.
    pub network: sr_unet3d::Config,
}

impl Validate for AxialConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("network", &self.network);
    }
}

/// A 3D-SR-Unet under training, or ready to predict.
pub struct AxialSuperResolution {
    net: SrUNet3d,
    params: Params,
    factor: usize,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    scorer: Scorer,
}

impl AxialSuperResolution {
    /// Builds the network with initial weights drawn from the seed, to make of each slice `factor`.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn new(
        config: &AxialConfig,
        factor: usize,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        measure: Measure,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::new();
        let scope = params.scope(Stream::new(seed, "init"), DType::F32, device);
        let net = SrUNet3d::new(&config.network, &scope)?;
        let scorer = Scorer { measure, drawn: false };
        Ok(Self { net, params, factor, optimizer, schedule, scorer })
    }

    /// The loss of a prepared batch.
    ///
    /// # Shapes
    /// `input [N, D, H, W]`, `target` and `interpolated [N, s·D, H, W]`, H and W multiples of 4.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn loss(&self, batch: &Batch, ctx: &Ctx) -> Result<Tensor> {
        let input = batch.get("input")?;
        let y = forward(&self.net, input, self.factor, ctx)?;
        Ok(interpolation_weighted_l2(&y, batch.get("target")?, batch.get(INTERPOLATED)?)?)
    }
}

/// What a network makes of the slices of volumes, which are the channels.
///
/// # Shapes
/// `x [N, D, H, W]` → `[N, factor·D, H, W]`, of any height and width
///
/// # Errors
/// If shapes do not fit, or the factor is odd.
pub fn finer_slices(net: &SrUNet3d, x: &Tensor, factor: usize, ctx: &Ctx) -> Result<Tensor> {
    padded(x, &[4, 4], |x| forward(net, x, factor, ctx))
}

/// [`finer_slices`] of height and width that are multiples of 4.
fn forward(net: &SrUNet3d, x: &Tensor, factor: usize, ctx: &Ctx) -> Result<Tensor> {
    Ok(mixed(x, || net.forward(&x.unsqueeze(1)?, factor, ctx))?.squeeze(1)?)
}

/// A volume with `factor` times as many slices from the first to the last, by cubic interpolation.
///
/// # Shapes
/// `x [N, D, H, W]` → `[N, factor·D, H, W]`
///
/// # Errors
/// If `x` is no batch of slices.
pub fn interpolate_slices(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (n, d, h, w) = x.dims4()?;
    // interpolation is linear: its matrix is what it makes of each slice alone
    let unit: Vec<f64> = (0..d * d).map(|i| f64::from(u8::from(i % (d + 1) == 0))).collect();
    let matrix = limpid_classical::zoom(&unit, &[d, d], &[factor * d, d])
        .map_err(|e| Error::Data(Box::new(e)))?;
    let matrix = Tensor::from_vec(matrix, (factor * d, d), x.device())?.to_dtype(x.dtype())?;
    let lines = x.reshape((n, d, h * w))?;
    Ok(matrix.broadcast_matmul(&lines)?.reshape((n, factor * d, h, w))?)
}

impl Model for AxialSuperResolution {
    /// Adds the interpolation of the input.
    fn prepare(&self, mut batch: Batch, _: &Ctx) -> Result<Batch> {
        let up = interpolate_slices(batch.get("input")?, self.factor)?;
        batch.tensors.insert(INTERPOLATED.to_owned(), up);
        Ok(batch)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn train_step(&mut self, batch: &Batch, step: &mut Stepper<'_>) -> Result<()> {
        let loss = self.loss(batch, step.ctx())?;
        step.log("loss", &loss);
        step.minimise("net", &loss)
    }

    /// PSNR and SSIM, and by how much PSNR is above that of the interpolation.
    fn validation_step(&self, batch: &Batch, ctx: &Ctx) -> Result<Vec<Logs>> {
        // as volumes: a slice that interpolation meets exactly has no finite PSNR
        let volumes = volumes(batch)?;
        let input = batch.get("input")?;
        let truth = self.scorer.truth(&volumes)?.ok_or_else(|| Error::Setting {
            message: "validation of slices between slices needs the truth".into(),
            hint: "give isotropic volumes".into(),
        })?;
        let y = self.predict(input, ctx)?.unsqueeze(1)?;
        let up = interpolate_slices(input, self.factor)?.unsqueeze(1)?;
        (0..batch.len())
            .map(|i| self.scorer.scores(&up.get(i)?, &y.get(i)?, &truth.get(i)?))
            .collect()
    }

    /// # Shapes
    /// `[N, D, H, W]` → `[N, s·D, H, W]`, of any height and width
    fn predict(&self, input: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        finer_slices(&self.net, input, self.factor, ctx)
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
        let predict = |x: &Tensor| Ok(self.predict(&x.squeeze(1)?, ctx)?.unsqueeze(1)?);
        self.scorer.pictures(&volumes(batch)?, &predict)
    }
}

/// A batch of slices as one of volumes, `[N, D, H, W]` → `[N, 1, D, H, W]`.
fn volumes(batch: &Batch) -> Result<Batch> {
    let volume = |(name, slices): (&String, &Tensor)| Ok((name.clone(), slices.unsqueeze(1)?));
    let tensors = batch.tensors.iter().map(volume).collect::<Result<_>>()?;
    Ok(Batch { tensors, ids: batch.ids.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_engine::SampleId;
    use limpid_nn::Init;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn model(factor: usize) -> AxialSuperResolution {
        AxialSuperResolution::new(
            &AxialConfig { network: sr_unet3d::Config { channels: [4, 4, 4] } },
            factor,
            OptimizerConfig::default(),
            ScheduleConfig::default(),
            Measure { data_range: 1.0, denormalise: Arc::new(|_| {}), truth: true },
            1,
            &Device::Cpu,
        )
        .unwrap()
    }

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        let init = Init::Uniform { low: 0.0, high: 1.0 };
        init.tensor(shape, Stream::new(seed, "axial"), DType::F32, &Device::Cpu).unwrap()
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_interpolation_is_that_of_whole_volumes() {
        let x = random(1, &[2, 3, 4, 5]);
        let y = interpolate_slices(&x, 4).unwrap();
        assert_eq!(y.dims(), [2, 12, 4, 5]);
        for i in 0..2 {
            let alone = numbers(&x.get(i).unwrap());
            let want = limpid_classical::zoom(&alone, &[3, 4, 5], &[12, 4, 5]).unwrap();
            let got = numbers(&y.get(i).unwrap());
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
            // the first slice is the first, the last the last
            assert!(got[..20].iter().zip(&alone[..20]).all(|(a, b)| (a - b).abs() < 1e-6));
            assert!(got[220..].iter().zip(&alone[40..]).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn hard_voxels_count_twice_as_much() {
        let model = model(2);
        let input = Tensor::full(0.5f32, (1, 2, 4, 4), &Device::Cpu).unwrap();
        // the interpolation is 0.5 everywhere: wrong in half of the slices
        let target = Tensor::cat(
            &[
                Tensor::full(0.5f32, (1, 2, 4, 4), &Device::Cpu).unwrap(),
                Tensor::full(0.9f32, (1, 2, 4, 4), &Device::Cpu).unwrap(),
            ],
            1,
        )
        .unwrap();
        let tensors = BTreeMap::from([("input".into(), input.clone()), ("target".into(), target)]);
        let batch = Batch { tensors, ids: Vec::new() };
        let y = numbers(&forward(&model.net, &input, 2, &Ctx::eval()).unwrap());
        let square = |range: std::ops::Range<usize>, target: f64| -> f64 {
            y[range].iter().map(|y| (y - target).powi(2)).sum()
        };
        let want = (0.5 * square(0..32, 0.5) + square(32..64, 0.9)) / 64.0;
        let batch = model.prepare(batch, &Ctx::eval()).unwrap();
        let loss = numbers(&model.loss(&batch, &Ctx::eval()).unwrap())[0];
        assert!((loss / want - 1.0).abs() < 1e-5, "{loss} {want}");
    }

    #[test]
    fn any_size_is_predicted_and_scored_beside_the_interpolation() {
        let model = model(2);
        let (input, target) = (random(1, &[2, 3, 7, 9]), random(2, &[2, 6, 7, 9]));
        let id = |index| SampleId { file: "a".into(), index, region: Vec::new() };
        let tensors = BTreeMap::from([("input".into(), input.clone()), ("target".into(), target)]);
        let batch = Batch { tensors, ids: vec![id(0), id(1)] };
        assert_eq!(model.predict(&input, &Ctx::eval()).unwrap().dims(), [2, 6, 7, 9]);
        let scores = model.validation_step(&batch, &Ctx::eval()).unwrap();
        assert_eq!(scores.len(), 2);
        for scores in scores {
            assert!(scores["psnr"].is_finite() && scores["psnr_gain"].is_finite());
        }
        assert_eq!(model.pictures(&batch, &Ctx::eval()).unwrap().len(), 1);
    }
}
