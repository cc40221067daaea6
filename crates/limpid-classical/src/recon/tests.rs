//! Golden parity, adjointness and refusals.

use super::*;
use crate::fixture::{assert_close, load};

const EXACT: f64 = 1e-10;

fn values(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f64 / 1009.0 - 0.3).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn projections_and_back_projections_equal_skimage() {
    let Some(f) = load("pet_recon") else { return };
    let shape: [usize; 2] = f.shape("phantom").try_into().unwrap();
    let radon = Radon::new(shape, f.values("theta_deg"), true).unwrap();
    assert_eq!(radon.sinogram_shape(), f.shape("radon"));
    let sinogram = radon.project(f.values("phantom")).unwrap();
    assert_close("radon", &sinogram, f.values("radon"), EXACT);
    for (name, filter) in [("fbp_ramp", RampFilter::Ramp), ("fbp_hann", RampFilter::Hann)] {
        let got = radon.filtered_back_projection(f.values("radon"), filter).unwrap();
        assert_close(name, &got, f.values(name), EXACT);
    }
}

#[test]
fn expectation_maximisation_equals_its_definition() {
    let Some(f) = load("pet_recon") else { return };
    let matrix = SystemMatrix::new(f.values("mlem.A").to_vec(), f.shape("mlem.A")[1]).unwrap();
    let (counts, background) = (f.values("mlem.y"), f.values("mlem.background"));
    for (name, subsets) in [("mlem.traj", 1), ("osem3.traj", 3)] {
        let mut osem = Osem::new(&matrix, counts, background, subsets).unwrap();
        for (i, expected) in f.values(name).chunks(matrix.pixels()).enumerate() {
            if subsets == 1 {
                let expected = f.values("mlem.loglik_before_iter")[i];
                let got = osem.log_likelihood().unwrap();
                assert_close("log-likelihood", &[got], &[expected], 1e-10 * expected.abs());
            }
            osem.iterate().unwrap();
            assert_close(&format!("{name} {i}"), osem.image(), expected, EXACT);
        }
    }
}

#[test]
fn back_projection_is_the_adjoint() {
    let angles: Vec<f64> = (0..19).map(|i| 9.7 * f64::from(i)).collect();
    for (shape, circle) in [([16, 16], true), ([17, 17], true), ([9, 14], false), ([1, 3], false)] {
        let radon = Radon::new(shape, &angles, circle).unwrap();
        let (image, data) = (values(radon.pixels(), 1), values(radon.measurements(), 2));
        let there = dot(&radon.project(&image).unwrap(), &data);
        let back = dot(&image, &radon.back_project(&data).unwrap());
        assert!((there - back).abs() < 1e-12 * there.abs().max(1.0), "{shape:?}: {there} {back}");
    }
    let weights = values(30, 3).into_iter().map(f64::abs).collect();
    let matrix = SystemMatrix::new(weights, 5).unwrap();
    let (image, data) = (values(5, 1), values(6, 2));
    let there = dot(&matrix.project(&image).unwrap(), &data);
    let back = dot(&image, &matrix.back_project(&data).unwrap());
    assert!((there - back).abs() < 1e-12, "{there} {back}");
}

/// A disk of ones.
fn disk(side: usize, radius: f64) -> Vec<f64> {
    let at = |i: usize| i as f64 - (side / 2) as f64;
    let inside = |i: usize| at(i / side).hypot(at(i % side)) <= radius;
    (0..side * side).map(|i| f64::from(u8::from(inside(i)))).collect()
}

#[test]
fn images_come_back_from_their_projections() {
    let angles: Vec<f64> = (0..60).map(|i| 3.0 * f64::from(i)).collect();
    let image = disk(33, 9.0);
    let off = |got: &[f64]| {
        let squares: f64 = got.iter().zip(&image).map(|(a, b)| (a - b) * (a - b)).sum();
        (squares / image.iter().sum::<f64>()).sqrt()
    };
    for circle in [true, false] {
        let radon = Radon::new([33, 33], &angles, circle).unwrap();
        let data = radon.project(&image).unwrap();
        for filter in [
            RampFilter::Ramp,
            RampFilter::SheppLogan,
            RampFilter::Cosine,
            RampFilter::Hamming,
            RampFilter::Hann,
        ] {
            let got = radon.filtered_back_projection(&data, filter).unwrap();
            assert!(off(&got) < 0.25, "{filter:?}: {}", off(&got));
            let middle = got[16 * 33 + 16];
            assert!((middle - 1.0).abs() < 0.05, "{filter:?}: {middle}");
        }
        let none = vec![0.0; data.len()];
        let slow = mlem(&radon, &data, &none, 12).unwrap();
        let fast = osem(&radon, &data, &none, 6, 2).unwrap();
        assert!(off(&slow) < 0.25 && off(&fast) < 0.25, "{} {}", off(&slow), off(&fast));
    }
}

#[test]
fn likelihood_never_falls_and_counts_are_kept() {
    let angles = [0.0, 40.0, 80.0, 120.0];
    let radon = Radon::new([12, 12], &angles, true).unwrap();
    let counts: Vec<f64> =
        radon.project(&disk(12, 4.0)).unwrap().iter().map(|v| v.round()).collect();
    let none = vec![0.0; counts.len()];
    let mut osem = Osem::new(&radon, &counts, &none, 1).unwrap();
    let mut before = osem.log_likelihood().unwrap();
    for _ in 0..10 {
        osem.iterate().unwrap();
        let after = osem.log_likelihood().unwrap();
        assert!(after >= before, "{after} after {before}");
        before = after;
        // without a background each iteration explains all counts
        let explained: f64 = radon.project(osem.image()).unwrap().iter().sum();
        assert_close("counts", &[explained], &[counts.iter().sum()], 1e-9);
    }
}

#[test]
fn thread_count_changes_no_bit() {
    let angles: Vec<f64> = (0..37).map(f64::from).collect();
    let radon = Radon::new([20, 20], &angles, true).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let data = radon.project(&disk(20, 7.0)).unwrap();
            let back = radon.back_project(&data).unwrap();
            (radon.filtered_back_projection(&data, RampFilter::Hann).unwrap(), back, data)
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_refused_by_name() {
    let refused = |error: Error, words: &str| {
        assert!(error.to_string().contains(words), "{error} lacks {words:?}");
    };
    refused(Radon::new([3, 4], &[0.0], true).unwrap_err(), "expected a square image");
    refused(Radon::new([3, 0], &[0.0], false).unwrap_err(), "not empty");
    refused(Radon::new([3, 3], &[], true).unwrap_err(), "`angles` must hold at least one");
    refused(Radon::new([3, 3], &[f64::NAN], true).unwrap_err(), "got NaN");
    let radon = Radon::new([3, 3], &[0.0, 90.0], true).unwrap();
    refused(radon.project(&[0.0; 4]).unwrap_err(), "expected an image of 9 values, got 4");
    refused(radon.back_project(&[f64::INFINITY; 6]).unwrap_err(), "inf at [0]");
    let fbp = radon.filtered_back_projection(&[0.0; 5], RampFilter::Ramp);
    refused(fbp.unwrap_err(), "expected a sinogram of 6 values");
    refused(SystemMatrix::new(vec![1.0; 5], 2).unwrap_err(), "5 values for 2 pixels");
    refused(SystemMatrix::new(vec![1.0, -0.5], 1).unwrap_err(), "no negative weights");
    let start = |counts: f64, subsets| Osem::new(&radon, &[counts; 6], &[0.0; 6], subsets);
    refused(start(-1.0, 1).unwrap_err(), "`counts` must not be negative, got -1");
    refused(start(1.0, 3).unwrap_err(), "`subsets` must be between 1 and 2, got 3");
    refused(start(1.0, 0).unwrap_err(), "`subsets`");
    refused(Osem::new(&radon, &[1.0; 6], &[0.0; 2], 1).unwrap_err(), "expected background of 6");
}
