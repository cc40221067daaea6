//! The plan of a prediction: windows, weights and memory, known before the work begins.

use super::blend::RollingBlend;
use super::size::window_size;
use super::{Tta, weight, window};
use crate::{Error, Result};
use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most pixels of a configured window.
const MOST_PIXELS: usize = 1 << 40;

/// Most windows of a plan, which holds a list of them.
const MOST_WINDOWS: usize = 1 << 24;

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
    /// Memory for the network and for blending from which the window is chosen, in MiB (an
    /// estimate).
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
        let pixels = self.size.iter().try_fold(1usize, |p, n| p.checked_mul(*n));
        if pixels.is_none_or(|p| p > MOST_PIXELS) {
            at.problem(
                "size",
                format!("must be windows of at most 2^40 pixels, got {:?}", self.size),
            );
        }
        if !(1..=65_536).contains(&self.batch) {
            at.problem("batch", format!("must be from 1 to 65536, got {}", self.batch));
        }
        if self.budget_mib > 1 << 30 {
            at.problem("budget_mib", format!("must be at most 2^30, got {}", self.budget_mib));
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
    /// The least size from which an image in one piece is taken as it is, though no multiple of the
    /// divisor; none if never.
    pub any_size_from: Option<usize>,
    /// The only window it takes, if there is but one.
    pub fixed_size: Option<Vec<usize>>,
    /// Receptive field per spatial axis.
    pub receptive_field: Vec<usize>,
    /// Bytes of activations per window pixel, roughly; 0 if unknown.
    pub bytes_per_pixel: usize,
    /// Channels that are blended: those of the network's output, twice as many with the deviation.
    pub channels: usize,
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
    /// The image with what is added before and after.
    padded: Vec<usize>,
    halo: Vec<usize>,
    ramp: Vec<usize>,
    /// Weights of every window, if they are the same.
    map: Option<Vec<f32>>,
    /// Rows of the image that are open at a time.
    open_rows: usize,
    /// Pixels of context that the network has and would need, on the axis that lacks most of it.
    context: Option<(usize, usize)>,
    bytes_per_pixel: usize,
    channels: usize,
    /// The budget in bytes, if the window was chosen by it.
    budget: Option<u64>,
}

impl Plan {
    /// Plans the windows of an image of the given spatial size.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty image, a wrong number of sizes, an overlap out of range, or
    /// windows that are too large or too many.
    pub fn new(config: &TileConfig, needs: &Needs, image: &[usize]) -> Result<Self> {
        let rank = image.len();
        if rank == 0 || image.contains(&0) {
            return Err(setting(
                format!("cannot tile an image of size {image:?}"),
                "check the input file",
            ));
        }
        let size = window_size(config, needs, image)?;
        let ours = config.blend == Blend::Cosine {};
        let padded: Vec<usize> = (0..rank)
            .map(|a| {
                if size == image {
                    return size[a];
                }
                // our windows lie on the grid of the divisor; those of others may start anywhere
                let divisor = if ours { needs.divisor[a].max(1) } else { 1 };
                image[a].next_multiple_of(divisor).max(size[a])
            })
            .collect();
        let before = image.iter().zip(&padded).map(|(i, p)| (p - i) / 2).collect();
        let mut halo = vec![0; rank];
        let mut ramp = vec![1; rank];
        let axes = (0..rank)
            .map(|a| {
                let (n, s) = (padded[a], size[a]);
                Ok(match &config.blend {
                    Blend::Cosine {} => {
                        let fade = window::fade(s, needs.divisor[a], needs.receptive_field[a]);
                        (halo[a], ramp[a]) = (fade.halo, fade.ramp);
                        window::aligned_starts(n, s, fade.shared, needs.divisor[a])
                    }
                    Blend::Constant { overlap } | Blend::Gaussian { overlap, .. } => {
                        window::monai_starts(n, s, fraction(overlap, a, "overlap", 0.0..1.0)?)
                    }
                    Blend::Nnunet { step } => window::nnunet_starts(
                        n,
                        s,
                        fraction(&[*step], a, "step", 1e-3..1.0 + 1e-12)?,
                    ),
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
        let count = axes.iter().try_fold(1usize, |p, starts| p.checked_mul(starts.len()));
        if count.is_none_or(|n| n > MOST_WINDOWS) {
            return Err(setting(
                format!("an image of {image:?} would be taken apart into more than 2^24 windows"),
                "give a larger `tile.size`, a larger stride or less overlap",
            ));
        }
        let map: Option<Vec<f64>> = match &config.blend {
            Blend::Cosine {} => None,
            Blend::Constant { .. } | Blend::Stride { .. } => Some(vec![1.0; size.iter().product()]),
            Blend::Gaussian { sigma_scale, .. } => {
                Some(weight::monai_gaussian(&size, *sigma_scale))
            }
            Blend::Nnunet { .. } => Some(weight::nnunet_gaussian(&size)),
        };
        if config.tta == Tta::Dihedral && rank >= 2 && size[rank - 1] != size[rank - 2] {
            return Err(setting(
                format!("windows of {size:?} cannot be transposed for `tta = \"dihedral\"`"),
                "use `tta = \"flips\"`, or a `tile.size` with equal last two sizes",
            ));
        }
        // the axis on which the smallest part of the context is left
        let context = (0..rank)
            .map(|a| (axes[a].len(), halo[a], needs.receptive_field[a] / 2))
            .filter(|(windows, halo, full)| ours && *windows > 1 && halo < full)
            .map(|(_, halo, full)| (halo, full))
            .min_by(|a, b| (a.0 as f64 / a.1 as f64).total_cmp(&(b.0 as f64 / b.1 as f64)));
        let mut plan = Self {
            image: image.to_vec(),
            before,
            padded,
            starts: window::product(&axes),
            batch: config.batch.max(1),
            tta: config.tta,
            padding: config.padding,
            halo,
            ramp,
            map: map.map(|map| map.into_iter().map(|w| w as f32).collect()),
            open_rows: 0,
            context,
            bytes_per_pixel: needs.bytes_per_pixel,
            channels: needs.channels.max(1),
            budget: config
                .size
                .is_empty()
                .then(|| (config.budget_mib as u64).saturating_mul(1 << 20)),
            size,
        };
        plan.open_rows = axes[0].iter().map(|s| plan.kept_rows(*s).len()).max().unwrap_or(1);
        Ok(plan)
    }

    /// Rows that count of a window that starts at row `start` of the padded image.
    pub(super) fn kept_rows(&self, start: usize) -> std::ops::Range<usize> {
        let size = self.size[0];
        let cut = |yes: bool| if yes { self.halo[0] } else { 0 };
        cut(start > 0)..size - cut(start + size < self.padded[0])
    }

    /// Rows of the image that are open at a time.
    pub(super) fn open_rows(&self) -> usize {
        self.open_rows
    }

    /// Weight of each position of the window at `start` of the padded image, row-major.
    #[must_use]
    pub fn weight(&self, start: &[usize]) -> std::borrow::Cow<'_, [f32]> {
        if let Some(map) = &self.map {
            return map.into();
        }
        let axes: Vec<Vec<f64>> = (0..self.size.len())
            .map(|a| {
                let (halo, ramp) = (self.halo[a], self.ramp[a]);
                weight::cosine_axis(start[a], self.size[a], self.padded[a], halo, ramp)
            })
            .collect();
        weight::outer(&axes).into_iter().map(|w| w as f32).collect()
    }

    /// Positions of the padded image along an axis at which a window, without what is dropped of it,
    /// begins or ends, in order; its borders are none.
    #[must_use]
    pub fn edges(&self, axis: usize) -> Vec<usize> {
        let (size, padded, halo) = (self.size[axis], self.padded[axis], self.halo[axis]);
        let of = |start: usize| {
            let end = start + size;
            let first = (start > 0).then_some(start + halo);
            let last = (end < padded).then_some(end - halo);
            first.into_iter().chain(last)
        };
        let mut edges: Vec<usize> = self.starts.iter().flat_map(|start| of(start[axis])).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// Bytes for blending the channels of [`Needs`].
    #[must_use]
    pub fn blend_bytes(&self) -> u64 {
        RollingBlend::bytes(self.channels, &self.image, self.open_rows)
    }

    /// Bytes that the network needs for one batch, by the estimate of [`Needs`], with the running
    /// mean over orientations.
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        network_bytes(&self.size, self.batch, self.bytes_per_pixel, self.tta, self.channels)
    }
}

/// Bytes of a batch of windows in the network, with the moments over orientations and the latest
/// view, which are at most twice the blended channels.
pub(super) fn network_bytes(
    size: &[usize],
    batch: usize,
    bytes_per_pixel: usize,
    tta: Tta,
    channels: usize,
) -> u64 {
    let moments = if tta == Tta::None { 0 } else { 2 * channels as u64 * size_of::<f32>() as u64 };
    let pixels = size.iter().fold(batch as u64, |p, &n| p.saturating_mul(n as u64));
    pixels.saturating_mul(bytes_per_pixel as u64 + moments)
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
        if let Some((kept, full)) = self.context {
            write!(f, ", context cut to {kept} of {full} pixels")?;
        }
        let mib = |b: u64| b.div_ceil(1 << 20);
        write!(f, ", blending {} MiB", mib(self.blend_bytes()))?;
        if self.bytes_per_pixel > 0 {
            write!(f, ", network about {} MiB", mib(self.network_bytes()))?;
        }
        let bytes = self.blend_bytes().saturating_add(self.network_bytes());
        if let Some(budget) = self.budget.filter(|budget| bytes > *budget) {
            write!(f, ", beyond the budget of {} MiB", mib(budget))?;
        }
        Ok(())
    }
}

fn of_axis<T: Copy>(values: &[T], axis: usize, name: &str) -> Result<T> {
    match values {
        [one] => Ok(*one),
        more => more.get(axis).copied().ok_or_else(|| {
            setting(
                format!("`{name}` has no value for axis {axis}"),
                "give one value, or one per axis",
            )
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

pub(super) fn setting(message: String, hint: &str) -> Error {
    Error::Setting { message, hint: hint.to_owned() }
}
