//! Linear maps along one spatial dimension after the other: what resizing, padding and average
//! pooling are made of.
//!
//! An [`AxisMap`] is a sparse matrix that takes one dimension to another. The gradient of such an
//! operation is the same operation with transposed matrices, so it is exact, and differentiable
//! again.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
mod run;
#[cfg(test)]
mod tests;

use crate::cast::InHalf;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use crate::order::Order;
use crate::{Error, Result};
use candle_core::{Shape, Tensor};

/// The most pixels in one dimension, so that a map fits in memory.
pub(crate) const LONGEST: usize = 1 << 24;

/// A linear map of one dimension, as a sparse matrix in rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AxisMap {
    inputs: usize,
    /// Where each row starts in the two vectors below, and where the last one ends.
    starts: Vec<usize>,
    index: Vec<usize>,
    weight: Vec<f64>,
}

impl AxisMap {
    /// The map from `inputs` elements whose row `i`, for each of `outputs` rows, holds the taps
    /// (input, weight) that `row(i)` yields. Inputs are below `inputs`.
    pub(crate) fn new<R: IntoIterator<Item = (usize, f64)>>(
        inputs: usize,
        outputs: usize,
        row: impl Fn(usize) -> R,
    ) -> Self {
        let mut map = Self { inputs, starts: vec![0], index: Vec::new(), weight: Vec::new() };
        for i in 0..outputs {
            for (index, weight) in row(i) {
                map.index.push(index);
                map.weight.push(weight);
            }
            map.starts.push(map.index.len());
        }
        map
    }

    fn outputs(&self) -> usize {
        self.starts.len() - 1
    }

    fn taps(&self, i: usize) -> impl Iterator<Item = (usize, f64)> {
        let range = self.starts[i]..self.starts[i + 1];
        range.map(|t| (self.index[t], self.weight[t]))
    }

    fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.inputs];
        for i in 0..self.outputs() {
            for (index, weight) in self.taps(i) {
                rows[index].push((i, weight));
            }
        }
        Self::new(self.outputs(), self.inputs, |i| rows[i].iter().copied())
    }

    /// The most inputs of a row.
    fn most_taps(&self) -> usize {
        self.starts.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0)
    }

    fn is_identity(&self) -> bool {
        self.inputs == self.outputs()
            && self.starts.windows(2).all(|s| s[1] - s[0] == 1)
            && self.weight.iter().all(|&w| w == 1.0)
            && self.index.is_sorted_by(|a, b| a < b)
    }
}

/// Applies one map per trailing dimension of `x`. An output without any tap is `rest`.
///
/// # Errors
/// [`Error::Shape`] unless `x` is f32 or f64 and its trailing sizes are those of the maps.
pub(crate) fn apply_maps(
    op: &'static str,
    x: &Tensor,
    maps: Vec<AxisMap>,
    rest: f64,
) -> Result<Tensor> {
    let inputs: Vec<usize> = maps.iter().map(|m| m.inputs).collect();
    if !x.dims().ends_with(&inputs) {
        return Err(Error::shape(op, format!("trailing sizes {inputs:?}"), x.dims()));
    }
    crate::op::check_dtypes(op, &[x])?;
    if maps.iter().all(AxisMap::is_identity) {
        return Ok(x.clone());
    }
    apply(Separable { name: op, maps, rest }, &[x])
}

struct Separable {
    name: &'static str,
    maps: Vec<AxisMap>,
    rest: f64,
}

impl Op for Separable {
    const READS_ARGS: bool = false;
    const IN_HALF: InHalf = InHalf::Common;

    fn name(&self) -> &'static str {
        self.name
    }

    fn order(&self, args: &[&Tensor]) -> Order {
        // with channels last these are a dimension more, of three
        let spatial = args[0].rank().saturating_sub(2);
        if self.maps.len() == spatial && spatial < 3 { Order::AsGiven } else { Order::First }
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (data, dims) = cpu::forward(self.name, &self.maps, self.rest, args[0])?;
        Ok((data, dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        cuda::run(self, gpu, &args[0])
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let maps = self.maps.iter().map(AxisMap::transposed).collect();
        let op = Separable { name: self.name, maps, rest: 0.0 };
        Ok(vec![Some(apply(op, &[&at.grad])?)])
    }
}
