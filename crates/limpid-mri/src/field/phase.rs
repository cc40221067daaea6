//! The phase that fields leave in samples.

use super::nodes::Nodes;
use super::singular::decompose;
use crate::error::expect_len;
use crate::real::turn;
use crate::{Complex, Error, Result};

/// Which way a positive field turns samples. Sources disagree; a wrong one blurs twice as much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldSign {
    /// By `exp(−2πi b t)`, the convention of this crate.
    #[default]
    Negative,
    /// By `exp(+2πi b t)`.
    Positive,
}

/// Phase `exp(±2πi Σ_b φ_b(r) α_b(t))` of voxel `r` at time `t`.
#[derive(Clone, Debug)]
pub struct FieldPhase {
    bases: usize,
    /// `[voxels, bases]`
    spatial: Vec<f64>,
    /// `[times, bases]`
    temporal: Vec<f64>,
    /// Of each voxel.
    weights: Option<Vec<f64>>,
    sign: f64,
}

impl FieldPhase {
    /// The phase of a field map `b0` `[voxels]`, in hertz, at the `times` of samples, in seconds from the
    /// excitation or echo at which the field has left no phase.
    ///
    /// # Errors
    /// If one of them is empty or not finite.
    pub fn off_resonance(b0: &[f64], times: &[f64], sign: FieldSign) -> Result<Self> {
        Self::new(1, b0, times, sign)
    }

    /// The phase of `spatial` bases `[bases, voxels]` with the `temporal` coefficients `[bases, times]`; their
    /// products are in turns.
    ///
    /// # Errors
    /// If there is no basis, voxel or time, an array has no whole number of rows, or a value is not
    /// finite.
    pub fn new(bases: usize, spatial: &[f64], temporal: &[f64], sign: FieldSign) -> Result<Self> {
        const OP: &str = "field phase";
        for (what, values) in [("spatial bases", spatial), ("temporal coefficients", temporal)] {
            if bases == 0 || values.is_empty() || !values.len().is_multiple_of(bases) {
                let expected = format!("{what} in {bases} rows, none of them empty");
                return Err(Error::shape(OP, expected, format!("{} values", values.len())));
            }
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let problem = format!(
                    "value {at} of the {what} is {}; set fields to zero where they are not known",
                    values[at]
                );
                return Err(Error::value(OP, problem));
            }
        }
        let sign = if sign == FieldSign::Negative { -1.0 } else { 1.0 };
        let [spatial, temporal] = [spatial, temporal].map(|rows| columns_first(rows, bases));
        Ok(Self { bases, spatial, temporal, weights: None, sign })
    }

    /// Counts each voxel by its weight where the phase is approximated: a mask of the object, for one.
    ///
    /// # Errors
    /// If there is not one weight a voxel, one is negative or not finite, or all are zero.
    pub fn with_weights(mut self, weights: Vec<f64>) -> Result<Self> {
        const OP: &str = "field phase";
        expect_len(OP, "weights", &[self.voxels()], weights.len())?;
        if let Some(at) = weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
            let problem = format!("the weight of voxel {at} is {}", weights[at]);
            return Err(Error::value(OP, format!("{problem}; it must be finite and not negative")));
        }
        if weights.iter().all(|w| *w == 0.0) {
            return Err(Error::value(OP, "all weights are zero; is the mask empty?"));
        }
        self.weights = Some(weights);
        Ok(self)
    }

    /// Number of voxels.
    pub fn voxels(&self) -> usize {
        self.spatial.len() / self.bases
    }

    /// Number of times.
    pub fn times(&self) -> usize {
        self.temporal.len() / self.bases
    }

    /// Singular values of the phase matrix `[voxels, times]`, largest first: how fast they fall says how many
    /// segments a field needs. With more than `nodes` voxels or times, of so many that stand for all.
    ///
    /// # Errors
    /// If `nodes` is zero.
    pub fn singular_values(&self, nodes: usize) -> Result<Vec<f64>> {
        check_nodes(nodes)?;
        let [space, time] = [Nodes::few_voxels(self, nodes), Nodes::few_times(self, nodes)];
        Ok(decompose(self, &space, &time, false).singular_values.iter().copied().collect())
    }

    pub(super) fn bases(&self) -> usize {
        self.bases
    }

    /// `φ(r)`, for all voxels.
    pub(super) fn spatial(&self) -> &[f64] {
        &self.spatial
    }

    /// `α(t)`, for all times.
    pub(super) fn temporal(&self) -> &[f64] {
        &self.temporal
    }

    /// `φ(r)` of a voxel.
    pub(super) fn voxel(&self, voxel: usize) -> &[f64] {
        &self.spatial[voxel * self.bases..][..self.bases]
    }

    /// `α(t)` of a time.
    pub(super) fn time(&self, time: usize) -> &[f64] {
        &self.temporal[time * self.bases..][..self.bases]
    }

    pub(super) fn weight(&self, voxel: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[voxel])
    }

    /// The phase factor for `φ` and `α`.
    pub(super) fn factor(&self, phi: &[f64], alpha: &[f64]) -> Complex<f64> {
        let turns: f64 = phi.iter().zip(alpha).map(|(phi, alpha)| phi * alpha).sum();
        turn(self.sign * turns)
    }
}

pub(super) fn check_nodes(nodes: usize) -> Result<()> {
    if nodes == 0 {
        return Err(Error::value("field phase", "`nodes` must be above zero; 256 is usual"));
    }
    Ok(())
}

/// Rows `[bases, any]` as `[any, bases]`.
fn columns_first(rows: &[f64], bases: usize) -> Vec<f64> {
    let len = rows.len() / bases;
    (0..rows.len()).map(|i| rows[i % bases * len + i / bases]).collect()
}
