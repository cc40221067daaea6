//! Iterative solvers for images from any [`Operator`]: conjugate gradients, FISTA, and the largest eigenvalue
//! that the step of the latter needs.
//!
//! Solvers change the image that they start from in place, show it after each iteration to an observer, and
//! print nothing.

mod conjugate_gradient;
mod fista;
mod power;
#[cfg(test)]
pub(crate) mod tests;
mod vector;

pub use conjugate_gradient::{ConjugateGradient, conjugate_gradient};
pub use fista::{Fista, fista};
pub use power::power_iteration;

use crate::{Complex, Error, Operator, Real, Result};

/// What a solver shows after an iteration.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a, T> {
    /// Iterations done, from one.
    pub iteration: usize,
    /// What the tolerance is compared with: each solver says what it is.
    pub residual: f64,
    /// The image so far.
    pub image: &'a [Complex<T>],
}

/// How a solver ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Iterations done.
    pub iterations: usize,
    /// As [`Step::residual`], of the last of them.
    pub residual: f64,
    /// The residual is within the tolerance.
    pub converged: bool,
}

/// Refuses images that are not of the operator.
fn check_images<T: Real>(
    op: &'static str,
    operator: &(impl Operator<T> + ?Sized),
    right: usize,
    image: usize,
) -> Result<()> {
    let domain = operator.domain();
    for (what, len) in [("right-hand side", right), ("image", image)] {
        if len != domain {
            let expected = format!("a {what} of {domain} values, the domain of the operator");
            return Err(Error::shape(op, expected, format!("{len}")));
        }
    }
    Ok(())
}

/// Refuses a setting that is negative or not finite.
fn check_setting(op: &'static str, name: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::value(op, format!("`{name}` must be finite and not negative, got {value}")))
}

/// Refuses to go on with numbers that are not finite.
fn check_residual(op: &'static str, iteration: usize, residual: f64) -> Result<()> {
    if residual.is_finite() {
        return Ok(());
    }
    let problem = format!(
        "the residual of iteration {iteration} is {residual}; do the samples, weights or coil maps hold values that \
         are not finite, or is the step too long?"
    );
    Err(Error::value(op, problem))
}
