//! Resizing and resampling by splines.
//!
//! [`zoom`] is `scipy.ndimage.zoom`: corner samples stay where they are. [`resize`] is `skimage.transform.resize` with mode `edge`: centres of the corner samples keep
//! their place half a sample inside the edge; cubic results are clipped to the range of the input.
//! [`resample_spacing`] is the rule by which nucli (after nnU-Net) brings PET volumes to a common
//! voxel size. Cubic prefilter: Unser, "Splines: a perfect fit for signal and image processing",
//! IEEE Signal Processing Magazine 16, 1999, in the form of scipy's `ni_splines.c`.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::error::{Error, Result};
use crate::gaussian::smooth;
use crate::grid::Grid;

/// Samples that scipy repeats at each edge before it fits a cubic spline.
const SPLINE_MARGIN: usize = 12;
/// Spacings this many times apart make the coarse axis a stack of slices.
const ANISOTROPY: f64 = 3.0;

/// The order of the interpolating spline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The nearest sample: for labels.
    Nearest,
    /// Straight lines between samples.
    Linear,
    /// Cubic spline through the samples.
    #[default]
    Cubic,
}

/// `image` of `shape` on a grid of `new_shape` that covers the same extent. `smooth_first` removes
/// with a Gaussian what a coarser grid cannot hold.
///
/// # Errors
/// Shapes that do not fit, or a value that is not finite.
pub fn resize(
    image: &[f64],
    shape: &[usize],
    new_shape: &[usize],
    order: Order,
    smooth_first: bool,
) -> Result<Vec<f64>> {
    let grid = Grid::new("resize", image, shape)?;
    let new = Grid::of_shape("resize", new_shape)?;
    if new.rank != grid.rank {
        let expected = format!("{} axes, as the image has", grid.rank);
        return Err(Error::shape("resize", expected, format!("shape {new_shape:?}")));
    }
    let mut resized = if smooth_first {
        let sigma = [0, 1, 2].map(|a| {
            let factor = grid.dims[a] as f64 / new.dims[a] as f64;
            ((factor - 1.0) / 2.0).max(0.0)
        });
        let smoothed = smooth(image, &grid, sigma, Border::Nearest);
        interpolate(&smoothed, grid.dims, new.dims, order)
    } else {
        interpolate(image, grid.dims, new.dims, order)
    };
    clip(&mut resized, image);
    Ok(resized)
}

/// `image` on a grid of `new_shape` between the same corner samples, by a cubic spline: of `m` samples
/// along an axis that had `n`, sample `i` lies at `i·(n - 1)/(m - 1)` of the old ones
/// (`scipy.ndimage.zoom` of order 3, without the zeros that it puts where rounding leaves the image).
///
/// # Errors
/// Shapes that do not fit, or a value that is not finite.
pub fn zoom(image: &[f64], shape: &[usize], new_shape: &[usize]) -> Result<Vec<f64>> {
    let grid = Grid::new("zoom", image, shape)?;
    let new = Grid::of_shape("zoom", new_shape)?;
    if new.rank != grid.rank {
        let expected = format!("{} axes, as the image has", grid.rank);
        return Err(Error::shape("zoom", expected, format!("shape {new_shape:?}")));
    }
    Ok(along_axes(image, grid.dims, new.dims, zoom_lines))
}

/// The shape that a volume of `shape` with voxels of `from` takes with voxels of `to`: rounded,
/// halves to even, at least one voxel.
pub fn spacing_shape(shape: [usize; 3], from: [f64; 3], to: [f64; 3]) -> [usize; 3] {
    [0, 1, 2].map(|a| (from[a] / to[a] * shape[a] as f64).round_ties_even().max(1.0) as usize)
}

/// `volume` with voxels of `from` millimetres on a grid with voxels of `to` millimetres, and the
/// new shape. Cubic; but when one side of the voxel is more than three times another, slices
/// across the longest side are resized one by one and the nearest of them taken.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a spacing that is not positive.
pub fn resample_spacing(
    volume: &[f64],
    shape: [usize; 3],
    from: [f64; 3],
    to: [f64; 3],
) -> Result<(Vec<f64>, [usize; 3])> {
    let grid = Grid::new("resample_spacing", volume, &shape)?;
    for (key, spacing) in [("from", from), ("to", to)] {
        if spacing.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
            let problem = format!("`{key}` must be above 0 mm on every axis, got {spacing:?}");
            return Err(Error::parameter("resample_spacing", problem));
        }
    }
    let new = spacing_shape(shape, from, to);
    if new.iter().try_fold(1usize, |size, n| size.checked_mul(*n)).is_none_or(|n| n > 1 << 40) {
        let problem = format!("`to` of {to:?} mm would make a volume of {new:?} voxels");
        return Err(Error::parameter("resample_spacing", problem));
    }
    let coarse = (1..3).fold(0, |longest, a| if from[a] > from[longest] { a } else { longest });
    let finest = from.iter().copied().fold(f64::INFINITY, f64::min);
    if from[coarse] / finest <= ANISOTROPY {
        let mut resized = interpolate(volume, grid.dims, new, Order::Cubic);
        clip(&mut resized, volume);
        return Ok((resized, new));
    }
    let mut in_plane = new;
    in_plane[coarse] = shape[coarse];
    let mut slices = interpolate(volume, shape, in_plane, Order::Cubic);
    clip_slices(&mut slices, in_plane, volume, shape, coarse);
    Ok((interpolate(&slices, in_plane, new, Order::Nearest), new))
}

/// Limits `values` to the range of `source`.
fn clip(values: &mut [f64], source: &[f64]) {
    let low = source.iter().copied().fold(f64::INFINITY, f64::min);
    let high = source.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter_mut().for_each(|v| *v = v.clamp(low, high));
}

/// Limits each slice across `axis` to the range of the slice of `source` it comes from.
fn clip_slices(
    values: &mut [f64],
    dims: [usize; 3],
    source: &[f64],
    source_dims: [usize; 3],
    axis: usize,
) {
    let slice_of =
        |i: usize, dims: [usize; 3]| i / dims[axis + 1..].iter().product::<usize>() % dims[axis];
    let mut range = vec![(f64::INFINITY, f64::NEG_INFINITY); dims[axis]];
    for (i, v) in source.iter().enumerate() {
        let (low, high) = &mut range[slice_of(i, source_dims)];
        *low = low.min(*v);
        *high = high.max(*v);
    }
    for (i, v) in values.iter_mut().enumerate() {
        let (low, high) = range[slice_of(i, dims)];
        *v = v.clamp(low, high);
    }
}

fn interpolate(image: &[f64], dims: [usize; 3], new: [usize; 3], order: Order) -> Vec<f64> {
    along_axes(image, dims, new, |lines, n, m| interpolate_lines(lines, n, m, order))
}

/// Interpolates along one axis after the other. Each pass treats the last axis and moves it to the
/// front, so that after three passes the order is the old one.
fn along_axes(
    image: &[f64],
    dims: [usize; 3],
    new: [usize; 3],
    lines: impl Fn(&[f64], usize, usize) -> Vec<f64>,
) -> Vec<f64> {
    let mut values = image.to_vec();
    for axis in (0..3).rev() {
        let (n, m) = (dims[axis], new[axis]);
        if n != m {
            values = lines(&values, n, m);
        }
        values = transpose(&values, m);
    }
    values
}

/// Interpolates each line of `n` samples at `m` places.
fn interpolate_lines(lines: &[f64], n: usize, m: usize, order: Order) -> Vec<f64> {
    let margin = if order == Order::Cubic { SPLINE_MARGIN } else { 1 };
    let places: Vec<(usize, [f64; 4])> = (0..m).map(|i| place(i, n, m, order, margin)).collect();
    let mut out = vec![0.0; lines.len() / n * m];
    out.par_chunks_mut(m).zip(lines.par_chunks(n)).for_each_init(
        || vec![0.0; n + 2 * margin],
        |padded, (out, line)| {
            padded[..margin].fill(line[0]);
            padded[margin..margin + n].copy_from_slice(line);
            padded[margin + n..].fill(line[n - 1]);
            if order == Order::Cubic {
                spline_coefficients(padded);
            }
            for (out, (first, weights)) in out.iter_mut().zip(&places) {
                *out = match order {
                    Order::Nearest => padded[*first],
                    Order::Linear => weights[0] * padded[*first] + weights[1] * padded[first + 1],
                    Order::Cubic => (0..4).map(|k| weights[k] * padded[first + k]).sum(),
                };
            }
        },
    );
    out
}

/// First sample of a padded line, and weights, that output `i` of `m` is made of.
fn place(i: usize, n: usize, m: usize, order: Order, margin: usize) -> (usize, [f64; 4]) {
    let at = (i as f64 + 0.5) * (n as f64 / m as f64) - 0.5;
    let below = at.floor();
    let t = at - below;
    let first = (below as isize + margin as isize) as usize;
    match order {
        Order::Nearest => (((at + 0.5).floor() as usize).min(n - 1) + margin, [1.0, 0.0, 0.0, 0.0]),
        Order::Linear => (first, [1.0 - t, t, 0.0, 0.0]),
        Order::Cubic => (first - 1, cubic(t)),
    }
}

/// Weights of four neighbouring coefficients at a part `t` of the way from the second to the third.
fn cubic(t: f64) -> [f64; 4] {
    let u = 1.0 - t;
    let near = |t: f64| (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0;
    [u * u * u / 6.0, near(t), near(u), t * t * t / 6.0]
}

/// The cubic spline through each line of `n` samples, mirrored about the first and the last, at `m`
/// places from the first to the last.
fn zoom_lines(lines: &[f64], n: usize, m: usize) -> Vec<f64> {
    let places: Vec<(usize, [f64; 4])> = (0..m)
        .map(|i| {
            let at = (i * (n - 1)) as f64 / (m - 1).max(1) as f64;
            let below = (at as usize).min(n.saturating_sub(2));
            (below, cubic(at - below as f64))
        })
        .collect();
    // (c[k-1] + 4 c[k] + c[k+1]) / 6 is sample k: the right diagonal once the left one is eliminated
    let left = |k: usize| if k + 1 == n { 2.0 } else { 1.0 };
    let mut right = vec![0.5; n];
    for k in 1..n {
        right[k] = 1.0 / (4.0 - left(k) * right[k - 1]);
    }
    let mut out = vec![0.0; lines.len() / n * m];
    out.par_chunks_mut(m).zip(lines.par_chunks(n)).for_each_init(
        || vec![0.0; n + 2],
        |c, (out, line)| {
            if n == 1 {
                out.fill(line[0]);
                return;
            }
            // one coefficient is mirrored before the first and after the last
            c[1] = 1.5 * line[0];
            for k in 1..n {
                let pivot = 4.0 - left(k) * right[k - 1];
                c[k + 1] = (6.0 * line[k] - left(k) * c[k]) / pivot;
            }
            for k in (0..n - 1).rev() {
                c[k + 1] -= right[k] * c[k + 2];
            }
            (c[0], c[n + 1]) = (c[2], c[n - 1]);
            for (out, (first, weights)) in out.iter_mut().zip(&places) {
                *out = (0..4).map(|k| weights[k] * c[first + k]).sum();
            }
        },
    );
    out
}

/// Turns samples into the coefficients of the cubic spline through them, mirrored at the edges.
fn spline_coefficients(c: &mut [f64]) {
    let z = 3f64.sqrt() - 2.0;
    let n = c.len();
    c.iter_mut().for_each(|c| *c *= 6.0);

    let z_n = z.powi(n as i32);
    let first = c[0];
    let mut start = first + z_n * c[n - 1];
    let mut z_i = z;
    for i in 1..n {
        start += z_i * (c[i] + z_n * c[n - 1 - i]);
        z_i *= z;
    }
    c[0] = first + start * z / (1.0 - z_n * z_n);
    for i in 1..n {
        c[i] += z * c[i - 1];
    }
    c[n - 1] *= z / (z - 1.0);
    for i in (0..n - 1).rev() {
        c[i] = z * (c[i + 1] - c[i]);
    }
}

/// Turns lines of `n` values into columns.
fn transpose(values: &[f64], n: usize) -> Vec<f64> {
    let lines = values.len() / n;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(lines).enumerate().for_each(|(i, out)| {
        for (line, out) in out.iter_mut().enumerate() {
            *out = values[line * n + i];
        }
    });
    out
}
