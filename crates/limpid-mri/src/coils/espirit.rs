//! Sensitivities as eigenvectors of the calibration (Uecker et al., "ESPIRiT: an eigenvalue approach to
//! autocalibrating parallel MRI", MRM 71, 2014).
//!
//! The windows of the calibration span a space of kernels. The projection onto it is a convolution in
//! k-space, so in the image it is a small matrix at each voxel, of which the sensitivities are the eigenvector
//! of the eigenvalue one. The matrix is a trigonometric polynomial with `2·kernel − 1` coefficients along each
//! axis, which is evaluated for a few voxels at a time: no memory grows with both voxels and pairs of coils.

use super::check;
use crate::error::expect_matrix;
use crate::fft::crop;
use crate::real::{narrow, turn, wide};
use crate::{Complex, Error, Real, Result};
use limpid_kernels::vectorised;
use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

const OP: &str = "espirit";

/// Voxels that are computed together.
const LANES: usize = 8;
type Lanes = [f64; LANES];

/// Squared change of a unit vector below which more steps of the power iteration change nothing.
const SETTLED: f64 = 1e-28;

/// Parameters of [`espirit`].
#[derive(Clone, Debug, PartialEq)]
pub struct EspiritConfig {
    /// Samples along each axis of the middle of the calibration that are used, or all if it has fewer.
    pub calibration: usize,
    /// Samples along each axis of the kernels.
    pub kernel: usize,
    /// Kernels with singular values above this part of the largest are kept, from 0 to 1.
    pub threshold: f64,
    /// Sensitivities are zero where the eigenvalue is not above this; it is one within the object.
    pub crop: f64,
    /// Most steps of the power iteration of a voxel.
    pub iterations: usize,
}

impl Default for EspiritConfig {
    fn default() -> Self {
        Self { calibration: 24, kernel: 6, threshold: 0.02, crop: 0.9, iterations: 100 }
    }
}

/// Sensitivities `[coils, matrix…]` from the Cartesian centre of k-space `kcal`, `[coils, region…]`; the phase
/// of the first coil is removed.
///
/// # Errors
/// If sizes and values do not fit together, the region is smaller than the kernel, a parameter is out of its
/// range, a value is not finite or all are zero.
pub fn espirit<T: Real>(
    kcal: &[Complex<T>],
    coils: usize,
    region: &[usize],
    matrix: &[usize],
    config: &EspiritConfig,
) -> Result<Vec<Complex<T>>> {
    check(OP, kcal, coils, region)?;
    expect_matrix(OP, matrix)?;
    if matrix.len() != region.len() {
        return Err(Error::shape(OP, "as many axes as the calibration", format!("{matrix:?}")));
    }
    let used: Vec<usize> = region.iter().map(|&size| size.min(config.calibration)).collect();
    if config.kernel == 0 || used.iter().any(|&size| size < config.kernel) {
        let problem =
            format!("kernels of {} do not fit into a calibration of {used:?}", config.kernel);
        return Err(Error::value(OP, problem));
    }
    if !(0.0..1.0).contains(&config.threshold) || !config.crop.is_finite() || config.iterations == 0
    {
        let problem =
            format!("threshold is 0 to below 1, crop finite, iterations above 0: {config:?}");
        return Err(Error::value(OP, problem));
    }
    let mut calibration = vec![Complex::default(); coils * used.iter().product::<usize>()];
    crop(kcal, region, &used, &mut calibration);
    let kernels = kernels(gram(&calibration, coils, &used, config.kernel), config.threshold)?;
    let polynomial = Polynomial::new(&kernels, coils, config.kernel, matrix);
    Ok(polynomial.maps(matrix, config))
}

/// The steps from the first sample of a window to each of its samples, in an array of the sizes `dims`.
fn window(kernel: usize, dims: &[usize]) -> Vec<usize> {
    (0..kernel.pow(dims.len() as u32)).map(|u| flat(&split(u, kernel, dims.len()), dims)).collect()
}

/// The digits of `index`, the last the fastest, in a number system of base `base`.
fn split(mut index: usize, base: usize, digits: usize) -> Vec<usize> {
    let mut out = vec![0; digits];
    for digit in out.iter_mut().rev() {
        *digit = index % base;
        index /= base;
    }
    out
}

/// The place of a position in an array of the sizes `dims`.
fn flat(position: &[usize], dims: &[usize]) -> usize {
    position.iter().zip(dims).fold(0, |flat, (&at, &size)| flat * size + at)
}

/// `Aᴴ A`, where the rows of `A` are the windows of the calibration, `[coil, position in the window]`.
fn gram<T: Real>(
    calibration: &[Complex<T>],
    coils: usize,
    dims: &[usize],
    kernel: usize,
) -> DMatrix<Complex<f64>> {
    /// Windows that are added at a time.
    const BLOCK: usize = 16;
    let inside = window(kernel, dims);
    let positions: usize = dims.iter().product();
    let starts: Vec<usize> = (0..positions)
        .filter(|&p| {
            let mut rest = p;
            dims.iter().rev().all(|&size| {
                let at = rest % size;
                rest /= size;
                at + kernel <= size
            })
        })
        .collect();
    let size = coils * inside.len();
    let mut sums = vec![Complex::<f64>::default(); size * size];
    let mut rows = vec![Complex::default(); BLOCK * size];
    for starts in starts.chunks(BLOCK) {
        let rows = &mut rows[..starts.len() * size];
        for (row, &start) in rows.chunks_exact_mut(size).zip(starts) {
            for (coil, row) in row.chunks_exact_mut(inside.len()).enumerate() {
                let first = coil * positions + start;
                row.iter_mut().zip(&inside).for_each(|(v, &u)| *v = wide(calibration[first + u]));
            }
        }
        sums.par_chunks_mut(size).enumerate().for_each(|(i, sums)| {
            vectorised(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(size) {
                        let factor = row[i].conj();
                        for (sum, v) in sums[i..].iter_mut().zip(&row[i..]) {
                            *sum += factor * v;
                        }
                    }
                },
            );
        });
    }
    DMatrix::from_fn(size, size, |i, j| {
        if i <= j { sums[i * size + j] } else { sums[j * size + i].conj() }
    })
}

/// The eigenvectors of `Aᴴ A` that span the kernels, as rows `[coil, position in the window]` of numbers.
fn kernels(gram: DMatrix<Complex<f64>>, threshold: f64) -> Result<Vec<Vec<Complex<f64>>>> {
    let size = gram.nrows();
    let eigen = SymmetricEigen::new(gram);
    let largest = eigen.eigenvalues.max();
    if !(largest > 0.0) {
        return Err(Error::value(OP, "all values of the calibration are zero"));
    }
    let least = threshold * threshold * largest;
    let kept: Vec<usize> = (0..size).filter(|&i| eigen.eigenvalues[i] > least).collect();
    let row = |i| kept.iter().map(|&k| eigen.eigenvectors[(i, k)]).collect();
    Ok((0..size).map(row).collect())
}

/// The projection of each voxel, `Σ_w p(w) exp(2πi w·r/N)` for each pair of coils; of a matrix only the upper
/// triangle.
struct Polynomial {
    coils: usize,
    /// Coefficients along an axis.
    terms: usize,
    /// `[w…, pair]`
    re: Vec<f64>,
    im: Vec<f64>,
    /// For each axis of the image `[voxel, w]`.
    phases: Vec<Vec<Complex<f64>>>,
}

/// Unit vectors, and what a matrix makes of them: `[coil]`.
struct Vectors {
    re: Vec<Lanes>,
    im: Vec<Lanes>,
}

impl Vectors {
    fn new(len: usize, value: f64) -> Self {
        Self { re: vec![[value; LANES]; len], im: vec![[0.0; LANES]; len] }
    }
}

impl Polynomial {
    fn new(kernels: &[Vec<Complex<f64>>], coils: usize, kernel: usize, matrix: &[usize]) -> Self {
        let rank = matrix.len();
        let (inside, terms) = (kernel.pow(rank as u32), 2 * kernel - 1);
        let all = terms.pow(rank as u32);
        let positions: Vec<_> = (0..inside).map(|u| split(u, kernel, rank)).collect();
        let pairs: Vec<_> = (0..coils).flat_map(|c| (c..coils).map(move |d| (c, d))).collect();
        let scale = (inside as f64).recip();
        let coefficients = |&(c, d): &(usize, usize)| {
            let mut sums = vec![Complex::default(); all];
            for (u, at) in positions.iter().enumerate() {
                for (v, from) in positions.iter().enumerate() {
                    let w = at.iter().zip(from);
                    let w = w.fold(0, |w, (at, from)| w * terms + at + kernel - 1 - from);
                    let products = kernels[c * inside + u].iter().zip(&kernels[d * inside + v]);
                    sums[w] +=
                        products.map(|(a, b)| a.conj() * b).sum::<Complex<f64>>().scale(scale);
                }
            }
            sums
        };
        let sums: Vec<Vec<Complex<f64>>> = pairs.par_iter().map(coefficients).collect();
        let part = |of: fn(&Complex<f64>) -> f64| {
            (0..all).flat_map(|w| sums.iter().map(move |pair| of(&pair[w]))).collect()
        };
        let phases = |&size: &usize| {
            let phase = |i: usize| {
                let (voxel, w) = (i / terms, i % terms);
                let [r, w] = [(voxel, size / 2), (w, kernel - 1)].map(|(a, b)| a as f64 - b as f64);
                turn(w * r / size as f64)
            };
            (0..size * terms).map(phase).collect()
        };
        Self {
            coils,
            terms,
            re: part(|v| v.re),
            im: part(|v| v.im),
            phases: matrix.iter().map(phases).collect(),
        }
    }

    /// The eigenvectors of all voxels, `[coils, matrix…]`.
    fn maps<T: Real>(&self, matrix: &[usize], config: &EspiritConfig) -> Vec<Complex<T>> {
        let voxels: usize = matrix.iter().product();
        let last = matrix[matrix.len() - 1];
        let mut maps = vec![Complex::default(); self.coils * voxels];
        let mut lines: Vec<Vec<&mut [Complex<T>]>> =
            (0..voxels / last).map(|_| Vec::with_capacity(self.coils)).collect();
        for (i, line) in maps.chunks_exact_mut(last).enumerate() {
            lines[i % (voxels / last)].push(line);
        }
        lines.into_par_iter().enumerate().for_each(|(line, mut maps)| {
            vectorised(
                #[inline(always)]
                || self.line(line, matrix, config, &mut maps),
            );
        });
        maps
    }

    /// The eigenvectors of a line of voxels along the last axis.
    #[inline(always)]
    fn line<T: Real>(
        &self,
        line: usize,
        matrix: &[usize],
        config: &EspiritConfig,
        maps: &mut [&mut [Complex<T>]],
    ) {
        let (re, im) = self.contracted(line, matrix);
        let (axis, last) = (matrix.len() - 1, matrix[matrix.len() - 1]);
        let pairs = re.len() / self.terms;
        let mut projection = Vectors::new(pairs, 0.0);
        let [mut x, mut y] = [1.0, 0.0].map(|value| Vectors::new(self.coils, value));
        for first in (0..last).step_by(LANES) {
            let lanes = LANES.min(last - first);
            // lanes beyond the line repeat its last voxel
            let voxel: [usize; LANES] = std::array::from_fn(|lane| (first + lane).min(last - 1));
            projection.re.fill([0.0; LANES]);
            projection.im.fill([0.0; LANES]);
            for w in 0..self.terms {
                let phase = voxel.map(|voxel| self.phases[axis][voxel * self.terms + w]);
                let [cos, sin] = [phase.map(|p| p.re), phase.map(|p| p.im)];
                for pair in 0..pairs {
                    let (a, b) = (re[w * pairs + pair], im[w * pairs + pair]);
                    let sums = (&mut projection.re[pair], &mut projection.im[pair]);
                    for lane in 0..LANES {
                        sums.0[lane] += a * cos[lane] - b * sin[lane];
                        sums.1[lane] += a * sin[lane] + b * cos[lane];
                    }
                }
            }
            x.re.fill([1.0; LANES]);
            x.im.fill([0.0; LANES]);
            let eigenvalue = dominant(&projection, &mut x, &mut y, config.iterations);
            for lane in 0..lanes {
                if !(eigenvalue[lane] > config.crop) {
                    continue;
                }
                let of = |coil: usize| Complex::new(x.re[coil][lane], x.im[coil][lane]);
                let norm = of(0).norm();
                let phase = if norm > 0.0 { of(0).conj() / norm } else { Complex::new(1.0, 0.0) };
                for (coil, map) in maps.iter_mut().enumerate() {
                    map[first + lane] = narrow(of(coil) * phase);
                }
            }
        }
    }

    /// The polynomials of a line of voxels, `[w, pair]`: those of all voxels, evaluated along the other axes.
    #[inline(always)]
    fn contracted(&self, line: usize, matrix: &[usize]) -> (Vec<f64>, Vec<f64>) {
        let leading = matrix.len() - 1;
        let mut position = vec![0; leading];
        let mut rest = line;
        for axis in (0..leading).rev() {
            position[axis] = rest % matrix[axis];
            rest /= matrix[axis];
        }
        let (mut re, mut im) = (Vec::new(), Vec::new());
        for (axis, at) in position.into_iter().enumerate() {
            let (a, b) = if axis == 0 { (&self.re, &self.im) } else { (&re, &im) };
            let len = a.len() / self.terms;
            let [mut sum_re, mut sum_im] = [vec![0.0; len], vec![0.0; len]];
            for (w, phase) in self.phases[axis][at * self.terms..][..self.terms].iter().enumerate()
            {
                let (a, b) = (&a[w * len..][..len], &b[w * len..][..len]);
                for i in 0..len {
                    sum_re[i] += a[i] * phase.re - b[i] * phase.im;
                    sum_im[i] += a[i] * phase.im + b[i] * phase.re;
                }
            }
            (re, im) = (sum_re, sum_im);
        }
        (re, im)
    }
}

/// Power iteration from `x` towards the dominant eigenvectors of Hermitian matrices, of which the upper
/// triangles are given; returns the eigenvalues.
#[inline(always)]
fn dominant(matrix: &Vectors, x: &mut Vectors, y: &mut Vectors, iterations: usize) -> Lanes {
    let coils = x.re.len();
    let mut eigenvalue = [0.0; LANES];
    for _ in 0..iterations {
        y.re.fill([0.0; LANES]);
        y.im.fill([0.0; LANES]);
        let mut pair = 0;
        for c in 0..coils {
            let (xr, xi) = (x.re[c], x.im[c]);
            let (mut sum_re, mut sum_im) = (y.re[c], y.im[c]);
            for lane in 0..LANES {
                sum_re[lane] += matrix.re[pair][lane] * xr[lane];
                sum_im[lane] += matrix.re[pair][lane] * xi[lane];
            }
            pair += 1;
            for d in c + 1..coils {
                let (a, b) = (&matrix.re[pair], &matrix.im[pair]);
                let (zr, zi) = (&x.re[d], &x.im[d]);
                let (yr, yi) = (&mut y.re[d], &mut y.im[d]);
                for lane in 0..LANES {
                    sum_re[lane] += a[lane] * zr[lane] - b[lane] * zi[lane];
                    sum_im[lane] += a[lane] * zi[lane] + b[lane] * zr[lane];
                    yr[lane] += a[lane] * xr[lane] + b[lane] * xi[lane];
                    yi[lane] += a[lane] * xi[lane] - b[lane] * xr[lane];
                }
                pair += 1;
            }
            (y.re[c], y.im[c]) = (sum_re, sum_im);
        }
        let mut squares = [0.0; LANES];
        for c in 0..coils {
            for lane in 0..LANES {
                squares[lane] += y.re[c][lane] * y.re[c][lane] + y.im[c][lane] * y.im[c][lane];
            }
        }
        eigenvalue = squares.map(f64::sqrt);
        let scale = eigenvalue.map(|norm| if norm > 0.0 { norm.recip() } else { 0.0 });
        let mut change = [0.0; LANES];
        for c in 0..coils {
            for lane in 0..LANES {
                let (re, im) = (y.re[c][lane] * scale[lane], y.im[c][lane] * scale[lane]);
                let (dr, di) = (re - x.re[c][lane], im - x.im[c][lane]);
                change[lane] += dr * dr + di * di;
                (x.re[c][lane], x.im[c][lane]) = (re, im);
            }
        }
        if change.iter().all(|&change| change < SETTLED) {
            break;
        }
    }
    eigenvalue
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CentredFft;
    use crate::coils::walsh::tests::{agreement, coil_images, overlap_error};
    use crate::fixture::load;
    use crate::operator::tests::random;

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/coil_maps") else { return };
        let (shape, matrix) = (fixture.shape("kcal"), &fixture.shape("espirit")[1..3]);
        let maps = espirit(
            &fixture.complex("kcal"),
            shape[0],
            &shape[1..3],
            matrix,
            &EspiritConfig::default(),
        )
        .expect("maps");
        let expected = fixture.complex("espirit");
        // the fixture was computed in f32
        let worst = maps.iter().zip(&expected).map(|(a, b)| (a - b).norm()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "off by {worst:e}");
        let error = overlap_error(&fixture, &maps);
        let known = overlap_error(&fixture, &expected);
        assert!((error - known).abs() < 1e-5, "{error} {known}");
    }

    #[test]
    fn finds_smooth_sensitivities_in_space() {
        let (coils, matrix, region) = (4, [20, 18, 22], [12, 12, 12]);
        let (images, maps) = coil_images(coils, &matrix);
        let mut kcal = vec![Complex::default(); coils * region.iter().product::<usize>()];
        let mut samples = images.clone();
        CentredFft::new(&matrix).forward(&mut samples);
        crop(&samples, &matrix, &region, &mut kcal);
        let config = EspiritConfig { kernel: 4, threshold: 0.01, crop: 0.8, ..Default::default() };
        let got = espirit(&kcal, coils, &region, &matrix, &config).expect("maps");
        let part = agreement(&images, &maps, &got, coils, 0.995);
        assert!(part > 0.98, "{part}");
    }

    #[test]
    fn lanes_beyond_a_line_and_threads_change_nothing() {
        let kcal = random::<f32>(4, 3 * 10 * 9);
        let config = EspiritConfig { kernel: 3, crop: 0.0, ..Default::default() };
        let run = |matrix: &[usize]| espirit(&kcal, 3, &[10, 9], matrix, &config).expect("maps");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        let maps = run(&[12, 13]);
        assert_eq!(maps, pool.install(|| run(&[12, 13])));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        assert_eq!(maps, one.install(|| run(&[12, 13])));
        for voxel in 0..12 * 13 {
            let norm: f32 = (0..3).map(|c| maps[c * 156 + voxel].norm_sqr()).sum();
            assert!((norm - 1.0).abs() < 1e-5);
            assert!(maps[voxel].im.abs() < 1e-6 && maps[voxel].re >= 0.0);
        }
    }

    #[test]
    fn refuses_what_cannot_calibrate() {
        let kcal = random::<f64>(1, 2 * 36);
        let error = |kcal: &[Complex<f64>], matrix: &[usize], config: EspiritConfig| {
            espirit(kcal, 2, &[6, 6], matrix, &config).expect_err("refused").to_string()
        };
        let small = EspiritConfig { kernel: 7, ..Default::default() };
        assert!(error(&kcal, &[8, 8], small).contains("do not fit"));
        let zero = vec![Complex::default(); 72];
        assert!(error(&zero, &[8, 8], EspiritConfig::default()).contains("zero"));
        assert!(error(&kcal, &[8], EspiritConfig::default()).contains("two or three"));
        assert!(error(&kcal, &[8, 8, 8], EspiritConfig::default()).contains("as many axes"));
        let wide = EspiritConfig { threshold: 1.0, ..Default::default() };
        assert!(error(&kcal, &[8, 8], wide).contains("threshold"));
    }
}
