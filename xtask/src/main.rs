//! Repository tasks: `cargo xtask --help`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a terminal tool")]

mod bench;
mod ci;
mod codegen;
mod cuda;
mod demo;
mod parity;
mod process;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Repository tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must be green before a change goes in, cheapest first
    Ci(ci::Args),
    /// Check the rules that no compiler checks: layers, headers, sizes, leftovers
    Tidy,
    /// Run all tests
    Test,
    /// Compare with the reference values of other programs
    Parity(parity::Args),
    /// Write the files that are made from the code, such as the configuration reference
    Codegen(codegen::Args),
    /// Train on the example, restore with the result, and evaluate it
    Demo(demo::Args),
    /// Run the benchmarks
    Bench(bench::Args),
    /// Build for NVIDIA GPUs
    Cuda(cuda::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Ci(args) => ci::run(&args),
        Task::Tidy => tidy::run(),
        Task::Test => test::run(),
        Task::Parity(args) => parity::run(&args),
        Task::Codegen(args) => codegen::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Cuda(args) => cuda::run_verb(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
