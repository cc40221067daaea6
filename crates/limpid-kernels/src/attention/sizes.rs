//! The sizes of an attention, checked, and how its bias spreads over the scores.

use super::NAME;
use crate::{Error, Result};
use candle_core::Tensor;

/// The sizes of `q [batch, queries, depth]`, `k [batch, keys, depth]`, `v [batch, keys, values]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub depth: usize,
    pub values: usize,
}

impl Sizes {
    pub(super) fn new(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        let shapes = (q.dims(), k.dims(), v.dims());
        let error = |expected: &str| Err(Error::shape(NAME, expected, shapes));
        let ([ql @ .., queries, depth], [kl @ .., keys, d], [vl @ .., m, values]) = shapes else {
            return error("q [.., L, D], k [.., M, D], v [.., M, E]");
        };
        if ql != kl || ql != vl {
            return error("q, k and v with the same leading dimensions");
        }
        if depth != d {
            return error("q and k with the same last dimension");
        }
        if keys != m {
            return error("k and v with as many rows as each other");
        }
        if [*keys, *depth, *values].contains(&0) {
            return error("k and v that are not empty");
        }
        Ok(Self {
            batch: ql.iter().product(),
            queries: *queries,
            keys: *keys,
            depth: *depth,
            values: *values,
        })
    }
}

/// Where the bias of a score lies in the data of a broadcast bias.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    /// Size and stride of each leading dimension; the stride is 0 where the bias is broadcast.
    pub leading: Vec<[usize; 2]>,
    /// From a row to the next; 0 if all rows are the same.
    pub row: usize,
    /// From a column to the next; 0 if all columns are the same.
    pub column: usize,
    /// Number of elements of the bias.
    pub len: usize,
}

impl Broadcast {
    pub(super) fn new(dims: &[usize], leading: &[usize], sizes: &Sizes) -> Result<Self> {
        let full = [leading, &[sizes.queries, sizes.keys]].concat();
        let fits = dims.len() <= full.len()
            && dims.iter().rev().zip(full.iter().rev()).all(|(b, f)| *b == 1 || b == f);
        if !fits {
            return Err(Error::shape(NAME, format!("a bias that broadcasts to {full:?}"), dims));
        }
        // contiguous strides from the last dimension on, 0 where the bias is broadcast
        let mut strides = vec![0; full.len()];
        let mut len = 1;
        for (i, &size) in dims.iter().enumerate().rev() {
            strides[full.len() - dims.len() + i] = if size == 1 { 0 } else { len };
            len *= size;
        }
        let leading = leading.iter().zip(&strides).map(|(&size, &stride)| [size, stride]).collect();
        let (row, column) = (strides[full.len() - 2], strides[full.len() - 1]);
        Ok(Self { leading, row, column, len })
    }

    /// The first element of a batch index.
    pub(super) fn offset(&self, batch: usize) -> usize {
        let (mut rest, mut offset) = (batch, 0);
        for &[size, stride] in self.leading.iter().rev() {
            offset += rest % size * stride;
            rest /= size;
        }
        offset
    }
}
