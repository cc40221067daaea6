//! What is known of whole tensors: sums of squares, and whether all elements are finite.
//!
//! On a GPU a look at a list of tensors is one pass over all of them, whose result stays there until somebody reads it.

use super::cpu;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// What a look at tensors has found: of each the sum of its squares, and how many elements are infinite or NaN.
///
/// On a GPU it lies there, and whoever reads it waits for all work before.
#[derive(Clone, Debug)]
pub struct Look {
    /// `[tensors, 2]` in f64.
    sums: Tensor,
}

impl Look {
    /// Looks at tensors of one device. Sums are taken in f64 in an order that does not depend on the number of threads.
    ///
    /// # Errors
    /// [`Error::Shape`] unless all hold floats; on a GPU also if they lie on several.
    pub fn at(tensors: &[&Tensor]) -> Result<Self> {
        let op = "look";
        #[cfg(feature = "cuda")]
        if tensors.first().is_some_and(|first| first.device().is_cuda()) {
            let wide = tensors.iter().map(|t| Ok(t.detach().to_dtype(readable(op, t)?)?));
            let wide = wide.collect::<Result<Vec<_>>>()?;
            return Ok(Self { sums: super::cuda::look(op, &wide)? });
        }
        let mut sums = Vec::with_capacity(2 * tensors.len());
        for t in tensors {
            let t = on_cpu(op, t)?;
            let squares = cpu::sum_squares(&t)?;
            // what is infinite or NaN shows in the sum; that of finite f64 may overflow
            let is_bad = !squares.is_finite() && !cpu::all_finite(&t)?;
            sums.extend([squares, f64::from(u8::from(is_bad))]);
        }
        Ok(Self { sums: Tensor::from_vec(sums, (tensors.len(), 2), &Device::Cpu)? })
    }

    /// What was found, as it lies on the device: `[tensors, 2]` in f64.
    #[must_use]
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }

    /// What was found: of each tensor the sum of its squares, and a number above 0 if an element is not finite.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn read(&self) -> Result<Vec<[f64; 2]>> {
        let sums = self.sums.flatten_all()?.to_vec1::<f64>()?;
        Ok(sums.as_chunks::<2>().0.to_vec())
    }
}

/// A judgement on gradients that need not have left the GPU: whether updates may be made with them, and what they are
/// to be multiplied by before.
#[derive(Clone, Debug)]
pub struct Gate {
    /// A factor, and whether the gate is shut: above 0.
    pub(super) verdict: Tensor,
}

/// How gradients are judged.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'a> {
    /// So many of the tensors looked at are the gradients, the first ones; the others must be finite too.
    pub gradients: usize,
    /// The gradients are so many times too large.
    pub scale: f64,
    /// The most that their common Euclidean norm may be, after division by the scale.
    pub max_norm: Option<f64>,
    /// A gate that, if it is shut, shuts this one.
    pub after: Option<&'a Gate>,
}

impl Gate {
    /// Judges what was looked at. The factor is that of `torch.nn.utils.clip_grad_norm_`, divided by the scale.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn new(look: &Look, judgement: Judgement) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if look.sums.device().is_cuda() {
            return Ok(Self { verdict: super::cuda::judged(&look.sums, judgement)? });
        }
        let Judgement { gradients, scale, max_norm, after } = judgement;
        let found = look.read()?;
        let mut shut = found.iter().any(|[_, bad]| *bad > 0.0);
        if let Some(before) = after {
            shut |= before.read()?.1;
        }
        let squares = found.iter().take(gradients).fold(0.0, |sum, [squares, _]| sum + squares);
        let norm = squares.sqrt() / scale;
        let clip = max_norm.map_or(1.0, |max| max / (norm + 1e-6));
        let factor = if clip < 1.0 && norm.is_finite() { clip / scale } else { 1.0 / scale };
        let verdict = Tensor::new(&[factor, f64::from(u8::from(shut))], &Device::Cpu)?;
        Ok(Self { verdict })
    }

    /// What gradients are multiplied by, and whether the gate is shut.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn read(&self) -> Result<(f64, bool)> {
        let verdict = self.verdict.to_vec1::<f64>()?;
        Ok((verdict[0], verdict[1] > 0.0))
    }

    /// Copies of tensors, multiplied by the factor.
    ///
    /// # Errors
    /// [`Error::Shape`] unless they are f32 or f64.
    pub fn scaled(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        #[cfg(feature = "cuda")]
        if self.verdict.device().is_cuda() {
            return super::cuda::scaled(&self.verdict, tensors);
        }
        let (factor, _) = self.read()?;
        if factor == 1.0 {
            return Ok(tensors.iter().map(|&t| t.clone()).collect());
        }
        tensors.iter().map(|t| Ok(t.affine(factor, 0.0)?)).collect()
    }
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
/// [`Error::Shape`] unless all hold floats; on a GPU also if they lie on several.
pub fn sum_squares_all(tensors: &[&Tensor]) -> Result<f64> {
    Ok(Look::at(tensors)?.read()?.into_iter().fold(0.0, |sum, [squares, _]| sum + squares))
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
    let floats: Vec<usize> =
        (0..tensors.len()).filter(|&i| tensors[i].dtype().is_float()).collect();
    #[cfg(feature = "cuda")]
    if floats.first().is_some_and(|&i| tensors[i].device().is_cuda()) {
        let found = Look::at(&floats.iter().map(|&i| tensors[i]).collect::<Vec<_>>())?.read()?;
        return Ok(found.iter().position(|[_, bad]| *bad > 0.0).map(|at| floats[at]));
    }
    for i in floats {
        if !cpu::all_finite(&on_cpu("all_finite", tensors[i])?)? {
            return Ok(Some(i));
        }
    }
    Ok(None)
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
