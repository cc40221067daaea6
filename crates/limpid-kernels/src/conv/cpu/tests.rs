//! Times of the direct path.

use super::*;
use crate::rng::Stream;
use crate::threads::on_threads;
use std::time::Instant;

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
#[ignore = "prints the speed of the direct path"]
#[allow(clippy::print_stdout)]
fn direct_times() {
    let strided = [4, 2, 1];
    let cases = [
        (1, [64, 128], 128, strided),
        (1, [128, 256], 64, strided),
        (1, [256, 512], 32, strided),
        (1, [512, 512], 16, strided),
        (1, [512, 512], 8, strided),
        (1, [512, 512], 4, strided),
        (1, [512, 512], 2, strided),
        (8, [512, 512], 8, strided),
        (1, [64, 256], 128, strided),  // transposed 256 -> 64 of 64²
        (1, [512, 1024], 8, strided),  // transposed 1024 -> 512 of 4²
        (1, [512, 1024], 32, strided), // and of 16²
        (1, [128, 64], 256, [1, 1, 0]),
        (1, [96, 32], 256, [1, 1, 0]),
    ];
    println!("minimum and median ms (GFLOP/s): forward, data gradient, weight gradient");
    for (batch, channels, side, kernel) in cases {
        let g = plain(batch, channels, side, kernel);
        let x = random(1, g.batch * g.channels * g.image_pixels());
        let y = random(2, g.batch * g.features * g.result_pixels());
        let w = random(3, g.features * g.channels * g.taps());
        let sums = g.batch * g.result_pixels() * g.features * g.channels * g.taps();
        for threads in [1, 2] {
            let time = |f: &(dyn Fn() -> Vec<f32> + Sync)| {
                on_threads(threads, || {
                    let (begin, mut times) = (Instant::now(), Vec::new());
                    while times.len() < 5 || begin.elapsed().as_secs_f64() < 0.25 {
                        let start = Instant::now();
                        drop(f());
                        times.push(start.elapsed().as_secs_f64() * 1e3);
                    }
                    times.sort_by(f64::total_cmp);
                    let (low, mid) = (times[0], times[times.len() / 2]);
                    format!("{low:7.2} {mid:7.2} ({:3.0})", 2e-6 * sums as f64 / low)
                })
            };
            println!(
                "{batch} x {channels:4?} {side:3}² {kernel:?} {threads}: {} {} {}",
                time(&|| forward(&g, &x, &w, None).unwrap()),
                time(&|| data_grad(&g, &y, &w, None).unwrap()),
                time(&|| weight_grad(&g, &x, &y).unwrap()),
            );
        }
    }
}
