//! Training steps and sampling steps that a GPU repeats by itself, beside those that it is given kernel by kernel.

use crate::text;
use crate::training::{measure, restoration, train, windows};
use candle_core::{Device, Tensor};
use limpid_arch::NoisePredictor;
use limpid_arch::guided_unet::{self, Heads};
use limpid_engine::{GpuConfig, GpuPrecision, Model};
use limpid_models::diffusion::{
    Degraded, Diffusion, DiffusionConfig, GridConfig, LayerNoise, NoiseField, ProcessConfig,
    Recorded, Restorer, Row, SamplingConfig,
};
use limpid_nn::Ctx;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;

/// A network that restores by drawing, with dropout and attention.
fn diffusion(device: &Device) -> Result<Diffusion, String> {
    let network = guided_unet::Config {
        in_channels: 2,
        inner_channels: 16,
        channels: vec![16, 16],
        res_blocks: 1,
        attention_at: vec![2],
        heads: Heads::Count { down: 1, up: 1 },
        dropout: 0.2,
        ..guided_unet::Config::emdiffuse()
    };
    Diffusion::new(
        &DiffusionConfig::default(),
        &network,
        OptimizerConfig::default(),
        ScheduleConfig::default(),
        measure(),
        1,
        device,
    )
    .map_err(text)
}

/// Trainings give the same bits whether their steps are recorded or not.
pub(super) fn trainings(device: &Device) -> Result<(), String> {
    println!("\nrecorded training steps");
    compared("restoration", device, GpuPrecision::F32, restoration)?;
    compared("restoration in f16, the loss scaled", device, GpuPrecision::F16, restoration)?;
    compared("restoration with windows", device, GpuPrecision::Bf16, windows)?;
    compared("diffusion with dropout", device, GpuPrecision::Bf16, diffusion)
}

fn compared<M: Model>(
    name: &str,
    device: &Device,
    precision: GpuPrecision,
    build: impl Fn(&Device) -> Result<M, String>,
) -> Result<(), String> {
    let mut found = Vec::new();
    for graphs in [false, true] {
        let folder = tempfile::tempdir().map_err(text)?;
        let mut model = build(device)?;
        let config = GpuConfig { graphs, precision, ..GpuConfig::default() };
        let heard = train(folder.path(), &mut model, device, config);
        limpid_kernels::set_precision(limpid_kernels::Precision::F32);
        let heard = heard?;
        if let Some(warning) = heard.warnings.first() {
            return Err(format!("{name}: {warning}"));
        }
        let weights = model.params().tensors();
        let weights = weights.values().map(bits).collect::<Result<Vec<_>, _>>()?;
        found.push((heard.losses, weights));
    }
    let [(losses, weights), (recorded_losses, recorded_weights)] = found.as_slice() else {
        return Err("two trainings expected".into());
    };
    if let Some(step) = (0..losses.len()).find(|&i| losses[i] != recorded_losses[i]) {
        let (a, b) = (losses[step], recorded_losses[step]);
        return Err(format!("{name}: the loss of step {} is {a}, recorded {b}", step + 1));
    }
    if weights != recorded_weights {
        return Err(format!("{name}: weights have other bits"));
    }
    println!("{name}: {} steps and {} weights have the same bits", losses.len(), weights.len());
    Ok(())
}

fn bits(t: &Tensor) -> Result<Vec<u32>, String> {
    let values = t.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(text)?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

/// Restorations have the same bits whether the sampler's steps are recorded or not.
pub(super) fn sampling(device: &Device) -> Result<(), String> {
    println!("\nrecorded sampling steps");
    let model = diffusion(device)?;
    let _no_grad = model.params().no_grad();
    let process = ProcessConfig::default();
    let sampling = SamplingConfig {
        grid: GridConfig::LogSnr { steps: 8, start: 1e-3, end: 0.999 },
        ..SamplingConfig::default()
    };
    let recorded = Recorded::new(model.net());
    let nets: [&dyn NoisePredictor; 2] = [model.net(), &recorded];
    // the second image has other values, the third another size
    for (image, side) in [(0, 16), (1, 16), (2, 24)] {
        let condition = Tensor::full(0.3 + 0.2 * image as f32, (2, 1, side, side), device);
        let condition = condition.map_err(text)?;
        let rows = [0, 1].map(|sample| Row { sample, slice: image, layer: None });
        let drawn = nets.map(|net| {
            let restorer = Restorer { net, process: &process, sampling: &sampling };
            let mut noise = |step| {
                let independent = LayerNoise::Independent {};
                let noise =
                    NoiseField::new(3).fill(&rows, step, [0, 0], [side, side], &independent)?;
                Ok(noise.to_device(device)?)
            };
            let degraded = Degraded { condition: &condition, reference: &condition, layers: None };
            let y = restorer.draw(degraded, &mut noise, &Ctx::eval()).map_err(text)?;
            bits(&y)
        });
        let [plain, recorded] = drawn;
        if plain? != recorded? {
            return Err(format!("restoration {image} has other bits when recorded"));
        }
    }
    if let Some(why) = recorded.refusal() {
        return Err(format!("steps are not recorded: {why}"));
    }
    println!("three restorations of 8 steps have the same bits");
    Ok(())
}
