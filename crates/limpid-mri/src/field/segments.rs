//! Few products of a function of place and one of time, in place of the phase of a field.

use super::nodes::{Nodes, nearest};
use super::phase::{FieldPhase, check_nodes};
use super::singular::decompose;
use crate::real::{narrow, wide};
use crate::{Complex, Error, Real, Result};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use rayon::prelude::*;

/// Eigenvalues below this part of the largest are left out of an inverse.
const RELATIVE_CUT: f64 = 1e-10;

/// Values to which a phase is quantised at most: some of the methods take the square of it.
const MOST_NODES: usize = 1 << 14;

/// Singular values below this part of the largest are rounding.
const RELATIVE_NOISE: f64 = 1e-14;

/// How [`Segments`] are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldMethod {
    /// The phase at the centre of the segment in which a time lies. Cheap, and wrong between centres.
    ZeroOrder,
    /// The phases at the centres of all segments, in the proportions that fit best over the histogram of the
    /// field (Sutton et al., IEEE TMI 2003).
    #[default]
    LeastSquares,
    /// Singular vectors of the phase matrix: the fewest terms for an error (Fessler et al., IEEE TSP 2005).
    Svd,
}

/// A phase as `Σ_l b_l(r) h_l(t)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Segments<T> {
    terms: usize,
    /// `[terms, voxels]`
    spatial: Vec<Complex<T>>,
    /// `[terms, times]`
    temporal: Vec<Complex<T>>,
}

/// How far [`Segments`] are from the phase factors, which have magnitude one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldAccuracy {
    /// The largest distance.
    pub max: f64,
    /// The root of the mean squared distance, over weighted voxels and all times.
    pub rms: f64,
}

impl<T: Real> Segments<T> {
    /// Approximates a phase by `terms` products; those of the singular vectors are fewer if the phase has so
    /// low a rank. Several bases, and times and voxels beyond `nodes` (256 is usual), are quantised: one basis
    /// to bins of even width, several to clusters. What is quantised is only what the approximation is
    /// fitted to; its functions are those of each voxel and time.
    ///
    /// # Errors
    /// If `terms` is not 1 to `nodes`, or `nodes` above 16384.
    pub fn new(
        phase: &FieldPhase,
        terms: usize,
        method: FieldMethod,
        nodes: usize,
    ) -> Result<Self> {
        check_nodes(nodes)?;
        if nodes > MOST_NODES || !(1..=nodes).contains(&terms) {
            let problem = format!(
                "`terms` must be 1 to `nodes`, and those at most {MOST_NODES}: {terms} and {nodes}"
            );
            return Err(Error::value("field segments", problem));
        }
        Ok(match method {
            FieldMethod::ZeroOrder => Self::zero_order(phase, &centres(phase, terms)),
            FieldMethod::LeastSquares => Self::least_squares(phase, &centres(phase, terms), nodes),
            FieldMethod::Svd => Self::singular(phase, terms, nodes),
        })
    }

    /// Products of given functions, `[terms, voxels]` and `[terms, times]`.
    ///
    /// # Errors
    /// If there are no terms, or they have no whole number of voxels or times.
    pub fn from_parts(
        terms: usize,
        spatial: Vec<Complex<T>>,
        temporal: Vec<Complex<T>>,
    ) -> Result<Self> {
        for (what, len) in [("spatial", spatial.len()), ("temporal", temporal.len())] {
            if terms == 0 || len == 0 || !len.is_multiple_of(terms) {
                let expected = format!("{what} functions in {terms} rows, none of them empty");
                return Err(Error::shape("field segments", expected, format!("{len} values")));
            }
        }
        Ok(Self { terms, spatial, temporal })
    }

    /// Number of products.
    pub fn terms(&self) -> usize {
        self.terms
    }

    /// Number of voxels.
    pub fn voxels(&self) -> usize {
        self.spatial.len() / self.terms
    }

    /// Number of times.
    pub fn times(&self) -> usize {
        self.temporal.len() / self.terms
    }

    /// The functions of place, `[terms, voxels]`.
    pub fn spatial(&self) -> &[Complex<T>] {
        &self.spatial
    }

    /// The functions of time, `[terms, times]`.
    pub fn temporal(&self) -> &[Complex<T>] {
        &self.temporal
    }

    /// The distance from a phase at all times, over a voxel of each of at most `nodes` bins or clusters.
    ///
    /// # Errors
    /// If the phase is of other numbers of voxels or times, or `nodes` is zero.
    pub fn accuracy(&self, phase: &FieldPhase, nodes: usize) -> Result<FieldAccuracy> {
        check_nodes(nodes)?;
        let own = [self.voxels(), self.times()];
        if own != [phase.voxels(), phase.times()] {
            let got = format!("{} voxels and {} times", phase.voxels(), phase.times());
            let expected = format!("a phase of {} voxels and {} times", own[0], own[1]);
            return Err(Error::shape("field segments", expected, got));
        }
        let nodes = Nodes::few_voxels(phase, nodes);
        let squares = nodes.members.par_iter().map(|&voxel| {
            let spatial = |l: usize| wide(self.spatial[l * self.voxels() + voxel]);
            let spatial: Vec<_> = (0..self.terms).map(spatial).collect();
            let distance = |time: usize| {
                let term = |l: usize| spatial[l] * wide(self.temporal[l * self.times() + time]);
                let sum: Complex<f64> = (0..self.terms).map(term).sum();
                (sum - phase.factor(phase.voxel(voxel), phase.time(time))).norm_sqr()
            };
            let add = |(max, sum): (f64, f64), square: f64| (max.max(square), sum + square);
            (0..self.times()).map(distance).fold((0.0, 0.0), add)
        });
        let squares: Vec<(f64, f64)> = squares.collect();
        let max = squares.iter().fold(0.0, |max: f64, s| max.max(s.0)).sqrt();
        let total: f64 = nodes.weights.iter().sum::<f64>() * self.times() as f64;
        let sum: f64 = squares.iter().zip(&nodes.weights).map(|(s, w)| s.1 * w).sum();
        Ok(FieldAccuracy { max, rms: (sum / total).sqrt() })
    }

    fn zero_order(phase: &FieldPhase, centres: &[Vec<f64>]) -> Self {
        let scales = scales(phase);
        let scaled = |alpha: &[f64]| alpha.iter().zip(&scales).map(|(a, s)| a * s).collect();
        let scaled_centres: Vec<Vec<f64>> = centres.iter().map(|alpha| scaled(alpha)).collect();
        let temporal = table(centres.len(), phase.times(), |time, out| {
            let own: Vec<f64> = scaled(phase.time(time));
            out[nearest(&own, scaled_centres.iter().map(Vec::as_slice)).0] = Complex::from(1.0);
        });
        Self { terms: centres.len(), spatial: at_centres(phase, centres), temporal }
    }

    fn least_squares(phase: &FieldPhase, centres: &[Vec<f64>], nodes: usize) -> Self {
        let nodes = Nodes::voxels(phase, nodes);
        let value = |r: usize, l: usize| phase.factor(nodes.point(r), &centres[l]);
        let basis = DMatrix::from_fn(nodes.len(), centres.len(), value);
        let mut weighted = basis.adjoint();
        for (mut column, &weight) in weighted.column_iter_mut().zip(&nodes.weights) {
            column *= Complex::from(weight);
        }
        let inverse = pseudo_inverse(&weighted * &basis);
        let temporal = table(centres.len(), phase.times(), |time, out| {
            let alpha = phase.time(time);
            let exact = DVector::from_fn(nodes.len(), |r, _| phase.factor(nodes.point(r), alpha));
            let fit = &inverse * (&weighted * exact);
            out.copy_from_slice(fit.as_slice());
        });
        Self { terms: centres.len(), spatial: at_centres(phase, centres), temporal }
    }

    /// Singular functions at each voxel from those at the nodes of time, and the other way round.
    fn singular(phase: &FieldPhase, terms: usize, nodes: usize) -> Self {
        let (mut space, mut time) =
            (Nodes::few_voxels(phase, nodes), Nodes::few_times(phase, nodes));
        for nodes in [&mut space, &mut time] {
            // so that functions of time have magnitudes about one
            let total: f64 = nodes.weights.iter().sum();
            nodes.weights.iter_mut().for_each(|weight| *weight /= total);
        }
        let svd = decompose(phase, &space, &time, true);
        let values = svd.singular_values;
        let real = |value: &&f64| **value > RELATIVE_NOISE * values[0];
        let terms = values.iter().take(terms).take_while(real).count();
        let empty = || DMatrix::zeros(0, 0);
        let (left, right) = (svd.u.unwrap_or_else(empty), svd.v_t.unwrap_or_else(empty));
        let project = |nodes: &Nodes,
                       factor: &dyn Fn(&[f64]) -> Complex<f64>,
                       vector: &dyn Fn(usize, usize) -> Complex<f64>,
                       out: &mut [Complex<f64>]| {
            for node in 0..nodes.len() {
                let value = factor(nodes.point(node)) * nodes.weights[node].sqrt();
                for (l, out) in out.iter_mut().enumerate() {
                    *out += value * vector(node, l);
                }
            }
        };
        let spatial = table(terms, phase.voxels(), |voxel, out| {
            let phi = phase.voxel(voxel);
            let vector = |t: usize, l: usize| right[(l, t)].conj();
            project(&time, &|alpha| phase.factor(phi, alpha), &vector, out);
        });
        let temporal = table(terms, phase.times(), |at, out| {
            let alpha = phase.time(at);
            let vector = |r: usize, l: usize| left[(r, l)].conj() / values[l];
            project(&space, &|phi| phase.factor(phi, alpha), &vector, out);
        });
        Self { terms, spatial, temporal }
    }
}

/// `α` at the centre of each segment: of even parts of the range of times, or of clusters if there are several
/// bases.
fn centres(phase: &FieldPhase, terms: usize) -> Vec<Vec<f64>> {
    if phase.bases() > 1 {
        let clusters = Nodes::time_clusters(phase, terms);
        return (0..clusters.len()).map(|l| clusters.point(l).to_vec()).collect();
    }
    even_centres(phase.temporal(), terms).into_iter().map(|centre| vec![centre]).collect()
}

/// The centres of even parts of the range of times.
fn even_centres(times: &[f64], terms: usize) -> Vec<f64> {
    let ends = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = times.iter().fold(ends, |(low, high), t| (low.min(*t), high.max(*t)));
    let width = (high - low) / terms as f64;
    (0..terms).map(|l| low + width * (l as f64 + 0.5)).collect()
}

/// The largest magnitude of each of several spatial bases, in which times are compared.
fn scales(phase: &FieldPhase) -> Vec<f64> {
    if phase.bases() == 1 {
        return vec![1.0];
    }
    super::nodes::spread(phase.spatial(), phase.bases())
}

/// The centre of the segment of every time, of so many segments of even width: the time at which
/// [zero-order](FieldMethod::ZeroOrder) segments of an off-resonance take a sample to be taken. Samples that
/// [kernels](crate::ClosedForm::with_field) have moved to it are as these segments say.
///
/// # Errors
/// If there is no segment or no time, or a time is not finite.
pub fn segment_centres(times: &[f64], segments: usize) -> Result<Vec<f64>> {
    const OP: &str = "segment centres";
    if segments == 0 || times.is_empty() {
        let got = format!("{segments} segments of {} times", times.len());
        return Err(Error::shape(OP, "one segment and one time or more", got));
    }
    if let Some(at) = times.iter().position(|t| !t.is_finite()) {
        return Err(Error::value(OP, format!("time {at} is {}", times[at])));
    }
    let centres = even_centres(times, segments);
    let own = |time: &f64| centres[nearest(&[*time], centres.chunks(1)).0];
    Ok(times.iter().map(own).collect())
}

/// The phase of all voxels at each centre.
fn at_centres<T: Real>(phase: &FieldPhase, centres: &[Vec<f64>]) -> Vec<Complex<T>> {
    let voxels = phase.voxels();
    let mut out = vec![Complex::default(); centres.len() * voxels];
    out.par_chunks_mut(voxels).zip(centres).for_each(|(out, alpha)| {
        out.par_iter_mut().enumerate().with_min_len(1 << 10).for_each(|(voxel, out)| {
            *out = narrow(phase.factor(phase.voxel(voxel), alpha));
        });
    });
    out
}

/// An array `[terms, len]` from all terms of each of its columns, which begin as zeros.
fn table<T: Real>(
    terms: usize,
    len: usize,
    column: impl Fn(usize, &mut [Complex<f64>]) + Sync,
) -> Vec<Complex<T>> {
    const COLUMNS: usize = 64;
    let blocks = (0..len.div_ceil(COLUMNS)).into_par_iter().map(|block| {
        let mut values = vec![Complex::default(); terms * COLUMNS.min(len - block * COLUMNS)];
        let columns = values.chunks_mut(terms).enumerate();
        columns.for_each(|(i, out)| column(block * COLUMNS + i, out));
        values.into_iter().map(narrow).collect::<Vec<Complex<T>>>()
    });
    let blocks: Vec<_> = blocks.collect();
    let mut out = vec![Complex::default(); terms * len];
    out.par_chunks_mut(len).enumerate().for_each(|(term, row)| {
        for (row, block) in row.chunks_mut(COLUMNS).zip(&blocks) {
            for (v, column) in row.iter_mut().zip(block.chunks(terms)) {
                *v = column[term];
            }
        }
    });
    out
}

/// The pseudo-inverse of a matrix that is its own adjoint, with no negative eigenvalue.
fn pseudo_inverse(matrix: DMatrix<Complex<f64>>) -> DMatrix<Complex<f64>> {
    let eigen = SymmetricEigen::new(matrix);
    let largest = eigen.eigenvalues.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let mut scaled = eigen.eigenvectors.clone();
    for (mut column, &value) in scaled.column_iter_mut().zip(eigen.eigenvalues.iter()) {
        let kept = value.abs() > RELATIVE_CUT * largest;
        column *= Complex::from(if kept { value.recip() } else { 0.0 });
    }
    scaled * eigen.eigenvectors.adjoint()
}
