//! `ci`: every check, cheapest first.

use std::time::{Duration, Instant};

use crate::process::{cargo, root, run as run_command};
use crate::{codegen, cuda, demo, parity, test, tidy};

/// Options of `ci`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Go on after a step that fails
    #[arg(long)]
    keep_going: bool,
    /// Also compile what is for GPUs, and test it on one in software
    #[arg(long)]
    cuda: bool,
}

/// A check: what it is called and what it does.
struct Step {
    name: &'static str,
    check: fn() -> Result<(), String>,
}

/// The checks, cheapest first.
const STEPS: &[Step] = &[
    Step { name: "fmt", check: || cargo_step(&["fmt", "--all", "--check"]) },
    Step { name: "tidy", check: tidy::run },
    Step { name: "clippy", check: clippy },
    Step { name: "codegen", check: codegen::check },
    Step { name: "test", check: test::run },
    Step { name: "parity", check: golden },
    Step { name: "smoke", check: || demo::run(&demo::Args { smoke: true, volume: false }) },
];

/// Runs the steps and prints a summary.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let mut results: Vec<(&str, Result<(), String>, Duration)> = Vec::new();
    let cuda = Step { name: "cuda", check: cuda::ci };
    let steps: Vec<_> = STEPS.iter().chain(args.cuda.then_some(&cuda)).collect();
    for step in &steps {
        println!("==> {}", step.name);
        let start = Instant::now();
        let result = (step.check)();
        let time = start.elapsed();
        if let Err(message) = &result {
            eprintln!("error: {message}");
        }
        println!("<== {} {} in {:.1} s", step.name, word(&result), time.as_secs_f64());
        let failed = result.is_err();
        results.push((step.name, result, time));
        if failed && !args.keep_going {
            break;
        }
    }
    println!();
    for (name, result, time) in &results {
        println!("{:8} {:6} {:7.1} s", name, word(result), time.as_secs_f64());
    }
    for step in &steps[results.len()..] {
        println!("{:8} not run", step.name);
    }
    let failed: Vec<&str> =
        results.iter().filter(|(_, result, _)| result.is_err()).map(|(name, ..)| *name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("ci failed in {}", failed.join(", "))) }
}

fn word(result: &Result<(), String>) -> &'static str {
    if result.is_ok() { "ok" } else { "FAILED" }
}

fn cargo_step(args: &[&str]) -> Result<(), String> {
    run_command(&mut cargo(args))
}

fn clippy() -> Result<(), String> {
    cargo_step(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// Parity with the reference values, where they are at hand.
fn golden() -> Result<(), String> {
    const FOLDERS: [&str; 4] = ["engine", "gan", "emdiffuse", "igrog"];
    let golden = root().join("../shared/golden");
    let dirs: Vec<_> = FOLDERS.iter().map(|f| golden.join(f)).filter(|d| d.is_dir()).collect();
    if dirs.is_empty() {
        println!("skipped: no reference values beside the repository");
        return Ok(());
    }
    parity::run(&parity::Args::of(dirs))
}
