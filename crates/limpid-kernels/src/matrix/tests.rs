//! Products of all shapes against f64.

use super::*;
use crate::rng::Stream;
use crate::simd::Level;
use crate::threads::on_threads;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Stream::new(seed, "matrix tests").draws();
    (0..len).map(|_| draws.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
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
        let factor = if flip() { 1.0 } else { 0.5 };
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
            unsafe { multiply(level, [m, n, k], to, dst_at, add, factor, [a_matrix, b_matrix]) };
            let mut want: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
            for i in 0..m {
                for j in 0..n {
                    let product = |p: usize| {
                        f64::from(a[i * a_at[0] + p * a_at[1]])
                            * f64::from(b[p * b_at[0] + j * b_at[1]])
                    };
                    let sum = f64::from(factor) * (0..k).map(product).sum::<f64>();
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
fn shared_products_have_the_bits_of_one_thread() {
    for [m, n, k] in [
        [196, 768, 300],
        [1, 1000, 7],
        [700, 3, 64],
        [130, 130, 1],
        [0, 5, 5],
        [5, 0, 5],
        [0, 768, 512],
        [200, 260, 512],
        [200, 260, 496],
    ] {
        let (a, b, start) = (random(1, m * k), random(2, n * k), random(3, n));
        let (a, b) = (Matrix::rows(&a, k), Matrix::rows(&b, k).transposed());
        let got = |threads| {
            on_threads(threads, || shared_product("test", [m, n, k], a, b, Some(&start)).unwrap())
        };
        let mut want: Vec<f32> = start.repeat(m);
        product(&mut want, [m, n, k], true, 1.0, a, b);
        assert!(got(1) == want && got(3) == want, "{m} {n} {k}");
    }
}

#[test]
fn rounded_products_are_those_of_rounded_factors() {
    // what bf16 holds of a number: its upper half, rounded to even
    let rounded = |x: f32| {
        let bits = x.to_bits();
        f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
    };
    for [m, n, k] in [[196, 768, 301], [1, 40, 7], [9, 33, 1000], [70, 16, 1], [3, 0, 4], [0, 3, 4]]
    {
        let (a, b, start) = (random(1, m * k), random(2, n * k), random(3, n));
        let got = |threads| {
            on_threads(threads, || half_product("test", [m, n, k], &a, &b, Some(&start)).unwrap())
        };
        let Some(one) = got(1) else { return }; // no such instructions here
        assert!(got(3) == Some(one.clone()));
        for i in 0..m {
            for j in 0..n {
                let product =
                    |p| f64::from(rounded(a[i * k + p])) * f64::from(rounded(b[j * k + p]));
                let want = f64::from(start[j]) + (0..k).map(product).sum::<f64>();
                let error = (f64::from(one[i * n + j]) - want).abs();
                assert!(error < 1e-6 * (k as f64).max(4.0), "{m} {n} {k}: {error:e}");
            }
        }
    }
}
