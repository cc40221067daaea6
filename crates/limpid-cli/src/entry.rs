//! From `main` to the exit code: parse, run, report, and never let a panic look like one.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;

use crate::failure::Failure;
use crate::terminal::report;
use crate::threads::on_big_stack;

/// Set once a bug was reported: when many threads panic, one report is enough.
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Parses the command line, runs the command on a big stack, reports its failure on standard error
/// and returns the exit code (see the [crate] documentation).
///
/// A panic is reported as a bug and exits with 1. A reader of standard output that goes away is no
/// failure.
pub fn main_with<C: Parser + Send>(
    command: impl FnOnce(C) -> Result<(), Failure> + Send,
) -> ExitCode {
    limpid_kernels::memory::keep_freed_pages();
    install_panic_hook(C::command().get_name().to_owned());
    ExitCode::from(run(std::env::args_os(), command))
}

/// The exit code of a command line.
fn run<C: Parser + Send>(
    args: impl Iterator<Item = OsString>,
    command: impl FnOnce(C) -> Result<(), Failure> + Send,
) -> u8 {
    let cli = match C::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // help and version are errors too, for clap, with exit code 0
            let _ = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(2);
        }
    };
    match catch_unwind(AssertUnwindSafe(|| on_big_stack(|| command(cli)))) {
        Ok(Ok(Ok(()))) => 0,
        Ok(Ok(Err(failure)) | Err(failure)) => {
            if failure.is_broken_pipe() {
                return 0;
            }
            let text = failure.to_string();
            if !text.is_empty() {
                report(text);
            }
            failure.exit_code()
        }
        // the hook has reported it
        Err(payload) if is_broken_pipe(payload_text(payload.as_ref())) => 0,
        Err(_) => 1,
    }
}

/// Replaces the panic message by a report of a bug; `RUST_BACKTRACE` brings the usual one back.
fn install_panic_hook(app: String) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = payload_text(info.payload());
        if is_broken_pipe(message) || REPORTED.swap(true, Ordering::Relaxed) {
            return;
        }
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            default(info);
        }
        report(bug(&app, message, info));
    }));
}

fn bug(app: &str, message: &str, info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or(String::new(), |l| format!("\nfile: {l}"));
    format!(
        "error: {app} hit a bug: {message}\n\
         hint: please report it with the command that you ran and this message; \
         RUST_BACKTRACE=1 adds details{place}"
    )
}

/// The message of a panic.
fn payload_text(payload: &(dyn std::any::Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "unknown panic",
    }
}

/// Whether a panic is that of `println!` whose reader went away.
fn is_broken_pipe(message: &str) -> bool {
    message.starts_with("failed printing to stdout") && message.contains("Broken pipe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        number: i32,
    }

    fn code(args: &[&str], command: fn(i32) -> Result<(), Failure>) -> u8 {
        let args = ["app"].iter().chain(args).map(OsString::from).collect::<Vec<_>>();
        run(args.into_iter(), |cli: Cli| command(cli.number))
    }

    #[test]
    fn exit_codes_follow_the_kind_of_failure() {
        assert_eq!(code(&["1"], |_| Ok(())), 0);
        assert_eq!(code(&["1"], |_| Err(Failure::run("no"))), 1);
        assert_eq!(code(&["1"], |_| Err(Failure::config("no"))), 2);
        assert_eq!(code(&["1"], |_| Err(Failure::data("no"))), 3);
        assert_eq!(code(&["1"], |_| Err(Failure::device("no"))), 4);
        assert_eq!(code(&["1"], |_| Err(Failure::interrupted(""))), 130);
        assert_eq!(code(&["x"], |_| Ok(())), 2);
        assert_eq!(code(&[], |_| Ok(())), 2);
        assert_eq!(code(&["--help"], |_| Ok(())), 0);
    }

    #[test]
    fn panics_exit_with_1_and_closed_pipes_with_0() {
        assert_eq!(code(&["1"], |n| panic!("at {n}")), 1);
        let pipe = |_| panic!("failed printing to stdout: Broken pipe (os error 32)");
        assert_eq!(code(&["1"], pipe), 0);
        let closed = |_| Err(Failure::run(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!(code(&["1"], closed), 0);
    }

    /// What a child process does; the panic hook is for whole processes.
    const ROLE: &str = "LIMPID_TEST_PANIC";

    #[test]
    fn child() {
        if std::env::var_os(ROLE).is_some() {
            install_panic_hook("app".into());
            assert_eq!(code(&["1"], |n| panic!("tile {n} is missing")), 1);
        }
    }

    #[test]
    fn a_panic_reads_like_a_bug_report() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "entry::tests::child", "--nocapture"])
            .env(ROLE, "1")
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("error: app hit a bug: tile 1 is missing\nhint: please"), "{text}");
        assert!(text.contains("\nfile: ") && !text.contains("panicked at"), "{text}");
    }

    #[test]
    fn commands_have_a_big_stack() {
        fn deep(n: u64, keep: [u64; 64]) -> u64 {
            if n == 0 { keep[0] } else { deep(n - 1, std::hint::black_box(keep)) + keep[63] }
        }
        // 60 MB of frames and more: too deep for a main thread
        assert_eq!(
            code(&["1"], |n| {
                assert_eq!(deep(100_000, [n as u64; 64]), 100_001);
                Ok(())
            }),
            0
        );
    }
}
