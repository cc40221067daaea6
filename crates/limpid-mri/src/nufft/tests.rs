//! Tests against the definition of the transform, fixtures and each other.

use super::*;
use crate::fixture;
use crate::operator::tests::{check_adjoint, distance, inner, random};
use crate::real::{turn, wide};
use crate::{Weighted, crop, pad};
use limpid_kernels::rng::Stream;

/// The voxel of an index, as positions from the middle.
fn voxel(mut i: usize, matrix: &[usize]) -> Vec<f64> {
    let mut at = vec![0.0; matrix.len()];
    for d in (0..matrix.len()).rev() {
        at[d] = (i % matrix[d]) as f64 - (matrix[d] / 2) as f64;
        i /= matrix[d];
    }
    at
}

/// The factor of a voxel in the sample at `k`, by the definition.
fn factor(k: &[f64], r: &[f64], matrix: &[usize]) -> Complex<f64> {
    let phase: f64 = (0..matrix.len()).map(|d| k[d] * r[d] / matrix[d] as f64).sum();
    turn::<f64>(-phase) / (matrix.iter().product::<usize>() as f64).sqrt()
}

/// Images to samples, by the definition.
fn direct(image: &[Complex<f64>], trajectory: &Trajectory, matrix: &[usize]) -> Vec<Complex<f64>> {
    let sample = |k: &[f64]| {
        let terms = image.iter().enumerate().map(|(i, v)| v * factor(k, &voxel(i, matrix), matrix));
        terms.sum()
    };
    trajectory.points().chunks_exact(matrix.len()).map(sample).collect()
}

/// Samples to images, by the definition.
fn direct_adjoint(
    samples: &[Complex<f64>],
    trajectory: &Trajectory,
    matrix: &[usize],
) -> Vec<Complex<f64>> {
    let value = |i: usize| {
        let r = voxel(i, matrix);
        let points = trajectory.points().chunks_exact(matrix.len());
        points.zip(samples).map(|(k, v)| v * factor(k, &r, matrix).conj()).sum()
    };
    (0..matrix.iter().product()).map(value).collect()
}

/// Positions all over k-space, some at its edges and beyond, some twice.
fn scattered(seed: u64, count: usize, matrix: &[usize]) -> Trajectory {
    let mut draws = Stream::new(seed, "positions").draws();
    let mut points = Vec::new();
    for i in 0..count {
        for (d, &size) in matrix.iter().enumerate() {
            let edge = size as f64 / 2.0;
            points.push(match i % 11 {
                3 if d == 0 => edge + 0.3,
                4 if d == 1 => -edge,
                5 => points[points.len() - matrix.len()],
                _ => (2.0 * draws.uniform() - 1.0) * edge,
            });
        }
    }
    Trajectory::new(1, count, matrix.len(), points).unwrap()
}

fn narrowed<T: Real>(values: &[Complex<f64>]) -> Vec<Complex<T>> {
    values.iter().map(|&v| crate::real::narrow(v)).collect()
}

/// The errors of both directions relative to the definition.
fn errors<T: Real>(trajectory: &Trajectory, matrix: &[usize], tolerance: f64) -> [f64; 2] {
    let nufft = Nufft::<T>::new(trajectory, matrix, tolerance).unwrap();
    let image: Vec<Complex<f64>> =
        random::<T>(1, nufft.domain()).iter().map(|&v| wide(v)).collect();
    let samples: Vec<Complex<f64>> =
        random::<T>(2, nufft.range()).iter().map(|&v| wide(v)).collect();
    let mut got = narrowed::<T>(&samples);
    nufft.forward(&narrowed(&image), &mut got);
    let wider = |values: &[Complex<T>]| values.iter().map(|&v| wide(v)).collect::<Vec<_>>();
    let forward = distance(&wider(&got), &direct(&image, trajectory, matrix));
    let mut got = narrowed::<T>(&image);
    nufft.adjoint(&narrowed(&samples), &mut got);
    let adjoint = distance(&wider(&got), &direct_adjoint(&samples, trajectory, matrix));
    [forward, adjoint]
}

const MATRICES: [&[usize]; 6] = [&[16, 16], &[15, 21], &[33, 10], &[1, 5], &[8, 7, 9], &[6, 13, 2]];

#[test]
fn every_tolerance_is_kept() {
    for matrix in MATRICES {
        let trajectory = scattered(1, 300, matrix);
        for digits in 2..=12 {
            let tolerance = 10f64.powi(-digits);
            let wide = errors::<f64>(&trajectory, matrix, tolerance);
            assert!(wide.iter().all(|e| *e <= tolerance), "{matrix:?} {tolerance:e}: {wide:?}");
            if digits <= 6 {
                let single = errors::<f32>(&trajectory, matrix, tolerance);
                assert!(
                    single.iter().all(|e| *e <= tolerance),
                    "{matrix:?} {tolerance:e}: {single:?}"
                );
            }
        }
    }
}

#[test]
fn both_oversamplings_keep_the_tolerance() {
    // many samples of a small image and few of a large one, so that either is the cheaper
    for tolerance in [1e-2, 1e-4, 1e-5] {
        for (count, matrix) in [(4000, [12, 14]), (30, [80, 75])] {
            let trajectory = scattered(4, count, &matrix);
            let got = errors::<f32>(&trajectory, &matrix, tolerance);
            assert!(got.iter().all(|e| *e <= tolerance), "{matrix:?} {tolerance:e}: {got:?}");
        }
    }
}

#[test]
fn the_adjoint_is_exact() {
    for matrix in MATRICES {
        let trajectory = scattered(2, 200, matrix);
        for tolerance in [1e-2, 1e-5] {
            check_adjoint(&Nufft::<f64>::new(&trajectory, matrix, tolerance).unwrap(), 1e-14);
            check_adjoint(&Nufft::<f32>::new(&trajectory, matrix, tolerance).unwrap(), 1e-6);
        }
    }
}

#[test]
fn one_sample_and_many_at_one_place() {
    for points in [vec![0.0, 0.0], vec![3.7, -4.5], [1.3, 2.4].repeat(50)] {
        let trajectory = Trajectory::new(1, points.len() / 2, 2, points).unwrap();
        let got = errors::<f64>(&trajectory, &[16, 9], 1e-9);
        assert!(got.iter().all(|e| *e <= 1e-9), "{got:?}");
    }
}

#[test]
fn several_images_are_each_transformed() {
    let matrix = [12, 9];
    let trajectory = scattered(3, 2500, &matrix);
    let nufft = Nufft::<f32>::new(&trajectory, &matrix, 1e-4).unwrap();
    let images = random::<f32>(4, 11 * nufft.domain());
    let mut samples = random::<f32>(5, 11 * nufft.range());
    let mut back = images.clone();
    nufft.adjoint_many(&samples, &mut back);
    let parts = samples.chunks(nufft.range()).zip(back.chunks(nufft.domain()));
    for (samples, expected) in parts {
        let mut one = expected.to_vec();
        nufft.adjoint(samples, &mut one);
        assert!(one == expected);
    }
    nufft.forward_many(&images, &mut samples);
    for (image, expected) in images.chunks(nufft.domain()).zip(samples.chunks(nufft.range())) {
        let mut one = expected.to_vec();
        nufft.forward(image, &mut one);
        assert!(one == expected);
    }
}

#[test]
fn threads_change_no_bit() {
    for matrix in [&[40, 30][..], &[12, 14, 10]] {
        let trajectory = scattered(6, 3000, matrix);
        let result = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let nufft = Nufft::<f32>::new(&trajectory, matrix, 1e-3).unwrap();
                let mut image = random::<f32>(7, 3 * nufft.domain());
                let mut samples = vec![Complex::default(); 3 * nufft.range()];
                nufft.forward_many(&image, &mut samples);
                nufft.adjoint_many(&samples, &mut image);
                let ones = vec![1.0; nufft.range()];
                let weighted = Weighted::toeplitz(&trajectory, ones, matrix, 1e-3).unwrap();
                let mut convolved = image.clone();
                weighted.normal(&image, &mut convolved);
                (samples, image, convolved)
            })
        };
        let one = result(1);
        assert!([2, 3, 8].iter().all(|&threads| result(threads) == one));
    }
}

#[test]
fn the_convolution_is_the_normal_operator() {
    for matrix in MATRICES {
        let trajectory = scattered(8, 150, matrix);
        let weights: Vec<f64> = (0..150).map(|i| 0.2 + (i % 7) as f64).collect();
        let toeplitz = Weighted::toeplitz(&trajectory, weights.clone(), matrix, 1e-11).unwrap();
        let image = random(9, toeplitz.domain());
        let mut samples = direct(&image, &trajectory, matrix);
        for (sample, weight) in samples.iter_mut().zip(&weights) {
            *sample *= weight;
        }
        let expected = direct_adjoint(&samples, &trajectory, matrix);
        let mut got = image.clone();
        toeplitz.normal(&image, &mut got);
        let gap = distance(&got, &expected);
        assert!(gap < 1e-10, "{matrix:?}: {gap:e}");
        check_adjoint(&toeplitz, 1e-10);
        assert!(inner(&image, &got).im.abs() < 1e-12 * inner(&image, &got).re);
    }
}

#[test]
fn fits_the_fixture() {
    let Some(fixture) = fixture::load("unit/nufft") else { return };
    for name in ["n15", "n16"] {
        let array = |key: &str| fixture.complex(&format!("{name}.{key}"));
        let shape = |key: &str| fixture.shape(&format!("{name}.{key}")).to_vec();
        let (img, y) = (array("img"), array("y"));
        let matrix = &shape("img")[..2];
        let points = fixture.values(&format!("{name}.trj")).to_vec();
        let trajectory = Trajectory::new(1, shape("trj")[0], 2, points).unwrap();
        let nufft = Nufft::<f64>::new(&trajectory, matrix, 1e-12).unwrap();
        let check = |what: &str, got: &[Complex<f64>]| {
            let gap = distance(got, &array(what));
            assert!(gap < 1e-11, "{name}.{what}: {gap:e}");
        };
        let (mut samples, mut image) = (y.clone(), img.clone());
        nufft.forward(&img, &mut samples);
        check("fwd", &samples);
        nufft.adjoint(&y, &mut image);
        check("adj", &image);

        let weights = fixture.values(&format!("{name}.w"));
        for (sample, weight) in samples.iter_mut().zip(weights) {
            *sample *= weight;
        }
        nufft.adjoint(&samples, &mut image);
        check("normal", &image);
        let toeplitz = Weighted::toeplitz(&trajectory, weights.to_vec(), matrix, 1e-12).unwrap();
        toeplitz.normal(&img, &mut image);
        check("normal", &image);

        let fft = CentredFft::new(matrix);
        image.copy_from_slice(&img);
        fft.forward(&mut image);
        check("cfft", &image);
        image.copy_from_slice(&img);
        fft.inverse(&mut image);
        check("cifft", &image);
        let (outer, inner) = (&shape("pad21")[..2], &shape("crop10")[..2]);
        let mut padded = array("pad21");
        pad(&img, matrix, outer, &mut padded);
        check("pad21", &padded);
        let mut cropped = array("crop10");
        crop(&img, matrix, inner, &mut cropped);
        check("crop10", &cropped);
    }
}

#[test]
fn the_window_has_its_transform_and_polynomials() {
    for (width, oversampling) in [(2, 2.0), (5, 2.0), (7, 1.25), (9, 1.5), (14, 2.0), (16, 1.25)] {
        let kernel = Kernel::new(width, oversampling);
        let half = width as f64 / 2.0;
        let steps = 200_000;
        let step = width as f64 / steps as f64;
        for frequency in [0.0, 0.1, 0.31, 0.5, 0.9, 1.3] {
            let x = (0..steps).map(|i| (i as f64 + 0.5) * step - half);
            let terms = x.map(|x| kernel.value(x) * turn::<f64>(frequency * x).re);
            let integral = terms.sum::<f64>() * step;
            let gap = (integral - kernel.transform(frequency)).abs();
            assert!(gap < 1e-10 * kernel.transform(0.0), "{kernel:?} at {frequency}: {gap:e}");
        }
        for tolerance in [1e-3, 1e-6, 1e-12] {
            let powers = kernel.polynomials(tolerance, 2);
            for i in 0..=40 {
                let z = f64::from(i) / 20.0 - 1.0;
                for j in 0..width {
                    let value = powers.iter().fold(0.0, |value, power| value * z + power[j]);
                    let gap = (value - kernel.value(j as f64 - half + (z + 1.0) / 2.0)).abs();
                    assert!(gap < 0.1 * tolerance, "{kernel:?}, {tolerance:e}: {gap:e}");
                }
            }
        }
    }
}

#[test]
fn refuses_what_it_cannot_transform() {
    let trajectory = scattered(1, 20, &[16, 16]);
    let problem = |matrix: &[usize], tolerance| {
        Nufft::<f32>::new(&trajectory, matrix, tolerance).err().unwrap().to_string()
    };
    assert!(problem(&[16, 16], 1e-7).contains("1e-6 to 1e-2"));
    assert!(problem(&[16, 16], f64::NAN).contains("tolerance"));
    assert!(problem(&[16, 16], 0.5).contains("tolerance"));
    assert!(problem(&[16], 1e-3).contains("2 sizes"));
    assert!(problem(&[16, 8], 1e-3).contains("too small"));
}
