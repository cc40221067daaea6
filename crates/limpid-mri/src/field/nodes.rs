//! Few places, or times, that stand for all: the bins of a histogram, or the clusters of several bases.

use super::phase::FieldPhase;
use limpid_kernels::rng::Stream;
use rayon::prelude::*;

/// The most points that are clustered; of more, as many are taken at even distances.
const POINTS: usize = 1 << 14;

/// The most iterations of clustering.
const ITERATIONS: usize = 32;

/// Quantised voxels or times.
pub(super) struct Nodes {
    bases: usize,
    /// `[nodes, bases]`
    points: Vec<f64>,
    /// How much each stands for; none is zero.
    pub(super) weights: Vec<f64>,
    /// A voxel, or a time, of each.
    pub(super) members: Vec<usize>,
}

impl Nodes {
    /// Number of nodes.
    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    pub(super) fn point(&self, node: usize) -> &[f64] {
        &self.points[node * self.bases..][..self.bases]
    }

    /// The filled bins of the weighted histogram of voxels, or clusters where there are several bases.
    pub(super) fn voxels(phase: &FieldPhase, nodes: usize) -> Self {
        let weight = |voxel| phase.weight(voxel);
        if phase.bases() == 1 {
            return Self::histogram(phase.spatial(), weight, nodes);
        }
        Self::clusters(phase.spatial(), &spread(phase.temporal(), phase.bases()), weight, nodes)
    }

    /// All voxels where there are few, or else as [`Nodes::voxels`].
    pub(super) fn few_voxels(phase: &FieldPhase, nodes: usize) -> Self {
        if phase.voxels() > nodes {
            return Self::voxels(phase, nodes);
        }
        Self::all(phase.spatial(), phase.bases(), |voxel| phase.weight(voxel))
    }

    /// All times where there are few, or else so many bins or clusters.
    pub(super) fn few_times(phase: &FieldPhase, nodes: usize) -> Self {
        if phase.times() <= nodes {
            return Self::all(phase.temporal(), phase.bases(), |_| 1.0);
        }
        if phase.bases() == 1 {
            return Self::histogram(phase.temporal(), |_| 1.0, nodes);
        }
        Self::time_clusters(phase, nodes)
    }

    /// Clusters of times.
    pub(super) fn time_clusters(phase: &FieldPhase, nodes: usize) -> Self {
        let scales = spread(phase.spatial(), phase.bases());
        Self::clusters(phase.temporal(), &scales, |_| 1.0, nodes)
    }

    fn all(points: &[f64], bases: usize, weight: impl Fn(usize) -> f64) -> Self {
        let mut nodes = Self { bases, points: vec![], weights: vec![], members: vec![] };
        for (at, point) in points.chunks(bases).enumerate().filter(|(at, _)| weight(*at) > 0.0) {
            nodes.points.extend(point);
            nodes.weights.push(weight(at));
            nodes.members.push(at);
        }
        nodes
    }

    /// Bins of even width from the least to the largest value, by their centres; the largest belongs to the
    /// last.
    fn histogram(values: &[f64], weight: impl Fn(usize) -> f64, bins: usize) -> Self {
        let used = || values.iter().enumerate().filter(|(at, _)| weight(*at) > 0.0);
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = used().fold(ends, |(low, high), (_, v)| (low.min(*v), high.max(*v)));
        let width = (high - low) / bins as f64;
        let edge = |bin: usize| if bin == bins { high } else { low + width * bin as f64 };
        let mut weights = vec![0.0; bins];
        let mut members = vec![None; bins];
        for (at, &value) in used() {
            let mut bin = if width > 0.0 { ((value - low) / width) as usize } else { 0 };
            bin = bin.min(bins - 1);
            // rounding must not move a value across the edge at which it lies
            if value < edge(bin) {
                bin -= 1;
            } else if bin + 1 < bins && width > 0.0 && value >= edge(bin + 1) {
                bin += 1;
            }
            weights[bin] += weight(at);
            members[bin].get_or_insert(at);
        }
        let mut nodes = Self { bases: 1, points: vec![], weights: vec![], members: vec![] };
        for (bin, (&weight, member)) in weights.iter().zip(members).enumerate() {
            if let Some(member) = member {
                nodes.points.push((edge(bin) + edge(bin + 1)) / 2.0);
                nodes.weights.push(weight);
                nodes.members.push(member);
            }
        }
        if width == 0.0 {
            nodes.points.fill(low);
        }
        nodes
    }

    /// Means of clusters of points `[any, bases]`, by Lloyd's iteration from a spread start (Arthur and
    /// Vassilvitskii, SODA 2007), with distances in the scales of each basis.
    fn clusters(
        points: &[f64],
        scales: &[f64],
        weight: impl Fn(usize) -> f64,
        count: usize,
    ) -> Self {
        let bases = scales.len();
        let used: Vec<usize> = (0..points.len() / bases).filter(|&at| weight(at) > 0.0).collect();
        let stride = used.len().div_ceil(POINTS);
        let used: Vec<usize> = used.into_iter().step_by(stride).collect();
        let scaled: Vec<Vec<f64>> = used
            .iter()
            .map(|at| {
                points[at * bases..][..bases].iter().zip(scales).map(|(p, s)| p * s).collect()
            })
            .collect();
        let weights: Vec<f64> = used.iter().map(|&at| weight(at)).collect();
        let mut centres = start(&scaled, &weights, count);
        let mut nearest = assign(&scaled, &centres);
        for _ in 0..ITERATIONS {
            centres = means(&scaled, &weights, &nearest, &centres);
            let next = assign(&scaled, &centres);
            if next.iter().map(|n| n.0).eq(nearest.iter().map(|n| n.0)) {
                break;
            }
            nearest = next;
        }
        let mut nodes = Self { bases, points: vec![], weights: vec![], members: vec![] };
        for (cluster, centre) in centres.iter().enumerate() {
            let own = || (0..used.len()).filter(|&i| nearest[i].0 == cluster);
            let Some(member) = own().min_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1)) else {
                continue;
            };
            // a basis without a range is the same everywhere
            let first = &points[used[0] * bases..];
            let point = centre.iter().zip(scales).zip(first);
            nodes.points.extend(point.map(|((c, s), first)| if *s > 0.0 { c / s } else { *first }));
            nodes.weights.push(own().map(|i| weights[i]).sum());
            nodes.members.push(used[member]);
        }
        nodes
    }
}

/// The largest magnitude of each basis among values `[any, bases]`.
pub(super) fn spread(values: &[f64], bases: usize) -> Vec<f64> {
    let mut most = vec![0f64; bases];
    for (i, value) in values.iter().enumerate() {
        most[i % bases] = most[i % bases].max(value.abs());
    }
    most
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Points that lie far apart, each drawn with the square of its distance from those before.
fn start(points: &[Vec<f64>], weights: &[f64], count: usize) -> Vec<Vec<f64>> {
    let mut draws = Stream::new(0, "field clusters").draws();
    let mut far: Vec<f64> = vec![f64::INFINITY; points.len()];
    let mut centres: Vec<Vec<f64>> = Vec::new();
    while centres.len() < count {
        let chance = |i: usize| weights[i] * if centres.is_empty() { 1.0 } else { far[i] };
        let total: f64 = (0..points.len()).map(chance).sum();
        if !(total > 0.0) {
            break;
        }
        let mut left = draws.uniform() * total;
        let drawn = (0..points.len()).find(|&i| {
            left -= chance(i);
            left < 0.0 && chance(i) > 0.0
        });
        let Some(drawn) = drawn.or_else(|| (0..points.len()).rfind(|&i| chance(i) > 0.0)) else {
            break;
        };
        let centre = points[drawn].clone();
        far.par_iter_mut().zip(points).for_each(|(far, p)| *far = far.min(distance(p, &centre)));
        centres.push(centre);
    }
    centres
}

/// The nearest centre of each point, the first of equals, and its squared distance.
fn assign(points: &[Vec<f64>], centres: &[Vec<f64>]) -> Vec<(usize, f64)> {
    points.par_iter().map(|point| nearest(point, centres.iter().map(Vec::as_slice))).collect()
}

/// The nearest of centres, the first of equals, and its squared distance.
pub(super) fn nearest<'a>(point: &[f64], centres: impl Iterator<Item = &'a [f64]>) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (i, centre) in centres.enumerate() {
        let distance = distance(point, centre);
        if distance < best.1 {
            best = (i, distance);
        }
    }
    best
}

/// The mean of the points of each cluster; an empty one stays where it is.
fn means(
    points: &[Vec<f64>],
    weights: &[f64],
    nearest: &[(usize, f64)],
    centres: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let mut sums: Vec<Vec<f64>> = centres.iter().map(|centre| vec![0.0; centre.len()]).collect();
    let mut totals = vec![0.0; centres.len()];
    for ((point, weight), (cluster, _)) in points.iter().zip(weights).zip(nearest) {
        totals[*cluster] += weight;
        sums[*cluster].iter_mut().zip(point).for_each(|(sum, p)| *sum += weight * p);
    }
    for ((sum, total), centre) in sums.iter_mut().zip(totals).zip(centres) {
        if total > 0.0 {
            sum.iter_mut().for_each(|v| *v /= total);
        } else {
            sum.clone_from(centre);
        }
    }
    sums
}
