//! Discrete Fourier transform of arrays of any rank, in f64, on rustfft.

use rayon::prelude::*;
pub(crate) use rustfft::FftDirection as Direction;
use rustfft::FftPlanner;
pub(crate) use rustfft::num_complex::Complex;

/// Transforms the axes `first_axis..` of a row-major array in place, without normalisation.
pub(crate) fn transform(
    data: &mut [Complex<f64>],
    shape: &[usize],
    first_axis: usize,
    direction: Direction,
) {
    let mut planner = FftPlanner::new();
    for axis in first_axis..shape.len() {
        let len = shape[axis];
        let inner: usize = shape[axis + 1..].iter().product();
        let plan = planner.plan_fft(len, direction);
        let scratch = || vec![Complex::default(); plan.get_inplace_scratch_len()];
        if inner == 1 {
            data.par_chunks_mut(len).for_each_init(scratch, |scratch, line| {
                plan.process_with_scratch(line, scratch);
            });
            continue;
        }
        // lines across memory are gathered, transformed and put back
        let mut lines = vec![Complex::default(); data.len()];
        lines.par_chunks_mut(len).enumerate().for_each_init(scratch, |scratch, (l, line)| {
            let first = l / inner * len * inner + l % inner;
            for (i, v) in line.iter_mut().enumerate() {
                *v = data[first + i * inner];
            }
            plan.process_with_scratch(line, scratch);
        });
        data.par_chunks_mut(inner).enumerate().for_each(|(row, out)| {
            let first = row / len * inner * len + row % len;
            for (column, v) in out.iter_mut().enumerate() {
                *v = lines[first + column * len];
            }
        });
    }
}

/// A real array as a complex one.
pub(crate) fn complex(data: &[f64]) -> Vec<Complex<f64>> {
    data.iter().map(|&v| Complex::new(v, 0.0)).collect()
}
