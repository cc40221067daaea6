//! Sensitivities and image estimated together (Ying & Sheng, "Joint image reconstruction and sensitivity
//! estimation in SENSE (JSENSE)", MRM 57, 2007).
//!
//! The sensitivities are a few coefficients in k-space, as in regularised nonlinear inversion (Uecker et al.,
//! MRM 60, 2008), instead of polynomials. Samples are then the convolution of those with the k-space of the
//! image, and the two are estimated in turns by linear least squares.

use super::{check, conjugate_gradients};
use crate::error::expect_matrix;
use crate::fft::{crop, pad};
use crate::real::{narrow, wide};
use crate::{CentredFft, Complex, Error, Real, Result};

const OP: &str = "jsense";

/// Parameters of [`jsense`].
#[derive(Clone, Debug, PartialEq)]
pub struct JsenseConfig {
    /// Coefficients of the sensitivities along each axis of k-space.
    pub kernel: usize,
    /// Samples along each axis of the middle of the calibration that are used, or all if it has fewer.
    pub calibration: usize,
    /// Weight of the squared coefficients, for samples of unit energy.
    pub lambda: f64,
    /// How often sensitivities and image are estimated.
    pub iterations: usize,
    /// Steps of conjugate gradients of each estimate.
    pub inner_iterations: usize,
}

impl Default for JsenseConfig {
    fn default() -> Self {
        Self { kernel: 12, calibration: 24, lambda: 0.0, iterations: 10, inner_iterations: 10 }
    }
}

/// Sensitivities `[coils, matrix…]`, with a root sum of squares of one, from the Cartesian centre of k-space
/// `kcal`, `[coils, region…]`. Samples that are zero in all coils count as not acquired.
///
/// # Errors
/// If sizes and values do not fit together, the matrix is smaller than the kernel, a parameter is out of its
/// range, a value is not finite or all are zero.
pub fn jsense<T: Real>(
    kcal: &[Complex<T>],
    coils: usize,
    region: &[usize],
    matrix: &[usize],
    config: &JsenseConfig,
) -> Result<Vec<Complex<T>>> {
    check(OP, kcal, coils, region)?;
    expect_matrix(OP, matrix)?;
    let fits = |size: &usize| (1..=*size).contains(&config.kernel);
    if matrix.len() != region.len() || !matrix.iter().all(fits) {
        let expected =
            format!("an image with axes as {region:?}, not below the kernel of {}", config.kernel);
        return Err(Error::shape(OP, expected, format!("{matrix:?}")));
    }
    let counts = [config.calibration, config.iterations, config.inner_iterations];
    if counts.contains(&0) || !(config.lambda >= 0.0 && config.lambda.is_finite()) {
        let problem = format!(
            "calibration and iterations are above 0, lambda 0 or above and finite: {config:?}"
        );
        return Err(Error::value(OP, problem));
    }
    let used: Vec<usize> = region.iter().map(|&size| size.min(config.calibration)).collect();
    let model = Model::new(coils, used, config);
    let mut samples = vec![Complex::default(); coils * model.samples];
    let values: Vec<Complex<f64>> = kcal.iter().map(|&v| wide(v)).collect();
    crop(&values, region, &model.used, &mut samples);
    let norm = samples.iter().map(|v| v.norm_sqr()).sum::<f64>().sqrt();
    if !(norm > 0.0) {
        return Err(Error::value(OP, "all values of the calibration are zero"));
    }
    samples.iter_mut().for_each(|v| *v /= norm);
    let coefficients = model.solve(&samples, config);
    let mut maps = vec![Complex::default(); coils * matrix.iter().product::<usize>()];
    let coefficients: Vec<Complex<T>> = coefficients.into_iter().map(narrow).collect();
    pad(&coefficients, &model.kernel, matrix, &mut maps);
    CentredFft::new(matrix).inverse(&mut maps);
    let norms = super::root_sum_of_squares(&maps, coils)?;
    for map in maps.chunks_exact_mut(norms.len()) {
        for (v, &norm) in map.iter_mut().zip(&norms).filter(|(_, norm)| **norm > T::zero()) {
            *v = v.unscale(norm);
        }
    }
    Ok(maps)
}

/// The samples `F(m s)` of an image `m` and sensitivities `s`, on a grid on which their convolution does not
/// wrap into the samples.
struct Model {
    coils: usize,
    /// Sizes of the samples, of the coefficients of sensitivities, and of the grid.
    used: Vec<usize>,
    kernel: Vec<usize>,
    fft: CentredFft<f64>,
    /// Numbers of them.
    samples: usize,
    coefficients: usize,
    pixels: usize,
}

impl Model {
    fn new(coils: usize, used: Vec<usize>, config: &JsenseConfig) -> Self {
        let kernel = vec![config.kernel; used.len()];
        let grid: Vec<usize> = used.iter().map(|size| size + config.kernel - 1).collect();
        let [samples, coefficients, pixels] =
            [&used, &kernel, &grid].map(|sizes| sizes.iter().product());
        let fft = CentredFft::new(&grid);
        Self { coils, used, kernel, fft, samples, coefficients, pixels }
    }

    /// The coefficients of the sensitivities, `[coils, kernel…]`.
    fn solve(&self, samples: &[Complex<f64>], config: &JsenseConfig) -> Vec<Complex<f64>> {
        let of_coils = |position: usize| (0..self.coils).map(move |c| c * self.samples + position);
        let acquired: Vec<f64> = (0..self.samples)
            .map(|p| f64::from(of_coils(p).any(|i| samples[i].norm_sqr() > 0.0)))
            .collect();
        let mut coefficients = vec![Complex::default(); self.coils * self.coefficients];
        // k-space of the image; at first that of a point
        let mut image = vec![Complex::default(); self.pixels];
        let sizes = self.fft.dims();
        image[sizes.iter().fold(0, |at, size| at * size + size / 2)] = Complex::new(1.0, 0.0);
        for _ in 0..config.iterations {
            let point_image = self.image_of(&image);
            let adjoint = |samples: &[Complex<f64>], out: &mut [Complex<f64>]| {
                self.to_coefficients(samples, &point_image, out);
            };
            let mut b = vec![Complex::default(); coefficients.len()];
            adjoint(samples, &mut b);
            let normal = |x: &[Complex<f64>], out: &mut [Complex<f64>]| {
                let images = self.images_of(x);
                adjoint(&self.sampled(&images, &point_image, &acquired), out);
                add(out, config.lambda, x);
            };
            conjugate_gradients(normal, &b, &mut coefficients, config.inner_iterations);

            let maps = self.images_of(&coefficients);
            let adjoint = |samples: &[Complex<f64>], out: &mut [Complex<f64>]| {
                self.to_image(samples, &maps, out);
            };
            let mut b = vec![Complex::default(); image.len()];
            adjoint(samples, &mut b);
            let normal = |x: &[Complex<f64>], out: &mut [Complex<f64>]| {
                let image = self.image_of(x);
                adjoint(&self.sampled(&maps, &image, &acquired), out);
                add(out, config.lambda, x);
            };
            conjugate_gradients(normal, &b, &mut image, config.inner_iterations);
        }
        coefficients
    }

    /// The image of its k-space, scaled so that products of images are convolutions.
    fn image_of(&self, kspace: &[Complex<f64>]) -> Vec<Complex<f64>> {
        let mut image = kspace.to_vec();
        self.fft.inverse(&mut image);
        let scale = (self.pixels as f64).sqrt();
        image.iter_mut().for_each(|v| *v *= scale);
        image
    }

    /// The sensitivities in the image, of their coefficients.
    fn images_of(&self, coefficients: &[Complex<f64>]) -> Vec<Complex<f64>> {
        let mut images = vec![Complex::default(); self.coils * self.pixels];
        pad(coefficients, &self.kernel, self.fft.dims(), &mut images);
        self.fft.inverse(&mut images);
        images
    }

    /// The acquired samples of an image that sensitivities see.
    fn sampled(
        &self,
        maps: &[Complex<f64>],
        image: &[Complex<f64>],
        acquired: &[f64],
    ) -> Vec<Complex<f64>> {
        let mut grid: Vec<_> = maps.to_vec();
        for map in grid.chunks_exact_mut(self.pixels) {
            map.iter_mut().zip(image).for_each(|(v, m)| *v *= m);
        }
        self.fft.forward(&mut grid);
        let mut samples = vec![Complex::default(); self.coils * self.samples];
        crop(&grid, self.fft.dims(), &self.used, &mut samples);
        for coil in samples.chunks_exact_mut(self.samples) {
            coil.iter_mut().zip(acquired).for_each(|(v, mask)| *v *= mask);
        }
        samples
    }

    /// The images of the samples of each coil.
    fn back(&self, samples: &[Complex<f64>]) -> Vec<Complex<f64>> {
        let mut grid = vec![Complex::default(); self.coils * self.pixels];
        pad(samples, &self.used, self.fft.dims(), &mut grid);
        self.fft.inverse(&mut grid);
        grid
    }

    /// Adjoint of [`Model::sampled`] of [`Model::images_of`] coefficients.
    fn to_coefficients(
        &self,
        samples: &[Complex<f64>],
        image: &[Complex<f64>],
        out: &mut [Complex<f64>],
    ) {
        let mut grid = self.back(samples);
        for coil in grid.chunks_exact_mut(self.pixels) {
            coil.iter_mut().zip(image).for_each(|(v, m)| *v *= m.conj());
        }
        self.fft.forward(&mut grid);
        crop(&grid, self.fft.dims(), &self.kernel, out);
    }

    /// Adjoint of [`Model::sampled`] of an [`Model::image_of`] k-space.
    fn to_image(&self, samples: &[Complex<f64>], maps: &[Complex<f64>], out: &mut [Complex<f64>]) {
        let grid = self.back(samples);
        let scale = (self.pixels as f64).sqrt();
        out.fill(Complex::default());
        for (coil, map) in grid.chunks_exact(self.pixels).zip(maps.chunks_exact(self.pixels)) {
            for ((out, v), s) in out.iter_mut().zip(coil).zip(map) {
                *out += (s.conj() * v).scale(scale);
            }
        }
        self.fft.forward(out);
    }
}

/// Adds `factor · x`.
fn add(out: &mut [Complex<f64>], factor: f64, x: &[Complex<f64>]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += x.scale(factor));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coils::walsh::tests::{agreement, coil_images, overlap_error};
    use crate::fixture::load;
    use crate::operator::tests::{distance, inner, random};

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/coil_maps") else { return };
        let (shape, matrix) = (fixture.shape("kcal"), &fixture.shape("jsense")[1..3]);
        let maps = jsense(
            &fixture.complex("kcal"),
            shape[0],
            &shape[1..3],
            matrix,
            &JsenseConfig::default(),
        )
        .expect("maps");
        let expected = fixture.complex("jsense");
        // The fixture was iterated in f32; where there is no object, that is seen.
        let voxels = maps.len() / shape[0];
        let support = fixture.values("img_support");
        let worst = |inside: bool| {
            let at = (0..maps.len()).filter(|i| !inside || support[i % voxels] > 0.0);
            at.map(|i| (maps[i] - expected[i]).norm()).fold(0.0, f64::max)
        };
        assert!(worst(true) < 1e-5, "off by {:e} in the object", worst(true));
        assert!(distance(&maps, &expected) < 1e-4, "off by {:e}", distance(&maps, &expected));
        let error = overlap_error(&fixture, &maps);
        let known = overlap_error(&fixture, &expected);
        assert!((error - known).abs() < 1e-6, "{error} {known}");
    }

    #[test]
    fn is_a_convolution_with_its_adjoints() {
        let config = JsenseConfig { kernel: 3, ..Default::default() };
        let model = Model::new(2, vec![5, 4], &config);
        let (s, m) = (random(1, 2 * 9), random(2, 7 * 6));
        let (maps, image) = (model.images_of(&s), model.image_of(&m));
        let all = vec![1.0; 20];
        let samples = model.sampled(&maps, &image, &all);
        for (c, i, j) in [(0, 0, 0), (1, 4, 3), (0, 2, 1)] {
            let terms = (0..9).map(|t| s[c * 9 + t] * m[(i + 2 - t / 3) * 6 + j + 2 - t % 3]);
            let gap = samples[c * 20 + i * 4 + j] - terms.sum::<Complex<f64>>();
            assert!(gap.norm() < 1e-12);
        }
        let y = random(3, samples.len());
        let [mut to_s, mut to_m] = [18, 42].map(|len| vec![Complex::default(); len]);
        model.to_coefficients(&y, &image, &mut to_s);
        model.to_image(&y, &maps, &mut to_m);
        let expected = inner(&samples, &y);
        assert!((inner(&s, &to_s) - expected).norm() < 1e-12);
        assert!((inner(&m, &to_m) - expected).norm() < 1e-12);
    }

    #[test]
    fn finds_smooth_sensitivities_in_space_without_all_samples() {
        let (coils, matrix, region) = (4, [16, 18, 15], [10, 12, 11]);
        let (images, maps) = coil_images(coils, &matrix);
        let mut samples = images.clone();
        CentredFft::new(&matrix).forward(&mut samples);
        let mut kcal = vec![Complex::default(); coils * region.iter().product::<usize>()];
        crop(&samples, &matrix, &region, &mut kcal);
        // every second line away from the middle
        for (i, v) in kcal.iter_mut().enumerate() {
            let line = i / 11 % 12;
            if line % 2 == 1 && !(4..9).contains(&line) {
                *v = Complex::default();
            }
        }
        let config = JsenseConfig { kernel: 5, ..Default::default() };
        let got = jsense(&kcal, coils, &region, &matrix, &config).expect("maps");
        let part = agreement(&images, &maps, &got, coils, 0.99);
        assert!(part > 0.95, "{part}");
    }

    #[test]
    fn refuses_what_cannot_calibrate() {
        let kcal = random::<f32>(1, 2 * 36);
        let error = |kcal: &[Complex<f32>], matrix: &[usize], config: JsenseConfig| {
            jsense(kcal, 2, &[6, 6], matrix, &config).expect_err("refused").to_string()
        };
        let some = || JsenseConfig { kernel: 4, ..Default::default() };
        assert!(error(&kcal, &[8, 3], some()).contains("kernel of 4"));
        assert!(error(&kcal, &[8, 8, 8], some()).contains("axes as [6, 6]"));
        assert!(error(&[Complex::default(); 72], &[8, 8], some()).contains("zero"));
        let negative = JsenseConfig { lambda: -1.0, ..some() };
        assert!(error(&kcal, &[8, 8], negative).contains("lambda"));
        assert!(
            error(&kcal, &[8, 8], JsenseConfig { kernel: 0, ..some() }).contains("kernel of 0")
        );
    }
}
