//! The Bessel function of the first kind and order one.

use std::f64::consts::{FRAC_PI_4, PI};

/// Where Hankel's expansion reaches the precision of f64.
const FAR: f64 = 25.0;

/// `J₁(x)` for `x ≥ 0`: by Miller's backward recurrence near zero (Abramowitz and Stegun, 9.12), by Hankel's
/// asymptotic expansion far from it (9.2.5).
pub(super) fn j1(x: f64) -> f64 {
    if x == 0.0 {
        0.0
    } else if x < FAR {
        near(x)
    } else {
        far(x)
    }
}

/// `Jₙ₋₁ = (2n/x) Jₙ − Jₙ₊₁` from far above `x` down, normalised by `J₀ + 2 Σ J₂ₙ = 1`.
fn near(x: f64) -> f64 {
    let start = 2 * ((x + 40.0) / 2.0) as usize;
    let (mut above, mut here, mut sum) = (0.0, 1e-280, 0.0);
    let mut first = 0.0;
    for n in (1..=start).rev() {
        if n == 1 {
            first = here;
        }
        if n % 2 == 0 {
            sum += 2.0 * here;
        }
        let below = 2.0 * n as f64 / x * here - above;
        (above, here) = (here, below);
        // small arguments grow beyond what f64 holds
        if here.abs() > 1e200 {
            for v in [&mut above, &mut here, &mut sum, &mut first] {
                *v *= 1e-250;
            }
        }
    }
    first / (sum + here)
}

fn far(x: f64) -> f64 {
    let (mut p, mut q, mut term) = (1.0, 0.0, 1.0f64);
    for k in 1..60 {
        let odd = (2 * k - 1) as f64;
        let next = term * (4.0 - odd * odd) / (8.0 * k as f64 * x);
        if next.abs() < 1e-17 || next.abs() > term.abs() {
            break;
        }
        term = next;
        let signed = if k / 2 % 2 == 0 { term } else { -term };
        if k % 2 == 0 { p += signed } else { q += signed }
    }
    let (sin, cos) = (x - 3.0 * FRAC_PI_4).sin_cos();
    (2.0 / (PI * x)).sqrt() * (p * cos - q * sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bessel's integral, by the trapezoidal rule, which is exact for so many points.
    fn integral(x: f64) -> f64 {
        let points = 4 * x as usize + 64;
        let at = |i| 2.0 * PI * f64::from(i) / points as f64;
        let sum: f64 = (0..points as u32).map(|i| (at(i) - x * at(i).sin()).cos()).sum();
        sum / points as f64
    }

    #[test]
    fn is_the_integral() {
        for i in 0..4000 {
            let x = 1e-6 + 0.1 * f64::from(i);
            assert!((j1(x) - integral(x)).abs() < 2e-14, "J1({x})");
        }
        assert_eq!(j1(0.0), 0.0);
        assert!((j1(1e-9) / 5e-10 - 1.0).abs() < 1e-14);
        // Abramowitz and Stegun, table 9.1
        assert!((j1(1.0) - 0.440_050_585_7).abs() < 5e-11);
        assert!((j1(10.0) - 0.043_472_746_2).abs() < 5e-11);
    }
}
