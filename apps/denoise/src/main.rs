//! `denoise`: train a denoiser on your images, restore others with it, and see how good it is.

mod commands;
mod config;
mod model_file;
mod published;
mod task;

use clap::{CommandFactory, Parser, Subcommand};
use commands::{eval, filter, inspect, predict, train};
use config::Config;
use limpid_cli::inspect::InspectArgs;
use limpid_cli::training::TrainArgs;
use limpid_cli::{
    Completions, ConfigVerb, DocsArgs, Failure, HELP, RunsVerb, SimulateArgs, main_with,
};
use std::process::ExitCode;

/// Freed pages stay in the process: a fresh buffer costs as much as the convolution that fills it.
#[global_allocator]
static ALLOCATOR: limpid_kernels::memory::Allocator = limpid_kernels::memory::Allocator;

/// Denoise microscopy, electron microscopy and low-dose medical images
#[derive(Parser)]
#[command(
    name = "denoise",
    version,
    help_template = HELP,
    before_help = "Examples:
  denoise train configs/denoise/em-demo.toml
  denoise predict noisy.tif restored.tif
  denoise eval restored.tif --input noisy.tif --target clean.tif --data-range 255"
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
  denoise train configs/denoise/em-demo.toml
  denoise train my.toml --set optimizer.lr=1e-4 --set train.steps=20000
  denoise train my.toml --dry-run"
    )]
    Train(TrainArgs),
    Predict(predict::Args),
    Eval(eval::Args),
    Filter(filter::Args),
    /// Say what an image, a model, a run or a checkpoint holds
    #[command(
        help_template = HELP,
        before_help = "Examples:
  denoise inspect image.tif
  denoise inspect runs/em-demo-0001
  denoise inspect runs/em-demo-0001/checkpoints/step-000001200
  denoise inspect weights.pth"
    )]
    Inspect(InspectArgs),
    /// Show, check and describe configurations
    #[command(
        subcommand,
        before_help = "Examples:\n  denoise config show configs/denoise/em-demo.toml --origin"
    )]
    Config(ConfigVerb),
    /// Write a noisy version of clean images, to measure with
    #[command(
        help_template = HELP,
        before_help = "Examples:
  denoise simulate clean.tif noisy.tif --range 0 255 --set kind=poisson --set dose=20
  denoise simulate volume.tif noisy.tif --range 0 255 --every 10 --clean slices.tif"
    )]
    Simulate(SimulateArgs),
    /// List and show runs
    #[command(
        subcommand,
        before_help = "Examples:\n  denoise runs ls\n  denoise runs show runs/em-demo-0001"
    )]
    Runs(RunsVerb),
    /// Print a completion script for your shell
    #[command(
        before_help = "Examples:\n  denoise completions bash > ~/.local/share/bash-completion/completions/denoise"
    )]
    Completions(Completions),
    #[command(hide = true)]
    Docs(DocsArgs),
}

fn main() -> ExitCode {
    main_with(|cli: Cli| -> Result<(), Failure> {
        match cli.verb {
            Verb::Train(args) => train::run(&args),
            Verb::Predict(args) => predict::run(&args),
            Verb::Eval(args) => eval::run(&args),
            Verb::Filter(args) => filter::run(&args),
            Verb::Inspect(args) => inspect::run(&args),
            Verb::Config(verb) => verb.run::<Config>(),
            Verb::Simulate(args) => args.run(),
            Verb::Runs(verb) => verb.run(),
            Verb::Completions(args) => args.print::<Cli>(),
            Verb::Docs(args) => args.run::<Config>(Cli::command()),
        }
    })
}
