//! Training on a GPU: beside the CPU's, and killed and gone on with.

use crate::text;
use candle_core::{Device, Tensor};
use limpid_arch::{NetworkConfig, basic_unet, swinir};
use limpid_engine::{
    Batch, Batches, BoxError, CheckpointConfig, Checkpoints, DataModule, Event, GpuConfig, Loader,
    MemoryPlan, Model, RunDir, SampleId, Sink, TrainConfig, Trainer,
};
use limpid_kernels::rng::Stream;
use limpid_models::{Measure, ModelConfig, Restoration};
use limpid_nn::layers::NormConfig;
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Optimizer steps of a training.
const STEPS: u64 = 20;
/// Batches of an epoch.
const BATCHES: u64 = 8;
/// How far the losses of two machines may lie apart after [`STEPS`] steps of Adam, relatively.
const TOLERANCE: f64 = 1e-3;

/// Noisy squares.
struct Squares;

impl Loader for Squares {
    fn batches(&self) -> u64 {
        BATCHES
    }

    fn epoch(&self, epoch: u64, first: u64) -> Batches<'_> {
        Box::new((first..BATCHES).map(move |i| {
            const SHAPE: [usize; 4] = [2, 1, 32, 32];
            let count = SHAPE.iter().product();
            let clean: Vec<f32> = (0..count)
                .map(|p: usize| if (p / 8 + p / 256).is_multiple_of(2) { 0.8 } else { 0.2 })
                .collect();
            let mut noisy = vec![0f32; count];
            Stream::new(3, "squares").at(epoch, i).fill_normal(&mut noisy);
            noisy.iter_mut().zip(&clean).for_each(|(noise, clean)| *noise = clean + 0.1 * *noise);
            let tensor = |values| Tensor::from_vec(values, &SHAPE, &Device::Cpu);
            let id = |index| SampleId { file: "squares".into(), index, region: Vec::new() };
            Ok(Batch {
                tensors: BTreeMap::from([
                    ("input".to_owned(), tensor(noisy)?),
                    ("target".to_owned(), tensor(clean)?),
                ]),
                ids: vec![id(0), id(1)],
            })
        }))
    }
}

impl DataModule for Squares {
    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError> {
        Ok(Box::new(Self))
    }

    fn validation(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        Ok(Vec::new())
    }

    fn fingerprint(&self) -> String {
        "squares".into()
    }
}

/// What is heard of a training.
#[derive(Default)]
pub(super) struct Heard {
    /// The losses of the steps.
    pub losses: Vec<f64>,
    pub warnings: Vec<String>,
    pub memory: Option<MemoryPlan>,
}

impl Sink for Heard {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step { logs, .. } => self.losses.extend(logs.get("loss")),
            Event::Warning { message } => self.warnings.push(message.clone()),
            Event::Memory(plan) => self.memory = Some(*plan),
            _ => {}
        }
    }
}

/// A network that restores in one pass.
pub(super) fn restoration(device: &Device) -> Result<Restoration, String> {
    let network = NetworkConfig::BasicUnet(basic_unet::Config {
        features: [8, 8, 16, 16, 16, 8],
        norm: NormConfig::Instance { affine: true },
        ..basic_unet::Config::default()
    });
    restoring(&network, device)
}

/// The same with shifted windows.
pub(super) fn windows(device: &Device) -> Result<Restoration, String> {
    let network = NetworkConfig::Swinir(swinir::Config {
        width: 16,
        depths: vec![2],
        heads: vec![2],
        window: 4,
        drop_path: 0.0,
        ..swinir::Config::default()
    });
    restoring(&network, device)
}

fn restoring(network: &NetworkConfig, device: &Device) -> Result<Restoration, String> {
    Restoration::new(
        &ModelConfig::default(),
        network,
        OptimizerConfig::default(),
        ScheduleConfig::default(),
        measure(),
        1,
        device,
    )
    .map_err(text)
}

pub(super) fn measure() -> Measure {
    Measure { data_range: 1.0, denormalise: Arc::new(|_| ()), truth: false }
}

/// Trains a model in a folder, going on with what is there.
pub(super) fn train(
    folder: &Path,
    model: &mut dyn Model,
    device: &Device,
    gpu: GpuConfig,
) -> Result<Heard, String> {
    let config = TrainConfig {
        steps: STEPS,
        log_every: 1,
        validate_every: 0,
        checkpoint: CheckpointConfig { every_steps: 5, ..CheckpointConfig::default() },
        gpu,
        ..TrainConfig::default()
    };
    let mut run = RunDir::open_or_create(folder, "check", "", false).map_err(text)?;
    let mut heard = Heard::default();
    let mut trainer = Trainer::new(config, 1);
    trainer.device = device.clone();
    trainer.fit(model, &Squares, &mut run, &mut heard).map_err(text)?;
    Ok(heard)
}

/// Trains in a folder.
pub(super) fn in_folder(folder: &Path, device: &Device) -> Result<(), String> {
    train(folder, &mut restoration(device)?, device, GpuConfig::default()).map(drop)
}

/// The same training on the GPU and on the CPU.
pub(super) fn compared(device: &Device) -> Result<(), String> {
    println!("\ntraining, {STEPS} steps");
    let mut found = Vec::new();
    for device in [&Device::Cpu, device] {
        let folder = tempfile::tempdir().map_err(text)?;
        let mut model = restoration(device)?;
        let heard = train(folder.path(), &mut model, device, GpuConfig::default())?;
        if let Some(plan) = heard.memory {
            println!("{plan}");
        }
        found.push(heard.losses);
    }
    let [cpu, gpu] = found.as_slice() else { return Err("two trainings expected".into()) };
    if cpu.len() != gpu.len() || cpu.is_empty() {
        return Err(format!("{} steps on the CPU, {} on the GPU", cpu.len(), gpu.len()));
    }
    let mut worst = 0f64;
    for (step, (a, b)) in cpu.iter().zip(gpu).enumerate() {
        let error = (a - b).abs() / a.abs();
        worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        if step % 5 == 4 || step == 0 {
            println!("step {:3}  loss {a:.6} on the CPU, {b:.6} on the GPU", step + 1);
        }
    }
    println!("worst difference of a loss {worst:.1e} (tolerance {TOLERANCE:.0e})");
    if worst <= TOLERANCE { Ok(()) } else { Err(format!("losses lie {worst:.1e} apart")) }
}

/// A training that is killed outright and gone on with ends with the bits of one that is not.
pub(super) fn killed(gpu: usize) -> Result<(), String> {
    println!("\nkilled and gone on with");
    let program = std::env::current_exe().map_err(text)?;
    let start = |folder: &Path| {
        let mut command = Command::new(&program);
        command.arg("--gpu").arg(gpu.to_string()).arg("--train").arg(folder);
        command.stdout(Stdio::null()).spawn().map_err(text)
    };
    let finish = |folder: &Path| {
        let status = start(folder)?.wait().map_err(text)?;
        if status.success() { Ok(()) } else { Err(format!("a training failed ({status})")) }
    };
    let [whole, broken] = [tempfile::tempdir().map_err(text)?, tempfile::tempdir().map_err(text)?];
    finish(whole.path())?;
    let mut child = start(broken.path())?;
    let began = Instant::now();
    while checkpoint(broken.path()).is_none_or(|(step, _)| step == 0 || step >= STEPS) {
        if child.try_wait().map_err(text)?.is_some() {
            break;
        }
        if began.elapsed() > Duration::from_secs(300) {
            let _ = child.kill();
            return Err("no checkpoint within five minutes".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().map_err(text)?;
    let at = checkpoint(broken.path()).map_or(0, |(step, _)| step);
    if at >= STEPS {
        return Err("the training had ended before it was killed".into());
    }
    finish(broken.path())?;
    let (Some((end, a)), Some((_, b))) = (checkpoint(whole.path()), checkpoint(broken.path()))
    else {
        return Err("a training left no checkpoint".into());
    };
    println!("killed with a checkpoint of step {at}, gone on to step {end}");
    let (a, b) = (Checkpoints::weights(&a).map_err(text)?, Checkpoints::weights(&b).map_err(text)?);
    let bits = |t: &Tensor| -> Result<Vec<u32>, String> {
        let values = t.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(text)?;
        Ok(values.into_iter().map(f32::to_bits).collect())
    };
    for (name, tensor) in &a {
        let other = b.get(name).ok_or_else(|| format!("no weight `{name}` after the kill"))?;
        if bits(tensor)? != bits(other)? {
            return Err(format!("`{name}` has other bits after the kill"));
        }
    }
    println!("{} weights have the same bits", a.len());
    Ok(())
}

/// Step and folder of the latest checkpoint of the only run in a folder.
fn checkpoint(folder: &Path) -> Option<(u64, std::path::PathBuf)> {
    let run = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).find(|e| e.path().is_dir())?;
    let list = Checkpoints::new(&run.path().join("checkpoints")).list();
    list.into_iter().max_by_key(|info| info.step).map(|info| (info.step, info.path))
}
