//! `denoise eval`: how good restored images are, as a table, a CSV file and a report.

use crate::commands::filter::{best_of, described, read};
use crate::scores::Scores;
use limpid_classical::FilterKind;
use limpid_cli::{Align, CommonArgs, Failure, HELP, print, table};
use limpid_io::{atomic, list_images};
use limpid_track::png;
use limpid_track::report::{Case, Curve, Report, Table};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Measure restored images against references, and write a report
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  denoise eval restored.tif --input noisy.tif --target clean.tif --data-range 255
  denoise eval restored/ --input noisy/ --target clean/ --data-range 255 --baselines --out eval/"
)]
pub(crate) struct Args {
    /// Restored image, or folder of them
    restored: PathBuf,
    /// What they were restored from, in the same order of names
    #[arg(long, value_name = "PATH")]
    input: PathBuf,
    /// References, in the same order of names
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// Span of valid intensities: 255 for 8-bit images
    #[arg(long, value_name = "RANGE")]
    data_range: f64,
    /// Also run the classical filters, each at its best strength for the image
    #[arg(long)]
    baselines: bool,
    /// The run that restored them, for its curves and configuration
    #[arg(long, value_name = "RUN")]
    model: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

/// The filters that reports compare with.
const BASELINES: [FilterKind; 4] = [
    FilterKind::Gaussian,
    FilterKind::Median,
    FilterKind::NonLocalMeans,
    FilterKind::TotalVariation,
];

/// One image, measured.
struct Measured {
    name: String,
    before: Scores,
    after: Scores,
    /// Name with settings, and scores.
    baselines: Vec<(String, Scores)>,
    case: Case,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.common.apply()?;
    if !(args.data_range.is_finite() && args.data_range > 0.0) {
        return Err(Failure::config(format!("`--data-range` must be above 0, got {}", args.data_range)));
    }
    let files = |p: &Path| list_images(p).map_err(Failure::data);
    let (restored, inputs, targets) =
        (files(&args.restored)?, files(&args.input)?, files(&args.target)?);
    for (what, list) in [("inputs", &inputs), ("targets", &targets)] {
        if list.len() != restored.len() {
            return Err(Failure::data(format!(
                "there are {} restored images but {} {what}",
                restored.len(),
                list.len()
            ))
            .hint("the folders must hold the same images, in the same order of names"));
        }
    }
    let measured = restored
        .iter()
        .zip(&inputs)
        .zip(&targets)
        .map(|((r, i), t)| measure(args, r, i, t))
        .collect::<Result<Vec<_>, _>>()?;
    let out = args.common.out.clone().unwrap_or_else(|| PathBuf::from("eval"));
    std::fs::create_dir_all(&out).map_err(|e| Failure::data(e).file(&out))?;
    atomic::write_bytes(out.join("cases.csv"), csv(&measured).as_bytes()).map_err(Failure::data)?;
    let report = report(args, &measured);
    let html = out.join("report.html");
    atomic::write_bytes(&html, report.html().as_bytes()).map_err(Failure::data)?;
    if args.common.json {
        return print(json(&measured) + "\n");
    }
    if !args.common.quiet {
        print(summary(&measured))?;
        print(format!("report: {}\n", html.display()))?;
    }
    Ok(())
}

fn measure(args: &Args, restored: &Path, input: &Path, target: &Path) -> Result<Measured, Failure> {
    let [r, i, t] = [restored, input, target].map(|p| read(&p.to_owned()));
    let (r, i, t) = (r?, i?, t?);
    for (path, v) in [(restored, &r), (input, &i)] {
        if v.info.shape != t.info.shape {
            return Err(Failure::data(format!("the image is {:?}, its target {:?}", v.info.shape, t.info.shape))
                .hint("check the order of the names")
                .file(path));
        }
    }
    let shape = t.info.shape.clone();
    let (r, i, t) = (r.data.to_f32(), i.data.to_f32(), t.data.to_f32());
    let mut baselines = Vec::new();
    if args.baselines {
        let noisy: Vec<f64> = i.iter().map(|&v| f64::from(v)).collect();
        for kind in BASELINES {
            let best = best_of(kind, &noisy, &t, &shape, args.data_range)?;
            let image: Vec<f32> = best.image.iter().map(|&v| v as f32).collect();
            baselines.push((described(&best.filter)?, Scores::of(&image, &t, &shape, args.data_range)?));
        }
    }
    let after = Scores::of(&r, &t, &shape, args.data_range)?;
    let before = Scores::of(&i, &t, &shape, args.data_range)?;
    let name = restored.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let case = pictures(&name, &shape, [&r, &i, &t], before, after);
    Ok(Measured { name, before, after, baselines, case })
}

/// The images of a case; of a volume its middle slice.
fn pictures(name: &str, shape: &[usize], images: [&[f32]; 3], before: Scores, after: Scores) -> Case {
    let [height, width] = [shape[shape.len().saturating_sub(2)], shape[shape.len() - 1]];
    let plane = height * width;
    let slices = images[0].len() / plane.max(1);
    let middle = slices / 2 * plane;
    let [r, i, t] = images.map(|v| &v[middle..middle + plane]);
    let mut sorted = t.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q) as usize];
    let window = [at(0.005), at(0.995)];
    let residual: Vec<f32> = i.iter().zip(r).map(|(i, r)| i - r).collect();
    let spread = residual.iter().fold(0f32, |m, v| m.max(v.abs())).max(f32::MIN_POSITIVE);
    let image = |v: &[f32], w| png(v, [height, width], w).unwrap_or_default();
    Case {
        name: name.to_owned(),
        before: image(i, window),
        after: image(r, window),
        others: vec![
            ("reference".to_owned(), image(t, window)),
            ("residual (input - restored): structure here is signal that was removed".to_owned(),
                image(&residual, [-spread, spread])),
        ],
        caption: format!(
            "psnr {:.2} → {:.2} dB, ssim {:.4} → {:.4}{}",
            before.psnr,
            after.psnr,
            before.ssim,
            after.ssim,
            if slices > 1 { format!("; slice {} of {slices}", slices / 2 + 1) } else { String::new() }
        ),
    }
}

fn csv(measured: &[Measured]) -> String {
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

fn json(measured: &[Measured]) -> String {
    let object = |s: &Scores| -> serde_json::Value {
        Scores::NAMES.iter().zip(s.values()).map(|(n, v)| ((*n).to_owned(), v.into())).collect::<serde_json::Map<_, _>>().into()
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

/// Rows of a comparison: method, PSNR and SSIM averaged over the images.
fn rows(measured: &[Measured]) -> Vec<(String, [String; 4], bool)> {
    let n = measured.len() as f64;
    let mean = |of: &dyn Fn(&Measured) -> Scores| {
        let all: Vec<[f64; 4]> = measured.iter().map(|m| of(m).values()).collect();
        let at = |i: usize| all.iter().map(|v| v[i]).sum::<f64>() / n;
        Scores { psnr: at(0), ssim: at(1), mae: at(2), nrmse: at(3) }.cells()
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

fn summary(measured: &[Measured]) -> String {
    let columns = [("method", Align::Left), ("psnr dB", Align::Right), ("ssim", Align::Right), ("mae", Align::Right), ("nrmse", Align::Right)];
    let rows = rows(measured);
    let cells: Vec<Vec<String>> =
        rows.iter().map(|(n, s, _)| [std::slice::from_ref(n), s.as_slice()].concat()).collect();
    let mut text = table(&columns, &cells);
    let before: f64 = measured.iter().map(|m| m.before.psnr).sum::<f64>() / measured.len() as f64;
    let after: f64 = measured.iter().map(|m| m.after.psnr).sum::<f64>() / measured.len() as f64;
    let _ = write!(text, "restored is {:+.2} dB against the input", after - before);
    let best = (0..BASELINES.len())
        .filter(|b| measured.iter().all(|m| m.baselines.len() > *b))
        .map(|b| measured.iter().map(|m| m.baselines[b].1.psnr).sum::<f64>() / measured.len() as f64)
        .fold(f64::NEG_INFINITY, f64::max);
    if best.is_finite() {
        let _ = write!(text, ", {:+.2} dB against the best classical filter tuned on the reference", after - best);
    }
    text + "\n"
}

fn report(args: &Args, measured: &[Measured]) -> Report {
    let mut report = Report {
        title: "restoration report".to_owned(),
        lead: format!("{} image(s), data range {}", measured.len(), args.data_range),
        cases: measured.iter().take(12).map(|m| m.case.clone()).collect(),
        ..Report::default()
    };
    let head = ["method", "PSNR dB", "SSIM", "MAE", "NRMSE"].map(str::to_owned).to_vec();
    report.tables.push(Table {
        title: "comparison".to_owned(),
        head: head.clone(),
        rows: rows(measured)
            .into_iter()
            .map(|(n, s, own)| ([std::slice::from_ref(&n), s.as_slice()].concat(), own))
            .collect(),
        note: "SSIM: uniform window of 7; NRMSE: over the Euclidean norm; classical filters at their best strength for each image, chosen with the reference".to_owned(),
    });
    if measured.len() > 1 {
        let mut worst: Vec<&Measured> = measured.iter().collect();
        worst.sort_by(|a, b| a.after.psnr.total_cmp(&b.after.psnr));
        report.tables.push(Table {
            title: "per image, worst first".to_owned(),
            head,
            rows: worst
                .iter()
                .map(|m| ([std::slice::from_ref(&m.name), m.after.cells().as_slice()].concat(), false))
                .collect(),
            note: String::new(),
        });
    }
    if let Some(model) = &args.model
        && let Ok(trained) = crate::model_file::Trained::open(Some(model))
    {
        let card = &trained.card;
        report.facts = vec![
            ("model".to_owned(), trained.path.display().to_string()),
            ("network".to_owned(), card.network.kind().to_owned()),
            ("parameters".to_owned(), trained.params.count().to_string()),
            ("steps".to_owned(), card.step.to_string()),
        ];
        if let Some(dir) = trained.path.parent() {
            report.curves = curves(dir);
        }
        report.texts = vec![
            ("use this model".to_owned(), format!("denoise predict IN.tif OUT.tif --model {}", trained.path.display())),
            ("configuration".to_owned(), card.config.clone()),
        ];
    }
    report
}

/// The losses and scores of a run.
fn curves(run: &Path) -> Vec<Curve> {
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
            let points =
                of_split.filter_map(|(step, _, logs)| Some((*step as f64, *logs.get(&name)?))).collect();
            let higher = limpid_losses::metrics::metric_info(&name).map(|i| i.higher_is_better);
            let higher_is_better = if split == "train" { None } else { higher };
            Curve { title: format!("{split}: {name}"), points, higher_is_better }
        })
        .collect()
}
