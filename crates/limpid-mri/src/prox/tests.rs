//! Proximal maps against fixtures, and against what defines them.

use super::shift::{place, take};
use super::*;
use crate::fixture::load;
use crate::operator::tests::{distance, inner, random};
use crate::real::narrow;
use nalgebra::DMatrix;

const WAVELETS: [Wavelet; 8] = [
    Wavelet::Haar,
    Wavelet::Db2,
    Wavelet::Db3,
    Wavelet::Db4,
    Wavelet::Db5,
    Wavelet::Db6,
    Wavelet::Db7,
    Wavelet::Db8,
];

fn norm(values: &[Complex<f64>]) -> f64 {
    inner(values, values).re.sqrt()
}

#[test]
fn wavelets_follow_the_fixture() {
    let Some(fixture) = load("unit/prox") else { return };
    let x = fixture.complex("x");
    let dims = &fixture.shape("x")[..2];
    let transform = WaveletTransform::new(Wavelet::Db4, 2, dims).unwrap();
    let coefficients = transform.forward(&x).unwrap();
    assert!(distance(&coefficients, &fixture.complex("wavelet_coeffs")) < 1e-12);
    assert!(distance(&transform.inverse(&coefficients).unwrap(), &x) < 1e-10);
    let threshold = fixture.metadata("thr").parse().unwrap();
    let expected = fixture.complex("wavelet_db4_l2_soft");
    let mut prox = WaveletThreshold::new(Wavelet::Db4, 2, 1, dims, Shift::None).unwrap();
    let mut got = x.clone();
    prox.apply(&mut got, threshold);
    assert!(distance(&got, &expected) < 1e-10);
    let mut prox = WaveletThreshold::new(Wavelet::Db4, 2, 1, dims, Shift::None).unwrap();
    let mut got: Vec<Complex<f32>> = x.into_iter().map(narrow).collect();
    prox.apply(&mut got, threshold);
    let expected: Vec<_> = expected.into_iter().map(narrow).collect();
    assert!(distance(&got, &expected) < 1e-6);
}

#[test]
fn locally_low_rank_follows_the_fixture() {
    let Some(fixture) = load("unit/prox") else { return };
    let [images, rows, columns, _] = fixture.shape("llr_x")[..] else { panic!("images") };
    let number = |name| fixture.metadata(name).parse::<f64>().unwrap();
    let block = [number("llr_block") as usize; 2];
    let mut prox = LocallyLowRank::new(images, &[rows, columns], &block, Shift::None).unwrap();
    let mut x = fixture.complex("llr_x");
    prox.apply(&mut x, number("llr_thr"));
    assert!(distance(&x, &fixture.complex("llr_out")) < 1e-9);
}

#[test]
fn wavelets_are_orthogonal() {
    for wavelet in WAVELETS {
        let (low, high) = (wavelet.low_pass(), wavelet.high_pass());
        assert!((low.iter().sum::<f64>() - 2f64.sqrt()).abs() < 1e-12, "{wavelet:?}");
        assert!(high.iter().sum::<f64>().abs() < 1e-12, "{wavelet:?}");
        // filters longer than what they split, lines, volumes, and sizes that have to be filled up
        for (dims, level) in
            [(vec![4], 2), (vec![16, 24], 3), (vec![4, 6, 10], 1), (vec![9, 14], 2)]
        {
            let transform = WaveletTransform::new(wavelet, level, &dims).unwrap();
            let x = random::<f64>(1, dims.iter().product());
            let coefficients = transform.forward(&x).unwrap();
            assert!((norm(&coefficients) / norm(&x) - 1.0).abs() < 1e-10, "{wavelet:?} {dims:?}");
            let back = transform.inverse(&coefficients).unwrap();
            assert!(distance(&back, &x) < 1e-10, "{wavelet:?} {dims:?}");
            let y = random::<f64>(2, coefficients.len());
            let image = transform.inverse(&y).unwrap();
            let gap = (inner(&coefficients, &y) - inner(&x, &image)).norm();
            assert!(gap < 1e-10 * norm(&coefficients) * norm(&y), "{wavelet:?} {dims:?}");
        }
    }
}

#[test]
fn a_constant_has_averages_only() {
    let transform = WaveletTransform::new(Wavelet::Db3, 2, &[16, 8]).unwrap();
    assert_eq!(transform.coefficient_dims(), [16, 8]);
    let coefficients = transform.forward(&[Complex::new(1.0, -2.0); 128]).unwrap();
    for (at, c) in coefficients.iter().enumerate() {
        let average = at / 8 < 4 && at % 8 < 2;
        let expected = if average { Complex::new(4.0, -8.0) } else { Complex::default() };
        assert!((c - expected).norm() < 1e-10, "{at}: {c}");
    }
}

#[test]
fn shifts_go_through_their_periods() {
    assert_eq!(Shift::None.at(5, &[4, 3]), [0, 0]);
    let mut all: Vec<_> = (0..12).map(|pass| Shift::Incrementing.at(pass, &[4, 3])).collect();
    assert_eq!(all[4], [1, 1]);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 12);
    let random = Shift::Random { seed: 1 };
    assert_eq!(random.at(3, &[4, 3]), random.at(3, &[4, 3]));
    assert!((0..9).any(|pass| random.at(pass, &[4, 3]) != random.at(9, &[4, 3])));
}

#[test]
fn shifted_maps_are_maps_of_shifted_images() {
    let (dims, images) = ([8, 12], 3);
    let x = random::<f64>(1, images * 96);
    let increasing = Shift::Incrementing;
    let mut wavelet = WaveletThreshold::new(Wavelet::Db2, 2, images, &dims, increasing).unwrap();
    let mut plain = WaveletThreshold::new(Wavelet::Db2, 2, images, &dims, Shift::None).unwrap();
    let mut blocks = LocallyLowRank::new(images, &dims, &[4, 4], increasing).unwrap();
    let mut plain_blocks = LocallyLowRank::new(images, &dims, &[4, 4], Shift::None).unwrap();
    for pass in 0..7 {
        let shift = increasing.at(pass, &[4, 4]);
        // blocks begin at the shift, wavelets see the image moved on by it
        let back: Vec<_> = shift.iter().zip(&dims).map(|(s, d)| (d - s) % d).collect();
        let check = |prox: &mut dyn Prox<f64>, plain: &mut dyn Prox<f64>, shift: &[usize]| {
            let (mut got, mut moved, mut expected) = (x.clone(), x.clone(), x.clone());
            prox.apply(&mut got, 0.8);
            for (x, moved) in x.chunks(96).zip(moved.chunks_mut(96)) {
                place(x, &dims, &dims, shift, moved);
            }
            plain.apply(&mut moved, 0.8);
            for (moved, expected) in moved.chunks(96).zip(expected.chunks_mut(96)) {
                take(moved, &dims, &dims, shift, expected);
            }
            assert!(distance(&got, &expected) < 1e-12, "{pass}");
        };
        check(&mut wavelet, &mut plain, &shift);
        check(&mut blocks, &mut plain_blocks, &back);
    }
}

/// The singular value thresholds of a matrix by its decomposition.
fn thresholded(matrix: DMatrix<Complex<f64>>, threshold: f64) -> DMatrix<Complex<f64>> {
    let mut svd = matrix.svd(true, true);
    svd.singular_values.iter_mut().for_each(|s| *s = (*s - threshold).max(0.0));
    svd.recompose().unwrap()
}

#[test]
fn blocks_of_any_form_are_thresholded() {
    // more images than voxels of a block, blocks that do not divide the image, three dimensions
    for (images, dims, block) in [
        (9, vec![4, 6], vec![2, 3]),
        (2, vec![7, 5], vec![4, 2]),
        (3, vec![3, 4, 5], vec![2, 3, 4]),
    ] {
        let pixels: usize = dims.iter().product();
        let x = random::<f64>(1, images * pixels);
        let mut prox = LocallyLowRank::new(images, &dims, &block, Shift::None).unwrap();
        let mut got = x.clone();
        prox.apply(&mut got, 1.5);
        // the first block
        let inside = |&voxel: &usize| {
            let mut rest = voxel;
            dims.iter().zip(&block).rev().all(|(size, block)| {
                let at = rest % size;
                rest /= size;
                at < *block
            })
        };
        let voxels: Vec<usize> = (0..pixels).filter(inside).collect();
        let matrix = |values: &[Complex<f64>]| {
            DMatrix::from_fn(voxels.len(), images, |v, i| values[i * pixels + voxels[v]])
        };
        let (got, expected) = (matrix(&got), thresholded(matrix(&x), 1.5));
        assert!((got - &expected).norm() < 1e-12 * expected.norm(), "{dims:?}");
    }
    let mut prox = LocallyLowRank::new(2, &[4, 4], &[4, 4], Shift::None).unwrap();
    let mut x = vec![Complex::<f64>::new(0.1, 0.0); 32];
    prox.apply(&mut x, 2.0);
    assert!(x.iter().all(|v| *v == Complex::default()));
    x[3].re = f64::NAN;
    prox.apply(&mut x, 2.0);
    assert!(x[3].re.is_nan());
}

/// Total variation by its definition.
fn variation(x: &[Complex<f64>], dims: &[usize]) -> f64 {
    let at = |r: usize| {
        let (mut rest, mut stride, mut sum) = (r, 1, 0.0);
        for &size in dims.iter().rev() {
            if rest % size + 1 < size {
                sum += (x[r + stride] - x[r]).norm_sqr();
            }
            rest /= size;
            stride *= size;
        }
        sum.sqrt()
    };
    (0..x.len()).map(at).sum()
}

#[test]
fn total_variation_flattens_steps() {
    // each half moves towards the other by the threshold, over its length
    let (low, high) = (Complex::new(0.0, 1.0), Complex::new(3.0, 5.0));
    let mut x = [vec![low; 6], vec![high; 4]].concat();
    let mut prox = TotalVariation::new(1, &[10], 4000).unwrap();
    prox.apply(&mut x, 0.6);
    let way = (high - low) / (high - low).norm();
    let expected = [vec![low + way * (0.6 / 6.0); 6], vec![high - way * (0.6 / 4.0); 4]].concat();
    assert!(distance(&x, &expected) < 1e-6);
    // and all becomes its mean
    let mean = (low * 6.0 + high * 4.0) / 10.0;
    prox.apply(&mut x, 50.0);
    assert!(distance(&x, &[mean; 10]) < 1e-6);
    let before = x.clone();
    prox.apply(&mut x, 0.0);
    assert_eq!(x, before);
}

#[test]
fn total_variation_minimises() {
    for dims in [vec![9, 7], vec![4, 5, 6], vec![1, 12]] {
        let len = dims.iter().product();
        let v = random::<f64>(1, len);
        let threshold = 0.4;
        let mut x = [v.clone(), v.clone()].concat();
        TotalVariation::new(2, &dims, 3000).unwrap().apply(&mut x, threshold);
        assert_eq!(x[..len], x[len..]);
        let x = &x[..len];
        let sum = |x: &[Complex<f64>]| x.iter().sum::<Complex<f64>>();
        assert!((sum(x) - sum(&v)).norm() < 1e-9);
        let cost = |x: &[Complex<f64>]| {
            let gap: f64 = x.iter().zip(&v).map(|(x, v)| (x - v).norm_sqr()).sum();
            gap / 2.0 + threshold * variation(x, &dims)
        };
        let least = cost(x);
        for seed in 0..20 {
            let way = random::<f64>(seed, len);
            let near: Vec<_> = x.iter().zip(&way).map(|(x, d)| x + d * 1e-3).collect();
            assert!(cost(&near) > least, "{dims:?}");
        }
        // ⟨v − x, x⟩ is the threshold times the variation at the optimum
        let gap = inner(&v, x).re - inner(x, x).re - threshold * variation(x, &dims);
        assert!(gap.abs() < 1e-4 * least, "{dims:?}: {gap:e}");
    }
}

#[test]
fn maps_never_push_images_apart() {
    let dims = [12, 10];
    let mut maps: [Box<dyn Prox<f64>>; 3] = [
        Box::new(WaveletThreshold::new(Wavelet::Db2, 1, 2, &dims, Shift::None).unwrap()),
        Box::new(LocallyLowRank::new(2, &dims, &[5, 4], Shift::None).unwrap()),
        Box::new(TotalVariation::new(2, &dims, 400).unwrap()),
    ];
    for (i, prox) in maps.iter_mut().enumerate() {
        let (mut a, mut b) = (random::<f64>(1, 240), random::<f64>(2, 240));
        assert_eq!(prox.domain(), 240);
        let before: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).norm_sqr()).sum();
        prox.apply(&mut a, 0.7);
        prox.apply(&mut b, 0.7);
        let after: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).norm_sqr()).sum();
        assert!(after <= before * (1.0 + 1e-12), "map {i}");
    }
}

#[test]
fn threads_change_no_bit() {
    let dims = [48, 70];
    let x = random::<f32>(1, 3 * 48 * 70);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut x = x.clone();
            let shift = Shift::Random { seed: 2 };
            WaveletThreshold::new(Wavelet::Db4, 3, 3, &dims, shift).unwrap().apply(&mut x, 0.2);
            LocallyLowRank::new(3, &dims, &[6, 6], shift).unwrap().apply(&mut x, 0.2);
            TotalVariation::new(3, &dims, 9).unwrap().apply(&mut x, 0.2);
            x
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn refuses_what_does_not_fit() {
    let wavelet = |level, images, dims: &[usize]| {
        WaveletThreshold::<f64>::new(Wavelet::Db4, level, images, dims, Shift::None)
            .expect_err("refused")
            .to_string()
    };
    assert!(wavelet(1, 0, &[4]).contains("one image or more"));
    assert!(wavelet(1, 1, &[4, 0]).contains("sizes above zero"));
    assert!(wavelet(3, 1, &[64, 7]).contains("at most 2"));
    assert!(wavelet(usize::MAX, 1, &[64, 7]).contains("at most 2"));
    let transform = WaveletTransform::new(Wavelet::Haar, 1, &[4, 3]).unwrap();
    assert!(transform.forward(&[Complex::<f64>::default(); 11]).is_err());
    assert!(transform.inverse(&[Complex::<f64>::default(); 12]).is_err());
    let low_rank = |block: &[usize]| {
        LocallyLowRank::new(2, &[4, 4], block, Shift::None).expect_err("refused").to_string()
    };
    assert!(low_rank(&[4]).contains("a block of sizes"));
    assert!(low_rank(&[4, 5]).contains("[4, 5]"));
    assert!(low_rank(&[4, 0]).contains("[4, 0]"));
    assert!(TotalVariation::<f64>::new(1, &[4, 4], 0).is_err());
    assert!(TotalVariation::<f64>::new(1, &[], 3).is_err());
}
