//! Sensitivities from the correlation of coil images (Walsh et al., "Adaptive reconstruction of phased array MR
//! imagery", MRM 43, 2000).

use super::check;
use crate::error::expect_matrix;
use crate::fft::pad;
use crate::real::{narrow, wide};
use crate::{CentredFft, Complex, Error, Real, Result};
use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

/// Parameters of [`walsh`].
#[derive(Clone, Debug, PartialEq)]
pub struct WalshConfig {
    /// Voxels along each axis of the window around a voxel that its correlation is summed over; odd.
    pub window: usize,
}

impl Default for WalshConfig {
    fn default() -> Self {
        Self { window: 5 }
    }
}

/// The low-resolution images `[coils, matrix…]` of the Cartesian centre of k-space `kcal`, `[coils, region…]`.
///
/// # Errors
/// If sizes and values do not fit together, the matrix is smaller than the region, or a value is not finite.
pub fn calibration_images<T: Real>(
    kcal: &[Complex<T>],
    coils: usize,
    region: &[usize],
    matrix: &[usize],
) -> Result<Vec<Complex<T>>> {
    const OP: &str = "calibration_images";
    check(OP, kcal, coils, region)?;
    expect_matrix(OP, matrix)?;
    if matrix.len() != region.len() || matrix.iter().zip(region).any(|(whole, part)| whole < part) {
        let expected = format!("an image no smaller than the calibration of {region:?}");
        return Err(Error::shape(OP, expected, format!("{matrix:?}")));
    }
    let mut images = vec![Complex::default(); coils * matrix.iter().product::<usize>()];
    pad(kcal, region, matrix, &mut images);
    CentredFft::new(matrix).inverse(&mut images);
    Ok(images)
}

/// Sensitivities of coil images `[coils, matrix…]`: the dominant eigenvector of the sum of `x xᴴ` over a window,
/// of unit length; the phase of the first coil is removed. Outside the image there are zeros.
///
/// # Errors
/// If sizes and values do not fit together, a value is not finite, or the window is not odd.
pub fn walsh<T: Real>(
    images: &[Complex<T>],
    coils: usize,
    matrix: &[usize],
    config: &WalshConfig,
) -> Result<Vec<Complex<T>>> {
    const OP: &str = "walsh";
    check(OP, images, coils, matrix)?;
    if config.window.is_multiple_of(2) {
        return Err(Error::value(OP, format!("a window is odd, not {}", config.window)));
    }
    let last = matrix[matrix.len() - 1];
    let count = images.len() / coils / last;
    let mut maps = vec![Complex::default(); images.len()];
    let mut lines: Vec<Vec<&mut [Complex<T>]>> =
        (0..count).map(|_| Vec::with_capacity(coils)).collect();
    for (i, line) in maps.chunks_exact_mut(last).enumerate() {
        lines[i % count].push(line);
    }
    lines.into_par_iter().enumerate().for_each(|(line, mut maps)| {
        let sums = correlations(images, coils, matrix, line, config.window / 2);
        for voxel in 0..last {
            let from = voxel.saturating_sub(config.window / 2);
            let to = last.min(voxel + config.window / 2 + 1);
            let vector = dominant(&sums, coils, last, from, to);
            for (map, v) in maps.iter_mut().zip(vector) {
                map[voxel] = narrow(v);
            }
        }
    });
    Ok(maps)
}

/// The correlations `[pair of coils, voxel]` of a line of voxels along the last axis, summed over the lines
/// within `reach` of it.
fn correlations<T: Real>(
    images: &[Complex<T>],
    coils: usize,
    matrix: &[usize],
    line: usize,
    reach: usize,
) -> Vec<Complex<f64>> {
    let (leading, last) = (&matrix[..matrix.len() - 1], matrix[matrix.len() - 1]);
    let mut near = vec![0];
    let mut stride = leading.iter().product::<usize>();
    let mut rest = line;
    for &size in leading {
        stride /= size;
        let at = rest / stride;
        rest %= stride;
        let range = at.saturating_sub(reach)..size.min(at + reach + 1);
        near = near.iter().flat_map(|&l| range.clone().map(move |at| l + at * stride)).collect();
    }
    let voxels = images.len() / coils;
    let mut sums = vec![Complex::default(); coils * (coils + 1) / 2 * last];
    for line in near {
        let of = |coil: usize| &images[coil * voxels + line * last..][..last];
        let pairs = (0..coils).flat_map(|c| (0..=c).map(move |d| (c, d)));
        for ((c, d), sums) in pairs.zip(sums.chunks_exact_mut(last)) {
            for (sum, (&a, &b)) in sums.iter_mut().zip(of(c).iter().zip(of(d))) {
                *sum += wide(a) * wide(b).conj();
            }
        }
    }
    sums
}

/// The dominant eigenvector of the correlations of the voxels `from..to` of a line.
fn dominant(
    sums: &[Complex<f64>],
    coils: usize,
    last: usize,
    from: usize,
    to: usize,
) -> Vec<Complex<f64>> {
    let mut matrix = DMatrix::zeros(coils, coils);
    // of a Hermitian matrix only the lower triangle is read
    let pairs = (0..coils).flat_map(|c| (0..=c).map(move |d| (c, d)));
    for ((c, d), sums) in pairs.zip(sums.chunks_exact(last)) {
        matrix[(c, d)] = sums[from..to].iter().sum::<Complex<f64>>();
    }
    let eigen = SymmetricEigen::new(matrix);
    let vector = eigen.eigenvectors.column(eigen.eigenvalues.imax());
    let norm = vector[0].norm();
    let phase = if norm > 0.0 { vector[0].conj() / norm } else { Complex::new(1.0, 0.0) };
    vector.iter().map(|v| v * phase).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fixture::{Fixture, load};
    use crate::operator::tests::{distance, random};
    use crate::real::turn;

    /// The metric of the fixture: how far sensitivities are from the true ones where there is an object.
    pub(in crate::coils) fn overlap_error(fixture: &Fixture, maps: &[Complex<f64>]) -> f64 {
        let truth = fixture.complex("mps_true");
        let (support, coils) = (fixture.values("img_support"), fixture.shape("mps_true")[0]);
        let voxels = support.len();
        let error = |voxel: usize| {
            let at = |c: usize| truth[c * voxels + voxel].conj() * maps[c * voxels + voxel];
            1.0 - (0..coils).map(at).sum::<Complex<f64>>().norm_sqr()
        };
        let inside: Vec<f64> = (0..voxels).filter(|&v| support[v] > 0.0).map(error).collect();
        (inside.iter().sum::<f64>() / inside.len() as f64).sqrt()
    }

    /// Images of a smooth object that smooth sensitivities of unit length see, and those.
    pub(in crate::coils) fn coil_images(
        coils: usize,
        matrix: &[usize],
    ) -> (Vec<Complex<f64>>, Vec<Complex<f64>>) {
        let voxels: usize = matrix.iter().product();
        let position = |voxel: usize| {
            let mut rest = voxel;
            let mut at: Vec<f64> = matrix
                .iter()
                .rev()
                .map(|&size| {
                    let at = (rest % size) as f64 / size as f64 - 0.5;
                    rest /= size;
                    at
                })
                .collect();
            at.reverse();
            at
        };
        let sensitivity = |coil: usize, at: &[f64]| {
            let angle = coil as f64 / coils as f64;
            let centre: Complex<f64> = turn(angle);
            let tilt = if coil.is_multiple_of(2) { 0.3 } else { -0.3 };
            let apart = at.iter().zip([centre.re, centre.im, tilt]).map(|(a, c)| (a - c).powi(2));
            turn::<f64>(angle + 0.3 * at[0]).scale((-apart.sum::<f64>()).exp())
        };
        let (mut images, mut maps) =
            (vec![Complex::default(); coils * voxels], vec![Complex::default(); coils * voxels]);
        for voxel in 0..voxels {
            let at = position(voxel);
            let radius = at.iter().map(|a| a * a).sum::<f64>().sqrt();
            let object = 1.0 / (1.0 + (30.0 * (radius - 0.36)).exp());
            let all: Vec<_> = (0..coils).map(|c| sensitivity(c, &at)).collect();
            let norm = all.iter().map(|s| s.norm_sqr()).sum::<f64>().sqrt();
            let phase = all[0].conj() / all[0].norm();
            for (c, s) in all.into_iter().enumerate() {
                maps[c * voxels + voxel] = s * phase / norm;
                images[c * voxels + voxel] = s.scale(object / norm);
            }
        }
        (images, maps)
    }

    /// The part of the voxels within the object of [`coil_images`] at which sensitivities are those expected, up to
    /// a phase, with an overlap above `least`.
    pub(in crate::coils) fn agreement(
        images: &[Complex<f64>],
        expected: &[Complex<f64>],
        maps: &[Complex<f64>],
        coils: usize,
        least: f64,
    ) -> f64 {
        let voxels = images.len() / coils;
        let seen: Vec<bool> = (0..voxels)
            .filter(|&voxel| images[voxel].norm() > 0.3)
            .map(|voxel| {
                let at = |c: usize| expected[c * voxels + voxel].conj() * maps[c * voxels + voxel];
                (0..coils).map(at).sum::<Complex<f64>>().norm() > least
            })
            .collect();
        assert!(seen.len() > 100);
        seen.iter().filter(|&&seen| seen).count() as f64 / seen.len() as f64
    }

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/coil_maps") else { return };
        let (shape, matrix) = (fixture.shape("kcal"), &fixture.shape("walsh")[1..3]);
        let images = calibration_images(&fixture.complex("kcal"), shape[0], &shape[1..3], matrix);
        let images = images.expect("images");
        let maps = walsh(&images, shape[0], matrix, &WalshConfig::default()).expect("maps");
        let expected = fixture.complex("walsh");
        let worst = maps.iter().zip(&expected).map(|(a, b)| (a - b).norm()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "off by {worst:e}");
        let error = overlap_error(&fixture, &maps);
        let known = overlap_error(&fixture, &expected);
        assert!((error - known).abs() < 1e-6, "{error} {known}");
    }

    #[test]
    fn finds_smooth_sensitivities_in_space() {
        let (coils, matrix) = (3, [14, 12, 13]);
        let (images, maps) = coil_images(coils, &matrix);
        let got = walsh(&images, coils, &matrix, &WalshConfig { window: 3 }).expect("maps");
        let part = agreement(&images, &maps, &got, coils, 0.99);
        assert!(part > 0.95, "{part}");
        // a window of one voxel sees only that
        let got = walsh(&images, coils, &matrix, &WalshConfig { window: 1 }).expect("maps");
        assert!(distance(&got, &maps) < 1e-12);
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        let images = random::<f32>(1, 2 * 20);
        let error = walsh(&images, 2, &[4, 5], &WalshConfig { window: 4 }).expect_err("refused");
        assert!(error.to_string().contains("odd, not 4"));
        assert!(walsh(&images, 2, &[4, 4], &WalshConfig::default()).is_err());
        let error = calibration_images(&images, 2, &[4, 5], &[8, 4]).expect_err("refused");
        assert!(error.to_string().contains("no smaller than the calibration"));
    }
}
