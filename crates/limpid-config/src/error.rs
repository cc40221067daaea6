//! Configuration errors: every problem with its source line, a caret, and what to do about it.
//!
//! The rendering is plain text, readable without colour:
//!
//! ```text
//! error: unknown key `lrr` in [optimizer]
//!  --> a.toml:3:1
//!   |
//! 3 | lrr = 1e-4
//!   | ^^^
//! hint: did you mean `lr`? known keys: kind, lr, betas
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::node::Source;

/// Problems shown before the rest is only counted.
const MOST_SHOWN: usize = 20;
/// Characters of a source line that are shown; a longer line is cut to a window round the caret.
const WIDEST: usize = 100;

/// Everything that is wrong with a configuration, in the order of its sources.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigError {
    /// The problems; at least one.
    pub problems: Vec<Problem>,
}

/// One problem of a configuration.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What is wrong: expected and got, lowercase, no period.
    pub message: String,
    /// The text it was read from, when it was written anywhere.
    pub source: Option<Arc<Source>>,
    /// Bytes of the source that the caret marks.
    pub span: Option<Range<usize>>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem that points nowhere yet.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, span: None, hint: None }
    }

    /// The same problem, pointing at `span` of `source`.
    pub(crate) fn at(mut self, source: &Arc<Source>, span: Range<usize>) -> Self {
        self.source = Some(source.clone());
        self.span = Some(span);
        self
    }

    /// The same problem with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl ConfigError {
    /// An error of these problems, sorted by source and position.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_cached_key(|p| {
            (p.source.as_ref().map(|s| s.origin.clone()), p.span.as_ref().map_or(0, |s| s.start))
        });
        Self { problems }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().take(MOST_SHOWN).enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{problem}")?;
        }
        match self.problems.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n\nand {more} more"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(source) = &self.source {
            match &self.span {
                Some(span) => snippet(f, source, span)?,
                None => write!(f, "\nfile: {}", source.name)?,
            }
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The arrow, the source line and the caret.
fn snippet(f: &mut fmt::Formatter<'_>, source: &Source, span: &Range<usize>) -> fmt::Result {
    let (line, column, content, marked) = locate(&source.text, span);
    let number = if source.is_file() { line.to_string() } else { " ".to_owned() };
    let gutter = " ".repeat(number.len());
    match source.is_file() {
        true => write!(f, "\n{gutter}--> {}:{line}:{column}", source.name)?,
        false => write!(f, "\n{gutter}--> {}", source.name)?,
    }
    let (shown, indent, marked) = window(content, column - 1, marked);
    write!(f, "\n{gutter} |\n{number} | {shown}\n{gutter} | {indent}{}", "^".repeat(marked))
}

/// Line and column (from 1, in characters) of a span, its first line, and how many characters of
/// that line it covers (at least 1).
pub(crate) fn locate<'a>(text: &'a str, span: &Range<usize>) -> (usize, usize, &'a str, usize) {
    let clamp = |i: usize| (0..=i.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
    let start = clamp(span.start).unwrap_or(0);
    let end = clamp(span.end).unwrap_or(0).max(start);
    let from = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let to = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let content = text[from..to].trim_end_matches('\r');
    let line = text[..from].matches('\n').count() + 1;
    let marked = text[start..end.min(from + content.len()).max(start)].chars().count();
    (line, text[from..start].chars().count() + 1, content, marked.max(1))
}

/// Cuts a line to [`WIDEST`] characters round the mark: the text, the blank in front of the carets
/// (tabs kept, so that they line up) and the number of carets.
fn window(content: &str, column: usize, marked: usize) -> (String, String, usize) {
    let chars: Vec<char> = content
        .chars()
        .map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    let from = match chars.len() {
        n if n <= WIDEST => 0,
        _ => column.saturating_sub(WIDEST / 2),
    };
    let to = chars.len().min(from + WIDEST);
    let (before, after) =
        (if from > 0 { "…" } else { "" }, if to < chars.len() { "…" } else { "" });
    let shown: String = chars[from..to].iter().collect();
    let mut indent = " ".repeat(before.chars().count());
    indent.extend(
        chars[from..column.clamp(from, to)].iter().map(|&c| if c == '\t' { c } else { ' ' }),
    );
    (format!("{before}{shown}{after}"), indent, marked.min(to.saturating_sub(column)).max(1))
}
