//! Binary morphology in three dimensions (`scipy.ndimage`, nothing beyond the edge).

/// Which neighbours a sample has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// The six that share a face.
    Faces,
    /// All 26 around it.
    All,
}

/// A sample is set when it or any neighbour is.
pub(crate) fn dilate(mask: &[bool], dims: [usize; 3], neighbours: Neighbours) -> Vec<bool> {
    spread(mask, dims, neighbours, true)
}

/// A sample stays set when all its neighbours are, and none is beyond the edge.
pub(crate) fn erode(mask: &[bool], dims: [usize; 3], neighbours: Neighbours) -> Vec<bool> {
    spread(mask, dims, neighbours, false)
}

/// Fills small holes.
pub(crate) fn close(mask: &[bool], dims: [usize; 3], neighbours: Neighbours) -> Vec<bool> {
    erode(&dilate(mask, dims, neighbours), dims, neighbours)
}

/// Removes small specks.
pub(crate) fn open(mask: &[bool], dims: [usize; 3], neighbours: Neighbours) -> Vec<bool> {
    dilate(&erode(mask, dims, neighbours), dims, neighbours)
}

/// Sets a sample to `value` where it or any neighbour has it; beyond the edge is unset.
fn spread(mask: &[bool], dims: [usize; 3], neighbours: Neighbours, value: bool) -> Vec<bool> {
    let offsets: Vec<[isize; 3]> = (0..27isize)
        .map(|i| [i / 9 - 1, i / 3 % 3 - 1, i % 3 - 1])
        .filter(|d| neighbours == Neighbours::All || d.iter().map(|d| d.abs()).sum::<isize>() <= 1)
        .collect();
    let at = |z: usize, y: usize, x: usize| (z * dims[1] + y) * dims[2] + x;
    let mut out = Vec::with_capacity(mask.len());
    for z in 0..dims[0] {
        for y in 0..dims[1] {
            for x in 0..dims[2] {
                let found = offsets.iter().any(|d| {
                    let moved =
                        |i: usize, a: usize| i.checked_add_signed(d[a]).filter(|i| *i < dims[a]);
                    match (moved(z, 0), moved(y, 1), moved(x, 2)) {
                        (Some(z), Some(y), Some(x)) => mask[at(z, y, x)] == value,
                        _ => !value,
                    }
                });
                out.push(found == value);
            }
        }
    }
    out
}
