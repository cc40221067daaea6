//! `denoise`: train a denoiser on your images, restore others with it, and see how good it is.

mod commands;
mod config;
mod model_file;
mod published;
mod task;

use clap::{CommandFactory, Parser, Subcommand};
use commands::{config as config_command, docs, eval, filter, inspect, predict, runs, train};
use limpid_cli::training::TrainArgs;
use limpid_cli::{Completions, Failure, HELP, main_with};
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
    Inspect(inspect::Args),
    #[command(subcommand)]
    Config(config_command::Verb),
    #[command(subcommand)]
    Runs(runs::Verb),
    /// Print a completion script for your shell
    #[command(
        before_help = "Examples:\n  denoise completions bash > ~/.local/share/bash-completion/completions/denoise"
    )]
    Completions(Completions),
    #[command(hide = true)]
    Docs(docs::Args),
}

fn main() -> ExitCode {
    main_with(|cli: Cli| -> Result<(), Failure> {
        match cli.verb {
            Verb::Train(args) => train::run(&args),
            Verb::Predict(args) => predict::run(&args),
            Verb::Eval(args) => eval::run(&args),
            Verb::Filter(args) => filter::run(&args),
            Verb::Inspect(args) => inspect::run(&args),
            Verb::Config(verb) => config_command::run(&verb),
            Verb::Runs(verb) => runs::run(&verb),
            Verb::Completions(args) => args.print::<Cli>(),
            Verb::Docs(args) => docs::run(&args, Cli::command()),
        }
    })
}
