//! A run that was killed or stopped ends with the bytes of one that was not.

use limpid_tests::{binary, denoise, write_config, write_image};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An image and a configuration of enough steps for a signal to meet the run well before its end.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_image(&dir.path().join("clean.tif"), &[64, 48], 1);
    let file = write_config(dir.path());
    let text = fs::read_to_string(&file).unwrap().replace("steps = 24", "steps = 60");
    fs::write(&file, text).unwrap();
    dir
}

fn step(dir: &Path) -> u64 {
    let text = fs::read_to_string(dir.join("runs/tiny-0001/run.json")).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    status["step"].as_u64().unwrap_or(0)
}

/// Starts training and sends a signal once a checkpoint of at least `after` steps is written;
/// returns the exit code, nothing if the signal ended it.
fn signalled(dir: &Path, options: &[&str], after: u64, signal: &str) -> Option<i32> {
    let mut child = Command::new(binary("denoise"))
        .args(["train", "tiny.toml"])
        .args(options)
        .current_dir(dir)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while step(dir) < after && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "the run does not get on");
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
    child.wait().unwrap().code()
}

/// Trains until a checkpoint of at least `after` steps is written, and kills.
fn killed(dir: &Path, options: &[&str], after: u64) {
    let code = signalled(dir, options, after, "-KILL");
    assert_eq!(code, None, "the run ended before it could be killed at step {after}");
}

fn model(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("runs/tiny-0001/model.safetensors")).unwrap()
}

#[test]
fn killed_runs_end_with_the_same_bytes_for_one_and_two_threads() {
    let whole = prepared();
    denoise(whole.path(), &["train", "tiny.toml", "--threads", "2", "-q"]).ok();
    let expected = model(whole.path());
    for (threads, kills) in [("1", &[3u64, 15, 30][..]), ("2", &[6, 24][..])] {
        let dir = prepared();
        for &after in kills {
            killed(dir.path(), &["--threads", threads], after);
        }
        denoise(dir.path(), &["train", "tiny.toml", "--threads", threads, "-q"]).ok();
        assert!(
            !dir.path().join("runs/tiny-0002").exists(),
            "the same command went on with the run"
        );
        assert!(model(dir.path()) == expected, "other bytes with {threads} threads");
    }
}

#[test]
fn sigterm_stops_with_a_checkpoint_and_the_same_command_goes_on() {
    let dir = prepared();
    let code = signalled(dir.path(), &[], 3, "-TERM");
    assert_eq!(code, Some(130));
    let stopped = step(dir.path());
    let checkpoint = dir.path().join(format!("runs/tiny-0001/checkpoints/step-{stopped:09}"));
    assert!(checkpoint.join("SHA256").is_file(), "{}", checkpoint.display());
    let resumed = denoise(dir.path(), &["train", "tiny.toml"]);
    assert!(resumed.ok().err.contains(&format!("going on at step {stopped}")), "{}", resumed.err);
    let whole = prepared();
    denoise(whole.path(), &["train", "tiny.toml", "-q"]).ok();
    assert!(model(whole.path()) == model(dir.path()));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning() {
    let dir = prepared();
    killed(dir.path(), &[], 9);
    let checkpoints = dir.path().join("runs/tiny-0001/checkpoints");
    let mut steps: Vec<_> = fs::read_dir(&checkpoints)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("step-"))
        .collect();
    steps.sort();
    let weights = steps.last().unwrap().join("weights.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let resumed = denoise(dir.path(), &["train", "tiny.toml"]);
    assert!(resumed.ok().err.contains("passed over a damaged checkpoint"), "{}", resumed.err);
    let whole = prepared();
    denoise(whole.path(), &["train", "tiny.toml", "-q"]).ok();
    assert!(model(whole.path()) == model(dir.path()));
}

#[test]
fn another_configuration_in_between_does_not_hide_an_unfinished_run() {
    let dir = prepared();
    killed(dir.path(), &[], 9);
    denoise(
        dir.path(),
        &["train", "tiny.toml", "-q", "--set", "optimizer.lr=2e-3", "--set", "train.steps=2"],
    )
    .ok();
    assert!(dir.path().join("runs/tiny-0002").exists());
    let resumed = denoise(dir.path(), &["train", "tiny.toml"]);
    assert!(resumed.ok().err.contains("going on at step"), "{}", resumed.err);
    assert!(!dir.path().join("runs/tiny-0003").exists());
    let whole = prepared();
    denoise(whole.path(), &["train", "tiny.toml", "-q"]).ok();
    assert!(model(whole.path()) == model(dir.path()));
}

#[test]
fn scores_that_are_no_numbers_do_not_break_a_run() {
    let dir = prepared();
    // the part for validation is below the 7 pixels that SSIM needs
    write_image(&dir.path().join("clean.tif"), &[12, 12], 1);
    let options = ["--set", "data.patch=[4]", "--set", "train.checkpoint.best.metric=ssim"];
    killed(dir.path(), &options, 12);
    let command = [&["train", "tiny.toml"], &options[..]].concat();
    let resumed = denoise(dir.path(), &command);
    assert!(resumed.ok().err.contains("going on at step"), "{}", resumed.err);
    assert!(resumed.err.contains("ssim NaN"), "{}", resumed.err);
    assert!(denoise(dir.path(), &["runs", "ls"]).ok().out.contains("finished"));
    denoise(dir.path(), &["predict", "clean.tif", "out.tif"]).ok();
}
