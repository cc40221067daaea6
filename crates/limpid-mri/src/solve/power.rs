//! The largest eigenvalue of a normal map.

use super::check_setting;
use super::vector::norm_sqr;
use crate::{Complex, Error, Operator, Real, Result};
use limpid_kernels::rng::Stream;
use rayon::prelude::*;

/// The largest eigenvalue of `AᴴA` by power iteration from a fixed random image. It ends where its relative
/// change is not above `tolerance`; what it gives is never above the eigenvalue but for rounding.
///
/// # Errors
/// If the operator has an empty domain, no iteration is allowed, or numbers are not finite.
pub fn power_iteration<T: Real>(
    operator: &(impl Operator<T> + ?Sized),
    iterations: usize,
    tolerance: f64,
) -> Result<f64> {
    const OP: &str = "power iteration";
    check_setting(OP, "tolerance", tolerance)?;
    if operator.domain() == 0 || iterations == 0 {
        let problem = format!(
            "an image of {} values and {iterations} iterations; both must be above zero",
            operator.domain()
        );
        return Err(Error::value(OP, problem));
    }
    let mut numbers = vec![0f32; 2 * operator.domain()];
    Stream::new(0, "power iteration").fill_normal(&mut numbers);
    let part = |x: f32| T::of(x.into());
    let mut image: Vec<_> =
        numbers.as_chunks().0.iter().map(|&[re, im]| Complex::new(part(re), part(im))).collect();
    let mut product = vec![Complex::default(); image.len()];
    let (mut norm, mut largest) = (norm_sqr(&image).sqrt(), 0.0);
    for iteration in 1..=iterations {
        let factor = T::of(norm.recip());
        image.par_iter_mut().for_each(|x| *x = x.scale(factor));
        operator.normal(&image, &mut product);
        let previous = largest;
        largest = norm_sqr(&product).sqrt();
        if !largest.is_finite() {
            let problem = format!(
                "the norm is {largest} at iteration {iteration}; do weights or coil maps hold values that are not \
                 finite?"
            );
            return Err(Error::value(OP, problem));
        }
        if largest == 0.0 || (largest - previous).abs() <= tolerance * largest {
            break;
        }
        std::mem::swap(&mut image, &mut product);
        norm = largest;
    }
    Ok(largest)
}
