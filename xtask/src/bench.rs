//! `bench`: the benchmarks, each an example program that prints its own table.

use crate::process::{cargo, run as run_command};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which to run; all when none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(BENCHES.map(|(name, ..)| name)))]
    names: Vec<String>,
}

/// Name, package and example of each benchmark.
const BENCHES: [(&str, &str, &str); 2] =
    [("conv", "limpid-kernels", "bench_conv"), ("ops", "limpid-kernels", "bench_ops")];

/// Runs the chosen benchmarks in release mode.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let chosen = |name: &str| args.names.is_empty() || args.names.iter().any(|n| n == name);
    for (name, package, example) in BENCHES.into_iter().filter(|(name, ..)| chosen(name)) {
        println!("==> {name}");
        run_command(&mut cargo(&["run", "--release", "-p", package, "--example", example]))?;
    }
    Ok(())
}
