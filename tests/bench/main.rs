//! Our side of the benchmarks: one work in one process, measured at the word of `cargo xtask bench`.
//!
//! `bench MODE NAME SHAPE…`, as in `bench train dncnn 8x1x64x64`: `infer` keeps no graph, `bf16`
//! neither and rounds what it can, `backward` differentiates an operation, `train` is a whole step
//! with Adam, `recompute` one that computes blocks again. The work is done once and a line of JSON
//! says what it is; then each line on standard input is answered by one:
//!
//! - `warm`: repeats the work until its time is known, and decides how often a repetition does it;
//! - `run`: one repetition; milliseconds of wall and of CPU per work, and of a GPU by its events;
//! - `peak`: the most memory that the process has held.
//!
//! With `LIMPID_BENCH_GPU` set it computes on the first GPU, in the precision of `LIMPID_BENCH_PRECISION`, and waits
//! for it at the end of a repetition.
//!
//! `peer.py` is the other side.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod mri;
mod networks;
mod ops;
mod step;

use candle_core::{Device, Tensor};
use limpid_kernels::{Precision, set_precision};
use limpid_nn::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Instant;

/// As the programs: freed pages stay in the process.
#[global_allocator]
static ALLOCATOR: limpid_kernels::memory::Allocator = limpid_kernels::memory::Allocator;

/// Seconds that a repetition lasts at least.
const REPETITION: f64 = 0.3;

/// Something to measure.
struct Work {
    /// Trainable numbers.
    parameters: usize,
    call: Box<dyn FnMut() -> Result<Tensor>>,
}

impl Work {
    fn once(&mut self) -> Result<Tensor> {
        limpid_kernels::autograd::record(&mut self.call)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Infer,
    Backward,
    Train,
    /// A training step that computes blocks a second time.
    Recompute,
}

fn main() -> ExitCode {
    limpid_kernels::memory::keep_freed_pages();
    let words: Vec<String> = std::env::args().skip(1).collect();
    // as the programs: a deep graph is walked recursively
    let served = limpid_cli::on_big_stack(|| {
        let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
        limpid_cli::init_threads(threads).map_err(|e| e.to_string())?;
        serve(&words).map_err(|e| e.to_string())
    });
    match served.unwrap_or_else(|_| Err("no memory for the stack".into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(words: &[String]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut work = work(words)?;
    let output = work.once()?;
    device()?.synchronize()?;
    let version = concat!("limpid ", env!("CARGO_PKG_VERSION"));
    let hello = json!({
        "parameters": work.parameters, "output": output.dims(), "version": version,
        "simd": limpid_kernels::simd_level(),
    });
    drop(output);
    say(&hello)?;
    let mut times = 1;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "warm" => {
                times = warm(&mut work)?;
                say(&json!({ "times": times }))?;
            }
            "run" => {
                let (wall, cpu, gpu) = (Instant::now(), cpu_ms(), Clock::start()?);
                for _ in 0..times {
                    work.once()?;
                }
                let gpu = gpu.stop()?;
                let each = |ms: f64| ms / times as f64;
                let wall = wall.elapsed().as_secs_f64() * 1e3;
                say(&json!({
                    "wall": each(wall), "cpu": each(cpu_ms() - cpu), "gpu": gpu.map(each),
                }))?;
            }
            "peak" => say(&json!({ "bytes": peak() }))?,
            other => return Err(format!("no command is `{other}`").into()),
        }
    }
    Ok(())
}

/// The work that the words on the command line name.
fn work(words: &[String]) -> Result<Work> {
    let unknown = || Error::argument("bench", format!("no work is `{}`", words.join(" ")));
    let [mode, name, shapes @ ..] = words else { return Err(unknown()) };
    let mode = match mode.as_str() {
        "infer" => Mode::Infer,
        "bf16" => {
            if !set_precision(Precision::Bf16) {
                return Err(Error::argument("bench", "this processor does not multiply bf16"));
            }
            Mode::Infer
        }
        "backward" => Mode::Backward,
        "train" => Mode::Train,
        "recompute" => Mode::Recompute,
        _ => return Err(unknown()),
    };
    let shape = |word: &String| word.split('x').map(|size| size.parse().ok()).collect();
    let shapes: Option<Vec<Vec<usize>>> = shapes.iter().map(shape).collect();
    let shapes = shapes.ok_or_else(unknown)?;
    if let Some(work) = mri::work(mode, name, &shapes)? {
        return Ok(work);
    }
    if let Some(work) = networks::work(mode, name, &shapes)? {
        return Ok(work);
    }
    ops::work(mode, name, &shapes)?.ok_or_else(unknown)
}

/// Repeats the work for a while; how often a repetition does it.
fn warm(work: &mut Work) -> Result<usize> {
    let (begin, mut best, mut calls) = (Instant::now(), f64::INFINITY, 0);
    while calls < 2 || begin.elapsed().as_secs_f64() < REPETITION {
        let start = Instant::now();
        work.once()?;
        device()?.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    Ok((REPETITION / best.max(1e-9)).ceil() as usize)
}

/// Answers with one line.
fn say(value: &Value) -> std::io::Result<()> {
    println!("{value}");
    std::io::stdout().flush()
}

/// CPU time of all threads so far in milliseconds; 0 where the system does not tell.
fn cpu_ms() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let time = |task: std::fs::DirEntry| -> Option<f64> {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse().ok()
    };
    tasks.flatten().filter_map(time).sum::<f64>() / 1e6
}

/// Most bytes held at once, none where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
}

/// The time that a GPU takes, by its events; of a CPU there is none.
struct Clock {
    #[cfg(feature = "cuda")]
    of: Option<limpid_kernels::gpu::Clock>,
}

impl Clock {
    fn start() -> Result<Self> {
        #[cfg(feature = "cuda")]
        return {
            let device = device()?;
            let of = device.is_cuda().then(|| limpid_kernels::gpu::Clock::start(&device));
            Ok(Self { of: of.transpose()? })
        };
        #[cfg(not(feature = "cuda"))]
        Ok(Self {})
    }

    /// Milliseconds, when all is done.
    fn stop(self) -> Result<Option<f64>> {
        #[cfg(feature = "cuda")]
        return self.of.map(limpid_kernels::gpu::Clock::stop).transpose();
        #[cfg(not(feature = "cuda"))]
        Ok(None)
    }
}

/// Where the work is done.
fn device() -> Result<Device> {
    #[cfg(feature = "cuda")]
    if std::env::var_os("LIMPID_BENCH_GPU").is_some() {
        static GPU: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
        if let Some(device) = GPU.get() {
            return Ok(device.clone());
        }
        let precision = match std::env::var("LIMPID_BENCH_PRECISION").as_deref() {
            Ok("tf32") => Precision::Tf32,
            Ok("bf16") => Precision::Bf16,
            Ok("f16") => Precision::F16,
            _ => Precision::F32,
        };
        set_precision(precision);
        let device = limpid_kernels::gpu::open(0)?;
        return Ok(GPU.get_or_init(|| device).clone());
    }
    Ok(Device::Cpu)
}

/// A tensor of fixed numbers between -1 and 1.
fn numbers(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let mut draws = limpid_kernels::rng::Stream::new(seed, "bench").draws();
    let values: Vec<f32> = (0..count).map(|_| draws.range(-1.0, 1.0) as f32).collect();
    Ok(Tensor::from_vec(values, shape, &device()?)?)
}
