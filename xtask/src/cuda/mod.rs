//! `cuda`: programs for NVIDIA GPUs, built without one and without an installed toolkit.

mod bench;
mod emulator;
mod link;
mod toolkit;

use crate::parity;
use crate::process::{cargo, root, run, target};
use std::path::PathBuf;
use std::process::Command;
use toolkit::Toolkit;

/// Options of `cuda`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Build the programs with the feature `cuda`, by NVIDIA's toolkit from PyPI unless one is installed
    Build,
    /// Test on a GPU in software: indices, arguments and barriers, not speed
    Test {
        /// Run only cases whose name contains this
        case: Option<String>,
    },
    /// Time our works on a GPU beside PyTorch's
    Bench {
        /// Python that has PyTorch for CUDA
        #[arg(long, value_name = "PATH", default_value = "python3")]
        python: PathBuf,
        /// Repetitions of each work
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: u32,
    },
    /// Make `limpid-gpu-check`, to be carried with its fixtures to a machine with a GPU
    Check {
        /// Also run it, on a GPU in software
        #[arg(long)]
        emulated: bool,
    },
}

/// Runs the verb.
pub(crate) fn run_verb(args: &Args) -> Result<(), String> {
    match &args.verb {
        Verb::Build => build(),
        Verb::Test { case } => test(case.as_deref()),
        Verb::Bench { python, rounds } => bench::run_all(&Builder::new()?, python, *rounds),
        Verb::Check { emulated } => check(*emulated),
    }
}

/// What a build for GPUs is told.
struct Builder {
    toolkit: Toolkit,
    folder: PathBuf,
}

impl Builder {
    /// Finds or fetches the toolkit and makes the libraries to link with.
    fn new() -> Result<Self, String> {
        let toolkit = Toolkit::find()?;
        let folder = target().join("cuda");
        let link = folder.join("link");
        link::generate(&link)?;
        let runtime = link.join("libcudart.a");
        let copied = std::fs::copy(toolkit.runtime()?, &runtime);
        copied.map_err(|e| format!("{}: {e}", runtime.display()))?;
        Ok(Self { toolkit, folder })
    }

    /// Cargo with these arguments and the feature.
    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = cargo(args);
        self.toolkit.apply(&mut command);
        command.env("LIMPID_CUDA_LINK", self.folder.join("link"));
        command.env("CARGO_TARGET_DIR", self.folder.join("build"));
        command
    }
}

/// The folder of the GPU in software, built.
fn emulated(builder: &Builder) -> Result<PathBuf, String> {
    let folder = builder.folder.join("emulator");
    emulator::build(&builder.toolkit.headers(), &folder)?;
    Ok(folder)
}

/// Builds the programs.
fn build() -> Result<(), String> {
    let builder = Builder::new()?;
    let programs = ["denoise", "emdiffuse", "igrog"];
    let mut command = builder.cargo(&["build", "--release", "--features", "cuda"]);
    run(command.args(programs.iter().flat_map(|name| ["--package", name])))?;
    println!("built in {}", builder.folder.join("build/release").display());
    Ok(())
}

/// Runs the tests that compare the GPU's results with the CPU's.
fn test(case: Option<&str>) -> Result<(), String> {
    let builder = Builder::new()?;
    let emulated = emulated(&builder)?;
    for package in ["limpid-kernels", "limpid-losses"] {
        let mut tests = builder.cargo(&["test", "--lib", "--features", "cuda", "-p", package]);
        // compiled quickly: the CPU's part of the comparison is small
        tests.args(["--config", "profile.dev.package.limpid-kernels.opt-level=1"]);
        // one after the other: the precision is that of the process
        tests
            .args(["--", "--ignored", "--test-threads=1", "cuda"])
            .env("LD_LIBRARY_PATH", &emulated);
        if let Some(case) = case {
            tests.env("LIMPID_CASE", case);
        }
        run(&mut tests)?;
    }
    Ok(())
}

/// Lints everything that has the feature, with warnings as errors, and runs the tests of it.
pub(crate) fn ci() -> Result<(), String> {
    let builder = Builder::new()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--features", "cuda"];
    run(builder.cargo(&clippy).args(["--", "-D", "warnings"]))?;
    test(None)
}

/// The most that the program may weigh, in bytes.
const MOST: u64 = 55_000_000;

/// Makes the program that compares a GPU with the CPU, and its fixtures.
fn check(is_run: bool) -> Result<(), String> {
    const NAME: &str = "limpid-gpu-check";
    let builder = Builder::new()?;
    let package = ["--package", "xtask", "--bin", NAME, "--features", "cuda"];
    // its size counts: what it computes on the CPU is small
    let small = ["--", "-C", "opt-level=s"];
    run(builder.cargo(&["rustc", "--release"]).args(package).args(small))?;
    let folder = builder.folder.join("check");
    let fixtures = folder.join("fixtures");
    std::fs::create_dir_all(&fixtures).map_err(|e| format!("{}: {e}", fixtures.display()))?;
    let program = folder.join(NAME);
    let built = builder.folder.join("build/release").join(NAME);
    run(Command::new("strip").arg("-o").arg(&program).arg(built))?;
    let size = program.metadata().map_err(|e| format!("{}: {e}", program.display()))?.len();
    let golden = root().join("../shared/golden");
    let mut count = 0;
    for set in ["engine", "emdiffuse", "gan"] {
        let Ok(entries) = std::fs::read_dir(golden.join(set)) else { continue };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else { continue };
            // what describes a network lies beside it
            let stem = name.strip_suffix(".safetensors");
            let is_network = stem.is_some_and(|stem| parity::on_gpu(stem).is_some());
            if is_network || ["raft_keys.json", "real_config_keys.json"].contains(&&*name) {
                let copied = std::fs::copy(&path, fixtures.join(&*name));
                copied.map_err(|e| format!("{}: {e}", path.display()))?;
                count += 1;
            }
        }
    }
    if count == 0 {
        println!("no reference values lie beside the repository: networks cannot be compared");
    }
    println!("{}: {:.1} MB, {count} fixtures", program.display(), size as f64 / 1e6);
    if size > MOST {
        return Err(format!("{NAME} is larger than {} MB", MOST / 1_000_000));
    }
    if is_run {
        return run(Command::new(program).env("LD_LIBRARY_PATH", emulated(&builder)?));
    }
    println!("carry the folder to a machine with an NVIDIA GPU and run {NAME} there");
    Ok(())
}
