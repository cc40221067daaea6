//! Images that reference programs made of simulated data sets, and what they say of their quality.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use limpid_losses::metrics::{Image as View, Normaliser, SsimSpec, nrmse, psnr, ssim};
use limpid_mri::{
    Calibration, ClosedForm, Complex, FieldMethod, FieldOperator, FieldShift, FieldSign, Geometry,
    GeometryConfig, GrappaOperators, GridOperator, Kernels, Operator, ReadoutInterpolation,
    Segments, Trajectory, Weighted, power_iteration, segment_centres,
};
use serde_json::Value;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, relative, text};
use super::mri::dims;
use super::mri_data::{Coils, Image, Problem, Steps, beside, distance, near, single, stem};

/// Of images, as the reference advises.
pub(super) const IMAGE: f64 = 5e-3;
/// Of its own transform, which is a window of four points on a grid of 1.25 times the size: it is off by
/// about as much as noise.
const COARSE: f64 = 1e-2;
/// Of gridded samples: the reference fits kernels to maps of every fourth voxel, of which the last lies
/// elsewhere. With those samples agree within 1e-5.
const GRIDDED: f64 = 2e-3;
/// Of distances from the truth.
const NRMSE: Tolerance = absolute(1e-3);
const DECIBEL: Tolerance = absolute(0.1);
const SSIM: Tolerance = absolute(5e-3);
/// Of distances of gridded samples from the truth.
const SAMPLES: Tolerance = relative(2e-2);
/// How far the largest eigenvalue of the reference may be below: its power iteration ends early, wherever its
/// random beginning has led, and what that gives is never above.
const BELOW: f64 = 0.15;
/// How far it may be above.
const ROUNDED: f64 = 1e-4;

/// Steps of a power iteration that reach it.
const POWER: usize = 200;
/// Regularisation of the kernels.
const GROG: f64 = 1e-3;
const CLOSED: f64 = 1e-3;

/// Samples that kernels moved to a grid.
pub(super) struct Gridded {
    pub(super) targets: Vec<f64>,
    /// Points of the grid per cycle per field of view.
    pub(super) oversampling: f64,
    pub(super) samples: Image,
}

impl Gridded {
    fn operator(&self, coils: &Coils) -> Result<GridOperator<f32>, String> {
        GridOperator::new(&self.targets, &coils.dims, self.oversampling).map_err(text)
    }

    /// Their image; with segments, of an object with a field.
    pub(super) fn image(
        &self,
        coils: &Coils,
        weights: &[f32],
        segments: Option<Segments<f32>>,
        steps: Steps,
    ) -> Result<Image, String> {
        let (grid, weights) = (self.operator(coils)?, weights.to_vec());
        let samples = self.samples.clone();
        let Some(segments) = segments else {
            let weighted = Weighted::on_grid(grid, weights).map_err(text)?;
            return coils.image(weighted, samples, steps);
        };
        let operator = FieldOperator::new(grid, segments).map_err(text)?;
        coils.image(Weighted::new(operator, weights).map_err(text)?, samples, steps)
    }

    /// How far they are from those of the object.
    pub(super) fn error(
        &self,
        problem: &Problem,
        segments: Option<Segments<f32>>,
    ) -> Result<f64, String> {
        let grid = self.operator(&problem.coils)?;
        let mut exact = vec![Complex::default(); self.samples.len()];
        match segments {
            None => problem.coils.see(grid)?.forward(&problem.truth, &mut exact),
            Some(segments) => {
                let operator = FieldOperator::new(grid, segments).map_err(text)?;
                problem.coils.see(operator)?.forward(&problem.truth, &mut exact);
            }
        }
        Ok(distance(&self.samples, &exact))
    }
}

/// Sources and targets of samples: so many sources, so far apart, interpolated along the readout.
pub(super) fn geometry(
    trajectory: &Trajectory,
    times: &[f64],
    (num_inputs, kern_width): (usize, f64),
    oversamp_grid: f64,
) -> Result<Geometry, String> {
    let readout = ReadoutInterpolation::Upsampled;
    let config = GeometryConfig { num_inputs, kern_width, oversamp_grid, readout, grid: true };
    Geometry::new(trajectory, times, &config).map_err(text)
}

/// Moves samples by operators that are fitted to the middle of k-space.
pub(super) fn by_operators(
    trajectory: &Trajectory,
    (coils, region, kcal): (usize, &[usize], &[Complex<f32>]),
    samples: &[Complex<f32>],
    oversampling: f64,
) -> Result<Gridded, String> {
    let operators = GrappaOperators::fit(coils, region, kcal, GROG).map_err(text)?;
    let times = vec![0.0; trajectory.samples()];
    let config = GeometryConfig {
        num_inputs: 1,
        kern_width: 0.0,
        oversamp_grid: oversampling,
        ..GeometryConfig::default()
    };
    let geometry = Geometry::new(trajectory, &times, &config).map_err(text)?;
    let samples = operators.grid(samples, &geometry).map_err(text)?;
    Ok(Gridded { targets: geometry.targets().to_vec(), oversampling, samples })
}

/// Moves samples by kernels of least squares of five sources.
pub(super) fn by_closed_form(
    trajectory: &Trajectory,
    calibration: &Calibration<f32>,
    samples: &[Complex<f32>],
    oversampling: f64,
    lam: f64,
) -> Result<Gridded, String> {
    // times count for fields only
    let times = vec![0.0; trajectory.samples()];
    let geometry = geometry(trajectory, &times, (5, 2.0), oversampling)?;
    let kernels = ClosedForm::new(calibration, &geometry, lam).map_err(text)?;
    let samples = kernels.grid(samples, &geometry).map_err(text)?;
    Ok(Gridded { targets: geometry.targets().to_vec(), oversampling, samples })
}

/// What our functions make of a data set.
struct Found {
    image: Image,
    gridded: Option<Gridded>,
}

impl From<Image> for Found {
    fn from(image: Image) -> Self {
        Self { image, gridded: None }
    }
}

impl Problem {
    fn closed_form(&self, samples: &str, oversampling: f64) -> Result<Gridded, String> {
        let Coils { count, dims, maps } = &self.coils;
        let maps = Calibration::new(*count, dims, maps.clone()).map_err(text)?;
        let samples = self.noisy(samples)?;
        by_closed_form(&self.trajectory, &maps, &samples, oversampling, CLOSED)
    }

    fn grog(&self, oversampling: f64) -> Result<Gridded, String> {
        let region = &dims(&self.common, "kcal_clean")?[1..];
        let kcal = self.calibration()?;
        let calibration = (self.coils.count, region, &kcal[..]);
        by_operators(&self.trajectory, calibration, &self.noisy("ksp_clean")?, oversampling)
    }

    fn of_gridded(&self, gridded: Gridded, steps: Steps) -> Result<Found, String> {
        let image = gridded.image(&self.coils, &self.weights, None, steps)?;
        Ok(Found { image, gridded: Some(gridded) })
    }

    /// By the transform to samples anywhere.
    fn of_nufft(&self, samples: Image, steps: Steps) -> Result<Found, String> {
        let weighted = self.coils.nufft(&self.trajectory, self.weights.clone())?;
        Ok(self.coils.image(weighted, samples, steps)?.into())
    }

    /// As [`Problem::of_nufft`], with the field in segments.
    fn of_segments(&self, segments: Segments<f32>, steps: Steps) -> Result<Found, String> {
        let operator = FieldOperator::new(self.nufft()?, segments).map_err(text)?;
        let weighted = Weighted::new(operator, self.weights.clone()).map_err(text)?;
        Ok(self.coils.image(weighted, self.noisy("ksp_b0_clean")?, steps)?.into())
    }

    /// By kernels that move the phase of the field to the centre of each segment.
    fn of_moved(&self, terms: usize, steps: Steps) -> Result<Found, String> {
        let Coils { count, dims, maps } = &self.coils;
        let maps = Calibration::new(*count, dims, maps.clone()).map_err(text)?;
        let geometry = geometry(&self.trajectory, &self.times, (5, 2.0), 1.0)?;
        let centres = segment_centres(&self.times, terms).map_err(text)?;
        let centres: Vec<f64> = centres.into_iter().cycle().take(geometry.len()).collect();
        let shift = FieldShift { field: &self.field, times: &centres };
        let kernels = ClosedForm::with_field(&maps, &geometry, CLOSED, shift, FieldSign::Negative);
        let samples = self.noisy("ksp_b0_clean")?;
        let samples = kernels.and_then(|k| k.grid(&samples, &geometry)).map_err(text)?;
        let gridded = Gridded { targets: geometry.targets().to_vec(), oversampling: 1.0, samples };
        let segments = self.segments(terms, FieldMethod::ZeroOrder)?;
        Ok(gridded.image(&self.coils, &self.weights, Some(segments), steps)?.into())
    }

    /// What is called `key`.
    fn found(&self, key: &str, iterations: usize) -> Result<Found, String> {
        let unknown = || format!("the file has an image that no function claims: `{key}`");
        let default = Steps::plain(iterations);
        let steps = |cg: &str| {
            let iterations = number(cg, "cg").ok_or_else(unknown)?;
            Ok::<_, String>(Steps::plain(iterations))
        };
        let os = |part: &str| number(part, "os").ok_or_else(unknown);
        let found = match key.split('_').collect::<Vec<_>>()[..] {
            ["nufft", cg, "clean"] => {
                self.of_nufft(single(&self.scan, "ksp_clean")?, steps(cg)?)?
            }
            ["nufft", cg] | ["sigpy", "SenseRecon", cg] => {
                self.of_nufft(self.noisy("ksp_clean")?, steps(cg)?)?
            }
            ["grog", part] => self.of_gridded(self.grog(os(part)?)?, default)?,
            ["igrog", "closed", part] => {
                self.of_gridded(self.closed_form("ksp_clean", os(part)?)?, default)?
            }
            ["b0", "uncorrected", "nufft"] => {
                self.of_nufft(self.noisy("ksp_b0_clean")?, default)?
            }
            ["b0", segments, method, "nufft"] => {
                let terms = number(segments, "timeseg").ok_or_else(unknown)?;
                let method = match method {
                    "zero" => FieldMethod::ZeroOrder,
                    "lstsq" => FieldMethod::LeastSquares,
                    _ => return Err(unknown()),
                };
                self.of_segments(self.segments(terms, method)?, default)?
            }
            ["b0", "igrog", "closed", segments] => {
                self.of_moved(number(segments, "L").ok_or_else(unknown)?, default)?
            }
            _ => return Err(unknown()),
        };
        Ok(found)
    }

    /// Compares what the reference says of an image.
    fn compare(
        &self,
        worst: &mut Worst,
        key: &str,
        found: &Found,
        expected: &BTreeMap<String, f64>,
    ) -> Result<(), String> {
        quality(worst, key, &found.image, self, expected)?;
        if let Some(&expected) = expected.get("ksp_err") {
            let gridded = found.gridded.as_ref().ok_or("only gridded samples have an error")?;
            let got = gridded.error(self, None)?;
            worst.compare(&format!("{key}: ksp_err"), &[got], &[expected], SAMPLES);
        }
        if let Some(&expected) = expected.get("lmax") {
            let weighted = self.coils.nufft(&self.trajectory, self.weights.clone())?;
            bounded(worst, &format!("{key}: lmax"), &self.coils.see(weighted)?, expected)?;
        }
        Ok(())
    }
}

/// Compares the largest eigenvalue of a normal map with what a few steps of a power iteration gave.
pub(super) fn bounded(
    worst: &mut Worst,
    what: &str,
    operator: &impl Operator<f32>,
    expected: f64,
) -> Result<(), String> {
    let largest = power_iteration(operator, POWER, 1e-7).map_err(text)?;
    let below = 1.0 - expected / largest;
    let holds = (-ROUNDED..=BELOW).contains(&below);
    worst.require(&format!("{what} is {expected} instead of little below {largest}"), holds);
    Ok(())
}

/// The number behind `prefix`.
pub(super) fn number<T: std::str::FromStr>(part: &str, prefix: &str) -> Option<T> {
    part.strip_prefix(prefix)?.parse().ok()
}

/// Compares the qualities of an image, of those that have names here.
pub(super) fn quality(
    worst: &mut Worst,
    what: &str,
    image: &[Complex<f32>],
    problem: &Problem,
    expected: &BTreeMap<String, f64>,
) -> Result<(), String> {
    let (truth, dims) = (&problem.truth, &problem.coils.dims[..]);
    let magnitudes = |image: &[Complex<f32>]| image.iter().map(|v| v.norm()).collect::<Vec<f32>>();
    let (pred, gt) = (magnitudes(image), magnitudes(truth));
    let (pred, gt) =
        (View::new(&pred[..], dims).map_err(text)?, View::new(&gt[..], dims).map_err(text)?);
    let range = gt.extremes().1;
    for (name, &expected) in expected {
        let (got, tolerance) = match name.as_str() {
            "nrmse" => (distance(image, truth), NRMSE),
            "nrmse_scaled" => (distance(&fitted(image, truth), truth), NRMSE),
            "nrmse_mag" => (nrmse(&pred, &gt, Normaliser::Euclidean).map_err(text)?, NRMSE),
            "psnr" => (psnr(&pred, &gt, range).map_err(text)?, DECIBEL),
            "ssim" => (ssim(&pred, &gt, range, &SsimSpec::WANG).map_err(text)?, SSIM),
            // of the operators, and the time of a computer
            "ksp_err" | "lmax" | "cpu_s" | "grid_cpu_s" => continue,
            _ => return Err(format!("{what} has a quality that no function claims: `{name}`")),
        };
        worst.compare(&format!("{what}: {name}"), &[got], &[expected], tolerance);
    }
    Ok(())
}

/// The image times the complex number that brings it nearest to the truth.
fn fitted(image: &[Complex<f32>], truth: &[Complex<f32>]) -> Image {
    let wide = |v: &Complex<f32>| Complex::new(f64::from(v.re), f64::from(v.im));
    let along: Complex<f64> = image.iter().zip(truth).map(|(x, t)| wide(x).conj() * wide(t)).sum();
    let factor = along / image.iter().map(|x| wide(x).norm_sqr()).sum::<f64>();
    let factor = Complex::new(factor.re as f32, factor.im as f32);
    image.iter().map(|x| x * factor).collect()
}

/// What the JSON files beside the images of `path` say, the one that is named most alike first.
pub(super) fn results(path: &Path) -> Result<Vec<Value>, String> {
    let at = |e: std::io::Error| format!("{e}: beside `{}`", path.display());
    let own = stem(path);
    let rank = |file: &Path| {
        let name = stem(file);
        let name = name.strip_prefix("results")?.trim_start_matches('_');
        Some(if name.is_empty() { 1 } else { 2 * usize::from(!own.contains(name)) })
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path.with_file_name("")).map_err(at)? {
        let file = entry.map_err(at)?.path();
        if file.extension().is_some_and(|ending| ending == "json") {
            files.extend(rank(&file).map(|rank| (rank, file)));
        }
    }
    files.sort();
    let read = |(_, file): (usize, std::path::PathBuf)| {
        let bytes = std::fs::read(&file).map_err(at)?;
        serde_json::from_slice(&bytes).map_err(|e| format!("{e}: `{}`", file.display()))
    };
    files.into_iter().map(read).collect()
}

/// The numbers of an entry.
fn numbers(entry: &Value) -> BTreeMap<String, f64> {
    let entries = entry.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

/// Qualities of images by name, at `path` of one of the JSON files.
fn qualities(results: &[Value], key: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
    let found = results.iter().find_map(|file| file.get(key)?.as_object());
    let entries = found.into_iter().flatten();
    entries.map(|(name, entry)| (name.clone(), numbers(entry))).collect()
}

/// How many iterations the settings of a file name.
fn iterations(fixture: &Fixture) -> Result<usize, String> {
    let settings: String = fixture.meta("settings")?;
    let behind = settings.split("CG ").nth(1).and_then(|rest| rest.split(' ').next());
    let number = behind.and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("the settings say no number of iterations: {settings}"))
}

/// `<object>_<trajectory>_recon`: images, and their qualities in JSON beside it.
pub(super) fn images(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let problem = Problem::load(&beside(&fixture.path, "")?)?;
    let iterations = iterations(fixture)?;
    let trajectory: String = problem.scan.meta("traj")?;
    let qualities = qualities(&results(&fixture.path)?, &trajectory);
    let keys = fixture.names().chain(qualities.keys().map(String::as_str));
    // gridded samples are compared with the images that are made of them
    let keys: BTreeSet<&str> = keys.filter(|key| !key.starts_with("ksp_grid_")).collect();
    for key in keys {
        let found = problem.found(key, iterations)?;
        let tolerance = if key.starts_with("sigpy") { COARSE } else { IMAGE };
        near(&mut worst, key, &found.image, &single(fixture, key)?, tolerance);
        let samples = format!("ksp_grid_{key}");
        if let (Some(gridded), true) = (&found.gridded, fixture.tensors.contains_key(&samples)) {
            let expected = single(fixture, &samples)?;
            near(&mut worst, &samples, &gridded.samples, &expected, GRIDDED);
        }
        if let Some(expected) = qualities.get(key) {
            problem.compare(&mut worst, key, &found, expected)?;
        }
    }
    worst.done()
}

/// `<object>_recon_b0_gridonly_lstsq<terms>`: samples under a field that kernels without one moved, and
/// then segments on the grid.
pub(super) fn field_free(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let name = stem(&fixture.path);
    let (object, rest) = name.split_once("_recon_").unwrap_or((&name, ""));
    let terms = rest.rsplit('_').next().and_then(|part| number(part, "lstsq"));
    let terms = terms.ok_or_else(|| format!("`{name}` does not say the number of segments"))?;
    let results = results(&fixture.path)?;
    for key in fixture.names() {
        let unknown = || format!("the file has an image that no function claims: `{key}`");
        let (trajectory, os) = key.rsplit_once("_os").ok_or_else(unknown)?;
        let sibling = |end: &str| {
            fixture.path.with_file_name(format!("{object}_{trajectory}{end}.safetensors"))
        };
        let problem = Problem::load(&sibling(""))?;
        // the file does not say it, but the one of the other images does
        let iterations = iterations(&Fixture::load(&sibling("_recon"))?)?;
        let gridded = problem.closed_form("ksp_b0_clean", os.parse().map_err(text)?)?;
        let segments = problem.segments(terms, FieldMethod::LeastSquares)?;
        let steps = Steps::plain(iterations);
        let image = gridded.image(&problem.coils, &problem.weights, Some(segments), steps)?;
        near(&mut worst, key, &image, &single(fixture, key)?, IMAGE);
        if let Some(entry) = results.iter().find_map(|file| file.get(key)) {
            quality(&mut worst, key, &image, &problem, &numbers(entry))?;
        }
    }
    worst.done()
}
