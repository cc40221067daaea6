//! Losses whose minimum is a quantile instead of a mean: bounds of what the truth may be.

use super::l2;
use super::reduce::{Kernel, mean_of2};
use candle_core::Tensor;
use limpid_kernels::{Error, Result, relu};

/// Pinball loss (Koenker & Bassett 1978): `quantile · (target - pred)` where the prediction is too
/// low, `(1 - quantile) · (pred - target)` where it is too high, averaged over all elements. Its
/// minimum is the quantile of the target.
///
/// Where both are equal the value and the gradient are 0.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Argument`] unless `quantile` lies between 0 and
/// 1, both excluded.
pub fn pinball(pred: &Tensor, target: &Tensor, quantile: f64) -> Result<Tensor> {
    let q = inside("pinball", quantile)?;
    mean_of2("pinball", [pred, target], Kernel("pinball", [q, 0.0]), move |[x, y]| {
        let d = x - y;
        let slope = if d > 0.0 {
            1.0 - q
        } else if d < 0.0 {
            -q
        } else {
            // 0 stays 0 and NaN stays NaN
            d * 0.0
        };
        (slope * d, [slope, -slope])
    })
}

/// The [`pinball`] loss of each element, not averaged.
///
/// # Shapes
/// `pred [N, ..]`, `target [N, ..]` → the same
///
/// # Errors
/// As [`pinball`].
pub fn pinball_elements(pred: &Tensor, target: &Tensor, quantile: f64) -> Result<Tensor> {
    let q = inside("pinball_elements", quantile)?;
    let [pred, target] = super::operand::prepare("pinball_elements", [pred, target])?;
    let d = (pred - target)?;
    Ok(((relu(&d)? * (1.0 - q))? + (relu(&d.neg()?)? * q)?)?)
}

/// Sum of the [`pinball`] losses of two bounds between which a fraction `coverage` of the targets
/// shall lie, as many below as above (EMDiffuse takes 0.9).
///
/// # Errors
/// As [`pinball`], of `coverage`.
pub fn interval(lower: &Tensor, upper: &Tensor, target: &Tensor, coverage: f64) -> Result<Tensor> {
    let outside = (1.0 - inside("interval", coverage)?) / 2.0;
    Ok((pinball(lower, target, outside)? + pinball(upper, target, 1.0 - outside)?)?)
}

/// [`interval`] plus the mean squared error of a prediction inside it.
///
/// # Errors
/// As [`interval`].
pub fn interval_and_l2(
    lower: &Tensor,
    upper: &Tensor,
    pred: &Tensor,
    target: &Tensor,
    coverage: f64,
) -> Result<Tensor> {
    Ok((interval(lower, upper, target, coverage)? + l2(pred, target)?)?)
}

fn inside(op: &'static str, fraction: f64) -> Result<f64> {
    if fraction > 0.0 && fraction < 1.0 {
        return Ok(fraction);
    }
    Err(Error::argument(op, format!("the fraction must lie between 0 and 1, got {fraction}")))
}
