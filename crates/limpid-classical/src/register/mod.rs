//! Registration: where the pixels of one image are found in another.
//!
//! * [`phase_correlation`] finds a shift of any size, [`affine_registration`] the affine map near a
//!   start, [`optical_flow`] a way of its own for every pixel;
//! * [`warp`], [`warp_affine`] and [`resample`] bring the image there, [`invert_flow`] and
//!   [`invert_affine`] say the way back.
//!
//! One image is *fixed* and gives the grid, the other is *moving*. A result says where a pixel `p`
//! of the fixed image is found in the moving one: `moving(p + shift) = fixed(p)`,
//! `moving(A p) = fixed(p)`, `moving(p + flow(p)) = fixed(p)`. Places are rows and columns, in this
//! order, counted from the centre of the first pixel.
//!
//! The images may differ in brightness, contrast and noise; none of the methods compares grey values
//! as they are. The fixed image gives the gradients, so it should be the cleaner of the two.

mod affine;
mod flow;
mod phase;
#[cfg(test)]
mod tests;
mod warp;

pub use affine::{AffineFit, affine_registration};
pub use flow::{FlowConfig, optical_flow};
pub use phase::{Shift, phase_correlation};
pub use warp::{apply_affine, invert_affine, invert_flow, resample, warp, warp_affine};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::gaussian::smooth;
use crate::grid::Grid;
use crate::{Border, PerAxis};

/// Checks two images of one shape with at least `least` rows and columns.
fn check_pair(
    op: &'static str,
    fixed: &[f64],
    moving: &[f64],
    shape: [usize; 2],
    least: usize,
) -> Result<()> {
    Grid::new(op, fixed, &shape)?;
    Grid::new(op, moving, &shape)?;
    if shape.iter().any(|n| *n < least) {
        let expected = format!("at least {least} rows and columns");
        return Err(Error::shape(op, expected, format!("shape {shape:?}")));
    }
    Ok(())
}

/// An image at one scale, with its mean taken away.
struct Level {
    image: Vec<f64>,
    shape: [usize; 2],
}

/// The image smoothed by a Gaussian of `sigma` pixels, then halved up to `levels - 1` times, as long
/// as its sides keep `least` pixels. Finest first.
fn pyramid(
    image: &[f64],
    shape: [usize; 2],
    sigma: f64,
    levels: usize,
    least: usize,
) -> Result<Vec<Level>> {
    let grid = Grid::of_shape("pyramid", &shape)?;
    let sigma = grid.spread("pyramid", "sigma", &PerAxis::All(sigma), 0.0)?;
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    let centred: Vec<f64> = image.iter().map(|v| v - mean).collect();
    let mut all = vec![Level { image: smooth(&centred, &grid, sigma, Border::Reflect), shape }];
    while let Some(last) = all.last()
        && all.len() < levels
        && last.shape.iter().all(|n| n / 2 >= least)
    {
        let next = halve(last);
        all.push(next);
    }
    Ok(all)
}

/// Means of 2×2 pixels; an odd last row or column is left out. Pixel `i` lies at `2 i + 0.5` of the
/// finer image.
fn halve(fine: &Level) -> Level {
    let [h, w] = fine.shape.map(|n| n / 2);
    let width = fine.shape[1];
    let mut image = vec![0.0; h * w];
    image.par_chunks_mut(w).enumerate().for_each(|(y, line)| {
        let [above, below] = [2 * y, 2 * y + 1].map(|r| &fine.image[r * width..][..width]);
        for (x, value) in line.iter_mut().enumerate() {
            *value = 0.25 * (above[2 * x] + above[2 * x + 1] + below[2 * x] + below[2 * x + 1]);
        }
    });
    Level { image, shape: [h, w] }
}

/// Central differences along rows' and columns' index; zero where a neighbour is missing.
#[inline]
fn gradient(image: &[f64], [h, w]: [usize; 2], y: usize, x: usize) -> [f64; 2] {
    let i = y * w + x;
    let down = if y > 0 && y + 1 < h { 0.5 * (image[i + w] - image[i - w]) } else { 0.0 };
    let right = if x > 0 && x + 1 < w { 0.5 * (image[i + 1] - image[i - 1]) } else { 0.0 };
    [down, right]
}

/// The solution of `a x = b` by elimination with row exchange; `None` if there is no single one.
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> Option<[f64; N]> {
    let largest = a.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
    for i in 0..N {
        let pivot = (i..N).max_by(|p, q| a[*p][i].abs().total_cmp(&a[*q][i].abs()))?;
        if !(a[pivot][i].abs() > 1e-13 * largest) {
            return None;
        }
        a.swap(i, pivot);
        b.swap(i, pivot);
        for row in i + 1..N {
            let factor = a[row][i] / a[i][i];
            for column in i..N {
                a[row][column] -= factor * a[i][column];
            }
            b[row] -= factor * b[i];
        }
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    Some(b)
}
