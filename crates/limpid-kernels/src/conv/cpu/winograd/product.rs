//! The matrix product of all transforms: a tile of the result in registers, no packing, since
//! transforms write their results in the order in which products read them.

use crate::simd::Lanes;

/// A matrix in memory: rows `row` apart, columns `column` apart.
#[derive(Clone, Copy)]
pub(in crate::conv::cpu) struct Left {
    pub data: *const f32,
    pub row: usize,
    pub column: usize,
}

/// A matrix with contiguous columns and rows `row` apart.
#[derive(Clone, Copy)]
pub(in crate::conv::cpu) struct Rows<P> {
    pub data: P,
    pub row: usize,
}

/// Products that are summed in a register at most.
const SUM: usize = 64;

/// `c[rows × N·LANES] = a[rows × len] · b[len × N·LANES]`, added to what is there if `add`.
/// `rows` is rounded up to a multiple of `R`.
///
/// # Safety
/// As [`Lanes`]; the matrices have the rounded number of rows.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, const R: usize, const N: usize>(
    rows: usize,
    len: usize,
    a: Left,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
    add: bool,
) {
    for first in (0..rows).step_by(R) {
        // long sums are sums of shorter ones, for a smaller error
        for start in (0..len).step_by(SUM) {
            // SAFETY: rows and products lie within the matrices.
            unsafe {
                let a = Left { data: a.data.add(first * a.row + start * a.column), ..a };
                let b = Rows { data: b.data.add(start * b.row), ..b };
                let c = Rows { data: c.data.add(first * c.row), ..c };
                block::<S, R, N>(SUM.min(len - start), a, b, c, add || start > 0);
            }
        }
    }
}

/// `c[R × N·LANES] = a[R × len] · b[len × N·LANES]`, added to what is there if `add`.
///
/// # Safety
/// As [`Lanes`]; the matrices have these sizes.
#[inline(always)]
pub(in crate::conv::cpu) unsafe fn block<S: Lanes, const R: usize, const N: usize>(
    len: usize,
    a: Left,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
    add: bool,
) {
    // SAFETY: the caller vouches for `R` rows and `len` products.
    unsafe {
        let mut sums = [[S::splat(0.0); N]; R];
        let (mut left, mut right) = (a.data, b.data);
        for _ in 0..len {
            let mut columns = [S::splat(0.0); N];
            for n in 0..N {
                columns[n] = S::load(right.add(n * S::LANES));
            }
            for r in 0..R {
                let factor = S::splat(*left.add(r * a.row));
                for n in 0..N {
                    sums[r][n] = S::mul_add(factor, columns[n], sums[r][n]);
                }
            }
            left = left.add(a.column);
            right = right.add(b.row);
        }
        for r in 0..R {
            for n in 0..N {
                let to = c.data.add(r * c.row + n * S::LANES);
                let sum = if add { S::add(S::load(to), sums[r][n]) } else { sums[r][n] };
                S::store(to, sum);
            }
        }
    }
}
