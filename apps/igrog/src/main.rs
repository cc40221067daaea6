//! `igrog`: grid non-Cartesian magnetic resonance data by kernels, and reconstruct them.

use clap::{CommandFactory, Parser, Subcommand};
use igrog::commands::simulate::SimulateConfig;
use igrog::commands::{
    BASIC, FIELDCORR, IMAGE_BASED, Preset, check, eval, grid, inspect, recon, simulate, train,
};
use igrog::config::Config;
use limpid_cli::inspect::InspectArgs;
use limpid_cli::{Completions, ConfigVerb, DocsArgs, Failure, HELP, RunsVerb, main_with, print};
use limpid_config::reference_markdown;
use std::process::ExitCode;

/// Freed pages stay in the process: a fresh buffer costs as much as the transform that fills it.
#[global_allocator]
static ALLOCATOR: limpid_kernels::memory::Allocator = limpid_kernels::memory::Allocator;

/// Grid non-Cartesian magnetic resonance data with learnt or closed-form kernels, and reconstruct them
#[derive(Parser)]
#[command(
    name = "igrog",
    version,
    help_template = HELP,
    before_help = "Examples:
  igrog simulate spiral.npz --set field=130
  igrog image-based recon spiral.npz image.nii.gz
  igrog eval spiral.npz --methods nufft,grog,igrog
  igrog check scan.h5"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Kernels from the calibrated middle of k-space alone
    #[command(subcommand, before_help = "Examples:\n  igrog basic recon scan.npz image.nii.gz")]
    Basic(Task),
    /// Kernels from what the coils see at voxels: the most accurate
    #[command(
        subcommand,
        before_help = "Examples:\n  igrog image-based recon scan.npz image.nii.gz\n  igrog image-based train scan.npz"
    )]
    ImageBased(Task),
    /// Kernels that also move the phase of a field
    #[command(subcommand, before_help = "Examples:\n  igrog fieldcorr recon scan.npz image.nii.gz")]
    Fieldcorr(Task),
    Recon(recon::Baseline),
    Eval(eval::Args),
    Check(check::Args),
    Simulate(simulate::Args),
    /// Say what an image, a model, a run or a checkpoint holds
    #[command(
        help_template = HELP,
        before_help = "Examples:\n  igrog inspect runs/image-based-0001\n  igrog inspect image.nii.gz"
    )]
    Inspect(InspectArgs),
    /// Show, check and describe configurations
    #[command(
        subcommand,
        before_help = "Examples:\n  igrog config show configs/igrog/fieldcorr.toml --origin"
    )]
    Config(ConfigVerb),
    /// List and show runs
    #[command(
        subcommand,
        before_help = "Examples:\n  igrog runs ls\n  igrog runs show runs/image-based-0001"
    )]
    Runs(RunsVerb),
    /// Print a completion script for your shell
    #[command(
        before_help = "Examples:\n  igrog completions bash > ~/.local/share/bash-completion/completions/igrog"
    )]
    Completions(Completions),
    #[command(hide = true)]
    Docs(DocsArgs),
}

#[derive(Subcommand)]
enum Task {
    Grid(grid::Args),
    Recon(recon::Args),
    Train(train::Args),
}

impl Task {
    fn run(&self, preset: Preset) -> Result<(), Failure> {
        match self {
            Self::Grid(args) => grid::run(args, preset),
            Self::Recon(args) => recon::run(args, preset),
            Self::Train(args) => train::run(args, preset),
        }
    }
}

fn main() -> ExitCode {
    main_with(|cli: Cli| -> Result<(), Failure> {
        match cli.verb {
            Verb::Basic(task) => task.run(BASIC),
            Verb::ImageBased(task) => task.run(IMAGE_BASED),
            Verb::Fieldcorr(task) => task.run(FIELDCORR),
            Verb::Recon(args) => recon::baseline(&args),
            Verb::Eval(args) => eval::run(&args),
            Verb::Check(args) => check::run(&args),
            Verb::Simulate(args) => simulate::run(&args),
            Verb::Inspect(args) => inspect::run(&args),
            Verb::Config(verb) => verb.run::<Config>(),
            Verb::Runs(verb) => verb.run(),
            Verb::Completions(args) => args.print::<Cli>(),
            Verb::Docs(args) => {
                args.run::<Config>(Cli::command())?;
                match args.page.as_str() {
                    "config" => {
                        print(reference_markdown::<SimulateConfig>("Keys of `igrog simulate`"))
                    }
                    _ => Ok(()),
                }
            }
        }
    })
}
