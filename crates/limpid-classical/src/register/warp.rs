//! Images seen through a map, by cubic convolution (Keys, "Cubic convolution interpolation for
//! digital image processing", IEEE TASSP 29, 1981, with a = -1/2).

use rayon::prelude::*;

use crate::border::Border;
use crate::error::{Error, Result};
use crate::grid::Grid;

/// Each pixel of the fixed grid from where its flow points: `image(p + flow(p))`. Also whether that
/// place lies within the image.
///
/// # Shapes
/// `image` and both parts of `flow` (down and right, in pixels) `[H, W]` → values and flags `[H, W]`
///
/// # Errors
/// Shapes that do not fit, or a value that is not finite.
pub fn warp(
    image: &[f64],
    shape: [usize; 2],
    flow: [&[f64]; 2],
    border: Border,
) -> Result<(Vec<f64>, Vec<bool>)> {
    for part in flow {
        Grid::new("warp", part, &shape)?;
    }
    let [down, right] = flow;
    let at = |y: usize, x: usize| {
        let i = y * shape[1] + x;
        [y as f64 + down[i], x as f64 + right[i]]
    };
    resample(image, shape, shape, at, border)
}

/// Each pixel of a grid of `out` rows and columns from where the affine map sends it:
/// `image(matrix [y, x, 1])`, in pixels. Also whether that place lies within the image.
///
/// # Errors
/// A shape that does not fit, an empty result, or a value that is not finite.
pub fn warp_affine(
    image: &[f64],
    shape: [usize; 2],
    out: [usize; 2],
    matrix: &[[f64; 3]; 2],
    border: Border,
) -> Result<(Vec<f64>, Vec<bool>)> {
    resample(image, shape, out, |y, x| apply_affine(matrix, y as f64, x as f64), border)
}

/// Each pixel of a grid of `out` rows and columns from where `at` (row, column) sends it. Also
/// whether that place lies within the image.
///
/// # Errors
/// A shape that does not fit, an empty result, or a value or place that is not finite.
pub fn resample(
    image: &[f64],
    shape: [usize; 2],
    out: [usize; 2],
    at: impl Fn(usize, usize) -> [f64; 2] + Sync,
    border: Border,
) -> Result<(Vec<f64>, Vec<bool>)> {
    Grid::new("resample", image, &shape)?;
    Grid::of_shape("resample", &out)?;
    let [rows, columns] = out;
    let mut values = vec![0.0; rows * columns];
    let mut inside = vec![false; rows * columns];
    let lines = values.par_chunks_mut(columns).zip(inside.par_chunks_mut(columns)).enumerate();
    lines.try_for_each(|(y, (values, inside))| {
        for (x, (value, inside)) in values.iter_mut().zip(inside).enumerate() {
            let place = at(y, x);
            // so far away that it cannot be counted in pixels
            if !place.iter().all(|p| p.abs() < 1e12) {
                let problem = format!("pixel [{y}, {x}] is sent to {place:?}");
                return Err(Error::parameter("resample", problem));
            }
            *inside = is_inside(place, shape);
            *value = cubic(image, shape, place, border);
        }
        Ok(())
    })?;
    Ok((values, inside))
}

/// The flow that leads back: `p + flow(p) = q` where `q + inverse(q) = p`. Beyond the edge the flow
/// goes on as at the edge.
///
/// It is the fixed point of `inverse(q) = -flow(q + inverse(q))`, which is reached where the flow
/// changes by less than a pixel from one pixel to the next.
///
/// # Shapes
/// Both parts (down and right, in pixels) `[H, W]`
///
/// # Errors
/// Shapes that do not fit, or a value that is not finite.
pub fn invert_flow(flow: [&[f64]; 2], shape: [usize; 2]) -> Result<[Vec<f64>; 2]> {
    const ROUNDS: usize = 30;
    const REST: f64 = 1e-6;
    for part in flow {
        Grid::new("invert_flow", part, &shape)?;
    }
    let [h, w] = shape;
    let at = |place: f64, n: usize| {
        let place = place.clamp(0.0, (n - 1) as f64);
        let before = (place as usize).min(n.saturating_sub(2));
        (before, (before + 1).min(n - 1), place - before as f64)
    };
    let linear = |y: f64, x: f64| {
        let ((top, below, v), (left, right, u)) = (at(y, h), at(x, w));
        flow.map(|part| {
            let between = |row: usize| {
                let (a, b) = (part[row * w + left], part[row * w + right]);
                a + u * (b - a)
            };
            let (above, below) = (between(top), between(below));
            above + v * (below - above)
        })
    };
    let (mut down, mut right) = (vec![0.0; h * w], vec![0.0; h * w]);
    let lines = down.par_chunks_mut(w).zip(right.par_chunks_mut(w)).enumerate();
    lines.for_each(|(y, (down, right))| {
        for (x, (down, right)) in down.iter_mut().zip(right).enumerate() {
            for _ in 0..ROUNDS {
                let [a, b] = linear(y as f64 + *down, x as f64 + *right).map(|v| 0.0 - v);
                let moved = (a - *down).hypot(b - *right);
                (*down, *right) = (a, b);
                if moved < REST {
                    break;
                }
            }
        }
    });
    Ok([down, right])
}

/// Where an affine map sends a place: `matrix [y, x, 1]`.
#[inline]
#[must_use]
pub fn apply_affine(matrix: &[[f64; 3]; 2], y: f64, x: f64) -> [f64; 2] {
    matrix.map(|[a, b, c]| a * y + b * x + c)
}

/// The affine map that leads back; `None` if the map flattens the image.
#[must_use]
pub fn invert_affine(matrix: &[[f64; 3]; 2]) -> Option<[[f64; 3]; 2]> {
    let [[a, b, c], [d, e, f]] = *matrix;
    let determinant = a * e - b * d;
    (determinant.abs() > 1e-6).then(|| {
        let inverse = [[e, -b, b * f - e * c], [-d, a, d * c - a * f]];
        inverse.map(|row| row.map(|v| v / determinant))
    })
}

/// Whether a place lies between the centres of the outermost pixels.
#[inline]
pub(super) fn is_inside(place: [f64; 2], shape: [usize; 2]) -> bool {
    (0..2).all(|a| place[a] >= 0.0 && place[a] <= (shape[a] - 1) as f64)
}

/// The value at a finite place.
#[inline]
pub(super) fn cubic(image: &[f64], [h, w]: [usize; 2], [y, x]: [f64; 2], border: Border) -> f64 {
    let (top, left) = (y.floor(), x.floor());
    let (vertical, horizontal) = (weights(y - top), weights(x - left));
    let (top, left) = (top as isize - 1, left as isize - 1);
    let dot = |row: &[f64]| -> f64 { row.iter().zip(&horizontal).map(|(v, w)| v * w).sum() };
    if top >= 0 && left >= 0 && top as usize + 4 <= h && left as usize + 4 <= w {
        let first = top as usize * w + left as usize;
        return (0..4).map(|r| vertical[r] * dot(&image[first + r * w..][..4])).sum();
    }
    let columns = [0, 1, 2, 3].map(|c| border.index(left + c, w));
    let row = |r: isize| {
        let r = border.index(top + r, h);
        let pixel = |c: Option<usize>| r.zip(c).map_or(border.outside(), |(r, c)| image[r * w + c]);
        dot(&columns.map(pixel))
    };
    (0..4).map(|r| vertical[r as usize] * row(r)).sum()
}

/// The parts of the pixels at -1, 0, 1 and 2 in the value at `t` of 0 to 1.
#[inline]
fn weights(t: f64) -> [f64; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [
        0.5 * (2.0 * t2 - t - t3),
        0.5 * (3.0 * t3 - 5.0 * t2 + 2.0),
        0.5 * (t + 4.0 * t2 - 3.0 * t3),
        0.5 * (t3 - t2),
    ]
}
