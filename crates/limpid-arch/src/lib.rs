//! Networks, one file each: header (paper, reference, shapes), `Config` with named presets, blocks,
//! net, tests.
//!
//! Parameter names equal the reference `state_dict`. A network is rank-generic where its reference
//! comes in 2-D and 3-D. [`NetworkConfig`] picks one by `kind`; [`recognise`] finds the
//! configuration that a checkpoint's keys and shapes belong to.
//!
//! Invariants: a network knows no loss, no data and no training loop.

pub mod basic_unet;
pub mod dncnn;
pub mod dynunet;
pub mod nucli_unet;
mod registry;

pub use registry::{KINDS, NetworkConfig, Recognised, recognise, reference_key};

use candle_core::Tensor;
use limpid_nn::{Ctx, Result};
use std::collections::BTreeMap;

/// A network that maps an image to an image of the same spatial size.
pub trait ImageToImage: Send + Sync {
    /// # Shapes
    /// `x [N, in, s…]` → `[N, out, s…]`; each spatial size a multiple of the configuration's
    /// divisor.
    ///
    /// # Errors
    /// [`limpid_nn::Error::Shape`] if `x` does not fit.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor>;
}

/// Shapes of a checkpoint by key.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Spatial rank of a convolution weight `[out, in, k…]` in a checkpoint.
fn rank_of(shapes: &Shapes, key: &str) -> Option<usize> {
    shapes.get(key).map(|s| s.len().saturating_sub(2)).filter(|r| (1..=3).contains(r))
}

/// The `axis`-th size of an entry of a checkpoint.
fn size_of(shapes: &Shapes, key: &str, axis: usize) -> Option<usize> {
    shapes.get(key)?.get(axis).copied()
}

#[cfg(test)]
mod golden;
