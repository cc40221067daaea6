//! Box smoothing (`scipy.ndimage.uniform_filter`).

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::correlate::correlate;
use crate::error::{Result, require_valid};
use crate::grid::{Grid, PerAxis};

/// Mean over a box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Uniform {
    /// Side of the box in samples, for all axes or one per axis. An even box reaches one sample
    /// further to the left.
    pub size: PerAxis<usize>,
    /// What lies beyond the edge of the image.
    pub border: Border,
}

impl Default for Uniform {
    fn default() -> Self {
        Self { size: PerAxis::All(3), border: Border::Reflect }
    }
}

impl Validate for Uniform {
    fn validate(&self, at: &mut Check) {
        validate_size(&self.size, at);
    }
}

/// The rule for the side of a window.
pub(crate) fn validate_size(size: &PerAxis<usize>, at: &mut Check) {
    for size in size.values() {
        if !(1..=999).contains(size) {
            at.problem("size", format!("must be between 1 and 999 samples, got {size}"));
        }
    }
}

/// Replaces each sample by the mean of the box around it.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a size out of range.
pub fn uniform(image: &[f64], shape: &[usize], parameters: &Uniform) -> Result<Vec<f64>> {
    let grid = Grid::new("uniform", image, shape)?;
    require_valid("uniform", parameters)?;
    let size = grid.spread("uniform", "size", &parameters.size, 1)?;
    let mut smoothed = image.to_vec();
    for axis in grid.axes().filter(|axis| size[*axis] > 1) {
        let weights = vec![1.0 / size[axis] as f64; size[axis]];
        smoothed = correlate(&smoothed, grid.dims, axis, &weights, parameters.border);
    }
    Ok(smoothed)
}
