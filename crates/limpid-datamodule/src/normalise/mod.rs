//! Intensities for the network and back: what is configured ([`NormalisationConfig`]), what it
//! becomes on given data ([`Normalisation`], kept in the model file), and the way back to the unit
//! of the file.
//!
//! Anscombe transform: Starck, Murtagh, Bijaoui, "Image Processing and Data Analysis" (1998) for
//! Poisson noise with gain, offset and Gaussian read noise; its unbiased inverse: Mäkitalo, Foi,
//! "A closed-form approximation of the exact unbiased inverse of the Anscombe variance-stabilizing
//! transformation", IEEE TIP 20 (2011), and "Optimal inversion of the generalized Anscombe
//! transformation for Poisson-Gaussian noise", IEEE TIP 22 (2013).

mod statistics;
#[cfg(test)]
mod tests;

pub use statistics::Statistics;

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How intensities are brought into the range that a network likes. Numbers are found for each
/// channel apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NormalisationConfig {
    /// Values as they are in the file.
    None {},
    /// Smallest value to 0, largest to 1.
    MinMax {},
    /// Two percentiles to 0 and 1; values beyond go beyond, nothing is clipped.
    Percentile {
        /// Percentile that becomes 0, in percent.
        #[serde(default = "default_low")]
        low: f64,
        /// Percentile that becomes 1, in percent.
        #[serde(default = "default_high")]
        high: f64,
        /// Take the percentiles of means over squares of this many pixels a side: noise widens
        /// those of single pixels, and so would normalise a noisy image otherwise than a clean one.
        /// Not set: 1, single pixels.
        #[serde(default = "single", skip_serializing_if = "is_single")]
        bin: usize,
    },
    /// Mean to 0, standard deviation to 1.
    ZScore {},
    /// Division by a number: 255 for 8-bit images, 20 for SUV.
    Scale {
        /// The number, in the unit of the file.
        divide: f64,
    },
    /// SUV clipped to `0..max`, then divided by `max`. What lies above is lost: choose it higher
    /// than the hottest lesion, or use `scale`.
    Suv {
        /// Largest SUV (g/ml).
        max: f64,
    },
    /// `ln(1 + x)`; mirrored for negative values, so that every value has its way back.
    Log1p {},
    /// Generalised Anscombe transform: noise of counts with read noise becomes unit variance.
    Anscombe {
        /// File units per count.
        #[serde(default = "one")]
        gain: f64,
        /// Standard deviation of the read noise, in file units.
        #[serde(default)]
        sigma: f64,
        /// File value of zero counts.
        #[serde(default)]
        offset: f64,
        /// The way back.
        #[serde(default)]
        inverse: AnscombeInverse,
    },
}

fn default_low() -> f64 {
    0.1
}

fn default_high() -> f64 {
    99.9
}

fn one() -> f64 {
    1.0
}

fn single() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands out references
fn is_single(bin: &usize) -> bool {
    *bin == 1
}

impl Default for NormalisationConfig {
    fn default() -> Self {
        Self::Percentile { low: default_low(), high: default_high(), bin: 1 }
    }
}

/// How a transformed image returns to counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnscombeInverse {
    /// For a network that averages noisy transformed images (noise2noise, noise2void): undoes the
    /// bias that the square root gives to a mean.
    #[default]
    Unbiased,
    /// The limit of the former for many counts: cheap, and right from about ten counts upwards.
    Asymptotic,
    /// For a network trained on transformed clean images: the plain inverse function.
    Algebraic,
}

/// Where the numbers of a normalisation come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// All training images together; the numbers are kept in the model file.
    #[default]
    Dataset,
    /// Each image for itself, also in prediction.
    Image,
}

impl NormalisationConfig {
    /// The normalisation for data of this kind; `data` is `[channels, …]`, row-major. Values are
    /// taken one by one: the squares of `bin` need [`Statistics::add_image`].
    #[must_use]
    pub fn fit(&self, data: &[f32], channels: usize) -> Normalisation {
        let mut statistics = Statistics::new(channels, data.len() / channels.max(1));
        statistics.add(data);
        self.fit_statistics(&statistics)
    }

    /// The normalisation for data that has been gathered piece by piece.
    #[must_use]
    pub fn fit_statistics(&self, statistics: &Statistics) -> Normalisation {
        let of = |channel: usize| match *self {
            Self::None {} => Transfer::linear(0.0, 1.0),
            Self::MinMax {} => {
                let (min, max) = statistics.range(channel);
                Transfer::linear(min, max - min)
            }
            Self::Percentile { low, high, .. } => {
                let (a, b) = statistics.percentiles(channel, low, high);
                Transfer::linear(a, b - a)
            }
            Self::ZScore {} => {
                let (mean, deviation) = statistics.moments(channel);
                Transfer::linear(mean, deviation)
            }
            Self::Scale { divide } => Transfer::linear(0.0, divide),
            Self::Suv { max } => Transfer::Suv { max },
            Self::Log1p {} => Transfer::Log1p {},
            Self::Anscombe { gain, sigma, offset, inverse } => {
                Transfer::Anscombe { gain, sigma, offset, inverse }
            }
        };
        let channels = if self.learns() { statistics.channels() } else { 1 };
        Normalisation { channels: (0..channels).map(of).collect() }
    }

    /// Side of the squares of pixels, of whose means the numbers are found.
    #[must_use]
    pub fn bin(&self) -> usize {
        if let Self::Percentile { bin, .. } = self { *bin } else { 1 }
    }

    /// Whether the numbers depend on the data.
    #[must_use]
    pub fn learns(&self) -> bool {
        matches!(self, Self::MinMax {} | Self::Percentile { .. } | Self::ZScore {})
    }
}

/// Squares larger than this would blur what an image shows.
const MOST_BIN: usize = 64;

impl Validate for NormalisationConfig {
    fn validate(&self, at: &mut Check) {
        let mut positive = |key: &str, value: f64| {
            if !(value > 0.0 && value.is_finite()) {
                at.problem(key, format!("must be above 0, got {value}"));
            }
        };
        match *self {
            Self::None {} | Self::MinMax {} | Self::ZScore {} | Self::Log1p {} => {}
            Self::Scale { divide } => positive("divide", divide),
            Self::Suv { max } => positive("max", max),
            Self::Percentile { low, high, bin } => {
                if !(1..=MOST_BIN).contains(&bin) {
                    at.problem("bin", format!("must be from 1 to {MOST_BIN} pixels, got {bin}"));
                }
                if !(0.0 <= low && low < high && high <= 100.0) {
                    at.problem("low", format!("must be below `high`, got {low} and {high}"))
                        .hint("percentiles lie between 0 and 100");
                }
            }
            Self::Anscombe { gain, sigma, offset, .. } => {
                positive("gain", gain);
                if !(sigma >= 0.0 && sigma.is_finite()) {
                    at.problem("sigma", format!("must not be negative, got {sigma}"));
                }
                if !offset.is_finite() {
                    at.problem("offset", "must be finite");
                }
            }
        }
    }
}

/// A normalisation with its numbers: one transfer function for all channels, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// One for all channels, or one per channel.
    pub channels: Vec<Transfer>,
}

/// A transfer function from file values to network values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Transfer {
    /// `(x - offset) / scale`.
    Linear {
        /// File value that becomes 0.
        offset: f64,
        /// File units per network unit.
        scale: f64,
    },
    /// `clip(x, 0, max) / max`.
    Suv {
        /// Largest value kept.
        max: f64,
    },
    /// `sign(x)·ln(1 + |x|)`.
    Log1p {},
    /// Generalised Anscombe transform, see [`NormalisationConfig::Anscombe`].
    Anscombe {
        /// File units per count.
        gain: f64,
        /// Standard deviation of the read noise, in file units.
        sigma: f64,
        /// File value of zero counts.
        offset: f64,
        /// The way back.
        inverse: AnscombeInverse,
    },
}

impl Normalisation {
    /// That of differences and deviations, which scale with the intensities but have no offset; none
    /// for a curve, through which they have no way back.
    #[must_use]
    pub fn of_differences(&self) -> Option<Self> {
        let linear = |transfer: &Transfer| match transfer {
            Transfer::Linear { scale, .. } => Some(Transfer::Linear { offset: 0.0, scale: *scale }),
            _ => None,
        };
        let channels = self.channels.iter().map(linear).collect::<Option<_>>()?;
        Some(Self { channels })
    }
    /// Values as they are.
    #[must_use]
    pub fn identity() -> Self {
        Self { channels: vec![Transfer::linear(0.0, 1.0)] }
    }

    /// File values `[channels, …]` to network values.
    pub fn apply(&self, data: &mut [f32]) {
        self.each(data, Transfer::apply);
    }

    /// Network values `[channels, …]` to file values.
    pub fn invert(&self, data: &mut [f32]) {
        self.each(data, Transfer::invert);
    }

    fn each(&self, data: &mut [f32], of: impl Fn(&Transfer, f64) -> f64) {
        // a single transfer takes all channels in one go
        let part = data.len().div_ceil(self.channels.len().max(1)).max(1);
        for (transfer, values) in self.channels.iter().zip(data.chunks_mut(part)) {
            if *transfer != Transfer::linear(0.0, 1.0) {
                values.iter_mut().for_each(|v| *v = of(transfer, f64::from(*v)) as f32);
            }
        }
    }
}

impl Transfer {
    /// A linear transfer; a constant image (scale 0 or not finite) is only shifted.
    fn linear(offset: f64, scale: f64) -> Self {
        let offset = if offset.is_finite() { offset } else { 0.0 };
        let scale = if scale.is_finite() && scale > 0.0 { scale } else { 1.0 };
        Self::Linear { offset, scale }
    }

    #[inline]
    fn apply(&self, x: f64) -> f64 {
        match *self {
            Self::Linear { offset, scale } => (x - offset) / scale,
            Self::Suv { max } => x.clamp(0.0, max) / max,
            Self::Log1p {} => x.abs().ln_1p().copysign(x),
            Self::Anscombe { gain, sigma, offset, .. } => {
                anscombe((x - offset) / gain, sigma / gain)
            }
        }
    }

    #[inline]
    fn invert(&self, y: f64) -> f64 {
        match *self {
            Self::Linear { offset, scale } => y * scale + offset,
            Self::Suv { max } => y * max,
            Self::Log1p {} => y.abs().exp_m1().copysign(y),
            Self::Anscombe { gain, sigma, offset, inverse } => {
                let sigma = sigma / gain;
                let counts = match inverse {
                    // below the transform of zero counts the series runs wild
                    AnscombeInverse::Unbiased => {
                        anscombe_unbiased(y.max(anscombe(0.0, 0.0))) - sigma * sigma
                    }
                    AnscombeInverse::Asymptotic => anscombe_asymptotic(y.max(0.0)) - sigma * sigma,
                    AnscombeInverse::Algebraic => anscombe_algebraic(y.max(0.0)) - sigma * sigma,
                };
                counts * gain + offset
            }
        }
    }
}

/// What a model file keeps, to normalise images in prediction as in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisers {
    /// Of the image to restore.
    pub input: Normaliser,
    /// Of the restored image, where it is of another kind; without it that of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Normalisation>,
}

/// Where the numbers for an image come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normaliser {
    /// From the training images.
    Dataset {
        /// The numbers.
        normalisation: Normalisation,
    },
    /// From the image itself.
    Image {
        /// How they are found.
        normalisation: NormalisationConfig,
    },
}

/// `2·√(x + 3/8 + σ²)`, 0 where the root does not exist; `x` in counts.
#[must_use]
pub fn anscombe(x: f64, sigma: f64) -> f64 {
    2.0 * (x + 0.375 + sigma * sigma).max(0.0).sqrt()
}

/// The inverse function of [`anscombe`] without read noise, `(y/2)² - 3/8`.
#[must_use]
pub fn anscombe_algebraic(y: f64) -> f64 {
    y * y / 4.0 - 0.375
}

/// The asymptotically unbiased inverse of [`anscombe`], `(y/2)² - 1/8` (Anscombe 1948).
#[must_use]
pub fn anscombe_asymptotic(y: f64) -> f64 {
    y * y / 4.0 - 0.125
}

/// Closed form of the exact unbiased inverse of [`anscombe`] (Mäkitalo and Foi 2011, eq. 10), as it
/// stands there: accurate from the transform of zero, `2·√(3/8)`, upwards. 0 at and below 0.
#[must_use]
pub fn anscombe_unbiased(y: f64) -> f64 {
    if y <= 0.0 {
        return 0.0;
    }
    let root = 1.5f64.sqrt();
    let r = 1.0 / y;
    y * y / 4.0 + r * (root / 4.0 + r * (-11.0 / 8.0 + r * (5.0 / 8.0 * root))) - 0.125
}
