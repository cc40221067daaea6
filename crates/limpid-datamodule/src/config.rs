//! Settings of the data.

use crate::augment::AugmentConfig;
use crate::blind_spot::LineAxis;
use crate::dataset::{DatasetConfig, RepeatAxis};
use crate::normalise::{Fit, NormalisationConfig};
use crate::sampler::SamplerConfig;
use crate::split::SplitConfig;
use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Where the images come from and what makes a sample.
    pub dataset: DatasetConfig,
    /// Spatial axes that the network sees: 2 for slices, 3 for volumes.
    pub dims: usize,
    /// Axes of the files in their order, slowest first, where they do not say themselves: "ZYX".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub axes: Option<String>,
    /// Size of a training patch in pixels: one number for all axes, or one for each.
    pub patch: Vec<usize>,
    /// Grow images smaller than the patch by mirroring, instead of refusing them.
    pub pad_small: bool,
    /// How training patches are chosen.
    pub sampler: SamplerConfig,
    /// Training patches in an epoch, rounded up to whole batches; without it as many as cover all
    /// training images once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_epoch: Option<u64>,
    /// Patches in a batch.
    pub batch: usize,
    /// Intensities of the input, and of targets unless they have their own.
    pub normalisation: NormalisationConfig,
    /// Intensities of targets of another kind than the input; always learnt from all training
    /// images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_normalisation: Option<NormalisationConfig>,
    /// Whether normalisation is learnt from all training images or from each image for itself.
    pub normalisation_fit: Fit,
    /// Random changes of training samples.
    pub augment: AugmentConfig,
    /// What is kept for validation.
    pub validation: ValidationConfig,
    /// Threads that prepare batches; the batches do not depend on it.
    pub workers: usize,
    /// Batches prepared ahead.
    pub prefetch: usize,
    /// Memory for batches prepared ahead, in MiB; the batch that training waits for is made even
    /// if it is larger.
    pub prefetch_mib: u64,
    /// Memory for decoded images, in MiB; what does not fit is read from its file patch by patch.
    pub cache_mib: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            dataset: DatasetConfig::default(),
            dims: 2,
            axes: None,
            patch: vec![64],
            pad_small: false,
            sampler: SamplerConfig::default(),
            samples_per_epoch: None,
            batch: 8,
            normalisation: NormalisationConfig::default(),
            target_normalisation: None,
            normalisation_fit: Fit::default(),
            augment: AugmentConfig::default(),
            validation: ValidationConfig::default(),
            workers: 2,
            prefetch: 4,
            prefetch_mib: 1024,
            cache_mib: 2048,
        }
    }
}

/// What is kept for validation and how it is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Which images or parts of images.
    pub split: SplitConfig,
    /// Whole images, one at a time, instead of patches of the training size.
    pub whole: bool,
    /// At most this many patches or images of each set, spread evenly; 0: all.
    pub limit: usize,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self { split: SplitConfig::default(), whole: false, limit: 64 }
    }
}

impl DataConfig {
    /// The patch size on every spatial axis.
    #[must_use]
    pub fn patch_size(&self) -> Vec<usize> {
        match self.patch[..] {
            [one] => vec![one; self.dims],
            _ => self.patch.clone(),
        }
    }
}

impl Validate for DataConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("dataset", &self.dataset);
        at.nested("sampler", &self.sampler);
        at.nested("normalisation", &self.normalisation);
        if let Some(target) = &self.target_normalisation {
            at.nested("target_normalisation", target);
        }
        at.nested("augment", &self.augment);
        at.nested("validation", &self.validation);
        if !matches!(self.dims, 2 | 3) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
            return; // the rest depends on it
        }
        if let Some(Err(error)) = self.axes.as_ref().map(|a| a.parse::<limpid_io::Axes>()) {
            at.problem("axes", format!("cannot be used: {error}"));
        }
        for (key, value) in
            [("batch", self.batch), ("workers", self.workers), ("prefetch", self.prefetch)]
        {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
        if self.samples_per_epoch.is_some_and(|n| n == 0 || n > u64::from(u32::MAX)) {
            at.problem("samples_per_epoch", "must be at least 1 and below 4 billion");
        }
        self.validate_patch(at);
        self.validate_axes(at);
    }
}

impl DataConfig {
    fn validate_patch(&self, at: &mut Check) {
        let patch = self.patch_size();
        if patch.len() != self.dims || patch.contains(&0) {
            at.problem(
                "patch",
                format!("must be one size above 0, or {}, got {patch:?}", self.dims),
            );
            return;
        }
        let exchanged = &patch[self.dims - self.augment.orientation.exchanged(self.dims)..];
        if exchanged.windows(2).any(|p| p[0] != p[1]) {
            at.problem(
                "augment.orientation",
                format!("exchanges axes of different length: {patch:?}"),
            )
            .hint("give `patch` equal sizes, or use \"flips\"");
        }
        if let SamplerConfig::Grid { stride } = &self.sampler
            && !matches!(stride.len(), 0 | 1)
            && stride.len() != self.dims
        {
            at.problem("sampler.stride", format!("must have 1 or {} numbers", self.dims));
        }
    }

    fn validate_axes(&self, at: &mut Check) {
        if self.dims == 3 {
            if self.dataset.slices().is_some() {
                at.problem("dims", "must be 2 for layers, which are slices");
            }
            if let DatasetConfig::Noise2noise { repeats: Some(RepeatAxis::Z), .. } = self.dataset {
                at.problem("dataset.repeats", "cannot be Z when `dims = 3`")
                    .hint("set `dims = 2`, or save the repeats along T");
            }
        } else if let DatasetConfig::Noise2void { mask, .. } = &self.dataset
            && mask.line.is_some_and(|l| l.axis == LineAxis::Z)
        {
            at.problem("dataset.mask.line.axis", "cannot be z when `dims = 2`");
        }
    }
}

impl Validate for ValidationConfig {
    fn validate(&self, at: &mut Check) {
        at.nested("split", &self.split);
    }
}
