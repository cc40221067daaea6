//! `bench`: how long our works take, and how long the same ones take PyTorch.
//!
//! Each work runs in a process of its own, ours and PyTorch's (`tests/bench`), which do one
//! repetition at a time, in turn, so that both meet the same disturbances of the machine. PyTorch is
//! measured with images in both of its layouts; what counts is the one that is better beside ours.

mod speaker;
mod table;
mod works;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::process::root;
pub(crate) use speaker::Speaker;
use speaker::{LAYOUTS, Programs, number};
use works::{
    FIRST_STEP, GRIDDING, GRIDDING_MS, GROUPS, ITERATION, ITERATIONS, LEARNING, LEARNING_RATIO,
    MEMORY, SINGLE, START, Section, WORKS, Work,
};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which to run; all but those of single operations when none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(GROUPS))]
    names: Vec<String>,
    /// Compare with PyTorch, installed from PyPI into target/bench/venv
    #[arg(long)]
    peer: bool,
    /// Compare with the PyTorch of this Python instead
    #[arg(long, value_name = "PATH", requires = "peer")]
    python: Option<PathBuf>,
    /// Repetitions of each work, whose median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of both
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Also write all numbers
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables into docs/src/performance.md: networks, options and single operations have
    /// one each, which is replaced if any of its works has run
    #[arg(long, requires = "peer")]
    doc: bool,
}

/// Milliseconds of repetitions.
#[derive(Default)]
struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Times {
    fn add(&mut self, program: &mut Speaker) -> Result<(), String> {
        let answer = program.ask("run")?;
        let get = |key| number(&answer, key).ok_or_else(|| format!("no `{key}` in {answer}"));
        self.wall.push(get("wall")?);
        self.cpu.push(get("cpu")?);
        Ok(())
    }

    fn wall(&self) -> f64 {
        median(&self.wall)
    }

    fn cpu(&self) -> f64 {
        median(&self.cpu)
    }

    fn json(&self) -> Value {
        json!({ "wall_ms": self.wall, "cpu_ms": self.cpu })
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { f64::NAN } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}

/// Ours and PyTorch's repetitions in turn.
struct Pair {
    layout: &'static str,
    ours: Times,
    peer: Times,
    /// PyTorch's peak memory in bytes.
    peak: Option<f64>,
}

impl Pair {
    /// PyTorch's wall and CPU time as multiples of ours.
    fn ratios(&self) -> [f64; 2] {
        [self.peer.wall() / self.ours.wall(), self.peer.cpu() / self.ours.cpu()]
    }
}

/// All about a work.
struct Measured {
    work: &'static Work,
    parameters: f64,
    ours: Times,
    /// Our peak memory in bytes.
    peak: Option<f64>,
    /// Beside PyTorch in its better layout.
    peer: Option<Pair>,
}

impl Measured {
    /// Whether it keeps its promise; none if there is none, or no comparison.
    fn fast_enough(&self) -> Option<bool> {
        let pair = self.peer.as_ref().filter(|_| self.work.target > 0.0)?;
        Some(pair.ratios()[0] >= self.work.target)
    }

    /// Whether a training step is modest in memory.
    fn small_enough(&self) -> Option<bool> {
        let peer = self.peer.as_ref().filter(|_| self.work.trains())?;
        Some(self.peak? <= MEMORY * peer.peak?)
    }

    fn json(&self) -> Value {
        let peer = self.peer.as_ref().map(|pair| {
            json!({
                "layout": pair.layout, "ours": pair.ours.json(), "peer": pair.peer.json(),
                "peak_bytes": pair.peak, "ratio": pair.ratios()[0], "cpu_ratio": pair.ratios()[1],
            })
        });
        json!({
            "work": self.work.words, "parameters": self.parameters, "ours": self.ours.json(),
            "peak_bytes": self.peak, "target": self.work.target, "ok": self.fast_enough(),
            "memory_ok": self.small_enough(), "pair": peer,
        })
    }
}

/// Seconds from the start of a process to its first step.
struct Start {
    ours: f64,
    peer: Option<f64>,
}

impl Start {
    fn ok(&self) -> bool {
        self.ours < FIRST_STEP
    }
}

/// Measures what is asked for and prints it; an error if something is short of its target.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let programs = Programs::new(args.peer, args.python.as_deref(), args.threads as usize)?;
    let wanted = |group: &str| match args.names.is_empty() {
        true => !SINGLE.contains(&group),
        false => args.names.iter().any(|name| name == group),
    };
    let Machine { about, simd } = machine(args, &programs)?;
    let page = root().join("docs/src/performance.md");
    let named = |section: Section| format!("{} {simd}", section.name());
    if args.doc {
        // or all would be measured for nothing
        Section::ALL
            .into_iter()
            .try_for_each(|section| table::check_page(&page, &named(section)))?;
    }
    let mut measured = Vec::new();
    for work in WORKS.iter().filter(|work| wanted(work.group)) {
        if work.words.starts_with("bf16") && !(simd == "avx512" && multiplies_bf16()) {
            eprintln!("left out, since this processor does not multiply bf16: {}", work.words);
            continue;
        }
        eprintln!("==> {}", work.words);
        measured.push(measure(work, &programs, args.rounds)?);
    }
    let start = wanted(START.group).then(|| measure_start(&programs, args.rounds)).transpose()?;
    println!("{about}\n\n{}", table::tables(&measured.iter().collect::<Vec<_>>(), start.as_ref()));
    if let Some(path) = &args.json {
        let seconds = start.as_ref().map(|s| json!({ "ours_s": s.ours, "peer_s": s.peer }));
        let works: Vec<Value> = measured.iter().map(Measured::json).collect();
        let all = json!({ "about": about, "works": works, "start": seconds });
        std::fs::write(path, format!("{all:#}\n"))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let promises = promises(&measured);
    promises.iter().for_each(|(line, _)| println!("{line}"));
    for section in Section::ALL.into_iter().filter(|_| args.doc) {
        let own: Vec<_> = measured.iter().filter(|m| m.work.section() == section).collect();
        let start = start.as_ref().filter(|_| section == Section::Networks);
        if !own.is_empty() {
            let mut text = format!("{about}\n\n{}", table::tables(&own, start));
            if section == Section::Reconstruction {
                promises.iter().for_each(|(line, _)| text += &format!("\n- {line}"));
            }
            table::write_page(&page, &named(section), &text)?;
        }
    }
    let slow = measured.iter().filter(|m| m.fast_enough() == Some(false)).count()
        + promises.iter().filter(|(_, kept)| !kept).count();
    let large = measured.iter().filter(|m| m.small_enough() == Some(false)).count();
    let late = usize::from(start.is_some_and(|s| !s.ok()));
    match slow + large + late {
        0 => Ok(()),
        n => {
            Err(format!("{n} short of target: {slow} in time, {large} in memory, {late} in start"))
        }
    }
}

/// What reconstruction promises of itself, if it was measured, and whether it is kept.
fn promises(measured: &[Measured]) -> Vec<(String, bool)> {
    let found = |words: &str| measured.iter().find(|m| m.work.words == words);
    let time = |words: &str| found(words).map(|m| m.ours.wall());
    let [nufft, toeplitz, grid] = ITERATIONS.map(time);
    let iteration = nufft.zip(grid).map(|(nufft, grid)| {
        let ratio = nufft / grid;
        let line = format!(
            "an iteration on the grid is {ratio:.1} times as fast as our transforms of the samples (≥ {ITERATION})"
        );
        (line, ratio >= ITERATION)
    });
    let convolution = toeplitz.zip(grid).map(|(toeplitz, grid)| {
        let ratio = toeplitz / grid;
        (format!("and {ratio:.1} times as fast as our convolution in their place"), true)
    });
    let peer = found(LEARNING[0]).and_then(|m| m.peer.as_ref()).map(|pair| pair.peer.wall());
    let learning = peer.zip(time(LEARNING[1])).map(|(reference, preset)| {
        let ratio = reference / preset;
        let line = format!(
            "a step of the presets' training is {ratio:.1} times as fast as the peer's of the reference's recipe \
             (≥ {LEARNING_RATIO})"
        );
        (line, ratio >= LEARNING_RATIO)
    });
    let gridding = time(GRIDDING).map(|ms| {
        let line = format!("a whole scan is on the grid in {ms:.0} ms (< {GRIDDING_MS})");
        (line, ms < GRIDDING_MS)
    });
    iteration.into_iter().chain(convolution).chain(learning).chain(gridding).collect()
}

fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The repetitions of a work.
fn measure(work: &'static Work, programs: &Programs, rounds: u32) -> Result<Measured, String> {
    let mut ours = programs.ours(work.words)?;
    ours.ask("warm")?;
    let mut times = Times::default();
    let mut best: Option<Pair> = None;
    if programs.compares() && work.has_peer() {
        let layouts = if work.has_layouts() { &LAYOUTS[..] } else { &LAYOUTS[..1] };
        for layout in layouts {
            let pair = compare(work, layout, programs, &mut ours, rounds)?;
            times.wall.extend(&pair.ours.wall);
            times.cpu.extend(&pair.ours.cpu);
            if best.as_ref().is_none_or(|best| pair.ratios()[0] < best.ratios()[0]) {
                best = Some(pair);
            }
        }
    } else {
        for _ in 0..rounds {
            times.add(&mut ours)?;
        }
    }
    let parameters = number(&ours.hello, "parameters").unwrap_or(f64::NAN);
    let peak = ours.number("peak", "bytes").ok();
    Ok(Measured { work, parameters, ours: times, peak, peer: best })
}

/// The repetitions of a work, and PyTorch's between them.
fn compare(
    work: &Work,
    layout: &'static str,
    programs: &Programs,
    ours: &mut Speaker,
    rounds: u32,
) -> Result<Pair, String> {
    let mut peer = programs.peer(layout, work.words)?;
    for key in ["parameters", "output"] {
        let (own, other) = (&ours.hello[key], &peer.hello[key]);
        if own != other {
            return Err(format!("`{}`: {key} are {own} here, {other} there", work.words));
        }
    }
    eprintln!("    {} parameters on both sides, {layout}", ours.hello["parameters"]);
    peer.ask("warm")?;
    let mut pair = Pair { layout, ours: Times::default(), peer: Times::default(), peak: None };
    for _ in 0..rounds {
        pair.ours.add(ours)?;
        pair.peer.add(&mut peer)?;
    }
    pair.peak = peer.number("peak", "bytes").ok();
    Ok(pair)
}

/// Median seconds from the start of a process to its first step.
fn measure_start(programs: &Programs, rounds: u32) -> Result<Start, String> {
    eprintln!("==> start");
    let median_of = |start: &dyn Fn() -> Result<Speaker, String>| -> Result<f64, String> {
        let seconds = (0..rounds).map(|_| Ok(start()?.start)).collect::<Result<Vec<f64>, String>>();
        Ok(median(&seconds?))
    };
    let ours = median_of(&|| programs.ours(START.words))?;
    let peer = || median_of(&|| programs.peer(LAYOUTS[0], START.words));
    Ok(Start { ours, peer: programs.compares().then(peer).transpose()? })
}

/// When, where and with what it was measured.
struct Machine {
    about: String,
    /// The vector instructions that ours used.
    simd: String,
}

fn machine(args: &Args, programs: &Programs) -> Result<Machine, String> {
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).current_dir(root()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let said_of = |speaker: &Speaker, key: &str| {
        speaker.hello[key].as_str().map(str::to_owned).unwrap_or_default()
    };
    let ours = programs.ours(START.words)?;
    let simd = said_of(&ours, "simd");
    let mut versions = vec![said_of(&ours, "version")];
    versions.extend(said("git", &["describe", "--always", "--dirty"]));
    if programs.compares() {
        versions.push(said_of(&programs.peer(LAYOUTS[0], START.words)?, "version"));
    }
    let about = format!(
        "{}, {}, {simd}, {} threads, f32, medians of {} repetitions; {}.",
        said("date", &["+%F"]).unwrap_or_default(),
        model.map_or("unknown processor", |(_, name)| name),
        args.threads,
        args.rounds,
        versions.join(", "),
    );
    Ok(Machine { about, simd })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn every_work_is_in_a_group_and_images_have_layouts() {
        assert!(WORKS.iter().all(|work| GROUPS.contains(&work.group)));
        assert!(SINGLE.iter().all(|name| GROUPS.contains(name)));
        // what runs unasked is the section of networks
        let unasked = |work: &Work| !SINGLE.contains(&work.group);
        assert!(WORKS.iter().all(|w| unasked(w) == (w.section() == Section::Networks)));
        let layouts = |words: &str| {
            WORKS.iter().find(|work| work.words == words).is_some_and(Work::has_layouts)
        };
        assert!(layouts("train dncnn 8x1x64x64"));
        assert!(!layouts("infer matmul 256x256 256x256"));
        assert!(!layouts("infer attention 1x8x4096x64"));
    }

    #[test]
    fn a_promise_is_kept_or_broken_by_the_medians() {
        let times = |ms: f64| Times { wall: vec![ms, 2.0 * ms, 0.5 * ms], cpu: vec![ms; 3] };
        let pair =
            |peer| Pair { layout: "nchw", ours: times(1.0), peer: times(peer), peak: Some(10.0) };
        let work = WORKS.iter().find(|work| work.words.starts_with("train dncnn")).unwrap();
        let measured = |peer, peak| Measured {
            work,
            parameters: 1.0,
            ours: times(1.0),
            peak: Some(peak),
            peer: Some(pair(peer)),
        };
        assert_eq!(measured(2.5, 7.0).fast_enough(), Some(true));
        assert_eq!(measured(2.4, 7.0).fast_enough(), Some(false));
        assert_eq!(measured(2.4, 7.0).small_enough(), Some(true));
        assert_eq!(measured(2.4, 7.1).small_enough(), Some(false));
    }
}
