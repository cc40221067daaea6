//! One image from those of all coils.

use super::check_coils;
use crate::{Complex, Error, Real, Result, real::wide};
use rayon::prelude::*;

/// Pixels of a task.
const CHUNK: usize = 1 << 12;

/// The image `Σ conj(S) x / (Σ |S|² + 1e-5)` of coil images `x` and sensitivities `S`, both `[coils, pixels]`
/// (Roemer et al., MRM 16, 1990); where no coil sees anything, it is zero.
///
/// # Errors
/// If the two have other numbers of values, or one of them is not finite.
pub fn combine<T: Real>(
    images: &[Complex<T>],
    maps: &[Complex<T>],
    coils: usize,
) -> Result<Vec<Complex<T>>> {
    const OP: &str = "combine";
    check_coils(OP, images, coils)?;
    if maps.len() != images.len() {
        let expected = format!("as many sensitivities as values of images, {}", images.len());
        return Err(Error::shape(OP, expected, maps.len().to_string()));
    }
    check_coils(OP, maps, coils)?;
    let regular = T::of(1e-5);
    Ok(each_pixel(images.len() / coils, |pixels, out: &mut [Complex<T>]| {
        let mut weights = vec![regular; out.len()];
        for coil in 0..coils {
            let at = coil * (images.len() / coils) + pixels;
            let values = images[at..].iter().zip(&maps[at..]);
            for ((out, weight), (x, s)) in out.iter_mut().zip(&mut weights).zip(values) {
                *out = *out + s.conj() * x;
                *weight += s.norm_sqr();
            }
        }
        out.iter_mut().zip(weights).for_each(|(out, weight)| *out = out.unscale(weight));
    }))
}

/// The root of the sum of the squared magnitudes of coil images `[coils, pixels]`.
///
/// # Errors
/// If the values are not as many for each coil, or one is not finite.
pub fn root_sum_of_squares<T: Real>(images: &[Complex<T>], coils: usize) -> Result<Vec<T>> {
    check_coils("root_sum_of_squares", images, coils)?;
    let len = images.len() / coils;
    Ok(each_pixel(len, |pixels, out: &mut [T]| {
        for (i, out) in out.iter_mut().enumerate() {
            let squares = images.iter().skip(pixels + i).step_by(len);
            *out = T::of(squares.map(|&v| wide(v).norm_sqr()).sum::<f64>().sqrt());
        }
    }))
}

/// Values of pixels, filled in chunks by a function that is told the first pixel.
fn each_pixel<V: Copy + Default + Send>(
    len: usize,
    fill: impl Fn(usize, &mut [V]) + Sync,
) -> Vec<V> {
    let mut out = vec![V::default(); len];
    let chunks = out.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(chunk, out)| fill(chunk * CHUNK, out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::tests::{distance, random};

    #[test]
    fn undoes_the_coils() {
        let (coils, pixels) = (3, 5000);
        let image = random::<f64>(1, pixels);
        let maps = random::<f64>(2, coils * pixels);
        let images: Vec<_> = maps.iter().enumerate().map(|(i, s)| s * image[i % pixels]).collect();
        let squares = root_sum_of_squares(&maps, coils).expect("numbers");
        let expected: Vec<_> =
            image.iter().zip(&squares).map(|(v, s)| v * (s.powi(2) / (s.powi(2) + 1e-5))).collect();
        let got = combine(&images, &maps, coils).expect("an image");
        assert!(distance(&got, &expected) < 1e-14);
        let seen = root_sum_of_squares(&images, coils).expect("numbers");
        for i in 0..pixels {
            assert!((seen[i] - squares[i] * image[i].norm()).abs() < 1e-12 * seen[i]);
        }
    }

    #[test]
    fn refuses_other_numbers_of_values() {
        let data = random::<f32>(1, 12);
        let error = combine(&data, &data[..6], 3).expect_err("refused").to_string();
        assert!(error.contains("12, got 6"), "{error}");
        assert!(combine(&data, &data, 5).is_err());
        assert!(root_sum_of_squares(&data, 0).is_err());
    }
}
