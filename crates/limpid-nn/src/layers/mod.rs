//! Layers: a struct with its parameters and a `forward`, rank-generic where space is involved.
//!
//! Parameter names are PyTorch's (`weight`, `bias`, `running_mean` …).

mod activation;
mod conv;
mod linear;
mod norm;

pub use activation::{Activation, ActivationConfig, PRelu};
pub use conv::{Conv, ConvTranspose, same_padding};
pub use linear::Linear;
pub use norm::{BatchNorm, GroupNorm, LayerNorm, Norm, NormConfig};
