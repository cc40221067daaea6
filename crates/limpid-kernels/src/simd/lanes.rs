//! What a kernel needs of an instruction set.

#![allow(unsafe_code)] // vector instructions

use std::ops::Range;

/// A register of f32 and its instructions.
///
/// # Safety
/// All functions need the instruction set of the implementation. They must be inlined into a closure
/// given to [`Lanes::run`], which compiles it for that instruction set. Pointers must be valid for
/// the elements read or written; they need no alignment.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// The register.
    type V: Copy;
    /// Its number of elements, at most [`super::MOST_LANES`].
    const LANES: usize;

    /// Calls `f`, compiled for the instruction set.
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R;
    /// Asks for a cache line that will be read soon; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, fused where the machine can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger one; `b` if one of them is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` from `1.5 · 2^23 + n`, which has `n` in its last bits; `-126 <= n <= 127`, and zero for -127.
    unsafe fn power_of_two(shifted: Self::V) -> Self::V;
    /// Transposes a square of `LANES` rows of `LANES` elements. Only `from_rows` rows are read, the
    /// last one standing in for those after it; only the rows `to_rows` are written.
    unsafe fn transpose(
        from: *const f32,
        from_stride: usize,
        from_rows: usize,
        to: *mut f32,
        to_stride: usize,
        to_rows: Range<usize>,
    );
}

/// Loads the rows of a square, the last one again for those that are missing.
///
/// # Safety
/// As [`Lanes::transpose`].
#[inline(always)]
pub(super) unsafe fn load_rows<S: Lanes, const N: usize>(
    from: *const f32,
    stride: usize,
    rows: usize,
) -> [S::V; N] {
    // loops, not closures, here and in the kernels: what is not certainly inlined is slow
    // SAFETY: the caller vouches for `rows` rows.
    unsafe {
        let mut v = [S::splat(0.0); N];
        for i in 0..N {
            v[i] = S::load(from.add(i.min(rows - 1) * stride));
        }
        v
    }
}

/// Stores some rows of a square.
///
/// # Safety
/// As [`Lanes::transpose`].
#[inline(always)]
pub(super) unsafe fn store_rows<S: Lanes, const N: usize>(
    v: [S::V; N],
    to: *mut f32,
    stride: usize,
    rows: Range<usize>,
) {
    for i in 0..N {
        if i >= rows.start && i < rows.end {
            // SAFETY: the caller vouches for the rows of the range.
            unsafe { S::store(to.wrapping_add(i * stride), v[i]) };
        }
    }
}
