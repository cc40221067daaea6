//! The one-dimensional transforms of F(4, 3) and F(2, 3), and their transposes.
//!
//! With `y = Aᵀ[(G g) ⊙ (Bᵀ d)]` (Winograd 1980; Lavin & Gray, arXiv:1509.09308), `d` six (four)
//! inputs, `g` three taps, `y` four (two) outputs; two and three dimensions apply them to each
//! dimension in turn. The weight gradient is the transpose, `Gᵀ[(A y) ⊙ (Bᵀ d)]`.

use crate::simd::Lanes;

/// The interpolation points of F(4, 3) are 0, ±P, ±Q and ∞. The values are those of oneDNN:
/// the usual 1 and 2 make factors from 1/24 to 8, which cost digits.
const P: f32 = 0.625;
const Q: f32 = 1.5;

const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// The filter's factors at ±P, ±Q and 0: one over the derivative of x(x² − P²)(x² − Q²).
const AT_P: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const AT_Q: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));
const AT_0: f32 = 1.0 / (P2 * Q2);

/// Six registers, `step` elements apart.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn load6<S: Lanes>(from: *const f32, step: usize) -> [S::V; 6] {
    // SAFETY: the caller vouches for the elements.
    unsafe {
        [
            S::load(from),
            S::load(from.add(step)),
            S::load(from.add(2 * step)),
            S::load(from.add(3 * step)),
            S::load(from.add(4 * step)),
            S::load(from.add(5 * step)),
        ]
    }
}

/// `Bᵀ d` of F(4, 3).
///
/// # Safety
/// As [`Lanes`]; so for all functions here.
#[inline(always)]
pub(super) unsafe fn input6<S: Lanes>(d: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: the caller's.
    unsafe {
        let (p, q) = (S::splat(P), S::splat(Q));
        let (minus_p2, minus_q2) = (S::splat(-P2), S::splat(-Q2));
        let (sum, product) = (S::splat(-P2 - Q2), S::splat(P2 * Q2));
        let even_p = S::mul_add(minus_q2, d[2], d[4]);
        let odd_p = S::mul(p, S::mul_add(minus_q2, d[1], d[3]));
        let even_q = S::mul_add(minus_p2, d[2], d[4]);
        let odd_q = S::mul(q, S::mul_add(minus_p2, d[1], d[3]));
        [
            S::mul_add(product, d[0], S::mul_add(sum, d[2], d[4])),
            S::add(even_p, odd_p),
            S::sub(even_p, odd_p),
            S::add(even_q, odd_q),
            S::sub(even_q, odd_q),
            S::mul_add(product, d[1], S::mul_add(sum, d[3], d[5])),
        ]
    }
}

/// `Aᵀ m` of F(4, 3).
#[inline(always)]
pub(super) unsafe fn output6<S: Lanes>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: the caller's.
    unsafe {
        let (even_p, odd_p) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_q, odd_q) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(even_p, even_q)),
            S::mul_add(S::splat(P), odd_p, S::mul(S::splat(Q), odd_q)),
            S::mul_add(S::splat(P2), even_p, S::mul(S::splat(Q2), even_q)),
            S::mul_add(S::splat(P2 * P), odd_p, S::mul_add(S::splat(Q2 * Q), odd_q, m[5])),
        ]
    }
}

/// `A y` of F(4, 3).
#[inline(always)]
pub(super) unsafe fn spread4<S: Lanes>(y: [S::V; 4]) -> [S::V; 6] {
    // SAFETY: the caller's.
    unsafe {
        let (p2, q2) = (S::splat(P2), S::splat(Q2));
        let even_p = S::mul_add(p2, y[2], y[0]);
        let odd_p = S::mul(S::splat(P), S::mul_add(p2, y[3], y[1]));
        let even_q = S::mul_add(q2, y[2], y[0]);
        let odd_q = S::mul(S::splat(Q), S::mul_add(q2, y[3], y[1]));
        [
            y[0],
            S::add(even_p, odd_p),
            S::sub(even_p, odd_p),
            S::add(even_q, odd_q),
            S::sub(even_q, odd_q),
            y[3],
        ]
    }
}

/// `G g` of F(4, 3).
#[inline(always)]
pub(super) unsafe fn filter3<S: Lanes>(g: [S::V; 3]) -> [S::V; 6] {
    // SAFETY: the caller's.
    unsafe {
        let even_p = S::mul(S::splat(AT_P), S::mul_add(S::splat(P2), g[2], g[0]));
        let odd_p = S::mul(S::splat(AT_P * P), g[1]);
        let even_q = S::mul(S::splat(AT_Q), S::mul_add(S::splat(Q2), g[2], g[0]));
        let odd_q = S::mul(S::splat(AT_Q * Q), g[1]);
        [
            S::mul(S::splat(AT_0), g[0]),
            S::add(even_p, odd_p),
            S::sub(even_p, odd_p),
            S::add(even_q, odd_q),
            S::sub(even_q, odd_q),
            g[2],
        ]
    }
}

/// `Gᵀ u` of F(4, 3).
#[inline(always)]
pub(super) unsafe fn filter_grad6<S: Lanes>(u: [S::V; 6]) -> [S::V; 3] {
    // SAFETY: the caller's.
    unsafe {
        let even_p = S::mul(S::splat(AT_P), S::add(u[1], u[2]));
        let odd_p = S::sub(u[1], u[2]);
        let even_q = S::mul(S::splat(AT_Q), S::add(u[3], u[4]));
        let odd_q = S::sub(u[3], u[4]);
        [
            S::mul_add(S::splat(AT_0), u[0], S::add(even_p, even_q)),
            S::mul_add(S::splat(AT_P * P), odd_p, S::mul(S::splat(AT_Q * Q), odd_q)),
            S::mul_add(S::splat(P2), even_p, S::mul_add(S::splat(Q2), even_q, u[5])),
        ]
    }
}

/// `Bᵀ d` of F(2, 3), whose points are 0, ±1 and ∞.
#[inline(always)]
pub(super) unsafe fn input4<S: Lanes>(d: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller's.
    unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[3], d[1])] }
}

/// `Aᵀ m` of F(2, 3).
#[inline(always)]
pub(super) unsafe fn output4<S: Lanes>(m: [S::V; 4]) -> [S::V; 2] {
    // SAFETY: the caller's.
    unsafe { [S::add(m[0], S::add(m[1], m[2])), S::add(S::sub(m[1], m[2]), m[3])] }
}

/// `A y` of F(2, 3).
#[inline(always)]
pub(super) unsafe fn spread2<S: Lanes>(y: [S::V; 2]) -> [S::V; 4] {
    // SAFETY: the caller's.
    unsafe { [y[0], S::add(y[0], y[1]), S::sub(y[0], y[1]), y[1]] }
}

/// `G g` of F(2, 3).
#[inline(always)]
pub(super) unsafe fn filter3to4<S: Lanes>(g: [S::V; 3]) -> [S::V; 4] {
    // SAFETY: the caller's.
    unsafe {
        let half = S::splat(0.5);
        let (even, odd) = (S::mul(half, S::add(g[0], g[2])), S::mul(half, g[1]));
        [g[0], S::add(even, odd), S::sub(even, odd), g[2]]
    }
}

/// `Gᵀ u` of F(2, 3).
#[inline(always)]
pub(super) unsafe fn filter_grad4<S: Lanes>(u: [S::V; 4]) -> [S::V; 3] {
    // SAFETY: the caller's.
    unsafe {
        let half = S::splat(0.5);
        let (even, odd) = (S::mul(half, S::add(u[1], u[2])), S::mul(half, S::sub(u[1], u[2])));
        [S::add(u[0], even), odd, S::add(even, u[3])]
    }
}
