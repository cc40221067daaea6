//! Finding the model that a command is to use.

use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// What a run calls its model.
const FILE: &str = "model.safetensors";

/// The model file that the user means: a file, a run, the name of runs, or (none named) the last run
/// in `runs/`.
///
/// # Errors
/// There is none; `program` is the one that could train it.
pub fn find_model(named: Option<&Path>, program: &str) -> Result<PathBuf, Failure> {
    let Some(path) = named else {
        return newest(Path::new("runs"), "").ok_or_else(|| {
            Failure::data("no model: there is no finished training in `runs/`").hint(format!(
                "name one with `--model RUN`, or train one with `{program} train CONFIG`"
            ))
        });
    };
    if path.is_file() {
        return Ok(path.to_owned());
    }
    if path.join(FILE).is_file() {
        return Ok(path.join(FILE));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    if path.is_dir() {
        return Err(Failure::data("the run has no model yet")
            .hint("let it train until its first validation")
            .file(path));
    }
    newest(parent, &name).ok_or_else(|| {
        Failure::data("no such model")
            .hint("name a run, a model file, or the name of runs")
            .file(path)
    })
}

/// The model of the run that was worked on last, among those named `NAME-0001` and so on; all runs
/// for an empty name.
fn newest(dir: &Path, name: &str) -> Option<PathBuf> {
    let numbered = |folder: &str| {
        let number = folder.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        name.is_empty()
            || number.is_some_and(|n| n.len() >= 4 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(numbered))
        .map(|entry| entry.path().join(FILE))
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
}
