//! Images seen through an affine map: turned, scaled, sheared and moved.
//!
//! The grid of `torch.nn.functional.affine_grid` and the sampling of `grid_sample`, in two
//! dimensions.

use rayon::prelude::*;

use crate::border::Border;
use crate::error::{Error, Result};
use crate::grid::Grid;

/// An affine map and how an image is sampled through it.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// Where a pixel of the result comes from: `[x, y] = matrix [x', y', 1]`, row by row, in units
    /// of half the image with 0 in its middle.
    pub matrix: [[f64; 3]; 2],
    /// How values between pixels are made.
    pub interpolation: Interpolation,
    /// What lies beyond the edge of the image.
    pub border: Border,
    /// Whether -1 and 1 are the centres of the outermost pixels, else their outer borders.
    pub align_corners: bool,
}

/// How values between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// From the two nearest along each axis.
    Linear,
    /// Cubic convolution of the four nearest (Keys 1981, with a = -0.75).
    Cubic,
}

/// Samples `image` on a grid of `out` rows and columns.
///
/// # Errors
/// A shape that does not fit, an empty result, a map that leads too far, or a value that is not
/// finite.
pub fn affine_sample(
    image: &[f64],
    shape: [usize; 2],
    out: [usize; 2],
    affine: &Affine,
) -> Result<Vec<f64>> {
    Grid::new("affine_sample", image, &shape)?;
    Grid::of_shape("affine_sample", &out)?;
    // positions must be whole numbers of pixels away to be counted
    if let Some(bad) = affine.matrix.iter().flatten().find(|v| !(v.abs() <= 1e6)) {
        let problem = format!("`matrix` must hold numbers of at most 1e6, got {bad}");
        return Err(Error::parameter("affine_sample", problem));
    }
    let [rows, columns] = out;
    let mut result = vec![0.0; rows * columns];
    result.par_chunks_mut(columns).enumerate().for_each(|(row, line)| {
        let y = affine.unit(row, rows);
        for (column, value) in line.iter_mut().enumerate() {
            let x = affine.unit(column, columns);
            let [across, down] = affine.matrix.map(|[a, b, c]| a * x + b * y + c);
            let (r0, vertical) = affine.taps(affine.position(down, shape[0]));
            let (c0, horizontal) = affine.taps(affine.position(across, shape[1]));
            for (r, weight) in (r0..).zip(vertical) {
                let r = affine.border.index(r, shape[0]);
                for (c, part) in (c0..).zip(horizontal) {
                    let c = affine.border.index(c, shape[1]);
                    let pixel = r.zip(c).map(|(r, c)| image[r * shape[1] + c]);
                    *value += weight * part * pixel.unwrap_or(affine.border.outside());
                }
            }
        }
    });
    Ok(result)
}

impl Affine {
    /// Where pixel `i` of `n` is, in units of half the image.
    fn unit(&self, i: usize, n: usize) -> f64 {
        match self.align_corners {
            true if n > 1 => 2.0 * i as f64 / (n - 1) as f64 - 1.0,
            true => 0.0,
            false => (2 * i + 1) as f64 / n as f64 - 1.0,
        }
    }

    /// The pixel of `n` at `unit`.
    fn position(&self, unit: f64, n: usize) -> f64 {
        let n = n as f64;
        if self.align_corners {
            (unit + 1.0) / 2.0 * (n - 1.0)
        } else {
            ((unit + 1.0) * n - 1.0) / 2.0
        }
    }

    /// The first pixel that has a part in the value at `position`, and the parts of the four from
    /// there.
    fn taps(&self, position: f64) -> (isize, [f64; 4]) {
        let below = position.floor();
        let t = position - below;
        let weights = match self.interpolation {
            Interpolation::Linear => [0.0, 1.0 - t, t, 0.0],
            Interpolation::Cubic => [1.0 + t, t, 1.0 - t, 2.0 - t].map(keys),
        };
        (below as isize - 1, weights)
    }
}

/// The kernel of cubic convolution at distance `t` of 0 to 2 (Keys, "Cubic convolution interpolation
/// for digital image processing", IEEE TASSP 29, 1981).
fn keys(t: f64) -> f64 {
    const A: f64 = -0.75;
    if t < 1.0 {
        ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0
    } else {
        A * (((t - 5.0) * t + 8.0) * t - 4.0)
    }
}
