//! The results as tables: on the terminal, and on the page of the documentation.

use std::path::Path;

use super::works::{FIRST_STEP, MEMORY};
use super::{Measured, Start};

/// What holds the tables of a section on the page.
fn markers(section: &str) -> [String; 2] {
    ["begin", "end"].map(|end| format!("<!-- bench {section}: {end} -->"))
}

/// A table of Markdown, its columns aligned, numbers to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |c: usize| {
        let cells = rows.iter().map(|row| row[c].chars().count());
        cells.chain([head[c].len(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from("|");
        for (c, (cell, &width)) in cells.zip(&widths).enumerate() {
            line +=
                &if c == 0 { format!(" {cell:width$} |") } else { format!(" {cell:>width$} |") };
        }
        line + "\n"
    };
    let rule = |(c, w): (usize, &usize)| "-".repeat(w - 1) + if c == 0 { "-" } else { ":" };
    let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
    let mut text = line(&mut head.iter().copied());
    text += &line(&mut rules.iter().map(String::as_str));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// All tables of the results.
pub(super) fn tables(measured: &[&Measured], start: Option<&Start>) -> String {
    let mut parts = Vec::new();
    let compared = measured.iter().any(|m| m.peer.is_some());
    if compared {
        let rows: Vec<_> = measured.iter().filter_map(|m| time_row(m)).collect();
        let head =
            ["work", "ours, ms", "PyTorch, ms", "layout", "ratio", "CPU ratio", "target", "ok"];
        parts.push(table(&head, &rows));
        let rows: Vec<_> = measured.iter().filter_map(|m| memory_row(m)).collect();
        if !rows.is_empty() {
            let head = ["peak memory", "ours, MB", "PyTorch, MB", "ratio", "target", "ok"];
            parts.push(table(&head, &rows));
        }
    } else if !measured.is_empty() {
        let row = |m: &&Measured| {
            let peak = m.peak.map_or_else(String::new, megabytes);
            vec![m.work.words.into(), ms(m.ours.wall()), ms(m.ours.cpu()), peak]
        };
        let rows: Vec<_> = measured.iter().map(row).collect();
        parts.push(table(&["work", "ms", "CPU ms", "peak, MB"], &rows));
    }
    if let Some(start) = start {
        let seconds = |s: f64| format!("{s:.3}");
        let peer = start.peer.map_or_else(String::new, seconds);
        let (target, ok) = (format!("< {FIRST_STEP}"), verdict(start.ok()));
        let row = vec!["process start to first step".into(), seconds(start.ours), peer, target, ok];
        parts.push(table(&["start", "ours, s", "PyTorch, s", "target", "ok"], &[row]));
    }
    parts.join("\n")
}

fn time_row(m: &Measured) -> Option<Vec<String>> {
    let pair = m.peer.as_ref()?;
    let [ratio, cpu] = pair.ratios();
    let target =
        if m.work.target > 0.0 { format!("≥ {:.1}", m.work.target) } else { String::new() };
    Some(vec![
        m.work.words.into(),
        ms(pair.ours.wall()),
        ms(pair.peer.wall()),
        if m.work.has_layouts() { pair.layout.replace('_', " ") } else { String::new() },
        format!("{ratio:.2}"),
        format!("{cpu:.2}"),
        target,
        m.fast_enough().map_or_else(String::new, verdict),
    ])
}

fn memory_row(m: &Measured) -> Option<Vec<String>> {
    let (ours, peer) = (m.peak?, m.peer.as_ref()?.peak?);
    Some(vec![
        m.work.words.into(),
        megabytes(ours),
        megabytes(peer),
        format!("{:.2}", ours / peer),
        format!("≤ {MEMORY}"),
        verdict(m.small_enough()?),
    ])
}

fn verdict(ok: bool) -> String {
    if ok { "yes" } else { "NO" }.into()
}

fn megabytes(bytes: f64) -> String {
    format!("{:.0}", bytes / 1e6)
}

/// Milliseconds to three digits.
fn ms(x: f64) -> String {
    let digits = (2 - x.max(1e-3).log10().floor() as i32).max(0) as usize;
    format!("{x:.digits$}")
}

/// Whether a page has a place for a section.
pub(super) fn check_page(path: &Path, section: &str) -> Result<(), String> {
    replaced(path, section, "").map(drop)
}

/// Replaces what is between the markers of a section on a page.
pub(super) fn write_page(path: &Path, section: &str, text: &str) -> Result<(), String> {
    let replaced = replaced(path, section, text)?;
    limpid_io::atomic::write_bytes(path, replaced.as_bytes()).map_err(|e| e.to_string())
}

/// The page with that text between the markers of the section.
fn replaced(path: &Path, section: &str, text: &str) -> Result<String, String> {
    let page = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let markers = markers(section);
    replace(&page, &markers, text).ok_or_else(|| {
        format!("{}: `{}` … `{}` are missing", path.display(), markers[0], markers[1])
    })
}

fn replace(page: &str, [begin, end]: &[String; 2], text: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin.as_str())?;
    let (_, after) = rest.split_once(end.as_str())?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["one".into(), "1".into()], vec!["≥ two".into(), "22.5".into()]];
        let want = "\
| work  |    x |
| ----- | ---: |
| one   |    1 |
| ≥ two | 22.5 |
";
        assert_eq!(table(&["work", "x"], &rows), want);
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let [[begin, end], other] = [markers("one"), markers("two")];
        let page = format!("a\n{begin}\nold\n{end}\nb\n{}\nkept\n{}\n", other[0], other[1]);
        let want = page.replace("\nold\n", "\n\nnew\n\n");
        let replaced = |page: &str| replace(page, &markers("one"), "new\n");
        assert_eq!(replaced(&page), Some(want.clone()));
        assert_eq!(replaced(&want), Some(want));
        assert_eq!(replaced("no markers"), None);
    }

    #[test]
    fn the_page_has_every_section() {
        let page = include_str!("../../../docs/src/performance.md");
        for section in super::super::works::Section::ALL {
            for simd in ["avx512", "avx2"] {
                let name = format!("{} {simd}", section.name());
                assert!(replace(page, &markers(&name), "").is_some(), "{name}");
            }
        }
    }

    #[test]
    fn times_have_three_digits() {
        let shown = [0.012_345, 0.9, 1.234_5, 45.67, 4567.8].map(ms);
        assert_eq!(shown, ["0.0123", "0.900", "1.23", "45.7", "4568"]);
    }
}
