//! The report of an evaluation.

use super::tables::{cells, rows};
use super::{Measured, Scores};
use limpid_export::{Card, CardNetwork};
use limpid_io::VolumeInfo;
use limpid_models::display_window;
use limpid_track::png;
use limpid_track::report::{Case, Chart, Report, Table};
use std::fmt::Write as _;
use std::path::Path;

/// What a report says of the model that restored the images: where it is, its network with that many
/// parameters, its training, and how to use it with `program`.
#[must_use]
pub fn of_model<N: CardNetwork>(
    path: &Path,
    card: &Card<N>,
    parameters: usize,
    program: &str,
) -> Report {
    let command = format!("{program} predict IN.tif OUT.tif --model {}", path.display());
    Report {
        facts: vec![
            ("model".to_owned(), path.display().to_string()),
            ("network".to_owned(), card.network.kind().to_owned()),
            ("parameters".to_owned(), parameters.to_string()),
            ("steps".to_owned(), card.step.to_string()),
        ],
        curves: path.parent().map_or_else(Vec::new, curves),
        texts: vec![
            ("use this model".to_owned(), command),
            ("configuration".to_owned(), card.config.clone()),
        ],
        ..Report::default()
    }
}

/// Adds the scores and pictures to what is said of the model.
pub(super) fn fill(about: Report, measured: &[Measured], data_range: f64) -> Report {
    let mut report = Report {
        title: "restoration report".to_owned(),
        lead: format!(
            "{} image{}, data range {}",
            measured.len(),
            if measured.len() == 1 { "" } else { "s" },
            data_range
        ),
        cases: measured.iter().filter_map(|m| m.case.clone()).collect(),
        ..about
    };
    let head = ["method", "PSNR dB", "SSIM", "MAE", "NRMSE"].map(str::to_owned).to_vec();
    report.tables.push(Table {
        title: "comparison".to_owned(),
        head: head.clone(),
        rows: rows(measured).iter().map(|(n, s, own)| (cells(n, s), *own)).collect(),
        note: "SSIM: uniform window of 7; NRMSE: over the Euclidean norm; channels and frames are measured one by one and averaged; classical filters at their best strength for each image, chosen with the reference".to_owned(),
    });
    if measured.len() > 1 {
        let mut worst: Vec<&Measured> = measured.iter().collect();
        worst.sort_by(|a, b| a.after.psnr.total_cmp(&b.after.psnr));
        report.tables.push(Table {
            title: "per image, worst first".to_owned(),
            head,
            rows: worst.iter().map(|m| (cells(&m.name, &m.after), false)).collect(),
            note: String::new(),
        });
    }
    report
}

/// The images of a case: the first channel, in the middle of the other axes.
pub(super) fn pictures(
    name: &str,
    info: &VolumeInfo,
    images: [&[f32]; 3],
    before: Scores,
    after: Scores,
) -> Case {
    let (leading, plane) = info.shape.split_at(info.shape.len() - 2);
    let size = [plane[0], plane[1]];
    let samples = size[0] * size[1];
    let mut index = 0;
    let mut place = String::new();
    for (axis, &n) in info.axes.as_slice().iter().zip(leading) {
        let at = if *axis == limpid_io::Axis::C { 0 } else { n / 2 };
        index = index * n + at;
        if n > 1 {
            let _ = write!(place, "; {axis:?} {} of {n}", at + 1);
        }
    }
    let [r, i, t] = images.map(|v| &v[index * samples..(index + 1) * samples]);
    let window = display_window(t);
    let residual: Vec<f32> = i.iter().zip(r).map(|(i, r)| i - r).collect();
    let spread = residual.iter().fold(0f32, |m, v| m.max(v.abs())).max(f32::MIN_POSITIVE);
    let image = |v: &[f32], w| png(v, size, w).unwrap_or_default();
    let ([psnr, ssim, ..], [psnr_after, ssim_after, ..]) = (before.cells(), after.cells());
    Case {
        name: name.to_owned(),
        before: image(i, window),
        after: image(r, window),
        others: vec![
            ("reference".to_owned(), image(t, window)),
            (
                "residual (input - restored): structure here is signal that was removed".to_owned(),
                image(&residual, [-spread, spread]),
            ),
        ],
        caption: format!("psnr {psnr} → {psnr_after} dB, ssim {ssim} → {ssim_after}{place}"),
        ..Case::default()
    }
}

/// The losses and scores of a run.
#[must_use]
pub fn curves(run: &Path) -> Vec<Chart> {
    let Ok(lines) = limpid_track::read_metrics(run) else { return Vec::new() };
    let mut names: Vec<(String, String)> = Vec::new();
    for (_, split, logs) in &lines {
        for name in logs.keys() {
            let key = (split.clone(), name.clone());
            if !names.contains(&key) {
                names.push(key);
            }
        }
    }
    names
        .into_iter()
        .map(|(split, name)| {
            let of_split = lines.iter().filter(|(_, s, _)| *s == split);
            let points = of_split
                .filter_map(|(step, _, logs)| Some((*step as f64, *logs.get(&name)?)))
                .collect();
            let higher = limpid_losses::metrics::metric_info(&name).map(|i| i.higher_is_better);
            let higher_is_better = if split == "train" { None } else { higher };
            Chart::curve(format!("{split}: {name}"), points, higher_is_better)
        })
        .collect()
}
