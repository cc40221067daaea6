//! The scattering data gradient against f64.

use super::*;
use crate::rng::Stream;
use crate::threads::on_threads;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Stream::new(seed, "conv tests").draws();
    (0..len).map(|_| draws.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
}

/// A square kernel and square images of one group.
fn plain(
    batch: usize,
    [channels, features]: [usize; 2],
    side: usize,
    [kernel, stride, padding]: [usize; 3],
) -> Geometry {
    let result = (side + 2 * padding - kernel) / stride + 1;
    Geometry {
        rank: 2,
        batch,
        channels,
        features,
        groups: 1,
        image: [1, side, side],
        result: [1, result, result],
        kernel: [1, kernel, kernel],
        stride: [1, stride, stride],
        padding: [0, padding, padding],
        dilation: [1; 3],
    }
}

#[test]
fn scattering_equals_phases_on_any_number_of_threads() {
    for seed in 0..40 {
        let mut draws = Stream::new(seed, "scatter geometry").draws();
        let mut pick = |lo: usize, hi: usize| lo + draws.below((hi - lo + 1) as u64) as usize;
        let groups = pick(1, 2);
        let mut g = Geometry {
            rank: 3,
            batch: pick(1, 3),
            channels: groups * pick(1, 20),
            features: groups * pick(1, 20),
            groups,
            image: [pick(1, 3), pick(4, 30), pick(4, 40)],
            result: [1; 3],
            kernel: [1, pick(1, 4), pick(1, 4)],
            stride: [pick(1, 2), pick(1, 3), pick(1, 3)],
            padding: [0, pick(0, 2), pick(0, 2)],
            dilation: [1, 1, pick(1, 2)],
        };
        for d in 0..3 {
            let reach = (g.kernel[d] - 1) * g.dilation[d] + 1;
            g.image[d] = g.image[d].max(reach);
            g.result[d] = (g.image[d] + 2 * g.padding[d] - reach) / g.stride[d] + 1;
        }
        let y = random(seed, g.batch * g.features * g.result_pixels());
        let w = random(seed + 1, g.features * g.group_channels() * g.taps());
        let b = random(seed + 2, g.channels);
        let got = |threads| {
            let output = Outputs::new("conv", g.batch, &[g.channels], g.image_pixels()).unwrap();
            let result = &Parts::one(&y, g.features, g.result_pixels());
            let (weight, bias) = (&*w, Some(&*b));
            on_threads(threads, || Scatter { g: &g, result, weight, bias, output: &output }.run());
            // SAFETY: the run writes every element.
            unsafe { output.into_vecs() }.remove(0)
        };
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (y, w, b) = (wide(&y), wide(&w), wide(&b));
        let y = Parts::one(&y, g.features, g.result_pixels());
        let want = data_grad(&g, &y, &w, Some(&b), &[g.channels]).unwrap().remove(0);
        let one = got(1);
        assert!(one == got(3));
        for (x, want) in one.iter().zip(&want) {
            assert!((f64::from(*x) - want).abs() < 2e-5, "{g:?}: {x} is not {want}");
        }
    }
}

#[test]
fn few_tiles_give_the_same_on_any_number_of_threads() {
    let g = plain(2, [40, 256], 9, [4, 2, 1]);
    let x = random(1, g.batch * g.channels * g.image_pixels());
    let y = random(2, g.batch * g.features * g.result_pixels());
    let w = random(3, g.features * g.channels * g.taps());
    let x = Parts::one(&x, g.channels, g.image_pixels());
    let y = Parts::one(&y, g.features, g.result_pixels());
    let run = |threads| {
        on_threads(threads, || {
            [
                forward(&g, &x, &w, None, &[g.features]).unwrap().remove(0),
                data_grad(&g, &y, &w, None, &[g.channels]).unwrap().remove(0),
                weight_grad(&g, &x, &y).unwrap(),
            ]
        })
    };
    assert!(run(1) == run(2) && run(1) == run(5));
}
