//! The shift between two images by phase correlation (Kuglin & Hines 1975): of their cross-power
//! spectrum only the phase is kept, whose inverse transform is a peak at the shift, whatever the
//! brightness and contrast of the images.
//!
//! The phase gives every frequency the same say, also those that hold little but noise. So it tells
//! the shift to a pixel; the fraction is where the plain cross-correlation near it is largest, which
//! is the best estimate under white noise.

use rayon::prelude::*;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;
use std::f64::consts::{PI, TAU};

use super::{check_pair, solve};
use crate::error::Result;

const OP: &str = "phase_correlation";
/// Least rows and columns, of the images and of the part that they share.
const LEAST: usize = 16;
/// Standard deviation in pixels of the Gaussian that high frequencies are damped with.
const PEAK: f64 = 1.0;
/// Newton steps for the fraction of a pixel.
const STEPS: usize = 8;
/// Times the shared part is cut anew.
const ROUNDS: usize = 4;

/// A shift in pixels: `moving(y + shift.y, x + shift.x) = fixed(y, x)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// Down.
    pub y: f64,
    /// To the right.
    pub x: f64,
    /// Height of the peak: 1 for images that differ by a shift alone, near 0 for unrelated ones.
    /// An image without structure is not shifted, with a peak of 0.
    pub peak: f64,
}

/// Finds the shift between two images, to fractions of a pixel. Half their size is the most that
/// can be found.
///
/// The images are weighted by a Hann window. Since that stays where it is while the content moves,
/// the part that both share is cut out and compared again, until what is left is less than a pixel.
///
/// # Shapes
/// `fixed` and `moving` `[H, W]`, at least 16 pixels high and wide
///
/// # Errors
/// Shapes that do not fit, or a value that is not finite.
pub fn phase_correlation(fixed: &[f64], moving: &[f64], shape: [usize; 2]) -> Result<Shift> {
    check_pair(OP, fixed, moving, shape, LEAST)?;
    let mut found = peak(fixed, moving, shape);
    let mut whole = [0isize; 2];
    for _ in 0..ROUNDS {
        let next = [found.y, found.x].map(|v| v.round() as isize);
        let size = [0, 1].map(|a| shape[a].saturating_sub(next[a].unsigned_abs()));
        if next == whole || size.iter().any(|n| *n < LEAST) {
            break;
        }
        whole = next;
        let from = |image: &[f64], sign: isize| -> Vec<f64> {
            let [top, left] = whole.map(|s| (sign * s).max(0) as usize);
            let rows = (top..top + size[0]).map(|y| &image[y * shape[1] + left..][..size[1]]);
            rows.flatten().copied().collect()
        };
        let rest = peak(&from(fixed, -1), &from(moving, 1), size);
        found = Shift { y: rest.y + whole[0] as f64, x: rest.x + whole[1] as f64, ..rest };
    }
    Ok(found)
}

/// The shift between two images as if they were periodic.
fn peak(fixed: &[f64], moving: &[f64], [h, w]: [usize; 2]) -> Shift {
    let [mean_f, mean_m] = [fixed, moving].map(|i| i.iter().sum::<f64>() / i.len() as f64);
    let flat = |image: &[f64]| image.iter().all(|v| *v == image[0]);
    if flat(fixed) || flat(moving) {
        return Shift { y: 0.0, x: 0.0, peak: 0.0 }; // else the phase of rounding errors
    }
    let hann = |n: usize| -> Vec<f64> {
        (0..n).map(|i| 0.5 - 0.5 * (TAU * (i as f64 + 0.5) / n as f64).cos()).collect()
    };
    let (rows, columns) = (hann(h), hann(w));
    // two real images in one complex transform
    let mut packed = vec![Complex::new(0.0, 0.0); h * w];
    packed.par_chunks_mut(w).enumerate().for_each(|(y, line)| {
        for (x, value) in line.iter_mut().enumerate() {
            let (i, weight) = (y * w + x, rows[y] * columns[x]);
            *value = Complex::new(weight * (fixed[i] - mean_f), weight * (moving[i] - mean_m));
        }
    });
    let spectrum = fft(packed, [h, w], false);

    let damping = |n: usize| -> Vec<f64> {
        let damped = |k| (-2.0 * (PI * PEAK * frequency(k, n) / n as f64).powi(2)).exp();
        (0..n).map(damped).collect()
    };
    let (down, right) = (damping(h), damping(w));
    let mut cross = vec![Complex::new(0.0, 0.0); h * w];
    cross.par_chunks_mut(w).enumerate().for_each(|(y, line)| {
        let mirrored = (h - y) % h * w;
        for (x, value) in line.iter_mut().enumerate() {
            let (z, c) = (spectrum[y * w + x], spectrum[mirrored + (w - x) % w].conj());
            let (f, m) = (z + c, (z - c) * Complex::new(0.0, -1.0));
            *value = f.conj() * m;
        }
    });
    drop(spectrum);
    let mut phase = cross.clone();
    phase.par_chunks_mut(w).zip(&down).for_each(|(line, down)| {
        for (value, right) in line.iter_mut().zip(&right) {
            let size = value.norm();
            *value = if size > 0.0 { *value * (down * right / size) } else { Complex::ZERO };
        }
    });
    phase[0] = Complex::ZERO;
    let total = down.iter().sum::<f64>() * right.iter().sum::<f64>() - 1.0;
    let surface = fft(phase, [h, w], true);
    let highest = |best: usize, i: usize| if surface[i].re > surface[best].re { i } else { best };
    let best = (0..h * w).fold(0, highest);
    let whole = [frequency(best / w, h), frequency(best % w, w)];
    let [y, x] = fraction(&cross, [h, w], whole).unwrap_or(whole);
    Shift { y, x, peak: surface[best].re / total }
}

/// Index `i` of `n` counted from zero up and down.
fn frequency(i: usize, n: usize) -> f64 {
    if 2 * i > n { i as f64 - n as f64 } else { i as f64 }
}

/// Where within a pixel of `start` the correlation with this spectrum is largest.
fn fraction(cross: &[Complex<f64>], [h, w]: [usize; 2], start: [f64; 2]) -> Option<[f64; 2]> {
    let angular =
        |n: usize| -> Vec<f64> { (0..n).map(|k| TAU * frequency(k, n) / n as f64).collect() };
    let (rows, columns) = (angular(h), angular(w));
    let mut at = start;
    for _ in 0..STEPS {
        let turned = |k: &Vec<f64>, s: f64| -> Vec<Complex<f64>> {
            k.iter().map(|k| Complex::cis(k * s)).collect()
        };
        let (down, right) = (turned(&rows, at[0]), turned(&columns, at[1]));
        // first and second derivatives: y, x, yy, yx, xx
        let line = |(y, line): (usize, &[Complex<f64>])| {
            let mut sums = [0.0; 3]; // imaginary, its product with kx; real with kx²
            let mut real = [0.0; 2];
            for (x, value) in line.iter().enumerate() {
                let v = value * right[x] * down[y];
                let k = columns[x];
                sums[0] += v.im;
                sums[1] += k * v.im;
                sums[2] += k * k * v.re;
                real[0] += v.re;
                real[1] += k * v.re;
            }
            let k = rows[y];
            [k * sums[0], sums[1], k * k * real[0], k * real[1], sums[2]].map(|v| -v)
        };
        let lines: Vec<[f64; 5]> = cross.par_chunks(w).enumerate().map(line).collect();
        let [y, x, yy, yx, xx] = lines.iter().fold([0.0; 5], |mut total, line| {
            total.iter_mut().zip(line).for_each(|(total, v)| *total += v);
            total
        });
        // a top bends down along every direction
        if !(yy < 0.0 && yy * xx > yx * yx) {
            return None;
        }
        let step = solve([[yy, yx], [yx, xx]], [-y, -x])?;
        at = [at[0] + step[0], at[1] + step[1]];
        if !((0..2).all(|a| (at[a] - start[a]).abs() <= 1.0)) {
            return None;
        }
        if step[0].hypot(step[1]) < 1e-6 {
            return Some(at);
        }
    }
    None
}

/// The transform of an image, without a factor.
fn fft(mut values: Vec<Complex<f64>>, [h, w]: [usize; 2], inverse: bool) -> Vec<Complex<f64>> {
    let mut planner = FftPlanner::new();
    for n in [w, h] {
        let plan = if inverse { planner.plan_fft_inverse(n) } else { planner.plan_fft_forward(n) };
        let scratch = || vec![Complex::new(0.0, 0.0); plan.get_inplace_scratch_len()];
        values
            .par_chunks_mut(n)
            .for_each_init(scratch, |scratch, line| plan.process_with_scratch(line, scratch));
        values = transpose(&values, n);
    }
    values
}

/// Turns lines of `n` values into columns, in blocks that fit the cache.
fn transpose(values: &[Complex<f64>], n: usize) -> Vec<Complex<f64>> {
    const BLOCK: usize = 16;
    let lines = values.len() / n;
    let mut out = vec![Complex::new(0.0, 0.0); values.len()];
    out.par_chunks_mut(BLOCK * lines).enumerate().for_each(|(block, out)| {
        for first in (0..lines).step_by(BLOCK) {
            for line in first..(first + BLOCK).min(lines) {
                let from = &values[line * n + block * BLOCK..(line + 1) * n];
                for (i, value) in from.iter().take(out.len() / lines).enumerate() {
                    out[i * lines + line] = *value;
                }
            }
        }
    });
    out
}
