//! Data sets of magnetic resonance: an object that coils see, its samples along a trajectory, and the
//! scan of a real one.
//!
//! `<object>_common` holds the object, `<object>_<trajectory>` its samples; what is made of them is named
//! after them and lies in the same folder. Names are free, so files are known by what they hold.

use std::path::{Path, PathBuf};

use limpid_mri::{
    CalibrationConfig, Centre, CentredFft, Complex, ConjugateGradient, EspiritConfig, FieldMethod,
    FieldOperator, FieldPhase, FieldSign, Nufft, Operator, PipeMenonConfig, Segments, Sense,
    Trajectory, Weighted, calibration, conjugate_gradient, crop, espirit, pipe_menon,
    power_iteration, ramp,
};

use super::fixture::{Fixture, Outcome, Worst, absolute, text};
use super::mri::{Numbers, complex, dims, trajectory};
use super::{Handler, mri_networks, mri_real, mri_results};

/// Images and samples in the precision of products.
pub(super) type Image = Vec<Complex<f32>>;

/// The accuracy that transforms in f32 are asked for.
const TRANSFORM: f64 = 1e-6;
/// Of what was computed in f64 and stored in f32, as positions were.
const STORED: f64 = 1e-5;
/// Values to which a field is quantised.
const NODES: usize = 256;
/// Steps of the power iteration of the reference.
const POWER: usize = 15;
/// Products that are more than any field here needs; rounding ends them before.
const EXACT: usize = 128;

/// The handler of a file that is known by what it holds.
pub(super) fn handler(fixture: &Fixture) -> Option<Handler> {
    let has = |names: &[&str]| names.iter().all(|name| fixture.tensors.contains_key(*name));
    let begins = |start: &str| fixture.names().any(|name| name.starts_with(start));
    let stem = stem(&fixture.path);
    Some(match () {
        () if fixture.path.is_dir() => super::mri_formats::formats,
        () if has(&["img", "mps", "kcal_clean"]) => object,
        () if has(&["ksp_clean", "noise_unit", "trj", "dcf"]) => scan,
        () if has(&["ksp_grid", "img", "w.last_re.weight"]) => mri_networks::network,
        () if has(&["ksp", "trj", "dcf", "kcal", "mps_f16"]) => real_scan,
        () if has(&["nufft"]) && stem.ends_with("_recon") => mri_real::images,
        () if begins("nufft_cg") && stem.ends_with("_recon") => mri_results::images,
        () if stem.contains("_recon_b0_gridonly_") => mri_results::field_free,
        () => return None,
    })
}

/// The name of a file without its ending.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file that another is named after: of the same name without some of its last words, and with `end`.
pub(super) fn beside(path: &Path, end: &str) -> Result<PathBuf, String> {
    let name = stem(path);
    let cuts = name.rmatch_indices('_').map(|(at, _)| &name[..at]);
    let mut files = cuts.map(|cut| path.with_file_name(format!("{cut}{end}.safetensors")));
    let found = files.find(|file| file.is_file());
    found.ok_or_else(|| format!("no file beside `{name}` has its name without the last words"))
}

/// A complex array in single precision.
pub(super) fn single(fixture: &Fixture, name: &str) -> Result<Image, String> {
    Ok(complex(fixture, name)?.iter().map(|v| Complex::new(v.re as f32, v.im as f32)).collect())
}

/// Weights of samples.
pub(super) fn weights(fixture: &Fixture) -> Result<Vec<f32>, String> {
    Ok(fixture.values("dcf")?.iter().map(|&w| w as f32).collect())
}

/// `‖a − b‖ / ‖b‖`.
pub(super) fn distance(a: &[Complex<f32>], b: &[Complex<f32>]) -> f64 {
    let wide = |v: &Complex<f32>| Complex::new(f64::from(v.re), f64::from(v.im));
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let apart: f64 = a.iter().zip(b).map(|(a, b)| (wide(a) - wide(b)).norm_sqr()).sum();
    (apart / b.iter().map(|b| wide(b).norm_sqr()).sum::<f64>()).sqrt()
}

/// Coils of a plane or a volume.
pub(super) struct Coils {
    pub(super) count: usize,
    pub(super) dims: Vec<usize>,
    pub(super) maps: Image,
}

/// How an image is found: by steps of conjugate gradients from zero.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub(super) iterations: usize,
    /// Weight of the squared image, relative to the largest eigenvalue. Without it, the scale of weights of
    /// samples does not matter.
    pub(super) lam: f64,
    /// That eigenvalue, where the reference says which it found.
    pub(super) lmax: Option<f64>,
}

impl Steps {
    /// Without regularisation.
    pub(super) fn plain(iterations: usize) -> Self {
        Self { iterations, lam: 0.0, lmax: None }
    }

    fn lambda(&self, operator: &impl Operator<f32>) -> Result<f64, String> {
        match self.lmax {
            _ if self.lam == 0.0 => Ok(0.0),
            Some(lmax) => Ok(self.lam * lmax),
            // as far as the reference went
            None => Ok(self.lam * power_iteration(operator, POWER, 0.0).map_err(text)?),
        }
    }
}

impl Coils {
    /// Coils by their maps.
    pub(super) fn of(fixture: &Fixture, maps: &str) -> Result<Self, String> {
        let (&count, dims) = dims(fixture, maps)?.split_first().ok_or("there are no coils")?;
        Ok(Self { count, dims: dims.to_vec(), maps: single(fixture, maps)? })
    }

    /// An operator on what each coil sees.
    pub(super) fn see<O: Operator<f32>>(&self, operator: O) -> Result<Sense<f32, O>, String> {
        Sense::new(operator, self.count, &self.dims, self.maps.clone()).map_err(text)
    }

    /// The transform to samples anywhere, weighted.
    pub(super) fn nufft(
        &self,
        trajectory: &Trajectory,
        weights: Vec<f32>,
    ) -> Result<Weighted<f32, Nufft<f32>>, String> {
        Weighted::toeplitz(trajectory, weights, &self.dims, TRANSFORM).map_err(text)
    }

    /// The image of weighted samples.
    pub(super) fn image<O: Operator<f32>>(
        &self,
        weighted: Weighted<f32, O>,
        mut samples: Image,
        steps: Steps,
    ) -> Result<Image, String> {
        weighted.weigh(&mut samples).map_err(text)?;
        let sense = self.see(weighted)?;
        let mut right = vec![Complex::default(); sense.domain()];
        sense.adjoint(&samples, &mut right);
        let (iterations, lambda) = (steps.iterations, steps.lambda(&sense)?);
        let settings = ConjugateGradient { lambda, iterations, tolerance: 0.0 };
        let mut image = vec![Complex::default(); right.len()];
        let go_on = |_: limpid_mri::Step<'_, f32>| std::ops::ControlFlow::Continue(());
        conjugate_gradient(&sense, &right, &mut image, &settings, go_on).map_err(text)?;
        Ok(image)
    }
}

/// A simulated object, and its samples along a trajectory.
pub(super) struct Problem {
    pub(super) coils: Coils,
    /// The object.
    pub(super) truth: Image,
    /// Its field in hertz.
    pub(super) field: Vec<f64>,
    pub(super) trajectory: Trajectory,
    /// When the samples of a readout are taken, in seconds.
    pub(super) times: Vec<f64>,
    pub(super) weights: Vec<f32>,
    pub(super) common: Fixture,
    pub(super) scan: Fixture,
}

impl Problem {
    /// The samples in a file, with the object beside it.
    pub(super) fn load(scan: &Path) -> Result<Self, String> {
        let common = Fixture::load(&beside(scan, "_common")?)?;
        let scan = Fixture::load(scan)?;
        Ok(Self {
            coils: Coils::of(&common, "mps")?,
            truth: single(&common, "img")?,
            field: common.values("b0_hz")?,
            trajectory: trajectory(&scan, "trj")?,
            times: scan.values("t")?,
            weights: weights(&scan)?,
            common,
            scan,
        })
    }

    /// The samples that are called `clean`, with their noise.
    pub(super) fn noisy(&self, clean: &str) -> Result<Image, String> {
        noisy(&self.scan, clean, "noise_unit")
    }

    /// The middle of k-space with its noise.
    pub(super) fn calibration(&self) -> Result<Image, String> {
        noisy(&self.common, "kcal_clean", "kcal_noise_unit")
    }

    /// The phase of the field.
    pub(super) fn phase(&self) -> Result<FieldPhase, String> {
        FieldPhase::off_resonance(&self.field, &self.times, FieldSign::Negative).map_err(text)
    }

    /// The phase of the field in segments.
    pub(super) fn segments(
        &self,
        terms: usize,
        method: FieldMethod,
    ) -> Result<Segments<f32>, String> {
        Segments::new(&self.phase()?, terms, method, NODES).map_err(text)
    }

    /// The transform to samples anywhere.
    pub(super) fn nufft(&self) -> Result<Nufft<f32>, String> {
        Nufft::new(&self.trajectory, &self.coils.dims, TRANSFORM).map_err(text)
    }
}

fn noisy(fixture: &Fixture, clean: &str, noise: &str) -> Result<Image, String> {
    let (clean, noise) = (single(fixture, clean)?, single(fixture, noise)?);
    let sigma: f32 = fixture.meta("sigma")?;
    Ok(clean.iter().zip(&noise).map(|(clean, noise)| clean + noise.scale(sigma)).collect())
}

/// Compares arrays as a whole.
pub(super) fn near(
    worst: &mut Worst,
    what: &str,
    got: &[Complex<f32>],
    expected: &[Complex<f32>],
    tolerance: f64,
) {
    worst.compare(what, &[distance(got, expected)], &[0.0], absolute(tolerance));
}

/// As [`near`], in double precision.
fn near_double(worst: &mut Worst, what: &str, got: &[Complex<f64>], expected: &[Complex<f64>]) {
    let apart: f64 = got.iter().zip(expected).map(|(a, b)| (a - b).norm_sqr()).sum();
    let size: f64 = expected.iter().map(|b| b.norm_sqr()).sum();
    worst.require(&format!("{what}: as many values"), got.len() == expected.len());
    worst.compare(what, &[(apart / size).sqrt()], &[0.0], absolute(STORED));
}

/// The images that coils see.
fn seen(fixture: &Fixture) -> Result<Numbers, String> {
    let (image, maps) = (complex(fixture, "img")?, complex(fixture, "mps")?);
    Ok(maps.iter().enumerate().map(|(i, s)| s * image[i % image.len()]).collect())
}

/// `<object>_common`: maps are normalised, and the calibration is the middle of k-space.
fn object(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let (&coils, matrix) = dims(fixture, "mps")?.split_first().ok_or("`mps` has no coils")?;
    let maps = complex(fixture, "mps")?;
    let pixels = maps.len() / coils;
    let power = |i: usize| maps.iter().skip(i).step_by(pixels).map(|s| s.norm_sqr()).sum();
    let powers: Vec<f64> = (0..pixels).map(power).collect();
    worst.compare("power of the maps", &powers, &vec![1.0; pixels], absolute(STORED));

    let mut spectra = seen(fixture)?;
    CentredFft::new(matrix).forward(&mut spectra);
    let expected = complex(fixture, "kcal_clean")?;
    let mut middle = vec![Complex::default(); expected.len()];
    crop(&spectra, matrix, &dims(fixture, "kcal_clean")?[1..], &mut middle);
    near_double(&mut worst, "kcal_clean", &middle, &expected);
    worst.done()
}

/// `<object>_<trajectory>`: the samples of the object beside it, with and without its field, when they
/// are taken, and their weights.
fn scan(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let Problem { common, trajectory, times, field, coils, .. } = Problem::load(&fixture.path)?;
    let maps = complex(&common, "mps")?;
    let image = complex(&common, "img")?;
    let nufft = || Nufft::<f64>::new(&trajectory, &coils.dims, TRANSFORM / 10.0).map_err(text);
    let sense = Sense::new(nufft()?, coils.count, &coils.dims, maps.clone()).map_err(text)?;
    let mut samples = vec![Complex::default(); sense.range()];
    sense.forward(&image, &mut samples);
    near_double(&mut worst, "ksp_clean", &samples, &complex(fixture, "ksp_clean")?);

    let phase = FieldPhase::off_resonance(&field, &times, FieldSign::Negative).map_err(text)?;
    let segments = Segments::new(&phase, EXACT, FieldMethod::Svd, NODES).map_err(text)?;
    let operator = FieldOperator::new(nufft()?, segments).map_err(text)?;
    let sense = Sense::new(operator, coils.count, &coils.dims, maps).map_err(text)?;
    sense.forward(&image, &mut samples);
    near_double(&mut worst, "ksp_b0_clean", &samples, &complex(fixture, "ksp_b0_clean")?);

    let interval: f64 = fixture.meta("dt")?;
    let expected: Vec<f64> = (0..times.len()).map(|i| i as f64 * interval).collect();
    worst.compare("t", &times, &expected, absolute(STORED * interval * times.len() as f64));
    let weights = pipe_menon(&trajectory, &coils.dims, &PipeMenonConfig::default());
    density(&mut worst, fixture, weights.map_err(text)?)?;
    worst.done()
}

/// Weights for the density of samples, of which the largest is one.
fn density(worst: &mut Worst, fixture: &Fixture, mut weights: Vec<f64>) -> Result<(), String> {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    weights.iter_mut().for_each(|w| *w /= largest);
    worst.compare("dcf", &weights, &fixture.values("dcf")?, absolute(STORED));
    Ok(())
}

/// A real scan of spokes: its weights, and the calibration and maps that were made of it.
fn real_scan(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let trajectory = trajectory(fixture, "trj")?;
    let (&coils, matrix) = dims(fixture, "mps_f16")?.split_first().ok_or("there are no coils")?;
    density(&mut worst, fixture, ramp(&trajectory))?;

    let kcal = complex(fixture, "kcal")?;
    let region = &dims(fixture, "kcal")?[1..];
    let centre = Centre::of(&trajectory, region).map_err(text)?;
    let nufft = Nufft::<f64>::new(centre.trajectory(), region, TRANSFORM / 10.0).map_err(text)?;
    let samples = centre.select(&complex(fixture, "ksp")?).map_err(text)?;
    let weights = centre.select(&fixture.values("dcf")?).map_err(text)?;
    let config = CalibrationConfig::default();
    let got = calibration(&nufft, &samples, &weights, coils, region, &config).map_err(text)?;
    near_double(&mut worst, "kcal", &got, &kcal);

    // all of the calibration is used, and maps are kept where there is an object instead of where the
    // eigenvalue is near one
    let size = region.iter().copied().max().unwrap_or_default();
    let config = EspiritConfig { calibration: size, crop: 0.0, ..EspiritConfig::default() };
    let maps = espirit(&kcal, coils, region, matrix, &config).map_err(text)?;
    let expected = complex(fixture, "mps_f16")?;
    let pairs = maps.iter().zip(&expected).filter(|(_, expected)| expected.norm() > 0.0);
    let apart = pairs.map(|(a, b)| (a - b).norm()).fold(0.0, f64::max);
    // halves have eleven bits
    worst.compare("mps_f16", &[apart], &[0.0], absolute(1e-3));
    worst.done()
}
