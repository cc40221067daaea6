//! `emdiffuse`: restore electron micrographs by diffusion, with an uncertainty for every pixel.

use clap::{CommandFactory, Parser, Subcommand};
use emdiffuse::commands::{eval, inspect, pack, predict, prepare, sample_curve, train};
use emdiffuse::config::Config;
use limpid_cli::inspect::InspectArgs;
use limpid_cli::training::TrainArgs;
use limpid_cli::{
    Completions, ConfigVerb, DocsArgs, Failure, HELP, RunsVerb, SimulateArgs, main_with,
};
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
    /// Measure restored images against references, and their uncertainty against their errors
    #[command(
        help_template = HELP,
        before_help = "Examples:
  emdiffuse eval restored.tif --input noisy.tif --target clean.tif --data-range 255
  emdiffuse eval held/ --input noisy/ --target clean/ --data-range 255 --model runs/mine --calibrate"
    )]
    Eval(eval::Args),
    /// Make training pairs: register noisy images with clean ones, cut patches, leave bad ones out
    #[command(
        help_template = HELP,
        before_help = "Examples:
  emdiffuse prepare --clean gt/ --noisy wf/ --out data
  emdiffuse prepare --clean gt/ --noisy wf/ --scale 2 --out data --raft raft-things.pth"
    )]
    Prepare(prepare::Pairs),
    /// Write a noisy version of clean images, to measure restorations with
    #[command(
        help_template = HELP,
        before_help = "Examples:
  emdiffuse simulate clean.tif noisy.tif --range 0 255 --set dose=10 --set sigma=0.02
  emdiffuse simulate volume.tif noisy.tif --range 0 255 --every 10 --clean slices.tif"
    )]
    Simulate(SimulateArgs),
    /// Compare samplers and numbers of steps on images whose truth is known
    #[command(
        help_template = HELP,
        before_help = "Examples:
  emdiffuse sample-curve noisy.tif clean.tif --data-range 255 --model runs/mine --out curve"
    )]
    SampleCurve(sample_curve::Args),
    /// Write a model with weights of 16 bits, to hand on
    #[command(
        help_template = HELP,
        before_help = "Examples:\n  emdiffuse pack runs/mine mine.safetensors"
    )]
    Pack(pack::Args),
    /// Say what an image, a model, a run or a checkpoint holds
    #[command(
        help_template = HELP,
        before_help = "Examples:\n  emdiffuse inspect image.tif\n  emdiffuse inspect runs/mine"
    )]
    Inspect(InspectArgs),
    /// Show, check and describe configurations
    #[command(
        subcommand,
        before_help = "Examples:\n  emdiffuse config show configs/emdiffuse/n.toml --origin"
    )]
    Config(ConfigVerb),
    /// List and show runs
    #[command(
        subcommand,
        before_help = "Examples:\n  emdiffuse runs ls\n  emdiffuse runs show runs/mine-0001"
    )]
    Runs(RunsVerb),
    /// Print a completion script for your shell
    #[command(
        before_help = "Examples:\n  emdiffuse completions bash > ~/.local/share/bash-completion/completions/emdiffuse"
    )]
    Completions(Completions),
    #[command(hide = true)]
    Docs(DocsArgs),
}

fn main() -> ExitCode {
    main_with(|cli: Cli| -> Result<(), Failure> {
        match cli.verb {
            Verb::Train(args) => train::run(&args, false, "emdiffuse"),
            Verb::Predict(args) => predict::images(&args),
            Verb::Eval(args) => eval::run(&args, "emdiffuse"),
            Verb::Prepare(args) => prepare::pairs(&args),
            Verb::Simulate(args) => args.run(),
            Verb::SampleCurve(args) => sample_curve::run(&args),
            Verb::Pack(args) => pack::run(&args, "emdiffuse"),
            Verb::Inspect(args) => inspect::run(&args, "emdiffuse"),
            Verb::Config(verb) => verb.run::<Config>(),
            Verb::Runs(verb) => verb.run(),
            Verb::Completions(args) => args.print::<Cli>(),
            Verb::Docs(args) => args.run::<Config>(Cli::command()),
        }
    })
}
