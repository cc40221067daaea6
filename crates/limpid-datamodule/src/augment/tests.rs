use super::*;
use limpid_kernels::rng::Stream;
use std::collections::BTreeSet;

fn draws(i: u64) -> Draws {
    Stream::new(1, "augment").op(i).draws()
}

#[test]
fn every_orientation_of_the_group_occurs_and_no_other() {
    use OrientationConfig as O;
    for (config, rank, count) in [
        (O::None, 2, 1),
        (O::Flips, 2, 4),
        (O::Dihedral, 2, 8),
        (O::Full, 2, 8),
        (O::Flips, 3, 8),
        (O::Dihedral, 3, 16),
        (O::Full, 3, 48),
        (O::Dihedral, 1, 2),
    ] {
        let size = vec![3; rank];
        let image: Vec<f32> = (0..3usize.pow(rank as u32)).map(|i| i as f32).collect();
        let mut seen = BTreeSet::new();
        for i in 0..600 {
            let mut turned = image.clone();
            config.draw(rank, &mut draws(i)).apply(&mut turned, &size);
            let mut sorted = turned.clone();
            sorted.sort_by(f32::total_cmp);
            assert_eq!(sorted, image, "values were lost");
            seen.insert(turned.iter().map(|v| *v as u32).collect::<Vec<_>>());
        }
        assert_eq!(seen.len(), count, "{config:?} in {rank}-D");
    }
}

#[test]
fn known_turns() {
    let image: Vec<f32> = (0..12).map(|i| i as f32).collect(); // two channels of 2x3
    let mut flipped = image.clone();
    Orientation { axes: vec![0, 1], flip: vec![false, true] }.apply(&mut flipped, &[2, 3]);
    assert_eq!(flipped, [2., 1., 0., 5., 4., 3., 8., 7., 6., 11., 10., 9.]);
    let mut turned = vec![0., 1., 2., 3.];
    Orientation { axes: vec![1, 0], flip: vec![true, false] }.apply(&mut turned, &[2, 2]);
    assert_eq!(turned, [1., 3., 0., 2.]); // a quarter turn to the left
}

#[test]
fn orientations_can_be_undone_by_one_of_their_group() {
    let image: Vec<f32> = (0..54).map(|i| i as f32).collect();
    for i in 0..40 {
        let mut turned = image.clone();
        OrientationConfig::Full.draw(3, &mut draws(i)).apply(&mut turned, &[3, 3, 3]);
        let back = (0..2000).any(|j| {
            let mut back = turned.clone();
            OrientationConfig::Full.draw(3, &mut draws(1000 + j)).apply(&mut back, &[3, 3, 3]);
            back == image
        });
        assert!(back);
    }
}

#[test]
fn intensity_stays_within_its_limits() {
    let config = AugmentConfig { gain: 0.2, offset: 0.1, gamma: 0.5, ..AugmentConfig::default() };
    let mut gammas = Vec::new();
    for i in 0..500 {
        let it = config.draw_intensity(&mut draws(i));
        assert!((0.8..=1.2).contains(&it.gain) && it.offset.abs() <= 0.1);
        assert!((1.0 / 1.5 - 1e-9..=1.5).contains(&it.gamma));
        gammas.push(it.gamma);
    }
    assert!(gammas.iter().any(|g| *g < 0.75) && gammas.iter().any(|g| *g > 1.3));
    let mut x = [-0.25, 0.0, 0.25];
    Intensity { gain: 2.0, offset: 0.5, gamma: 0.5 }.apply(&mut x);
    assert_eq!(x, [-0.5, 0.5, 1.5]);
    // the default changes nothing
    let mut x = [0.1, -7.3];
    AugmentConfig::default().draw_intensity(&mut draws(0)).apply(&mut x);
    assert_eq!(x, [0.1, -7.3]);
    let bad = AugmentConfig { gain: 1.0, offset: -1.0, ..config };
    assert_eq!(limpid_config::check(&bad).len(), 2);
}

#[test]
fn blur_smooths_some_channels_and_keeps_the_mean_of_an_even_image() {
    let config = |probability| AugmentConfig {
        blur: Some(Blur { sigma: 1.5, probability }),
        ..AugmentConfig::default()
    };
    // a point in each of two channels spreads to a Gaussian: its height is 1/(2πσ²)
    let mut image = vec![0.0; 2 * 21 * 21];
    (image[220], image[441 + 220]) = (1.0, 2.0);
    let blurred = |probability, i| {
        let mut data = image.clone();
        config(probability).blur_some(&mut data, &[21, 21], &mut draws(i)).unwrap();
        data
    };
    assert_eq!(blurred(0.0, 0), image);
    let both = blurred(1.0, 0);
    let peak = 1.0 / (std::f32::consts::TAU * 2.25);
    assert!((both[220] / peak - 1.0).abs() < 0.02, "{} instead of {peak}", both[220]);
    assert!((both[441..].iter().sum::<f32>() - 2.0).abs() < 1e-4);
    // channels have lots of their own
    let lots: BTreeSet<_> =
        (0..60).map(|i| blurred(0.5, i)).map(|d| [d[220] == 1.0, d[441 + 220] == 2.0]).collect();
    assert_eq!(lots.len(), 4);
    let mut even = vec![3.0; 25];
    config(1.0).blur_some(&mut even, &[5, 5], &mut draws(0)).unwrap();
    assert!(even.iter().all(|v| (v - 3.0).abs() < 1e-6), "the edge darkens: {even:?}");
    let bad = AugmentConfig {
        blur: Some(Blur { sigma: 0.0, probability: 1.5 }),
        ..AugmentConfig::default()
    };
    assert_eq!(limpid_config::check(&bad).len(), 2);
}
