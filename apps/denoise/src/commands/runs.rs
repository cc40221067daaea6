//! `denoise runs`: what has been trained.

use limpid_cli::{Failure, print, runs};
use std::path::PathBuf;

/// List and show runs
#[derive(clap::Subcommand)]
#[command(before_help = "Examples:\n  denoise runs ls\n  denoise runs show runs/em-demo-0001")]
pub(crate) enum Verb {
    /// List the runs in a directory
    Ls {
        /// Directory of runs
        #[arg(default_value = "runs")]
        dir: PathBuf,
    },
    /// Show one run
    Show {
        /// Directory of the run
        run: PathBuf,
    },
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls { dir } => print(runs::overview(&runs::list(dir)?)),
        Verb::Show { run } => print(runs::details(run)?),
    }
}
