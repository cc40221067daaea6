//! `eval` of both programs: how good restored images are, and how far their uncertainty can be
//! trusted.

use crate::model::{Calibration, Trained};
use limpid_cli::evaluation::{Evaluation, enlarged, of_model, positive};
use limpid_cli::prediction::{beside, goes_with};
use limpid_cli::{Align, ComputeArgs, Failure, print, report as say, table};
use limpid_export::Bundle;
use limpid_io::{Axis, list_images};
use limpid_losses::metrics::{Image, ring_correlation, seam};
use limpid_losses::stats::{coverage_curve, deviation_factor, error_by_deviation};
use limpid_track::report::{Chart, Report, Table};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Measure restored images against references, and their uncertainty against their errors
#[derive(clap::Args)]
pub struct Args {
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
    /// Axes that count as space: 3 measures a stack as a volume, 2 slice by slice [default: 2, for
    /// vemdiffuse 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=3))]
    dims: Option<u8>,
    /// Also run the classical filters, each at its best strength for the image
    #[arg(long)]
    baselines: bool,
    /// The model that restored them
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Find the factor that makes the deviation an interval, and write it into the model; take images
    /// that were not trained on
    #[arg(long, requires = "model")]
    calibrate: bool,
    /// Share of the pixels whose truth the interval is to hold
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    coverage: f64,
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

/// Side of the blocks that count as one observation, in pixels.
const BLOCK: usize = 64;
/// Least deviation, as a part of the data range: below it samples agree by chance.
const FLOOR: f64 = 1e-3;
/// Chance that the promise of coverage does not hold.
const DELTA: f64 = 0.1;
/// Classes of pixels by their deviation.
const CLASSES: usize = 12;

/// Measures.
///
/// # Errors
/// Files are missing or do not go together; the model cannot be written.
pub fn run(args: &Args, program: &str) -> Result<(), Failure> {
    args.compute.apply()?;
    positive(args.data_range)?;
    let trained = args
        .model
        .as_deref()
        .map(|named| Trained::open(Some(named), program, &candle_core::Device::Cpu))
        .transpose()?;
    let mut about = match &trained {
        Some(Trained { path: Some(path), card, params, .. }) => {
            of_model(path, card, params.count(), program)
        }
        _ => Report::default(),
    };
    let mut cases = cases(args)?;
    let mut frc = Table {
        title: "Fourier ring correlation with the reference".to_owned(),
        head: ["image", "input", "restored"].map(str::to_owned).to_vec(),
        rows: Vec::new(),
        note: "mean over frequencies up to Nyquist, Hann window; slices averaged".to_owned(),
    };
    for case in &cases {
        let cells = vec![
            case.name.clone(),
            format!("{:.4}", case.frc(&case.input)?),
            format!("{:.4}", case.frc(&case.restored)?),
        ];
        frc.rows.push((cells, false));
        if let Some(seam) = case.seam()? {
            about.facts.push((format!("seams of {}", case.name), format!("{seam:.3} (1: none)")));
        }
    }
    if !args.quiet && !args.json {
        for (cells, _) in &frc.rows {
            say(format!("{}: frc {} → {}", cells[0], cells[1], cells[2]));
        }
    }
    about.tables.push(frc);
    for planes in cases.iter_mut().filter_map(|case| case.planes.take()) {
        if !args.quiet && !args.json {
            let columns: Vec<(&str, Align)> =
                planes.head.iter().map(|head| (head.as_str(), Align::Right)).collect();
            let rows: Vec<Vec<String>> =
                planes.rows.iter().map(|(cells, _)| cells.clone()).collect();
            print(format!("{}\n{}\n", planes.title, table(&columns, &rows)))?;
        }
        about.tables.push(planes);
    }
    let uncertain: Vec<&Case> = cases.iter().filter(|c| c.deviation.is_some()).collect();
    if uncertain.is_empty() {
        if args.calibrate {
            return Err(Failure::data("there are no deviations to calibrate").hint(
                "restore with `--samples 8`; the deviation is NAME_std beside the restored image",
            ));
        }
    } else {
        uncertainty(args, &uncertain, trained.as_ref(), &mut about)?;
    }
    Evaluation {
        restored: &args.restored,
        input: &args.input,
        target: &args.target,
        data_range: args.data_range,
        // slices that were kept would be met exactly, each with an infinite PSNR
        dims: Some(args.dims.unwrap_or(if program == "vemdiffuse" { 3 } else { 2 })),
        baselines: args.baselines,
        enlarge: true,
        out: &args.out,
        quiet: args.quiet,
        json: args.json,
    }
    .run(about)
}

/// A restored image with everything that belongs to it, in the unit of the files.
struct Case {
    name: String,
    shape: [usize; 2],
    restored: Vec<f32>,
    input: Vec<f32>,
    target: Vec<f32>,
    deviation: Option<Vec<f32>>,
    /// What `predict` wrote beside it.
    sidecar: Option<Value>,
    /// Scores in every plane, if layers were put between slices.
    planes: Option<Table>,
}

fn cases(args: &Args) -> Result<Vec<Case>, Failure> {
    let list = |place: &Path| -> Result<Vec<PathBuf>, Failure> {
        Ok(list_images(place)
            .map_err(Failure::data)?
            .into_iter()
            .filter(|path| goes_with(path).is_none() || !place.is_dir())
            .collect())
    };
    let restored = list(&args.restored)?;
    let partners = |place: &Path| -> Result<Vec<PathBuf>, Failure> {
        let files = list_images(place).map_err(Failure::data)?;
        let of = limpid_datamodule::dataset::partners(
            &restored,
            &files,
            &args.restored.display().to_string(),
            &place.display().to_string(),
        )
        .map_err(Failure::data)?;
        Ok(of.into_iter().map(|i| files[i].clone()).collect())
    };
    let (inputs, targets) = (partners(&args.input)?, partners(&args.target)?);
    let paths = restored.iter().zip(inputs).zip(targets);
    let open = |((restored, input), target): ((&PathBuf, PathBuf), PathBuf)| {
        Case::open(restored, &input, &target, args.data_range)
    };
    paths.map(open).collect()
}

impl Case {
    fn open(restored: &Path, input: &Path, target: &Path, range: f64) -> Result<Self, Failure> {
        let read = |path: &Path| limpid_cli::evaluation::read(path);
        let image = read(restored)?;
        let shape = &image.info.shape;
        let flat = image.info.size(Axis::C) == 1 && shape.len() >= 2;
        if !flat {
            return Err(Failure::data("the restored image is not grey").file(restored));
        }
        let size = [shape[shape.len() - 2], shape[shape.len() - 1]];
        let (input, target) = (read(input)?, read(target)?);
        let deviation = Some(beside(restored, "_std")).filter(|path| path.is_file());
        let deviation = deviation.map(|path| read(&path)).transpose()?;
        let sidecar = std::fs::read(beside(restored, "").with_extension("json")).ok();
        let name = restored.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let values = image.data.into_f32();
        let finer = enlarged(&input, &target.info);
        let planes = match &finer {
            Some(linear) if target.data.len() == values.len() => {
                super::planes::table(&name, &input, linear, &values, &target, range)?
            }
            _ => None,
        };
        let case = Self {
            name,
            shape: size,
            restored: values,
            input: finer.unwrap_or_else(|| input.data.into_f32()),
            target: target.data.into_f32(),
            deviation: deviation.map(|d| d.data.into_f32()),
            sidecar: sidecar.and_then(|text| serde_json::from_slice(&text).ok()),
            planes,
        };
        let n = case.restored.len();
        if case.target.len() != n || case.deviation.as_ref().is_some_and(|d| d.len() != n) {
            return Err(Failure::data(format!(
                "restored image and reference differ in size: {n} and {} values",
                case.target.len()
            ))
            .file(restored));
        }
        Ok(case)
    }

    /// Mean ring correlation of the slices of an image with the reference; NaN for another size.
    fn frc(&self, values: &[f32]) -> Result<f64, Failure> {
        if values.len() != self.target.len() {
            return Ok(f64::NAN);
        }
        mean_ring(values, &self.target, &self.shape)
    }

    /// How strongly the edges of windows show, if the image was put together.
    fn seam(&self) -> Result<Option<f64>, Failure> {
        let edges = |axis: usize| -> Option<Vec<usize>> {
            let list = self.sidecar.as_ref()?["edges"][axis].as_array()?;
            Some(list.iter().filter_map(|v| v.as_u64().map(|v| v as usize)).collect())
        };
        let (Some(rows), Some(columns)) = (edges(0), edges(1)) else { return Ok(None) };
        if rows.is_empty() && columns.is_empty() {
            return Ok(None);
        }
        let pixels = self.shape[0] * self.shape[1];
        let image = Image::new(&self.restored[..pixels], &self.shape).map_err(Failure::data)?;
        seam(&image, &rows, &columns).map(Some).map_err(Failure::data)
    }

    /// Magnitudes of errors over deviations, by block.
    fn blocks(&self, floor: f32) -> Vec<Vec<f32>> {
        let [height, width] = self.shape;
        let Some(deviation) = &self.deviation else { return Vec::new() };
        let mut blocks = Vec::new();
        for slice in 0..self.restored.len() / (height * width) {
            for y in (0..height).step_by(BLOCK) {
                for x in (0..width).step_by(BLOCK) {
                    let mut block = Vec::new();
                    for row in y..(y + BLOCK).min(height) {
                        let at = (slice * height + row) * width;
                        for i in at + x..at + (x + BLOCK).min(width) {
                            // slices that were taken, and not drawn, have no deviation
                            if deviation[i] > 0.0 {
                                let error = (self.target[i] - self.restored[i]).abs();
                                block.push(error / deviation[i].max(floor));
                            }
                        }
                    }
                    if !block.is_empty() {
                        blocks.push(block);
                    }
                }
            }
        }
        blocks
    }
}

/// Mean ring correlation up to Nyquist of images of `shape`, as many as the values hold; averaged.
pub(crate) fn mean_ring(a: &[f32], b: &[f32], shape: &[usize; 2]) -> Result<f64, Failure> {
    let image = |values| Image::new(values, shape).map_err(Failure::data);
    let pixels = shape[0] * shape[1];
    let mut sum = 0.0;
    for (a, b) in a.chunks(pixels).zip(b.chunks(pixels)) {
        let ring =
            ring_correlation(&image(a)?, &image(b)?, &[1.0; 2], true).map_err(Failure::data)?;
        let below: Vec<f64> = ring
            .frequency
            .iter()
            .zip(&ring.correlation)
            .filter(|(f, _)| **f > 0.0 && **f <= 0.5)
            .map(|(_, c)| *c)
            .collect();
        sum += below.iter().sum::<f64>() / below.len().max(1) as f64;
    }
    Ok(sum / (a.len() / pixels) as f64)
}

/// Charts of the uncertainty, and its calibration.
fn uncertainty(
    args: &Args,
    cases: &[&Case],
    trained: Option<&Trained>,
    about: &mut Report,
) -> Result<(), Failure> {
    let floor = (FLOOR * args.data_range) as f32;
    let blocks: Vec<Vec<f32>> = cases.iter().flat_map(|case| case.blocks(floor)).collect();
    let all = |of: fn(&Case) -> &[f32]| -> Vec<f32> {
        cases.iter().flat_map(|case| of(case).iter().copied()).collect()
    };
    let (mean, truth) = (all(|c| &c.restored), all(|c| &c.target));
    let deviation = all(|c| c.deviation.as_deref().unwrap_or_default());
    let drawn: Vec<usize> = (0..mean.len()).filter(|i| deviation[*i] > 0.0).collect();
    let pick = |v: &[f32]| drawn.iter().map(|&i| v[i]).collect::<Vec<f32>>();
    let (mean, deviation, truth) = (pick(&mean), pick(&deviation), pick(&truth));
    let classes = error_by_deviation(&mean, &deviation, &truth, CLASSES).map_err(Failure::data)?;
    let square = |v: f32| f64::from(v) * f64::from(v);
    let n = mean.len().max(1) as f64;
    let error = mean.iter().zip(&truth).map(|(m, t)| square(m - t)).sum::<f64>() / n;
    let variance = deviation.iter().map(|d| square(*d)).sum::<f64>() / n;
    let factors: Vec<f64> = (1..=60).map(|i| f64::from(i) / 10.0).collect();
    let curve = coverage_curve(&blocks, &factors);
    about.charts.push(Chart {
        title: "error by predicted deviation".to_owned(),
        x_title: "mean deviation of the class".to_owned(),
        y_title: "root mean square error".to_owned(),
        x_log: false,
        y_log: false,
        series: vec![
            ("measured".to_owned(), classes.iter().map(|c| (c[0], c[1])).collect()),
            ("equal".to_owned(), classes.iter().map(|c| (c[0], c[0])).collect()),
        ],
        higher_is_better: None,
    });
    about.charts.push(Chart {
        title: "share of the truth within so many deviations".to_owned(),
        x_title: "deviations".to_owned(),
        y_title: "share of pixels".to_owned(),
        x_log: false,
        y_log: false,
        series: vec![("measured".to_owned(), curve.iter().map(|c| (c[0], c[1])).collect())],
        higher_is_better: None,
    });
    about.facts.push(("mean deviation".to_owned(), format!("{:.3}", variance.sqrt())));
    about.facts.push(("root mean square error".to_owned(), format!("{:.3}", error.sqrt())));
    if let Some(calibration) = trained.and_then(|t| t.task.calibration).filter(|_| !args.calibrate)
    {
        let held = coverage_curve(&blocks, &[calibration.factor])[0][1];
        let text = format!(
            "{:.1} % of the pixels (promised: {:.0} %)",
            100.0 * held,
            100.0 * calibration.coverage
        );
        if !args.quiet && !args.json {
            say(format!("the interval of {:.2} deviations holds {text}", calibration.factor));
        }
        about.facts.push(("calibrated interval holds".to_owned(), text));
    }
    for case in cases {
        if let Some(psnr) = case.sidecar.as_ref().and_then(|s| s["expected_psnr_db"].as_f64()) {
            about
                .facts
                .push((format!("self-assessment of {}", case.name), format!("{psnr:.2} dB")));
        }
    }
    if !args.calibrate {
        return Ok(());
    }
    let factor = deviation_factor(&blocks, args.coverage, DELTA).map_err(Failure::data)?;
    let samples = cases[0].sidecar.as_ref().and_then(|s| s["samples"].as_u64()).unwrap_or(0);
    let calibration = Calibration {
        factor,
        floor: FLOOR,
        coverage: args.coverage,
        delta: DELTA,
        variance_ratio: error / variance,
        samples: samples as usize,
    };
    let Some(Trained { path: Some(path), .. }) = trained else {
        return Err(Failure::config("the model cannot be written").hint("name a run or a file"));
    };
    let mut bundle = Bundle::load(path).map_err(Failure::data)?;
    let mut task = trained.map(|t| t.task.clone()).unwrap_or_default();
    task.calibration = Some(calibration);
    task.put(&mut bundle.card)?;
    bundle.save(path).map_err(Failure::data)?;
    if !args.quiet {
        say(format!(
            "{:.0} % of the truth lie within {factor:.2} deviations; written into {}",
            100.0 * args.coverage,
            path.display()
        ));
    }
    Ok(())
}
