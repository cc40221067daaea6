//! The stopwatch of the benchmarks.

use limpid_kernels::Result;
use std::time::Instant;

/// Median milliseconds of a call: of at least five, of up to thirty while they take a second.
#[allow(dead_code)] // one example uses this, the other `spread`
pub(crate) fn median(f: impl FnMut() -> Result<()>) -> Result<f64> {
    Ok(spread(f)?[1])
}

/// Minimum and median milliseconds of such calls.
#[allow(dead_code)]
pub(crate) fn spread(mut f: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 5 || (times.len() < 30 && begin.elapsed().as_secs_f64() < 1.0) {
        let start = Instant::now();
        f()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok([times[0], times[times.len() / 2]])
}
