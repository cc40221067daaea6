//! Where patches of a PET volume are worth taking, after nucli's `potential_centers`.
//!
//! Voxels above an uptake threshold form a mask, cleaned of holes and specks; a centre is valid
//! when its whole patch lies inside the volume and enough of it inside the mask. A greedy pass then
//! thins the centres until their patches overlap little.

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, require_valid};
use crate::grid::Grid;
use crate::morphology::{Neighbours, close, dilate, open};

/// What makes a patch worth taking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatchCenters {
    /// Voxels above this are body, in units of the volume (SUV).
    pub threshold: f64,
    /// Sides of a patch in voxels.
    pub patch: [usize; 3],
    /// Least fraction of a patch that must be body.
    pub min_fraction: f64,
}

impl Default for PatchCenters {
    fn default() -> Self {
        Self { threshold: 0.4, patch: [64; 3], min_fraction: 0.6 }
    }
}

impl Validate for PatchCenters {
    fn validate(&self, at: &mut Check) {
        if !self.threshold.is_finite() {
            at.problem("threshold", format!("must be a finite number, got {}", self.threshold));
        }
        if self.patch.contains(&0) {
            at.problem("patch", format!("must have no empty side, got {:?}", self.patch));
        }
        if !(0.0..=1.0).contains(&self.min_fraction) {
            let message = format!("must be between 0 and 1, got {}", self.min_fraction);
            at.problem("min_fraction", message);
        }
    }
}

/// The voxels of `volume` above `threshold`, without holes and specks.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or such a threshold.
pub fn clean_mask(volume: &[f64], shape: [usize; 3], threshold: f64) -> Result<Vec<bool>> {
    Grid::new("clean_mask", volume, &shape)?;
    require_valid("clean_mask", &PatchCenters { threshold, ..PatchCenters::default() })?;
    Ok(clean(volume, shape, threshold))
}

/// The voxels of `volume` that [`valid_centers`] takes for body: those of [`clean_mask`], at a high
/// threshold with a rim.
///
/// # Errors
/// As [`clean_mask`].
pub fn body_mask(volume: &[f64], shape: [usize; 3], threshold: f64) -> Result<Vec<bool>> {
    Ok(rimmed(clean_mask(volume, shape, threshold)?, shape, threshold))
}

fn clean(volume: &[f64], shape: [usize; 3], threshold: f64) -> Vec<bool> {
    let mask: Vec<bool> = volume.iter().map(|v| *v > threshold).collect();
    open(&close(&mask, shape, Neighbours::Faces), shape, Neighbours::Faces)
}

fn rimmed(mask: Vec<bool>, shape: [usize; 3], threshold: f64) -> Vec<bool> {
    if threshold <= 0.5 {
        return mask;
    }
    // a high threshold hugs the organs: drop specks again, then take a rim of faint uptake in
    dilate(&open(&mask, shape, Neighbours::Faces), shape, Neighbours::All)
}

/// Whether each voxel of `volume` is the centre of a patch worth taking. The patch of centre `c`
/// starts at `c - patch / 2`.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn valid_centers(
    volume: &[f64],
    shape: [usize; 3],
    parameters: &PatchCenters,
) -> Result<Vec<bool>> {
    Grid::new("patch_centers", volume, &shape)?;
    require_valid("patch_centers", parameters)?;
    let mask = rimmed(clean(volume, shape, parameters.threshold), shape, parameters.threshold);

    let patch = parameters.patch;
    let mut fraction: Vec<f32> = mask.iter().map(|set| f32::from(u8::from(*set))).collect();
    for axis in 0..3 {
        box_mean(&mut fraction, shape, axis, patch[axis]);
    }
    let voxels = patch.iter().product::<usize>() as f32;
    let least = (parameters.min_fraction * f64::from(voxels)) as f32;
    let inside = |at: usize, a: usize| at >= patch[a] / 2 && at + patch[a] / 2 < shape[a];
    let valid = |i: usize| {
        let (z, y, x) = (i / shape[2] / shape[1], i / shape[2] % shape[1], i % shape[2]);
        let fits = inside(z, 0) && inside(y, 1) && inside(x, 2);
        fits && fraction[i] * voxels >= least
    };
    Ok((0..volume.len()).map(valid).collect())
}

/// Goes through `centers` in order and keeps those whose patch overlaps none kept before by more
/// than the fraction `overlap` of its side along every axis.
///
/// # Errors
/// An overlap outside of `0..1`.
pub fn prune_centers(
    centers: &[[usize; 3]],
    patch: [usize; 3],
    overlap: f64,
) -> Result<Vec<[usize; 3]>> {
    if !(0.0..1.0).contains(&overlap) {
        let problem = format!("`overlap` must be at least 0 and below 1, got {overlap}");
        return Err(Error::parameter("prune_centers", problem));
    }
    let apart = patch.map(|side| (1.0 - overlap) * side as f64);
    let mut kept: Vec<[usize; 3]> = Vec::new();
    for center in centers {
        let clash =
            |other: &[usize; 3]| (0..3).all(|a| (center[a].abs_diff(other[a]) as f64) < apart[a]);
        if !kept.iter().any(clash) {
            kept.push(*center);
        }
    }
    Ok(kept)
}

/// Mean over `size` samples along `axis`, zero beyond the edge.
///
/// In the steps and the precision of `scipy.ndimage.uniform_filter` on `float32`: the test against
/// `min_fraction` often meets a tie, and rounding decides it.
fn box_mean(values: &mut [f32], dims: [usize; 3], axis: usize, size: usize) {
    let n = dims[axis];
    let inner: usize = dims[axis + 1..].iter().product();
    let mut line = vec![0.0f64; n + size - 1];
    for block in values.chunks_mut(n * inner) {
        for first in 0..inner {
            for i in 0..n {
                line[size / 2 + i] = f64::from(block[first + i * inner]);
            }
            let mut mean = line[..size].iter().sum::<f64>() / size as f64;
            block[first] = mean as f32;
            for i in 1..n {
                mean += (line[i + size - 1] - line[i - 1]) / size as f64;
                block[first + i * inner] = mean as f32;
            }
        }
    }
}
