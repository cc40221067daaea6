//! Tests of the transforms against their definition and each other.

use super::*;
use crate::operator::tests::{distance, random};
use crate::real::turn;

/// The definition.
fn transform(x: &[Complex<f64>], dims: &[usize], sign: f64) -> Vec<Complex<f64>> {
    let index = |mut i: usize| -> Vec<f64> {
        let mut at = vec![0.0; dims.len()];
        for d in (0..dims.len()).rev() {
            at[d] = (i % dims[d]) as f64 - (dims[d] / 2) as f64;
            i /= dims[d];
        }
        at
    };
    let scale = (x.len() as f64).sqrt().recip();
    let at = |k: usize| {
        let k = index(k);
        let phase = |r: &[f64]| (0..dims.len()).map(|d| k[d] * r[d] / dims[d] as f64).sum();
        let terms = x.iter().enumerate().map(|(r, v)| {
            let phase: f64 = phase(&index(r));
            v * turn::<f64>(sign * phase)
        });
        terms.sum::<Complex<f64>>() * scale
    };
    (0..x.len()).map(at).collect()
}

#[test]
fn is_the_centred_transform() {
    for dims in [vec![6, 5], vec![17, 40], vec![4, 3, 34], vec![3, 20, 2]] {
        let fft = CentredFft::<f64>::new(&dims);
        let len = fft.pixels();
        let images = random(7, 2 * len);
        let expected: Vec<_> =
            images.chunks(len).flat_map(|image| transform(image, &dims, -1.0)).collect();
        let mut got = images.clone();
        fft.forward(&mut got);
        assert!(distance(&got, &expected) < 1e-13, "{dims:?}");
        fft.inverse(&mut got);
        assert!(distance(&got, &images) < 1e-13, "{dims:?}");
    }
}

#[test]
fn padding_and_cropping_are_part_of_it() {
    for (inner, outer) in [(vec![5, 4], vec![8, 9]), (vec![3, 4, 5], vec![6, 5, 5])] {
        let fft = CentredFft::<f32>::new(&outer);
        let (few, many): (usize, usize) = (inner.iter().product(), fft.pixels());
        let images = random::<f32>(3, 3 * few);
        let mut expected = vec![Complex::default(); 3 * many];
        pad(&images, &inner, &outer, &mut expected);
        let mut back = vec![Complex::default(); images.len()];
        crop(&expected, &outer, &inner, &mut back);
        assert_eq!(back, images);
        fft.forward(&mut expected);
        let mut got = vec![Complex::default(); 3 * many];
        fft.forward_padded(&images, &inner, &mut got);
        assert!(distance(&got, &expected) < 1e-6);
        let mut whole = got.clone();
        fft.inverse(&mut whole);
        crop(&whole, &outer, &inner, &mut back);
        let mut cropped = back.clone();
        fft.inverse_cropped(&mut got, &inner, &mut cropped);
        assert!(distance(&cropped, &back) < 1e-6);
    }
}

/// What `f` gives in a pool of that many threads.
fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn a_filter_is_a_mask_between_two_transforms() {
    let sizes = [
        (vec![5, 4], vec![8, 9]),
        (vec![3, 4, 5], vec![6, 5, 5]),
        (vec![33, 20], vec![33, 40]),
        (vec![7, 6, 9], vec![15, 12, 20]),
    ];
    for (inner, outer) in sizes {
        let fft = CentredFft::<f64>::new(&outer);
        let few: usize = inner.iter().product();
        let mask: Vec<f64> = random::<f64>(5, fft.pixels()).iter().map(|z| z.re).collect();
        let images = random(6, 3 * few);
        let mut grids = vec![Complex::default(); 3 * fft.pixels()];
        fft.forward_padded(&images, &inner, &mut grids);
        for (v, &factor) in grids.iter_mut().zip(mask.iter().cycle()) {
            *v *= factor;
        }
        let mut expected = images.clone();
        fft.inverse_cropped(&mut grids, &inner, &mut expected);
        let filter = Filter::new(&fft, &inner, &mask);
        for threads in [1, 2, 5] {
            let mut got = images.clone();
            on_threads(threads, || filter.apply(&images, &mut got));
            assert!(distance(&got, &expected) < 1e-13, "{inner:?} in {outer:?}");
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let (inner, outer) = (vec![40, 6, 30], vec![60, 8, 50]);
    let fft = CentredFft::<f32>::new(&outer);
    let image = random::<f32>(8, inner.iter().product());
    let result = |threads| {
        on_threads(threads, || {
            let mut grid = vec![Complex::default(); fft.pixels()];
            fft.forward_padded(&image, &inner, &mut grid);
            let mut back = image.clone();
            fft.inverse_cropped(&mut grid.clone(), &inner, &mut back);
            fft.forward(&mut grid);
            (grid, back)
        })
    };
    let (one, four) = (result(1), result(4));
    assert!(one == four);
}

#[test]
fn fast_sizes_have_small_factors() {
    assert_eq!([0, 1, 7, 11, 31, 97, 320].map(fast_len), [1, 1, 8, 12, 32, 100, 320]);
}
