//! Which outputs a tile covers, and how tiles follow each other in rows.

use std::ops::Range;

/// Outputs of a tile along y and x.
pub(super) const SIDE: usize = 4;

/// The tiles of a batch, numbered along x, y, z and images, so that small images and ragged rows
/// fill blocks of tiles as large ones do.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    batch: usize,
    /// Tiles per dimension.
    count: [usize; 3],
    /// Outputs of a tile per dimension.
    pub step: [usize; 3],
}

/// Neighbours along x.
pub(super) struct Run {
    pub image: usize,
    /// The first output of the first tile.
    pub start: [usize; 3],
    /// Number of tiles.
    pub len: usize,
    /// Place of the first tile in the range that was asked for.
    pub at: usize,
}

impl Tiling {
    /// Covers `target` outputs per image; `deep` tiles take two slices.
    pub(super) fn new(batch: usize, target: [usize; 3], deep: bool) -> Self {
        let step = [if deep { 2 } else { 1 }, SIDE, SIDE];
        Self { batch, count: std::array::from_fn(|d| target[d].div_ceil(step[d])), step }
    }

    /// All tiles.
    pub(super) fn len(&self) -> usize {
        self.batch * self.count.iter().product::<usize>()
    }

    /// The runs of a range of tiles, each of at most `longest`.
    pub(super) fn runs(&self, tiles: Range<usize>, longest: usize) -> impl Iterator<Item = Run> {
        let [depth, height, width] = self.count;
        let step = self.step;
        let mut next = tiles.start;
        std::iter::from_fn(move || {
            if next >= tiles.end {
                return None;
            }
            let (row, x) = (next / width, next % width);
            let (slice, y) = (row / height, row % height);
            let len = (width - x).min(tiles.end - next).min(longest);
            let at = next - tiles.start;
            next += len;
            let start = [slice % depth * step[0], y * step[1], x * step[2]];
            Some(Run { image: slice / depth, start, len, at })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_ranges_row_by_row() {
        let tiling = Tiling::new(2, [3, 5, 11], true);
        assert_eq!(tiling.len(), 2 * 2 * 2 * 3);
        let runs: Vec<_> =
            tiling.runs(2..17, 2).map(|run| (run.image, run.start, run.len, run.at)).collect();
        let want = [
            (0, [0, 0, 8], 1, 0),
            (0, [0, 4, 0], 2, 1),
            (0, [0, 4, 8], 1, 3),
            (0, [2, 0, 0], 2, 4),
            (0, [2, 0, 8], 1, 6),
            (0, [2, 4, 0], 2, 7),
            (0, [2, 4, 8], 1, 9),
            (1, [0, 0, 0], 2, 10),
            (1, [0, 0, 8], 1, 12),
            (1, [0, 4, 0], 2, 13),
        ];
        assert_eq!(runs, want);
    }
}
