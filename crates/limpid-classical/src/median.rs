//! Median filter (`scipy.ndimage.median_filter`).

use limpid_config::{Check, Validate};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::error::{Result, require_valid};
use crate::grid::{Grid, PerAxis};
use crate::uniform::validate_size;

/// Median over a box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Median {
    /// Side of the box in samples, for all axes or one per axis. Of an even number of samples, the
    /// upper of the two middle ones is taken.
    pub size: PerAxis<usize>,
    /// What lies beyond the edge of the image.
    pub border: Border,
}

impl Default for Median {
    fn default() -> Self {
        Self { size: PerAxis::All(3), border: Border::Reflect }
    }
}

impl Validate for Median {
    fn validate(&self, at: &mut Check) {
        validate_size(&self.size, at);
    }
}

/// Replaces each sample by the median of the box around it.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a size out of range.
pub fn median(image: &[f64], shape: &[usize], parameters: &Median) -> Result<Vec<f64>> {
    let grid = Grid::new("median", image, shape)?;
    require_valid("median", parameters)?;
    let size = grid.spread("median", "size", &parameters.size, 1)?;
    let [_, ny, nx] = grid.dims;
    let border = parameters.border;
    let maps = [0, 1, 2].map(|a| {
        let before = size[a] / 2;
        border.extended(grid.dims[a], before, size[a] - 1 - before)
    });
    let mut out = vec![0.0; image.len()];
    out.par_chunks_mut(nx).enumerate().for_each_init(
        || Vec::with_capacity(size.iter().product()),
        |window, (row, out)| {
            let (z, y) = (row / ny, row % ny);
            for (x, out) in out.iter_mut().enumerate() {
                window.clear();
                for mz in &maps[0][z..z + size[0]] {
                    for my in &maps[1][y..y + size[1]] {
                        let row = mz.zip(*my).map(|(z, y)| &image[(z * ny + y) * nx..][..nx]);
                        window.extend(maps[2][x..x + size[2]].iter().map(|mx| {
                            row.zip(*mx).map_or(border.outside(), |(row, x): (&[f64], _)| row[x])
                        }));
                    }
                }
                let middle = window.len() / 2;
                *out = *window.select_nth_unstable_by(middle, f64::total_cmp).1;
            }
        },
    );
    Ok(out)
}
