//! Spectral residual similarity (Zhang and Li, "SR-SIM: a fast and high performance IQA index based
//! on spectral residual", ICIP 2012), as piq 0.8 for grey images.

use super::gradient::{Plane, SCHARR, reduction, similarity};
use super::image::{Image, any_nan, plane, positive_range};
use crate::fft::{Complex, Direction, complex, transform};
use crate::filter::{gaussian_taps, mirror};
use limpid_kernels::Result;

const EPS: f64 = f32::EPSILON as f64;

/// SR-SIM: 1 for equal images. NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) unless both images are 2-D, of one shape and at
/// least 40 by 40; [`Error::Argument`](limpid_kernels::Error::Argument) if the range is not above 0.
pub fn sr_sim(pred: &Image, truth: &Image, range: f64) -> Result<f64> {
    const OP: &str = "sr_sim";
    const C1: f64 = 0.4;
    const C2: f64 = 225.0;
    let (size, range) = (plane(OP, pred, truth, 40)?, positive_range(OP, range)?);
    if any_nan(pred, truth) {
        return Ok(f64::NAN);
    }
    let k = reduction(size);
    let (before, after) = if k > 1 { ((k - 1) / 2, k / 2) } else { (0, 0) };
    let luminance = |image: &Image| Plane::new(image, size, 255.0 / range).pool(k, before, after);
    let (x, y) = (luminance(pred), luminance(truth));
    let (salience_x, salience_y) = (saliency(&x), saliency(&y));
    let (edge_x, edge_y) = (x.gradient(&SCHARR), y.gradient(&SCHARR));
    let (mut score, mut total) = (0.0, 0.0);
    for i in 0..edge_x.len() {
        let weight = salience_x[i].max(salience_y[i]);
        let edges = similarity(edge_x[i], edge_y[i], C2).sqrt();
        score += similarity(salience_x[i], salience_y[i], C1) * edges * weight;
        total += weight;
    }
    Ok(score / (total + EPS))
}

/// Visual saliency from the spectral residual (Hou and Zhang, CVPR 2007), in `[0, 1]`.
fn saliency(image: &Plane) -> Vec<f64> {
    let small = resize(image, (image.h.div_ceil(4), image.w.div_ceil(4)), (0.25, 0.25));
    let (h, w) = (small.h, small.w);
    let mut spectrum = complex(&small.data);
    transform(&mut spectrum, &[h, w], 0, Direction::Forward);
    let logs: Vec<f64> = spectrum.iter().map(|v| (v.norm() + EPS).ln()).collect();
    let neighbourhood = |y: usize, x: usize| -> f64 {
        let near = |i: usize, k: usize, n: usize| (i + k).saturating_sub(1).min(n - 1);
        let total: f64 = (0..9).map(|k| logs[near(y, k / 3, h) * w + near(x, k % 3, w)]).sum();
        total / 9.0
    };
    for (i, v) in spectrum.iter_mut().enumerate() {
        let residual = logs[i] - neighbourhood(i / w, i % w);
        *v = Complex::from_polar(residual.exp(), v.arg());
    }
    transform(&mut spectrum, &[h, w], 0, Direction::Inverse);
    let scale = 1.0 / ((h * w) as f64).powi(2);
    let power = Plane { data: spectrum.iter().map(|v| v.norm_sqr() * scale).collect(), h, w };
    // an even Gaussian, placed as MATLAB does: one zero before it
    let mut blur = vec![0.0];
    blur.extend(gaussian_taps(10, 3.8));
    let mut map = power.correlate(&blur, &blur);
    let low = map.iter().copied().fold(f64::INFINITY, f64::min);
    let high = map.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    map.iter_mut().for_each(|v| *v = (*v - low) / (high - low + EPS));
    let scales = (image.h as f64 / h as f64, image.w as f64 / w as f64);
    resize(&Plane { data: map, h, w }, (image.h, image.w), scales).data
}

/// Bicubic resampling as MATLAB's `imresize`: antialiased when shrinking, mirrored borders.
fn resize(image: &Plane, (h, w): (usize, usize), scales: (f64, f64)) -> Plane {
    let rows = contributions(image.h, h, scales.0);
    let columns = contributions(image.w, w, scales.1);
    let mut tall = vec![0.0; h * image.w];
    for (out, taps) in tall.chunks_mut(image.w).zip(&rows) {
        for &(source, weight) in taps {
            let row = &image.data[source * image.w..(source + 1) * image.w];
            out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * v);
        }
    }
    let data = tall
        .chunks(image.w)
        .flat_map(|row| {
            columns
                .iter()
                .map(|taps| taps.iter().map(|&(source, weight)| weight * row[source]).sum())
        })
        .collect();
    Plane { data, h, w }
}

/// For each output position, the input positions and weights it is made of.
fn contributions(len: usize, out: usize, scale: f64) -> Vec<Vec<(usize, f64)>> {
    let narrow = scale.min(1.0);
    let taps = (4.0 / narrow).ceil() as isize + 2;
    (0..out)
        .map(|i| {
            let position = (i as f64 + 0.5) / scale - 0.5;
            let first = position.floor() as isize - taps / 2 + 1;
            let weight = |t: isize| cubic((position - (first + t) as f64) * narrow);
            let total: f64 = (0..taps).map(weight).sum();
            (0..taps).map(|t| (mirror(first + t, len), weight(t) / total)).collect()
        })
        .collect()
}

/// Keys' cubic with `a = -1/2`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x <= 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}
