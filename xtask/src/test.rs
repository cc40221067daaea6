//! `test`: all tests, then those in the documentation, and one line that counts them.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::process::{binaries, cargo, has_cargo_command, shown};

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs all tests, with cargo-nextest where it is installed.
pub(crate) fn run() -> Result<(), String> {
    // the end-to-end tests run the programs
    binaries()?;
    let tests: &[&str] = if has_cargo_command("nextest") {
        &["nextest", "run", "--workspace", "--profile", "ci"]
    } else {
        &["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]
    };
    let mut total = Count::default();
    let mut failures = Vec::new();
    for args in [tests, &["test", "--workspace", "--doc", "--no-fail-fast"]] {
        let mut command = cargo(args);
        let (count, success) = run_counting(&mut command)?;
        total.passed += count.passed;
        total.failed += count.failed;
        if !success {
            failures.push(shown(&command));
        }
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if failures.is_empty() { Ok(()) } else { Err(format!("{} failed", failures.join(" and "))) }
}

/// Runs a test command, passing its output on, and adds up the counts in it.
fn run_counting(command: &mut Command) -> Result<(Count, bool), String> {
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let count = std::thread::scope(|scope| {
        let errors =
            scope.spawn(|| stderr.map_or_else(Count::default, |s| tee(s, std::io::stderr())));
        let out = stdout.map_or_else(Count::default, |s| tee(s, std::io::stdout()));
        let errors = errors.join().unwrap_or_default();
        Count { passed: out.passed + errors.passed, failed: out.failed + errors.failed }
    });
    let status = child.wait().map_err(|e| format!("cannot wait for {}: {e}", shown(command)))?;
    Ok((count, status.success()))
}

/// Copies lines and adds up the counts in them.
fn tee(from: impl Read, mut to: impl Write) -> Count {
    let mut total = Count::default();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // a closed terminal is no reason to stop the tests
        let _ = writeln!(to, "{line}");
        if let Some(count) = count_in(&line) {
            total.passed += count.passed;
            total.failed += count.failed;
        }
    }
    total
}

/// The counts in a summary line of cargo-nextest (`12 tests run: 11 passed, 1 failed, 0 skipped`)
/// or of cargo test (`test result: ok. 11 passed; 1 failed; ...`).
fn count_in(line: &str) -> Option<Count> {
    let nextest = line.trim_start().starts_with("Summary [") && line.contains(" run: ");
    let plain = line.starts_with("test result: ");
    if !(nextest || plain) {
        return None;
    }
    let words: Vec<&str> = line.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
    let before = |what: &str| {
        words.windows(2).filter(|pair| pair[1] == what).find_map(|pair| pair[0].parse().ok())
    };
    let timed_out: u64 = words
        .windows(3)
        .filter(|three| three[1..] == ["timed", "out"])
        .find_map(|three| three[0].parse().ok())
        .unwrap_or(0);
    let passed = before("passed").unwrap_or(0);
    Some(Count { passed, failed: before("failed").unwrap_or(0) + timed_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_both_runners() {
        let count = |line| count_in(line).map(|c| (c.passed, c.failed));
        let nextest = "     Summary [   1.234s] 5 tests run: 3 passed (1 slow), 1 failed, 1 timed out, 2 skipped";
        assert_eq!(count(nextest), Some((3, 2)));
        let cargo = "test result: FAILED. 17 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.2s";
        assert_eq!(count(cargo), Some((17, 2)));
        assert_eq!(count("test result: ok. 1 passed; 0 failed; 0 ignored"), Some((1, 0)));
        assert_eq!(count("test tests::counts ... ok"), None);
        assert_eq!(count("note: 3 passed"), None);
    }
}
