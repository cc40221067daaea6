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
    if path.join("run.json").is_file() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn models_are_found_by_run_file_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str| {
            let run = dir.path().join(name);
            fs::create_dir(&run).unwrap();
            fs::write(run.join(FILE), "").unwrap();
            run
        };
        let (first, _) = (run("em-0001"), run("em-other-0001"));
        let find = |path: &Path| find_model(Some(path), "app");
        assert_eq!(find(&first).unwrap(), first.join(FILE));
        assert_eq!(find(&first.join(FILE)).unwrap(), first.join(FILE));
        assert_eq!(find(&dir.path().join("em")).unwrap(), first.join(FILE));
        fs::create_dir(dir.path().join("em-0002")).unwrap();
        for missing in ["em-0002", "e", "em-000"] {
            let failure = find(&dir.path().join(missing)).unwrap_err();
            assert_eq!(failure.exit_code(), 3, "{missing}");
        }
    }
}
