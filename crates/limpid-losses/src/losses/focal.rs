//! Focal loss: cross-entropy in which well-classified pixels count little.

use super::operand::{on_gpu, prepare};
use candle_core::{DType, Device, Tensor};
use limpid_kernels::{Error, Result, log_softmax};

/// Focal loss of each element (Lin et al. 2017, arXiv:1708.02002): `-w (1 - p)^gamma ln p`, with the
/// probability `p` and the weight `w` of the true class.
///
/// As in EMDiffuse the factor `(1 - p)^gamma` receives no gradient. `weights` holds one weight per
/// class; none weighs all alike. `gamma` is usually 2; at 0 this is cross-entropy.
///
/// # Shapes
/// `logits [N, C, ..]`, `classes [N, ..]` of an integer type → `[N, ..]`
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit; [`Error::Argument`] if a class is not below `C`, there
/// is not one weight per class, or `gamma` is negative.
pub fn focal_elements(
    logits: &Tensor,
    classes: &Tensor,
    gamma: f64,
    weights: Option<&[f64]>,
) -> Result<Tensor> {
    const OP: &str = "focal";
    if !(gamma.is_finite() && gamma >= 0.0) {
        let message = format!("`gamma` must be finite and not negative, got {gamma}");
        return Err(Error::argument(OP, message));
    }
    let [logits] = prepare(OP, [logits])?;
    let [samples, count, rest @ ..] = logits.dims() else {
        return Err(Error::shape(OP, "logits [N, C, ..]", logits.dims()));
    };
    let (count, expected) = (*count, [&[*samples], rest].concat());
    if classes.dims() != expected || classes.dtype().is_float() {
        let expected = format!("integer classes of shape {expected:?}");
        return Err(Error::shape(OP, expected, (classes.dims(), classes.dtype())));
    }
    let indices = classes.to_device(logits.device())?.to_dtype(DType::I64)?;
    // of classes on a GPU two numbers are fetched: an index out of range would end the program
    // there
    let flat: Vec<i64> = if on_gpu(classes) {
        let numbers = classes.flatten_all()?.to_dtype(DType::F64)?;
        let ends = Tensor::stack(&[numbers.min(0)?, numbers.max(0)?], 0)?.to_vec1::<f64>()?;
        ends.into_iter().map(|class| class as i64).collect()
    } else {
        classes.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.to_vec1()?
    };
    if let Some(bad) = flat.iter().find(|&&class| !(0..count as i64).contains(&class)) {
        let message = format!("classes must lie in 0..{count}, got {bad}");
        return Err(Error::argument(OP, message));
    }

    let log_p = log_softmax(&logits, 1)?;
    let log_p = log_p.gather(&indices.unsqueeze(1)?.contiguous()?, 1)?.squeeze(1)?;
    let mut factor = log_p.detach().exp()?.affine(-1.0, 1.0)?.powf(gamma)?;
    if let Some(weights) = weights {
        if weights.len() != count {
            let message = format!("needs a weight for each of {count} classes");
            return Err(Error::argument(OP, message));
        }
        let weights = Tensor::new(weights, log_p.device())?.to_dtype(log_p.dtype())?;
        let by_element = weights.index_select(&indices.flatten_all()?, 0)?;
        factor = (factor * by_element.reshape(log_p.shape())?)?;
    }
    Ok((log_p * factor)?.neg()?)
}

/// Mean of [`focal_elements`].
///
/// # Errors
/// As [`focal_elements`].
pub fn focal(
    logits: &Tensor,
    classes: &Tensor,
    gamma: f64,
    weights: Option<&[f64]>,
) -> Result<Tensor> {
    Ok(focal_elements(logits, classes, gamma, weights)?.mean_all()?)
}
