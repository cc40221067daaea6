//! Padding of the spatial dimensions, as `torch.nn.functional.pad`.
//!
//! A row of the sparse matrix of a dimension picks one pixel or, where a constant goes, none; see
//! [`crate::separable`].

#[cfg(test)]
mod tests;

use crate::check::{image, one_per_dim};
use crate::separable::{AxisMap, LONGEST, apply_maps};
use crate::{Error, Result};
use candle_core::Tensor;

const NAME: &str = "pad";

/// What the added pixels hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pad {
    /// Zeros.
    Zero,
    /// One value.
    Constant(f64),
    /// The image mirrored about the centre of its border pixels, which are not repeated.
    Reflect,
    /// The border pixels.
    Replicate,
}

/// Adds pixels before and after each spatial dimension.
///
/// # Shapes
/// `x [N, C, s..]`, one pair per spatial dimension in the order of the tensor (PyTorch's list is the
/// other way round) → `[N, C, before + s + after..]`.
///
/// # Errors
/// [`Error::Shape`] for another rank or dtype, and if [`Pad::Reflect`] or [`Pad::Replicate`] find
/// not enough pixels; [`Error::Argument`] if there is not one pair per dimension.
pub fn pad(x: &Tensor, amounts: &[(usize, usize)], mode: Pad) -> Result<Tensor> {
    let (_, _, spatial) = image(NAME, x)?;
    one_per_dim(NAME, "amounts", amounts.len(), spatial.len())?;
    let mut maps = Vec::with_capacity(spatial.len());
    for (d, (&n, &(before, after))) in spatial.iter().zip(amounts).enumerate() {
        let needed = match mode {
            Pad::Zero | Pad::Constant(_) => 0,
            Pad::Reflect if before.max(after) > 0 => before.max(after).saturating_add(1),
            Pad::Reflect => 0,
            Pad::Replicate => 1,
        };
        if n < needed {
            let expected = format!(
                "at least {needed} pixels in spatial dimension {d} for {mode:?}; pad less or \
                 with zeros"
            );
            return Err(Error::shape(NAME, expected, x.dims()));
        }
        let outputs = n.checked_add(before).and_then(|m| m.checked_add(after));
        let Some(outputs) = outputs.filter(|&m| m <= LONGEST) else {
            let message = format!(
                "padding by ({before}, {after}) makes a dimension longer than {LONGEST} pixels"
            );
            return Err(Error::Argument { op: NAME, message });
        };
        maps.push(AxisMap::new(n, outputs, |i| {
            source(i as isize - before as isize, n as isize, mode).map(|j| (j as usize, 1.0))
        }));
    }
    apply_maps(NAME, x, maps, if let Pad::Constant(value) = mode { value } else { 0.0 })
}

/// The pixel that position `i` of an image of `n` pixels shows, if any.
fn source(i: isize, n: isize, mode: Pad) -> Option<isize> {
    if (0..n).contains(&i) {
        return Some(i);
    }
    match mode {
        Pad::Zero | Pad::Constant(_) => None,
        Pad::Reflect => Some(if i < 0 { -i } else { 2 * (n - 1) - i }),
        Pad::Replicate => Some(i.clamp(0, n - 1)),
    }
}
