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

/// Products that are added before pointers move on.
const STEP: usize = 4;

/// `c[R × N·LANES] = a[R × len] · b[len × N·LANES]`, added to what is there if `add`. Of `a` either the
/// rows or the columns are contiguous.
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
        let mut right = b.data;
        // addresses are a constant away from few pointers: their arithmetic would fill the pipeline
        if a.row == 1 {
            let mut left = a.data;
            for _ in 0..len {
                products::<S, R, N>(&mut sums, |r| left.add(r), right);
                left = left.add(a.column);
                right = right.add(b.row);
            }
        } else {
            debug_assert_eq!(a.column, 1);
            let mut rows = [a.data; R];
            for r in 0..R {
                rows[r] = a.data.add(r * a.row);
            }
            let whole = len - len % STEP;
            for p in (0..whole).step_by(STEP) {
                for s in 0..STEP {
                    products::<S, R, N>(&mut sums, |r| rows[r].add(p + s), right);
                    right = right.add(b.row);
                }
            }
            for p in whole..len {
                products::<S, R, N>(&mut sums, |r| rows[r].add(p), right);
                right = right.add(b.row);
            }
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

/// Adds the products of a column of `R` numbers and a row.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn products<S: Lanes, const R: usize, const N: usize>(
    sums: &mut [[S::V; N]; R],
    left: impl Fn(usize) -> *const f32,
    right: *const f32,
) {
    // SAFETY: the caller vouches for the numbers.
    unsafe {
        let mut columns = [S::splat(0.0); N];
        for n in 0..N {
            columns[n] = S::load(right.add(n * S::LANES));
        }
        for r in 0..R {
            let factor = S::splat(*left(r));
            for n in 0..N {
                sums[r][n] = S::mul_add(factor, columns[n], sums[r][n]);
            }
        }
    }
}
