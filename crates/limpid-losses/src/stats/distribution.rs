//! The normal, Student's t and the binomial distribution, to about 1e-12.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// Probability that a standard normal variable exceeds `z`.
pub(super) fn normal_above(z: f64) -> f64 {
    0.5 * complementary_error(z / SQRT_2)
}

/// The value that a standard normal variable stays below with probability `p` in `(0, 1)`.
pub(super) fn normal_quantile(p: f64) -> f64 {
    invert(|z| normal_above(-z), p, 40.0)
}

/// Probability that Student's t with `freedom` degrees exceeds `t`.
pub(super) fn student_above(t: f64, freedom: f64) -> f64 {
    let sum = freedom + t * t;
    let tail = 0.5 * incomplete_beta([freedom / sum, t * t / sum], freedom / 2.0, 0.5);
    if t >= 0.0 { tail } else { 1.0 - tail }
}

/// The value that Student's t stays below with probability `p` in `(0, 1)`.
pub(super) fn student_quantile(p: f64, freedom: f64) -> f64 {
    invert(|t| student_above(-t, freedom), p, 1e6)
}

/// Probability of at most `k` successes in `n` trials, each of probability `p`.
pub(super) fn binomial_at_most(k: f64, n: f64, p: f64) -> f64 {
    if k >= n { 1.0 } else { incomplete_beta([1.0 - p, p], n - k, k + 1.0) }
}

/// Where an increasing function on `[-limit, limit]` reaches `p`, by bisection down to the last bit.
fn invert(f: impl Fn(f64) -> f64, p: f64, limit: f64) -> f64 {
    let (mut low, mut high) = (-limit, limit);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if f(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// `erfc(x)`: a series of positive terms near 0, a continued fraction (Lentz) in the tail.
fn complementary_error(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - complementary_error(-x);
    }
    if x < 2.5 {
        let (mut term, mut total, mut odd) = (x, x, 1.0);
        while term > total * 1e-17 {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            total += term;
        }
        return 1.0 - FRAC_2_SQRT_PI * (-x * x).exp() * total;
    }
    // erfc(x) = exp(-x²)/√π / (x + (1/2)/(x + 1/(x + (3/2)/(x + ..)))), from the inside out
    let fraction = (1..120).rev().fold(x, |inner, k| x + 0.5 * f64::from(k) / inner);
    0.5 * FRAC_2_SQRT_PI * (-x * x).exp() / fraction
}

/// Regularised incomplete beta function `I_x(a, b)` (Numerical Recipes, 6.4), given `x` and `1 - x`,
/// of which the difference from 1 would lose the digits of the smaller.
fn incomplete_beta([x, rest]: [f64; 2], a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    let log = ln_beta_weight([x, rest], a, b);
    if x < (a + 1.0) / (a + b + 2.0) {
        log.exp() * beta_fraction(x, a, b) / a
    } else {
        1.0 - log.exp() * beta_fraction(rest, b, a) / b
    }
}

/// `ln(x^a (1-x)^b / B(a, b))`, by Loader's way of binomial probabilities ("Fast and accurate
/// computation of binomial probabilities", 2000): no difference of large logarithms.
fn ln_beta_weight([x, rest]: [f64; 2], a: f64, b: f64) -> f64 {
    let n = a + b;
    let ways = stirling_error(n) - stirling_error(a) - stirling_error(b);
    let distance = deviance(a, n * x) + deviance(b, n * rest);
    ways - distance + 0.5 * (a * b / (2.0 * PI * n)).ln()
}

/// What Stirling's formula lacks: `ln Γ(n + 1) - (n + ½) ln n + n - ½ ln 2π`.
fn stirling_error(n: f64) -> f64 {
    if n <= 16.0 {
        return ln_gamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln();
    }
    let n2 = n * n;
    let inner = 1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / n2) / n2;
    (1.0 / 12.0 - (1.0 / 360.0 - inner / n2) / n2) / n
}

/// `x ln(x / m) + m - x`, by a series where the terms nearly cancel.
fn deviance(x: f64, m: f64) -> f64 {
    if (x - m).abs() >= 0.1 * (x + m) {
        return x * (x / m).ln() + m - x;
    }
    let v = (x - m) / (x + m);
    let mut total = (x - m) * v;
    let mut term = 2.0 * x * v;
    for odd in (3..1000).step_by(2) {
        term *= v * v;
        let next = total + term / f64::from(odd);
        if next == total {
            break;
        }
        total = next;
    }
    total
}

/// The continued fraction of the incomplete beta function, by Lentz's method.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for step in [even, odd] {
            d = 1.0 / guard(1.0 + step * d);
            c = guard(1.0 + step / c);
            change = c * d;
            result *= change;
        }
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    result
}

/// Logarithm of the gamma function for positive arguments (Lanczos, g = 7, n = 9).
fn ln_gamma(x: f64) -> f64 {
    const G: f64 = 7.0;
    const C: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (PI / (PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let series = C[1..].iter().zip(1..).fold(C[0], |s, (c, k)| s + c / (x + f64::from(k)));
    let t = x + G + 0.5;
    0.5 * (2.0 * PI).ln() + (x + 0.5) * t.ln() - t + series.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // tables of scipy.stats.norm.sf and scipy.stats.t.sf, and closed forms
        let close = |got: f64, expected: f64| {
            assert!((got / expected - 1.0).abs() < 1e-11, "{got} {expected}");
        };
        close(normal_above(0.0), 0.5);
        close(normal_above(1.0), 0.158_655_253_931_457_05);
        close(normal_above(-2.0), 0.977_249_868_051_820_8);
        close(normal_above(5.0), 2.866_515_718_791_939e-7);
        close(normal_quantile(0.975), 1.959_963_984_540_054);
        // t with 1 degree is Cauchy, with 2 degrees it has a closed form
        close(student_above(1.0, 1.0), 0.25);
        close(student_above(3.0, 2.0), 0.5 - 3.0 / (2.0 * 11f64.sqrt()));
        close(student_above(-3.0, 2.0), 0.5 + 3.0 / (2.0 * 11f64.sqrt()));
        close(student_quantile(0.75, 1.0), 1.0);
        // 1 + 5 + 10 of 32 tosses of five coins, and a tail of many
        close(binomial_at_most(2.0, 5.0, 0.5), 0.5);
        close(binomial_at_most(1.0, 5.0, 0.25), 0.632_812_5);
        close(binomial_at_most(0.0, 1000.0, 0.01), 0.99f64.powi(1000));
        close(binomial_at_most(0.0, 1e6, 1e-5), (1e6 * (-1e-5f64).ln_1p()).exp());
        assert_eq!(binomial_at_most(5.0, 5.0, 0.3), 1.0);
    }
}
