//! Magnetic resonance: transforms, coils, densities, solvers and regularisers, in f64.

use std::ops::ControlFlow;

use limpid_mri::{
    CentredFft, Complex, ConjugateGradient, EspiritConfig, FieldMethod, FieldOperator, FieldPhase,
    FieldSign, Fista, GridOperator, JsenseConfig, LocallyLowRank, Nufft, Operator, PipeMenonConfig,
    Prox, Segments, Sense, Shift, Trajectory, WalshConfig, Wavelet, WaveletThreshold,
    WaveletTransform, Weighted, calibration_images, compress, conjugate_gradient, crop, espirit,
    fista, jsense, noise_covariance, pad, pipe_menon, ramp, voronoi, walsh, whiten,
};

use super::fixture::{Fixture, Outcome, Worst, absolute, relative, text};

/// Of what is exact but for rounding.
const CLOSE: f64 = 1e-9;
/// Of what the reference computed in f32.
const SINGLE: f64 = 1e-5;
/// The accuracy that transforms are asked for.
const TRANSFORM: f64 = 1e-12;
/// Values to which a field is quantised.
const NODES: usize = 256;

pub(super) type Numbers = Vec<Complex<f64>>;

/// An array whose last axis holds real and imaginary parts.
pub(super) fn complex(fixture: &Fixture, name: &str) -> Result<Numbers, String> {
    let values = fixture.values(name)?;
    Ok(values.as_chunks().0.iter().map(|&[re, im]| Complex::new(re, im)).collect())
}

/// The shape of such an array, without that axis.
pub(super) fn dims<'a>(fixture: &'a Fixture, name: &str) -> Result<&'a [usize], String> {
    let shape = fixture.shape(name)?;
    shape.split_last().map(|(_, dims)| dims).ok_or_else(|| format!("`{name}` is not complex"))
}

/// The positions called `name`, `[samples, rank]` or `[shots, samples, rank]`.
pub(super) fn trajectory(fixture: &Fixture, name: &str) -> Result<Trajectory, String> {
    let points = fixture.values(name)?;
    match *fixture.shape(name)? {
        [samples, rank] => Trajectory::new(1, samples, rank, points),
        [shots, samples, rank] => Trajectory::new(shots, samples, rank, points),
        _ => return Err(format!("`{name}` is no trajectory")),
    }
    .map_err(text)
}

/// Compares complex numbers within a part of the largest.
pub(super) fn close(
    worst: &mut Worst,
    what: &str,
    got: &[Complex<f64>],
    expected: &[Complex<f64>],
    part: f64,
) {
    let flat = |v: &[Complex<f64>]| v.iter().flat_map(|v| [v.re, v.im]).collect::<Vec<_>>();
    let largest = expected.iter().map(|v| v.norm()).fold(0.0, f64::max);
    worst.compare(what, &flat(got), &flat(expected), absolute(part * largest));
}

/// As [`close`] with what the file has of the same name.
fn check(
    worst: &mut Worst,
    fixture: &Fixture,
    name: &str,
    got: &[Complex<f64>],
) -> Result<(), String> {
    close(worst, name, got, &complex(fixture, name)?, CLOSE);
    Ok(())
}

fn zeros(len: usize) -> Numbers {
    vec![Complex::default(); len]
}

/// `nufft`: samples anywhere and on a grid, transforms, cropping and padding.
pub(super) fn transforms(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let groups = fixture.names().filter_map(|name| name.strip_suffix(".img")).map(str::to_owned);
    for group in groups.collect::<Vec<_>>() {
        let key = |name: &str| format!("{group}.{name}");
        let (image, y) = (complex(fixture, &key("img"))?, complex(fixture, &key("y"))?);
        let matrix = dims(fixture, &key("img"))?;
        let trajectory = trajectory(fixture, &key("trj"))?;
        let nufft = Nufft::<f64>::new(&trajectory, matrix, TRANSFORM).map_err(text)?;
        let (mut samples, mut result) = (zeros(y.len()), zeros(image.len()));
        nufft.forward(&image, &mut samples);
        check(&mut worst, fixture, &key("fwd"), &samples)?;
        nufft.adjoint(&y, &mut result);
        check(&mut worst, fixture, &key("adj"), &result)?;
        let weights = fixture.values(&key("w"))?;
        samples.iter_mut().zip(&weights).for_each(|(sample, weight)| *sample *= weight);
        nufft.adjoint(&samples, &mut result);
        check(&mut worst, fixture, &key("normal"), &result)?;
        let toeplitz = Weighted::toeplitz(&trajectory, weights, matrix, TRANSFORM);
        toeplitz.map_err(text)?.normal(&image, &mut result);
        check(&mut worst, fixture, &key("normal"), &result)?;

        let fft = CentredFft::new(matrix);
        let mut turned = image.clone();
        fft.forward(&mut turned);
        check(&mut worst, fixture, &key("cfft"), &turned)?;
        turned.copy_from_slice(&image);
        fft.inverse(&mut turned);
        check(&mut worst, fixture, &key("cifft"), &turned)?;
        let others = fixture.names().filter(|name| name.starts_with(&key("")));
        for name in others.map(str::to_owned).collect::<Vec<_>>() {
            let end = &name[group.len() + 1..];
            if !end.starts_with("pad") && !end.starts_with("crop") {
                continue;
            }
            let size = dims(fixture, &name)?;
            let mut got = zeros(size.iter().product());
            if end.starts_with("pad") {
                pad(&image, matrix, size, &mut got);
            } else {
                crop(&image, matrix, size, &mut got);
            }
            check(&mut worst, fixture, &name, &got)?;
        }
    }

    let (image, y) = (complex(fixture, "grid_img")?, complex(fixture, "grid_y")?);
    let matrix = dims(fixture, "grid_img")?;
    let targets = fixture.values("grid_target")?;
    let oversampling = oversampling(&targets)?;
    let grid = GridOperator::<f64>::new(&targets, matrix, oversampling).map_err(text)?;
    let index: Vec<f64> = grid.index().iter().map(|&i| i as f64).collect();
    worst.compare("grid_index", &index, &fixture.values("grid_index")?, absolute(0.0));
    let (mut samples, mut result) = (zeros(y.len()), zeros(image.len()));
    grid.forward(&image, &mut samples);
    check(&mut worst, fixture, "grid_fwd", &samples)?;
    grid.adjoint(&y, &mut result);
    check(&mut worst, fixture, "grid_adj", &result)?;
    Ok(Outcome::Compared(worst))
}

/// The coarsest of the usual grids on which all coordinates lie: the file does not say it.
fn oversampling(targets: &[f64]) -> Result<f64, String> {
    let on_grid = |os: f64| targets.iter().all(|k| (k * os - (k * os).round()).abs() < 1e-6);
    let found = [1.0, 1.25, 1.5, 2.0].into_iter().find(|&os| on_grid(os));
    found.ok_or_else(|| "`grid_target` lies on no grid that is known".into())
}

/// `coil_maps`: sensitivities by ESPIRiT, Walsh's method and JSENSE.
pub(super) fn coil_maps(fixture: &Fixture) -> Result<Outcome, String> {
    let kcal = complex(fixture, "kcal")?;
    let (&coils, region) = dims(fixture, "kcal")?.split_first().ok_or("`kcal` has no coils")?;
    let matrix = &dims(fixture, "espirit")?[1..];
    let mut worst = Worst::default();
    let maps = espirit(&kcal, coils, region, matrix, &EspiritConfig::default()).map_err(text)?;
    close(&mut worst, "espirit", &maps, &complex(fixture, "espirit")?, SINGLE);
    let images = calibration_images(&kcal, coils, region, matrix).map_err(text)?;
    let maps = walsh(&images, coils, matrix, &WalshConfig::default()).map_err(text)?;
    close(&mut worst, "walsh", &maps, &complex(fixture, "walsh")?, SINGLE);
    let maps = jsense(&kcal, coils, region, matrix, &JsenseConfig::default()).map_err(text)?;
    // beyond the object an iteration in f32 is its rounding
    let support = fixture.values("img_support")?;
    let inside = |maps: &[Complex<f64>]| -> Numbers {
        let at = |(i, v): (usize, &Complex<f64>)| (support[i % support.len()] > 0.0).then_some(*v);
        maps.iter().enumerate().filter_map(at).collect()
    };
    let expected = inside(&complex(fixture, "jsense")?);
    close(&mut worst, "jsense", &inside(&maps), &expected, SINGLE);
    Ok(Outcome::Compared(worst))
}

/// `coil_ops`: compression by singular values, whitening.
pub(super) fn coil_ops(fixture: &Fixture) -> Result<Outcome, String> {
    let kcal = complex(fixture, "kcal")?;
    let coils = dims(fixture, "kcal")?[0];
    let keep = dims(fixture, "compress_basis")?[1];
    let mut worst = Worst::default();
    let compression = compress(&kcal, coils, keep).map_err(text)?;
    let expected = fixture.values("svd_values")?;
    let values = &compression.singular_values[..expected.len().min(coils)];
    worst.compare("svd_values", values, &expected, relative(CLOSE));
    // a virtual coil has no phase of its own: projectors are compared
    let basis = complex(fixture, "compress_basis")?;
    let matrix = compression.channels.matrix();
    let pairs = || (0..coils).flat_map(|a| (0..coils).map(move |b| (a, b)));
    let got: Numbers = pairs()
        .map(|(a, b)| (0..keep).map(|v| matrix[(v, a)].conj() * matrix[(v, b)]).sum())
        .collect();
    let expected: Numbers = pairs()
        .map(|(a, b)| (0..keep).map(|v| basis[a * keep + v] * basis[b * keep + v].conj()).sum())
        .collect();
    close(&mut worst, "compress_basis", &got, &expected, CLOSE);
    let covariance = noise_covariance(&complex(fixture, "noise")?, coils).map_err(text)?;
    let got: Numbers = pairs().map(|at| covariance[at]).collect();
    check(&mut worst, fixture, "cov", &got)?;
    let white = whiten(&covariance).map_err(text)?;
    let got = white.apply(&complex(fixture, "data")?).map_err(text)?;
    check(&mut worst, fixture, "whitened_cholesky", &got)?;
    Ok(Outcome::Compared(worst))
}

/// `dcf`: weights for the density of samples.
pub(super) fn density(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let groups = fixture.names().filter_map(|name| name.strip_suffix(".trj")).map(str::to_owned);
    for group in groups.collect::<Vec<_>>() {
        let trajectory = trajectory(fixture, &format!("{group}.trj"))?;
        let has = |name: &str| fixture.tensors.contains_key(&format!("{group}.{name}"));
        let mut compare = |name: &str, mut got: Vec<f64>, sorted: bool| -> Result<(), String> {
            let name = format!("{group}.{name}");
            let mut expected = fixture.values(&name)?;
            if sorted {
                got.sort_by(f64::total_cmp);
                expected.sort_by(f64::total_cmp);
            }
            worst.compare(&name, &got, &expected, relative(CLOSE));
            Ok(())
        };
        if has("ramp") {
            compare("ramp", ramp(&trajectory), false)?;
        }
        if has("voronoi") {
            // of equal cells at the limit of the largest, rounding decides which are replaced
            compare("voronoi", voronoi(&trajectory).map_err(text)?, true)?;
        }
        if has("pipe_menon") {
            let matrix = vec![voxels(fixture)?; trajectory.rank()];
            let config = PipeMenonConfig::default();
            let weights = pipe_menon(&trajectory, &matrix, &config).map_err(text)?;
            compare("pipe_menon", weights, false)?;
        }
    }
    Ok(Outcome::Compared(worst))
}

/// The voxels along each axis, by which the note divides the positions: `trj/32`.
fn voxels(fixture: &Fixture) -> Result<usize, String> {
    let note: String = fixture.meta("note")?;
    let digits =
        note.split("trj/").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let voxels = digits.and_then(|digits| digits.parse().ok());
    voxels.ok_or_else(|| format!("the note does not say the size of the image: {note}"))
}

/// The samples of an image that coils see: weighted, and the right-hand side of the normal equations.
struct Problem {
    sense: Sense<f64, Weighted<f64, Nufft<f64>>>,
    right: Numbers,
}

impl Problem {
    fn new(fixture: &Fixture) -> Result<Self, String> {
        let (&coils, dims) = dims(fixture, "mps")?.split_first().ok_or("`mps` has no coils")?;
        let nufft = Nufft::new(&trajectory(fixture, "trj")?, dims, TRANSFORM).map_err(text)?;
        let weighted = Weighted::new(nufft, fixture.values("w")?).map_err(text)?;
        let mut samples = complex(fixture, "y")?;
        weighted.weigh(&mut samples).map_err(text)?;
        let sense = Sense::new(weighted, coils, dims, complex(fixture, "mps")?).map_err(text)?;
        let mut right = zeros(sense.domain());
        sense.adjoint(&samples, &mut right);
        Ok(Self { sense, right })
    }
}

/// The names `prefix` and a number, as the file has them, by number.
fn steps(fixture: &Fixture, prefix: &str) -> Vec<usize> {
    let number = |name: &str| name.strip_prefix(prefix)?.parse().ok();
    let mut steps: Vec<usize> = fixture.names().filter_map(number).collect();
    steps.sort_unstable();
    steps
}

/// `cg_sense`: conjugate gradients, and fields in segments.
pub(super) fn solvers(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let problem = Problem::new(fixture)?;
    check(&mut worst, fixture, "AHy", &problem.right)?;
    let steps = steps(fixture, "x");
    let iterations = steps.last().copied().unwrap_or_default();
    let lambda = fixture.meta("lam")?;
    let settings = ConjugateGradient { lambda, iterations, tolerance: 0.0 };
    let mut image = zeros(problem.right.len());
    let mut images = Vec::new();
    conjugate_gradient(&problem.sense, &problem.right, &mut image, &settings, |step| {
        if steps.contains(&step.iteration) {
            images.push((format!("x{}", step.iteration), step.image.to_vec()));
        }
        ControlFlow::Continue(())
    })
    .map_err(text)?;
    worst.require("the steps of the file", images.len() == steps.len());
    for (name, image) in images {
        check(&mut worst, fixture, &name, &image)?;
    }

    let (b0, times) = (fixture.values("b0")?, fixture.values("t")?);
    let phase = FieldPhase::off_resonance(&b0, &times, FieldSign::Negative).map_err(text)?;
    let all = phase.singular_values(usize::MAX).map_err(text)?;
    let expected = fixture.values("field_singular_values")?;
    let tolerance = absolute(CLOSE * expected[0]);
    worst.compare("field_singular_values", &all[..expected.len()], &expected, tolerance);
    let terms = fixture.shape("ts_centers")?[0];
    for (method, name) in [(FieldMethod::ZeroOrder, "zero"), (FieldMethod::LeastSquares, "lstsq")] {
        let segments = Segments::<f64>::new(&phase, terms, method, NODES).map_err(text)?;
        check(&mut worst, fixture, "ts_spatial", segments.spatial())?;
        let temporal = format!("ts_temporal_{name}");
        if method == FieldMethod::ZeroOrder {
            let real: Vec<f64> = segments.temporal().iter().map(|h| h.re).collect();
            worst.compare(&temporal, &real, &fixture.values(&temporal)?, absolute(0.0));
        } else {
            check(&mut worst, fixture, &temporal, segments.temporal())?;
        }
        let (&coils, dims) = dims(fixture, "mps")?.split_first().ok_or("`mps` has no coils")?;
        let nufft = Nufft::new(&trajectory(fixture, "trj")?, dims, TRANSFORM).map_err(text)?;
        let operator = FieldOperator::new(nufft, segments).map_err(text)?;
        let sense = Sense::new(operator, coils, dims, complex(fixture, "mps")?).map_err(text)?;
        let mut samples = zeros(sense.range());
        sense.forward(&complex(fixture, "img")?, &mut samples);
        check(&mut worst, fixture, &format!("y_field_{name}"), &samples)?;
    }
    Ok(Outcome::Compared(worst))
}

/// `prox`: wavelets, local low rank, and FISTA on the data of `cg_sense` beside it.
pub(super) fn proximal(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let (x, size) = (complex(fixture, "x")?, dims(fixture, "x")?);
    let transform = WaveletTransform::new(Wavelet::Db4, 2, size).map_err(text)?;
    check(&mut worst, fixture, "wavelet_coeffs", &transform.forward(&x).map_err(text)?)?;
    let mut soft = WaveletThreshold::new(Wavelet::Db4, 2, 1, size, Shift::None).map_err(text)?;
    let mut got = x;
    soft.apply(&mut got, fixture.meta("thr")?);
    check(&mut worst, fixture, "wavelet_db4_l2_soft", &got)?;

    let (&images, size) = dims(fixture, "llr_x")?.split_first().ok_or("`llr_x` has no images")?;
    let block = vec![fixture.meta("llr_block")?; size.len()];
    let mut low_rank = LocallyLowRank::new(images, size, &block, Shift::None).map_err(text)?;
    let mut got = complex(fixture, "llr_x")?;
    low_rank.apply(&mut got, fixture.meta("llr_thr")?);
    check(&mut worst, fixture, "llr_out", &got)?;

    let beside = fixture.path.with_file_name("cg_sense.safetensors");
    let problem = Problem::new(&Fixture::load(&beside)?)?;
    let steps = steps(fixture, "fista");
    let iterations = steps.last().copied().unwrap_or_default();
    let lambda_max: f64 = fixture.meta("fista_lmax")?;
    let threshold = fixture.meta("fista_thr")?;
    let settings = Fista { lambda_max, threshold, iterations, tolerance: 0.0 };
    let size = dims(fixture, "fista1")?;
    let mut haar = WaveletThreshold::new(Wavelet::Haar, 2, 1, size, Shift::None).map_err(text)?;
    let mut image: Numbers = problem.right.iter().map(|v| v / lambda_max).collect();
    let mut images = Vec::new();
    fista(&problem.sense, &problem.right, &mut image, &mut haar, &settings, |step| {
        if steps.contains(&step.iteration) {
            images.push((format!("fista{}", step.iteration), step.image.to_vec()));
        }
        ControlFlow::Continue(())
    })
    .map_err(text)?;
    worst.require("the steps of the file", images.len() == steps.len());
    for (name, image) in images {
        check(&mut worst, fixture, &name, &image)?;
    }
    Ok(Outcome::Compared(worst))
}
