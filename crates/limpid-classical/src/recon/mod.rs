//! Tomography: projections of an image, and images from projections.
//!
//! [`Radon`] has the geometry of `skimage.transform.radon` and its exact adjoint; filtered
//! back-projection is that of `skimage.transform.iradon`. [`Osem`] reconstructs emission data from
//! anything that projects.

mod em;
mod fbp;
mod matrix;
mod radon;
#[cfg(test)]
mod tests;

pub use em::{Osem, Projector, mlem, osem};
pub use fbp::RampFilter;
pub use matrix::SystemMatrix;
pub use radon::Radon;

use crate::error::{Error, Result};

/// Refuses data of the wrong length or that are not finite.
fn check(filter: &'static str, what: &str, values: &[f64], expected: usize) -> Result<()> {
    if values.len() != expected {
        let got = format!("{} values", values.len());
        return Err(Error::shape(filter, format!("{what} of {expected} values"), got));
    }
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Error::NotFinite { filter, at: vec![i], value: values[i] }),
        None => Ok(()),
    }
}
