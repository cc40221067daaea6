//! The matrix product of all transforms: a tile of the result in registers, no packing, since
//! transforms write their results in the order in which products read them.

use crate::matrix::{Left, Rows, block};
use crate::simd::Lanes;

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
