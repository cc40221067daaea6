//! Sums over fixed blocks: parallel, in f64, and the same bits for any number of threads.

use rayon::prelude::*;

/// Elements per block; a constant, so the order of additions cannot depend on the thread count.
pub(crate) const BLOCK: usize = 1 << 14;

/// Sum of `f(i)` over `0..n`.
pub(crate) fn sum(n: usize, f: impl Fn(usize) -> f64 + Sync) -> f64 {
    let blocks: Vec<f64> = (0..n.div_ceil(BLOCK))
        .into_par_iter()
        .map(|b| {
            // four lanes, because one chain of f64 additions is bound by its latency
            let (first, last) = (b * BLOCK, n.min((b + 1) * BLOCK));
            let mut lanes = [0.0; 4];
            let whole = first + (last - first) / 4 * 4;
            for i in (first..whole).step_by(4) {
                for (lane, total) in lanes.iter_mut().enumerate() {
                    *total += f(i + lane);
                }
            }
            (whole..last).for_each(|i| lanes[0] += f(i));
            (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
        })
        .collect();
    blocks.iter().sum()
}

/// Mean of `f(i)` over `0..n`; NaN for `n = 0`.
pub(crate) fn mean(n: usize, f: impl Fn(usize) -> f64 + Sync) -> f64 {
    sum(n, f) / n as f64
}
