//! The scores of an evaluation as text: CSV, JSON and tables.

use super::baselines::BASELINES;
use super::{Measured, Scores};
use crate::{Align, table};
use std::fmt::Write as _;

/// All scores of all images, one method a line.
pub(super) fn csv(measured: &[Measured]) -> String {
    let mut text = format!("image,method,{}\n", Scores::NAMES.join(","));
    for m in measured {
        let rows = [("input".to_owned(), m.before), ("restored".to_owned(), m.after)];
        for (method, scores) in rows.iter().chain(&m.baselines) {
            let values = scores.values().map(|v| v.to_string()).join(",");
            let _ = writeln!(text, "{},{},{values}", quoted(&m.name), quoted(method));
        }
    }
    text
}

/// A field of a CSV file (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// All scores of all images.
pub(super) fn json(measured: &[Measured]) -> String {
    // what is not finite is written as a string, as in `metrics.jsonl`
    let number = |v: f64| if v.is_finite() { v.into() } else { v.to_string().into() };
    let object = |s: &Scores| -> serde_json::Value {
        let pairs = Scores::NAMES.iter().zip(s.values());
        pairs.map(|(n, v)| ((*n).to_owned(), number(v))).collect::<serde_json::Map<_, _>>().into()
    };
    let cases: Vec<serde_json::Value> = measured
        .iter()
        .map(|m| {
            let baselines: serde_json::Map<_, _> =
                m.baselines.iter().map(|(n, s)| (n.clone(), object(s))).collect();
            serde_json::json!({
                "image": m.name, "input": object(&m.before), "restored": object(&m.after),
                "baselines": baselines,
            })
        })
        .collect();
    serde_json::Value::from(cases).to_string()
}

/// Rows of a comparison: method, scores averaged over the images, whether it is ours.
pub(super) fn rows(measured: &[Measured]) -> Vec<(String, Scores, bool)> {
    let mean = |of: &dyn Fn(&Measured) -> Scores| {
        Scores::mean(&measured.iter().map(of).collect::<Vec<_>>())
    };
    let mut rows = vec![("input".to_owned(), mean(&|m| m.before), false)];
    for (b, kind) in BASELINES.iter().enumerate() {
        if measured.iter().all(|m| m.baselines.len() > b) {
            let name = match measured {
                [one] => one.baselines[b].0.clone(),
                _ => format!("{} (best for each)", kind.name()),
            };
            rows.push((name, mean(&|m| m.baselines[b].1), false));
        }
    }
    rows.push(("restored".to_owned(), mean(&|m| m.after), true));
    rows
}

/// A name and its scores, as the cells of a table.
pub(super) fn cells(name: &str, scores: &Scores) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(scores.cells()).collect()
}

/// The comparison as the terminal shows it.
pub(super) fn summary(measured: &[Measured]) -> String {
    let columns = [
        ("method", Align::Left),
        ("psnr dB", Align::Right),
        ("ssim", Align::Right),
        ("mae", Align::Right),
        ("nrmse", Align::Right),
    ];
    let rows = rows(measured);
    let lines: Vec<Vec<String>> = rows.iter().map(|(n, s, _)| cells(n, s)).collect();
    let mut text = table(&columns, &lines);
    let (before, others) = (rows[0].1.psnr, &rows[1..rows.len() - 1]);
    let after = rows[rows.len() - 1].1.psnr;
    let best = others.iter().map(|r| r.1.psnr).fold(f64::NEG_INFINITY, f64::max);
    // equal images have an infinite PSNR, to which there is no difference
    if (after - before).is_finite() {
        let _ = write!(text, "restored is {:+.2} dB against the input", after - before);
        if best.is_finite() {
            let gain = after - best;
            let _ = write!(
                text,
                ", {gain:+.2} dB against the best classical filter tuned on the reference"
            );
        }
        text.push('\n');
    }
    text
}
