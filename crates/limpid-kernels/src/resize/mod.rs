//! Resizing by nearest neighbour, (bi-, tri-)linear or cubic interpolation.
//!
//! What `torch.nn.functional.interpolate` computes, to any size up or down; interpolation may be
//! antialiased, which stretches its kernel over the pixels that become one.
//! Positions are computed in the float type of the image, as PyTorch does, so that a position that
//! falls on the border between two pixels goes to the same side. Everything is a sparse matrix per
//! dimension; see [`crate::separable`].

#[cfg(test)]
mod tests;

use crate::check::{image, one_per_dim};
use crate::op::check_dtypes;
use crate::separable::{AxisMap, LONGEST, apply_maps};
use crate::{Error, Result};
use candle_core::{DType, Tensor};

const NAME: &str = "resize";

/// How values between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The pixel `floor(i * in / out)`: PyTorch's `nearest`.
    Nearest,
    /// Weighted mean of the neighbours: `linear`, `bilinear`, `trilinear`.
    Linear {
        /// Whether the centres of the corner pixels stay where they are, else the outer borders do.
        align_corners: bool,
    },
    /// Cubic convolution of four neighbours (Keys 1981, with a = -0.75): `bicubic`.
    Cubic {
        /// As of [`Resize::Linear`].
        align_corners: bool,
    },
    /// `Linear` with `antialias=True`.
    LinearSmoothed,
    /// `Cubic` with `antialias=True` (where PyTorch has a = -0.5).
    CubicSmoothed,
}

/// Resizes the spatial dimensions to `size`.
///
/// # Shapes
/// `x [N, C, s..]` → `[N, C, size..]`, one to three spatial dimensions.
///
/// # Errors
/// [`Error::Shape`] for another rank, dtype or an empty image; [`Error::Argument`] if `size` has a
/// zero or not one entry per dimension.
pub fn resize(x: &Tensor, size: &[usize], mode: Resize) -> Result<Tensor> {
    let (_, _, spatial) = image(NAME, x)?;
    one_per_dim(NAME, "size", size.len(), spatial.len())?;
    run(x, size, &vec![None; size.len()], mode)
}

/// Resizes the spatial dimensions by factors: to `floor(s * scale)`, with positions computed from
/// the factor itself, as PyTorch does when it is given `scale_factor`.
///
/// # Errors
/// As [`resize`]; [`Error::Argument`] if a factor is not positive.
pub fn resize_by(x: &Tensor, scale: &[f64], mode: Resize) -> Result<Tensor> {
    let (_, _, spatial) = image(NAME, x)?;
    one_per_dim(NAME, "scale", scale.len(), spatial.len())?;
    if let Some(bad) = scale.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        let message = format!("`scale` holds {bad}, but factors must be positive numbers");
        return Err(Error::Argument { op: NAME, message });
    }
    let size: Vec<usize> =
        spatial.iter().zip(scale).map(|(&n, s)| (n as f64 * s).floor() as usize).collect();
    let scale: Vec<Option<f64>> = scale.iter().copied().map(Some).collect();
    run(x, &size, &scale, mode)
}

fn run(x: &Tensor, size: &[usize], scale: &[Option<f64>], mode: Resize) -> Result<Tensor> {
    let (_, _, spatial) = image(NAME, x)?;
    check_dtypes(NAME, &[x])?;
    if spatial.contains(&0) {
        return Err(Error::shape(NAME, "an image with at least one pixel", x.dims()));
    }
    if size.iter().any(|n| !(1..=LONGEST).contains(n)) {
        let message =
            format!("cannot resize {spatial:?} to {size:?}: sizes must be 1 to {LONGEST}");
        return Err(Error::Argument { op: NAME, message });
    }
    let single = x.dtype() == DType::F32;
    let maps = (0..size.len())
        .map(|d| match mode {
            Resize::Nearest => nearest(spatial[d], size[d], scale[d]),
            Resize::Linear { align_corners } => {
                linear(spatial[d], size[d], scale[d], align_corners, single)
            }
            Resize::Cubic { align_corners } => cubic(spatial[d], size[d], scale[d], align_corners),
            Resize::LinearSmoothed => {
                smoothed(spatial[d], size[d], scale[d], 1.0, |t| (1.0 - t).max(0.0))
            }
            Resize::CubicSmoothed => {
                smoothed(spatial[d], size[d], scale[d], 2.0, |t| keys(t, -0.5))
            }
        })
        .collect();
    apply_maps(NAME, x, maps, 0.0)
}

/// Input pixels per output pixel.
fn pixel_ratio(inputs: usize, outputs: usize, scale: Option<f64>) -> f64 {
    scale.map_or(inputs as f64 / outputs as f64, |s| 1.0 / s)
}

fn nearest(inputs: usize, outputs: usize, scale: Option<f64>) -> AxisMap {
    // in f32 for every dtype, as in PyTorch
    let ratio = match scale {
        Some(s) => (1.0 / s) as f32,
        None => inputs as f32 / outputs as f32,
    };
    AxisMap::new(inputs, outputs, |i| {
        let source = if inputs == outputs { i } else { (i as f32 * ratio) as usize };
        [(source.min(inputs - 1), 1.0)]
    })
}

fn linear(
    inputs: usize,
    outputs: usize,
    scale: Option<f64>,
    align_corners: bool,
    single: bool,
) -> AxisMap {
    // rounding each f64 result to f32 gives exactly what f32 arithmetic gives
    let round = |v: f64| if single { f64::from(v as f32) } else { v };
    let ratio = round(match align_corners {
        true if outputs > 1 => (inputs - 1) as f64 / (outputs - 1) as f64,
        true => 0.0,
        false => pixel_ratio(inputs, outputs, scale),
    });
    AxisMap::new(inputs, outputs, |i| {
        let position = if inputs == outputs {
            i as f64
        } else if align_corners {
            round(ratio * i as f64)
        } else {
            round(round(ratio * (i as f64 + 0.5)) - 0.5).max(0.0)
        };
        let below = (position as usize).min(inputs - 1);
        let above = (below + 1).min(inputs - 1);
        let part = round(position - below as f64).clamp(0.0, 1.0);
        // taps of weight zero are left out: they would spread an infinity or NaN
        let taps = if above == below {
            [(below, 1.0), (above, 0.0)]
        } else {
            [(below, round(1.0 - part)), (above, part)]
        };
        taps.into_iter().filter(|tap| tap.1 != 0.0)
    })
}

/// Input pixels per step of the output, and the position of the first one.
fn grid(inputs: usize, outputs: usize, scale: Option<f64>, align_corners: bool) -> (f64, f64) {
    if !align_corners {
        let ratio = pixel_ratio(inputs, outputs, scale);
        return (ratio, 0.5 * ratio - 0.5);
    }
    let ratio = if outputs > 1 { (inputs - 1) as f64 / (outputs - 1) as f64 } else { 0.0 };
    (ratio, 0.0)
}

/// The kernel of cubic convolution at distance `t >= 0` (Keys, "Cubic convolution interpolation for
/// digital image processing", IEEE TASSP 29, 1981).
fn keys(t: f64, a: f64) -> f64 {
    if t < 1.0 {
        ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        a * (((t - 5.0) * t + 8.0) * t - 4.0)
    } else {
        0.0
    }
}

fn cubic(inputs: usize, outputs: usize, scale: Option<f64>, align_corners: bool) -> AxisMap {
    let (ratio, first) = grid(inputs, outputs, scale, align_corners);
    AxisMap::new(inputs, outputs, |i| {
        let position = if inputs == outputs { i as f64 } else { first + ratio * i as f64 };
        let below = position.floor();
        // beyond the edge lies the outermost pixel
        let tap = move |offset: i8| {
            let at = below + f64::from(offset);
            let weight = keys((position - at).abs(), -0.75);
            (at.clamp(0.0, (inputs - 1) as f64) as usize, weight)
        };
        (-1..=2).map(tap).filter(|tap| tap.1 != 0.0)
    })
}

/// The weighted mean of the pixels within `support` widths of the kernel, which is as wide as an
/// output pixel or, if that is wider, an input pixel.
fn smoothed(
    inputs: usize,
    outputs: usize,
    scale: Option<f64>,
    support: f64,
    kernel: impl Fn(f64) -> f64,
) -> AxisMap {
    let ratio = pixel_ratio(inputs, outputs, scale);
    let width = ratio.max(1.0);
    AxisMap::new(inputs, outputs, |i| {
        let center = ratio * (i as f64 + 0.5);
        let low = (center - support * width + 0.5).max(0.0) as usize;
        let high = ((center + support * width + 0.5) as usize).min(inputs);
        let weight = |j: usize| kernel(((j as f64 + 0.5 - center) / width).abs());
        let taps: Vec<(usize, f64)> = (low..high).map(|j| (j, weight(j))).collect();
        let sum: f64 = taps.iter().map(|tap| tap.1).sum();
        taps.into_iter().map(move |(j, w)| (j, w / sum)).filter(|tap| tap.1 != 0.0)
    })
}
