//! Matrix products and the scattering data gradient against f64.

use super::multiply::multiply;
use super::*;
use crate::matrix::Matrix;
use crate::rng::Stream;
use crate::simd::Level;
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
fn products_of_all_sizes_and_orders() {
    for seed in 0..60 {
        let mut draws = Stream::new(seed, "product sizes").draws();
        let mut pick = |choices: [u64; 4]| {
            let most = choices[draws.below(4) as usize];
            1 + draws.below(most) as usize
        };
        let (m, n, k) = (pick([3, 20, 70, 300]), pick([3, 20, 70, 600]), pick([3, 20, 70, 600]));
        let mut flip = || draws.below(2) == 1;
        let (a_flip, b_flip, dst_flip, add) = (flip(), flip(), flip(), flip());
        let strides = |flip: bool, [rows, columns]: [usize; 2]| {
            if flip { [1, rows + 2] } else { [columns + 3, 1] }
        };
        let room = |[row, column]: [usize; 2], [rows, columns]: [usize; 2]| {
            (rows - 1) * row + (columns - 1) * column + 1
        };
        let [a_at, b_at] = [strides(a_flip, [m, k]), strides(b_flip, [k, n])];
        let dst_at = strides(dst_flip, [m, n]);
        let (a, b) = (random(seed, room(a_at, [m, k])), random(seed + 1, room(b_at, [k, n])));
        let before = random(seed + 2, room(dst_at, [m, n]));
        for level in Level::available() {
            let mut dst = before.clone();
            let matrix = |data, [row, column]: [usize; 2]| Matrix { data, row, column };
            let (a_matrix, b_matrix) = (matrix(a.as_slice(), a_at), matrix(b.as_slice(), b_at));
            let to = dst.as_mut_ptr();
            // SAFETY: the machine has the level, and the slices have room.
            unsafe { multiply(level, [m, n, k], to, dst_at, add, a_matrix, b_matrix) };
            let mut want: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
            for i in 0..m {
                for j in 0..n {
                    let product = |p: usize| {
                        f64::from(a[i * a_at[0] + p * a_at[1]])
                            * f64::from(b[p * b_at[0] + j * b_at[1]])
                    };
                    let sum: f64 = (0..k).map(product).sum();
                    let to = &mut want[i * dst_at[0] + j * dst_at[1]];
                    *to = if add { *to + sum } else { sum };
                }
            }
            // elements between the rows are as they were
            let errors = dst.iter().zip(&want).map(|(&x, want)| (f64::from(x) - want).abs());
            let error = errors.fold(0.0, f64::max);
            let bound = 1e-6 * (k as f64).max(4.0);
            assert!(error < bound, "{level:?} {m} {n} {k} {a_flip} {b_flip} {dst_flip}: {error:e}");
        }
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
            let output = Output::new("conv", g.batch * g.channels * g.image_pixels()).unwrap();
            let (result, weight, bias) = (&*y, &*w, Some(&*b));
            on_threads(threads, || Scatter { g: &g, result, weight, bias, output: &output }.run());
            // SAFETY: the run writes every element.
            unsafe { output.into_vec() }
        };
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let want = data_grad(&g, &wide(&y), &wide(&w), Some(&wide(&b))).unwrap();
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
    let run = |threads| {
        on_threads(threads, || {
            [
                forward(&g, &x, &w, None).unwrap(),
                data_grad(&g, &y, &w, None).unwrap(),
                weight_grad(&g, &x, &y).unwrap(),
            ]
        })
    };
    assert!(run(1) == run(2) && run(1) == run(5));
}
