//! Losses of complex numbers, which are pairs of real and imaginary part along the last axis.

use super::operand::{cpu, on_gpu, prepare, slice};
use super::pixel::sign;
use super::reduce::{Kernel, mean_of, mean_of2};
use crate::sum::{BLOCK, mean};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, WithDType};
use limpid_kernels::{Error, Result};
use rayon::prelude::*;

/// The difference, after checking that both are complex.
fn difference(op: &'static str, pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    if pred.dims().last() != Some(&2) || pred.dims() != target.dims() {
        let expected = format!("[N, .., 2] as the target {:?}", target.dims());
        return Err(Error::shape(op, expected, pred.dims()));
    }
    Ok((pred - target)?)
}

/// Mean absolute value of the difference, as `torch.nn.L1Loss` of complex tensors. Its gradient at
/// zero is zero.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the last axis is not two long; so for all below.
pub fn complex_l1(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    let d = difference("complex_l1", pred, target)?;
    let [d] = prepare("complex_l1", [&d])?;
    if on_gpu(&d) {
        let last = d.rank() - 1;
        let (re, im) = (d.narrow(last, 0, 1)?, d.narrow(last, 1, 1)?);
        return mean_of2("complex_l1", [&re, &im], Kernel::plain("modulus"), |pair| {
            let size = modulus(pair);
            let over = if size > 0.0 { 1.0 / size } else { 0.0 * size };
            (size, pair.map(|x| over * x))
        });
    }
    Ok(d.apply_op1(MeanModulus)?.to_device(pred.device())?)
}

/// Mean absolute value of pairs of real and imaginary part: 0-d.
struct MeanModulus;

impl MeanModulus {
    fn mean<T: WithDType>(data: &[T]) -> CpuStorage {
        let (pairs, _) = data.as_chunks::<2>();
        let mean = mean(pairs.len(), |i| modulus(pairs[i].map(T::to_f64)));
        T::to_cpu_storage_owned(vec![T::from_f64(mean)])
    }

    fn slopes<T: WithDType>(d: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        let (storage, layout) = d.storage_and_layout();
        let (pairs, _) = slice::<T>(cpu(&storage)?, layout)?.as_chunks::<2>();
        let scale = grad.to_scalar::<T>()?.to_f64() / pairs.len() as f64;
        let mut out = vec![T::zero(); 2 * pairs.len()];
        let blocks = out.par_chunks_mut(2 * BLOCK).zip(pairs.par_chunks(BLOCK));
        blocks.for_each(|(out, pairs)| {
            for (out, pair) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                let pair = pair.map(T::to_f64);
                let size = modulus(pair);
                let over = if size > 0.0 { scale / size } else { 0.0 * size };
                *out = pair.map(|x| T::from_f64(over * x));
            }
        });
        Tensor::from_vec(out, d.shape(), &Device::Cpu)
    }
}

fn modulus([re, im]: [f64; 2]) -> f64 {
    let square = re * re + im * im;
    // the function of the library is slow, and needed only where squares leave the range
    if square.is_normal() { square.sqrt() } else { re.hypot(im) }
}

impl CustomOp1 for MeanModulus {
    fn name(&self) -> &'static str {
        "complex_l1"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mean = match s {
            CpuStorage::F64(_) => Self::mean(slice::<f64>(s, l)?),
            _ => Self::mean(slice::<f32>(s, l)?),
        };
        Ok((mean, ().into()))
    }

    fn bwd(&self, d: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        match d.dtype() {
            DType::F64 => Self::slopes::<f64>(d, grad),
            _ => Self::slopes::<f32>(d, grad),
        }
        .map(Some)
    }
}

/// Mean of `|real part| + |imaginary part|` of the difference.
///
/// # Errors
/// As [`complex_l1`].
pub fn complex_l1_parts(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    let d = difference("complex_l1_parts", pred, target)?;
    Ok((mean_of("complex_l1_parts", &d, Kernel::plain("magnitude"), |[x]| (x.abs(), [sign(x)]))?
        * 2.0)?)
}

/// Mean squared absolute value of the difference.
///
/// # Errors
/// As [`complex_l1`].
pub fn complex_l2(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    let d = difference("complex_l2", pred, target)?;
    Ok((mean_of("complex_l2", &d, Kernel::plain("square"), |[x]| (x * x, [2.0 * x]))? * 2.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn single_numbers_of_any_size_have_moduli_and_slopes() {
        // more than a block, with zeros and with squares beyond the range of f64
        let pairs = BLOCK + 7;
        let value = |i: usize| match i % 5 {
            0 => 0.0,
            k => (k as f32 - 2.5) * 0.3,
        };
        let values: Vec<f32> = (0..2 * pairs).map(value).collect();
        let truth =
            values.as_chunks::<2>().0.iter().map(|[a, b]| f64::from(*a).hypot(f64::from(*b)));
        let truth = truth.sum::<f64>() / pairs as f64;
        let pred = Tensor::from_vec(values.clone(), (pairs, 2), &Device::Cpu).unwrap();
        let pred = Var::from_tensor(&pred).unwrap();
        let loss = complex_l1(&pred, &pred.zeros_like().unwrap()).unwrap();
        let got = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((got - truth).abs() < 1e-6 * truth, "{got} {truth}");
        let slopes = loss.backward().unwrap().remove(&pred).unwrap();
        let slopes: Vec<f32> = slopes.flatten_all().unwrap().to_vec1().unwrap();
        for (slope, pair) in slopes.as_chunks::<2>().0.iter().zip(values.as_chunks::<2>().0) {
            let size = pair[0].hypot(pair[1]);
            for (slope, x) in slope.iter().zip(pair) {
                let want = if size > 0.0 { x / size / pairs as f32 } else { 0.0 };
                assert!((slope - want).abs() <= 1e-6 * want.abs(), "{slope} {want}");
            }
        }
        assert!((modulus([3e200, 4e200]) / 5e200 - 1.0).abs() < 1e-15);
        assert!((modulus([3e-200, -4e-200]) / 5e-200 - 1.0).abs() < 1e-15);
        assert!(modulus([f64::NAN, 0.0]).is_nan());
    }
}
