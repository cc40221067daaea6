//! `vemdiffuse`: make volumes of electron micrographs isotropic by drawing layers between slices.

use clap::{CommandFactory, Parser, Subcommand};
use emdiffuse::commands::{eval, inspect, predict, prepare, thin, train};
use emdiffuse::config::Config;
use limpid_cli::inspect::InspectArgs;
use limpid_cli::training::TrainArgs;
use limpid_cli::{Completions, ConfigVerb, DocsArgs, Failure, HELP, RunsVerb, main_with};
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
    /// Take every Z-th slice of an isotropic volume, to measure with
    #[command(
        help_template = HELP,
        before_help = "Examples:
  vemdiffuse thin isotropic.tif coarse.tif --z 6 --truth fine.tif"
    )]
    Thin(thin::Args),
    /// Say what an image, a model, a run or a checkpoint holds
    #[command(
        help_template = HELP,
        before_help = "Examples:\n  vemdiffuse inspect image.tif\n  vemdiffuse inspect runs/mine"
    )]
    Inspect(InspectArgs),
    /// Show, check and describe configurations
    #[command(
        subcommand,
        before_help = "Examples:\n  vemdiffuse config show configs/vemdiffuse/i.toml --origin"
    )]
    Config(ConfigVerb),
    /// List and show runs
    #[command(
        subcommand,
        before_help = "Examples:\n  vemdiffuse runs ls\n  vemdiffuse runs show runs/mine-0001"
    )]
    Runs(RunsVerb),
    /// Print a completion script for your shell
    #[command(
        before_help = "Examples:\n  vemdiffuse completions bash > ~/.local/share/bash-completion/completions/vemdiffuse"
    )]
    Completions(Completions),
    #[command(hide = true)]
    Docs(DocsArgs),
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
            Verb::Thin(args) => thin::run(&args),
            Verb::Inspect(args) => inspect::run(&args, "vemdiffuse"),
            Verb::Config(verb) => verb.run::<Config>(),
            Verb::Runs(verb) => verb.run(),
            Verb::Completions(args) => args.print::<Cli>(),
            Verb::Docs(args) => args.run::<Config>(Cli::command()),
        }
    })
}
