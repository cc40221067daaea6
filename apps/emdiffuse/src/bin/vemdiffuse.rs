//! `vemdiffuse`: make volumes of electron micrographs isotropic by drawing layers between slices.

use clap::{Parser, Subcommand};
use emdiffuse::commands::{eval, predict, prepare, train};
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
  vemdiffuse train configs/vemdiffuse/smoke.toml
  vemdiffuse predict coarse.tif fine.tif --model runs/vemdiffuse-smoke
  vemdiffuse predict slices/ fine.tif --weights experiments/vEMDiffuse-i/best --z 6"
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
  vemdiffuse train configs/vemdiffuse/i.toml --set data.dataset.volume=isotropic.tif
  vemdiffuse train configs/vemdiffuse/a.toml --set start=experiments/vEMDiffuse-a/best"
    )]
    Train(TrainArgs),
    /// Draw the layers between the slices of a volume: the mean of samples, and how far they spread
    #[command(
        help_template = HELP,
        before_help = "Examples:
  vemdiffuse predict coarse.tif fine.tif --model runs/mine
  vemdiffuse predict slices/ fine.tif --model runs/mine --samples 8 --quantiles .05,.95
  vemdiffuse predict slices/ fine.tif --weights experiments/vEMDiffuse-i/best --z 6"
    )]
    Predict(Volumes),
    /// Measure restored volumes against references, and their uncertainty against their errors
    #[command(
        help_template = HELP,
        before_help = "Examples:
  vemdiffuse eval fine.tif --input linear.tif --target isotropic.tif --data-range 255"
    )]
    Eval(eval::Args),
    /// Cut an anisotropic volume across its slices, to learn from its fine lateral axes
    #[command(
        help_template = HELP,
        before_help = "Examples:
  vemdiffuse prepare coarse.tif --out resliced"
    )]
    Prepare(prepare::Volume),
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
            Verb::Eval(args) => eval::run(&args, "vemdiffuse"),
            Verb::Prepare(args) => prepare::volume(&args),
        }
    })
}
