//! `check`: what a scan holds, and what looks wrong with it.

use super::{OutputArgs, ScanArgs, failure};
use crate::config::{Config, Correction, MapsConfig, Sign};
use crate::orient::{composed, verdict, ways};
use crate::prepare::Prepared;
use crate::recon::{Method, reconstruct, too_few};
use crate::scan::{Scan, geometry_findings};
use limpid_cli::{Failure, HELP, print};
use limpid_mri::{Complex, Geometry};
use std::fmt::Write as _;
use std::ops::ControlFlow;

/// Say what a scan holds, and what looks wrong: units, signs, orders, gaps
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog check scan.npz
  igrog check scan.h5 --set scan.slice=3
  igrog check ksp.cfl --set scan.trajectory=trj.cfl --set scan.matrix=[256,256]"
)]
pub struct Args {
    #[command(flatten)]
    scan: ScanArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Checks.
///
/// # Errors
/// If the scan cannot be read, or its parts do not go together.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.output.apply()?;
    let loaded = args.scan.load(None)?;
    let config = &loaded.value;
    let scan = crate::scan::open(&args.scan.scan, &config.scan).map_err(failure)?;
    let mut text = facts(&scan);
    let geometry = Geometry::new(&scan.trajectory, &scan.times, &config.geometry.config())
        .map_err(|e| failure(e.into()))?;
    let mut messages: Vec<String> = scan.findings.iter().map(|f| f.message.clone()).collect();
    messages.extend(geometry_findings(&geometry, &scan.trajectory).into_iter().map(|f| f.message));
    if let (Some(maps), MapsConfig::Auto) = (&scan.maps, config.coils.maps)
        && scan.coils > 1
    {
        match way(&scan, maps, config) {
            Ok((line, problem)) => {
                text += &line;
                messages.extend(problem);
            }
            Err(error) => messages.push(format!("maps and positions cannot be compared: {error}")),
        }
    }
    if scan.field.is_some() && scan.timed {
        match Prepared::new(scan, config).and_then(|prepared| sign(&prepared, config)) {
            Ok((line, problems)) => {
                text += &line;
                messages.extend(problems);
            }
            Err(error) => messages.push(format!("the field cannot be tried: {error}")),
        }
    }
    if args.output.json {
        return print(format!("{}\n", serde_json::json!({ "facts": text, "warnings": messages })));
    }
    if args.output.quiet {
        text.clear();
    }
    for message in &messages {
        let _ = writeln!(text, "warning     {message}");
    }
    if !args.output.quiet && messages.is_empty() {
        text += "warnings    none\n";
    }
    print(text)
}

fn facts(scan: &Scan) -> String {
    let mut text = String::new();
    let trajectory = &scan.trajectory;
    let rank = trajectory.rank();
    let _ = writeln!(
        text,
        "samples     {} coils, {} shots of {}, on an image of {:?}",
        scan.coils,
        trajectory.shots(),
        trajectory.samples(),
        scan.matrix
    );
    for axis in 0..rank {
        let points = trajectory.points().iter().skip(axis).step_by(rank);
        let (low, high) =
            points.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &k| (l.min(k), h.max(k)));
        let _ = writeln!(text, "axis {axis}      {low:.2} to {high:.2} cycles per field of view");
    }
    if scan.timed {
        let first = scan.times.first().copied().unwrap_or(0.0);
        let last = scan.times.last().copied().unwrap_or(0.0);
        let _ = writeln!(text, "times       {:.3} to {:.3} ms", 1e3 * first, 1e3 * last);
    }
    if let Some(field) = &scan.field {
        let low = field.iter().copied().fold(f64::INFINITY, f64::min);
        let high = field.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let _ = writeln!(text, "field       {low:.1} to {high:.1} Hz");
    }
    let with = [
        ("maps", scan.maps.is_some()),
        ("density", scan.density.is_some()),
        ("calibration", scan.calibration.is_some()),
        ("noise", scan.noise.is_some()),
        ("truth", scan.truth.is_some()),
    ];
    let with: Vec<&str> = with.into_iter().filter(|(_, there)| *there).map(|(n, _)| n).collect();
    let _ = writeln!(
        text,
        "with        {}",
        if with.is_empty() { "nothing else".to_owned() } else { with.join(", ") }
    );
    text
}

/// Which way of reading positions fits the maps of the coils: a line, and what is wrong.
fn way(
    scan: &Scan,
    maps: &[Complex<f32>],
    config: &Config,
) -> crate::Result<(String, Option<String>)> {
    let ways = ways(scan, maps)?;
    let (better, differ) = verdict(&ways);
    let Some((own, others)) = ways.split_first().filter(|_| differ) else {
        return Ok(("maps        do not tell along which axes positions run\n".to_owned(), None));
    };
    let least = others.iter().map(|way| way.misfit).fold(f64::INFINITY, f64::min);
    let line = format!(
        "maps        {:.1} % of the middle of k-space does not fit them, {:.1} % or more with other axes or signs of \
         positions\n",
        100.0 * own.misfit,
        100.0 * least
    );
    let problem = better.map(|way| {
        let axes =
            composed(&config.scan.axes, &way.axes).iter().map(i8::to_string).collect::<Vec<_>>();
        format!(
            "positions fit the maps better with other axes or signs: `--set scan.axes=[{}]`",
            axes.join(",")
        )
    });
    Ok((line, problem))
}

/// Which sign of the field gives the sharpest image. A wrong one blurs edges, which then are many and faint.
fn sign(prepared: &Prepared, config: &Config) -> crate::Result<(String, Vec<String>)> {
    let edges = |sign: Sign, correct: Correction| -> crate::Result<f64> {
        let mut config = config.clone();
        (config.field.sign, config.field.correct) = (sign, correct);
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let found = reconstruct(prepared, &config, Method::Igrog, None, go_on)?;
        Ok(spread(&found.image, &prepared.scan.matrix))
    };
    let given = config.field.sign;
    let (other, name) = match given {
        Sign::Negative => (Sign::Positive, "positive"),
        Sign::Positive => (Sign::Negative, "negative"),
    };
    let own = edges(given, Correction::Segments)?;
    let opposite = edges(other, Correction::Segments)?;
    let none = edges(given, Correction::Nothing)?;
    let line = format!(
        "edges       {own:.1} with the field, {opposite:.1} with the other sign, {none:.1} without it; sharper is less\n"
    );
    let mut problems: Vec<String> =
        too_few(prepared, &config.field).map(|finding| finding.message).into_iter().collect();
    let problem = if opposite < CLEARLY * own {
        Some(format!(
            "the image is sharper with the other sign of the field: `--set field.sign={name}`"
        ))
    } else if none < CLEARLY * own {
        Some(
            "the image is sharper without the field: is it in hertz, of this slice, and do times count from the \
             excitation or echo?"
                .to_owned(),
        )
    } else {
        None
    };
    problems.extend(problem);
    Ok((line, problems))
}

/// By how much an image is to be sharper before it is said.
const CLEARLY: f64 = 0.97;

/// The sum of the slopes of the magnitudes over the root of the sum of their squares: over how many voxels edges
/// are spread.
fn spread(image: &[Complex<f32>], matrix: &[usize]) -> f64 {
    let steps: Vec<usize> =
        (0..matrix.len()).map(|d| matrix[d + 1..].iter().product::<usize>()).collect();
    let (mut sum, mut squares) = (0.0, 0.0);
    for at in 0..image.len() {
        let mut slope = 0f64;
        for (&step, &size) in steps.iter().zip(matrix) {
            if at / step % size + 1 < size {
                slope += f64::from(image[at + step].norm() - image[at].norm()).powi(2);
            }
        }
        sum += slope.sqrt();
        squares += slope;
    }
    sum / squares.sqrt().max(f64::MIN_POSITIVE)
}
