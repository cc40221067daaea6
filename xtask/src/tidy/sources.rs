//! The rules for source files.

use std::path::{Path, PathBuf};

/// Folders with what is made or fetched, not written.
const SKIPPED: [&str; 5] = [".git", ".venv", "book", "runs", "target"];
/// Files longer than this must say why.
const MAX_LINES: usize = 700;
/// What such a file says.
const LONG: &str = "// tidy: long because ";
// written apart so that this file passes its own rules
const LEFTOVERS: [&str; 4] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("#[ig", "nore"),
    concat!("place", "holder"),
];
/// The one good reason for a test that the runner leaves out: another starts it, in a process with an
/// environment of its own.
const RUN_BY_ANOTHER: &str = concat!("#[ig", "nore = \"run by ");
const UNSAFE: &str = concat!("un", "safe");

/// Checks every source file below `root`.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut problems = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let bytes = std::fs::read(&file).map_err(|e| format!("{e}: `{path}`"))?;
        // anything else is data
        if let Ok(text) = String::from_utf8(bytes) {
            problems.extend(violations(&path, &text));
        }
    }
    Ok(problems)
}

/// Adds the files below `folder` that people write.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let at = |e: std::io::Error| format!("{e}: `{}`", folder.display());
    for entry in std::fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.is_dir() {
            if !SKIPPED.iter().any(|name| path.ends_with(name)) {
                collect(&path, files)?;
            }
            continue;
        }
        let extension = path.extension().and_then(|e| e.to_str());
        let script = path.parent().and_then(Path::file_name).is_some_and(|name| name == ".ci");
        if matches!(extension, Some("rs" | "toml" | "md" | "cu" | "cuh")) || script {
            files.push(path);
        }
    }
    Ok(())
}

/// What one file breaks, one line each: `path:line: problem`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let in_crate = |name: &str| path.starts_with(&format!("crates/{name}/"));
    let rust = path.ends_with(".rs");
    if (path.ends_with(".cu") || path.ends_with(".cuh")) && !in_crate("limpid-kernels") {
        problems.push(format!("{path}: CUDA source outside of limpid-kernels"));
    }
    let test_file =
        path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
    if rust && !test_file && !text.trim_start().starts_with("//!") {
        problems.push(format!("{path}:1: no `//!` header that says what the module is"));
    }
    let lines: Vec<&str> = text.lines().collect();
    if rust && lines.len() > MAX_LINES && !lines.iter().any(|line| line.starts_with(LONG)) {
        let n = lines.len();
        problems.push(format!("{path}: {n} lines; split it, or say `{LONG}...`"));
    }
    let mut in_tests = test_file;
    for (i, line) in lines.iter().enumerate() {
        let mut report = |what: &str| problems.push(format!("{path}:{}: {what}", i + 1));
        if line.ends_with([' ', '\t', '\r']) {
            report("trailing white space");
        }
        if !rust {
            continue;
        }
        in_tests |= *line == "#[cfg(test)]" && lines.get(i + 1).is_some_and(|l| l.ends_with('{'));
        let lower = line.to_lowercase();
        let left = |leftover: &&&str| lower.contains(**leftover) && !line.contains(RUN_BY_ANOTHER);
        for leftover in LEFTOVERS.iter().filter(left) {
            report(&format!("`{leftover}` left behind"));
        }
        if !in_tests && names_machine_path(line) {
            report("an absolute path of one machine");
        }
        let code = line.split("//").next().unwrap_or_default();
        if !(in_crate("limpid-kernels") || in_crate("limpid-io")) && has_unsafe(code) {
            report("`unsafe` code outside of limpid-kernels and limpid-io");
        }
        if in_crate("limpid-engine") && names_other_io(code) {
            report("the engine may use `limpid_io::atomic` only");
        }
    }
    problems
}

/// Whether a line names a folder that only one machine has.
fn names_machine_path(line: &str) -> bool {
    ["home", "root", "work", "tmp"].iter().any(|folder| {
        let path = format!("/{folder}/");
        line.match_indices(&path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "._-/)}".contains(c))
        })
    })
}

/// Whether code opens a block or declares an item that the compiler does not check.
fn has_unsafe(code: &str) -> bool {
    code.match_indices(UNSAFE).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + UNSAFE.len()..].chars().next();
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '`' || c == '"';
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}

/// Whether code names anything of limpid-io but its atomic files.
fn names_other_io(code: &str) -> bool {
    let name = "limpid_io";
    code.match_indices(name).any(|(at, _)| !code[at + name.len()..].starts_with("::atomic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        violations(path, text)
    }

    #[test]
    fn a_tidy_file_passes() {
        let text = "//! What it is.\n\n#![deny(unsafe_code)]\nuse limpid_io::atomic;\n";
        assert_eq!(found("crates/limpid-engine/src/a.rs", text), Vec::<String>::new());
    }

    #[test]
    fn every_rule_is_found_with_its_line() {
        let cases = [
            ("crates/x/src/a.rs", "fn f() {}\n".to_string(), ":1: no `//!`"),
            ("crates/x/src/a.rs", "//! A.\nlet a = 1; \n".into(), ":2: trailing"),
            ("docs/src/a.md", "# A\t\n".into(), ":1: trailing"),
            ("crates/x/src/a.rs", format!("//! A.\n{}()\n", LEFTOVERS[0]), ":2: `to"),
            ("crates/x/src/a.rs", format!("//! A.\n{}]\n", LEFTOVERS[2]), ":2: `#["),
            ("crates/x/src/a.rs", format!("//! A {}.\n", LEFTOVERS[3]), ":1: `pl"),
            ("crates/x/src/a.rs", "//! A.\nlet p = \"/home/me/x\";\n".into(), ":2: an absolute"),
            ("crates/x/src/a.rs", format!("//! A.\n{UNSAFE} {{ }}\n"), ":2: `unsafe` code"),
            ("crates/x/src/a.rs", format!("//! A.\n{}", "//\n".repeat(700)), "701 lines"),
            ("crates/limpid-engine/src/a.rs", "//! A.\nuse limpid_io::Volume;\n".into(), ":2: the"),
            ("crates/x/src/a.cu", "\n".into(), "CUDA source"),
        ];
        for (path, text, words) in cases {
            let found = found(path, &text);
            assert_eq!(found.len(), 1, "{words}: {found:?}");
            assert!(found[0].starts_with(path) && found[0].contains(words), "{found:?}");
        }
    }

    #[test]
    fn what_only_looks_wrong_passes() {
        let long = format!("//! A.\n{LONG}it is a table\n{}", "//\n".repeat(800));
        let cases = [
            ("crates/x/src/tests.rs", "let p = \"/tmp/x\";\n".to_string()),
            ("crates/x/src/a.rs", "//! A.\n#[cfg(test)]\nmod tests {\n\"/tmp/x\"\n}\n".into()),
            ("crates/x/src/a.rs", "//! A.\n// `unsafe` is not needed here\n".into()),
            ("crates/x/src/a.rs", "//! See out/work/a and https://a.b/home/c.\n".into()),
            ("crates/limpid-io/src/a.rs", format!("//! A.\n{UNSAFE} {{ }}\n")),
            ("crates/limpid-track/src/a.rs", "//! A.\nuse limpid_io::Volume;\n".into()),
            ("crates/x/src/tests.rs", format!("{RUN_BY_ANOTHER}the_parent\"]\n")),
            ("crates/x/src/a.rs", long),
        ];
        for (path, text) in cases {
            assert_eq!(found(path, &text), Vec::<String>::new());
        }
    }
}
