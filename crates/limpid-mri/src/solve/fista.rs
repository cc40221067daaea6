//! Accelerated proximal gradient descent.

use super::vector::{CHUNK, inner_chunk};
use super::{Outcome, Step, check_images, check_residual, check_setting};
use crate::prox::Prox;
use crate::{Complex, Error, Operator, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Settings of [`fista`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fista {
    /// The largest eigenvalue of the normal map, as of [`power_iteration`](super::power_iteration); its
    /// inverse is the step.
    pub lambda_max: f64,
    /// Threshold of each proximal step: `lambda_max` times it is the weight of the penalty.
    pub threshold: f64,
    /// The most iterations.
    pub iterations: usize,
    /// Ends where the change of the image, relative to its norm, is not above it.
    pub tolerance: f64,
}

/// Minimises `½‖A image − y‖² + lambda_max · threshold · penalty(image)` from the given image on, where
/// `right` is `Aᴴy` and `prox` belongs to the penalty. The residual shown is the relative change of the image;
/// iteration `k` from zero has the momentum `k/(k+3)` (Beck and Teboulle, SIAM J. Imaging Sci. 2009; Chambolle
/// and Dossal, JOTA 2015).
///
/// # Errors
/// If lengths or settings do not fit, or numbers are not finite.
pub fn fista<T: Real>(
    operator: &(impl Operator<T> + ?Sized),
    right: &[Complex<T>],
    image: &mut [Complex<T>],
    prox: &mut (impl Prox<T> + ?Sized),
    settings: &Fista,
    mut observe: impl FnMut(Step<'_, T>) -> ControlFlow<()>,
) -> Result<Outcome> {
    const OP: &str = "fista";
    let Fista { lambda_max, threshold, iterations, tolerance } = *settings;
    check_images(OP, operator, right.len(), image.len())?;
    check_setting(OP, "threshold", threshold)?;
    check_setting(OP, "tolerance", tolerance)?;
    if !(lambda_max > 0.0 && lambda_max.is_finite()) {
        let problem = format!("`lambda_max` must be finite and above zero, got {lambda_max}");
        return Err(Error::value(OP, problem));
    }
    if prox.domain() != image.len() {
        let expected = format!("a proximal map of {} values, those of the image", image.len());
        return Err(Error::shape(OP, expected, format!("{}", prox.domain())));
    }
    let step = T::of(lambda_max.recip());
    let mut point = image.to_vec();
    let mut next = vec![Complex::default(); image.len()];
    let mut outcome = Outcome { iterations: 0, residual: f64::INFINITY, converged: false };
    while !outcome.converged && outcome.iterations < iterations {
        operator.normal(&point, &mut next);
        descend(&mut next, &point, right, step);
        prox.apply(&mut next, threshold);
        let momentum = outcome.iterations as f64 / (outcome.iterations as f64 + 3.0);
        let [change, norm] = advance(image, &next, &mut point, T::of(momentum));
        outcome.iterations += 1;
        outcome.residual = if change == 0.0 { 0.0 } else { (change / norm).sqrt() };
        // a change to zero is no error, but no end either
        if norm > 0.0 || !change.is_finite() {
            check_residual(OP, outcome.iterations, outcome.residual)?;
        }
        outcome.converged = outcome.residual <= tolerance;
        let Outcome { iterations: iteration, residual, .. } = outcome;
        if observe(Step { iteration, residual, image }).is_break() {
            break;
        }
    }
    Ok(outcome)
}

/// `gradient = point − step · (gradient − right)`, of the normal map of the point.
fn descend<T: Real>(
    gradient: &mut [Complex<T>],
    point: &[Complex<T>],
    right: &[Complex<T>],
    step: T,
) {
    let inputs = point.par_chunks(CHUNK).zip(right.par_chunks(CHUNK));
    gradient.par_chunks_mut(CHUNK).zip(inputs).for_each(|(gradient, (point, right))| {
        vectorised(
            #[inline(always)]
            || {
                for ((g, p), b) in gradient.iter_mut().zip(point).zip(right) {
                    *g = p - (*g - b).scale(step);
                }
            },
        );
    });
}

/// Moves the image to `next` and the point beyond it; gives the squared norms of the change and of `next`.
fn advance<T: Real>(
    image: &mut [Complex<T>],
    next: &[Complex<T>],
    point: &mut [Complex<T>],
    momentum: T,
) -> [f64; 2] {
    let outputs = image.par_chunks_mut(CHUNK).zip(point.par_chunks_mut(CHUNK));
    let parts = outputs.zip(next.par_chunks(CHUNK)).map(|((image, point), next)| {
        vectorised(
            #[inline(always)]
            || {
                // the change takes the place of the point for the sum
                for ((x, p), n) in image.iter_mut().zip(point.iter_mut()).zip(next) {
                    *p = n - *x;
                    *x = *n;
                }
            },
        );
        let sums = [inner_chunk(point, point), inner_chunk(next, next)];
        vectorised(
            #[inline(always)]
            || point.iter_mut().zip(next).for_each(|(p, n)| *p = n + p.scale(momentum)),
        );
        sums
    });
    let add = |a: [f64; 2], b: [f64; 2]| [a[0] + b[0], a[1] + b[1]];
    parts.collect::<Vec<_>>().into_iter().fold([0.0; 2], add)
}
