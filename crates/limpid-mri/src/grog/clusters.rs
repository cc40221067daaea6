//! Samples of equal offsets and moves in time, whose kernels are the same.

use super::geometry::Geometry;
use rayon::prelude::*;

/// Samples, those of equal kernels side by side.
pub(super) struct Clusters {
    members: Vec<usize>,
    /// Where in the members each cluster begins, and the end of the last.
    starts: Vec<usize>,
}

impl Clusters {
    /// In the order of their first samples. `moved` says by how much time a kernel moves its sample.
    pub(super) fn of(geometry: &Geometry, moved: impl Fn(usize) -> f64 + Sync) -> Self {
        let key = |sample: usize| {
            let offsets = geometry.offsets_of(sample).iter().copied();
            offsets.chain(std::iter::once(moved(sample))).map(f64::to_bits)
        };
        let mut sorted: Vec<usize> = (0..geometry.len()).collect();
        sorted.par_sort_unstable_by(|&a, &b| key(a).cmp(key(b)).then(a.cmp(&b)));
        let mut clusters: Vec<&[usize]> = sorted.chunk_by(|&a, &b| key(a).eq(key(b))).collect();
        clusters.sort_unstable_by_key(|cluster| cluster[0]);
        let ends = clusters.iter().scan(0, |end, cluster| {
            *end += cluster.len();
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).collect();
        Self { members: clusters.concat(), starts }
    }

    /// All samples.
    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }

    /// The clusters, so many at a time.
    pub(super) fn groups(&self, count: usize) -> impl Iterator<Item = Vec<&[usize]>> {
        let clusters: Vec<&[usize]> =
            self.starts.windows(2).map(|ends| &self.members[ends[0]..ends[1]]).collect();
        let groups = clusters.len().div_ceil(count);
        (0..groups).map(move |i| clusters[i * count..clusters.len().min((i + 1) * count)].to_vec())
    }
}
