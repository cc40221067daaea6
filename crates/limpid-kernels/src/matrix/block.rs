//! A tile of a matrix product in registers.

#![allow(unsafe_code)] // vector instructions

use crate::simd::Lanes;

/// A matrix in memory: rows `row` apart, columns `column` apart.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub data: *const f32,
    pub row: usize,
    pub column: usize,
}

/// A matrix with contiguous columns and rows `row` apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<P> {
    pub data: P,
    pub row: usize,
}

/// `c[R × N·LANES] = a[R × len] · b[len × N·LANES]`, added to what is there if `add`.
///
/// # Safety
/// As [`Lanes`]; the matrices have these sizes.
#[inline(always)]
pub(crate) unsafe fn block<S: Lanes, const R: usize, const N: usize>(
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
