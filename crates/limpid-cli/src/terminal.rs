//! Writing to the terminal: colour only where it is wanted, results to standard output, reports to
//! standard error. Everything reads the same without colour.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::failure::Failure;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The user's choice, which failures need too after the arguments are gone.
static CHOICE: AtomicU8 = AtomicU8::new(Color::Auto as u8);

/// Remembers the choice for everything printed from now on.
pub(crate) fn choose_color(choice: Color) {
    CHOICE.store(choice as u8, Ordering::Relaxed);
}

/// Whether reports are coloured.
fn colored() -> bool {
    let choice = CHOICE.load(Ordering::Relaxed);
    if choice == Color::Auto as u8 {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        return io::stderr().is_terminal() && !set("NO_COLOR") && !dumb;
    }
    choice == Color::Always as u8
}

/// Writes a result to standard output, as it is.
///
/// # Errors
/// If it cannot be written. When the reader went away, as `head` does, the process still ends with
/// exit code 0.
pub fn print(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Failure::run(e).hint("standard output cannot be written"))
}

/// Writes a message and a line break to standard error, with `error:`, `hint:`, `warning:` and
/// carets in colour where that is wanted.
pub fn report(text: impl AsRef<str>) {
    let text = text.as_ref();
    let text = if colored() { paint(text) } else { text.to_owned() };
    // nobody is left to tell when even standard error is closed
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The text with colour.
fn paint(text: &str) -> String {
    const RESET: &str = "\x1b[0m";
    const STYLES: [(&str, &str); 5] = [
        ("error:", "\x1b[1;31m"),
        ("warning:", "\x1b[1;33m"),
        ("cause:", "\x1b[1m"),
        ("hint:", "\x1b[1;36m"),
        ("file:", "\x1b[1;34m"),
    ];
    let line = |line: &str| {
        for (prefix, style) in STYLES {
            if let Some(rest) = line.strip_prefix(prefix) {
                return format!("{style}{prefix}{RESET}{rest}");
            }
        }
        match line.trim_end().rsplit_once("| ") {
            Some((gutter, mark))
                if gutter.trim().is_empty() && mark.trim_start().chars().all(|c| c == '^') =>
            {
                format!("{gutter}| \x1b[1;31m{mark}{RESET}")
            }
            _ => line.to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_only_adds_escapes() {
        let text = "\
error: unknown key `lrr` in [optimizer]
 --> a.toml:3:1
  |
3 | lrr = 1e-4 | ^
  | ^^^
hint: did you mean `lr`?";
        let painted = paint(text);
        assert!(painted.starts_with("\x1b[1;31merror:\x1b[0m unknown"), "{painted:?}");
        assert!(painted.contains("\n  | \x1b[1;31m^^^\x1b[0m\n"), "{painted:?}");
        assert!(painted.contains("\n3 | lrr = 1e-4 | ^\n"), "{painted:?}");
        let mut plain = painted;
        for escape in ["\x1b[0m", "\x1b[1;31m", "\x1b[1;36m"] {
            plain = plain.replace(escape, "");
        }
        assert_eq!(plain, text);
    }
}
