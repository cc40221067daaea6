//! Against f64 loops and the direct path: random geometries, every level, every number of threads.

use super::*;
use crate::conv::cpu;
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
    let (channels, pixels) =
        if transposed { (g.channels, g.image_pixels()) } else { (g.features, g.result_pixels()) };
    let output = Output::new("conv", g.batch * channels * pixels).unwrap();
    correlate(level, g, transposed, [x, w], Some(b), &output).unwrap();
    // SAFETY: `correlate` writes every element.
    unsafe { output.into_vec() }
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
        let f = if transposed { cpu::data_grad } else { cpu::forward };
        f(g, x, w, Some(b)).unwrap()
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
    weight_grad(level, g, x, y, &output).unwrap();
    // SAFETY: `weight_grad` writes every element.
    unsafe { output.into_vec() }
}

fn check_weight(g: &Geometry, seed: u64) {
    let x = random(seed, g.batch * g.channels * g.image_pixels());
    let y = random(seed + 1, g.batch * g.features * g.result_pixels());
    let abs = |x: &[f32]| x.iter().map(|&x| f64::from(x.abs())).collect::<Vec<_>>();
    let want = cpu::weight_grad(g, &wide(&x), &wide(&y)).unwrap();
    let size = cpu::weight_grad(g, &abs(&x), &abs(&y)).unwrap();
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

/// `cargo test -p limpid-kernels kernel_times -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn kernel_times() {
    let filter = std::env::var("SIZES").unwrap_or_default();
    for (c, k, batch, image) in [
        (64, 64, 1, vec![256, 256]),
        (64, 128, 4, vec![128, 128]),
        (32, 32, 1, vec![256, 256]),
        (128, 128, 1, vec![128, 128]),
        (256, 256, 1, vec![64, 64]),
        (512, 512, 1, vec![32, 32]),
        (512, 512, 8, vec![16, 16]),
        (32, 32, 1, vec![96, 96, 96]),
        (64, 64, 1, vec![32, 64, 64]),
        (16, 16, 1, vec![256, 256]),
        (64, 64, 1, vec![16, 16]),
        (256, 256, 1, vec![8, 8]),
    ] {
        let name = format!("{c} -> {k}, {batch} x {image:?}");
        if !name.contains(&filter) {
            continue;
        }
        let three = |fill: usize, v: &[usize]| {
            let mut all = [fill; 3];
            all[3 - v.len()..].copy_from_slice(v);
            all
        };
        let rank = image.len();
        let g = Geometry {
            rank,
            batch,
            channels: c,
            features: k,
            groups: 1,
            image: three(1, &image),
            result: three(1, &image),
            kernel: three(1, &vec![3; rank]),
            stride: [1; 3],
            padding: three(0, &vec![1; rank]),
            dilation: [1; 3],
        };
        let x = random(1, batch * c * g.image_pixels());
        let y = random(2, batch * k * g.result_pixels());
        let w = random(3, c * k * g.taps());
        for threads in [1, 2] {
            if std::env::var("THREADS").is_ok_and(|n| n != threads.to_string()) {
                continue;
            }
            on_threads(threads, || {
                // the least wall and the mean CPU time of a call: others may use the machine meanwhile
                let cpu = || {
                    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
                    let spent = threads.flatten().filter_map(|thread| {
                        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                        text.split(' ').next()?.parse::<f64>().ok()
                    });
                    spent.sum::<f64>() / 1e6
                };
                let time = |f: &dyn Fn()| {
                    let begin = std::time::Instant::now();
                    let spent = cpu();
                    let mut best = f64::INFINITY;
                    let mut runs = 0;
                    while runs < 5 || begin.elapsed().as_secs_f64() < 0.6 {
                        let start = std::time::Instant::now();
                        f();
                        best = best.min(start.elapsed().as_secs_f64() * 1e3);
                        runs += 1;
                    }
                    format!("{best:8.2} ({:8.2})", (cpu() - spent) / f64::from(runs))
                };
                let direct = time(&|| {
                    let output = Output::new("conv", batch * k * g.result_pixels()).unwrap();
                    cpu::direct_forward(&g, [&x, &w], None, &output);
                });
                let forward = time(&|| drop(cpu::forward(&g, &x, &w, None)));
                let data = time(&|| drop(cpu::data_grad(&g, &y, &w, None)));
                let weight = time(&|| drop(cpu::weight_grad(&g, &x, &y)));
                println!(
                    "{name:34} {threads} threads: direct {direct} forward {forward} d image {data} d weight {weight}"
                );
            });
        }
    }
}
