//! Dotted key paths: `optimizer.betas.0`, with TOML's quotes round unusual names (`data."a.tif"`).

use std::ops::Range;

/// Most segments a path may have; far beyond any real config, it keeps recursion shallow.
const DEEPEST: usize = 32;

/// One name of a path, and where it stands in the text it was parsed from (with its quotes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
}

/// Splits a dotted path into its segments.
///
/// # Errors
/// A message when the path is empty, too deep, has an empty segment or a stray character.
pub(crate) fn parse(path: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    let mut from = 0;
    loop {
        from += path[from..].len() - path[from..].trim_start().len();
        let rest = &path[from..];
        let (name, end) = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let close = rest[1..].find(quote).ok_or_else(|| format!("unclosed {quote}"))?;
                (&rest[1..1 + close], close + 2)
            }
            _ => {
                let end = rest.find('.').unwrap_or(rest.len());
                let name = rest[..end].trim_end();
                if name.is_empty() {
                    return Err("a name is missing".into());
                }
                if let Some(odd) = name.chars().find(|&c| !is_bare(c)) {
                    return Err(format!("`{odd}` is not allowed in a bare name"));
                }
                (name, name.len())
            }
        };
        segments.push(Segment { name: name.to_owned(), span: from..from + end });
        if segments.len() > DEEPEST {
            return Err(format!("more than {DEEPEST} names deep"));
        }
        let after = path[from + end..].trim_start();
        if after.is_empty() {
            return Ok(segments);
        }
        let next = after.strip_prefix('.').ok_or("expected `.` between names")?;
        from = path.len() - next.len();
    }
}

/// The names of a dotted path; what does not parse stays one name.
pub(crate) fn names(path: &str) -> Vec<String> {
    match parse(path) {
        Ok(segments) => segments.into_iter().map(|s| s.name).collect(),
        Err(_) if path.is_empty() => Vec::new(),
        Err(_) => vec![path.to_owned()],
    }
}

/// The dotted path of `segments`, quoting what is no bare TOML key.
pub(crate) fn join<S: AsRef<str>>(segments: &[S]) -> String {
    segments.iter().map(|s| quote(s.as_ref())).collect::<Vec<_>>().join(".")
}

/// One name as TOML writes it: bare where it can be, quoted otherwise.
pub(crate) fn quote(name: &str) -> String {
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        toml::Value::String(name.to_owned()).to_string()
    }
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}
