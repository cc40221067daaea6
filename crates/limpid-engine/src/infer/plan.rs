//! The plan of a prediction: windows, weights and memory, known before the work begins.

use super::blend::RollingBlend;
use super::{Tta, weight, window};
use crate::{Error, Result};
use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an image larger than the network's window is taken apart and put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TileConfig {
    /// Window size in pixels per spatial axis; empty: the whole image if it fits the budget, else
    /// the largest window that does.
    pub size: Vec<usize>,
    /// How windows are placed and weighted.
    pub blend: Blend,
    /// Windows predicted at a time.
    pub batch: usize,
    /// Orientations predicted and averaged.
    pub tta: Tta,
    /// Pixels beyond the image, where a window is larger than it.
    pub padding: Padding,
    /// Memory that one batch of windows may take in the network, in MiB (an estimate).
    pub budget_mib: usize,
}

impl Default for TileConfig {
    fn default() -> Self {
        Self {
            size: Vec::new(),
            blend: Blend::Cosine {},
            batch: 1,
            tta: Tta::None,
            padding: Padding::Reflect,
            budget_mib: 2048,
        }
    }
}

impl Validate for TileConfig {
    fn validate(&self, at: &mut Check) {
        if self.size.contains(&0) {
            at.problem("size", "must be above 0 on every axis");
        }
        if self.batch == 0 {
            at.problem("batch", "must be at least 1");
        }
        let inside = |v: &f64| (0.0..1.0).contains(v);
        match &self.blend {
            Blend::Cosine {} => {}
            Blend::Constant { overlap } | Blend::Gaussian { overlap, .. } => {
                if overlap.is_empty() || !overlap.iter().all(inside) {
                    at.problem("blend.overlap", "must be in [0, 1): one number, or one per axis");
                }
            }
            Blend::Nnunet { step } => {
                if !(*step > 0.0 && *step <= 1.0) {
                    at.problem("blend.step", format!("must be in (0, 1], got {step}"));
                }
            }
            Blend::Stride { stride } => {
                if stride.is_empty() || stride.contains(&0) {
                    at.problem("blend.stride", "must be above 0: one number, or one per axis");
                }
            }
        }
        if let Blend::Gaussian { sigma_scale, .. } = self.blend
            && !(sigma_scale > 0.0)
        {
            at.problem("blend.sigma_scale", format!("must be above 0, got {sigma_scale}"));
        }
    }
}

/// How windows are placed, and how much each counts where they overlap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Blend {
    /// Ours: the halo that lacks context is dropped, the rest fades over. The halo comes from the
    /// network's receptive field.
    Cosine {},
    /// MONAI's sliding window, all positions equal.
    Constant {
        /// Part of a window shared with the next, per axis or one for all.
        overlap: Vec<f64>,
    },
    /// MONAI's sliding window with Gaussian importance.
    Gaussian {
        /// Part of a window shared with the next, per axis or one for all.
        overlap: Vec<f64>,
        /// Standard deviation as a part of the window size; MONAI uses 0.125.
        sigma_scale: f64,
    },
    /// nnU-Net's sliding window and Gaussian.
    Nnunet {
        /// Largest step as a part of the window size; nnU-Net uses 0.5.
        step: f64,
    },
    /// A fixed stride, all positions equal (nucli-train).
    Stride {
        /// Pixels between windows, per axis or one for all.
        stride: Vec<usize>,
    },
}

/// What lies beyond the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// The image mirrored about its border pixel.
    #[default]
    Reflect,
    /// Zeros.
    Zero,
}

/// What a network asks of its windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Window sizes must be multiples of this, per spatial axis.
    pub divisor: Vec<usize>,
    /// Receptive field per spatial axis.
    pub receptive_field: Vec<usize>,
    /// Bytes of activations per window pixel, roughly; 0 if unknown.
    pub bytes_per_pixel: usize,
}

/// Windows of an image and what they cost.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Spatial size of the image.
    pub image: Vec<usize>,
    /// Size of every window.
    pub size: Vec<usize>,
    /// Pixels added before the image, per axis.
    pub before: Vec<usize>,
    /// Start of every window in the padded image, in visiting order.
    pub starts: Vec<Vec<usize>>,
    /// Windows predicted at a time.
    pub batch: usize,
    /// Orientations predicted.
    pub tta: Tta,
    pub(super) padding: Padding,
    halo: Vec<usize>,
    ramp: Vec<usize>,
    map: Option<Vec<f64>>,
    bytes_per_pixel: usize,
}

impl Plan {
    /// Plans the windows of an image of the given spatial size.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty image, a wrong number of sizes, or an overlap out of range.
    pub fn new(config: &TileConfig, needs: &Needs, image: &[usize]) -> Result<Self> {
        let rank = image.len();
        if rank == 0 || image.contains(&0) {
            return Err(setting(format!("cannot tile an image of size {image:?}"), "check the input file"));
        }
        let size = window_size(config, needs, image)?;
        let padded: Vec<usize> = image.iter().zip(&size).map(|(i, s)| *i.max(s)).collect();
        let before = image.iter().zip(&padded).map(|(i, p)| (p - i) / 2).collect();
        let mut halo = vec![0; rank];
        let mut ramp = vec![1; rank];
        let axes = (0..rank)
            .map(|a| {
                let (n, s) = (padded[a], size[a]);
                Ok(match &config.blend {
                    Blend::Cosine {} => {
                        halo[a] = (needs.receptive_field[a] / 2).min(s / 4);
                        ramp[a] = (s / 8).max(1);
                        window::even_starts(n, s, (2 * halo[a] + ramp[a]).min(s - 1))
                    }
                    Blend::Constant { overlap } | Blend::Gaussian { overlap, .. } => {
                        window::monai_starts(n, s, fraction(overlap, a, "overlap", 0.0..1.0)?)
                    }
                    Blend::Nnunet { step } => {
                        window::nnunet_starts(n, s, fraction(&[*step], a, "step", 1e-3..1.0 + 1e-12)?)
                    }
                    Blend::Stride { stride } => {
                        let stride = of_axis(stride, a, "stride")?;
                        if stride == 0 || stride > s {
                            return Err(setting(
                                format!("`stride` is {stride}, the window {s} on axis {a}"),
                                "give at least 1 and at most the window size, or pixels are missed",
                            ));
                        }
                        window::stride_starts(n, s, stride)
                    }
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let map = match &config.blend {
            Blend::Cosine {} => None,
            Blend::Constant { .. } | Blend::Stride { .. } => Some(vec![1.0; size.iter().product()]),
            Blend::Gaussian { sigma_scale, .. } => Some(weight::monai_gaussian(&size, *sigma_scale)),
            Blend::Nnunet { .. } => Some(weight::nnunet_gaussian(&size)),
        };
        if config.tta == Tta::Dihedral && rank >= 2 && size[rank - 1] != size[rank - 2] {
            return Err(setting(
                format!("windows of {size:?} cannot be transposed for `tta = \"dihedral\"`"),
                "use `tta = \"flips\"`, or a `tile.size` with equal last two sizes",
            ));
        }
        Ok(Self {
            image: image.to_vec(),
            before,
            starts: window::product(&axes),
            batch: config.batch.max(1),
            tta: config.tta,
            padding: config.padding,
            halo,
            ramp,
            map,
            bytes_per_pixel: needs.bytes_per_pixel,
            size,
        })
    }

    /// Weight of each position of the window at `start`.
    pub(super) fn weight(&self, start: &[usize]) -> std::borrow::Cow<'_, [f64]> {
        if let Some(map) = &self.map {
            return map.into();
        }
        let axes: Vec<Vec<f64>> = (0..self.size.len())
            .map(|a| {
                let padded = self.image[a].max(self.size[a]);
                weight::cosine_axis(start[a], self.size[a], padded, self.halo[a], self.ramp[a])
            })
            .collect();
        weight::outer(&axes).into()
    }

    /// Bytes for blending `channels` output channels.
    #[must_use]
    pub fn blend_bytes(&self, channels: usize) -> u64 {
        RollingBlend::bytes(channels, &self.image, self.size[0])
    }

    /// Bytes that the network needs for one batch, by the estimate of [`Needs`].
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        let pixels: u64 = self.size.iter().map(|&n| n as u64).product();
        pixels * self.batch as u64 * self.bytes_per_pixel as u64
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = |v: &[usize]| v.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
        let views = self.tta.orientations(self.size.len()).len();
        write!(
            f,
            "{} in {} window{} of {}",
            by(&self.image),
            self.starts.len(),
            if self.starts.len() == 1 { "" } else { "s" },
            by(&self.size)
        )?;
        if views > 1 {
            write!(f, ", {views} orientations")?;
        }
        let mib = |b: u64| b.div_ceil(1 << 20);
        write!(f, ", blending {} MiB", mib(self.blend_bytes(1)))?;
        if self.bytes_per_pixel > 0 {
            write!(f, ", network about {} MiB", mib(self.network_bytes()))?;
        }
        Ok(())
    }
}

/// The configured window, or the largest that fits the budget; always a multiple of the divisor.
fn window_size(config: &TileConfig, needs: &Needs, image: &[usize]) -> Result<Vec<usize>> {
    let rank = image.len();
    if needs.divisor.len() != rank || needs.receptive_field.len() != rank {
        return Err(setting(
            format!("the model restores {}-D images, the input is {rank}-D", needs.divisor.len()),
            "check the axes of the input, or use a model of that rank",
        ));
    }
    let round_up = |n: usize, d: usize| n.div_ceil(d.max(1)) * d.max(1);
    if !config.size.is_empty() {
        if config.size.len() != rank {
            return Err(setting(
                format!("`tile.size` has {} numbers, the image {rank} axes", config.size.len()),
                "give one size per spatial axis",
            ));
        }
        if let Some(a) = (0..rank).find(|&a| config.size[a] == 0) {
            return Err(setting(format!("`tile.size` is 0 on axis {a}"), "give at least 1"));
        }
        return Ok((0..rank).map(|a| round_up(config.size[a], needs.divisor[a])).collect());
    }
    let mut size: Vec<usize> = (0..rank).map(|a| round_up(image[a], needs.divisor[a])).collect();
    let budget = (config.budget_mib as u64) << 20;
    let cost = |s: &[usize]| {
        s.iter().map(|&n| n as u64).product::<u64>()
            * (needs.bytes_per_pixel.max(64) * config.batch.max(1)) as u64
    };
    // halve the longest axis until it fits, but never below four divisors
    while cost(&size) > budget {
        let Some(a) = (0..rank)
            .filter(|&a| size[a] / 2 >= 4 * needs.divisor[a] && size[a] > 16)
            .max_by_key(|&a| (size[a], rank - a))
        else {
            break;
        };
        size[a] = round_up(size[a] / 2, needs.divisor[a]);
    }
    if config.tta == Tta::Dihedral && rank >= 2 {
        let side = size[rank - 1].min(size[rank - 2]);
        let both = needs.divisor[rank - 1].max(needs.divisor[rank - 2]);
        size[rank - 1] = round_up(side, both);
        size[rank - 2] = size[rank - 1];
    }
    Ok(size)
}

fn of_axis<T: Copy>(values: &[T], axis: usize, name: &str) -> Result<T> {
    match values {
        [one] => Ok(*one),
        more => more.get(axis).copied().ok_or_else(|| {
            setting(format!("`{name}` has no value for axis {axis}"), "give one value, or one per axis")
        }),
    }
}

fn fraction(values: &[f64], axis: usize, name: &str, range: std::ops::Range<f64>) -> Result<f64> {
    let v = of_axis(values, axis, name)?;
    if range.contains(&v) {
        Ok(v)
    } else {
        Err(setting(format!("`{name}` is {v}"), "give a part of the window size between 0 and 1"))
    }
}

fn setting(message: String, hint: &str) -> Error {
    Error::Setting { message, hint: hint.to_owned() }
}
