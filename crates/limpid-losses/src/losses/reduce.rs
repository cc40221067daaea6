//! The mean over each sample of a function of elements: the one operation behind most losses.
//!
//! A loss states its value and its derivatives side by side as a closure of f64 numbers; this file
//! turns the closure into a differentiable tensor operation that makes one parallel pass over the
//! data, adds in f64 in a fixed order, and returns one mean per sample. Writing the derivative by
//! hand keeps PyTorch's choice at kinks (`|x|' = 0` at 0), which candle's own operations do not.
//!
//! A GPU cannot run the closures: each has a twin in `limpid-kernels/src/loss/op.cu`, named beside
//! it.

use super::operand::{cpu, prepare, slice};
use crate::sum::{BLOCK, mean};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Tensor, WithDType,
};
use limpid_kernels::Result;
use rayon::prelude::*;

/// A function of one element of each operand: its value and its derivative by each operand.
pub(super) trait Pointwise<const N: usize>:
    Fn([f64; N]) -> (f64, [f64; N]) + Copy + Send + Sync + 'static
{
}

impl<const N: usize, F> Pointwise<N> for F where
    F: Fn([f64; N]) -> (f64, [f64; N]) + Copy + Send + Sync + 'static
{
}

/// The twin of a closure on GPUs: its name in `op.cu` and its parameters there.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(super) struct Kernel(pub &'static str, pub [f64; 2]);

impl Kernel {
    /// One without parameters.
    pub(super) fn plain(name: &'static str) -> Self {
        Self(name, [0.0; 2])
    }

    #[cfg(feature = "cuda")]
    fn formula(self) -> limpid_kernels::loss::Formula {
        limpid_kernels::loss::Formula { name: self.0, numbers: self.1 }
    }
}

/// Mean of `f` over each sample `[N, ..]` of one tensor: `[N]`.
pub(super) fn sample_means(
    name: &'static str,
    x: &Tensor,
    kernel: Kernel,
    f: impl Pointwise<1>,
) -> Result<Tensor> {
    let [a] = prepare(name, [x])?;
    Ok(a.apply_op1(SampleMeans { name, kernel, f })?.to_device(x.device())?)
}

/// Mean of `f` over each sample `[N, ..]` of two tensors: `[N]`.
pub(super) fn sample_means2(
    name: &'static str,
    inputs: [&Tensor; 2],
    kernel: Kernel,
    f: impl Pointwise<2>,
) -> Result<Tensor> {
    let [a, b] = prepare(name, inputs)?;
    Ok(a.apply_op2(&b, SampleMeans { name, kernel, f })?.to_device(inputs[0].device())?)
}

/// Mean of `f` over each sample `[N, ..]` of three tensors: `[N]`.
pub(super) fn sample_means3(
    name: &'static str,
    inputs: [&Tensor; 3],
    kernel: Kernel,
    f: impl Pointwise<3>,
) -> Result<Tensor> {
    let [a, b, c] = prepare(name, inputs)?;
    Ok(a.apply_op3(&b, &c, SampleMeans { name, kernel, f })?.to_device(inputs[0].device())?)
}

/// Mean of `f` over all elements of one tensor: 0-d.
pub(super) fn mean_of(
    name: &'static str,
    x: &Tensor,
    kernel: Kernel,
    f: impl Pointwise<1>,
) -> Result<Tensor> {
    Ok(sample_means(name, x, kernel, f)?.mean_all()?)
}

/// Mean of `f` over all elements of two tensors: 0-d.
pub(super) fn mean_of2(
    name: &'static str,
    inputs: [&Tensor; 2],
    kernel: Kernel,
    f: impl Pointwise<2>,
) -> Result<Tensor> {
    Ok(sample_means2(name, inputs, kernel, f)?.mean_all()?)
}

/// Mean of `f` over all elements of three tensors: 0-d.
pub(super) fn mean_of3(
    name: &'static str,
    inputs: [&Tensor; 3],
    kernel: Kernel,
    f: impl Pointwise<3>,
) -> Result<Tensor> {
    Ok(sample_means3(name, inputs, kernel, f)?.mean_all()?)
}

struct SampleMeans<F> {
    name: &'static str,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    kernel: Kernel,
    f: F,
}

impl<F> SampleMeans<F> {
    fn forward<const N: usize>(
        &self,
        inputs: [(&CpuStorage, &Layout); N],
    ) -> candle_core::Result<(CpuStorage, Shape)>
    where
        F: Pointwise<N>,
    {
        match inputs[0].0 {
            CpuStorage::F64(_) => self.means::<f64, N>(inputs),
            _ => self.means::<f32, N>(inputs),
        }
    }

    fn means<T: WithDType, const N: usize>(
        &self,
        inputs: [(&CpuStorage, &Layout); N],
    ) -> candle_core::Result<(CpuStorage, Shape)>
    where
        F: Pointwise<N>,
    {
        let mut data: [&[T]; N] = [&[]; N];
        for (slot, (storage, layout)) in data.iter_mut().zip(inputs) {
            *slot = slice(storage, layout)?;
        }
        let samples = inputs[0].1.dims()[0];
        let size = data[0].len() / samples;
        let means: Vec<T> = (0..samples)
            .map(|s| {
                let sample = data.map(|d| &d[s * size..(s + 1) * size]);
                T::from_f64(mean(size, |i| (self.f)(sample.map(|d| d[i].to_f64())).0))
            })
            .collect();
        Ok((T::to_cpu_storage_owned(means), Shape::from(samples)))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda(
        &self,
        inputs: &[limpid_kernels::loss::Lent<'_>],
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        limpid_kernels::loss::means(self.name, self.kernel.formula(), inputs)
            .map_err(candle_core::Error::wrap)
    }

    /// The gradient of every operand that asks for one.
    fn backward<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; N]>
    where
        F: Pointwise<N>,
    {
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let wanted = inputs.map(Tensor::track_op);
            let formula = self.kernel.formula();
            let slopes = limpid_kernels::loss::slopes(self.name, formula, &inputs, &wanted, grad);
            let mut slopes = slopes.map_err(candle_core::Error::wrap)?.into_iter();
            return Ok(std::array::from_fn(|_| slopes.next().flatten()));
        }
        match grad.dtype() {
            DType::F64 => self.slopes::<f64, N>(inputs, grad),
            _ => self.slopes::<f32, N>(inputs, grad),
        }
    }

    fn slopes<T: WithDType, const N: usize>(
        &self,
        inputs: [&Tensor; N],
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; N]>
    where
        F: Pointwise<N>,
    {
        let held = inputs.map(Tensor::storage_and_layout);
        let mut data: [&[T]; N] = [&[]; N];
        for (slot, (storage, layout)) in data.iter_mut().zip(&held) {
            *slot = slice(cpu(storage)?, layout)?;
        }
        let grad = grad.to_vec1::<T>()?;
        let size = data[0].len() / grad.len();
        let mut result = [const { None }; N];
        for (k, input) in inputs.iter().enumerate().filter(|(_, input)| input.track_op()) {
            let mut out = vec![T::zero(); data[0].len()];
            for (s, sample) in out.chunks_mut(size).enumerate() {
                let scale = grad[s].to_f64() / size as f64;
                sample.par_chunks_mut(BLOCK).enumerate().for_each(|(b, block)| {
                    let first = s * size + b * BLOCK;
                    for (i, o) in block.iter_mut().enumerate() {
                        let (_, slope) = (self.f)(data.map(|d| d[first + i].to_f64()));
                        *o = T::from_f64(scale * slope[k]);
                    }
                });
            }
            result[k] = Some(Tensor::from_vec(out, input.shape(), &Device::Cpu)?);
        }
        Ok(result)
    }
}

impl<F: Pointwise<1>> CustomOp1 for SampleMeans<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward([(s, l)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        self.forward_cuda(&[(s, l)])
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [da] = self.backward([a], grad)?;
        Ok(da)
    }
}

impl<F: Pointwise<2>> CustomOp2 for SampleMeans<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward([(s1, l1), (s2, l2)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        self.forward_cuda(&[(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = self.backward([a, b], grad)?;
        Ok((da, db))
    }
}

impl<F: Pointwise<3>> CustomOp3 for SampleMeans<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward([(s1, l1), (s2, l2), (s3, l3)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
        s3: &candle_core::CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        self.forward_cuda(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = self.backward([a, b, c], grad)?;
        Ok((da, db, dc))
    }
}
