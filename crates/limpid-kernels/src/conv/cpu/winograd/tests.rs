//! Against f64 loops and the direct path: random geometries, every level, every number of threads.

use super::*;
use crate::conv::cpu;
use crate::element::Element;
use crate::rng::Stream;
use crate::threads::on_threads;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Stream::new(seed, "winograd tests").draws();
    (0..len).map(|_| draws.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
}

fn geometry(seed: u64, deep: bool) -> Geometry {
    let mut draws = Stream::new(seed, "winograd geometry").draws();
    let mut pick = |lo: usize, hi: usize| lo + draws.below((hi - lo + 1) as u64) as usize;
    let padding = [if deep { pick(0, 3) } else { 0 }, pick(0, 3), pick(0, 3)];
    let kernel = [if deep { 3 } else { 1 }, 3, 3];
    let image = [if deep { pick(3, 6) } else { 1 }, pick(3, 21), pick(3, 37)];
    let result = std::array::from_fn(|d| image[d] + 2 * padding[d] + 1 - kernel[d]);
    Geometry {
        rank: if deep { 3 } else { 2 },
        batch: pick(1, 3),
        channels: pick(1, 40),
        features: pick(1, 70),
        groups: 1,
        image,
        result,
        kernel,
        stride: [1; 3],
        padding,
        dilation: [1; 3],
    }
}

fn compute(
    level: Level,
    g: &Geometry,
    transposed: bool,
    x: &[f32],
    w: &[f32],
    b: &[f32],
) -> Vec<f32> {
    let ends = [(g.channels, g.image_pixels()), (g.features, g.result_pixels())];
    let [(inputs, from), (outputs, to)] = if transposed { [ends[1], ends[0]] } else { ends };
    let output = Outputs::new("conv", g.batch, &[outputs], to).unwrap();
    correlate(level, g, transposed, &Parts::one(x, inputs, from), w, Some(b), &output).unwrap();
    // SAFETY: `correlate` writes every element.
    unsafe { output.into_vecs() }.remove(0)
}

/// An image and a result as the convolution takes them.
fn image<'a, T>(g: &Geometry, x: &'a [T]) -> Parts<'a, T> {
    Parts::one(x, g.channels, g.image_pixels())
}

fn result<'a, T>(g: &Geometry, y: &'a [T]) -> Parts<'a, T> {
    Parts::one(y, g.features, g.result_pixels())
}

fn forward<T: Element>(g: &Geometry, x: &[T], w: &[T], b: Option<&[T]>) -> Vec<T> {
    cpu::forward(g, &image(g, x), w, b, &[g.features]).unwrap().remove(0)
}

fn data_grad<T: Element>(g: &Geometry, y: &[T], w: &[T], b: Option<&[T]>) -> Vec<T> {
    cpu::data_grad(g, &result(g, y), w, b, &[g.channels]).unwrap().remove(0)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The largest error relative to the largest sum of the sizes of the terms of an output: an output
/// at a corner sees few terms, but its error is that of the tile.
fn error(got: &[f32], want: &[f64], size: &[f64]) -> f64 {
    let largest = size.iter().copied().fold(0.0, f64::max);
    let errors = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).abs() / largest);
    errors.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

fn check(g: &Geometry, transposed: bool, seed: u64) {
    let (source, target) = if transposed {
        (g.features * g.result_pixels(), g.channels)
    } else {
        (g.channels * g.image_pixels(), g.features)
    };
    let x = random(seed, g.batch * source);
    let w = random(seed + 1, g.features * g.channels * g.taps());
    let b = random(seed + 2, target);
    let direct = |x: &[f64], w: &[f64], b: &[f64]| {
        let f = if transposed { data_grad } else { forward };
        f(g, x, w, Some(b))
    };
    let abs = |x: &[f32]| x.iter().map(|&x| f64::from(x.abs()) + 1e-3).collect::<Vec<_>>();
    let want = direct(&wide(&x), &wide(&w), &wide(&b));
    let size = direct(&abs(&x), &abs(&w), &abs(&b));
    for level in Level::available() {
        let got = compute(level, g, transposed, &x, &w, &b);
        let error = error(&got, &want, &size);
        assert!(error < 1e-6, "{level:?} {transposed} {g:?}: {error:e}");
    }
}

fn compute_weight(level: Level, g: &Geometry, x: &[f32], y: &[f32]) -> Vec<f32> {
    let output = Output::new("conv", g.features * g.channels * g.taps()).unwrap();
    weight_grad(level, g, &image(g, x), &result(g, y), &output).unwrap();
    // SAFETY: `weight_grad` writes every element.
    unsafe { output.into_vec() }
}

fn check_weight(g: &Geometry, seed: u64) {
    let x = random(seed, g.batch * g.channels * g.image_pixels());
    let y = random(seed + 1, g.batch * g.features * g.result_pixels());
    let abs = |x: &[f32]| x.iter().map(|&x| f64::from(x.abs())).collect::<Vec<_>>();
    let of = |x: &[f64], y: &[f64]| cpu::weight_grad(g, &image(g, x), &result(g, y)).unwrap();
    let want = of(&wide(&x), &wide(&y));
    let size = of(&abs(&x), &abs(&y));
    for level in Level::available() {
        let error = error(&compute_weight(level, g, &x, &y), &want, &size);
        assert!(error < 1e-6, "{level:?} weight {g:?}: {error:e}");
    }
}

#[test]
fn random_geometries_equal_the_direct_path() {
    for seed in 0..24 {
        for deep in [false, true] {
            let g = geometry(seed, deep);
            check(&g, false, seed);
            check(&g, true, seed);
            check_weight(&g, seed);
        }
    }
}

fn plain(deep: bool, batch: usize, [channels, features]: [usize; 2], side: usize) -> Geometry {
    let fill = |inner: usize, outer: usize| [if deep { inner } else { outer }, inner, inner];
    Geometry {
        rank: if deep { 3 } else { 2 },
        batch,
        channels,
        features,
        groups: 1,
        image: fill(side, 1),
        result: fill(side, 1),
        kernel: fill(3, 1),
        stride: [1; 3],
        padding: fill(1, 0),
        dilation: [1; 3],
    }
}

/// Filters that tasks share or transform themselves, several chunks of tiles.
#[test]
fn sizes_that_are_cut_equal_the_direct_path() {
    for (deep, channels, sides) in [
        (false, [176, 170], vec![13, 57]),
        (true, [85, 90], vec![7, 16]),
        (false, [20, 35], vec![90]),
        (true, [17, 20], vec![19]),
    ] {
        for side in sides {
            let g = plain(deep, 1, channels, side);
            check(&g, false, 1);
            check(&g, true, 1);
            check_weight(&g, 1);
        }
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    for (deep, channels, side) in
        [(false, [33, 17], 30), (false, [180, 170], 21), (true, [20, 18], 9), (true, [90, 85], 6)]
    {
        let g = plain(deep, 3, channels, side);
        let x = random(1, g.batch * g.channels * g.image_pixels());
        let y = random(2, g.batch * g.features * g.result_pixels());
        let w = random(3, g.features * g.channels * g.taps());
        let run = |threads| {
            on_threads(threads, || {
                let all = [
                    forward(&g, &x, &w, None),
                    data_grad(&g, &y, &w, None),
                    cpu::weight_grad(&g, &image(&g, &x), &result(&g, &y)).unwrap(),
                ];
                all.map(|v| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{g:?}");
    }
}

/// Root mean square and largest error, both in units of the root mean square of the exact values.
fn errors(got: &[f32], want: &[f64]) -> [f64; 2] {
    let rms = |sum: f64| (sum / want.len() as f64).sqrt();
    let differences = got.iter().zip(want).map(|(&got, want)| f64::from(got) - want);
    let size = rms(want.iter().map(|w| w * w).sum());
    let largest = differences.clone().fold(0.0, |a: f64, d| a.max(d.abs()));
    [rms(differences.map(|d| d * d).sum()) / size, largest / size]
}

/// The numbers in the documentation of `set_conv_algorithm`.
#[test]
#[allow(clippy::print_stdout)]
fn errors_are_a_few_times_those_of_the_direct_path() {
    let quick = |c| plain(false, 1, [c, 64], 24);
    for g in [quick(64), quick(512), plain(true, 1, [64, 48], 10), plain(true, 1, [256, 16], 6)] {
        let x = random(1, g.batch * g.channels * g.image_pixels());
        let y = random(2, g.batch * g.features * g.result_pixels());
        let w = random(3, g.features * g.channels * g.taps());
        let (wide_x, wide_y, wide_w) = (wide(&x), wide(&y), wide(&w));
        let none: Option<&[f32]> = None;
        let direct = |transposed: bool| {
            let ends = [(g.features, g.result_pixels()), (g.channels, g.image_pixels())];
            let (channels, pixels) = ends[usize::from(transposed)];
            let output = Outputs::new("conv", g.batch, &[channels], pixels).unwrap();
            if transposed {
                cpu::direct_data_grad(&g, &result(&g, &y), &w, none, &output).unwrap();
            } else {
                cpu::direct_forward(&g, &image(&g, &x), &w, none, &output);
            }
            // SAFETY: both write every element.
            unsafe { output.into_vecs() }.remove(0)
        };
        for level in Level::available() {
            let zeros = vec![0.0; g.features.max(g.channels)];
            let cases = [
                (
                    "forward",
                    compute(level, &g, false, &x, &w, &zeros[..g.features]),
                    direct(false),
                    forward(&g, &wide_x, &wide_w, None),
                ),
                (
                    "data gradient",
                    compute(level, &g, true, &y, &w, &zeros[..g.channels]),
                    direct(true),
                    data_grad(&g, &wide_y, &wide_w, None),
                ),
                (
                    "weight gradient",
                    compute_weight(level, &g, &x, &y),
                    cpu::weight::weight_grad(&g, &image(&g, &x), &result(&g, &y)).unwrap(),
                    cpu::weight_grad(&g, &image(&g, &wide_x), &result(&g, &wide_y)).unwrap(),
                ),
            ];
            for (name, winograd, direct, exact) in cases {
                let ([rms, largest], of_direct) =
                    (errors(&winograd, &exact), errors(&direct, &exact));
                let text = format!(
                    "{level:?} {name} {} -> {} rank {}: {rms:.1e} {largest:.1e}, direct {:.1e} {:.1e}",
                    g.channels, g.features, g.rank, of_direct[0], of_direct[1]
                );
                assert!(rms < 2e-6 && largest < 2e-5, "{text}");
                println!("{text}");
            }
        }
    }
}
