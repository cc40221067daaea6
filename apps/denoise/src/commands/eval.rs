//! `denoise eval`: how good restored images are, as a table, a CSV file and a report.

use crate::commands::filter::{best_of, described, positive, read};
use crate::model_file::Trained;
use crate::scores::{Scores, has_ssim, space};
use limpid_arch::Architecture as _;
use limpid_classical::FilterKind;
use limpid_cli::{Align, ComputeArgs, Failure, HELP, print, report as say, table};
use limpid_datamodule::dataset::partners;
use limpid_io::{VolumeInfo, atomic, list_images};
use limpid_models::display_window;
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
    /// What they were restored from: files of the same names, whatever their endings
    #[arg(long, value_name = "PATH")]
    input: PathBuf,
    /// References: files of the same names, whatever their endings
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// Span of valid intensities: 255 for 8-bit images
    #[arg(long, value_name = "RANGE")]
    data_range: f64,
    /// Axes that count as space: 3 measures a stack as a volume, 2 slice by slice [default: 3 for
    /// files with a Z axis]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=3))]
    dims: Option<u8>,
    /// Also run the classical filters, each at its best strength for the image
    #[arg(long)]
    baselines: bool,
    /// The run that restored them, for its curves and configuration
    #[arg(long, value_name = "RUN")]
    model: Option<PathBuf>,
    /// Folder for the report and the table of all images
    #[arg(long, value_name = "DIR", default_value = "eval")]
    out: PathBuf,
    /// Only say what went wrong
    #[arg(short, long)]
    quiet: bool,
    /// Write the scores as JSON to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// The filters that reports compare with.
const BASELINES: [FilterKind; 4] = [
    FilterKind::Gaussian,
    FilterKind::Median,
    FilterKind::NonLocalMeans,
    FilterKind::TotalVariation,
];

/// Images that a report shows; the tables have all.
const SHOWN: usize = 12;

/// One image, measured.
struct Measured {
    name: String,
    before: Scores,
    after: Scores,
    /// Name with settings, and scores.
    baselines: Vec<(String, Scores)>,
    /// Its pictures, if the report shows it.
    case: Option<Case>,
    /// Whether it is too small for SSIM.
    small: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.compute.apply()?;
    positive(args.data_range)?;
    let model = args.model.as_deref().map(|m| Trained::open(Some(m))).transpose()?;
    let measured = files(args)?
        .iter()
        .enumerate()
        .map(|(i, files)| measure(args, files, i < SHOWN))
        .collect::<Result<Vec<_>, _>>()?;
    let warnings = warnings(&measured);
    let out = &args.out;
    std::fs::create_dir_all(out)
        .map_err(|e| Failure::data(limpid_io::Error::io("make the folder", out, e)))?;
    atomic::write_bytes(out.join("cases.csv"), csv(&measured).as_bytes()).map_err(Failure::data)?;
    let html = out.join("report.html");
    let report = Report { warnings: warnings.clone(), ..report(args, &measured, model.as_ref()) };
    atomic::write_bytes(&html, report.html().as_bytes()).map_err(Failure::data)?;
    if !args.quiet {
        warnings.iter().for_each(|w| say(format!("warning: {w}")));
    }
    if args.json {
        return print(json(&measured) + "\n");
    }
    if !args.quiet {
        print(summary(&measured))?;
        print(format!("report: {}\n", html.display()))?;
    }
    Ok(())
}

/// Restored image, input and target of every case.
fn files(args: &Args) -> Result<Vec<[PathBuf; 3]>, Failure> {
    let places = [&args.restored, &args.input, &args.target];
    let list = |place: &Path| list_images(place).map_err(Failure::data);
    let [restored, inputs, targets] = places.map(|p| list(p));
    let (restored, inputs, targets) = (restored?, inputs?, targets?);
    let [here, input_place, target_place] = places.map(|p| p.display().to_string());
    let of_inputs = partners(&restored, &inputs, &here, &input_place).map_err(Failure::data)?;
    let of_targets = partners(&restored, &targets, &here, &target_place).map_err(Failure::data)?;
    let cases = restored.into_iter().zip(of_inputs).zip(of_targets);
    Ok(cases.map(|((r, i), t)| [r, inputs[i].clone(), targets[t].clone()]).collect())
}

fn measure(args: &Args, files: &[PathBuf; 3], shown: bool) -> Result<Measured, Failure> {
    let [restored, input, target] = files;
    let (r, i, t) = (read(restored)?, read(input)?, read(target)?);
    for (path, v) in [(restored, &r), (input, &i)] {
        let (got, expected) = (&v.info, &t.info);
        if (&got.shape, &got.axes) != (&expected.shape, &expected.axes) {
            return Err(Failure::data(format!(
                "the image is {:?} ({}), its target {:?} ({})",
                got.shape, got.axes, expected.shape, expected.axes
            ))
            .hint(format!("it is compared with {}, pixel by pixel", target.display()))
            .file(path));
        }
    }
    let shape = space(&t.info, args.dims).map_err(|e| e.file(target))?;
    let (r, i, t_values) = (r.data.to_f32(), i.data.to_f32(), t.data.to_f32());
    let score = |values: &[f32]| Scores::of(values, &t_values, shape, args.data_range);
    let mut baselines = Vec::new();
    if args.baselines {
        let noisy: Vec<f64> = i.iter().map(|&v| f64::from(v)).collect();
        for kind in BASELINES {
            let best = best_of(kind, &noisy, &t_values, shape, args.data_range)?;
            let image: Vec<f32> = best.image.iter().map(|&v| v as f32).collect();
            baselines.push((described(&best.filter)?, score(&image)?));
        }
    }
    let (before, after) = (score(&i)?, score(&r)?);
    let name = restored.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let case = shown.then(|| pictures(&name, &t.info, [&r, &i, &t_values], before, after));
    Ok(Measured { name, before, after, baselines, case, small: !has_ssim(shape) })
}

/// The images of a case: the first channel, in the middle of the other axes.
fn pictures(
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
    }
}

/// What the reader of the scores should know.
fn warnings(measured: &[Measured]) -> Vec<String> {
    let mut warnings = Vec::new();
    let small: Vec<&str> = measured.iter().filter(|m| m.small).map(|m| m.name.as_str()).collect();
    if let Some(first) = small.first() {
        warnings.push(format!(
            "{} of {} images have no ssim, `{first}` is the first: its window needs 7 pixels along every axis; `--dims 2` measures stacks slice by slice",
            small.len(),
            measured.len()
        ));
    }
    warnings
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
fn rows(measured: &[Measured]) -> Vec<(String, Scores, bool)> {
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
fn cells(name: &str, scores: &Scores) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(scores.cells()).collect()
}

fn summary(measured: &[Measured]) -> String {
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

fn report(args: &Args, measured: &[Measured], model: Option<&Trained>) -> Report {
    let mut report = Report {
        title: "restoration report".to_owned(),
        lead: format!(
            "{} image{}, data range {}",
            measured.len(),
            if measured.len() == 1 { "" } else { "s" },
            args.data_range
        ),
        cases: measured.iter().filter_map(|m| m.case.clone()).collect(),
        ..Report::default()
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
    if let Some(trained) = model {
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
        let command = format!("denoise predict IN.tif OUT.tif --model {}", trained.path.display());
        report.texts = vec![
            ("use this model".to_owned(), command),
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
            let points = of_split
                .filter_map(|(step, _, logs)| Some((*step as f64, *logs.get(&name)?)))
                .collect();
            let higher = limpid_losses::metrics::metric_info(&name).map(|i| i.higher_is_better);
            let higher_is_better = if split == "train" { None } else { higher };
            Curve { title: format!("{split}: {name}"), points, higher_is_better }
        })
        .collect()
}
