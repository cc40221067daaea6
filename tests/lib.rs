//! What end-to-end tests share: the binaries, small images, small configurations.

use limpid_io::{Data, Volume};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary of an application, built beside the tests.
///
/// # Panics
/// If it has not been built: `cargo xtask test` does.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let dir = here.parent().and_then(Path::parent).unwrap_or(Path::new("target/debug"));
    let path = dir.join(name);
    assert!(path.exists(), "{} is not built; run `cargo xtask test`", path.display());
    path
}

/// Runs `denoise` in a folder.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn denoise(dir: &Path, args: &[&str]) -> Ran {
    program("denoise", dir, args)
}

/// Runs a program in a folder.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn program(name: &str, dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new(binary(name)).args(args).current_dir(dir).output();
    match output {
        Ok(output) => Ran::from(output),
        Err(e) => panic!("cannot run {name}: {e}"),
    }
}

/// What a finished command said.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The command succeeded.
    ///
    /// # Panics
    /// If it did not, with what it said.
    #[track_caller]
    pub fn ok(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The command failed politely: with this exit code, one `error:` that contains all `parts`, and
    /// no sign of a panic.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.matches("error: ").count(), 1, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in\n{}", self.err);
        }
        for bad in ["panicked", "RUST_BACKTRACE", "unwrap", "bug"] {
            assert!(!self.err.contains(bad), "{self:?}");
        }
        self
    }
}

/// Writes an 8-bit image of smooth blobs, different for each seed.
///
/// # Panics
/// If it cannot be written.
pub fn write_image(path: &Path, shape: &[usize], seed: u64) {
    let n: usize = shape.iter().product();
    let width = shape[shape.len() - 1] as f64;
    let value = |i: usize| {
        let (x, y) = (i as f64 % width, (i as f64 / width).floor());
        let s = seed as f64;
        let v =
            (x * 0.31 + s).sin() * (y * 0.23 + s * 0.7).cos() + 0.4 * (x * 0.07 - y * 0.11).sin();
        (127.0 + 80.0 * v).clamp(0.0, 255.0) as u8
    };
    let axes = if shape.len() == 3 { "ZYX" } else { "YX" };
    let saved = axes
        .parse()
        .and_then(|axes| Volume::new(Data::U8((0..n).map(value).collect()), shape, axes))
        .and_then(|v| limpid_io::save(path, &v));
    assert!(saved.is_ok(), "{saved:?}");
}

/// Writes a configuration that trains a tiny network for 24 steps on `clean.tif`.
///
/// # Panics
/// If it cannot be written.
pub fn write_config(dir: &Path) -> PathBuf {
    let text = r#"
name = "tiny"
data_range = 255.0

[data]
patch = [16]
batch = 2
samples_per_epoch = 14
workers = 2
normalisation = { kind = "scale", divide = 255.0 }
validation = { limit = 4 }
dataset = { kind = "simulated", images = "clean.tif", noise = { kind = "poisson", dose = 20.0 }, range = [0.0, 255.0] }

[network]
kind = "dncnn"
width = 6
depth = 4
batch_norm = true

[optimizer]
kind = "adam"
lr = 1e-3

[train]
steps = 24
accumulate = 2
log_every = 4
validate_every = 8
ema = { kind = "constant", decay = 0.9 }
checkpoint = { every_steps = 3 }
"#;
    let path = dir.join("tiny.toml");
    let written = std::fs::write(&path, text);
    assert!(written.is_ok(), "{written:?}");
    path
}
