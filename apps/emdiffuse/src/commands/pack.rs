//! `emdiffuse pack`: a model in half the bytes.

use super::predict::with_keys;
use crate::model::Trained;
use limpid_arch::guided_unet;
use limpid_cli::{ComputeArgs, Failure, SetArgs, bytes, find_model, print, report};
use limpid_export::Bundle;
use std::path::PathBuf;

/// Write a model with weights of 16 bits, to hand on
#[derive(clap::Args)]
pub struct Args {
    /// Run, model file, or name of runs
    model: PathBuf,
    /// The file to write
    out: PathBuf,
    /// Keys of `[restore]`: how the model is to restore from now on.
    #[command(flatten)]
    keys: SetArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Packs.
///
/// # Errors
/// The model cannot be read or the file not be written.
pub fn run(args: &Args, program: &str) -> Result<(), Failure> {
    args.compute.apply()?;
    let path = find_model(Some(&args.model), program)?;
    let mut bundle: Bundle<guided_unet::Config> = Bundle::load(&path).map_err(Failure::data)?;
    let (origin, device) = (path.display().to_string(), candle_core::Device::Cpu);
    let Trained { mut task, .. } = Trained::of(origin, None, bundle.clone(), &device)?;
    let restore = with_keys(&task.restore, &args.keys)?;
    if restore != task.restore && task.calibration.take().is_some() {
        report("the calibration was left out: it was made for another way to restore");
    }
    task.restore = restore;
    task.put(&mut bundle.card)?;
    bundle.half().map_err(Failure::run)?.save(&args.out).map_err(Failure::data)?;
    let size = args.out.metadata().map_err(Failure::data)?.len();
    print(format!("{}: {}\n", args.out.display(), bytes(size)))
}
