//! What scans get wrong: signs, units, orders and gaps, with the likely cause of each.

use super::Scan;
use crate::error::{Error, Result};
use limpid_mri::{Complex, Geometry, Trajectory, Unit};

/// Something about a scan that is no error, but that may spoil the image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was found, and the likely cause.
    pub message: String,
}

impl Finding {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Refuses positions that are surely in another unit than is said, in which trajectories would be rescaled
/// without a word.
pub(super) fn unit(points: &[f64], matrix: &[usize], unit: Unit) -> Result<()> {
    if let Some(at) = points.iter().position(|p| !p.is_finite()) {
        let message = format!("position {} of the trajectory is {}", at / matrix.len(), points[at]);
        return Err(Error::scan(message, "leave such samples out, together with their data"));
    }
    let largest = |axis: usize| {
        points.iter().skip(axis).step_by(matrix.len()).fold(0f64, |most, p| most.max(p.abs()))
    };
    let most = (0..matrix.len()).map(largest).fold(0.0, f64::max);
    let half = matrix.iter().copied().max().unwrap_or(0) as f64 / 2.0;
    let (limit, name) = match unit {
        Unit::CyclesPerFov => (half, "cycles_per_fov"),
        Unit::CyclesPerVoxel => (0.5, "cycles_per_voxel"),
        Unit::RadiansPerVoxel => (std::f64::consts::PI, "radians_per_voxel"),
    };
    let others = [
        (half, "cycles_per_fov"),
        (0.5, "cycles_per_voxel"),
        (std::f64::consts::PI, "radians_per_voxel"),
    ];
    // within a fifth of what another unit reaches, and far from what this one does
    let near = |limit: f64| most > 0.8 * limit && most <= 1.02 * limit;
    let other = others.iter().find(|(limit, other)| *other != name && near(*limit));
    if most > limit * 1.02 + 0.5 || (most < 0.2 * limit && other.is_some()) {
        let message = format!(
            "positions reach {most:.4}, but in `{name}` an image of {matrix:?} voxels reaches {limit:.4}"
        );
        let hint = match other {
            Some((_, other)) => format!("they look like `{other}`: `--set scan.unit={other}`"),
            None if most > limit => {
                "set `scan.unit`, or `scan.matrix` to the sizes that the trajectory was made for"
                    .to_owned()
            }
            None => "set `scan.unit`".to_owned(),
        };
        return Err(Error::scan(message, hint));
    }
    Ok(())
}

/// Refuses values that cannot be measured, drops empty readouts, and notes what else looks wrong.
pub(super) fn values(scan: &mut Scan) -> Result<()> {
    for (what, values) in [
        ("samples", Some(&scan.samples)),
        ("maps", scan.maps.as_ref()),
        ("noise", scan.noise.as_ref()),
        ("calibration", scan.calibration.as_ref().map(|(_, values)| values)),
    ] {
        let Some(values) = values else { continue };
        if let Some(at) = values.iter().position(|v| !(v.re.is_finite() && v.im.is_finite())) {
            let per_coil = values.len() / scan.coils;
            let message = format!(
                "value {} of coil {} of the {what} is not finite",
                at % per_coil,
                at / per_coil
            );
            let hint =
                "leave broken readouts out, with their positions; outside of coil maps write zeros";
            return Err(Error::scan(message, hint));
        }
    }
    for (what, values) in [("field", &scan.field), ("density", &scan.density)] {
        let Some(values) = values else { continue };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let message = format!("value {at} of the {what} is {}", values[at]);
            return Err(Error::scan(message, "write zeros where it is not known"));
        }
    }
    times(&scan.times)?;
    let useless = |truth: &Vec<Complex<f32>>| {
        let power: f32 = truth.iter().map(|v| v.norm_sqr()).sum();
        !(power > 0.0 && power.is_finite())
    };
    if scan.truth.as_ref().is_some_and(useless) {
        scan.truth = None;
        scan.findings
            .push(Finding::new("the image to compare with is zero or not finite, and is left out"));
    }
    if scan.field.is_some() && !scan.timed {
        scan.findings.push(Finding::new(
            "the scan has a field, but no times of its samples: it cannot be corrected without `scan.dwell`",
        ));
    }
    if scan.samples.iter().all(|v| v.norm_sqr() == 0.0) {
        return Err(Error::scan("all samples are zero", "is it another array of the file?"));
    }
    empty_shots(scan)?;
    empty_coils(scan)?;
    centre(scan);
    coverage(scan);
    Ok(())
}

/// Refuses times that no readout has.
fn times(times: &[f64]) -> Result<()> {
    if let Some(at) = times.iter().position(|t| !t.is_finite()) {
        let message = format!("time {at} of the readout is {}", times[at]);
        return Err(Error::scan(message, "times are seconds since the excitation"));
    }
    if times.windows(2).any(|pair| pair[1] < pair[0]) {
        let hint = "times are seconds since the excitation, in the order of the samples";
        return Err(Error::scan("the times of the readout decrease", hint));
    }
    let length = times.last().unwrap_or(&0.0) - times.first().unwrap_or(&0.0);
    if length > 1.0 {
        let message = format!("a readout takes {length:.4} s");
        return Err(Error::scan(message, "are times in milliseconds or microseconds?"));
    }
    Ok(())
}

/// Readouts of nothing but zeros were not measured: as samples they would say that k-space is empty.
fn empty_shots(scan: &mut Scan) -> Result<()> {
    let [shots, length] = [scan.trajectory.shots(), scan.trajectory.samples()];
    let value =
        |coil: usize, shot: usize| &scan.samples[(coil * shots + shot) * length..][..length];
    let is_empty = |&shot: &usize| {
        (0..scan.coils).all(|coil| value(coil, shot).iter().all(|v| v.norm_sqr() == 0.0))
    };
    let kept: Vec<usize> = (0..shots).filter(|shot| !is_empty(shot)).collect();
    if kept.len() == shots {
        return Ok(());
    }
    let missing = shots - kept.len();
    let rank = scan.trajectory.rank();
    let points = kept.iter().flat_map(|&shot| scan.trajectory.shot(shot)).copied().collect();
    let samples = (0..scan.coils).flat_map(|coil| kept.iter().map(move |&shot| (coil, shot)));
    let samples: Vec<Complex<f32>> =
        samples.flat_map(|(coil, shot)| value(coil, shot)).copied().collect();
    if let Some(density) = &mut scan.density {
        *density =
            kept.iter().flat_map(|&shot| &density[shot * length..][..length]).copied().collect();
    }
    scan.samples = samples;
    scan.trajectory = Trajectory::new(kept.len(), length, rank, points)?;
    scan.findings.push(Finding::new(format!(
        "{missing} of {shots} readouts hold nothing but zeros and are left out"
    )));
    Ok(())
}

fn empty_coils(scan: &mut Scan) -> Result<()> {
    let len = scan.len();
    let is_empty = |samples: &[Complex<f32>]| samples.iter().all(|v| v.norm_sqr() == 0.0);
    let empty: Vec<usize> = scan
        .samples
        .chunks(len)
        .enumerate()
        .filter(|(_, samples)| is_empty(samples))
        .map(|(coil, _)| coil)
        .collect();
    if !empty.is_empty() {
        scan.findings.push(Finding::new(format!(
            "coils {empty:?} hold nothing but zeros: were they unplugged?"
        )));
    }
    let enough = if scan.matrix.len() == 2 { 6 } else { 8 };
    if scan.coils < enough {
        scan.findings.push(Finding::new(format!(
            "{} coil(s): gridding kernels live on differences between coils, and take {enough} or more in {} \
             dimensions; compare with `--method nufft`",
            scan.coils,
            scan.matrix.len()
        )));
    }
    Ok(())
}

/// The signal is largest at the centre of k-space.
fn centre(scan: &mut Scan) {
    let (len, rank) = (scan.len(), scan.trajectory.rank());
    let power = |i: usize| -> f64 {
        (0..scan.coils).map(|c| f64::from(scan.samples[c * len + i].norm_sqr())).sum()
    };
    let distance = |i: usize| -> f64 {
        scan.trajectory.points()[i * rank..][..rank].iter().map(|k| k * k).sum::<f64>().sqrt()
    };
    // the thousandth of the samples with the most energy
    let mut order: Vec<usize> = (0..len).collect();
    let powers: Vec<f64> = (0..len).map(power).collect();
    order.sort_by(|&a, &b| powers[b].total_cmp(&powers[a]));
    let peak = &order[..(len / 1000).max(1)];
    let mean = peak.iter().map(|&i| distance(i)).sum::<f64>() / peak.len() as f64;
    let reach = scan.matrix.iter().copied().max().unwrap_or(0) as f64 / 2.0;
    if mean > 0.1 * reach {
        scan.findings.push(Finding::new(format!(
            "the largest samples lie {mean:.1} cycles per field of view from the centre of k-space: are \
             readouts and trajectory in the same order, or is the readout delayed?"
        )));
    }
    // spokes and other readouts that pass the centre within: echo against k = 0
    let length = scan.trajectory.samples();
    let delays: Vec<f64> = (0..scan.trajectory.shots())
        .filter_map(|shot| {
            let at = |i: usize| shot * length + i;
            let nearest =
                (0..length).min_by(|&a, &b| distance(at(a)).total_cmp(&distance(at(b))))?;
            let echo = (0..length).max_by(|&a, &b| powers[at(a)].total_cmp(&powers[at(b)]))?;
            let inside = (length / 8..length - length / 8).contains(&nearest);
            (inside && distance(at(nearest)) < 1.0).then(|| distance(at(echo)))
        })
        .collect();
    let mut sorted = delays;
    sorted.sort_by(f64::total_cmp);
    if let Some(median) = sorted.get(sorted.len() / 2).filter(|median| **median > 2.0) {
        scan.findings.push(Finding::new(format!(
            "echoes lie {median:.1} cycles per field of view off the centre of k-space: gradients and receiver are \
             not aligned in time, or the trajectory is shifted"
        )));
    }
}

/// How much of k-space was sampled.
fn coverage(scan: &mut Scan) {
    let rank = scan.trajectory.rank();
    for (axis, &size) in scan.matrix.iter().enumerate() {
        let points = scan.trajectory.points().iter().skip(axis).step_by(rank);
        let (low, high) = points.fold((0f64, 0f64), |(low, high), &k| (low.min(k), high.max(k)));
        let covered = low.abs().max(high) / (size as f64 / 2.0);
        if covered < 0.8 {
            scan.findings.push(Finding::new(format!(
                "the trajectory covers {:.0} % of k-space along axis {axis}: the image is no sharper than {:.0} \
                 voxels, or `scan.unit` or `scan.matrix` are wrong",
                100.0 * covered,
                covered * size as f64
            )));
        } else if low.abs().min(high) < 0.7 * low.abs().max(high) {
            scan.findings.push(Finding::new(format!(
                "along axis {axis} positions run from {low:.1} to {high:.1}: half of k-space is missing, or positions \
                 count from its edge"
            )));
        }
    }
}

/// What the way of the readouts says of kernels.
#[must_use]
pub(crate) fn geometry(geometry: &Geometry, trajectory: &Trajectory) -> Vec<Finding> {
    let report = geometry.report();
    let mut findings = Vec::new();
    // samples that were moved to the grid step from point to point, and need no kernels
    let there = |(k, target): (&f64, &f64)| (k - target).abs() < 1e-6;
    let on_grid = trajectory.points().iter().zip(geometry.targets()).all(there);
    if report.wide_gaps > 0 && !on_grid {
        findings.push(Finding::new(format!(
            "{} steps between samples are longer than one cycle per field of view (the longest {:.2}): values between \
             them are not known; was the readout decimated, or are samples in another order than positions?",
            report.wide_gaps, report.largest_gap
        )));
    }
    findings
}
