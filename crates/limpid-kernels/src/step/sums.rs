//! What is known of whole tensors: sums of squares, and whether all elements are finite.
//!
//! On a GPU the functions of lists look at all tensors in one pass and fetch two numbers for each:
//! a look at one after the other would wait for the device as often.

use super::cpu;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// What one look at a list of tensors has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survey {
    /// The place of the first tensor with an element that is infinite or NaN.
    pub nonfinite: Option<usize>,
    /// The sum of the squares of all elements, where the same look finds it: on a GPU.
    pub squares: Option<f64>,
}

/// Sum of the squares of all elements, accumulated in f64 in an order that does not depend on the
/// number of threads.
///
/// # Errors
/// [`Error::Shape`] unless `t` holds floats.
pub fn sum_squares(t: &Tensor) -> Result<f64> {
    sum_squares_all(&[t])
}

/// The sum of [`sum_squares`] of all tensors, in their order.
///
/// # Errors
/// [`Error::Shape`] unless all hold floats.
pub fn sum_squares_all(tensors: &[&Tensor]) -> Result<f64> {
    let op = "sum_squares";
    #[cfg(feature = "cuda")]
    if on_gpu(tensors) {
        return Ok(on_a_gpu(op, tensors)?.into_iter().fold(0.0, |sum, [squares, _]| sum + squares));
    }
    let mut sum = 0.0;
    for t in tensors {
        #[cfg(feature = "cuda")]
        if t.device().is_cuda() {
            sum += on_a_gpu(op, &[t])?[0][0];
            continue;
        }
        sum += cpu::sum_squares(&on_cpu(op, t)?)?;
    }
    Ok(sum)
}

/// Whether no element is infinite or NaN. Integers always are finite.
///
/// # Errors
/// Only if the tensor cannot be read.
pub fn all_finite(t: &Tensor) -> Result<bool> {
    Ok(first_nonfinite(&[t])?.is_none())
}

/// The place of the first tensor with an element that is infinite or NaN.
///
/// # Errors
/// Only if a tensor cannot be read.
pub fn first_nonfinite(tensors: &[&Tensor]) -> Result<Option<usize>> {
    let op = "all_finite";
    #[cfg(feature = "cuda")]
    if on_gpu(tensors) {
        return Ok(on_a_gpu(op, tensors)?.iter().position(|[_, bad]| *bad > 0.0));
    }
    for (i, t) in tensors.iter().enumerate().filter(|(_, t)| t.dtype().is_float()) {
        #[cfg(feature = "cuda")]
        if t.device().is_cuda() {
            if on_a_gpu(op, &[t])?[0][1] > 0.0 {
                return Ok(Some(i));
            }
            continue;
        }
        if !cpu::all_finite(&on_cpu(op, t)?)? {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// [`first_nonfinite`], and [`sum_squares_all`] where that is found on the way.
///
/// # Errors
/// Only if a tensor cannot be read.
pub fn survey(tensors: &[&Tensor]) -> Result<Survey> {
    #[cfg(feature = "cuda")]
    if on_gpu(tensors) {
        let found = on_a_gpu("survey", tensors)?;
        return Ok(Survey {
            nonfinite: found.iter().position(|[_, bad]| *bad > 0.0),
            squares: Some(found.into_iter().fold(0.0, |sum, [squares, _]| sum + squares)),
        });
    }
    Ok(Survey { nonfinite: first_nonfinite(tensors)?, squares: None })
}

/// Whether all are floats on one GPU.
#[cfg(feature = "cuda")]
fn on_gpu(tensors: &[&Tensor]) -> bool {
    tensors.first().is_some_and(|first| {
        let device = first.device();
        device.is_cuda()
            && tensors.iter().all(|t| t.device().same_device(device) && t.dtype().is_float())
    })
}

/// The sum of squares and the number of elements that are not finite, of each tensor.
#[cfg(feature = "cuda")]
fn on_a_gpu(op: &'static str, tensors: &[&Tensor]) -> Result<Vec<[f64; 2]>> {
    let wide = tensors.iter().map(|t| Ok(t.detach().to_dtype(readable(op, t)?)?));
    let wide = wide.collect::<Result<Vec<_>>>()?;
    let mut found = vec![[0.0; 2]; wide.len()];
    for dtype in [DType::F32, DType::F64] {
        let places: Vec<usize> = (0..wide.len()).filter(|&i| wide[i].dtype() == dtype).collect();
        let of_type: Vec<&Tensor> = places.iter().map(|&i| &wide[i]).collect();
        if of_type.is_empty() {
            continue;
        }
        let sums = match dtype {
            DType::F64 => super::cuda::look::<f64>(op, &of_type)?,
            _ => super::cuda::look::<f32>(op, &of_type)?,
        };
        for (i, sum) in places.into_iter().zip(sums) {
            found[i] = sum;
        }
    }
    Ok(found)
}

/// `t` as contiguous f32 or f64 in main memory.
fn on_cpu(op: &'static str, t: &Tensor) -> Result<Tensor> {
    let dtype = readable(op, t)?;
    Ok(t.detach().to_device(&Device::Cpu)?.to_dtype(dtype)?.contiguous()?)
}

/// The type in which floats are looked at.
fn readable(op: &'static str, t: &Tensor) -> Result<DType> {
    match t.dtype() {
        DType::F32 | DType::F64 => Ok(t.dtype()),
        DType::F16 | DType::BF16 => Ok(DType::F32),
        other => Err(Error::shape(op, "a tensor of floats", other)),
    }
}
