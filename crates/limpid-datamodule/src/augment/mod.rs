//! Augmentation: random orientation and intensity of a sample, the same for all its images, and
//! smoothing of its inputs.

use crate::{Error, Result};
use limpid_classical::{Border, Gaussian, gaussian};
use limpid_config::{Check, Validate};
use limpid_kernels::rng::Draws;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Random changes of a training sample that leave its meaning as it is. Intensities are those
/// after normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Orientations that occur, all equally often.
    pub orientation: OrientationConfig,
    /// Gain drawn from `1 - gain` to `1 + gain`.
    pub gain: f64,
    /// Offset drawn from `-offset` to `offset`, in normalised units.
    pub offset: f64,
    /// Exponent drawn from `1/(1 + gamma)` to `1 + gamma`, on magnitudes. Not for training on noisy
    /// targets, whose mean it would shift.
    pub gamma: f64,
    /// Change the intensity of the input alone, for a target of another kind, such as a mask.
    pub input_only: bool,
    /// Smooth inputs, each channel with a chance of its own; targets never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blur: Option<Blur>,
}

/// Gaussian smoothing of inputs, that a network learns to sharpen; EMDiffuse has `sigma = 3` and
/// `probability = 0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Standard deviation in pixels.
    pub sigma: f64,
    /// Chance of a channel to be smoothed.
    #[serde(default = "half")]
    pub probability: f64,
}

fn half() -> f64 {
    0.5
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            orientation: OrientationConfig::Dihedral,
            gain: 0.0,
            offset: 0.0,
            gamma: 0.0,
            input_only: false,
            blur: None,
        }
    }
}

/// Which orientations of an image are as good as its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrientationConfig {
    /// Only the image as it is.
    None,
    /// Mirrored along any axes: 4 in 2-D, 8 in 3-D.
    Flips,
    /// Mirrored, and turned by quarters in the plane of the last two axes: 8 in 2-D, 16 in 3-D. The
    /// patch must be as high as wide.
    #[default]
    Dihedral,
    /// Mirrored, and any order of the axes: 8 in 2-D, 48 in 3-D, for isotropic voxels. The patch
    /// must be a cube.
    Full,
}

impl OrientationConfig {
    /// Axes that may change places, as a part of the spatial axes from the last.
    pub(crate) fn exchanged(self, rank: usize) -> usize {
        match self {
            Self::None | Self::Flips => 0,
            Self::Dihedral => 2.min(rank),
            Self::Full => rank,
        }
    }

    /// A random orientation of `rank` axes.
    pub(crate) fn draw(self, rank: usize, draws: &mut Draws) -> Orientation {
        let mut axes: Vec<usize> = (0..rank).collect();
        let first = rank - self.exchanged(rank);
        for i in (first + 1..rank).rev() {
            axes.swap(i, first + draws.below((i - first + 1) as u64) as usize);
        }
        let flip = (0..rank).map(|_| self != Self::None && draws.chance(0.5)).collect();
        Orientation { axes, flip }
    }
}

/// A change of axes followed by mirroring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orientation {
    /// Which old axis each new axis is.
    axes: Vec<usize>,
    /// Whether each new axis runs backwards.
    flip: Vec<bool>,
}

impl Orientation {
    fn is_identity(&self) -> bool {
        !self.flip.contains(&true) && self.axes.is_sorted()
    }

    /// Turns `[channels, size…]`; axes that change places have equal sizes.
    pub(crate) fn apply(&self, data: &mut Vec<f32>, size: &[usize]) {
        if self.is_identity() || data.is_empty() {
            return;
        }
        let rank = size.len();
        let mut stride = vec![1isize; rank];
        for a in (0..rank - 1).rev() {
            stride[a] = stride[a + 1] * size[a + 1] as isize;
        }
        // where the first pixel comes from, and the step in the source for each new axis
        let mut first = 0isize;
        let mut step = vec![0isize; rank];
        for a in 0..rank {
            step[a] = stride[self.axes[a]];
            if self.flip[a] {
                first += step[a] * (size[a] as isize - 1);
                step[a] = -step[a];
            }
        }
        let mut lines = vec![first];
        for a in 0..rank - 1 {
            lines = lines
                .iter()
                .flat_map(|l| (0..size[a] as isize).map(move |i| (l, i)))
                .map(|(l, i)| l + i * step[a])
                .collect();
        }
        let voxels: usize = size.iter().product();
        let mut out = Vec::with_capacity(data.len());
        for image in data.chunks_exact(voxels) {
            for &line in &lines {
                let pixels = 0..size[rank - 1] as isize;
                out.extend(pixels.map(|i| image[(line + i * step[rank - 1]) as usize]));
            }
        }
        *data = out;
    }
}

/// A change of intensity: `gain·sign(x)·|x|^gamma + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Intensity {
    gain: f64,
    offset: f64,
    gamma: f64,
}

impl AugmentConfig {
    pub(crate) fn draw_intensity(&self, draws: &mut Draws) -> Intensity {
        let most = self.gamma.ln_1p();
        Intensity {
            gain: draws.range(1.0 - self.gain, 1.0 + self.gain),
            offset: draws.range(-self.offset, self.offset),
            gamma: draws.range(-most, most).exp(),
        }
    }
}

impl AugmentConfig {
    /// Smooths the channels of `[channels, size…]` whose lot it is; the edges are continued.
    pub(crate) fn blur_some(
        &self,
        data: &mut [f32],
        size: &[usize],
        draws: &mut Draws,
    ) -> Result<()> {
        let Some(Blur { sigma, probability }) = self.blur else { return Ok(()) };
        let filter = Gaussian { sigma: sigma.into(), border: Border::Nearest };
        for channel in data.chunks_exact_mut(size.iter().product()) {
            if draws.chance(probability) {
                let image: Vec<f64> = channel.iter().map(|v| f64::from(*v)).collect();
                let smooth = gaussian(&image, size, &filter)
                    .map_err(|e| Error::setting(e, "correct `augment.blur` or the images"))?;
                channel.iter_mut().zip(smooth).for_each(|(v, s)| *v = s as f32);
            }
        }
        Ok(())
    }
}

impl Intensity {
    pub(crate) fn apply(self, data: &mut [f32]) {
        let Self { gain, offset, gamma } = self;
        if self == (Self { gain: 1.0, offset: 0.0, gamma: 1.0 }) {
            return;
        }
        for v in data {
            let x = f64::from(*v);
            let x = if gamma == 1.0 { x } else { x.abs().powf(gamma).copysign(x) };
            *v = (x * gain + offset) as f32;
        }
    }
}

impl Validate for AugmentConfig {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [("offset", self.offset), ("gamma", self.gamma)] {
            if !(value >= 0.0 && value.is_finite()) {
                at.problem(key, format!("must not be negative, got {value}"));
            }
        }
        if !(0.0..1.0).contains(&self.gain) {
            at.problem("gain", format!("must be at least 0 and below 1, got {}", self.gain));
        }
        if let Some(blur) = &self.blur {
            at.nested("blur", blur);
        }
    }
}

impl Validate for Blur {
    fn validate(&self, at: &mut Check) {
        if !(self.sigma > 0.0 && self.sigma <= MOST_SIGMA) {
            at.problem(
                "sigma",
                format!("must be above 0 and at most {MOST_SIGMA} pixels, got {}", self.sigma),
            );
        }
        if !(0.0..=1.0).contains(&self.probability) {
            at.problem("probability", format!("must be between 0 and 1, got {}", self.probability));
        }
    }
}

/// Smoothing beyond this leaves nothing of a patch.
const MOST_SIGMA: f64 = 100.0;
