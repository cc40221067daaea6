//! NEON, which every AArch64 machine has.

#![allow(unsafe_code)] // vector instructions

use super::lanes::{Lanes, load_rows, store_rows};
use core::arch::aarch64::*;
use std::ops::Range;

/// Four elements.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

// SAFETY (all): NEON belongs to the baseline; the callers vouch for the pointers.
impl Lanes for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: see above.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: see above.
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    unsafe fn power_of_two(shifted: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe {
            let exponent = vaddq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        }
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
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = load_rows::<Self, 4>(from, from_stride, from_rows);
            let even_ab = vreinterpretq_f64_f32(vtrn1q_f32(a, b));
            let even_cd = vreinterpretq_f64_f32(vtrn1q_f32(c, d));
            let odd_ab = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
            let odd_cd = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
            let t = [
                vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd)),
                vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd)),
                vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd)),
                vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd)),
            ];
            store_rows::<Self, 4>(t, to, to_stride, to_rows);
        }
    }
}
