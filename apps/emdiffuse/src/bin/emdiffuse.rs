//! `emdiffuse`: restore electron micrographs by diffusion, with an uncertainty for every pixel.

use clap::{Parser, Subcommand};
use emdiffuse::commands::{predict, train};
use limpid_cli::training::TrainArgs;
use limpid_cli::{Failure, HELP, main_with};
use std::process::ExitCode;

/// Freed pages stay in the process: a fresh buffer costs as much as the convolution that fills it.
#[global_allocator]
static ALLOCATOR: limpid_kernels::memory::Allocator = limpid_kernels::memory::Allocator;

/// Denoise and super-resolve electron micrographs by diffusion, with an uncertainty for every pixel
#[derive(Parser)]
#[command(
    name = "emdiffuse",
    version,
    help_template = HELP,
    before_help = "Examples:
  emdiffuse predict noisy.tif restored.tif
  emdiffuse predict noisy.tif restored.tif --samples 8
  emdiffuse train configs/emdiffuse/smoke.toml"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Train a network; the same command goes on with an interrupted run
    #[command(
        help_template = HELP,
        before_help = "Examples:
  emdiffuse train configs/emdiffuse/smoke.toml
  emdiffuse train my.toml --set start=runs/emdiffuse-0001 --set train.steps=2000
  emdiffuse train configs/emdiffuse/n-transfer.toml --set start=experiments/EMDiffuse-n/best"
    )]
    Train(TrainArgs),
    /// Restore images: the mean of samples, and how far they spread
    #[command(
        help_template = HELP,
        before_help = "Examples:
  emdiffuse predict noisy.tif restored.tif
  emdiffuse predict noisy/*.tif --out restored/ --model runs/mine --samples 8 --quantiles .05,.95
  emdiffuse predict noisy.tif restored.tif --weights experiments/EMDiffuse-n/best --mode reference"
    )]
    Predict(predict::Args),
}

fn main() -> ExitCode {
    main_with(|cli: Cli| -> Result<(), Failure> {
        match cli.verb {
            Verb::Train(args) => train::run(&args, false, "emdiffuse"),
            Verb::Predict(args) => predict::images(&args),
        }
    })
}
