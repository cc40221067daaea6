//! What a forward pass needs to know besides its input: train or eval, and its random numbers.

use limpid_kernels::rng::Stream;
use std::sync::atomic::{AtomicU64, Ordering};

/// Context of one forward pass. Nothing is global: two passes with equal contexts are equal.
#[derive(Debug)]
pub struct Ctx {
    train: bool,
    stream: Stream,
    sites: AtomicU64,
}

impl Ctx {
    /// Evaluation: running statistics are used, dropout does nothing.
    #[must_use]
    pub fn eval() -> Self {
        Self { train: false, stream: Stream::new(0, "eval"), sites: AtomicU64::new(0) }
    }

    /// Training: batch statistics are used and updated, dropout draws from `stream`.
    #[must_use]
    pub fn train(stream: Stream) -> Self {
        Self { train: true, stream, sites: AtomicU64::new(0) }
    }

    /// Whether this is a training pass.
    #[must_use]
    pub fn is_train(&self) -> bool {
        self.train
    }

    /// The stream of the next random site; sites are numbered in the order they are reached.
    pub fn next_stream(&self) -> Stream {
        self.stream.op(self.sites.fetch_add(1, Ordering::Relaxed))
    }
}
