//! Tensor operations that candle lacks or cannot differentiate, and the random numbers of Limpid.
//!
//! Every operation is a free function in a folder of its own: `mod.rs` (the public function, its
//! checks and its gradient), the arithmetic beside it, `tests.rs`. Operations are rank-generic
//! (1-D, 2-D, 3-D through one path), work in f32 and f64 (on a GPU also in numbers of 16 bits), and give the same
//! bits for any number of threads. What they share: `op.rs` (what an operation has to say to be differentiable),
//! `buffer.rs` and `planes.rs` (parallel loops cut at fixed places), `parts.rs` (images whose channels lie
//! apart), `math.rs`, `simd.rs`.
//!
//! Invariants: this crate knows no parameters, files or configuration.

pub mod autograd;
mod buffer;
mod cast;
mod check;
mod determinism;
mod element;
mod error;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod gradcheck;
mod interleave;
#[cfg(feature = "cuda")]
pub mod loss;
mod math;
mod matrix;
pub mod memory;
mod op;
mod order;
mod output;
mod parts;
mod planes;
mod prefetch;
pub mod recording;
pub mod rng;
mod simd;
pub mod step;
#[cfg(test)]
mod threads;
pub mod upload;

mod activation;
mod algebra;
mod attention;
mod conv;
mod dropout;
mod norm;
mod pad;
mod pool;
mod resize;
mod separable;
mod shuffle;
mod softmax;

pub use activation::{
    Activation, abs, elu, gelu, gelu_tanh, leaky_relu, mish, prelu, relu, sigmoid, silu, softplus,
    tanh,
};
pub use algebra::{
    add, add_to_channels, cat, complex_product, linear, matmul, matmul_transposed, narrow, permute,
    reshape, scale, scale_channels, with_waves,
};
pub use attention::attention;
pub use autograd::second_derivatives;
pub use cast::{cast, in_half, widened};
pub use conv::{
    ConvAlgorithm, ConvSpec, ConvTransposeSpec, conv, conv_cat, conv_transpose, conv_transpose_cat,
    set_conv_algorithm,
};
pub use determinism::set_deterministic;
pub use dropout::{dropout, dropout_channels};
pub use error::{Error, Result, first_line};
pub use matrix::{Precision, precision, set_precision};
pub use norm::{
    batch_norm_eval, batch_norm_eval_act, batch_norm_train, batch_norm_train_act, group_norm,
    group_norm_act, group_norm_act_cat, instance_norm, instance_norm_act, layer_norm,
};
pub use pad::{Pad, pad};
pub use pool::{PoolSpec, adaptive_avg_pool, avg_pool, max_pool};
pub use resize::{Resize, resize, resize_by};
pub use shuffle::{pixel_shuffle, pixel_unshuffle};
pub use simd::{simd_level, vectorised};
pub use softmax::{log_softmax, softmax};
pub use step::{all_finite, sum_squares};
