//! What is in a directory of runs: the `runs` verb. Reads `run.json` and `metrics.jsonl` loosely, so
//! that runs of other versions, and damaged ones, are still listed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::failure::Failure;
use crate::format::{Align, age, bytes, table};
use crate::terminal::print;

/// Seconds without news after which a run that says it is running was probably killed.
const SILENT: u64 = 600;

/// One run, as far as its files tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its directory.
    pub path: PathBuf,
    /// Its name, or that of the directory.
    pub name: String,
    /// `running`, `finished`, `interrupted`, `failed`; `damaged` when `run.json` cannot be read.
    pub status: String,
    /// Steps done.
    pub step: Option<u64>,
    /// Steps in all.
    pub steps: Option<u64>,
    /// The best score: metric, value, step.
    pub best: Option<(String, f64, u64)>,
    /// Unix time of the last news, in seconds.
    pub updated: Option<u64>,
}

/// The runs in a directory, by name; directories without `run.json` are no runs.
///
/// # Errors
/// [`Kind::Data`](crate::Kind::Data) if the directory cannot be read.
pub fn list(root: &Path) -> Result<Vec<Run>, Failure> {
    let unreadable = |e| {
        Failure::data(format!("cannot list the runs: {e}"))
            .hint("name the directory that holds them; training makes `runs/` where it is started")
            .file(root)
    };
    let mut runs = Vec::new();
    for entry in fs::read_dir(root).map_err(unreadable)? {
        runs.extend(read(&entry.map_err(unreadable)?.path()));
    }
    runs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(runs)
}

/// The run in a directory, if it holds one.
#[must_use]
pub fn read(path: &Path) -> Option<Run> {
    let file = path.join("run.json");
    if !file.is_file() {
        return None;
    }
    let directory = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let json = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let modified = || {
        let time = fs::metadata(&file).and_then(|m| m.modified()).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    let json = json.filter(Value::is_object).unwrap_or_default();
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| json.get(key).and_then(Value::as_u64);
    Some(Run {
        path: path.to_owned(),
        name: text("name").unwrap_or(directory),
        status: text("status").unwrap_or_else(|| "damaged".into()),
        step: number("step"),
        steps: number("steps"),
        best: json.get("best").and_then(best),
        updated: number("updated").or_else(modified),
    })
}

fn best(json: &Value) -> Option<(String, f64, u64)> {
    let metric = json.get("metric")?.as_str()?.to_owned();
    Some((metric, json.get("value")?.as_f64()?, json.get("step")?.as_u64()?))
}

/// List and show runs.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum RunsVerb {
    /// List the runs in a directory
    Ls {
        /// Directory of runs
        #[arg(default_value = "runs")]
        dir: PathBuf,
    },
    /// Show one run
    Show {
        /// Directory of the run
        run: PathBuf,
    },
}

impl RunsVerb {
    /// Prints them.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::Kind::Data) if there is no such directory or no run in it.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { dir } => print(overview(&list(dir)?)),
            Self::Show { run } => print(details(run)?),
        }
    }
}

/// The runs as a table: name, status, steps, best score, age.
#[must_use]
pub fn overview(runs: &[Run]) -> String {
    overview_at(runs, now())
}

fn overview_at(runs: &[Run], now: u64) -> String {
    let columns = [
        ("run", Align::Left),
        ("status", Align::Left),
        ("steps", Align::Right),
        ("best", Align::Left),
        ("updated", Align::Left),
    ];
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let updated = run.updated.map_or("?".into(), |t| age(now.saturating_sub(t)));
            vec![run.name.clone(), status(run, now), steps(run), score(run), updated]
        })
        .collect();
    table(&columns, &rows)
}

/// Everything about one run: status, score, last values of every metric, files and their sizes.
///
/// # Errors
/// [`Kind::Data`](crate::Kind::Data) if there is no run in the directory.
pub fn details(path: &Path) -> Result<String, Failure> {
    let run = read(path).ok_or_else(|| {
        Failure::data("this is not a run: it has no `run.json`")
            .hint("`runs` lists the runs there are")
            .file(path)
    })?;
    Ok(details_at(&run, now()))
}

fn details_at(run: &Run, now: u64) -> String {
    let updated = run.updated.map_or("?".into(), |t| age(now.saturating_sub(t)));
    let mut text = format!(
        "run      {}\nstatus   {}\nsteps    {}\nbest     {}\nupdated  {updated}\n",
        run.name,
        status(run, now),
        steps(run),
        score(run),
    );
    let metrics = last_values(&run.path.join("metrics.jsonl"));
    if !metrics.is_empty() {
        let columns = [
            ("set", Align::Left),
            ("metric", Align::Left),
            ("last", Align::Right),
            ("step", Align::Right),
        ];
        let rows: Vec<Vec<String>> = metrics
            .into_iter()
            .map(|((set, metric), (step, value))| vec![set, metric, short(value), step.to_string()])
            .collect();
        text += &format!("\n{}", table(&columns, &rows));
    }
    let files = files(&run.path);
    if !files.is_empty() {
        let rows: Vec<Vec<String>> =
            files.into_iter().map(|(name, size)| vec![name, bytes(size)]).collect();
        text += &format!("\n{}", table(&[("file", Align::Left), ("size", Align::Right)], &rows));
    }
    text
}

/// The last value of every metric by (set, metric), with its step; lines cut short are skipped.
fn last_values(path: &Path) -> BTreeMap<(String, String), (u64, f64)> {
    let mut last = BTreeMap::new();
    let Ok(file) = File::open(path) else { return last };
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        let Ok(json) = serde_json::from_slice::<Value>(&line) else { continue };
        let step = json.get("step").and_then(Value::as_u64);
        let set = json.get("split").and_then(Value::as_str);
        let values = json.get("values").and_then(Value::as_object);
        let (Some(step), Some(set), Some(values)) = (step, set, values) else { continue };
        for (metric, value) in values {
            // what is not finite is written as a string
            let value = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            last.extend(value.map(|value| ((set.to_owned(), metric.clone()), (step, value))));
        }
    }
    last
}

/// The files of a run and their sizes, hidden ones left out, checkpoints as one entry.
fn files(path: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<(String, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|n| !n.starts_with('.'))?;
            match entry.file_type().ok()?.is_dir() {
                true => Some((format!("{name}/"), total_size(&entry.path()))),
                false => Some((name, entry.metadata().ok()?.len())),
            }
        })
        .collect();
    files.sort();
    files
}

/// Bytes of all files below a directory; links are not followed.
fn total_size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => total_size(&entry.path()),
        _ => entry.metadata().map_or(0, |m| m.len()),
    };
    entries.flatten().map(size).sum()
}

/// The status, with a doubt when a running run has been silent for long.
fn status(run: &Run, now: u64) -> String {
    let silent = run.updated.is_some_and(|t| now.saturating_sub(t) > SILENT);
    match run.status.as_str() {
        "running" if silent => "running?".into(),
        other => other.to_owned(),
    }
}

fn steps(run: &Run) -> String {
    match (run.step, run.steps) {
        (Some(step), Some(steps)) => format!("{step}/{steps}"),
        (Some(step), None) => step.to_string(),
        _ => "-".into(),
    }
}

fn score(run: &Run) -> String {
    match &run.best {
        Some((metric, value, step)) => format!("{metric} {} @{step}", short(*value)),
        None => "-".into(),
    }
}

/// A value with five significant digits at most.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    match value.abs().log10().floor() as i32 {
        magnitude @ -3..5 => format!("{value:.*}", (4 - magnitude) as usize),
        _ => format!("{value:.4e}"),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, run: &str, json: &str) -> PathBuf {
        let path = root.join(run);
        fs::create_dir_all(path.join("checkpoints")).unwrap();
        fs::write(path.join("run.json"), json).unwrap();
        path
    }

    #[test]
    fn healthy_damaged_and_foreign_directories_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let json = r#"{"name": "n2v-0001", "status": "finished", "step": 500, "steps": 500,
            "best": {"metric": "psnr", "value": 34.12345, "step": 450}, "updated": 1000}"#;
        write(root.path(), "n2v-0001", json);
        write(root.path(), "n2v-0002", r#"{"status": "running", "step": 7, "updated": 90000}"#);
        write(root.path(), "n2v-0003", r#"{"status": "running", "step": 7, "updated": 95000}"#);
        write(root.path(), "n2v-0004", r#"{"status": "runn"#);
        fs::create_dir(root.path().join("other")).unwrap();
        fs::write(root.path().join("note.txt"), "").unwrap();
        let mut runs = list(root.path()).unwrap();
        runs[3].updated = None;
        assert_eq!(
            overview_at(&runs, 95_100),
            "\
run       status      steps  best              updated
n2v-0001  finished  500/500  psnr 34.123 @450  1d ago
n2v-0002  running?        7  -                 1h ago
n2v-0003  running         7  -                 1m ago
n2v-0004  damaged         -  -                 ?
"
        );
    }

    #[test]
    fn details_show_the_last_values_and_the_files() {
        let root = tempfile::tempdir().unwrap();
        let json = r#"{"status": "interrupted", "step": 2, "steps": 9, "updated": 50}"#;
        let path = write(root.path(), "em-0001", json);
        fs::write(path.join("checkpoints/a.safetensors"), vec![0; 3000]).unwrap();
        let lines = concat!(
            r#"{"step": 1, "split": "train", "values": {"loss": 0.5}}"#,
            "\n",
            r#"{"step": 2, "split": "train", "values": {"loss": "NaN", "lr": 1e-5}}"#,
            "\n",
            r#"{"step": 2, "split": "val", "values": {"psnr": 31.25}}"#,
            "\n",
            r#"{"step": 3, "spl"#,
        );
        fs::write(path.join("metrics.jsonl"), lines).unwrap();
        let run = read(&path).unwrap();
        let expected = format!(
            "\
run      em-0001
status   interrupted
steps    2/9
best     -
updated  1h ago

set    metric       last  step
train  loss          NaN     2
train  lr      1.0000e-5     2
val    psnr       31.250     2

file               size
checkpoints/   2.93 KiB
metrics.jsonl     {} B
run.json           {} B
",
            lines.len(),
            json.len()
        );
        assert_eq!(details_at(&run, 3700), expected);
    }

    #[test]
    fn no_run_and_no_directory_are_data_failures() {
        let root = tempfile::tempdir().unwrap();
        let failure = details(root.path()).unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().starts_with("error: this is not a run"));
        assert_eq!(list(&root.path().join("no")).unwrap_err().exit_code(), 3);
    }
}
