//! Checks of operands that several operations share.

use crate::{Error, Result};
use candle_core::Tensor;

/// Batch, channels and the one to three spatial sizes of an image tensor.
///
/// # Errors
/// [`Error::Shape`] for any other rank.
pub(crate) fn image<'a>(op: &'static str, x: &'a Tensor) -> Result<(usize, usize, &'a [usize])> {
    match x.dims() {
        [n, c, spatial @ ..] if (1..=3).contains(&spatial.len()) => Ok((*n, *c, spatial)),
        other => Err(Error::shape(op, "x [N, C, s..] with 1 to 3 spatial sizes", other)),
    }
}

/// Checks that a list has one entry per spatial dimension.
///
/// # Errors
/// [`Error::Argument`] if not.
pub(crate) fn one_per_dim(op: &'static str, name: &str, len: usize, rank: usize) -> Result<()> {
    if len == rank {
        return Ok(());
    }
    let message = format!(
        "`{name}` has {len} entries, but the tensor has {rank} spatial dimensions; give one for each"
    );
    Err(Error::Argument { op, message })
}

/// Checks that an operand, if there is one, has the given shape.
///
/// # Errors
/// [`Error::Shape`] if not.
pub(crate) fn shape_of(
    op: &'static str,
    name: &str,
    t: Option<&Tensor>,
    dims: &[usize],
) -> Result<()> {
    match t {
        Some(t) if t.dims() != dims => {
            Err(Error::shape(op, format!("{name} of shape {dims:?}"), t.dims()))
        }
        _ => Ok(()),
    }
}
