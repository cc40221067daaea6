//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011).
//!
//! A [`Stream`] is a pure value made from a seed, a purpose, and where useful an epoch, a sample and
//! an operation. Element `i` of a stream is a function of `i` alone, so any thread may compute any
//! part, a resumed run draws what the uninterrupted one would have drawn, and a GPU can draw the
//! same numbers.

mod philox;
mod stream;

pub use philox::philox4x32;
pub use stream::{Draws, Stream};

#[cfg(test)]
mod tests;
