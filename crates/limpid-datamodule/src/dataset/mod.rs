//! Kinds of datasets: which files belong together, and which frames of them make a sample.
//!
//! A dataset becomes a list of scenes: places to draw patches from, each with the views of it that
//! the kind needs (input and target, or repeats of one acquisition).

mod collection;
mod layers;
mod pairing;

pub(crate) use collection::{Collection, Making, Sample, statistics};
pub use layers::volumes;
pub use pairing::partners;

use crate::blind_spot::BlindSpotConfig;
use crate::images::ImageFile;
use crate::noise::NoiseConfig;
use crate::{Error, Result};
use limpid_config::{Check, Validate};
use limpid_io::{Axis, list_images};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where training images come from. Places are a folder, a file, or a pattern with `*` and `?`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetConfig {
    /// Pairs of input and target, matched by file name.
    Paired {
        /// Images to restore.
        input: String,
        /// What they should become: files of the same names.
        target: String,
    },
    /// Clean images, with noise added to make the input.
    Simulated {
        /// Clean images.
        images: String,
        /// The noise.
        #[serde(default)]
        noise: NoiseConfig,
        /// The same noise in every epoch, instead of a fresh one for each sample.
        #[serde(default)]
        fixed: bool,
        /// What the network should produce.
        #[serde(default)]
        target: SimulatedTarget,
        /// File values of no signal and full signal; without it the smallest and the largest value
        /// of the training images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<[f64; 2]>,
    },
    /// Pairs of noisy images of the same object, with independent noise (Lehtinen et al. 2018).
    Noise2noise {
        /// Noisy images.
        input: String,
        /// Their noisy partners, files of the same names; without it the repeats lie in one file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Axis of the file along which the repeats lie.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repeats: Option<RepeatAxis>,
        /// Let either image of a pair be the input.
        #[serde(default = "yes")]
        swap: bool,
    },
    /// Single noisy images; the network predicts hidden pixels from their surroundings.
    Noise2void {
        /// Noisy images.
        images: String,
        /// Which pixels are hidden.
        #[serde(default)]
        mask: BlindSpotConfig,
    },
    /// Volumes of grey slices: the input are two slices, the upper (higher z) first, the target
    /// those between them, as in vEMDiffuse (Lu et al. 2024). Only for `dims = 2`.
    Layers {
        /// Files of whole volumes, or a folder or pattern of slices, which are one volume.
        volume: String,
        /// Slices between the two.
        layers: usize,
    },
    /// Volumes of grey slices of which a few are given, evenly: the input are `slices` slices with
    /// `layers` between each two, z rising, the target all from the first of them on,
    /// `slices · (layers + 1)`, as for the 3D-SR-Unet (Heinrich et al. 2017). Only for `dims = 2`.
    Thinned {
        /// Files of whole volumes, or a folder or pattern of slices, which are one volume.
        volume: String,
        /// Slices between two that are given.
        layers: usize,
        /// Slices that are given.
        #[serde(default = "eight")]
        slices: usize,
    },
}

fn eight() -> usize {
    8
}

fn yes() -> bool {
    true
}

impl Default for DatasetConfig {
    fn default() -> Self {
        Self::Paired { input: String::new(), target: String::new() }
    }
}

/// The target of a simulated dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SimulatedTarget {
    /// The clean image.
    #[default]
    Clean,
    /// A second, independent noisy image, as in noise2noise.
    Noisy,
}

/// An axis along which repeats of one acquisition may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RepeatAxis {
    /// Time points, or repeats proper.
    T,
    /// Slices, where repeats were saved as a stack; only for `dims = 2`.
    Z,
}

impl Validate for DatasetConfig {
    fn validate(&self, at: &mut Check) {
        let mut place = |key: &str, value: &str| {
            if value.is_empty() {
                at.problem(key, "must name a folder, a file or a pattern")
                    .hint("for example \"data/noisy\" or \"data/*.tif\"");
            }
        };
        match self {
            Self::Paired { input, target } => {
                place("input", input);
                place("target", target);
            }
            Self::Simulated { images, noise, range, .. } => {
                place("images", images);
                at.nested("noise", noise);
                if let Some([low, high]) = range.filter(|[a, b]| !(a < b && b.is_finite())) {
                    at.problem("range", format!("must rise, got {low} to {high}"));
                }
            }
            Self::Noise2noise { input, target, repeats, .. } => {
                place("input", input);
                if target.is_some() == repeats.is_some() {
                    at.problem("target", "or `repeats` must be set, and not both").hint(
                        "`target` names the partner images; `repeats = \"T\"` takes them from one file",
                    );
                }
            }
            Self::Noise2void { images, mask } => {
                place("images", images);
                at.nested("mask", mask);
            }
            Self::Layers { volume, layers } => {
                place("volume", volume);
                count(at, "layers", *layers, 1);
            }
            Self::Thinned { volume, layers, slices } => {
                place("volume", volume);
                count(at, "layers", *layers, 1);
                count(at, "slices", *slices, 2);
            }
        }
    }
}

/// Checks a number of slices, which are multiplied later.
fn count(at: &mut Check, key: &str, value: usize, least: usize) {
    const MOST: usize = 1000;
    if !(least..=MOST).contains(&value) {
        at.problem(key, format!("must be at least {least} and at most {MOST}, got {value}"));
    }
}

/// A frame of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub(crate) file: usize,
    pub(crate) frame: usize,
}

/// A part of frames of one shape that show the same object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scene {
    /// Input and target, repeats, one image, or the slices that are given and those wanted, by the
    /// kind of dataset.
    pub(crate) views: Vec<View>,
    /// Files that belong together have one number.
    pub(crate) group: usize,
    /// First pixel of the part on each spatial axis.
    pub(crate) start: Vec<usize>,
    /// Its size.
    pub(crate) size: Vec<usize>,
}

/// The files of a dataset, each once, and which belong together.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) groups: Vec<Vec<usize>>,
}

impl Listing {
    /// Files of which each is for itself.
    fn single(paths: Vec<PathBuf>) -> Self {
        let groups = (0..paths.len()).map(|i| vec![i]).collect();
        Self { paths, groups }
    }
}

impl DatasetConfig {
    /// Finds the files.
    pub(crate) fn list(&self) -> Result<Listing> {
        match self {
            Self::Paired { input, target }
            | Self::Noise2noise { input, target: Some(target), .. } => {
                pairing::pair(list_images(input)?, list_images(target)?, input, target)
            }
            Self::Simulated { images, .. }
            | Self::Noise2void { images, .. }
            | Self::Noise2noise { input: images, .. } => Ok(Listing::single(list_images(images)?)),
            Self::Layers { volume, .. } | Self::Thinned { volume, .. } => layers::list(volume),
        }
    }

    /// All frames of opened files, as scenes that span them whole.
    pub(crate) fn scenes(&self, listing: &Listing, files: &[ImageFile]) -> Result<Vec<Scene>> {
        let mut scenes = Vec::new();
        for (group, members) in listing.groups.iter().enumerate() {
            let first = &files[members[0]];
            for &other in &members[1..] {
                pairing::same_shape(first, &files[other])?;
            }
            let views: Vec<Vec<View>> = match self {
                Self::Noise2noise { repeats: Some(axis), .. } => {
                    repeated(members[0], first, *axis)?
                }
                Self::Layers { layers, .. } => layers::views(members[0], first, *layers)?,
                Self::Thinned { layers, slices, .. } => {
                    layers::thinned(members[0], first, *layers, *slices)?
                }
                _ => (0..first.frames())
                    .map(|frame| members.iter().map(|&file| View { file, frame }).collect())
                    .collect(),
            };
            scenes.extend(views.into_iter().map(|views| Scene {
                views,
                group,
                start: vec![0; first.spatial.len()],
                size: first.spatial.clone(),
            }));
        }
        pairing::same_channels(&scenes, files)?;
        Ok(scenes)
    }

    /// The views that inputs come from, and those that targets come from, by their place in
    /// [`Scene::views`]; none means all of them.
    pub(crate) fn roles(&self) -> (Option<usize>, Option<usize>) {
        match self {
            Self::Paired { .. } => (Some(0), Some(1)),
            Self::Simulated { .. } | Self::Noise2void { .. } => (Some(0), Some(0)),
            Self::Noise2noise { .. } | Self::Layers { .. } | Self::Thinned { .. } => (None, None),
        }
    }

    /// How many slices are input and how many target, where both are slices of volumes.
    pub(crate) fn slices(&self) -> Option<(usize, usize)> {
        match *self {
            Self::Layers { layers, .. } => Some((2, layers)),
            Self::Thinned { layers, slices, .. } => Some((slices, slices * (layers + 1))),
            _ => None,
        }
    }

    /// The same dataset wherever its files lie.
    pub(crate) fn without_places(&self) -> Self {
        let mut copy = self.clone();
        match &mut copy {
            Self::Paired { input, target } => {
                input.clear();
                target.clear();
            }
            Self::Simulated { images, .. } | Self::Noise2void { images, .. } => images.clear(),
            Self::Noise2noise { input, target, .. } => {
                input.clear();
                *target = target.as_ref().map(|_| String::new());
            }
            Self::Layers { volume, .. } | Self::Thinned { volume, .. } => volume.clear(),
        }
        copy
    }
}

/// The frames of a file, those along `axis` together.
fn repeated(index: usize, file: &ImageFile, axis: RepeatAxis) -> Result<Vec<Vec<View>>> {
    let axis = if axis == RepeatAxis::T { Axis::T } else { Axis::Z };
    let leading = file.leading();
    let Some(at) = leading.iter().position(|(a, n)| *a == axis && *n > 1) else {
        return Err(Error::file(
            &file.path,
            format!(
                "there are no repeats along {axis:?}: the image has the axes {} and shape {:?}",
                file.info.axes, file.info.shape
            ),
            "set `repeats` to the axis of the repeats, and `dims = 2` if that is Z",
        ));
    };
    let step: usize = leading[at + 1..].iter().map(|(_, n)| n).product();
    let count = leading[at].1;
    let starts = (0..file.frames()).filter(|f| (f / step).is_multiple_of(count));
    Ok(starts
        .map(|f| (0..count).map(|r| View { file: index, frame: f + r * step }).collect())
        .collect())
}
