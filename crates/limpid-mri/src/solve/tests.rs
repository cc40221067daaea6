//! Solvers against the iterates of fixtures, and against direct solutions.

use super::*;
use crate::fixture::{Fixture, load};
use crate::operator::tests::{distance, random};
use crate::prox::{Shift, Wavelet, WaveletThreshold};
use crate::real::narrow;
use crate::sense::tests::{Dense, apply};
use crate::{Sense, Weighted};
use nalgebra::{DMatrix, DVector};
use std::ops::ControlFlow;

/// The weighted samples of the coils of the fixture, and `AᴴWy`.
fn problem<T: Real>(fixture: &Fixture) -> (Sense<T, Weighted<T, Dense<T>>>, Vec<Complex<T>>) {
    let [coils, rows, columns, _] = fixture.shape("mps")[..] else { panic!("coil maps") };
    let dims = [rows, columns];
    let complex = |name: &str| fixture.complex(name).into_iter().map(narrow).collect::<Vec<_>>();
    let weights = fixture.values("w").iter().map(|&w| T::of(w)).collect();
    let exact = Dense::fourier(fixture.values("trj"), &dims);
    let weighted = Weighted::new(exact, weights).unwrap();
    let mut samples = complex("y");
    weighted.weigh(&mut samples).unwrap();
    let sense = Sense::new(weighted, coils, &dims, complex("mps")).unwrap();
    let mut right = vec![Complex::default(); sense.domain()];
    sense.adjoint(&samples, &mut right);
    (sense, right)
}

fn never<T>(_: Step<'_, T>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Compares each step that the fixture has, named `name` and its number, and gives the number of those.
fn follow<T: Real>(
    fixture: &Fixture,
    name: &str,
    numbers: &[usize],
    tolerance: f64,
    run: impl FnOnce(&mut dyn FnMut(Step<'_, T>) -> ControlFlow<()>),
) {
    let mut seen = Vec::new();
    run(&mut |step| {
        if numbers.contains(&step.iteration) {
            let expected: Vec<Complex<T>> = fixture
                .complex(&format!("{name}{}", step.iteration))
                .into_iter()
                .map(narrow)
                .collect();
            let off = distance(step.image, &expected);
            assert!(off <= tolerance, "{name}{} is off by {off:e}", step.iteration);
            seen.push(step.iteration);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(seen, numbers);
}

#[test]
fn conjugate_gradients_follow_the_fixture() {
    fn check<T: Real>(fixture: &Fixture, tolerance: f64) {
        let (sense, right) = problem::<T>(fixture);
        let expected: Vec<_> = fixture.complex("AHy").into_iter().map(narrow::<T>).collect();
        assert!(distance(&right, &expected) <= tolerance);
        let lambda = fixture.metadata("lam").parse().unwrap();
        let settings = ConjugateGradient { lambda, iterations: 20, tolerance: 0.0 };
        let mut image = vec![Complex::default(); right.len()];
        follow(fixture, "x", &[1, 2, 3, 5, 10, 20], tolerance, |observe| {
            conjugate_gradient(&sense, &right, &mut image, &settings, observe).unwrap();
        });
    }
    let Some(fixture) = load("unit/cg_sense") else { return };
    check::<f64>(&fixture, 1e-9);
    check::<f32>(&fixture, 1e-4);
}

#[test]
fn fista_follows_the_fixture() {
    let (Some(data), Some(fixture)) = (load("unit/cg_sense"), load("unit/prox")) else { return };
    let (sense, right) = problem::<f64>(&data);
    let number = |name| fixture.metadata(name).parse::<f64>().unwrap();
    let lambda_max = number("fista_lmax");
    let dims = &fixture.shape("fista1")[..2];
    let mut prox = WaveletThreshold::new(Wavelet::Haar, 2, 1, dims, Shift::None).unwrap();
    let settings =
        Fista { lambda_max, threshold: number("fista_thr"), iterations: 20, tolerance: 0.0 };
    let mut image: Vec<_> = right.iter().map(|v| v / lambda_max).collect();
    follow(&fixture, "fista", &[1, 2, 5, 20], 1e-9, |observe| {
        fista(&sense, &right, &mut image, &mut prox, &settings, observe).unwrap();
    });
}

/// A problem, `AᴴA` as a matrix, and a right-hand side.
fn small() -> (Dense<f64>, DMatrix<Complex<f64>>, Vec<Complex<f64>>) {
    let operator = Dense::random(1, 14, 9);
    let normal = DMatrix::from_fn(9, 9, |row, column| {
        let mut unit = vec![Complex::default(); 9];
        unit[column] = Complex::from(1.0);
        operator.normal(&unit.clone(), &mut unit);
        unit[row]
    });
    let mut right = random(2, 9);
    operator.adjoint(&apply(&operator, &random(3, 9)), &mut right);
    (operator, normal, right)
}

#[test]
fn conjugate_gradients_solve_from_any_start() {
    let (operator, normal, right) = small();
    let lambda = 0.3;
    let system = normal + DMatrix::identity(9, 9) * Complex::from(lambda);
    let solution = system.lu().solve(&DVector::from_vec(right.clone())).unwrap();
    let settings = ConjugateGradient { lambda, iterations: 40, tolerance: 1e-12 };
    for start in [vec![Complex::default(); 9], random(7, 9)] {
        let mut image = start;
        let outcome = conjugate_gradient(&operator, &right, &mut image, &settings, never).unwrap();
        assert!(outcome.converged && outcome.iterations <= 20, "{outcome:?}");
        assert!(distance(&image, solution.as_slice()) < 1e-10);
        // from the solution nothing is left to do
        let again = conjugate_gradient(
            &operator,
            &right,
            &mut image,
            &ConjugateGradient { tolerance: 1e-10, ..settings },
            never,
        );
        assert_eq!(again.unwrap().iterations, 0);
    }
    let mut image = random(7, 9);
    let zero = vec![Complex::default(); 9];
    let outcome = conjugate_gradient(&operator, &zero, &mut image, &settings, never).unwrap();
    assert!(outcome.converged && image == zero);
}

#[test]
fn observers_end_solvers() {
    let (operator, _, right) = small();
    let mut image = vec![Complex::default(); 9];
    let settings = ConjugateGradient { lambda: 0.0, iterations: 40, tolerance: 0.0 };
    let stop = |step: Step<'_, f64>| {
        if step.iteration == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let outcome = conjugate_gradient(&operator, &right, &mut image, &settings, stop).unwrap();
    assert_eq!((outcome.iterations, outcome.converged), (3, false));
    let lambda_max = power_iteration(&operator, 100, 1e-9).unwrap();
    let settings = Fista { lambda_max, threshold: 0.0, iterations: 40, tolerance: 0.0 };
    let mut prox = WaveletThreshold::new(Wavelet::Haar, 0, 1, &[9], Shift::None).unwrap();
    let outcome = fista(&operator, &right, &mut image, &mut prox, &settings, stop).unwrap();
    assert_eq!((outcome.iterations, outcome.converged), (3, false));
}

#[test]
fn power_iteration_finds_the_largest_eigenvalue() {
    let (operator, normal, _) = small();
    let expected = normal.symmetric_eigenvalues().max();
    let got = power_iteration(&operator, 2000, 1e-14).unwrap();
    assert!((got / expected - 1.0).abs() < 1e-10, "{got} {expected}");
    assert!(power_iteration(&operator, 5, 0.0).unwrap() <= expected * (1.0 + 1e-14));
    let nothing = Weighted::new(operator, vec![0.0; 14]).unwrap();
    assert_eq!(power_iteration(&nothing, 5, 0.0), Ok(0.0));
}

#[test]
fn fista_reaches_the_optimum_of_sparse_images() {
    let (operator, normal, right) = small();
    let lambda_max = normal.clone().symmetric_eigenvalues().max() * 1.01;
    let mut prox = WaveletThreshold::new(Wavelet::Haar, 0, 1, &[9], Shift::None).unwrap();
    let weight = 12.0;
    let settings =
        Fista { lambda_max, threshold: weight / lambda_max, iterations: 20_000, tolerance: 1e-14 };
    let mut image = vec![Complex::default(); 9];
    let outcome = fista(&operator, &right, &mut image, &mut prox, &settings, never).unwrap();
    assert!(outcome.converged, "{outcome:?}");
    // the gradient of the data is a subgradient of the magnitudes
    let gradient = DVector::from_vec(right) - normal * DVector::from_vec(image.clone());
    for (x, g) in image.iter().zip(gradient.iter()) {
        let expected = if x.norm() > 0.0 { x / x.norm() * weight } else { *g };
        assert!((g - expected).norm() < 1e-6 && g.norm() < weight + 1e-6, "{x} {g}");
    }
}

#[test]
fn threads_change_no_bit() {
    let pixels = 30_000;
    let (diagonal, right) = (random::<f32>(1, pixels), random::<f32>(2, pixels));
    let operator = Sense::new(Identity(pixels), 1, &[pixels], diagonal).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut image = vec![Complex::default(); pixels];
            let settings = ConjugateGradient { lambda: 0.1, iterations: 4, tolerance: 0.0 };
            conjugate_gradient(&operator, &right, &mut image, &settings, never).unwrap();
            let lambda_max = power_iteration(&operator, 6, 0.0).unwrap();
            let settings = Fista { lambda_max, threshold: 0.1, iterations: 4, tolerance: 0.0 };
            let random = Shift::Random { seed: 3 };
            let mut prox = WaveletThreshold::new(Wavelet::Db3, 2, 1, &[200, 150], random).unwrap();
            fista(&operator, &right, &mut image, &mut prox, &settings, never).unwrap();
            image
        })
    };
    assert_eq!(run(1), run(3));
}

struct Identity(usize);

impl<T: Real> Operator<T> for Identity {
    fn domain(&self) -> usize {
        self.0
    }

    fn range(&self) -> usize {
        self.0
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        samples.copy_from_slice(image);
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        image.copy_from_slice(samples);
    }
}

/// Not the adjoint of anything: `AᴴA = −I`.
struct Wrong;

impl Operator<f64> for Wrong {
    fn domain(&self) -> usize {
        9
    }

    fn range(&self) -> usize {
        9
    }

    fn forward(&self, image: &[Complex<f64>], samples: &mut [Complex<f64>]) {
        samples.copy_from_slice(image);
    }

    fn adjoint(&self, samples: &[Complex<f64>], image: &mut [Complex<f64>]) {
        image.iter_mut().zip(samples).for_each(|(x, s)| *x = -s);
    }
}

#[test]
fn refuses_what_cannot_be_solved() {
    let (operator, _, right) = small();
    let settings = ConjugateGradient { lambda: 0.0, iterations: 4, tolerance: 0.0 };
    let solve = |operator: &dyn Operator<f64>, right: &[Complex<f64>], settings| {
        let mut image = vec![Complex::default(); 9];
        conjugate_gradient(operator, right, &mut image, settings, never)
            .expect_err("refused")
            .to_string()
    };
    assert!(solve(&operator, &right[1..], &settings).contains("right-hand side of 9 values"));
    let negative = ConjugateGradient { lambda: -1.0, ..settings };
    assert!(solve(&operator, &right, &negative).contains("`lambda`"));
    let mut broken = right.clone();
    broken[4].re = f64::NAN;
    assert!(solve(&operator, &broken, &settings).contains("not finite"));
    assert!(solve(&Wrong, &right, &settings).contains("its own adjoint"));
    let settings = Fista { lambda_max: 1.0, threshold: 0.1, iterations: 4000, tolerance: 0.0 };
    let solve = |size: usize, settings: Fista| {
        let mut image = vec![Complex::default(); 9];
        let mut prox = WaveletThreshold::new(Wavelet::Haar, 0, 1, &[size], Shift::None).unwrap();
        fista(&operator, &right, &mut image, &mut prox, &settings, never)
            .expect_err("refused")
            .to_string()
    };
    assert!(solve(8, settings).contains("proximal map of 9 values"));
    assert!(solve(9, Fista { lambda_max: 0.0, ..settings }).contains("`lambda_max`"));
    assert!(solve(9, Fista { threshold: f64::NAN, ..settings }).contains("`threshold`"));
    // a step that is too long diverges
    assert!(solve(9, settings).contains("step too long"));
    assert!(power_iteration(&operator, 0, 0.0).is_err());
}
