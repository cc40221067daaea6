//! `check`: what a scan holds, and what looks wrong with it.

use super::{OutputArgs, ScanArgs, failure};
use crate::config::{Config, Correction, Sign};
use crate::orient::{composed, ways};
use crate::prepare::Prepared;
use crate::recon::{Method, reconstruct};
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
    let turns = scan.field.is_some() && scan.timed;
    if turns || scan.maps.is_some() {
        let prepared = Prepared::new(scan, config).map_err(|e| failure(e).file(&args.scan.scan))?;
        let mut checks: Vec<fn(&Prepared, &Config) -> crate::Result<Said>> = Vec::new();
        if prepared.own_maps {
            checks.push(way);
        }
        if turns {
            checks.push(sign);
        }
        for check in checks {
            let (line, problem) = check(&prepared, config).map_err(failure)?;
            text += &line;
            messages.extend(problem);
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

/// A line, and what is wrong.
type Said = (String, Option<String>);

/// Which way of reading positions fits the maps of the coils.
fn way(prepared: &Prepared, config: &Config) -> crate::Result<Said> {
    let ways = ways(prepared)?;
    let Some((own, others)) = ways.split_first() else { return Ok(Said::default()) };
    let best = others.iter().min_by(|a, b| a.misfit.total_cmp(&b.misfit));
    let Some(best) = best else { return Ok(Said::default()) };
    let line = format!(
        "maps        {:.1} % of the middle of k-space does not fit them, {:.1} % or more with other axes or signs of \
         positions\n",
        100.0 * own.misfit,
        100.0 * best.misfit
    );
    let problem = (best.misfit < FITS_BETTER * own.misfit).then(|| {
        format!(
            "positions fit the maps better with other axes or signs: `--set scan.axes={:?}`",
            composed(&config.scan.axes, &best.axes)
        )
    });
    Ok((line, problem))
}

/// How much less is to be left over with other axes before it is said.
const FITS_BETTER: f64 = 0.7;

/// Which sign of the field gives the sharpest image. A wrong one blurs edges, which then are many and faint.
fn sign(prepared: &Prepared, config: &Config) -> crate::Result<Said> {
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
    Ok((line, problem))
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
