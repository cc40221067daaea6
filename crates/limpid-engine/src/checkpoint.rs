//! Checkpoints: a directory per step with tensors in safetensors and the rest in JSON, written
//! whole or not at all, verified by checksums when read.

use crate::state::Progress;
use crate::{Error, Result};
use candle_core::Tensor;
use limpid_io::atomic;
use limpid_nn::tensors;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const SUMS: &str = "SHA256";
const STATE: &str = "state.json";
/// Directories of a checkpoint being written, and of one that another is about to replace.
const PARTIAL: &str = ".partial-";
const REPLACED: &str = ".replaced-";

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
}

/// A checkpoint on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointInfo {
    /// Optimizer steps done.
    pub step: u64,
    /// Its directory.
    pub path: PathBuf,
}

/// Everything a checkpoint holds.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) weights: BTreeMap<String, Tensor>,
    pub(crate) ema: Option<BTreeMap<String, Tensor>>,
    pub(crate) optimizers: BTreeMap<String, Tensor>,
    pub(crate) state: SavedState,
}

/// The part that is not tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedState {
    pub(crate) version: u32,
    /// Digest of the configuration, and of the data.
    pub(crate) config: String,
    pub(crate) data: String,
    pub(crate) progress: Progress,
    pub(crate) groups: BTreeMap<String, SavedGroup>,
    pub(crate) ema: serde_json::Value,
    pub(crate) callbacks: BTreeMap<String, serde_json::Value>,
}

/// Schedule and loss scale of an optimizer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedGroup {
    pub(crate) schedule: serde_json::Value,
    pub(crate) scaler: serde_json::Value,
    #[serde(default)]
    pub(crate) overflows: u64,
}

impl SavedState {
    pub(crate) fn new(config: &str, data: &str, progress: Progress) -> Self {
        Self {
            version: VERSION,
            config: config.to_owned(),
            data: data.to_owned(),
            progress,
            groups: BTreeMap::new(),
            ema: serde_json::Value::Null,
            callbacks: BTreeMap::new(),
        }
    }
}

impl Checkpoints {
    /// The checkpoints in a directory, which need not exist yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Complete checkpoints, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<CheckpointInfo> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let mut list: Vec<_> = entries
            .flatten()
            .filter_map(|e| {
                let step = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
                Some(CheckpointInfo { step, path: e.path() })
            })
            .collect();
        list.sort();
        list
    }

    /// Weights of a checkpoint, averaged if there are averages. These are all that training needs,
    /// those of a discriminator too: a deployable file takes the names of [`crate::Model::weights`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is damaged.
    pub fn weights(path: &Path) -> Result<BTreeMap<String, Tensor>> {
        let snapshot = read(path)?;
        let mut weights = snapshot.weights;
        weights.extend(snapshot.ema.unwrap_or_default());
        Ok(weights)
    }

    /// Writes a checkpoint. One of the same step is replaced, unless it is whole and has the same
    /// state: then it is kept.
    pub(crate) fn save(&self, snapshot: &Snapshot) -> Result<PathBuf> {
        let step = snapshot.state.progress.step;
        let path = self.dir.join(format!("step-{step:09}"));
        let partial = self.dir.join(format!("{PARTIAL}{step:09}"));
        self.write(snapshot, &partial, &path).map_err(|e| {
            let _ = fs::remove_dir_all(&partial);
            Error::Checkpoint {
                path: path.clone(),
                message: format!("cannot write the checkpoint: {e}"),
                hint: "free space, or choose another place with `--out DIR`; earlier checkpoints are untouched".into(),
            }
        })?;
        Ok(path)
    }

    fn write(
        &self,
        snapshot: &Snapshot,
        partial: &Path,
        path: &Path,
    ) -> std::result::Result<(), crate::BoxError> {
        let json = serde_json::to_vec_pretty(&snapshot.state)?;
        if fs::read(path.join(STATE)).is_ok_and(|old| old == json) && verify(path).is_ok() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(partial);
        fs::create_dir_all(partial)?;
        let none = BTreeMap::new();
        let mut files = vec![STATE];
        let mut save = |name: &'static str, map: &BTreeMap<String, Tensor>| {
            files.push(name);
            tensors::save(partial.join(name), map, &none)
        };
        save("weights.safetensors", &snapshot.weights)?;
        save("optimizers.safetensors", &snapshot.optimizers)?;
        if let Some(ema) = &snapshot.ema {
            save("ema.safetensors", ema)?;
        }
        atomic::write_bytes(partial.join(STATE), &json)?;
        files.sort_unstable();
        let mut sums = String::new();
        for name in files {
            sums.push_str(&format!("{}  {name}\n", atomic::sha256_file(partial.join(name))?));
        }
        atomic::write_bytes(partial.join(SUMS), sums.as_bytes())?;
        // a directory cannot be renamed over another; `tidy` mends it if the process ends in between
        let step = snapshot.state.progress.step;
        let replaced = self.dir.join(format!("{REPLACED}{step:09}"));
        let _ = fs::remove_dir_all(&replaced);
        if path.exists() {
            fs::rename(path, &replaced)?;
        }
        fs::rename(partial, path).inspect_err(|_| {
            let _ = fs::rename(&replaced, path);
        })?;
        File::open(&self.dir)?.sync_all()?;
        let _ = fs::remove_dir_all(&replaced);
        Ok(())
    }

    /// Clears up after a process that was killed while it wrote.
    pub(crate) fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|e| e.path()) {
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            let place = name.strip_prefix(REPLACED).map(|n| self.dir.join(format!("step-{n}")));
            match place {
                Some(place) if !place.exists() => {
                    let _ = fs::rename(&path, place);
                }
                None if !name.starts_with(PARTIAL) => {}
                _ => {
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
    }

    /// The newest checkpoint that is whole; damaged ones are passed over with a warning. One that is
    /// whole but cannot be understood is an error: it may be that of a newer program.
    pub(crate) fn latest(&self, warn: &mut dyn FnMut(String)) -> Result<Option<Snapshot>> {
        let list = self.list();
        for info in list.iter().rev() {
            match read(&info.path) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(e) if verify(&info.path).is_ok() => return Err(e),
                Err(e) => warn(format!("passed over a damaged checkpoint: {e}")),
            }
        }
        match list.last() {
            None => Ok(None),
            Some(info) => Err(Error::Checkpoint {
                path: info.path.clone(),
                message: "every checkpoint of the run is damaged".into(),
                hint: "begin again with `--fresh`".into(),
            }),
        }
    }

    /// Removes all later than a step.
    pub(crate) fn remove_after(&self, step: u64) {
        for info in self.list().iter().filter(|c| c.step > step) {
            let _ = fs::remove_dir_all(&info.path);
        }
    }

    /// Removes all but the last few and the given steps.
    pub(crate) fn retain(&self, keep_last: usize, steps: &[u64]) {
        let list = self.list();
        let old = list.len().saturating_sub(keep_last);
        for info in &list[..old] {
            if !steps.contains(&info.step) {
                // what cannot be removed is only space
                let _ = fs::remove_dir_all(&info.path);
            }
        }
    }
}

/// Reads and verifies a checkpoint.
pub(crate) fn read(path: &Path) -> Result<Snapshot> {
    verify(path)?;
    let damaged = |e: String| Error::Checkpoint {
        path: path.to_owned(),
        message: format!("the checkpoint cannot be read: {e}"),
        hint: "remove it; the one before it is used then".into(),
    };
    let load = |name: &str| -> Result<BTreeMap<String, Tensor>> {
        Ok(tensors::load(path.join(name)).map_err(|e| damaged(e.to_string()))?.0)
    };
    let json = fs::read(path.join(STATE)).map_err(|e| damaged(e.to_string()))?;
    let state: SavedState = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
    if state.version > VERSION {
        return Err(Error::Checkpoint {
            path: path.to_owned(),
            message: format!(
                "the checkpoint has format {}, this program reads {VERSION}",
                state.version
            ),
            hint: "use the newer program that wrote it".into(),
        });
    }
    let ema = path.join("ema.safetensors").exists().then(|| load("ema.safetensors")).transpose()?;
    Ok(Snapshot {
        weights: load("weights.safetensors")?,
        optimizers: load("optimizers.safetensors")?,
        ema,
        state,
    })
}

fn verify(path: &Path) -> Result<()> {
    let damaged = |message: String| Error::Checkpoint {
        path: path.to_owned(),
        message,
        hint: "remove it; the one before it is used then".into(),
    };
    let sums = fs::read_to_string(path.join(SUMS))
        .map_err(|e| damaged(format!("`{SUMS}` is missing or unreadable: {e}")))?;
    if sums.lines().count() < 3 {
        return Err(damaged(format!("`{SUMS}` is cut short")));
    }
    for line in sums.lines() {
        let Some((sum, name)) = line.split_once("  ") else {
            return Err(damaged(format!("`{SUMS}` has a line that is not a checksum")));
        };
        let now = atomic::sha256_file(path.join(name)).map_err(|e| damaged(e.to_string()))?;
        if now != sum {
            return Err(damaged(format!("`{name}` does not have its checksum")));
        }
    }
    Ok(())
}
