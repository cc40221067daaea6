//! Comparison of analytic gradients with central finite differences, for the tests of every crate.

use crate::{Error, Result, autograd};
use candle_core::{DType, Device, Tensor, Var};

/// Worst relative error between the gradient of `f` and central differences, over all inputs.
///
/// `f` maps the inputs (f64, CPU) to a tensor of any shape; the scalar checked is its inner product
/// with fixed pseudo-random weights, so every output element matters. The error of an element is
/// `|analytic - numeric| / (1 + |numeric|)`; the analytic gradient is found twice, on the tape of
/// [`autograd`] and by candle, and their difference counts too. Use smooth functions or points away from kinks, and
/// expect about 1e-8.
///
/// # Errors
/// Whatever `f` returns; [`Error::Argument`] if an input receives no gradient at all.
pub fn worst_error(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<f64> {
    let vars = inputs
        .iter()
        .map(|t| Ok(Var::from_tensor(&t.to_dtype(DType::F64)?)?))
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let weights = fixed_weights(&f(&tensors)?)?;
    let scalar = |y: Tensor| -> Result<Tensor> { Ok((y * &weights)?.sum_all()?) };
    let by_candle = scalar(f(&tensors)?)?.backward()?;
    let grads = autograd::record(|| autograd::backward(&scalar(f(&tensors)?)?))?;

    let step = 1e-5;
    let mut worst = 0f64;
    for (i, var) in vars.iter().enumerate() {
        let analytic = grads
            .get(var)
            .ok_or_else(|| Error::argument("gradcheck", format!("input {i} has no gradient")))?
            .flatten_all()?
            .to_vec1::<f64>()?;
        let other = by_candle
            .get(var)
            .ok_or_else(|| Error::argument("gradcheck", format!("input {i} has no gradient")))?
            .flatten_all()?
            .to_vec1::<f64>()?;
        for (a, b) in analytic.iter().zip(other) {
            worst = worst.max((a - b).abs() / (1.0 + b.abs()));
        }
        let base = var.flatten_all()?.to_vec1::<f64>()?;
        for (j, &a) in analytic.iter().enumerate() {
            let eval = |delta: f64| -> Result<f64> {
                let mut moved = base.clone();
                moved[j] += delta;
                let mut args: Vec<Tensor> = tensors.iter().map(Tensor::detach).collect();
                args[i] = Tensor::from_vec(moved, var.shape(), &Device::Cpu)?;
                Ok(scalar(f(&args)?)?.to_scalar::<f64>()?)
            };
            let numeric = (eval(step)? - eval(-step)?) / (2.0 * step);
            worst = worst.max((a - numeric).abs() / (1.0 + numeric.abs()));
        }
    }
    Ok(worst)
}

/// A reproducible f64 test tensor with values in about `[-1, 1]`, no two equal.
///
/// # Errors
/// Only if the shape cannot be allocated.
pub fn test_tensor(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let mut draws = crate::rng::Stream::new(seed, "gradcheck").draws();
    let data: Vec<f64> = (0..n).map(|_| draws.range(-1.0, 1.0)).collect();
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

fn fixed_weights(like: &Tensor) -> Result<Tensor> {
    test_tensor(0x5EED, like.dims())
}
