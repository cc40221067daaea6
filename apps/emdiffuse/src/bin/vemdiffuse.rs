//! `vemdiffuse`: make volumes of electron micrographs isotropic by drawing layers between slices.

use clap::{Parser, Subcommand};
use emdiffuse::commands::{predict, train};
use limpid_cli::training::TrainArgs;
use limpid_cli::{Failure, HELP, main_with};
use std::process::ExitCode;

/// Freed pages stay in the process: a fresh buffer costs as much as the convolution that fills it.
#[global_allocator]
static ALLOCATOR: limpid_kernels::memory::Allocator = limpid_kernels::memory::Allocator;

/// Make volumes of electron micrographs isotropic: draw the layers between their slices
#[derive(Parser)]
#[command(
    name = "vemdiffuse",
    version,
    help_template = HELP,
    before_help = "Examples:
  vemdiffuse predict noisy.tif restored.tif
  vemdiffuse predict noisy.tif restored.tif --samples 8
  vemdiffuse train configs/vemdiffuse/smoke.toml"
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
  vemdiffuse train configs/vemdiffuse/smoke.toml
  vemdiffuse train my.toml --set start=runs/vemdiffuse-0001 --set train.steps=2000
  vemdiffuse train configs/vemdiffuse/n-transfer.toml --set start=experiments/EMDiffuse-n/best"
    )]
    Train(TrainArgs),
    /// Restore images: the mean of samples, and how far they spread
    #[command(
        help_template = HELP,
        before_help = "Examples:
  vemdiffuse predict noisy.tif restored.tif
  vemdiffuse predict noisy/*.tif --out restored/ --model runs/mine --samples 8 --quantiles .05,.95
  vemdiffuse predict noisy.tif restored.tif --weights experiments/EMDiffuse-n/best --mode reference"
    )]
    Predict(Volumes),
}

/// What `predict` takes.
#[derive(clap::Args)]
struct Volumes {
    /// How many gaps a gap becomes: 6 draws five layers between two slices [default: as trained]
    #[arg(short, long, value_name = "Z")]
    z: Option<usize>,
    #[command(flatten)]
    all: predict::Args,
}

fn main() -> ExitCode {
    main_with(|cli: Cli| -> Result<(), Failure> {
        match cli.verb {
            Verb::Train(args) => train::run(&args, true, "vemdiffuse"),
            Verb::Predict(args) => predict::volumes(&args.all, args.z),
        }
    })
}
