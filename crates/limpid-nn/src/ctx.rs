//! What a forward pass needs to know besides its input: train or eval, and its random numbers.

use crate::Result;
use candle_core::Tensor;
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Context of one forward pass. Nothing is global: two passes with equal contexts are equal.
#[derive(Debug)]
pub struct Ctx {
    train: bool,
    stream: Stream,
    sites: Arc<AtomicU64>,
    recompute: bool,
    /// How many blocks are to be recomputed.
    blocks: AtomicU64,
}

impl Ctx {
    /// Evaluation: running statistics are used, dropout does nothing.
    #[must_use]
    pub fn eval() -> Self {
        Self { train: false, ..Self::train(Stream::new(0, "eval")) }
    }

    /// Training: batch statistics are used and updated, dropout draws from `stream`.
    #[must_use]
    pub fn train(stream: Stream) -> Self {
        Self {
            train: true,
            stream,
            sites: Arc::default(),
            recompute: false,
            blocks: AtomicU64::new(0),
        }
    }

    /// The same pass, with [`Ctx::block`] keeping the inputs of blocks only, or all they compute.
    #[must_use]
    pub fn recomputing(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// One block of a network: `f` of the inputs. Where blocks are recomputed it runs a second time
    /// in the backward pass, with the same random numbers, and keeps nothing until then.
    ///
    /// # Errors
    /// Whatever `f` returns.
    pub fn block(
        &self,
        inputs: &[&Tensor],
        f: impl Fn(&[Tensor], &Ctx) -> Result<Tensor> + 'static,
    ) -> Result<Tensor> {
        if !(self.train && self.recompute) {
            let inputs: Vec<Tensor> = inputs.iter().map(|&t| t.clone()).collect();
            return f(&inputs, self);
        }
        self.blocks.fetch_add(1, Ordering::Relaxed);
        let (stream, sites) = (self.stream, self.sites.clone());
        let first = self.sites.load(Ordering::Relaxed);
        autograd::recompute(inputs, move |inputs| {
            let again = autograd::is_again();
            let sites = if again { Arc::new(AtomicU64::new(first)) } else { sites.clone() };
            f(inputs, &Ctx { sites, ..Ctx::train(stream) })
        })
    }

    /// How many blocks of this pass will be recomputed.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Whether this is a training pass.
    #[must_use]
    pub fn is_train(&self) -> bool {
        self.train
    }

    /// How many random sites have been reached.
    pub(crate) fn sites(&self) -> u64 {
        self.sites.load(Ordering::Relaxed)
    }

    /// Goes back, or on, to a number of random sites.
    pub(crate) fn set_sites(&self, sites: u64) {
        self.sites.store(sites, Ordering::Relaxed);
    }

    /// The stream of a random site.
    pub(crate) fn stream_at(&self, site: u64) -> Stream {
        self.stream.op(site)
    }

    /// The stream of the next random site; sites are numbered in the order they are reached.
    pub fn next_stream(&self) -> Stream {
        self.stream.op(self.sites.fetch_add(1, Ordering::Relaxed))
    }
}
