//! Corrections on the way: what the degraded image knows better than the network.

use super::sampler::{Guide, Step};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_kernels::{Error, Pad, PoolSpec, Resize, add, avg_pool, pad, resize, scale};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Share of the last steps in which [`Adjust`] acts.
const ADJUSTED: f64 = 0.2;

/// How sampling is corrected on the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuideConfig {
    /// Not at all.
    None {},
    /// The coarse part of every estimate is drawn to that of the degraded image (as ILVR, Choi et al.
    /// 2021, arXiv:2108.02938, does with states).
    LowFrequency {
        /// How far: 0 not at all, 1 all the way.
        strength: f64,
        /// Side of the squares whose means are the coarse part, in pixels.
        scale: usize,
        /// γ up to which this is done.
        until: f64,
    },
    /// EMDiffuse's `adjust`, which it never switches on: in the last fifth of the steps the mean
    /// intensity is drawn half-way to that of the condition.
    ReferenceAdjust {},
}

impl Validate for GuideConfig {
    fn validate(&self, at: &mut Check) {
        if let Self::LowFrequency { strength, scale, until } = self {
            for (key, value) in [("strength", strength), ("until", until)] {
                if !(0.0..=1.0).contains(value) {
                    at.problem(key, format!("must be from 0 to 1, got {value}"));
                }
            }
            if !(1..=1024).contains(scale) {
                at.problem("scale", format!("must be from 1 to 1024, got {scale}"));
            }
        }
    }
}

impl GuideConfig {
    /// The guide for an image.
    ///
    /// # Shapes
    /// `reference [1 or N, C, H, W]`, the degraded image as an estimate of the clean one;
    /// `condition [1 or N, Cc, H, W]`, what the network sees.
    ///
    /// # Errors
    /// If there are no images of two dimensions.
    pub fn guide(&self, reference: &Tensor, condition: &Tensor) -> Result<Box<dyn Guide>> {
        Ok(match *self {
            Self::None {} => Box::new(()),
            Self::LowFrequency { strength, scale, until } => {
                Box::new(LowFrequency::new(reference, strength, scale, until)?)
            }
            Self::ReferenceAdjust {} => Box::new(Adjust::new(condition)?),
        })
    }
}

/// Draws the coarse part of estimates to that of a reference.
#[derive(Clone, Debug)]
pub struct LowFrequency {
    coarse: Tensor,
    strength: f64,
    scale: usize,
    until: f64,
}

impl LowFrequency {
    /// `scale` and the rest as in [`GuideConfig::LowFrequency`].
    ///
    /// # Shapes
    /// `reference [1 or N, C, H, W]`.
    ///
    /// # Errors
    /// If it has another rank.
    pub fn new(reference: &Tensor, strength: f64, scale: usize, until: f64) -> Result<Self> {
        Ok(Self { coarse: means(reference, scale)?, strength, scale, until })
    }
}

impl Guide for LowFrequency {
    fn estimate(&self, at: &Step, clean: Tensor) -> Result<Tensor> {
        if self.strength == 0.0 || at.level.gamma() > self.until {
            return Ok(clean);
        }
        let missing = rows_like(&self.coarse, &clean)?.sub(&means(&clean, self.scale)?)?;
        let missing = spread(&scale(&missing, self.strength)?, self.scale, &clean)?;
        Ok(add(&clean, &missing)?)
    }
}

/// Means of squares of `side` pixels; the last ones are filled up with the border pixels.
fn means(image: &Tensor, side: usize) -> Result<Tensor> {
    let [_, _, height, width] = *image.dims() else {
        return Err(Error::shape("guide", "[N, C, H, W]", image.dims()).into());
    };
    let fill = |n: usize| (0, n.next_multiple_of(side) - n);
    let image = pad(image, &[fill(height), fill(width)], Pad::Replicate)?;
    Ok(avg_pool(&image, &PoolSpec::cubic(2, side), false)?)
}

/// Means of squares of `side` pixels as an image of the size of `like`.
fn spread(means: &Tensor, side: usize, like: &Tensor) -> Result<Tensor> {
    let size: Vec<usize> = means.dims()[2..].iter().map(|n| n * side).collect();
    let mut image = resize(means, &size, Resize::Linear { align_corners: false })?;
    for axis in [2, 3] {
        image = limpid_kernels::narrow(&image, axis, 0, like.dims()[axis])?;
    }
    Ok(image)
}

/// A tensor of one row, or as many as `like`, with as many rows as `like`.
fn rows_like(tensor: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut shape = tensor.dims().to_vec();
    if shape.first() == Some(&1) {
        shape[0] = like.dims()[0];
    }
    Ok(tensor.broadcast_as(shape)?.contiguous()?)
}

/// EMDiffuse's `adjust`.
#[derive(Clone, Debug)]
pub struct Adjust {
    /// Half the mean of each row, `[1 or N, 1, 1, 1]`.
    half_means: Tensor,
}

impl Adjust {
    /// # Shapes
    /// `condition [1 or N, Cc, H, W]`; its mean is that of all channels.
    ///
    /// # Errors
    /// If it has another rank.
    pub fn new(condition: &Tensor) -> Result<Self> {
        Ok(Self { half_means: half_means(condition)? })
    }
}

/// Half the mean of each row.
fn half_means(image: &Tensor) -> Result<Tensor> {
    if image.rank() != 4 {
        return Err(Error::shape("guide", "[N, C, H, W]", image.dims()).into());
    }
    Ok((image.mean_keepdim((1, 2, 3))? * 0.5)?)
}

impl Guide for Adjust {
    fn mean(&self, at: &Step, mean: Tensor) -> Result<Tensor> {
        let left = at.of - 1 - at.index;
        if left as f64 >= ADJUSTED * at.of as f64 {
            return Ok(mean);
        }
        let shift = self.half_means.broadcast_sub(&half_means(&mean)?)?;
        Ok(mean.broadcast_add(&shift)?)
    }
}

/// Keeps the known part of an image, as the reference's `mask`.
#[derive(Clone, Debug)]
pub struct Inpaint {
    kept: Tensor,
    mask: Tensor,
}

impl Inpaint {
    /// `mask` is 1 where the image is to be drawn and 0 where it is `known`.
    ///
    /// # Shapes
    /// Both those of the state.
    ///
    /// # Errors
    /// If they differ.
    pub fn new(known: &Tensor, mask: &Tensor) -> Result<Self> {
        let kept = (known * (1.0 - mask)?)?;
        Ok(Self { kept, mask: mask.clone() })
    }
}

impl Guide for Inpaint {
    fn state(&self, _at: &Step, x: Tensor) -> Result<Tensor> {
        Ok(add(&self.kept, &(x * &self.mask)?)?)
    }
}
