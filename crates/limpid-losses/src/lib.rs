//! Training objectives, image-quality metrics and statistics.
//!
//! * [`losses`]: differentiable functions of candle tensors, and the configuration that combines
//!   them into one objective;
//! * [`metrics`]: scores of a finished image against a reference, on plain slices in f64;
//! * [`stats`]: what a table of scores proves: paired tests, agreement, corrections.
//!
//! Losses and metrics of the same name share their arithmetic, so a network trained for a score is
//! trained for the score that is reported. Every sum runs over fixed blocks in f64: the same bits
//! come out for any number of threads.
//!
//! Invariants: this crate knows no training loops, files or networks.

mod fft;
mod filter;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod losses;
pub mod metrics;
pub mod stats;
mod sum;

#[cfg(test)]
mod fixture;
