//! Proximal maps of the penalties of iterative reconstruction: sparse wavelet coefficients, little variation,
//! locally low rank.
//!
//! All take complex images `[images, dims…]`. Maps that treat places unevenly, wavelets and blocks, can be
//! shifted anew each time they are applied ([`Shift`]), which averages the unevenness out.

mod low_rank;
mod shift;
#[cfg(test)]
mod tests;
mod total_variation;
mod wavelet;
mod wavelet_filter;

pub use low_rank::LocallyLowRank;
pub use shift::Shift;
pub use total_variation::TotalVariation;
pub use wavelet::{WaveletThreshold, WaveletTransform};
pub use wavelet_filter::Wavelet;

use crate::{Complex, Error, Real, Result};

/// A penalty by its proximal map.
pub trait Prox<T: Real> {
    /// Complex numbers of what it is applied to.
    fn domain(&self) -> usize;

    /// Replaces `x` by the `u` that makes `½‖u − x‖² + threshold · penalty(u)` least. It may use another
    /// shift each time, so it is not a function of `x` alone.
    ///
    /// # Panics
    /// If `x` has another length than [`Prox::domain`].
    fn apply(&mut self, x: &mut [Complex<T>], threshold: f64);
}

/// Refuses images `[images, dims…]` without voxels.
fn check_dims(op: &'static str, images: usize, dims: &[usize]) -> Result<()> {
    if images == 0 || dims.is_empty() || dims.contains(&0) {
        let got = format!("{images} images of {dims:?}");
        return Err(Error::shape(op, "one image or more, of sizes above zero", got));
    }
    Ok(())
}
