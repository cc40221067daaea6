//! `demo`: the main job in one command. Builds the release binary, trains on the example
//! images, restores a held image, and evaluates it against its reference and the classical filters.
//! The few steps of `--smoke` are as quick in the build that tests use, which `ci` then has already.

use std::path::Path;
use std::process::Command;

use crate::process::{binaries, cargo, root, run as run_command, target};

/// Options of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A few steps only, to see that everything works
    #[arg(long)]
    pub(crate) smoke: bool,
    /// The volume instead of the image
    #[arg(long)]
    pub(crate) volume: bool,
}

/// Runs the example from training to evaluation.
pub(crate) fn run(&Args { smoke, volume }: &Args) -> Result<(), String> {
    let folder = if smoke {
        binaries()?
    } else {
        run_command(&mut cargo(&["build", "--release", "--quiet", "--package", "denoise"]))?;
        target().join("release")
    };
    let denoise = |args: &[&str]| denoise(&folder.join("denoise"), args);
    let (config, held) = if volume { ("em3d-demo", "em3d") } else { ("em-demo", "em") };
    let out = if smoke { "target/smoke" } else { "runs" };
    if smoke {
        // a smoke test begins from nothing
        let _ = std::fs::remove_dir_all(root().join(out));
    }
    let data = |name: &str| format!("configs/denoise/data/{held}-{name}.tif");
    let restored = format!("{out}/{held}-restored.tif");
    let eval = format!("{out}/{held}-eval");
    let mut train = vec!["train".to_owned(), format!("configs/denoise/{config}.toml")];
    train.extend(["--out".to_owned(), out.to_owned()]);
    if smoke {
        for set in ["train.steps=6", "train.validate_every=3"] {
            train.extend(["--set".to_owned(), set.to_owned()]);
        }
    }
    let model = format!("{out}/{config}");
    let predict = ["predict", &data("held-noisy"), &restored, "--model", &model];
    let evaluate = [
        "eval",
        &restored,
        "--input",
        &data("held-noisy"),
        "--target",
        &data("held"),
        "--data-range",
        "255",
        "--baselines",
        "--model",
        &model,
        "--out",
        &eval,
    ];
    denoise(&train.iter().map(String::as_str).collect::<Vec<_>>())?;
    denoise(&predict)?;
    denoise(&evaluate)
}

fn denoise(program: &Path, args: &[&str]) -> Result<(), String> {
    println!("$ denoise {}", args.join(" "));
    run_command(Command::new(program).args(args).current_dir(root()))
}
