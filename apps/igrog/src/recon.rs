//! From samples to the image: the operator of a method, and the solver.

use crate::config::{Config, Correction, FieldConfig, KernelGeometry, KernelsConfig, Sign};
use crate::error::{Error, Result};
use crate::grogify::{Gridded, KernelChoice, grogify};
use crate::learn::{Phase, TrainedKernels};
use crate::prepare::Prepared;
use crate::scan::Finding;
use limpid_config::{Check, Validate};
use limpid_mri::{
    Complex, ConjugateGradient, FieldMethod, FieldOperator, FieldPhase, Fista, GeometryConfig,
    GrappaOperators, GridOperator, Nufft, Operator, Prox, Segments, Sense, Shift, Step,
    TotalVariation, Wavelet, WaveletThreshold, Weighted, conjugate_gradient, fista,
    power_iteration, segment_centres,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::time::Instant;

/// How the image is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SolverConfig {
    /// Conjugate gradients on the normal equations.
    Cg {
        /// The most iterations.
        #[serde(default = "ten")]
        iterations: usize,
        /// Weight of the squared image, relative to the largest eigenvalue of the normal map.
        #[serde(default)]
        lambda: f64,
        /// Ends where the residual, relative to that of zero, is not above it.
        #[serde(default)]
        tolerance: f64,
    },
    /// FISTA with soft thresholds of wavelet coefficients (Lustig et al., MRM 2007).
    Wavelet {
        /// The most iterations.
        #[serde(default = "thirty")]
        iterations: usize,
        /// Threshold, relative to the largest magnitude of the first image.
        #[serde(default = "milli")]
        threshold: f64,
        /// Ends where the relative change of the image is not above it.
        #[serde(default = "milli")]
        tolerance: f64,
    },
    /// FISTA with total variation (Block et al., MRM 2007).
    TotalVariation {
        /// The most iterations.
        #[serde(default = "thirty")]
        iterations: usize,
        /// Threshold, relative to the largest magnitude of the first image.
        #[serde(default = "milli")]
        threshold: f64,
        /// Ends where the relative change of the image is not above it.
        #[serde(default = "milli")]
        tolerance: f64,
    },
}

fn ten() -> usize {
    10
}

fn thirty() -> usize {
    30
}

fn milli() -> f64 {
    1e-3
}

impl Default for SolverConfig {
    fn default() -> Self {
        Self::Cg { iterations: 10, lambda: 0.0, tolerance: 0.0 }
    }
}

impl SolverConfig {
    /// The most iterations.
    #[must_use]
    pub fn iterations(&self) -> usize {
        match *self {
            Self::Cg { iterations, .. }
            | Self::Wavelet { iterations, .. }
            | Self::TotalVariation { iterations, .. } => iterations,
        }
    }
}

impl Validate for SolverConfig {
    fn validate(&self, at: &mut Check) {
        if !(1..=10_000).contains(&self.iterations()) {
            at.problem("iterations", format!("must be 1 to 10000, got {}", self.iterations()));
        }
        let numbers = match *self {
            Self::Cg { lambda, tolerance, .. } => [("lambda", lambda), ("tolerance", tolerance)],
            Self::Wavelet { threshold, tolerance, .. }
            | Self::TotalVariation { threshold, tolerance, .. } => {
                [("threshold", threshold), ("tolerance", tolerance)]
            }
        };
        for (key, value) in numbers {
            if !(value >= 0.0 && value.is_finite()) {
                at.problem(key, format!("must be 0 or more, got {value}"));
            }
        }
    }
}

/// How samples become an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Non-uniform transforms of the samples as they are
    Nufft,
    /// Samples moved by GRAPPA operators of one source, then transforms on the grid
    Grog,
    /// Samples moved by kernels of several sources, then transforms on the grid
    Igrog,
    /// Samples taken to the nearest points of the grid
    Nearest,
}

impl Method {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nufft => "nufft",
            Self::Grog => "grog",
            Self::Igrog => "igrog",
            Self::Nearest => "nearest",
        }
    }
}

/// Relative error of the non-uniform transform.
const TOLERANCE: f64 = 1e-5;

/// An image, and how it was found.
pub struct Reconstruction {
    /// The image, `[matrix…]`.
    pub image: Vec<Complex<f32>>,
    /// Seconds that moving the samples to the grid took, or planning the transform.
    pub gridding: f64,
    /// Seconds of the solver.
    pub solving: f64,
    /// What the solver's tolerance is compared with, after each iteration.
    pub residuals: Vec<f64>,
    /// `‖√W (A x − y)‖ / ‖√W y‖`: how much of the samples the image does not explain.
    pub misfit: f64,
    /// What the user should know.
    pub findings: Vec<Finding>,
}

/// The samples of a scan on the grid.
///
/// # Errors
/// If kernels, geometry and coils do not go together.
pub fn grid(
    prepared: &Prepared,
    config: &Config,
    method: Method,
    trained: Option<TrainedKernels>,
) -> Result<Gridded> {
    let scan = &prepared.scan;
    let one = GeometryConfig { num_inputs: 1, kern_width: 0.0, ..config.geometry.config() };
    let kernels = match (method, config.kernels) {
        (Method::Grog, own @ KernelsConfig::Grog { .. }) => own,
        (Method::Grog, _) => KernelsConfig::Grog { lam: 1e-4 },
        (Method::Nearest, _) => KernelsConfig::Nearest {},
        (_, own) => own,
    };
    let phase = phase(prepared, &config.field, method)?;
    let moved = |geometry: &GeometryConfig, calibration, choice| {
        grogify(
            &scan.trajectory,
            &scan.times,
            &scan.samples,
            calibration,
            geometry,
            choice,
            phase.as_ref(),
        )
    };
    if let Some(trained) = trained.filter(|_| method == Method::Igrog) {
        if trained.coils() != scan.coils {
            let message = format!(
                "the network is for {} coils, the scan has {}",
                trained.coils(),
                scan.coils
            );
            let hint = "train it on this scan, with the same `coils.compress`";
            return Err(Error::scan(message, hint));
        }
        let own = &trained.card.geometry;
        if config.geometry != *own && config.geometry != KernelGeometry::default() {
            let message = "`geometry` is another than that of the network";
            let hint = "leave its keys out: a network has the geometry that it was trained for";
            return Err(Error::scan(message, hint));
        }
        let geometry = own.config();
        let trained = trained.with_phase(phase.clone())?;
        return moved(&geometry, None, KernelChoice::Trained(&trained));
    }
    match kernels {
        KernelsConfig::ClosedForm { lam, from } => {
            let calibration = prepared.calibration(from)?;
            let choice = KernelChoice::ClosedForm { lam };
            moved(&config.geometry.config(), Some(&calibration), choice)
        }
        KernelsConfig::Grog { lam } => {
            let (sizes, kspace) = prepared.region()?;
            let operators = GrappaOperators::fit(scan.coils, sizes, kspace, lam)?;
            moved(&one, None, KernelChoice::Grog(&operators))
        }
        KernelsConfig::Nearest {} => {
            // samples that are on a grid already stay there
            let oversamp_grid = scan.oversampling.unwrap_or(one.oversamp_grid);
            moved(&GeometryConfig { oversamp_grid, ..one }, None, KernelChoice::Nearest)
        }
    }
}

/// The field of a scan as kernels move it, if they are to.
///
/// # Errors
/// If the times of the samples are not known.
pub fn phase(prepared: &Prepared, config: &FieldConfig, method: Method) -> Result<Option<Phase>> {
    let scan = &prepared.scan;
    let Some(field) = scan.field.as_ref().filter(|_| config.correct == Correction::Kernels) else {
        return Ok(None);
    };
    if method != Method::Igrog {
        return Ok(None);
    }
    timed(prepared)?;
    let sign = if config.sign == Sign::Negative { 1.0 } else { -1.0 };
    let centres = segment_centres(&scan.times, terms(prepared, config, &seen(prepared))?)?;
    let all = |times: &[f64]| times.iter().copied().cycle().take(scan.len()).collect();
    Ok(Some(Phase {
        sign: config.sign,
        field: field.iter().map(|b| sign * b).collect(),
        times: all(&scan.times),
        targets: all(&centres),
        span: 2.0 * field.iter().fold(0f64, |most, b| most.max(b.abs())),
    }))
}

fn timed(prepared: &Prepared) -> Result<()> {
    if prepared.scan.timed {
        return Ok(());
    }
    Err(Error::scan(
        "the scan has a field, but the times of its samples are not known",
        "give `scan.times`, or `scan.dwell` in seconds from sample to sample; `field.correct = \"none\"` leaves the \
         field alone",
    ))
}

/// Finds the image.
///
/// # Errors
/// If parts of the scan do not go together, or numbers are not finite.
pub fn reconstruct(
    prepared: &Prepared,
    config: &Config,
    method: Method,
    trained: Option<TrainedKernels>,
    observe: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Reconstruction> {
    let scan = &prepared.scan;
    let few: Vec<Finding> = too_few(prepared, &config.field).into_iter().collect();
    let is_classical = match method {
        Method::Grog => true,
        Method::Igrog => trained.is_none() && matches!(config.kernels, KernelsConfig::Grog { .. }),
        _ => false,
    };
    if is_classical {
        // what the scan lacks is not the gridding's time
        prepared.region()?;
    }
    let began = Instant::now();
    if method == Method::Nufft {
        let (trajectory, matrix) = (&scan.trajectory, &scan.matrix);
        let weights = prepared.weights.clone();
        let segments = segments(prepared, &config.field, method)?;
        let weighted = match &segments {
            // a field has no convolution for a normal map
            Some(_) => Weighted::new(Nufft::new(trajectory, matrix, TOLERANCE)?, weights)?,
            None => Weighted::toeplitz(trajectory, weights, matrix, TOLERANCE)?,
        };
        let samples = scan.samples.clone();
        return solve(prepared, config, weighted, samples, segments, (began, few), observe);
    }
    let Gridded { geometry, oversampling, samples, mut findings, .. } =
        grid(prepared, config, method, trained)?;
    findings.extend(few);
    let operator = GridOperator::new(geometry.targets(), &scan.matrix, oversampling)?;
    let weighted = Weighted::on_grid(operator, prepared.weights.clone())?;
    let segments = segments(prepared, &config.field, method)?;
    solve(prepared, config, weighted, samples, segments, (began, findings), observe)
}

/// The products that stand for the phase of the scan's field, if it is to be corrected.
fn segments(
    prepared: &Prepared,
    config: &FieldConfig,
    method: Method,
) -> Result<Option<Segments<f32>>> {
    let scan = &prepared.scan;
    let Some(field) = scan.field.as_ref().filter(|_| config.correct != Correction::Nothing) else {
        return Ok(None);
    };
    timed(prepared)?;
    let seen = seen(prepared);
    let terms = terms(prepared, config, &seen)?;
    let phase = FieldPhase::off_resonance(field, &scan.times, config.sign.into())?;
    let phase = phase.with_weights(seen)?;
    let by_kernels = config.correct == Correction::Kernels && method == Method::Igrog;
    let method = if by_kernels { FieldMethod::ZeroOrder } else { config.method.into() };
    Ok(Some(Segments::new(&phase, terms, method, config.nodes)?))
}

/// By how many turns the field turns voxels that are seen apart, over a readout.
fn turns(prepared: &Prepared, seen: &[f64]) -> f64 {
    let scan = &prepared.scan;
    let duration = scan.times.last().unwrap_or(&0.0) - scan.times.first().unwrap_or(&0.0);
    let ends = (f64::INFINITY, f64::NEG_INFINITY);
    let field = scan.field.iter().flatten().zip(seen).filter(|(_, seen)| **seen > 0.0);
    let (low, high) = field.fold(ends, |(low, high), (&b, _)| (low.min(b), high.max(b)));
    ((high - low) * duration).max(0.0)
}

/// Turns that no scan has: the field or the times are in another unit.
const MOST_TURNS: f64 = 100.0;

/// The number of segments: as the user says, or two for each turn and two more, with which fitted ones are as
/// good as they get.
fn terms(prepared: &Prepared, config: &FieldConfig, seen: &[f64]) -> Result<usize> {
    let turns = turns(prepared, seen);
    if turns > MOST_TURNS {
        let message = format!("the field turns voxels {turns:.0} turns apart over a readout");
        return Err(Error::scan(message, "is the field in hertz, and are times in seconds?"));
    }
    Ok(if config.segments == 0 { needed(turns).min(config.nodes) } else { config.segments })
}

/// Segments with which fitted ones are as good as they get.
fn needed(turns: f64) -> usize {
    (2.0 * turns).ceil() as usize + 2
}

/// Segments that the user set, if the phase turns more often than those can follow.
pub(crate) fn too_few(prepared: &Prepared, config: &FieldConfig) -> Option<Finding> {
    if config.correct == Correction::Nothing || config.segments == 0 {
        return None;
    }
    let turns = turns(prepared, &seen(prepared));
    // fewer terms cannot follow such a phase at all
    (turns + 1.0 > config.segments as f64).then(|| Finding {
        message: format!(
            "the field turns voxels {turns:.1} turns apart over a readout, which {} segments cannot follow: set \
             `field.segments` to {}, or to 0 for as many as it takes",
            config.segments,
            needed(turns)
        ),
    })
}

/// One where a coil sees a voxel, and zero elsewhere.
fn seen(prepared: &Prepared) -> Vec<f64> {
    let voxels = prepared.scan.voxels();
    let seen = |v: usize| prepared.maps.iter().skip(v).step_by(voxels).any(|m| m.norm_sqr() > 0.0);
    (0..voxels).map(|v| if seen(v) { 1.0 } else { 0.0 }).collect()
}

fn solve<O: Operator<f32> + Sync>(
    prepared: &Prepared,
    config: &Config,
    weighted: Weighted<f32, O>,
    mut samples: Vec<Complex<f32>>,
    segments: Option<Segments<f32>>,
    (began, findings): (Instant, Vec<Finding>),
    observe: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Reconstruction>
where
    Weighted<f32, O>: Operator<f32>,
{
    weighted.weigh(&mut samples)?;
    let (maps, coils) = (prepared.maps.clone(), prepared.scan.coils);
    let gridding = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let matrix = &prepared.scan.matrix;
    let found = match segments {
        Some(segments) => {
            let operator = FieldOperator::new(weighted, segments)?;
            let operator = Sense::new(operator, coils, matrix, maps)?;
            run(&operator, &samples, matrix, &config.solver, observe)?
        }
        None => {
            let operator = Sense::new(weighted, coils, matrix, maps)?;
            run(&operator, &samples, matrix, &config.solver, observe)?
        }
    };
    let solving = began.elapsed().as_secs_f64();
    let Found { image, residuals, misfit } = found;
    Ok(Reconstruction { image, gridding, solving, residuals, misfit, findings })
}

/// What a solver found.
struct Found {
    image: Vec<Complex<f32>>,
    residuals: Vec<f64>,
    misfit: f64,
}

/// The part of the samples that an image does not explain.
pub(crate) fn misfit(
    operator: &impl Operator<f32>,
    samples: &[Complex<f32>],
    image: &[Complex<f32>],
) -> f64 {
    let mut explained = vec![Complex::default(); samples.len()];
    operator.forward(image, &mut explained);
    let power = |v: Complex<f32>| f64::from(v.norm_sqr());
    let missing: f64 = samples.iter().zip(&explained).map(|(y, a)| power(y - a)).sum();
    let all: f64 = samples.iter().map(|&y| power(y)).sum();
    (missing / all.max(f64::MIN_POSITIVE)).sqrt()
}

fn run(
    operator: &impl Operator<f32>,
    samples: &[Complex<f32>],
    matrix: &[usize],
    solver: &SolverConfig,
    observe: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Found> {
    let mut right = vec![Complex::default(); operator.domain()];
    operator.adjoint(samples, &mut right);
    let mut image = vec![Complex::default(); right.len()];
    let mut residuals = Vec::new();
    let mut note = |step: Step<'_, f32>| {
        residuals.push(step.residual);
        observe(step.iteration, step.residual)
    };
    let largest = || power_iteration(operator, 15, 1e-3);
    let (mut prox, iterations, threshold, tolerance): (Box<dyn Prox<f32>>, _, _, _) = match *solver
    {
        SolverConfig::Cg { iterations, lambda, tolerance } => {
            let lambda = if lambda > 0.0 { lambda * largest()? } else { 0.0 };
            let settings = ConjugateGradient { lambda, iterations, tolerance };
            conjugate_gradient(operator, &right, &mut image, &settings, &mut note)?;
            return Ok(Found { misfit: misfit(operator, samples, &image), image, residuals });
        }
        SolverConfig::Wavelet { iterations, threshold, tolerance } => {
            let level = matrix.iter().map(|n| n.ilog2() as usize).min().unwrap_or(1);
            let level = level.saturating_sub(3).clamp(1, 4);
            let shift = Shift::Random { seed: 0 };
            let prox = WaveletThreshold::new(Wavelet::Db4, level, 1, matrix, shift)?;
            (Box::new(prox), iterations, threshold, tolerance)
        }
        SolverConfig::TotalVariation { iterations, threshold, tolerance } => {
            let prox = TotalVariation::new(1, matrix, 10)?;
            (Box::new(prox), iterations, threshold, tolerance)
        }
    };
    // a power iteration comes from below, and the step must not be too long
    let lambda_max = largest()? * 1.02;
    let threshold = threshold * peak(&right) / lambda_max;
    let settings = Fista { lambda_max, threshold, iterations, tolerance };
    fista(operator, &right, &mut image, &mut *prox, &settings, &mut note)?;
    Ok(Found { misfit: misfit(operator, samples, &image), image, residuals })
}

fn peak(image: &[Complex<f32>]) -> f64 {
    image.iter().map(|v| f64::from(v.norm_sqr())).fold(0.0, f64::max).sqrt()
}
