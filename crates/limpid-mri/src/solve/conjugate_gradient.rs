//! Conjugate gradients on the normal equations.

use super::vector::{CHUNK, inner, inner_chunk, norm_sqr, update};
use super::{Outcome, Step, check_images, check_residual, check_setting};
use crate::{Complex, Error, Operator, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Settings of [`conjugate_gradient`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConjugateGradient {
    /// Weight of the squared image.
    pub lambda: f64,
    /// The most iterations.
    pub iterations: usize,
    /// Ends where the norm of the residual, relative to that of the right-hand side, is not above it.
    pub tolerance: f64,
}

/// Solves `(AᴴA + lambda I) image = right` from the given image on; with [`Weighted`](crate::Weighted)
/// samples that is `(AᴴWA + lambda I) image = AᴴWy`. The residual shown is relative to the right-hand side
/// (Hestenes and Stiefel, J. Res. NBS 1952; Pruessmann et al., MRM 2001).
///
/// # Errors
/// If lengths or settings do not fit, numbers are not finite, or the normal map is not positive.
pub fn conjugate_gradient<T: Real>(
    operator: &(impl Operator<T> + ?Sized),
    right: &[Complex<T>],
    image: &mut [Complex<T>],
    settings: &ConjugateGradient,
    mut observe: impl FnMut(Step<'_, T>) -> ControlFlow<()>,
) -> Result<Outcome> {
    const OP: &str = "conjugate gradient";
    let ConjugateGradient { lambda, iterations, tolerance } = *settings;
    check_images(OP, operator, right.len(), image.len())?;
    check_setting(OP, "lambda", lambda)?;
    check_setting(OP, "tolerance", tolerance)?;
    let regularised = |x: &[Complex<T>], out: &mut [Complex<T>]| {
        operator.normal(x, out);
        let lambda = T::of(lambda);
        update(out, x, |out, x| *out = *out + x.scale(lambda));
    };
    let norm = norm_sqr(right).sqrt();
    check_residual(OP, 0, norm)?;
    if norm == 0.0 {
        image.fill(Complex::default());
        return Ok(Outcome { iterations: 0, residual: 0.0, converged: true });
    }
    let mut residual = right.to_vec();
    let mut product = vec![Complex::default(); right.len()];
    if image.iter().any(|v| *v != Complex::default()) {
        regularised(image, &mut product);
        update(&mut residual, &product, |r, p| *r = *r - p);
    }
    let mut direction = residual.clone();
    let mut squared = norm_sqr(&residual);
    check_residual(OP, 0, squared)?;
    let mut outcome = Outcome { iterations: 0, residual: squared.sqrt() / norm, converged: false };
    outcome.converged = outcome.residual <= tolerance;
    while !outcome.converged && outcome.iterations < iterations {
        regularised(&direction, &mut product);
        let curvature = inner(&direction, &product);
        check_residual(OP, outcome.iterations + 1, curvature)?;
        if !(curvature > 0.0) {
            let problem = format!(
                "⟨p, AᴴAp⟩ is {curvature:e} at iteration {}; the operator must have its own adjoint, and see every \
                 direction of the image if `lambda` is zero",
                outcome.iterations + 1
            );
            return Err(Error::value(OP, problem));
        }
        let step = T::of(squared / curvature);
        let next = advance(image, &mut residual, &direction, &product, step);
        outcome.iterations += 1;
        outcome.residual = next.sqrt() / norm;
        check_residual(OP, outcome.iterations, outcome.residual)?;
        outcome.converged = outcome.residual <= tolerance;
        let Outcome { iterations: iteration, residual: relative, .. } = outcome;
        if observe(Step { iteration, residual: relative, image }).is_break() {
            break;
        }
        let ratio = T::of(next / squared);
        update(&mut direction, &residual, |p, r| *p = r + p.scale(ratio));
        squared = next;
    }
    Ok(outcome)
}

/// `image += step · direction` and `residual −= step · product`; gives the squared norm of the latter.
fn advance<T: Real>(
    image: &mut [Complex<T>],
    residual: &mut [Complex<T>],
    direction: &[Complex<T>],
    product: &[Complex<T>],
    step: T,
) -> f64 {
    let images = image.par_chunks_mut(CHUNK).zip(direction.par_chunks(CHUNK));
    let residuals = residual.par_chunks_mut(CHUNK).zip(product.par_chunks(CHUNK));
    let parts = images.zip(residuals).map(|((image, direction), (residual, product))| {
        vectorised(
            #[inline(always)]
            || {
                image.iter_mut().zip(direction).for_each(|(x, p)| *x = *x + p.scale(step));
                residual.iter_mut().zip(product).for_each(|(r, p)| *r = *r - p.scale(step));
            },
        );
        inner_chunk(residual, residual)
    });
    parts.collect::<Vec<_>>().into_iter().sum()
}
