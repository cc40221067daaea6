//! Losses that compare two images element by element.
//!
//! All take `[N, ..]` tensors of equal shape and return a 0-d tensor; the mean runs over every
//! element unless the name says otherwise.

use super::operand::{on_gpu, prepare, values};
use super::reduce::{Kernel, mean_of2, mean_of3, sample_means, sample_means2};
use candle_core::Tensor;
use limpid_kernels::{Error, Result};

/// Sign with `sign(0) = 0`, the subgradient that PyTorch takes at kinks.
pub(super) fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        // 0 stays 0 and NaN stays NaN
        x * 0.0
    }
}

pub(super) fn positive(op: &'static str, name: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::argument(op, format!("`{name}` must be finite and above 0, got {value}")))
}

/// Mean absolute difference.
///
/// # Errors
/// [`Error::Shape`] if the shapes or dtypes differ, or the tensors are empty; so for every loss.
pub fn l1(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    mean_of2("l1", [pred, target], Kernel::plain("l1"), |[x, y]| {
        let s = sign(x - y);
        ((x - y).abs(), [s, -s])
    })
}

/// Sum of absolute differences (`torch.nn.L1Loss(reduction="sum")`).
///
/// # Errors
/// As [`l1`].
pub fn l1_sum(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    Ok((l1(pred, target)? * pred.elem_count() as f64)?)
}

/// Mean squared difference.
///
/// # Errors
/// As [`l1`].
pub fn l2(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    mean_of2("l2", [pred, target], Kernel::plain("l2"), squared)
}

pub(super) fn squared([x, y]: [f64; 2]) -> (f64, [f64; 2]) {
    let d = x - y;
    (d * d, [2.0 * d, -2.0 * d])
}

/// Charbonnier loss: mean of `sqrt(d² + eps²)` (Charbonnier et al. 1994), a smooth [`l1`].
///
/// # Errors
/// As [`l1`]; [`Error::Argument`] if `eps` is not above 0.
pub fn charbonnier(pred: &Tensor, target: &Tensor, eps: f64) -> Result<Tensor> {
    let eps = positive("charbonnier", "eps", eps)?;
    mean_of2("charbonnier", [pred, target], Kernel("charbonnier", [eps, 0.0]), move |[x, y]| {
        let d = x - y;
        let root = (d * d + eps * eps).sqrt();
        (root, [d / root, -d / root])
    })
}

/// Huber loss (`torch.nn.HuberLoss`): `d²/2` below `delta`, then `delta (|d| - delta/2)`.
///
/// # Errors
/// As [`l1`]; [`Error::Argument`] if `delta` is not above 0.
pub fn huber(pred: &Tensor, target: &Tensor, delta: f64) -> Result<Tensor> {
    let delta = positive("huber", "delta", delta)?;
    mean_of2("huber", [pred, target], Kernel("huber", [delta, 0.0]), move |[x, y]| {
        let d = x - y;
        let slope = d.clamp(-delta, delta);
        let value = if d.abs() < delta { 0.5 * d * d } else { delta * (d.abs() - 0.5 * delta) };
        (value, [slope, -slope])
    })
}

/// Smooth L1 (`torch.nn.SmoothL1Loss`): [`huber`] divided by its threshold `beta`.
///
/// # Errors
/// As [`l1`]; [`Error::Argument`] if `beta` is not above 0.
pub fn smooth_l1(pred: &Tensor, target: &Tensor, beta: f64) -> Result<Tensor> {
    let beta = positive("smooth_l1", "beta", beta)?;
    Ok((huber(pred, target, beta)? / beta)?)
}

/// Mean of `ln cosh d`, in a form that cannot overflow.
///
/// # Errors
/// As [`l1`].
pub fn log_cosh(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    mean_of2("log_cosh", [pred, target], Kernel::plain("log_cosh"), |[x, y]| {
        let d = x - y;
        let value = d.abs() + (-2.0 * d.abs()).exp().ln_1p() - std::f64::consts::LN_2;
        (value, [d.tanh(), -d.tanh()])
    })
}

/// Mean squared difference that counts half where `interpolated` is right and fully where it is most
/// wrong in the whole batch (the objective of EMDiffuse's 3D-SR-Unet, with a cubic interpolation).
///
/// Only `pred` receives a gradient. An interpolation without any error weighs all elements half.
///
/// # Errors
/// As [`l1`].
pub fn interpolation_weighted_l2(
    pred: &Tensor,
    target: &Tensor,
    interpolated: &Tensor,
) -> Result<Tensor> {
    const OP: &str = "interpolation_weighted_l2";
    let (target, interpolated) = (target.detach(), interpolated.detach());
    let [a, b] = prepare(OP, [&interpolated, &target])?;
    let weighted = Kernel::plain("weighted_l2");
    if on_gpu(&a) {
        let error = (a - b)?.sqr()?;
        // without any error the quotient is zero over one
        let largest = error.max_all()?;
        let largest = (&largest + largest.eq(0.0)?.to_dtype(largest.dtype())?)?;
        let weight = error.broadcast_div(&largest)?.affine(0.5, 0.5)?.to_dtype(pred.dtype())?;
        return mean_of3(OP, [pred, &target, &weight], weighted, |[x, y, m]| {
            let d = x - y;
            (m * d * d, [2.0 * m * d, 0.0, 0.0])
        });
    }
    let errors = values(&a)?.into_iter().zip(values(&b)?).map(|(a, b)| (a - b) * (a - b));
    // a NaN anywhere must not be lost
    let largest = errors.fold(0.0, |m: f64, e| if e > m || e.is_nan() { e } else { m });
    mean_of3(OP, [pred, &target, &interpolated], weighted, move |[x, y, i]| {
        let (d, error) = (x - y, (i - y) * (i - y));
        let relative = if largest == 0.0 { 0.0 } else { error / largest };
        let weight = 0.5 + 0.5 * relative;
        (weight * d * d, [2.0 * weight * d, 0.0, 0.0])
    })
}

/// Relative L2 error `‖pred - target‖ / ‖target‖` of each sample, averaged over samples.
///
/// # Errors
/// As [`l1`]; [`Error::Argument`] if a target sample is zero everywhere.
pub fn relative_l2(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "relative_l2";
    let error = sample_means2(OP, [pred, target], Kernel::plain("l2"), squared)?;
    let power = sample_means(OP, target, Kernel::plain("square"), |[y]| (y * y, [2.0 * y]))?;
    if has_zero(&power)? {
        return Err(Error::argument(OP, "a target sample is zero everywhere"));
    }
    Ok((root(&error)? / root(&power)?)?.mean_all()?)
}

/// Whether one of the divisors is zero. Those on a GPU are not looked at, which would wait for it:
/// there the loss is not finite then.
fn has_zero(divisors: &Tensor) -> Result<bool> {
    if on_gpu(divisors) {
        return Ok(false);
    }
    let smallest: f64 = divisors.min_all()?.to_dtype(candle_core::DType::F64)?.to_scalar()?;
    Ok(smallest == 0.0)
}

/// Square root whose gradient at 0 is 0, as of a norm in PyTorch.
fn root(x: &Tensor) -> Result<Tensor> {
    sample_means("sqrt", x, Kernel::plain("root"), |[x]| {
        let root = x.sqrt();
        (root, [if root == 0.0 { 0.0 } else { 0.5 / root }])
    })
}

/// One minus Pearson's correlation of each sample, averaged over samples.
///
/// # Errors
/// As [`l1`]; [`Error::Argument`] if a sample of either image is constant.
pub fn correlation(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "correlation";
    let centred = |x: &Tensor| -> Result<Tensor> {
        let mut per_sample = vec![1; x.rank()];
        per_sample[0] = x.dim(0)?;
        let means = sample_means(OP, x, Kernel::plain("identity"), |[x]| (x, [1.0]))?;
        Ok(x.to_dtype(means.dtype())?.broadcast_sub(&means.reshape(per_sample)?)?)
    };
    prepare(OP, [pred, target])?;
    let (x, y) = (centred(pred)?, centred(target)?);
    let square = |[x]: [f64; 1]| (x * x, [2.0 * x]);
    let power = |x: &Tensor| sample_means(OP, x, Kernel::plain("square"), square);
    let norm = (power(&x)? * power(&y)?)?;
    if has_zero(&norm)? {
        return Err(Error::argument(OP, "a sample is constant, so its correlation is undefined"));
    }
    let product = sample_means2(OP, [&x, &y], Kernel::plain("product"), |[x, y]| (x * y, [y, x]))?;
    Ok((product / root(&norm)?)?.mean_all()?.affine(-1.0, 1.0)?)
}

/// Negative PSNR in dB: `10 log10(mse / data_range² + 1e-8)` of each sample, averaged (BasicSR).
///
/// # Errors
/// As [`l1`]; [`Error::Argument`] if `data_range` is not above 0.
pub fn negative_psnr(pred: &Tensor, target: &Tensor, data_range: f64) -> Result<Tensor> {
    let range = positive("negative_psnr", "data_range", data_range)?;
    let mse = sample_means2("negative_psnr", [pred, target], Kernel::plain("l2"), squared)?;
    let decibel = 10.0 / std::f64::consts::LN_10;
    Ok(((mse / (range * range))? + 1e-8)?.log()?.mean_all()?.affine(decibel, 0.0)?)
}
