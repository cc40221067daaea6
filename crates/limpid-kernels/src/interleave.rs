//! Taking every n-th element of a row, and the reverse, with vector instructions for small n.
//!
//! To be called within [`crate::simd::vectorised`].

/// `out[i] = x[first + i * step]`
#[inline(always)]
pub(crate) fn every<T: Copy>(out: &mut [T], x: &[T], step: usize, first: usize) {
    let x = x.get(first..).unwrap_or_default();
    match step {
        1 => out.copy_from_slice(&x[..out.len()]),
        2 => every_nth::<T, 2>(out, x),
        3 => every_nth::<T, 3>(out, x),
        4 => every_nth::<T, 4>(out, x),
        _ => {
            for (o, &x) in out.iter_mut().zip(x.iter().step_by(step)) {
                *o = x;
            }
        }
    }
}

#[inline(always)]
fn every_nth<T: Copy, const N: usize>(out: &mut [T], x: &[T]) {
    let (blocks, rest) = x.as_chunks::<N>();
    for (o, block) in out.iter_mut().zip(blocks) {
        *o = block[0];
    }
    // the last element may lie in a block that is not whole
    if let (Some(o), Some(&x)) = (out.get_mut(blocks.len()), rest.first()) {
        *o = x;
    }
}

/// `out[i * n + k] = row(k)[i]` for `k < n`, where n divides the length of `out`.
#[inline(always)]
pub(crate) fn interleave<'a, T: Copy + 'a>(
    out: &mut [T],
    n: usize,
    row: impl Fn(usize) -> &'a [T],
) {
    match n {
        1 => out.copy_from_slice(&row(0)[..out.len()]),
        2 => {
            for ((o, &a), &b) in out.as_chunks_mut::<2>().0.iter_mut().zip(row(0)).zip(row(1)) {
                *o = [a, b];
            }
        }
        3 => {
            let rows = row(0).iter().zip(row(1)).zip(row(2));
            for (o, ((&a, &b), &c)) in out.as_chunks_mut::<3>().0.iter_mut().zip(rows) {
                *o = [a, b, c];
            }
        }
        4 => {
            let rows = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
            for (o, (((&a, &b), &c), &d)) in out.as_chunks_mut::<4>().0.iter_mut().zip(rows) {
                *o = [a, b, c, d];
            }
        }
        _ => {
            for k in 0..n {
                let out = out.get_mut(k..).unwrap_or_default();
                for (o, &x) in out.iter_mut().step_by(n).zip(row(k)) {
                    *o = x;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_element_and_back() {
        for n in 1..7 {
            for length in [0, 1, 2, 7, 40] {
                let x: Vec<usize> = (0..n * length).collect();
                let rows: Vec<Vec<usize>> = (0..n)
                    .map(|k| {
                        let mut row = vec![usize::MAX; length];
                        // without what follows the last element taken
                        let end = (n * length + k).saturating_sub(n - 1).max(k.min(n * length));
                        every(&mut row, &x[..end], n, k);
                        row
                    })
                    .collect();
                for (k, row) in rows.iter().enumerate() {
                    assert!(row.iter().enumerate().all(|(i, &x)| x == i * n + k), "{n} {rows:?}");
                }
                let mut again = vec![usize::MAX; n * length];
                interleave(&mut again, n, |k| &rows[k]);
                assert_eq!(again, x);
            }
        }
    }
}
