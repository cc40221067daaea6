//! `train`: a network that moves the samples of a scan to the grid.

use super::{Preset, ScanArgs, failure};
use crate::config::Config;
use crate::grogify::{Learning, TrainParams};
use crate::learn::Place;
use crate::prepare::Prepared;
use crate::recon::{Method, phase};
use crate::scan::geometry_findings;
use limpid_cli::training::{Training, digest};
use limpid_cli::{Failure, HELP, RunArgs, Verbosity, print};
use limpid_mri::{Calibration, Geometry};
use std::path::PathBuf;

/// Train a network of kernels on the calibration of a scan; the same command goes on with an
/// interrupted run
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog image-based train scan.npz
  igrog basic train scan.npz --set train.steps=2000
  igrog fieldcorr train scan.npz --set network.projections=128 --set samples.batch=4096"
)]
pub struct Args {
    /// Scan: `.npz`, ISMRMRD and other `.h5`, `.mat`, or the samples alone as `.npy` or `.cfl`
    scan: PathBuf,
    /// Configuration file on top of the preset
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    run_args: RunArgs,
}

/// Trains.
///
/// # Errors
/// If the scan cannot be read, its parts do not go together, or training fails.
pub fn run(args: &Args, preset: Preset) -> Result<(), Failure> {
    let common = &args.run_args.common;
    common.apply()?;
    let device = common.open_device()?;
    let request = args.run_args.request.clone();
    let scan = ScanArgs { scan: args.scan.clone(), config: args.config.clone(), request };
    let loaded = scan.load(Some(preset))?;
    let config = &loaded.value;
    if common.dry_run {
        return print(loaded.show(true));
    }
    let quiet = common.verbosity() == Verbosity::Quiet;
    let prepared = scan.prepare(config, quiet, &[])?;
    let params = params(config, &device);
    let Learning { data, mut model, mut card } =
        learning(&prepared, config, &params).map_err(failure)?;
    let shown = [loaded.show(false), loaded.show(true)];
    card.config.clone_from(&shown[0]);
    let text = toml::to_string(config).map_err(Failure::run)?;
    let training = Training {
        args: &args.run_args,
        name: &config.name,
        seed: config.seed,
        device: device.clone(),
        train: &config.train,
        digest: digest(&text),
        shown,
        card,
        warnings: Vec::new(),
        callbacks: Vec::new(),
        program: [env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")],
    };
    training.run(&mut model, &data)
}

fn params(config: &Config, device: &candle_core::Device) -> TrainParams {
    TrainParams {
        network: config.network,
        samples: config.samples.clone(),
        optimizer: config.optimizer.clone(),
        schedule: config.schedule.clone(),
        train: config.train.clone(),
        seed: config.seed,
        device: device.clone(),
    }
}

fn learning(prepared: &Prepared, config: &Config, params: &TrainParams) -> crate::Result<Learning> {
    let scan = &prepared.scan;
    let geometry = Geometry::new(&scan.trajectory, &scan.times, &config.geometry.config())?;
    super::say(&geometry_findings(&geometry, &scan.trajectory));
    let calibration = match config.samples.from {
        Place::Image => {
            let from = match config.kernels {
                crate::config::KernelsConfig::ClosedForm { from, .. } => from,
                _ => crate::config::Calibrate::Auto,
            };
            prepared.calibration(from)?
        }
        Place::Kspace => {
            let (sizes, kspace) = prepared.region()?;
            Calibration::from_kspace(scan.coils, sizes, kspace.clone())?
        }
    };
    let phase = phase(prepared, &config.field, Method::Igrog)?;
    Learning::new(geometry, config.geometry, calibration, phase, params)
}
