//! Sums of images times numbers: all the arithmetic of a diffusion.

use candle_core::{DType, Tensor};
use limpid_engine::Result;
use limpid_kernels::Error;

/// The sum of tensors of one shape times factors: one for all rows, or one per row.
///
/// Factors are rounded once, to the type of the tensor; terms without weight are left out, so that
/// what is not finite in them does not count.
pub(super) fn combine(terms: &[(&Tensor, &[f64])]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (tensor, factors) in terms {
        if factors.iter().all(|f| *f == 0.0) {
            continue;
        }
        let term = scaled(tensor, factors)?;
        sum = Some(match sum {
            Some(sum) => limpid_kernels::add(&sum, &term)?,
            None => term,
        });
    }
    match (sum, terms) {
        (Some(sum), _) => Ok(sum),
        (None, [(first, _), ..]) => Ok(first.zeros_like()?),
        (None, []) => Err(Error::argument("combine", "no terms").into()),
    }
}

fn scaled(tensor: &Tensor, factors: &[f64]) -> Result<Tensor> {
    if let [first, rest @ ..] = factors
        && rest.iter().all(|f| f == first)
    {
        if *first == 1.0 {
            return Ok((*tensor).clone());
        }
        return Ok(limpid_kernels::scale(tensor, *first)?);
    }
    let rows = tensor.dims().first().copied().unwrap_or(0);
    if factors.len() != rows {
        let expected = format!("{} images, one for each noise level", factors.len());
        return Err(Error::shape("diffusion", expected, tensor.dims()).into());
    }
    let mut shape = vec![1; tensor.rank()];
    shape[0] = rows;
    let dtype = if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let factors = Tensor::from_slice(factors, shape, tensor.device())?.to_dtype(dtype)?;
    Ok(tensor.broadcast_mul(&factors)?)
}
