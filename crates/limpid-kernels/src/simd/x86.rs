//! AVX-512 and AVX2 with fused multiply-add.

#![allow(unsafe_code)] // vector instructions

use super::lanes::{Lanes, load_rows, store_rows};
use core::arch::x86_64::*;
use std::ops::Range;

/// Sixteen elements.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY (all): the caller of `run` vouches for the instruction set, other callers inline into it
// and vouch for the pointers.
impl Lanes for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq")]
        fn compiled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: see above.
        unsafe { compiled(f) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: see above.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn power_of_two(shifted: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
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
            let v: [__m512; 16] = load_rows::<Self, 16>(from, from_stride, from_rows);
            // four rows by four columns in each 128-bit quarter, ...
            let mut u = [[v[0]; 4]; 4];
            for g in 0..4 {
                let [v0, v1, v2, v3] = [v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]];
                let a = _mm512_castps_pd(_mm512_unpacklo_ps(v0, v1));
                let b = _mm512_castps_pd(_mm512_unpacklo_ps(v2, v3));
                let c = _mm512_castps_pd(_mm512_unpackhi_ps(v0, v1));
                let d = _mm512_castps_pd(_mm512_unpackhi_ps(v2, v3));
                u[g] = [
                    _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
                    _mm512_castpd_ps(_mm512_unpacklo_pd(c, d)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)),
                ];
            }
            // ... then the quarters
            let mut t = v;
            for j in 0..4 {
                let even = [
                    _mm512_shuffle_f32x4::<0x88>(u[0][j], u[1][j]),
                    _mm512_shuffle_f32x4::<0x88>(u[2][j], u[3][j]),
                ];
                let odd = [
                    _mm512_shuffle_f32x4::<0xdd>(u[0][j], u[1][j]),
                    _mm512_shuffle_f32x4::<0xdd>(u[2][j], u[3][j]),
                ];
                t[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
                t[j + 4] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
                t[j + 8] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
                t[j + 12] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
            }
            store_rows::<Self, 16>(t, to, to_stride, to_rows);
        }
    }
}

/// Eight elements.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY (all): the caller of `run` vouches for the instruction set, other callers inline into it
// and vouch for the pointers.
impl Lanes for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: see above.
        unsafe { compiled(f) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: see above.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn power_of_two(shifted: Self::V) -> Self::V {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
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
            let v: [__m256; 8] = load_rows::<Self, 8>(from, from_stride, from_rows);
            // four rows by four columns in each half, ...
            let mut u = [[v[0]; 4]; 2];
            for g in 0..2 {
                let [v0, v1, v2, v3] = [v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]];
                let a = _mm256_castps_pd(_mm256_unpacklo_ps(v0, v1));
                let b = _mm256_castps_pd(_mm256_unpacklo_ps(v2, v3));
                let c = _mm256_castps_pd(_mm256_unpackhi_ps(v0, v1));
                let d = _mm256_castps_pd(_mm256_unpackhi_ps(v2, v3));
                u[g] = [
                    _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpacklo_pd(c, d)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)),
                ];
            }
            // ... then the halves
            let mut t = v;
            for j in 0..4 {
                t[j] = _mm256_permute2f128_ps::<0x20>(u[0][j], u[1][j]);
                t[j + 4] = _mm256_permute2f128_ps::<0x31>(u[0][j], u[1][j]);
            }
            store_rows::<Self, 8>(t, to, to_stride, to_rows);
        }
    }
}
