//! `cuda bench`: our works on a GPU beside PyTorch's, eager and compiled, and beside what the GPU can at most.

use super::Builder;
use crate::bench::{Speaker, median};
use crate::process::{root, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured, and how many times as fast as compiled PyTorch it is to be.
const WORKS: [(&str, f64); 5] = [
    ("train emdiffuse 16x2x256x256", 1.3),
    ("infer emdiffuse 49x2x256x256", 1.3),
    ("train basic_unet 1x1x128x128x128", 1.3),
    ("train pix2pix 8x3x256x256", 1.3),
    ("infer swinir_light 1x3x256x256", 1.3),
];

/// Kernels that memory bounds: what they do, and how often they read or write their first operand.
const BOUND: [(&str, f64); 4] = [
    ("infer group_norm_silu 16x64x256x256", 3.0),
    ("infer instance_norm_leaky_relu 1x32x128x128x128", 3.0),
    ("infer layer_norm 65536x512", 2.0),
    ("infer softmax 65536x512", 2.0),
];

/// Least share of the copy bandwidth that these are to reach.
const SHARE: f64 = 0.6;

/// Numbers that the copy moves, and the side of the matrices that are multiplied, of the two ceilings.
const COPIED: usize = 1 << 28;
const SIDE: usize = 8192;

/// The programs.
struct Programs {
    ours: PathBuf,
    python: PathBuf,
    rounds: u32,
}

impl Programs {
    /// Median milliseconds of a work of ours in some precision.
    fn ours(&self, words: &str, precision: &str) -> Result<f64, String> {
        let mut command = Command::new(&self.ours);
        command.args(words.split(' ')).env("LIMPID_BENCH_PRECISION", precision);
        self.time(command)
    }

    /// Median milliseconds of a work of PyTorch's, `eager` or `compiled`.
    fn peer(&self, how: &str, words: &str) -> Result<f64, String> {
        let mut command = Command::new(&self.python);
        command.arg(root().join("tests/bench/peer.py")).arg(how).args(words.split(' '));
        self.time(command)
    }

    fn time(&self, mut command: Command) -> Result<f64, String> {
        command.env("LIMPID_BENCH_GPU", "1").env("OMP_NUM_THREADS", "4");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let mut speaker = Speaker::start(command)?;
        speaker.ask("warm")?;
        let times = (0..self.rounds).map(|_| speaker.number("run", "gpu"));
        Ok(median(&times.collect::<Result<Vec<_>, _>>()?))
    }
}

/// Builds ours, and prints a table; `python` has PyTorch for CUDA.
///
/// # Errors
/// If a program fails, or a work is slower than promised.
pub(super) fn run_all(builder: &Builder, python: &Path, rounds: u32) -> Result<(), String> {
    let package = ["--package", "limpid-tests", "--example", "bench", "--features", "cuda"];
    run(builder.cargo(&["build", "--release"]).args(package))?;
    let ours = builder.folder.join("build/release/examples/bench");
    let programs = Programs { ours, python: python.to_owned(), rounds };
    let mut missed = 0;
    let mut verdict = |ok: bool| {
        missed += usize::from(!ok);
        if ok { "yes" } else { "NO" }
    };
    println!("medians of {rounds} repetitions, ms by CUDA events; PyTorch in bf16, channels-last");
    println!("{:36} {:>9} {:>9} {:>9} {:>6}", "", "ours", "eager", "compiled", "ratio");
    for (words, target) in WORKS {
        let time = programs.ours(words, "bf16")?;
        let (eager, compiled) = (programs.peer("eager", words)?, programs.peer("compiled", words)?);
        let ratio = compiled / time;
        let ok = verdict(ratio >= target);
        println!("{words:36} {time:9.2} {eager:9.2} {compiled:9.2} {ratio:6.2}  ≥ {target}  {ok}");
    }
    let copy = programs.peer("eager", &format!("infer ceiling_copy {COPIED}"))?;
    let bandwidth = 8.0 * COPIED as f64 / copy;
    println!("\ncopy: {:.0} GB/s", bandwidth / 1e6);
    for (words, passes) in BOUND {
        let shape = words.rsplit(' ').next().unwrap_or_default();
        let count: f64 = shape.split('x').filter_map(|size| size.parse::<f64>().ok()).product();
        let time = programs.ours(words, "f32")?;
        let share = 4.0 * passes * count / time / bandwidth;
        let ok = verdict(share >= SHARE);
        println!(
            "{words:48} {time:9.3} ms, {:3.0} % of it  ≥ {:.0} %  {ok}",
            100.0 * share,
            100.0 * SHARE
        );
    }
    let square = format!("{SIDE}x{SIDE} {SIDE}x{SIDE}");
    let ceiling = programs.peer("eager", &format!("infer ceiling_matmul {square}"))?;
    let product = programs.ours(&format!("infer matmul {square}"), "bf16")?;
    let rate = |ms: f64| 2.0 * (SIDE as f64).powi(3) / ms / 1e9;
    println!(
        "\nbf16 product: PyTorch {:.0} TFLOP/s, ours from f32 {:.0} TFLOP/s ({:.0} %)",
        rate(ceiling),
        rate(product),
        100.0 * ceiling / product
    );
    if missed == 0 { Ok(()) } else { Err(format!("{missed} goals are missed")) }
}
