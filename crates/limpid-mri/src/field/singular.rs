//! Singular vectors of the phase matrix on quantised voxels and times.

use super::nodes::Nodes;
use super::phase::FieldPhase;
use crate::Complex;
use nalgebra::{DMatrix, Dyn, SVD};

/// The singular value decomposition of the phase matrix of nodes, each counted by its weight.
pub(super) fn decompose(
    phase: &FieldPhase,
    space: &Nodes,
    time: &Nodes,
    vectors: bool,
) -> SVD<Complex<f64>, Dyn, Dyn> {
    let value = |r: usize, t: usize| {
        let weight = (space.weights[r] * time.weights[t]).sqrt();
        phase.factor(space.point(r), time.point(t)) * weight
    };
    DMatrix::from_fn(space.len(), time.len(), value).svd(vectors, vectors)
}
