//! The Kaiser–Bessel window, its transform and its piecewise polynomial.
//!
//! P. J. Beatty, D. G. Nishimura, J. M. Pauly, Rapid gridding reconstruction with a minimal oversampling ratio,
//! IEEE Trans. Med. Imaging 24 (2005): the shape that belongs to a width and an oversampling, and the transform.

use crate::bessel::bessel_i0_of_root;
use std::f64::consts::PI;

/// Widths from which one is taken.
pub(super) const WIDEST: usize = 16;

/// Terms of the Chebyshev series that polynomials are cut from.
const TERMS: usize = 32;

/// A window on a grid that is oversampled: it spans `width` of its points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub(super) width: usize,
    pub(super) oversampling: f64,
    beta: f64,
    /// What the window is divided by.
    peak: f64,
}

impl Kernel {
    pub(super) fn new(width: usize, oversampling: f64) -> Self {
        let span = width as f64 * (1.0 - 0.5 / oversampling);
        let beta = PI * (span * span - 0.8).max(0.0).sqrt();
        Self { width, oversampling, beta, peak: bessel_i0_of_root(beta * beta) }
    }

    /// The narrowest window whose error in images of `rank` axes is below the tolerance, for numbers with
    /// the unit roundoff `unit`.
    pub(super) fn within(
        tolerance: f64,
        oversampling: f64,
        rank: usize,
        unit: f64,
    ) -> Option<Self> {
        let mut kernels = (2..=WIDEST).map(|width| Self::new(width, oversampling));
        kernels.find(|kernel| kernel.error(rank, unit) <= tolerance)
    }

    /// The window at a distance of at most half its width, 1 in the middle.
    pub(super) fn value(&self, x: f64) -> f64 {
        let t = 2.0 * x / self.width as f64;
        bessel_i0_of_root(self.beta * self.beta * (1.0 - t * t).max(0.0)) / self.peak
    }

    /// Its Fourier transform, at a frequency in cycles per point.
    pub(super) fn transform(&self, frequency: f64) -> f64 {
        let width = self.width as f64;
        let square = self.beta * self.beta - (PI * width * frequency).powi(2);
        let root = square.abs().sqrt();
        let ratio = match root {
            r if r < 1e-6 => 1.0,
            r if square > 0.0 => r.sinh() / r,
            r => r.sin() / r,
        };
        width * ratio / self.peak
    }

    /// The expected relative error of a transform in the ℓ₂ norm: what other periods of the spectrum
    /// leave, and rounding, which a window amplifies that all but vanishes at the edge of the image.
    fn error(&self, rank: usize, unit: f64) -> f64 {
        let aliases = self.mean(|xi| {
            let alias = |m: i32| {
                let other = |m: i32| self.transform(xi + f64::from(m)).powi(2);
                other(m) + other(-m)
            };
            (1..=6).map(alias).sum::<f64>() / self.transform(xi).powi(2)
        });
        let rounding = 4.0 * unit * self.amplification().powi(rank as i32);
        // few samples, or many at the edge, are worse than the mean
        (1.15 * (rank as f64 * aliases).sqrt()).hypot(rounding)
    }

    /// How an axis amplifies small errors of the grid or of the window.
    fn amplification(&self) -> f64 {
        const STEPS: usize = 256;
        let step = self.width as f64 / STEPS as f64;
        let half = self.width as f64 / 2.0;
        let values = (0..STEPS).map(|i| self.value((i as f64 + 0.5) * step - half).powi(2));
        let energy = values.sum::<f64>() * step;
        (self.mean(|xi| self.transform(xi).powi(-2)) * energy).sqrt()
    }

    /// The mean over the frequencies of an image.
    fn mean(&self, f: impl Fn(f64) -> f64) -> f64 {
        const STEPS: usize = 64;
        let frequency = |i: usize| (i as f64 + 0.5) / STEPS as f64 * 0.5 / self.oversampling;
        (0..STEPS).map(|i| f(frequency(i))).sum::<f64>() / STEPS as f64
    }

    /// The window at its points, `j − w/2 + (z + 1)/2` for point `j`, as polynomials of `z` in `-1..1`:
    /// the coefficients of all points for the highest power first.
    pub(super) fn polynomials(&self, tolerance: f64, rank: usize) -> Vec<Vec<f64>> {
        let series: Vec<[f64; TERMS]> = (0..self.width).map(|j| self.series(j)).collect();
        let allowed = 0.05 * tolerance / self.amplification().powi(rank as i32).max(1.0);
        let tail = |degree: usize| {
            let tail = |c: &[f64; TERMS]| c[degree + 1..].iter().map(|c| c.abs()).sum::<f64>();
            series.iter().map(tail).fold(0.0, f64::max)
        };
        let degree = (2..TERMS).find(|&degree| tail(degree) <= allowed).unwrap_or(TERMS - 1);
        let powers: Vec<Vec<f64>> = series.iter().map(|c| monomials(&c[..=degree])).collect();
        (0..=degree).rev().map(|k| powers.iter().map(|p| p[k]).collect()).collect()
    }

    /// The Chebyshev series of the window at point `j`.
    fn series(&self, j: usize) -> [f64; TERMS] {
        let angle = |i: usize| PI * (i as f64 + 0.5) / TERMS as f64;
        let start = j as f64 - self.width as f64 / 2.0;
        let values: Vec<f64> =
            (0..TERMS).map(|i| self.value(start + (angle(i).cos() + 1.0) / 2.0)).collect();
        std::array::from_fn(|k| {
            let terms = values.iter().enumerate().map(|(i, v)| v * (k as f64 * angle(i)).cos());
            terms.sum::<f64>() * if k == 0 { 1.0 } else { 2.0 } / TERMS as f64
        })
    }
}

/// The coefficients of the powers of the sum of Chebyshev polynomials `Σ cₖ Tₖ`.
fn monomials(c: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; c.len()];
    let (mut before, mut now) = (vec![0.0; c.len()], vec![0.0; c.len()]);
    now[0] = 1.0;
    for (k, &c) in c.iter().enumerate() {
        for (s, n) in sum.iter_mut().zip(&now) {
            *s += c * n;
        }
        let factor = if k == 0 { 1.0 } else { 2.0 };
        let mut next: Vec<f64> = before.iter().map(|b| -b).collect();
        for i in 1..next.len() {
            next[i] += factor * now[i - 1];
        }
        before = std::mem::replace(&mut now, next);
    }
    sum
}
