//! Where training patches are taken.
//!
//! Random samplers are stratified: the `k`-th of `n` patches of an epoch falls into the `k`-th of
//! `n` equal parts of everything there is to draw from, so that each epoch sees all images in
//! proportion; a permutation hides the order.

mod coordinates;
mod focus;
#[cfg(test)]
mod tests;

use crate::dataset::{Collection, Scene};
use crate::{Error, Result};
use focus::Focus;
use limpid_config::{Check, Validate};
use limpid_engine::infer::window;
use limpid_kernels::rng::{Draws, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How training patches are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SamplerConfig {
    /// Every place equally often.
    Uniform {},
    /// Every patch of a regular grid once.
    Grid {
        /// Pixels between patches, one for all axes or one for each; empty: the patch size.
        #[serde(default)]
        stride: Vec<usize>,
    },
    /// Places by what the input shows there.
    Weighted {
        /// What makes a place likely.
        by: Weight,
    },
    /// A share of the patches is centred on bright pixels of the input.
    Foreground {
        /// Value above which a pixel of the first channel counts, in file units.
        threshold: f64,
        /// Share of such patches; nnU-Net uses 0.33.
        #[serde(default = "third")]
        fraction: f64,
    },
    /// Listed patch centres.
    Coordinates {
        /// Text file with the header `file,z,y,x` (or `t` and `z` too, to choose the frame), one
        /// centre per line, in pixels from 0.
        file: String,
    },
}

fn third() -> f64 {
    0.33
}

/// What makes a place likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Mean intensity above the darkest place.
    Intensity,
    /// Mean difference of neighbouring pixels.
    Gradient,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self::Uniform {}
    }
}

impl Validate for SamplerConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::Uniform {} | Self::Weighted { .. } => {}
            Self::Grid { stride } => {
                if stride.contains(&0) {
                    at.problem("stride", "must be at least 1 on every axis");
                }
            }
            Self::Foreground { threshold, fraction } => {
                if !threshold.is_finite() {
                    at.problem("threshold", "must be finite");
                }
                if !(0.0..=1.0).contains(fraction) {
                    at.problem("fraction", format!("must be between 0 and 1, got {fraction}"));
                }
            }
            Self::Coordinates { file } => {
                if file.is_empty() {
                    at.problem("file", "must name a text file of coordinates");
                }
            }
        }
    }
}

/// A patch of a scene, in pixels of its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) scene: usize,
    pub(crate) start: Vec<usize>,
    /// The patch size, or less where the scene is smaller.
    pub(crate) size: Vec<usize>,
}

/// Chooses the places of an epoch.
pub(crate) struct Sampler {
    patch: Vec<usize>,
    source: Source,
}

enum Source {
    /// Any place: the running sum over scenes of the number of places in each.
    Random { uniform: Vec<f64>, focus: Option<Focus> },
    /// These.
    Listed(Vec<Place>),
}

impl Sampler {
    /// Prepares for the scenes of a collection; reads them where the choice depends on what they
    /// show.
    pub(crate) fn new(
        config: &SamplerConfig,
        collection: &Collection,
        scenes: &[Scene],
        patch: &[usize],
    ) -> Result<Self> {
        let random = |focus| {
            let positions = |s: &Scene| {
                let axes = s.size.iter().zip(patch);
                axes.map(|(n, p)| (n.saturating_sub(*p) + 1) as f64).product()
            };
            Source::Random { uniform: running_sum(scenes.iter().map(positions)), focus }
        };
        let source = match config {
            SamplerConfig::Uniform {} => random(None),
            SamplerConfig::Weighted { by } => {
                random(Focus::weighted(*by, collection, scenes, patch)?)
            }
            SamplerConfig::Foreground { threshold, fraction } => {
                random(Some(Focus::foreground(*threshold, *fraction, collection, scenes, patch)?))
            }
            SamplerConfig::Grid { stride } => Source::Listed(grid(scenes, patch, stride)?),
            SamplerConfig::Coordinates { file } => {
                Source::Listed(coordinates::read(file, collection, scenes, patch)?)
            }
        };
        Ok(Self { patch: patch.to_vec(), source })
    }

    /// How many patches make an epoch if nothing else is said: those listed, or as many as cover
    /// everything once.
    pub(crate) fn natural_len(&self, scenes: &[Scene]) -> u64 {
        match &self.source {
            Source::Listed(places) => places.len() as u64,
            Source::Random { .. } => scenes
                .iter()
                .map(|s| {
                    s.size
                        .iter()
                        .zip(&self.patch)
                        .map(|(n, p)| n.div_ceil(*p) as u64)
                        .product::<u64>()
                })
                .sum(),
        }
    }

    /// The order of an epoch of `n` patches: for each the part or the list entry it is taken from.
    pub(crate) fn order(&self, n: usize, stream: Stream) -> Vec<u32> {
        let all = match &self.source {
            Source::Random { .. } => n,
            Source::Listed(places) => places.len(),
        };
        let mut order = Vec::with_capacity(n);
        for pass in 0.. {
            if order.len() == n {
                break;
            }
            let left = n - order.len();
            let permutation = stream.op(pass).permutation(all);
            order.extend(permutation.into_iter().take(left).map(|i| i as u32));
        }
        order
    }

    /// The place of the patch that [`order`](Self::order) gave the number `k` of `n`.
    pub(crate) fn place(
        &self,
        k: u32,
        n: usize,
        collection: &Collection,
        scenes: &[Scene],
        draws: &mut Draws,
    ) -> Result<Place> {
        match &self.source {
            Source::Listed(places) => Ok(places[k as usize].clone()),
            Source::Random { uniform, focus } => {
                let part = (f64::from(k) + draws.uniform()) / n as f64;
                if let Some(focus) = focus
                    && draws.chance(focus.share)
                {
                    let centre = focus.centre(part, collection, scenes, draws)?;
                    return Ok(around(centre.0, &centre.1, &scenes[centre.0], &self.patch));
                }
                let index = pick(uniform, part);
                let scene = &scenes[index];
                let size = fitting(scene, &self.patch);
                let start = (0..size.len())
                    .map(|a| {
                        let choices = (scene.size[a] - size[a] + 1) as u64;
                        scene.start[a] + draws.below(choices) as usize
                    })
                    .collect();
                Ok(Place { scene: index, start, size })
            }
        }
    }
}

/// All patches of a regular grid over the scenes; the last of each axis ends at the border.
pub(crate) fn grid(scenes: &[Scene], patch: &[usize], stride: &[usize]) -> Result<Vec<Place>> {
    let stride = match stride {
        [] => patch.to_vec(),
        [one] => vec![*one; patch.len()],
        all if all.len() == patch.len() => all.to_vec(),
        all => {
            return Err(Error::setting(
                format!("`stride` has {} numbers for {} axes", all.len(), patch.len()),
                "give one number, or one for each spatial axis",
            ));
        }
    };
    let mut places = Vec::new();
    for (index, scene) in scenes.iter().enumerate() {
        let size = fitting(scene, patch);
        let axes: Vec<Vec<usize>> = (0..size.len())
            .map(|a| {
                let starts = window::stride_starts(scene.size[a], size[a], stride[a]);
                starts.iter().map(|s| scene.start[a] + s).collect()
            })
            .collect();
        places.extend(window::product(&axes).into_iter().map(|start| Place {
            scene: index,
            start,
            size: size.clone(),
        }));
    }
    Ok(places)
}

/// The patch, cut to the scene where that is smaller.
fn fitting(scene: &Scene, patch: &[usize]) -> Vec<usize> {
    scene.size.iter().zip(patch).map(|(n, p)| *n.min(p)).collect()
}

/// The patch around a centre, moved inside the scene.
fn around(index: usize, centre: &[usize], scene: &Scene, patch: &[usize]) -> Place {
    let size = fitting(scene, patch);
    let start = (0..size.len())
        .map(|a| {
            let last = scene.start[a] + scene.size[a] - size[a];
            centre[a].saturating_sub(size[a] / 2).clamp(scene.start[a], last)
        })
        .collect();
    Place { scene: index, start, size }
}

fn running_sum(weights: impl Iterator<Item = f64>) -> Vec<f64> {
    weights
        .scan(0.0, |sum, w| {
            *sum += w;
            Some(*sum)
        })
        .collect()
}

/// The entry of a running sum that holds the given part of the total.
fn pick(sums: &[f64], part: f64) -> usize {
    let total = sums.last().copied().unwrap_or(0.0);
    sums.partition_point(|s| *s <= part * total).min(sums.len().saturating_sub(1))
}
