//! Places and boxes in row-major arrays.

/// The flat index of a place.
pub(crate) fn flat(place: &[usize], size: &[usize]) -> usize {
    place.iter().zip(size).fold(0, |at, (p, s)| at * s + p)
}

/// The place of a flat index; what goes beyond the first axis is dropped.
pub(crate) fn unflat(mut index: usize, size: &[usize]) -> Vec<usize> {
    let mut place = vec![0; size.len()];
    for (p, s) in place.iter_mut().zip(size).rev() {
        *p = index % s;
        index /= s;
    }
    place
}

/// The flat index, in an array of shape `all`, of the first element of each line of a box, in order.
pub(crate) fn line_starts(all: &[usize], start: &[usize], size: &[usize]) -> Vec<usize> {
    let last = all.len() - 1;
    let mut lines = vec![0];
    for a in 0..=last {
        let count = if a == last { 1 } else { size[a] };
        let along = |line: &usize| {
            let first = line * all[a] + start[a];
            first..first + count
        };
        lines = lines.iter().flat_map(along).collect();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_lines() {
        let size = [3, 4, 5];
        for i in 0..60 {
            assert_eq!(flat(&unflat(i, &size), &size), i);
        }
        assert_eq!(unflat(60 + 7, &size), [0, 1, 2]);
        let lines = line_starts(&size, &[1, 2, 3], &[2, 2, 1]);
        assert_eq!(lines, [33, 38, 53, 58]);
        assert_eq!(line_starts(&[9], &[4], &[3]), [4]);
    }
}
