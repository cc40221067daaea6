//! `eval`: several methods on one scan, side by side.

use super::{OutputArgs, ScanArgs, failure, say, seconds, trained};
use crate::metrics::Metrics;
use crate::prepare::Prepared;
use crate::recon::{Method, Reconstruction};
use crate::scan::Finding;
use limpid_cli::{Align, Failure, HELP, print, report as tell, table};
use limpid_mri::Complex;
use limpid_track::png;
use limpid_track::report::{Case, Chart, Report, Table};
use std::path::PathBuf;

/// Reconstruct a scan by several methods, and compare their images and times
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog eval scan.npz
  igrog eval scan.npz --methods nufft,grog,igrog --model runs/image-based --out report
  igrog eval real.npz --set coils.compress=8 --set kernels.lam=1e-2"
)]
pub struct Args {
    #[command(flatten)]
    scan: ScanArgs,
    /// What to compare
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Method::Nufft, Method::Nearest, Method::Grog, Method::Igrog])]
    methods: Vec<Method>,
    /// Trained kernels that are compared too: runs, names of runs, or files
    #[arg(short, long, value_name = "MODEL", value_delimiter = ',')]
    model: Vec<PathBuf>,
    /// Folder for the report and its table
    #[arg(long, value_name = "DIR", default_value = "eval")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The image of a method.
struct Row {
    name: String,
    found: Reconstruction,
    /// Against what the scan comes with, or else against the first method.
    metrics: Option<Metrics>,
}

/// Compares.
///
/// # Errors
/// If the scan cannot be read, its parts do not go together, or the report cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.output.apply()?;
    std::fs::create_dir_all(&args.out).map_err(|e| {
        Failure::data(e).hint("name a folder, or one that can be made").file(&args.out)
    })?;
    let loaded = args.scan.load(None)?;
    let config = &loaded.value;
    let quiet = args.output.quiet || args.output.json;
    let prepared = args.scan.prepare(config, quiet, &[])?;
    let mut jobs: Vec<(String, Method, Option<&PathBuf>)> =
        args.methods.iter().map(|method| (method.name().to_owned(), *method, None)).collect();
    for model in &args.model {
        jobs.push((format!("igrog ({})", model.display()), Method::Igrog, Some(model)));
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut said: Vec<Finding> = Vec::new();
    for (name, method, model) in jobs {
        let kernels = trained(model.map(PathBuf::as_path))?;
        let found = super::recon::watched(&prepared, config, method, kernels)?;
        if !quiet {
            // what holds for all methods is said once
            let new = found.findings.iter().filter(|finding| !said.contains(finding));
            let new: Vec<Finding> = new.cloned().collect();
            say(&new);
            said.extend(new);
            let [grid, solve] = [found.gridding, found.solving].map(seconds);
            tell(format!("{name}: {grid} + {solve}"));
        }
        rows.push(Row { name, found, metrics: None });
    }
    let matrix = &prepared.scan.matrix;
    let (against, reference) = match (&prepared.scan.truth, rows.first()) {
        (Some(truth), _) => ("the truth".to_owned(), truth.clone()),
        (None, Some(first)) => (first.name.clone(), first.found.image.clone()),
        (None, None) => return Err(Failure::config("no methods to compare")),
    };
    let skip = usize::from(prepared.scan.truth.is_none());
    for row in rows.iter_mut().skip(skip) {
        row.metrics = Some(Metrics::of(&row.found.image, &reference, matrix).map_err(failure)?);
    }
    let head = [
        "method",
        "NRMSE",
        "scaled",
        "magnitude",
        "PSNR dB",
        "SSIM",
        "misfit",
        "gridding",
        "solving",
        "iteration",
    ];
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let file = args.out.join("report.html");
    let page = page(args, &prepared, &rows, &cells, &head, &against, &reference);
    let page = Report { texts: vec![("configuration".to_owned(), loaded.show(false))], ..page };
    limpid_io::atomic::write_bytes(&file, page.html().as_bytes()).map_err(Failure::data)?;
    let json: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "method": row.name, "metrics": row.metrics, "misfit": row.found.misfit,
                "gridding": row.found.gridding, "solving": row.found.solving,
                "residuals": row.found.residuals,
            })
        })
        .collect();
    let json = serde_json::json!({ "against": against, "methods": json }).to_string();
    limpid_io::atomic::write_bytes(args.out.join("methods.json"), json.as_bytes())
        .map_err(Failure::data)?;
    if args.output.json {
        return print(format!("{json}\n"));
    }
    if args.output.quiet {
        return Ok(());
    }
    let columns: Vec<(&str, Align)> = head
        .iter()
        .enumerate()
        .map(|(i, head)| (*head, if i == 0 { Align::Left } else { Align::Right }))
        .collect();
    print(format!("against {against}\n{}\n", table(&columns, &cells)))?;
    tell(format!("report {}", file.display()));
    Ok(())
}

fn cells(row: &Row) -> Vec<String> {
    let number = |of: &dyn Fn(&Metrics) -> Option<f64>, digits: usize| {
        let value = row.metrics.as_ref().and_then(of);
        value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
    };
    let Reconstruction { gridding, solving, residuals, misfit, .. } = &row.found;
    vec![
        row.name.clone(),
        number(&|m| Some(m.nrmse), 4),
        number(&|m| Some(m.nrmse_scaled), 4),
        number(&|m| Some(m.nrmse_mag), 4),
        number(&|m| Some(m.psnr), 2),
        number(&|m| m.ssim, 4),
        format!("{misfit:.4}"),
        seconds(*gridding),
        seconds(*solving),
        seconds(solving / residuals.len().max(1) as f64),
    ]
}

fn page(
    args: &Args,
    prepared: &Prepared,
    rows: &[Row],
    cells: &[Vec<String>],
    head: &[&str],
    against: &str,
    reference: &[Complex<f32>],
) -> Report {
    let scan = &prepared.scan;
    let (size, plane) = middle(&scan.matrix);
    let magnitude = |image: &[Complex<f32>]| -> Vec<f32> {
        image[plane.clone()].iter().map(|v| v.norm()).collect()
    };
    let truth = magnitude(reference);
    let top = truth.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let case = |row: &Row| {
        let image = magnitude(&row.found.image);
        let error: Vec<f32> = image.iter().zip(&truth).map(|(a, b)| (a - b).abs()).collect();
        Case {
            name: row.name.clone(),
            before: png(&truth, size, [0.0, top]).unwrap_or_default(),
            after: png(&image, size, [0.0, top]).unwrap_or_default(),
            sides: Some([against.to_owned(), row.name.clone()]),
            others: vec![(
                "difference of magnitudes, five times brighter".to_owned(),
                png(&error, size, [0.0, top / 5.0]).unwrap_or_default(),
            )],
            caption: row.metrics.as_ref().map_or_else(String::new, |m| {
                format!("nrmse {:.4}, psnr {:.2} dB", m.nrmse, m.psnr)
            }),
        }
    };
    let curve = |row: &Row| {
        let points = row.found.residuals.iter().enumerate().map(|(i, &r)| ((i + 1) as f64, r));
        (row.name.clone(), points.collect())
    };
    Report {
        title: "reconstruction report".to_owned(),
        lead: format!(
            "{}: {} coils, {} samples, image {:?}",
            args.scan.scan.display(),
            scan.coils,
            scan.len(),
            scan.matrix
        ),
        tables: vec![Table {
            title: format!("methods, against {against}"),
            head: head.iter().map(|&h| h.to_owned()).collect(),
            rows: cells.iter().zip(rows).map(|(c, row)| (c.clone(), row.name.starts_with("igrog"))).collect(),
            note: "NRMSE of the complex images over the whole field of view, after the best complex factor, and of \
                   magnitudes; SSIM with a Gaussian window of σ 1.5; misfit: part of the weighted samples that the \
                   image does not explain"
                .to_owned(),
        }],
        charts: vec![Chart {
            title: "residual".to_owned(),
            x_title: "iteration".to_owned(),
            y_title: "residual, relative".to_owned(),
            y_log: true,
            series: rows.iter().map(curve).collect(),
            higher_is_better: Some(false),
            ..Chart::default()
        }],
        cases: rows.iter().map(case).collect(),
        warnings: scan.findings.iter().map(|f| f.message.clone()).collect(),
        ..Report::default()
    }
}

/// The size of the middle plane, and where its voxels are.
fn middle(matrix: &[usize]) -> ([usize; 2], std::ops::Range<usize>) {
    let [height, width] = [matrix[matrix.len() - 2], matrix[matrix.len() - 1]];
    let first = if matrix.len() == 3 { matrix[0] / 2 * height * width } else { 0 };
    ([height, width], first..first + height * width)
}
