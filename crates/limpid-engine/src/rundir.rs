//! The directory of a run: `runs/NAME-0001/` with its configuration, status, log and checkpoints.

use crate::{Error, Result};
use limpid_io::atomic;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How a run stands, as `run.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Name of the run, equal to its directory's.
    pub name: String,
    /// `running`, `finished`, `interrupted` or `failed`.
    pub status: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps in all.
    pub steps: u64,
    /// The best score so far.
    pub best: Option<BestScore>,
    /// Unix time of its beginning, in seconds.
    pub started: u64,
    /// Unix time of this entry, in seconds.
    pub updated: u64,
    /// Digest of the configuration: the same command goes on with the same run.
    pub config: String,
}

/// The best score of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestScore {
    /// Name of the score.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Step at which it was reached.
    pub step: u64,
}

/// The directory of a run, held by this process alone.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    status: RunStatus,
    /// Held locked while the run is open.
    _lock: File,
}

impl RunDir {
    /// Opens the newest run `NAME-dddd` under `root` that has this configuration if it is
    /// unfinished, or makes the next one. `fresh` always makes a new one. Directories without a
    /// readable `run.json` are passed over.
    ///
    /// # Errors
    /// [`Error::RunDir`] if the directory cannot be written, or another process holds the run.
    pub fn open_or_create(root: &Path, name: &str, config: &str, fresh: bool) -> Result<Self> {
        fs::create_dir_all(root).map_err(|e| unusable(root, &e))?;
        let runs = numbered(root, name)?;
        let same = runs.iter().rev().find_map(|(_, path)| {
            let status = read_status(path).filter(|s| s.config == config)?;
            Some((path, status))
        });
        if !fresh
            && let Some((path, status)) = same
            && status.status != "finished"
        {
            return Self::open(path);
        }
        let next = runs.last().map_or(1, |(n, _)| n + 1);
        Self::create(&root.join(format!("{name}-{next:04}")), config)
    }

    /// Opens an existing run.
    ///
    /// # Errors
    /// [`Error::RunDir`] if it is not a run, or another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        let status = read_status(path).ok_or_else(|| Error::RunDir {
            path: path.to_owned(),
            message: "this is not a run: `run.json` is missing or damaged".into(),
            hint: "name a directory that `train` made".into(),
        })?;
        let lock = lock(path)?;
        Ok(Self { path: path.to_owned(), status, _lock: lock })
    }

    fn create(path: &Path, config: &str) -> Result<Self> {
        fs::create_dir_all(path.join("checkpoints")).map_err(|e| unusable(path, &e))?;
        let lock = lock(path)?;
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let status = RunStatus {
            name,
            status: "running".into(),
            step: 0,
            steps: 0,
            best: None,
            started: now(),
            updated: now(),
            config: config.to_owned(),
        };
        let mut run = Self { path: path.to_owned(), status, _lock: lock };
        run.update(|_| {})?;
        Ok(run)
    }

    /// Where the run is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the run.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.status.name
    }

    /// How the run stands.
    #[must_use]
    pub fn status(&self) -> &RunStatus {
        &self.status
    }

    /// Changes the status and writes it.
    ///
    /// # Errors
    /// [`Error::RunDir`] if it cannot be written.
    pub fn update(&mut self, change: impl FnOnce(&mut RunStatus)) -> Result<()> {
        change(&mut self.status);
        self.status.updated = now();
        let text = serde_json::to_string_pretty(&self.status).unwrap_or_default();
        self.write("run.json", text.as_bytes())
    }

    /// Writes a file of the run, whole or not at all.
    ///
    /// # Errors
    /// [`Error::RunDir`] if it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        atomic::write_bytes(&path, bytes).map_err(|e| Error::RunDir {
            path,
            message: e.to_string(),
            hint: "free space or choose another place with `--out DIR`".into(),
        })
    }
}

/// The status of the run in a directory, if it is one.
#[must_use]
pub(crate) fn read_status(path: &Path) -> Option<RunStatus> {
    serde_json::from_slice(&fs::read(path.join("run.json")).ok()?).ok()
}

/// Directories `NAME-dddd` under `root`, by number.
fn numbered(root: &Path, name: &str) -> Result<Vec<(u32, PathBuf)>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(root).map_err(|e| unusable(root, &e))? {
        let entry = entry.map_err(|e| unusable(root, &e))?;
        let file = entry.file_name();
        let number = file
            .to_str()
            .and_then(|f| f.strip_prefix(name))
            .and_then(|f| f.strip_prefix('-'))
            .filter(|d| d.len() >= 4 && d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok());
        if let Some(number) = number {
            runs.push((number, entry.path()));
        }
    }
    runs.sort();
    Ok(runs)
}

/// The lock of a run, released with the file. Where the file system has no locks, none is held.
fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(".lock"))
        .map_err(|e| unusable(path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::RunDir {
            path: path.to_owned(),
            message: "another process is working on this run".into(),
            hint: "wait for it, or begin another run with `--fresh`".into(),
        }),
        Err(TryLockError::Error(e)) if has_no_locks(&e) => Ok(file),
        Err(TryLockError::Error(e)) => Err(unusable(path, &e)),
    }
}

/// Whether an error says that the file system has no locks, as some network file systems do.
fn has_no_locks(e: &std::io::Error) -> bool {
    const ENOLCK: i32 = if cfg!(target_os = "macos") { 77 } else { 37 };
    e.kind() == std::io::ErrorKind::Unsupported || cfg!(unix) && e.raw_os_error() == Some(ENOLCK)
}

fn unusable(path: &Path, e: &std::io::Error) -> Error {
    Error::RunDir {
        path: path.to_owned(),
        message: format!("cannot write the run directory: {e}"),
        hint: "choose a place that can be written with `--out DIR`".into(),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_configuration_goes_on_until_it_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let open = |config: &str, fresh| RunDir::open_or_create(root.path(), "em", config, fresh);
        assert_eq!(open("a", false).unwrap().name(), "em-0001");
        assert_eq!(open("a", false).unwrap().name(), "em-0001");
        assert_eq!(open("b", false).unwrap().name(), "em-0002");
        assert_eq!(open("b", true).unwrap().name(), "em-0003");
        assert_eq!(open("a", false).unwrap().name(), "em-0001", "whatever ran in between");
        let mut run = open("b", false).unwrap();
        assert_eq!(run.name(), "em-0003");
        run.update(|s| s.status = "finished".into()).unwrap();
        drop(run);
        assert_eq!(open("b", false).unwrap().name(), "em-0004");
    }

    #[test]
    fn directories_without_a_status_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let open = || RunDir::open_or_create(root.path(), "em", "a", false).unwrap();
        open();
        fs::create_dir(root.path().join("em-0002")).unwrap();
        fs::create_dir(root.path().join("em-0003")).unwrap();
        fs::write(root.path().join("em-0003/run.json"), "{\"name\": ").unwrap();
        assert_eq!(open().name(), "em-0001");
        open().update(|s| s.status = "finished".into()).unwrap();
        assert_eq!(open().name(), "em-0004");
    }

    #[test]
    fn a_run_has_one_owner_and_other_directories_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::open_or_create(root.path(), "em", "a", false).unwrap();
        let second = RunDir::open(run.path()).unwrap_err().to_string();
        assert!(second.contains("another process"), "{second}");
        let other = RunDir::open(root.path()).unwrap_err().to_string();
        assert!(other.contains("not a run"), "{other}");
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        let blocked = RunDir::open_or_create(&file, "em", "a", false).unwrap_err().to_string();
        assert!(blocked.contains("--out DIR"), "{blocked}");
    }
}
