use super::*;
use crate::fixture;
use limpid_kernels::rng::Stream;

fn draws(i: u64) -> Draws {
    Stream::new(2, "mask").op(i).draws()
}

fn image(voxels: usize) -> Vec<f32> {
    let mut data = vec![0.0; voxels];
    Stream::new(7, "image").fill_uniform(&mut data);
    data
}

#[test]
fn share_of_hidden_pixels_and_even_spread() {
    for (percent, size) in [(0.2, vec![64, 64]), (1.0, vec![50, 47]), (0.2, vec![24, 30, 28])] {
        let config = BlindSpotConfig { percent, ..BlindSpotConfig::default() };
        let voxels: usize = size.iter().product();
        let mut hits = vec![0u32; voxels];
        let rounds = 600;
        for i in 0..rounds {
            let mask = config.hide(&mut image(voxels), &size, &mut draws(i));
            mask.iter().zip(&mut hits).for_each(|(m, h)| *h += *m as u32);
        }
        let total: u32 = hits.iter().sum();
        let share = f64::from(total) / (voxels as f64 * rounds as f64) * 100.0;
        // the cell is a whole number of pixels wide
        assert!((share / percent - 1.0).abs() < 0.12, "{percent}: {share}");
        // borders are hidden as often as the middle
        let first = f64::from(hits[..voxels / 4].iter().sum::<u32>());
        assert!((first * 4.0 / f64::from(total) - 1.0).abs() < 0.15);
    }
}

#[test]
fn hidden_pixels_take_the_value_of_a_neighbour_and_others_stay() {
    let size = [40, 44];
    let config = BlindSpotConfig { percent: 1.0, roi: 5, ..BlindSpotConfig::default() };
    for i in 0..50 {
        let clean = image(2 * 1760);
        let mut data = clean.clone();
        let mask = config.hide(&mut data, &size, &mut draws(i));
        assert_eq!(mask[..1760], mask[1760..], "channels differ");
        for (at, m) in mask.iter().enumerate() {
            if *m == 0.0 {
                assert_eq!(data[at], clean[at]);
                continue;
            }
            assert_ne!(data[at], clean[at], "a pixel replaced itself");
            let from = clean.iter().position(|v| *v == data[at]).unwrap();
            assert_eq!(from / 1760, at / 1760);
            let (a, b) = (unflat(at % 1760, &size), unflat(from % 1760, &size));
            assert!(a[0].abs_diff(b[0]) <= 2 && a[1].abs_diff(b[1]) <= 2);
        }
    }
}

#[test]
fn at_least_one_pixel_is_hidden_even_in_a_tiny_patch() {
    for i in 0..200 {
        let mask = BlindSpotConfig::default().hide(&mut image(16), &[4, 4], &mut draws(i));
        assert!(mask.iter().sum::<f32>() >= 1.0);
    }
    // a single pixel has no neighbour to take a value from
    assert_eq!(BlindSpotConfig::default().hide(&mut [3.0], &[1, 1], &mut draws(0)), [1.0]);
}

#[test]
fn lines_hide_their_neighbours_along_one_axis() {
    let size = [30, 30];
    let line = Some(LineMask { axis: LineAxis::X, span: 5 });
    let config = BlindSpotConfig { percent: 0.2, line, ..BlindSpotConfig::default() };
    let clean = image(900);
    let mut data = clean.clone();
    let mask = config.hide(&mut data, &size, &mut draws(3));
    let hidden: Vec<usize> = (0..900).filter(|&i| mask[i] == 1.0).collect();
    for at in 0..900 {
        let near = hidden.iter().any(|h| h / 30 == at / 30 && h.abs_diff(at) <= 2);
        assert_eq!(data[at] != clean[at], near, "pixel {at}");
    }
}

#[test]
fn median_agrees_with_the_fixture() {
    let Some(t) = fixture::tensors("selfsup") else { return };
    let (noisy, mask) = (&t["n2v.noisy"], &t["n2v.mask"]);
    let size = [16, 20];
    let hidden = mask.iter().filter(|m| **m != 0.0).count();
    let images = noisy.chunks(320).zip(mask.chunks(320));
    for ((image, mask), want) in images.zip(t["n2v2.median_replaced"].chunks(320)) {
        let got = median_filled(image, mask, &size, 5).unwrap();
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= 1e-6, "{at}: {got}, expected {want}");
        }
    }
    assert!(hidden > 10);
    assert!(median_filled(&noisy[..320], &mask[..319], &size, 5).is_err());
    assert!(median_filled(&noisy[..320], &mask[..320], &size, 4).is_err());
}

#[test]
fn bad_settings_are_reported() {
    let line = Some(LineMask { axis: LineAxis::Z, span: 4 });
    let bad = BlindSpotConfig { percent: 0.0, roi: 4, strategy: Replacement::Median, line };
    assert_eq!(limpid_config::check(&bad).len(), 3);
}
