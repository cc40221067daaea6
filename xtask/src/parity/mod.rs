//! `parity`: our results beside those of the programs that people trust.
//!
//! A folder holds safetensors files of inputs and expected results, each of a kind that its name
//! begins with: `losses`, `losses_s7` and `losses-b` are all of the kind `losses`. The longest
//! known kind wins. A handler per kind computes and compares; sizes come from the tensors and
//! parameters from names and metadata, so that files of other seeds and shapes are compared too.

mod checkpoints;
mod classical;
mod fixture;
mod inference;
mod losses;
mod metrics;
mod networks;
mod optim;
mod training;
mod transformers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fixture::{Fixture, Outcome};

/// Options of `parity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of reference values
    pub(crate) dir: PathBuf,
    /// Also write the results as a Markdown table
    #[arg(long, value_name = "FILE")]
    pub(crate) doc: Option<PathBuf>,
}

/// Computes what a file asks for and compares; an error says why that was not possible.
type Handler = fn(&Fixture) -> Result<Outcome, String>;

/// The handler of each kind.
const HANDLERS: &[(&str, Handler)] = &[
    ("amp", optim::amp),
    ("baselines", classical::baselines),
    ("ckpt_expected", checkpoints::torch_files),
    ("ema", optim::ema),
    ("inference_misc", inference::misc),
    ("losses", losses::losses),
    ("metrics_2d", metrics::image),
    ("metrics_3d", metrics::image),
    ("metrics_ms_fsim", metrics::perceptual),
    ("net_dncnn", networks::network),
    ("net_monai_basicunet", networks::network),
    ("net_monai_dynunet", networks::network),
    ("net_monai_swinunetr", transformers::network),
    ("net_monai_unetr", transformers::network),
    ("net_monai_vitautoenc", transformers::network),
    ("net_nucli_unet", networks::network),
    ("net_swinir", transformers::network),
    ("net_timm_vit", transformers::network),
    ("nnunet_sliding", inference::nnunet),
    ("optimizers", optim::optimizers),
    ("patch_centers", classical::patch_centers),
    ("pet_quant", metrics::pet),
    ("resample", classical::resample),
    ("resample_spacing", classical::resample_spacing),
    ("schedulers", optim::schedules),
    ("selfsup", losses::self_supervised),
    ("sliding_window", inference::monai),
    ("ssim_maps", metrics::ssim_maps),
    ("stats_compare", metrics::statistics),
    ("suv", metrics::uptake),
    ("train_gan", training::gan),
    ("train_tiny", training::tiny),
];

/// What became of one file.
struct Line {
    verdict: &'static str,
    stem: String,
    /// Worst error and its tolerance.
    worst: Option<(f64, f64)>,
    detail: String,
}

/// Compares every file of the folder and prints a line for each.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let files = fixtures(&args.dir)?;
    let width = files.iter().map(|(stem, _)| stem.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (stem, path) in files {
        let line = compare(stem, &path);
        println!("{}", shown(&line, width));
        lines.push(line);
    }
    if let Some(doc) = &args.doc {
        limpid_io::atomic::write_bytes(doc, table(&lines).as_bytes()).map_err(|e| e.to_string())?;
    }
    let count = |verdict: &str| lines.iter().filter(|line| line.verdict == verdict).count();
    let (passed, failed, skipped) = (count("ok"), count("FAIL"), count("skip"));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { Ok(()) } else { Err(format!("{failed} files differ from their reference")) }
}

/// Stem and path of the files of a folder, sorted.
fn fixtures(dir: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{e}: `{}`", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("{e}: `{}`", dir.display()))?.path();
        if path.extension().is_some_and(|e| e == "safetensors")
            && let Some(stem) = path.file_stem()
        {
            files.push((stem.to_string_lossy().into_owned(), path));
        }
    }
    if files.is_empty() {
        return Err(format!("no .safetensors file in `{}`", dir.display()));
    }
    files.sort();
    Ok(files)
}

/// The handler of the longest kind that `stem` begins with.
fn handler(stem: &str) -> Option<Handler> {
    let known = HANDLERS.iter().filter(|(kind, _)| stem.starts_with(kind));
    known.max_by_key(|(kind, _)| kind.len()).map(|(_, handler)| *handler)
}

/// Runs the handler of one file; its panic is a failure of this file only.
fn compare(stem: String, path: &Path) -> Line {
    let line = |verdict, worst, detail: String| Line { verdict, stem: stem.clone(), worst, detail };
    let Some(handler) = handler(&stem) else {
        return line("skip", None, "nothing of ours to compare with it yet".into());
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| handler(&Fixture::load(path)?)));
    match outcome {
        Ok(Ok(Outcome::Skipped(reason))) => line("skip", None, reason),
        Ok(Ok(Outcome::Compared(worst))) => {
            let verdict = if worst.passed() { "ok" } else { "FAIL" };
            line(verdict, worst.error_and_tolerance(), worst.detail())
        }
        Ok(Err(message)) => line("FAIL", None, message),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            line("FAIL", None, format!("panicked: {}", text.unwrap_or_default()))
        }
    }
}

/// One line of the report.
fn shown(line: &Line, width: usize) -> String {
    let worst = line.worst.map_or_else(String::new, |(error, tolerance)| {
        format!("worst error {error:.1e} (tolerance {tolerance:.1e})  ")
    });
    // a message of several lines would hide the verdicts of the others
    let detail = line.detail.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    format!("{:4}  {:width$}  {worst}{detail}", line.verdict, line.stem)
}

/// The report as Markdown.
fn table(lines: &[Line]) -> String {
    let mut text = String::from("| reference | verdict | worst error | tolerance | detail |\n");
    text += "|---|---|---|---|---|\n";
    for line in lines {
        let (error, tolerance) = line.worst.map_or_else(Default::default, |(error, tolerance)| {
            (format!("{error:.1e}"), format!("{tolerance:.1e}"))
        });
        let detail = line.detail.replace('|', "\\|").replace('\n', " ");
        text +=
            &format!("| {} | {} | {error} | {tolerance} | {detail} |\n", line.stem, line.verdict);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_kind_wins_whatever_follows_it() {
        let same = |stem: &str, kind: Handler| {
            assert!(handler(stem).is_some_and(|h| std::ptr::fn_addr_eq(h, kind)), "{stem}");
        };
        for stem in ["losses", "losses_s7", "losses-b", "losses2"] {
            same(stem, losses::losses);
        }
        same("resample_7", classical::resample);
        same("resample_spacing_7", classical::resample_spacing);
        same("net_monai_basicunet3d_s2", networks::network);
        assert!(handler("unheard_of").is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_fails_alone() {
        let line = compare("losses".into(), Path::new("no such file"));
        assert_eq!(line.verdict, "FAIL");
        assert!(line.detail.contains("no such file"), "{}", line.detail);
    }
}
