//! Plain arrays, for the compiler to vectorise with what the build may use.

#![allow(unsafe_code)] // pointers, as the trait has them

use super::lanes::{Lanes, load_rows, store_rows};
use std::array::from_fn;
use std::ops::Range;

/// Eight elements, without fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 8;

// SAFETY (all): needs no instruction set; the callers vouch for the pointers.
impl Lanes for Portable {
    type V = [f32; N];
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; N]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for the elements.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for the elements.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn power_of_two(shifted: Self::V) -> Self::V {
        from_fn(|i| f32::from_bits(shifted[i].to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    unsafe fn transpose(
        from: *const f32,
        from_stride: usize,
        from_rows: usize,
        to: *mut f32,
        to_stride: usize,
        to_rows: Range<usize>,
    ) {
        // SAFETY: the caller vouches for the rows.
        unsafe {
            let v: [[f32; N]; N] = load_rows::<Self, N>(from, from_stride, from_rows);
            let t: [[f32; N]; N] = from_fn(|i| from_fn(|j| v[j][i]));
            store_rows::<Self, N>(t, to, to_stride, to_rows);
        }
    }
}
