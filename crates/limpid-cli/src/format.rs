//! Tables and quantities as people read them.

pub use limpid_kernels::memory::shown as bytes;

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Names and other text.
    Left,
    /// Numbers.
    Right,
}

/// A table with a header line; columns are two spaces apart, a short row is filled with blanks, and
/// no line ends in blanks.
#[must_use]
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines: Vec<&[String]> =
        std::iter::once(&header[..]).chain(rows.iter().map(Vec::as_slice)).collect();
    let width = |i: usize| lines.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in lines {
        let cells = columns.iter().enumerate().map(|(i, (_, align))| match align {
            Align::Left => format!("{:<1$}", cell(row, i), widths[i]),
            Align::Right => format!("{:>1$}", cell(row, i), widths[i]),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// How long ago something was, in its largest unit: `just now`, `5m ago`, `3d ago`.
#[must_use]
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => "just now".into(),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["n2v-0001".into(), "5".into(), "µ".into()], vec!["x".into(), "1000".into()]];
        let columns = [("run", Align::Left), ("step", Align::Right), ("note", Align::Left)];
        assert_eq!(
            table(&columns, &rows),
            "\
run       step  note
n2v-0001     5  µ
x         1000
"
        );
    }

    #[test]
    fn ages_read_well_at_the_edges() {
        let ages = [(59, "just now"), (60, "1m ago"), (7199, "1h ago"), (200_000, "2d ago")];
        for (seconds, text) in ages {
            assert_eq!(age(seconds), text);
        }
    }
}
