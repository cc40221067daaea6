//! Which part of the data is kept for validation. A split never gives a pixel to both parts; a
//! validation set of its own may hold images that are trained on, if the user wants it so.

mod torch;

use crate::dataset::{DatasetConfig, Scene};
use crate::images::ImageFile;
use crate::{Error, Result};
use limpid_config::{Check, Validate};
use limpid_io::Axis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Number of files, or of slices of a stack, from which on a part of them is kept back whole.
const MANY: usize = 10;

/// Which part of the data is kept for validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitConfig {
    /// A tenth: of the files if there are ten or more, else of each image.
    Auto {},
    /// Every n-th file of the list.
    Files {
        /// Share of the files.
        fraction: f64,
    },
    /// The last rows of each image (slices of each volume); of a stack of ten or more slices
    /// trained in 2-D, the last slices.
    Region {
        /// Share of the rows or slices.
        fraction: f64,
    },
    /// Datasets of their own, by name; of any kind, so that training without clean images can be
    /// validated on clean ones.
    Sets {
        /// The datasets.
        sets: BTreeMap<String, DatasetConfig>,
    },
    /// The random choice of files that `torch.randperm` makes, as in EMDiffuse: those that come first
    /// train.
    Torch {
        /// Share of the files that is kept, rounded down to whole files, or from 1 on their number.
        share: f64,
        /// Seed of torch's generator.
        #[serde(default = "minus_one")]
        seed: i64,
    },
    /// No validation.
    None {},
}

/// The seed in all settings that EMDiffuse published.
fn minus_one() -> i64 {
    -1
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self::Auto {}
    }
}

impl Validate for SplitConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::Auto {} | Self::None {} => {}
            Self::Files { fraction } | Self::Region { fraction } => {
                if !(*fraction > 0.0 && *fraction < 1.0) {
                    at.problem("fraction", format!("must be between 0 and 1, got {fraction}"));
                }
            }
            Self::Torch { share, .. } => {
                if !(*share > 0.0 && (*share < 1.0 || share.fract() == 0.0)) {
                    at.problem(
                        "share",
                        format!("must be between 0 and 1, or a whole number of files, got {share}"),
                    );
                }
            }
            Self::Sets { sets } => {
                if sets.is_empty() {
                    at.problem("sets", "must name at least one dataset");
                }
                at.nested("sets", sets);
            }
        }
    }
}

/// Divides scenes into those for training and those for validation.
pub(crate) fn divide(
    config: &SplitConfig,
    scenes: Vec<Scene>,
    files: &[ImageFile],
    patch: &[usize],
) -> Result<(Vec<Scene>, Vec<Scene>)> {
    let groups: BTreeSet<usize> = scenes.iter().map(|s| s.group).collect();
    match *config {
        SplitConfig::Auto {} if groups.len() >= MANY => by_file(scenes, &groups, 0.1),
        SplitConfig::Auto {} => by_region(scenes, files, patch, 0.1),
        SplitConfig::Files { fraction } => by_file(scenes, &groups, fraction),
        SplitConfig::Region { fraction } => by_region(scenes, files, patch, fraction),
        SplitConfig::Torch { share, seed } => {
            let order: Vec<usize> = groups.iter().copied().collect();
            let (train, _) = torch_split(order.len(), share, seed)?;
            let train: BTreeSet<usize> = train.into_iter().map(|i| order[i]).collect();
            Ok(scenes.into_iter().partition(|s| train.contains(&s.group)))
        }
        SplitConfig::Sets { .. } | SplitConfig::None {} => Ok((scenes, Vec::new())),
    }
}

/// Numbers below `n` for training and for validation, in the order in which torch and EMDiffuse
/// choose them: `share` of `n` rounded down, or from 1 on that many, are for validation.
///
/// # Errors
/// One of the parts would be empty.
pub fn torch_split(n: usize, share: f64, seed: i64) -> Result<(Vec<usize>, Vec<usize>)> {
    let kept = if share < 1.0 { (share * n as f64).floor() } else { share };
    if !(kept >= 1.0 && kept < n as f64) {
        return Err(Error::setting(
            format!("{kept} of {n} training files cannot be kept for validation"),
            "set `validation.split.share` so that at least one file is kept and one trains",
        ));
    }
    let mut order = torch::permutation(n, seed);
    let held = order.split_off(n - kept as usize);
    Ok((order, held))
}

fn by_file(
    scenes: Vec<Scene>,
    groups: &BTreeSet<usize>,
    fraction: f64,
) -> Result<(Vec<Scene>, Vec<Scene>)> {
    let n = groups.len();
    if n < 2 {
        return Err(Error::setting(
            "there is a single training image, so none can be kept whole for validation",
            "set `validation.split.kind` to \"region\" to keep a part of the image",
        ));
    }
    let kept = ((fraction * n as f64).ceil() as usize).clamp(1, n - 1);
    // evenly over the list, and the same for every seed: runs stay comparable
    let held: BTreeSet<usize> = (0..n)
        .filter(|i| (i + 1) * kept / n > i * kept / n)
        .filter_map(|i| groups.iter().nth(i).copied())
        .collect();
    Ok(scenes.into_iter().partition(|s| !held.contains(&s.group)))
}

fn by_region(
    scenes: Vec<Scene>,
    files: &[ImageFile],
    patch: &[usize],
    fraction: f64,
) -> Result<(Vec<Scene>, Vec<Scene>)> {
    let mut of_group: BTreeMap<usize, Vec<Scene>> = BTreeMap::new();
    for scene in scenes {
        of_group.entry(scene.group).or_default().push(scene);
    }
    let (mut train, mut held) = (Vec::new(), Vec::new());
    for mut group in of_group.into_values() {
        let file = &files[group[0].views[0].file];
        let slices = matches!(file.leading()[..], [(Axis::Z, n)] if n == group.len() && n >= MANY);
        if slices {
            let kept = ((fraction * group.len() as f64).ceil() as usize).min(group.len() - 1);
            held.extend(group.split_off(group.len() - kept));
            train.extend(group);
            continue;
        }
        for scene in group {
            let (first, last) = cut(scene, file, patch, fraction)?;
            train.push(first);
            held.push(last);
        }
    }
    Ok((train, held))
}

/// Cuts a scene along its first axis, so that a patch fits into either part.
fn cut(scene: Scene, file: &ImageFile, patch: &[usize], fraction: f64) -> Result<(Scene, Scene)> {
    let rows = scene.size[0];
    if rows < 2 * patch[0] {
        return Err(Error::file(
            &file.path,
            format!(
                "an image of size {:?} cannot be divided into a part for training and one for validation, each at least a patch of {patch:?}",
                scene.size
            ),
            "set a smaller `patch`, validate on other files (`validation.split.kind = \"sets\"`) or not at all (\"none\")",
        ));
    }
    let kept = ((fraction * rows as f64).ceil() as usize).clamp(patch[0], rows - patch[0]);
    let (mut first, mut last) = (scene.clone(), scene);
    first.size[0] -= kept;
    last.start[0] += rows - kept;
    last.size[0] = kept;
    Ok((first, last))
}
