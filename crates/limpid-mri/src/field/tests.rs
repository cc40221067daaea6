//! Segments against fixtures, exact phases and each other.

use super::*;
use crate::fixture::{Fixture, assert_close, load};
use crate::operator::tests::{check_adjoint, distance, random};
use crate::real::turn;
use crate::sense::tests::{Dense, apply};
use crate::{Complex, ConjugateGradient, Operator, Sense, conjugate_gradient};
use std::ops::ControlFlow;

const NODES: usize = 256;

fn phase(fixture: &Fixture) -> FieldPhase {
    FieldPhase::off_resonance(fixture.values("b0"), fixture.values("t"), FieldSign::Negative)
        .unwrap()
}

/// Samples of the coils of the fixture under segments.
fn samples(fixture: &Fixture, segments: Segments<f64>) -> Vec<Complex<f64>> {
    let [coils, rows, columns, _] = fixture.shape("mps")[..] else { panic!("coil maps") };
    let exact = Dense::fourier(fixture.values("trj"), &[rows, columns]);
    let operator = FieldOperator::new(exact, segments).unwrap();
    let sense = Sense::new(operator, coils, &[rows, columns], fixture.complex("mps")).unwrap();
    apply(&sense, &fixture.complex("img"))
}

#[test]
fn segments_follow_the_fixture() {
    let Some(fixture) = load("unit/cg_sense") else { return };
    let phase = phase(&fixture);
    let terms = fixture.shape("ts_centers")[0];
    let exact = fixture.complex("y_field_exact");
    let number = |name| fixture.metadata(name).parse::<f64>().unwrap();

    let zero = Segments::<f64>::new(&phase, terms, FieldMethod::ZeroOrder, NODES).unwrap();
    assert!(distance(zero.spatial(), &fixture.complex("ts_spatial")) < 1e-12);
    let temporal: Vec<f64> = zero.temporal().iter().map(|h| h.re).collect();
    assert_close("ts_temporal_zero", &temporal, fixture.values("ts_temporal_zero"), 0.0);
    let got = samples(&fixture, zero);
    assert!(distance(&got, &fixture.complex("y_field_zero")) < 1e-11);
    assert!((distance(&got, &exact) - number("err_zero")).abs() < 1e-9);

    let fit = Segments::<f64>::new(&phase, terms, FieldMethod::LeastSquares, NODES).unwrap();
    assert!(distance(fit.spatial(), &fixture.complex("ts_spatial")) < 1e-12);
    assert!(distance(fit.temporal(), &fixture.complex("ts_temporal_lstsq")) < 1e-9);
    let got = samples(&fixture, fit);
    assert!(distance(&got, &fixture.complex("y_field_lstsq")) < 1e-9);
    assert!((distance(&got, &exact) - number("err_lstsq")).abs() < 1e-9);

    // of as few terms, the singular vectors are no worse
    let best = Segments::<f64>::new(&phase, terms, FieldMethod::Svd, NODES).unwrap();
    assert!(distance(&samples(&fixture, best), &exact) < number("err_lstsq"));
    let best = Segments::<f64>::new(&phase, 2 * terms, FieldMethod::Svd, NODES).unwrap();
    assert!(distance(&samples(&fixture, best), &exact) < 1e-7);
}

#[test]
fn centres_are_those_of_zero_order() {
    let (b0, times) = field([6, 7], 101);
    let phase = FieldPhase::off_resonance(&b0, &times, FieldSign::Negative).unwrap();
    for terms in [1, 2, 5] {
        let segments = Segments::<f64>::new(&phase, terms, FieldMethod::ZeroOrder, NODES).unwrap();
        for (i, centre) in segment_centres(&times, terms).unwrap().into_iter().enumerate() {
            let (spatial, temporal) = (segments.spatial().chunks(42), segments.temporal());
            let at = spatial.zip(temporal.chunks(101)).map(|(b, h)| b[13] * h[i]);
            let gap = (at.sum::<Complex<f64>>() - turn::<f64>(-b0[13] * centre)).norm();
            assert!(gap < 1e-12, "{terms} {i}: {gap:e}");
        }
    }
    assert!(segment_centres(&times, 0).is_err() && segment_centres(&[], 1).is_err());
    assert!(segment_centres(&[0.0, f64::NAN], 1).unwrap_err().to_string().contains("time 1"));
}

#[test]
fn singular_values_follow_the_fixture() {
    let Some(fixture) = load("unit/cg_sense") else { return };
    let expected = fixture.values("field_singular_values");
    let all = phase(&fixture).singular_values(usize::MAX).unwrap();
    let tolerance = 1e-9 * expected[0];
    assert_close("singular values", &all[..expected.len()], expected, tolerance);
    // quantised, they are nearly those
    let few = phase(&fixture).singular_values(NODES).unwrap();
    assert_close("few singular values", &few[..8], &expected[..8], 1e-3 * expected[0]);
}

/// A smooth field in hertz over an image, and the times of a readout in seconds.
fn field(dims: [usize; 2], times: usize) -> (Vec<f64>, Vec<f64>) {
    let at = |i: usize| {
        let (x, y) = (i / dims[1], i % dims[1]);
        60.0 * (x as f64 / 5.0).sin() - 3.0 * y as f64 + 10.0
    };
    let b0 = (0..dims[0] * dims[1]).map(at).collect();
    (b0, (0..times).map(|i| 1e-3 + 2e-5 * i as f64).collect())
}

#[test]
fn more_terms_are_nearer() {
    let (b0, times) = field([20, 17], 500);
    let phase = FieldPhase::off_resonance(&b0, &times, FieldSign::Negative).unwrap();
    let accuracy = |terms, method| {
        let segments = Segments::<f64>::new(&phase, terms, method, 64).unwrap();
        assert_eq!((segments.voxels(), segments.times()), (340, 500));
        segments.accuracy(&phase, NODES).unwrap()
    };
    for method in [FieldMethod::ZeroOrder, FieldMethod::LeastSquares, FieldMethod::Svd] {
        let errors = [2, 4, 6].map(|terms| accuracy(terms, method));
        assert!(errors.is_sorted_by(|a, b| a.max > b.max && a.rms > b.rms), "{errors:?}");
        assert!(errors.iter().all(|error| error.rms <= error.max));
    }
    let of = |method| accuracy(6, method);
    assert!(of(FieldMethod::LeastSquares).rms < 1e-2 * of(FieldMethod::ZeroOrder).rms);
    assert!(of(FieldMethod::Svd).rms <= 1.05 * of(FieldMethod::LeastSquares).rms);
    assert!(accuracy(20, FieldMethod::Svd).max < 1e-10);
}

#[test]
fn accuracy_is_the_distance() {
    let (b0, times) = field([4, 5], 9);
    let phase = FieldPhase::off_resonance(&b0, &times, FieldSign::Positive).unwrap();
    let spatial: Vec<Complex<f64>> = vec![Complex::from(1.0); 20];
    let temporal = vec![Complex::from(1.0); 9];
    let segments = Segments::from_parts(1, spatial, temporal).unwrap();
    let all = b0.iter().flat_map(|b| times.iter().map(move |t| (turn::<f64>(b * t) - 1.0).norm()));
    let all: Vec<f64> = all.collect();
    let got = segments.accuracy(&phase, NODES).unwrap();
    assert!((got.max - all.iter().fold(0.0, |m: f64, e| m.max(*e))).abs() < 1e-14);
    let rms = (all.iter().map(|e| e * e).sum::<f64>() / 180.0).sqrt();
    assert!((got.rms - rms).abs() < 1e-14);
}

#[test]
fn weights_choose_where_it_fits() {
    let (mut b0, times) = field([16, 16], 300);
    b0[..128].iter_mut().for_each(|b| *b += 4000.0);
    let phase = FieldPhase::off_resonance(&b0, &times, FieldSign::Negative).unwrap();
    let mask: Vec<f64> = (0..256).map(|i| f64::from(i >= 128)).collect();
    let masked = phase.clone().with_weights(mask).unwrap();
    for method in [FieldMethod::LeastSquares, FieldMethod::Svd] {
        let error = |fit: &FieldPhase| {
            let segments = Segments::<f64>::new(fit, 5, method, NODES).unwrap();
            segments.accuracy(&masked, NODES).unwrap().max
        };
        assert!(error(&masked) < 1e-2 && error(&phase) > 0.1, "{method:?}");
    }
}

#[test]
fn bases_approximate_general_fields() {
    let dims = [10, 9];
    let (b0, times) = field(dims, 200);
    let positions =
        (0..90).flat_map(|i| [(i / 9) as f64 * 0.02 - 0.1, (i % 9) as f64 * 0.02, 0.03]);
    let positions: Vec<f64> = positions.collect();
    let gradients =
        times.iter().flat_map(|t| [0.02 * (900.0 * t).cos(), 0.02 * (700.0 * t).sin(), 0.01]);
    let alphas = concomitant_phase(&gradients.collect::<Vec<_>>(), 2e-5, 1.5).unwrap();
    let spatial = [b0, concomitant_bases(&positions).unwrap()].concat();
    let temporal = [times.clone(), alphas].concat();
    let phase = FieldPhase::new(5, &spatial, &temporal, FieldSign::Negative).unwrap();
    for (method, terms, error) in [
        (FieldMethod::ZeroOrder, 40, 0.3),
        (FieldMethod::LeastSquares, 8, 2e-2),
        (FieldMethod::Svd, 12, 1e-6),
    ] {
        let segments = Segments::<f64>::new(&phase, terms, method, 64).unwrap();
        let got = segments.accuracy(&phase, 1000).unwrap();
        assert!(got.max < error, "{method:?}: {got:?}");
    }
    // a second basis that is zero changes nothing
    let zero = [&spatial[..90], &[0.0; 90]].concat();
    let two = [&times[..], &[0.0; 200]].concat();
    let two = FieldPhase::new(2, &zero, &two, FieldSign::Negative).unwrap();
    let segments = Segments::<f64>::new(&two, 8, FieldMethod::Svd, 64).unwrap();
    assert!(segments.accuracy(&two, 1000).unwrap().max < 1e-4);
}

#[test]
fn signs_are_conjugates() {
    let (b0, times) = field([6, 6], 40);
    let of = |sign| {
        let phase = FieldPhase::off_resonance(&b0, &times, sign).unwrap();
        Segments::<f64>::new(&phase, 3, FieldMethod::LeastSquares, NODES).unwrap()
    };
    let (negative, positive) = (of(FieldSign::Negative), of(FieldSign::Positive));
    let expected = turn::<f64>(-b0[7] * (times[0] + (times[39] - times[0]) / 6.0));
    assert!((negative.spatial()[7] - expected).norm() < 1e-12);
    let conjugate: Vec<_> = negative.temporal().iter().map(Complex::conj).collect();
    assert!(distance(positive.temporal(), &conjugate) < 1e-8);
}

#[test]
fn operators_sum_their_terms() {
    let (voxels, times, terms) = (12, 5, 11);
    // two coefficient images, three readouts alike
    let one = Dense::<f64>::random(1, 3 * times, 2 * voxels);
    let (spatial, temporal) = (random(2, terms * voxels), random(3, terms * times));
    let segments = Segments::from_parts(terms, spatial.clone(), temporal.clone()).unwrap();
    let operator = FieldOperator::new(one.clone(), segments).unwrap();
    check_adjoint(&operator, 1e-12);
    let image = random(4, 2 * voxels);
    let mut expected = vec![Complex::default(); 3 * times];
    for (b, h) in spatial.chunks(voxels).zip(temporal.chunks(times)) {
        let seen: Vec<_> = image.iter().enumerate().map(|(r, x)| x * b[r % voxels]).collect();
        for (i, y) in apply(&one, &seen).into_iter().enumerate() {
            expected[i] += y * h[i % times];
        }
    }
    assert!(distance(&apply(&operator, &image), &expected) < 1e-13);
    assert_eq!(operator.segments().terms(), terms);
    let narrow = Segments::from_parts(2, random::<f32>(2, 24), random(3, 10)).unwrap();
    check_adjoint(&FieldOperator::new(Dense::random(1, 15, 24), narrow).unwrap(), 1e-5);
}

#[test]
fn a_constant_field_leaves_magnitudes() {
    let dims = [8, 8];
    let positions: Vec<f64> =
        (0..128).flat_map(|i| [(i / 8) as f64 / 2.0 - 4.0, (i % 8) as f64 - 4.0]).collect();
    let exact = Dense::<f64>::fourier(&positions, &dims);
    let image = random(1, 64);
    let times: Vec<f64> = (0..128).map(|i| 1e-3 + 1e-4 * i as f64).collect();
    let hertz = 83.0;
    let clean = apply(&exact, &image);
    let turned: Vec<_> =
        clean.iter().zip(&times).map(|(y, t)| y * turn::<f64>(-hertz * t)).collect();
    let phase = FieldPhase::off_resonance(&[hertz; 64], &times, FieldSign::Negative).unwrap();
    let solve = |operator: &dyn Operator<f64>, samples: &[Complex<f64>]| {
        let (mut right, mut image) = (image.clone(), vec![Complex::default(); 64]);
        operator.adjoint(samples, &mut right);
        let settings = ConjugateGradient { lambda: 1e-3, iterations: 12, tolerance: 0.0 };
        let observe = |_: crate::Step<'_, f64>| ControlFlow::Continue(());
        conjugate_gradient(operator, &right, &mut image, &settings, observe).unwrap();
        image.iter().map(|v| v.norm()).collect::<Vec<f64>>()
    };
    let expected = solve(&exact, &clean);
    for method in [FieldMethod::LeastSquares, FieldMethod::Svd] {
        let segments = Segments::<f64>::new(&phase, 3, method, NODES).unwrap();
        assert!(segments.accuracy(&phase, NODES).unwrap().max < 1e-10, "{method:?}");
        let operator = FieldOperator::new(exact.clone(), segments).unwrap();
        assert_close("magnitudes", &solve(&operator, &turned), &expected, 1e-8);
    }
    let uncorrected = solve(&exact, &turned);
    let off: f64 = uncorrected.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum();
    assert!(off > 1.0, "{off}");
}

#[test]
fn harmonics_are_harmonic() {
    let step = 1e-3;
    let centre = [0.13, -0.07, 0.21];
    let mut positions = centre.to_vec();
    for axis in 0..3 {
        for way in [-step, step] {
            let mut position = centre;
            position[axis] += way;
            positions.extend(position);
        }
    }
    let all = spherical_harmonics(3, &positions).unwrap();
    assert_eq!(all.len(), 16 * 7);
    for (n, row) in all.chunks(7).enumerate() {
        let laplacian = (row[1..].iter().sum::<f64>() - 6.0 * row[0]) / (step * step);
        assert!(laplacian.abs() < 1e-7, "harmonic {n}: {laplacian}");
    }
    assert_eq!(spherical_harmonics(1, &positions).unwrap(), all[..4 * 7]);
    assert!(spherical_harmonics(4, &positions).is_err());
    assert!(spherical_harmonics(1, &positions[1..]).is_err());
}

#[test]
fn concomitant_phase_grows_with_the_square_of_gradients() {
    let gradients = [0.03, 0.0, 0.02].repeat(11);
    let alphas = concomitant_phase(&gradients, 1e-4, 3.0).unwrap();
    let rate = PROTON / 6.0;
    let expected = [0.03f64.powi(2), 0.02f64.powi(2) / 4.0, -0.03 * 0.02, 0.0];
    for (row, expected) in alphas.chunks(11).zip(expected) {
        for (i, alpha) in row.iter().enumerate() {
            let expected = expected * rate * 1e-4 * i as f64;
            assert!((alpha - expected).abs() < 1e-9, "{alpha} {expected}");
        }
    }
    assert!(concomitant_phase(&gradients, 0.0, 3.0).is_err());
    assert!(concomitant_phase(&gradients[1..], 1e-4, 3.0).is_err());
    assert!(concomitant_bases(&[]).is_err());
}

#[test]
fn threads_change_no_bit() {
    let (b0, times) = field([20, 17], 500);
    let phase = FieldPhase::off_resonance(&b0, &times, FieldSign::Negative).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let of = |method| Segments::<f32>::new(&phase, 9, method, 64).unwrap();
            let segments = of(FieldMethod::LeastSquares);
            let operator =
                FieldOperator::new(Dense::random(1, 500, 340), segments.clone()).unwrap();
            let mut image = random(1, 340);
            let samples = apply(&operator, &image);
            operator.adjoint(&samples, &mut image);
            (segments, of(FieldMethod::Svd), samples, image)
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn refuses_what_does_not_fit() {
    let phase = |b0: &[f64], t: &[f64]| FieldPhase::off_resonance(b0, t, FieldSign::Negative);
    let error = |b0: &[f64], t: &[f64]| phase(b0, t).expect_err("refused").to_string();
    assert!(error(&[], &[1.0]).contains("spatial bases"));
    assert!(error(&[1.0], &[]).contains("temporal coefficients"));
    assert!(error(&[1.0, f64::NAN], &[1.0]).contains("set fields to zero"));
    assert!(FieldPhase::new(2, &[1.0; 3], &[1.0; 2], FieldSign::Negative).is_err());
    assert!(FieldPhase::new(0, &[1.0; 3], &[1.0; 2], FieldSign::Negative).is_err());
    let good = phase(&[1.0, 2.0], &[0.0, 1e-3, 2e-3]).unwrap();
    let error = |weights| good.clone().with_weights(weights).expect_err("refused").to_string();
    assert!(error(vec![1.0]).contains("1 values"));
    assert!(error(vec![1.0, -1.0]).contains("voxel 1"));
    assert!(error(vec![0.0, 0.0]).contains("is the mask empty"));
    assert!(good.singular_values(0).is_err());
    assert!(Segments::<f64>::new(&good, 0, FieldMethod::Svd, 3).is_err());
    assert!(Segments::<f64>::new(&good, 2, FieldMethod::Svd, 0).is_err());
    assert!(Segments::<f64>::from_parts(2, random(1, 3), random(1, 4)).is_err());
    let segments = Segments::<f64>::new(&good, 2, FieldMethod::LeastSquares, NODES).unwrap();
    let other = phase(&[1.0], &[0.0, 1e-3, 2e-3]).unwrap();
    assert!(segments.accuracy(&other, NODES).is_err());
    assert!(FieldOperator::new(Dense::random(1, 4, 2), segments.clone()).is_err());
    assert!(FieldOperator::new(Dense::random(1, 6, 3), segments).is_err());
}
