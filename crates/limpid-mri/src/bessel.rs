//! The modified Bessel function of windows.

/// The modified Bessel function of order zero of the root of `square`.
pub(crate) fn bessel_i0_of_root(square: f64) -> f64 {
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-17 {
        term *= square / (4.0 * k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

/// The modified Bessel function of order zero.
pub(crate) fn bessel_i0(x: f64) -> f64 {
    bessel_i0_of_root(x * x)
}
