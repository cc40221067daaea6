//! What the command lines of all apps share: arguments, help, exit codes, how failures look, what
//! signals do, the folder of a training run, the files of a prediction, the scores of an evaluation,
//! and the listing of runs. It knows no task.
//!
//! An app's `main` is one call:
//!
//! ```no_run
//! use clap::Parser;
//! use limpid_cli::{CommonArgs, Failure, HELP, main_with};
//!
//! /// Denoise images
//! #[derive(Parser)]
//! #[command(help_template = HELP, before_help = "Examples:\n  denoise in.tif out.tif")]
//! struct Cli {
//!     #[command(flatten)]
//!     common: CommonArgs,
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     main_with(|cli: Cli| -> Result<(), Failure> {
//!         cli.common.apply()?;
//!         limpid_cli::print("done\n")
//!     })
//! }
//! ```
//!
//! Exit codes: 0 success, 1 the run failed, 2 wrong usage or configuration, 3 data or files, 4
//! device, 130 interrupted. Results go to standard output, everything else to standard error.

mod about;
mod args;
mod device;
mod entry;
pub mod evaluation;
mod failure;
mod format;
mod help;
pub mod inspect;
pub mod interrupt;
mod model;
pub mod prediction;
pub mod runs;
mod simulate;
mod terminal;
mod threads;
pub mod training;

pub use about::{ConfigVerb, DocsArgs};
pub use args::{
    ColorArgs, CommonArgs, ComputeArgs, ConfigArgs, Device, PrecisionArgs, RequestArgs, RunArgs,
    SetArgs, Verbosity,
};
pub use entry::main_with;
pub use failure::{Failure, Kind, failure};
pub use format::{Align, age, bytes, table};
pub use help::{Completions, HELP};
pub use model::find_model;
pub use runs::RunsVerb;
pub use simulate::SimulateArgs;
pub use terminal::{Color, print, report};
pub use threads::{init_threads, on_big_stack};
