//! Elementary functions in f32 and f64 for the CPU kernels.
//!
//! The f32 versions are branch-free polynomials, so that loops over them vectorise (see
//! [`crate::simd`]); `exp` is within 1 ulp of the truth, the others within a few; cosines and sines within
//! 1.3e-7 of it up to [`MOST_TURNED`] radians. The coefficients
//! are those of Cephes (Moshier, netlib.org/cephes), and for `erfc` those of Numerical Recipes
//! (section 6.2, fractional error below 1.2e-7). The f64 versions are those of the standard library
//! and of `libm`.

use crate::element::Element;
use crate::simd::Lanes;
use std::ops::Neg;

/// The elements of the CPU kernels with the functions that they need.
pub(crate) trait Real: Element + Neg<Output = Self> {
    /// The nearest value of this type, inlined where candle's conversion may not be.
    fn of(v: f64) -> Self;
    /// As f64, exactly.
    fn f64(self) -> f64;
    /// Minus infinity.
    const LOWEST: Self;
    /// Not a number.
    fn is_nan(self) -> bool;
    /// Exponential function.
    #[inline(always)]
    fn exp(self) -> Self {
        self.exp_in::<false>()
    }
    /// As [`Real::exp`], with fused multiply-adds if `FUSED`: to be called where the instructions are
    /// there, else each is a call of the system's library.
    fn exp_in<const FUSED: bool>(self) -> Self;
    /// `exp(x) - 1` without cancellation.
    fn exp_m1(self) -> Self;
    /// `ln(1 + x)` without cancellation.
    fn ln_1p(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Complementary error function, with fused multiply-adds as in [`Real::exp_in`].
    fn erfc_in<const FUSED: bool>(self) -> Self;
    /// Cosine and sine, of up to [`MOST_TURNED`] radians.
    fn cos_sin(self) -> [Self; 2];
}

/// Radians from which the reduction of angles in f32 loses digits.
pub(crate) const MOST_TURNED: f64 = 4096.0;

impl Real for f64 {
    const LOWEST: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(v: f64) -> Self {
        v
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }

    #[inline(always)]
    fn exp_in<const FUSED: bool>(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn exp_m1(self) -> Self {
        self.exp_m1()
    }

    #[inline(always)]
    fn ln_1p(self) -> Self {
        self.ln_1p()
    }

    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }

    #[inline(always)]
    fn tanh(self) -> Self {
        self.tanh()
    }

    #[inline(always)]
    fn erfc_in<const FUSED: bool>(self) -> Self {
        libm::erfc(self)
    }

    #[inline(always)]
    fn cos_sin(self) -> [Self; 2] {
        let (sin, cos) = self.sin_cos();
        [cos, sin]
    }
}

impl Real for f32 {
    const LOWEST: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(v: f64) -> Self {
        v as f32
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }

    /// Cephes `expf`: `exp(x) = 2^n exp(r)` with `|r| <= ln(2) / 2`.
    #[inline(always)]
    fn exp_in<const FUSED: bool>(self) -> Self {
        // beyond these limits the result is zero or infinite; NaN passes both comparisons
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -105.0 { -105.0 } else { x };
        let shifted = sum::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = sum::<FUSED>(n, -LN_2[1], sum::<FUSED>(n, -LN_2[0], x));
        // in pairs, which do not wait for each other
        let [a, b, c, d, e, f] = EXP;
        let r2 = r * r;
        let high = sum::<FUSED>(sum::<FUSED>(a, r, b), r2, sum::<FUSED>(c, r, d));
        let p = sum::<FUSED>(high, r2, sum::<FUSED>(e, r, f));
        let e = sum::<FUSED>(p, r2, r) + 1.0;
        // 2^n in two factors: n reaches beyond the exponents of f32 on both sides
        let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        let half = n >> 1;
        e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn exp_m1(self) -> Self {
        let t = Real::tanh(0.5 * self);
        let small = 2.0 * t / (1.0 - t);
        if Element::abs(self) < 1.0 { small } else { Real::exp(self) - 1.0 }
    }

    #[inline(always)]
    fn ln_1p(self) -> Self {
        self.ln_1p()
    }

    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }

    /// Cephes `tanhf`: a polynomial near zero, the exponential elsewhere.
    #[inline(always)]
    fn tanh(self) -> Self {
        let a = Element::abs(self);
        let z = self * self;
        let p = polynomial::<false, _>(
            z,
            [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_7e-2, 1.333_144_2e-1, -3.333_328e-1],
        );
        let near = p * z * self + self;
        let far = 1.0 - 2.0 / (Real::exp(2.0 * a) + 1.0);
        if a < 0.625 { near } else { far.copysign(self) }
    }

    #[inline(always)]
    fn erfc_in<const FUSED: bool>(self) -> Self {
        let a = Element::abs(self);
        let t = 1.0 / sum::<FUSED>(0.5, a, 1.0);
        let p = polynomial::<FUSED, _>(
            t,
            [
                0.170_872_77,
                -0.822_152_2,
                1.488_515_9,
                -1.135_204,
                0.278_868_07,
                -0.186_288_06,
                0.096_784_18,
                0.374_091_96,
                1.000_023_7,
                -1.265_512_2,
            ],
        );
        let tail = t * Real::exp_in::<FUSED>(sum::<FUSED>(-a, a, p));
        if self < 0.0 { 2.0 - tail } else { tail }
    }

    /// Cephes `cosf` and `sinf`: polynomials of what a multiple of `π / 2` leaves.
    #[inline(always)]
    fn cos_sin(self) -> [Self; 2] {
        let shifted = self * std::f32::consts::FRAC_2_PI + ROUND;
        let n = shifted - ROUND;
        let r = QUARTER.iter().fold(self, |r, part| r - n * part);
        let z = r * r;
        let cos = polynomial::<false, _>(z, [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]);
        let cos = cos * z * z - 0.5 * z + 1.0;
        let sin = polynomial::<false, _>(z, [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
        let sin = sin * z * r + r;
        // quarters of a turn: odd ones swap the two, the second and third turn signs
        let quarter = shifted.to_bits();
        let [a, b] = if quarter & 1 == 0 { [cos, sin] } else { [sin, cos] };
        let sign = |quarter: u32| (quarter & 2) << 30;
        [
            f32::from_bits(a.to_bits() ^ sign(quarter.wrapping_add(1))),
            f32::from_bits(b.to_bits() ^ sign(quarter)),
        ]
    }
}

/// `π / 2` in three parts, the first two exact in a few bits.
const QUARTER: [f32; 3] = [1.570_312_5, 4.837_513e-4, 7.549_79e-8];

/// Horner's scheme, highest power first.
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |higher, &c| sum::<FUSED>(higher, x, c))
}

/// `a · b + c`
#[inline(always)]
fn sum<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adding `1.5 · 2^23` rounds to the nearest integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `ln(2)` in two parts, the first exact in a few bits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `(exp(r) - 1 - r) / r²` for `|r| <= ln(2) / 2`, highest power first.
const EXP: [f32; 6] =
    [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `exp(x)` of numbers that are not positive, zero below -87.7: with half the instructions of
/// [`Real::exp`] where multiplications and additions are fused.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(unsafe_code)] // vector instructions
pub(crate) unsafe fn exp_of_negative<S: Lanes>(x: S::V) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        // NaN passes
        let x = S::max(S::splat(-88.0), x);
        let shifted = S::mul_add(x, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
        let n = S::sub(shifted, S::splat(ROUND));
        let r = S::mul_add(n, S::splat(-LN_2[0]), x);
        let r = S::mul_add(n, S::splat(-LN_2[1]), r);
        let [a, b, c, d, e, f] = EXP;
        let pair = |a: f32, b: f32| S::mul_add(S::splat(a), r, S::splat(b));
        let r2 = S::mul(r, r);
        let p = S::mul_add(S::mul_add(pair(a, b), r2, pair(c, d)), r2, pair(e, f));
        let e = S::add(S::mul_add(p, r2, r), S::splat(1.0));
        S::mul(e, S::power_of_two(shifted))
    }
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{self, Level};

    /// Worst error of `f` against `truth`, in units of the last place, over `steps` points.
    fn worst_ulp(range: (f32, f32), f: fn(f32) -> f32, truth: fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        let mut worst = 0f64;
        for i in 0..=steps {
            let x = range.0 + (range.1 - range.0) * (i as f32 / steps as f32);
            let want = truth(f64::from(x));
            let near = want as f32;
            let ulp = f64::from(near.abs().next_up()) - f64::from(near.abs());
            worst = worst.max((f64::from(f(x)) - want).abs() / ulp);
        }
        worst
    }

    #[test]
    fn f32_functions_are_close_to_the_truth() {
        assert!(worst_ulp((-87.0, 88.7), Real::exp, f64::exp) < 1.1);
        assert!(worst_ulp((-104.0, -87.0), Real::exp, f64::exp) < 1.1);
        assert!(worst_ulp((-104.0, 88.7), Real::exp_in::<true>, f64::exp) < 1.1);
        assert!(worst_ulp((-20.0, 20.0), Real::tanh, f64::tanh) < 3.0);
        assert!(worst_ulp((-20.0, 5.0), Real::exp_m1, f64::exp_m1) < 6.0);
        assert!(worst_ulp((-6.0, 0.5), Real::erfc_in::<false>, libm::erfc) < 6.0);
        assert!(worst_ulp((-6.0, 0.5), Real::erfc_in::<true>, libm::erfc) < 6.0);
        // in the tail the rounding of the exponent shows
        assert!(worst_ulp((0.5, 4.0), Real::erfc_in::<false>, libm::erfc) < 24.0);
        assert!(worst_ulp((0.5, 4.0), Real::erfc_in::<true>, libm::erfc) < 24.0);
    }

    #[test]
    fn f32_waves_are_close_to_the_truth() {
        let [cos, sin]: [fn(f32) -> f32; 2] = [|x| x.cos_sin()[0], |x| x.cos_sin()[1]];
        for range in [(-3.0, 3.0), (-4000.0, -3900.0), (100.0, 4096.0)] {
            let steps = 100_000;
            for i in 0..=steps {
                let x = range.0 + (range.1 - range.0) * (i as f32 / steps as f32);
                let (s, c) = f64::from(x).sin_cos();
                let off = (f64::from(cos(x)) - c).abs().max((f64::from(sin(x)) - s).abs());
                assert!(off < 1.3e-7, "{x}: {off:e}");
            }
        }
        assert!(worst_ulp((-0.7, 0.7), sin, f64::sin) < 1.5);
        assert_eq!([cos(0.0), sin(0.0)], [1.0, 0.0]);
        assert!(cos(f32::NAN).is_nan() && sin(f32::INFINITY).is_nan());
    }

    #[allow(unsafe_code)]
    fn check_negative<S: Lanes>() {
        let exp = |x: f32| {
            let mut out = [0f32; 16];
            // SAFETY: the caller chose a level that the machine has.
            unsafe { S::run(|| S::store(out.as_mut_ptr(), exp_of_negative::<S>(S::splat(x)))) };
            out[S::LANES - 1]
        };
        let mut worst = 0f64;
        for i in 0..=100_000 {
            let x = -87.3 * i as f32 / 1e5;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 1.3e-7, "{worst:e}");
        assert_eq!([exp(f32::NEG_INFINITY), exp(-88.0), exp(0.0)], [0.0, 0.0, 1.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exponentials_of_negative_lanes_are_close_to_the_truth() {
        for level in Level::available() {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => check_negative::<simd::Avx512>(),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => check_negative::<simd::Avx2>(),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => check_negative::<simd::Neon>(),
                Level::Portable => check_negative::<simd::Portable>(),
            }
        }
    }

    #[test]
    fn f32_functions_have_the_right_limits() {
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(Real::exp(89.0f32), f32::INFINITY);
        assert_eq!(Real::exp(0f32), 1.0);
        assert!(Real::exp(f32::NAN).is_nan());
        assert_eq!(Real::tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(Real::tanh(1e-30f32), 1e-30);
        assert!(Real::tanh(f32::NAN).is_nan());
        assert_eq!(Real::exp_m1(f32::NEG_INFINITY), -1.0);
        assert_eq!(Real::exp_m1(f32::INFINITY), f32::INFINITY);
        assert_eq!(Real::erfc_in::<false>(f32::INFINITY), 0.0);
        assert_eq!(Real::erfc_in::<false>(f32::NEG_INFINITY), 2.0);
        assert!(Real::erfc_in::<false>(f32::NAN).is_nan());
    }
}
