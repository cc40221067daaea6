//! Feature similarity (Zhang et al., "FSIM: a feature similarity index for image quality
//! assessment", IEEE TIP 2011) with Kovesi's phase congruency, as piq 0.8 for grey images.

use super::gradient::{Plane, SCHARR, reduction, similarity};
use super::image::{Image, any_nan, plane, positive_range};
use crate::fft::{Complex, Direction, complex, transform};
use limpid_kernels::Result;
use rayon::prelude::*;
use std::f64::consts::{LN_2, PI};

const SCALES: usize = 4;
const ORIENTATIONS: usize = 4;
const EPS: f64 = f32::EPSILON as f64;

/// FSIM: 1 for equal images. NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) unless both images are 2-D, of one shape and at
/// least 2 by 2; [`Error::Argument`](limpid_kernels::Error::Argument) if the range is not above 0.
pub fn fsim(pred: &Image, truth: &Image, range: f64) -> Result<f64> {
    const OP: &str = "fsim";
    const T1: f64 = 0.85;
    const T2: f64 = 160.0;
    let (size, range) = (plane(OP, pred, truth, 2)?, positive_range(OP, range)?);
    if any_nan(pred, truth) {
        return Ok(f64::NAN);
    }
    let luminance =
        |image: &Image| Plane::new(image, size, 255.0 / range).pool(reduction(size), 0, 0);
    let (x, y) = (luminance(pred), luminance(truth));
    let bank = Bank::new(x.h, x.w);
    let (phase_x, phase_y) = (bank.phase_congruency(&x), bank.phase_congruency(&y));
    let (edge_x, edge_y) = (x.gradient(&SCHARR), y.gradient(&SCHARR));
    let (mut score, mut total) = (0.0, 0.0);
    for i in 0..phase_x.len() {
        let weight = phase_x[i].max(phase_y[i]);
        let agreement =
            similarity(phase_x[i], phase_y[i], T1) * similarity(edge_x[i], edge_y[i], T2);
        score += agreement * weight;
        total += weight;
    }
    Ok(score / total)
}

/// Log-Gabor filters of one orientation and all scales, and what the noise model needs of them.
struct Orientation {
    /// Transfer functions, one per scale.
    filters: Vec<Vec<f64>>,
    /// Energy of the finest filter.
    finest: f64,
    /// `2 Σ fᵢ² + 4 Σ_{i<j} fᵢ fⱼ` of the impulse responses: noise energy per noise power.
    noise_gain: f64,
}

struct Bank {
    h: usize,
    w: usize,
    orientations: Vec<Orientation>,
}

impl Bank {
    fn new(h: usize, w: usize) -> Self {
        const MIN_WAVELENGTH: f64 = 6.0;
        const SIGMA: f64 = 0.55;
        const CUTOFF: f64 = 0.45;
        let spread_sigma = PI / (ORIENTATIONS as f64 * 1.2);
        let (rows, columns) = (frequencies(h), frequencies(w));
        let polar: Vec<(f64, f64)> = (0..h * w)
            .map(|i| {
                let (y, x) = (rows[i / w], columns[i % w]);
                // axes named as in the reference: its x runs along rows
                (y.hypot(x), (-x).atan2(y))
            })
            .collect();
        let radial = |scale: usize| -> Vec<f64> {
            let wavelength = MIN_WAVELENGTH * (1 << scale) as f64;
            let filter = |(i, &(radius, _)): (usize, &(f64, f64))| {
                if i == 0 {
                    return 0.0;
                }
                let octave = (radius * wavelength).ln() / SIGMA.ln();
                (-0.5 * octave * octave).exp() / (1.0 + (radius / CUTOFF).powi(30))
            };
            polar.iter().enumerate().map(filter).collect()
        };
        let bands: Vec<Vec<f64>> = (0..SCALES).map(radial).collect();
        let orientations = (0..ORIENTATIONS)
            .into_par_iter()
            .map(|o| {
                let (sin, cos) = (o as f64 * PI / ORIENTATIONS as f64).sin_cos();
                let spread: Vec<f64> = polar
                    .iter()
                    .map(|&(_, theta)| {
                        let across = theta.sin() * cos - theta.cos() * sin;
                        let along = theta.cos() * cos + theta.sin() * sin;
                        let distance = across.atan2(along).abs() / spread_sigma;
                        (-0.5 * distance * distance).exp()
                    })
                    .collect();
                let filters = bands
                    .iter()
                    .map(|band| band.iter().zip(&spread).map(|(b, s)| b * s).collect())
                    .collect();
                Orientation::new(filters, h, w)
            })
            .collect();
        Self { h, w, orientations }
    }

    /// Phase congruency of an image: 1 where all scales are in phase, 0 in noise.
    fn phase_congruency(&self, image: &Plane) -> Vec<f64> {
        let mut spectrum = complex(&image.data);
        transform(&mut spectrum, &[self.h, self.w], 0, Direction::Forward);
        let parts: Vec<(Vec<f64>, Vec<f64>)> = self
            .orientations
            .par_iter()
            .map(|orientation| orientation.energy(&spectrum, self.h, self.w))
            .collect();
        let total = |i: usize, of: fn(&(Vec<f64>, Vec<f64>)) -> &Vec<f64>| -> f64 {
            parts.iter().map(|part| of(part)[i]).sum::<f64>() + EPS
        };
        (0..image.data.len()).map(|i| total(i, |p| &p.0) / total(i, |p| &p.1)).collect()
    }
}

impl Orientation {
    fn new(filters: Vec<Vec<f64>>, h: usize, w: usize) -> Self {
        let scale = 1.0 / ((h * w) as f64).sqrt();
        let responses: Vec<Vec<f64>> = filters
            .iter()
            .map(|filter| {
                let mut response = complex(filter);
                transform(&mut response, &[h, w], 0, Direction::Inverse);
                response.iter().map(|v| v.re * scale).collect()
            })
            .collect();
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut noise_gain = 0.0;
        for (i, a) in responses.iter().enumerate() {
            noise_gain += 2.0 * product(a, a);
            noise_gain += responses[i + 1..].iter().map(|b| 4.0 * product(a, b)).sum::<f64>();
        }
        let finest = product(&filters[0], &filters[0]);
        Self { filters, finest, noise_gain }
    }

    /// Energy above the noise, and summed amplitude, at every position.
    fn energy(&self, spectrum: &[Complex<f64>], h: usize, w: usize) -> (Vec<f64>, Vec<f64>) {
        let n = h * w;
        let responses: Vec<Vec<Complex<f64>>> = self
            .filters
            .iter()
            .map(|filter| {
                let mut response: Vec<_> =
                    spectrum.iter().zip(filter).map(|(s, f)| s * f / n as f64).collect();
                transform(&mut response, &[h, w], 0, Direction::Inverse);
                response
            })
            .collect();
        // noise power from the median energy of the finest scale, and its Rayleigh threshold
        let mut energies: Vec<f64> = responses[0].iter().map(|v| v.norm_sqr()).collect();
        let (_, median, _) = energies.select_nth_unstable_by((n - 1) / 2, f64::total_cmp);
        let power = *median / LN_2 / self.finest;
        let tau = (power * self.noise_gain / 2.0).sqrt();
        let threshold = tau * ((PI / 2.0).sqrt() + 2.0 * (2.0 - PI / 2.0).sqrt()) / 1.7;

        let mut above = Vec::with_capacity(n);
        let mut amplitude = Vec::with_capacity(n);
        for i in 0..n {
            let sum: Complex<f64> = responses.iter().map(|r| r[i]).sum();
            let mean = sum / (sum.norm() + EPS);
            let energy: f64 = responses
                .iter()
                .map(|r| {
                    let v = r[i];
                    v.re * mean.re + v.im * mean.im - (v.re * mean.im - v.im * mean.re).abs()
                })
                .sum();
            above.push((energy - threshold).max(0.0));
            amplitude.push(responses.iter().map(|r| r[i].norm()).sum());
        }
        (above, amplitude)
    }
}

/// Frequencies of an axis as Kovesi lays them out, zero first: cycles per sample for even lengths,
/// stretched to reach ±1/2 for odd ones.
fn frequencies(n: usize) -> Vec<f64> {
    let span = if n % 2 == 1 { (n - 1).max(1) } else { n } as f64;
    (0..n).map(|i| if i < n.div_ceil(2) { i as f64 } else { i as f64 - n as f64 } / span).collect()
}
