//! `limpid-gpu-check`: what a GPU computes beside what the CPU does, in one program to carry to the machine with the
//! GPU. Built by `cargo xtask cuda check`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a terminal tool")]

#[path = "../parity/mod.rs"]
mod parity;
mod recorded;
mod training;

use candle_core::Device;
use clap::Parser;
use limpid_kernels::{Precision, gpu, set_precision};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Compare a GPU with the CPU: operations, losses, networks, training, and going on after a kill
#[derive(Parser)]
#[command(name = "limpid-gpu-check", version)]
struct Args {
    /// Number of the GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpu: usize,
    /// Compare only operations whose name contains this, and nothing else
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Seed of the shapes that are drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Run only this part; may be given several times
    #[arg(long = "part", value_name = "PART", conflicts_with = "only")]
    parts: Vec<Part>,
    /// Folder of network fixtures [default: `fixtures` beside the program]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Train in this folder and stop there: what the check of kills runs
    #[arg(long, value_name = "DIR", hide = true)]
    train: Option<PathBuf>,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Every operation and loss, in all types of numbers
    Operations,
    /// Networks with the weights of their reference
    Networks,
    /// A training on the CPU and on the GPU
    Training,
    /// Recorded steps of training and sampling beside others
    Recorded,
    /// A training that is killed and gone on with
    Kill,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Any error as text.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn run(args: &Args) -> Result<(), String> {
    let device = gpu::open(args.gpu).map_err(text)?;
    if let Some(folder) = &args.train {
        return training::in_folder(folder, &device);
    }
    println!("cuda:{} {}", args.gpu, gpu::describe(&device).map_err(text)?);
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(message) = result {
            failures.push(format!("{what}: {message}"));
        }
    };
    let is_wanted = |part| match &args.only {
        Some(_) => part == Part::Operations,
        None => args.parts.is_empty() || args.parts.contains(&part),
    };
    if is_wanted(Part::Operations) {
        note("operations", operations(&device, args));
    }
    if is_wanted(Part::Networks) {
        note("networks", networks(args));
    }
    if is_wanted(Part::Training) {
        note("training", training::compared(&device));
    }
    if is_wanted(Part::Recorded) {
        note("recorded training", recorded::trainings(&device));
        note("recorded sampling", recorded::sampling(&device));
    }
    if is_wanted(Part::Kill) {
        note("kill", training::killed(args.gpu));
    }
    if failures.is_empty() {
        println!("everything agrees");
        return Ok(());
    }
    Err(failures.join("\n"))
}

/// Operations and losses in all types of numbers, on chosen shapes and on some that are drawn.
fn operations(device: &Device, args: &Args) -> Result<(), String> {
    let only = args.only.as_deref().unwrap_or_default();
    println!("\n{:44} worst difference, relative", "operation");
    let (mut count, mut failed) = (0, 0);
    let chosen = gpu::cases().into_iter().chain(limpid_losses::gpu::cases());
    for case in chosen.chain(gpu::random_cases(args.seed)) {
        if !case.name.contains(only) {
            continue;
        }
        let compared = case.compare(device);
        let cells = compared.iter().map(|one| match &one.worst {
            Ok(worst) => format!("{} {worst:.1e}", one.numbers),
            Err(e) => format!("{} {e}", one.numbers),
        });
        let is_wrong = !compared.iter().all(gpu::Comparison::agrees);
        count += 1;
        failed += usize::from(is_wrong);
        let mark = if is_wrong { "  FAIL" } else { "" };
        println!("{:44} {}{mark}", case.name, cells.collect::<Vec<_>>().join("  "));
    }
    println!("{} of {count} agree", count - failed);
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {count} differ from the CPU")) }
}

/// Networks with the weights of their reference.
fn networks(args: &Args) -> Result<(), String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("fixtures"));
    let folder = args.fixtures.clone().or_else(beside);
    let Some(folder) = folder.filter(|folder: &PathBuf| Path::is_dir(folder)) else {
        return Err("no folder of fixtures; give one with --fixtures".into());
    };
    let mut failed = Vec::new();
    for (name, precision) in
        [("f32", Precision::F32), ("bf16", Precision::Bf16), ("f16", Precision::F16)]
    {
        println!("\nnetworks in {name} beside their reference");
        let began = Instant::now();
        let of = parity::Args::of(vec![folder.clone()]);
        if let Err(e) = parity::run(&parity::Args { gpu: Some(args.gpu), precision, ..of }) {
            failed.push(format!("{name}: {e}"));
        }
        println!("in {:.1} s", began.elapsed().as_secs_f64());
    }
    set_precision(Precision::F32);
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}
