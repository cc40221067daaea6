//! Loops over a tensor seen as planes: the elements that share batch item and channel.
//!
//! Work is cut at fixed places, whatever the size of a plane and the number of threads.

use crate::buffer::{CHUNK, rows_per_chunk};
use crate::math::Real;
use crate::simd::vectorised;
use rayon::prelude::*;
use std::ops::Range;

/// The pieces of planes among the elements `start..start + len`, as plane and range within them.
pub(crate) fn pieces(
    start: usize,
    len: usize,
    plane: usize,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    let plane = plane.max(1);
    let mut next = 0;
    std::iter::from_fn(move || {
        if next >= len {
            return None;
        }
        let index = (start + next) / plane;
        let end = ((index + 1) * plane - start).min(len);
        let piece = next..end;
        next = end;
        Some((index, piece))
    })
}

/// One value per plane: `of` gives that of a range of elements, `merge` joins neighbours.
pub(crate) fn reduce<S: Copy + Send>(
    planes: usize,
    plane: usize,
    of: impl Fn(Range<usize>) -> S + Sync,
    merge: impl Fn(S, S) -> S,
) -> Vec<S> {
    let cuts = plane.div_ceil(CHUNK).max(1);
    let parts: Vec<S> = (0..planes * cuts)
        .into_par_iter()
        .with_min_len(rows_per_chunk(plane))
        .map(|i| {
            let (p, cut) = (i / cuts, i % cuts);
            of(p * plane + cut * CHUNK..p * plane + ((cut + 1) * CHUNK).min(plane))
        })
        .collect();
    parts.chunks(cuts).filter_map(|c| c.iter().copied().reduce(&merge)).collect()
}

/// Interleaved partial sums; as many on every machine. Enough for a loop over them to be compiled to
/// vector instructions: with 16 the compiler unrolls it instead, at a fifth of the speed.
const LANES: usize = 32;

/// Sums in f64, in an order that is the same on every machine.
pub(crate) struct Sums<const K: usize>([[f64; LANES]; K]);

impl<const K: usize> Sums<K> {
    pub(crate) fn new() -> Self {
        Self([[0f64; LANES]; K])
    }

    /// Adds `f` of the elements of `N` slices of one length.
    #[inline(always)]
    pub(crate) fn add<T: Real, const N: usize>(
        &mut self,
        slices: [&[T]; N],
        f: impl Fn([T; N]) -> [f64; K],
    ) {
        let mut lanes = self.0;
        let len = slices.iter().map(|s| s.len()).min().unwrap_or(0);
        let mut start = 0;
        // plain loops over arrays: what `array::from_fn` and `map` make of them is not always inlined
        while start + LANES <= len {
            let mut block = [[T::zero(); LANES]; N];
            for n in 0..N {
                block[n].copy_from_slice(&slices[n][start..start + LANES]);
            }
            for i in 0..LANES {
                let mut element = [T::zero(); N];
                for n in 0..N {
                    element[n] = block[n][i];
                }
                let terms = f(element);
                for k in 0..K {
                    lanes[k][i] += terms[k];
                }
            }
            start += LANES;
        }
        for i in 0..len - start {
            let mut element = [T::zero(); N];
            for n in 0..N {
                element[n] = slices[n][start + i];
            }
            let terms = f(element);
            for k in 0..K {
                lanes[k][i] += terms[k];
            }
        }
        self.0 = lanes;
    }

    /// The sums, the lanes added by halves until one is left.
    #[inline(always)]
    pub(crate) fn total(self) -> [f64; K] {
        self.0.map(|mut lanes| {
            let mut width = LANES / 2;
            while width > 0 {
                for i in 0..width {
                    lanes[i] += lanes[i + width];
                }
                width /= 2;
            }
            lanes[0]
        })
    }
}

/// [`Sums`] of `f` over the elements of `N` slices of one length.
pub(crate) fn sums<T: Real, const N: usize, const K: usize>(
    slices: [&[T]; N],
    f: impl Fn([T; N]) -> [f64; K],
) -> [f64; K] {
    vectorised(
        #[inline(always)]
        || {
            let mut sums = Sums::new();
            sums.add(slices, f);
            sums.total()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_chunk_and_respect_planes() {
        let found: Vec<_> = pieces(5, 9, 4).collect();
        assert_eq!(found, [(1, 0..3), (2, 3..7), (3, 7..9)]);
        assert_eq!(pieces(0, 3, 10).collect::<Vec<_>>(), [(0, 0..3)]);
        assert_eq!(pieces(8, 0, 4).count(), 0);
    }

    #[test]
    fn planes_are_reduced_one_by_one() {
        for (planes, plane) in [(3, 1), (5, 1000), (2, 3 * CHUNK + 1), (4, 0)] {
            let found = reduce(planes, plane, |at| at.sum::<usize>(), |a, b| a + b);
            let want: Vec<usize> =
                (0..planes).map(|p| (p * plane..(p + 1) * plane).sum()).collect();
            assert_eq!(found, want);
        }
    }

    #[test]
    fn sums_are_right_for_any_length() {
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let [a, b] = sums([&x, &x], |[x, y]| [x.f64(), x.f64() * y.f64()]);
            assert_eq!(a, x.iter().map(|&x| f64::from(x)).sum::<f64>());
            assert_eq!(b, x.iter().map(|&x| f64::from(x * x)).sum::<f64>());
        }
    }
}
