//! Simulated noise, to make noisy partners of clean images.
//!
//! Every sample of noise is a function of its stream and of its place in the image, so a patch may
//! be drawn on its own and fits its neighbours. Sources: shot noise, read noise and scan errors of
//! electron microscopes as in de Haan et al., "Resolution enhancement in scanning electron
//! microscopy using deep learning" (2019); binomial thinning of counts is exact Poisson statistics
//! for a part of the dose.

use crate::boxes::line_starts;
use limpid_config::{Check, Validate};
use limpid_kernels::rng::{Draws, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// A model of noise. Levels are relative to the full range of the images (see `range` of the
/// dataset), except for `thinning`, which takes file values as counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NoiseConfig {
    /// Additive normal noise.
    Gaussian {
        /// Standard deviation, as a part of the full range.
        sigma: f64,
    },
    /// Counting noise.
    Poisson {
        /// Expected counts of a pixel at the top of the range.
        dose: f64,
    },
    /// Scanning electron microscope: counting noise, read noise, and errors of whole scan lines.
    Em {
        /// Expected counts of a pixel at the top of the range.
        dose: f64,
        /// Draw the dose of each sample between `dose` and this, its logarithm evenly, for a network
        /// that is to restore images of any dose; without it all have the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dose_to: Option<f64>,
        /// Standard deviation of the read noise, as a part of the full range.
        #[serde(default)]
        sigma: f64,
        /// Standard deviation of the gain of a line around 1.
        #[serde(default)]
        line_gain: f64,
        /// Standard deviation of the offset of a line, as a part of the full range.
        #[serde(default)]
        line_offset: f64,
        /// Standard deviation of the sideways shift of a line, in pixels.
        #[serde(default)]
        jitter: f64,
    },
    /// Keeps each count with a probability, then divides by it. The counts left out make an
    /// independent second image (`target = "noisy"`).
    Thinning {
        /// Probability to keep a count, between 0 and 1.
        fraction: f64,
    },
    /// Magnitude of a complex signal with normal noise in both parts (magnetic resonance).
    Rician {
        /// Standard deviation in each part, as a part of the full range.
        sigma: f64,
    },
}

impl Default for NoiseConfig {
    fn default() -> Self {
        Self::Gaussian { sigma: 0.1 }
    }
}

/// Which realisation of the noise: two are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realisation {
    /// The one that becomes the input.
    First,
    /// The one that becomes the target of noise2noise; in thinning, the counts left out.
    Second,
}

/// Where a patch lies in its image, row-major, channels first.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// Spatial size of the image.
    pub image: &'a [usize],
    /// First pixel of the patch on each axis.
    pub start: &'a [usize],
    /// Size of the patch.
    pub size: &'a [usize],
}

impl NoiseConfig {
    /// Adds noise to `data`, the `[channels, size…]` values of a patch, where `range` are the file
    /// values of no signal and full signal.
    pub fn apply(
        &self,
        data: &mut [f32],
        grid: Grid<'_>,
        range: [f64; 2],
        stream: Stream,
        realisation: Realisation,
    ) {
        let second = realisation == Realisation::Second;
        if let Self::Thinning { fraction } = *self {
            // both realisations must see the same draws
            let part = if second { 1.0 - fraction } else { fraction };
            return each_pixel(data, grid, stream, |x, draws| {
                let counts = x.round().max(0.0);
                let kept = binomial(draws, counts, fraction);
                (if second { counts - kept } else { kept }) / part
            });
        }
        let (sample, stream) = (stream, stream.op(u64::from(second)));
        let (low, unit) = (range[0], range[1] - range[0]);
        let scaled = |of: &dyn Fn(f64, &mut Draws) -> f64, data: &mut [f32]| {
            each_pixel(data, grid, stream, |x, draws| of((x - low) / unit, draws) * unit + low);
        };
        match *self {
            Self::Gaussian { sigma } => scaled(&|x, draws| x + sigma * draws.normal(), data),
            Self::Poisson { dose } => scaled(&|x, draws| draws.poisson(x * dose) / dose, data),
            Self::Rician { sigma } => scaled(
                &|x, draws| {
                    let (a, b) = (draws.normal(), draws.normal());
                    (x + sigma * a).hypot(sigma * b)
                },
                data,
            ),
            Self::Em { dose, dose_to, sigma, line_gain, line_offset, jitter } => {
                let dose = match dose_to {
                    // both realisations are of one dose
                    Some(to) => dose * (to / dose).powf(sample.named("dose").draws().uniform()),
                    None => dose,
                };
                let lines = stream.named("lines");
                if jitter > 0.0 {
                    each_line(data, grid, lines, |line, shift| {
                        shifted(line, jitter * shift[2]);
                    });
                }
                let shot = |x: f64, draws: &mut Draws| {
                    draws.poisson(x * dose) / dose + sigma * draws.normal()
                };
                scaled(&shot, data);
                if line_gain > 0.0 || line_offset > 0.0 {
                    each_line(data, grid, lines, |line, error| {
                        let (gain, offset) = (1.0 + line_gain * error[0], line_offset * error[1]);
                        for v in line {
                            let x = (f64::from(*v) - low) / unit;
                            *v = ((x * gain + offset) * unit + low) as f32;
                        }
                    });
                }
            }
            Self::Thinning { .. } => {} // above
        }
    }
}

impl Validate for NoiseConfig {
    fn validate(&self, at: &mut Check) {
        let mut too_low = None;
        let mut not_negative = |key: &str, value: f64| {
            if !(value >= 0.0 && value.is_finite()) {
                at.problem(key, format!("must not be negative, got {value}"));
            }
        };
        let dose = match *self {
            Self::Gaussian { sigma } | Self::Rician { sigma } => {
                not_negative("sigma", sigma);
                None
            }
            Self::Poisson { dose } => Some(dose),
            Self::Em { dose, dose_to, sigma, line_gain, line_offset, jitter } => {
                if let Some(to) = dose_to.filter(|to| !(*to >= dose && to.is_finite())) {
                    too_low = Some((dose, to));
                }
                not_negative("sigma", sigma);
                not_negative("line_gain", line_gain);
                not_negative("line_offset", line_offset);
                not_negative("jitter", jitter);
                Some(dose)
            }
            Self::Thinning { fraction } => {
                if !(fraction > 0.0 && fraction < 1.0) {
                    at.problem("fraction", format!("must be between 0 and 1, got {fraction}"));
                }
                None
            }
        };
        if let Some(dose) = dose.filter(|d| !(*d > 0.0 && d.is_finite())) {
            at.problem("dose", format!("must be above 0, got {dose}"));
        }
        if let Some((dose, to)) = too_low {
            at.problem("dose_to", format!("must not be below `dose`, which is {dose}, got {to}"));
        }
    }
}

/// Runs `of` on every pixel with the draws that belong to its channel and place.
fn each_pixel(
    data: &mut [f32],
    grid: Grid<'_>,
    stream: Stream,
    of: impl Fn(f64, &mut Draws) -> f64,
) {
    let starts = line_starts(grid.image, grid.start, grid.size);
    let width = grid.size[grid.size.len() - 1].max(1);
    for (i, line) in data.chunks_mut(width).enumerate() {
        let channel = stream.named("pixels").op((i / starts.len()) as u64);
        for (x, v) in line.iter_mut().enumerate() {
            let mut draws = channel.op((starts[i % starts.len()] + x) as u64).draws();
            *v = of(f64::from(*v), &mut draws) as f32;
        }
    }
}

/// Runs `of` on every line with three standard normal numbers of its own, the same for all
/// channels.
fn each_line(data: &mut [f32], grid: Grid<'_>, stream: Stream, of: impl Fn(&mut [f32], [f64; 3])) {
    let starts = line_starts(grid.image, grid.start, grid.size);
    let last = grid.size.len() - 1;
    for (i, line) in data.chunks_mut(grid.size[last].max(1)).enumerate() {
        // the same line wherever along it the patch begins
        let row = starts[i % starts.len()] / grid.image[last];
        let mut draws = stream.op(row as u64).draws();
        of(line, [draws.normal(), draws.normal(), draws.normal()]);
    }
}

/// Shifts a line by part of pixels, linearly interpolated; its ends are continued.
fn shifted(line: &mut [f32], shift: f64) {
    let source = line.to_vec();
    let last = (source.len() - 1) as f64;
    for (i, v) in line.iter_mut().enumerate() {
        let at = (i as f64 - shift).clamp(0.0, last);
        let below = at.floor();
        let (a, b) = (source[below as usize], source[at.ceil() as usize]);
        *v = a + (b - a) * (at - below) as f32;
    }
}

/// Binomial count of `n` trials (a whole number) of probability `p`: waiting times below 10
/// expected counts, transformed rejection above (Hörmann, "The generation of binomial random
/// variates", 1993, algorithm BTRD without its squeeze).
fn binomial(draws: &mut Draws, n: f64, p: f64) -> f64 {
    if n < 1.0 || p <= 0.0 {
        return 0.0;
    }
    if p > 0.5 {
        return n - binomial(draws, n, 1.0 - p);
    }
    if n * p < 10.0 {
        // geometric gaps between successes
        let log_q = (-p).ln_1p();
        let (mut at, mut count) = (0.0, 0.0);
        loop {
            at += ((1.0 - draws.uniform()).ln() / log_q).floor() + 1.0;
            if at > n {
                return count;
            }
            count += 1.0;
        }
    }
    let deviation = (n * p * (1.0 - p)).sqrt();
    let b = 1.15 + 2.53 * deviation;
    let a = -0.0873 + 0.0248 * b + 0.01 * p;
    let alpha = (2.83 + 5.1 / b) * deviation;
    let v_r = 0.92 - 4.2 / b;
    let mode = ((n + 1.0) * p).floor();
    let log_odds = (p / (1.0 - p)).ln();
    loop {
        let u = draws.uniform() - 0.5;
        let v = draws.uniform();
        let us = 0.5 - u.abs();
        let k = ((2.0 * a / us + b) * u + n * p + 0.5).floor();
        if !(0.0..=n).contains(&k) {
            continue;
        }
        if us >= 0.07 && v <= v_r {
            return k;
        }
        let accept = (v * alpha / (a / (us * us) + b)).ln();
        let mass =
            ln_factorial(mode) + ln_factorial(n - mode) - ln_factorial(k) - ln_factorial(n - k)
                + (k - mode) * log_odds;
        if accept <= mass {
            return k;
        }
    }
}

/// ln(k!), by Stirling's series from 10 on.
fn ln_factorial(k: f64) -> f64 {
    if k < 10.0 {
        return (2..=k as u32).map(|i| f64::from(i).ln()).sum();
    }
    let r = 1.0 / (k * k);
    (k + 0.5) * k.ln() - k
        + 0.5 * std::f64::consts::TAU.ln()
        + (1.0 / 12.0 - r * (1.0 / 360.0 - r / 1260.0)) / k
}
