//! What the receive coils see: their sensitivities, their noise, how they are merged, and the calibration
//! from the centre of a scan.

mod calibration;
mod channels;
mod combine;
mod espirit;
mod jsense;
mod walsh;

pub use calibration::{CalibrationConfig, Centre, calibration};
pub use channels::{Channels, Compression, compress, noise_covariance, whiten};
pub use combine::{combine, root_sum_of_squares};
pub use espirit::{EspiritConfig, espirit};
pub use jsense::{JsenseConfig, jsense};
pub use walsh::{WalshConfig, calibration_images, walsh};

use crate::error::{expect_len, expect_matrix};
use crate::{Complex, Error, Real, Result, real::wide};

/// Refuses data that are not `[coils, dims…]` of two or three sizes, or that are not finite.
fn check<T: Real>(
    op: &'static str,
    data: &[Complex<T>],
    coils: usize,
    dims: &[usize],
) -> Result<()> {
    expect_matrix(op, dims)?;
    let shape: Vec<usize> = [coils].iter().chain(dims).copied().collect();
    expect_len(op, "data [coils, sizes…]", &shape, data.len())?;
    check_coils(op, data, coils)
}

/// Refuses data that are not `[coils, any number above zero]`, or whose energy is not finite.
fn check_coils<T: Real>(op: &'static str, data: &[Complex<T>], coils: usize) -> Result<()> {
    if coils == 0 || data.is_empty() || !data.len().is_multiple_of(coils) {
        let expected = format!("as many values, not none, of each of {coils} coils");
        return Err(Error::shape(op, expected, format!("{} values", data.len())));
    }
    // so that sums of squares are finite too, without which eigenvalues are not found
    let most = f64::MAX / data.len() as f64;
    let Some(at) = data.iter().position(|&v| !(wide(v).norm_sqr() < most)) else { return Ok(()) };
    let (coil, value) = (at / (data.len() / coils), at % (data.len() / coils));
    Err(Error::value(
        op,
        format!("value {value} of coil {coil} is {}; was it divided by zero?", wide(data[at])),
    ))
}

/// Takes `iterations` steps of conjugate gradients towards `H x = b`, from the `x` given (Hestenes & Stiefel,
/// J. Res. NBS 49, 1952).
fn conjugate_gradients<T: Real>(
    normal: impl Fn(&[Complex<T>], &mut [Complex<T>]),
    b: &[Complex<T>],
    x: &mut [Complex<T>],
    iterations: usize,
) {
    let energy = |v: &[Complex<T>]| v.iter().map(|&v| wide(v).norm_sqr()).sum::<f64>();
    let mut image = vec![Complex::default(); b.len()];
    normal(x, &mut image);
    let mut residual: Vec<_> = b.iter().zip(&image).map(|(&b, &image)| b - image).collect();
    let mut direction = residual.clone();
    let mut old = energy(&residual);
    for _ in 0..iterations {
        normal(&direction, &mut image);
        let products = direction.iter().zip(&image).map(|(&d, &h)| (wide(d).conj() * wide(h)).re);
        let curvature: f64 = products.sum();
        if !(curvature > 0.0) {
            return; // at the solution, or in the null space
        }
        let step = T::of(old / curvature);
        for (i, x) in x.iter_mut().enumerate() {
            *x = *x + direction[i].scale(step);
            residual[i] = residual[i] - image[i].scale(step);
        }
        let new = energy(&residual);
        let ratio = T::of(new / old);
        for (d, &r) in direction.iter_mut().zip(&residual) {
            *d = r + d.scale(ratio);
        }
        old = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::tests::{distance, random};

    #[test]
    fn conjugate_gradients_solve() {
        let x = random::<f64>(1, 12);
        let normal = |x: &[Complex<f64>], out: &mut [Complex<f64>]| {
            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                *out = x.scale(1.0 + (i % 3) as f64);
            }
        };
        let mut b = x.clone();
        normal(&x, &mut b);
        let mut got = vec![Complex::default(); 12];
        // as many steps as there are different eigenvalues, and more do no harm
        for iterations in [3, 20] {
            got.fill(Complex::default());
            conjugate_gradients(normal, &b, &mut got, iterations);
            assert!(distance(&got, &x) < 1e-13);
        }
    }

    #[test]
    fn refuses_what_is_no_data_of_coils() {
        let error = |data: &[Complex<f64>], coils, dims: &[usize]| {
            check("walsh", data, coils, dims).expect_err("refused").to_string()
        };
        let mut data = random(1, 24);
        assert!(check("walsh", &data, 2, &[3, 4]).is_ok());
        assert!(error(&data, 2, &[12]).contains("two or three sizes"));
        assert!(error(&data, 0, &[3, 4]).contains("24 values"));
        assert!(error(&data, 2, &[3, 5]).contains("[2, 3, 5]"));
        data[17].im = f64::NAN;
        assert!(error(&data, 2, &[3, 4]).contains("value 5 of coil 1 is "));
    }
}
