//! What every loss does with its tensors first: compare shapes, choose the precision, reach the data.

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor, WithDType};
use limpid_kernels::{Error, Result};

/// Whether a loss of this tensor is computed on a GPU; in a program that was built without that it refuses, rather than
/// copying to the CPU in secret.
pub(super) fn on_gpu(tensor: &Tensor) -> bool {
    tensor.device().is_cuda()
}

/// Brings tensors of one shape to contiguous f32 or f64 on the first one's GPU or the CPU, keeping
/// their gradients.
///
/// Half precision becomes f32: a mean over an image does not fit in it. The arithmetic behind it is
/// f64 in any case.
///
/// # Errors
/// [`Error::Shape`] if shapes differ (losses never broadcast), if there is no sample axis or no
/// element, or if the dtypes differ or are not floating point.
pub(super) fn prepare<const N: usize>(
    op: &'static str,
    inputs: [&Tensor; N],
) -> Result<[Tensor; N]> {
    let first = inputs[0];
    for input in inputs {
        if input.dims() != first.dims() {
            return Err(Error::shape(
                op,
                format!("all shapes equal to {:?}", first.dims()),
                input.dims(),
            ));
        }
        if input.dtype() != first.dtype() {
            return Err(Error::shape(
                op,
                format!("all dtypes equal to {:?}", first.dtype()),
                input.dtype(),
            ));
        }
    }
    if first.rank() == 0 || first.elem_count() == 0 {
        return Err(Error::shape(op, "at least one sample [N, ..] with one element", first.dims()));
    }
    let dtype = match first.dtype() {
        DType::F64 => DType::F64,
        DType::F32 | DType::F16 | DType::BF16 => DType::F32,
        other => return Err(Error::shape(op, "a floating-point dtype", other)),
    };
    let device = if on_gpu(first) { first.device() } else { &Device::Cpu };
    let mut ready = inputs.map(Tensor::clone);
    for tensor in &mut ready {
        *tensor = tensor.to_dtype(dtype)?.to_device(device)?.contiguous()?;
    }
    Ok(ready)
}

/// The elements of a contiguous storage.
pub(super) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    let all = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((first, last)) => Ok(&all[first..last]),
        None => candle_core::bail!("a loss operand must be contiguous"),
    }
}

/// The elements of a contiguous storage as f64.
pub(super) fn to_f64(storage: &CpuStorage, layout: &Layout) -> candle_core::Result<Vec<f64>> {
    Ok(match storage {
        CpuStorage::F64(_) => slice::<f64>(storage, layout)?.to_vec(),
        _ => slice::<f32>(storage, layout)?.iter().map(|&v| f64::from(v)).collect(),
    })
}

/// The elements of a contiguous CPU tensor as f64.
pub(super) fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    let (storage, layout) = tensor.storage_and_layout();
    to_f64(cpu(&storage)?, layout)
}

/// The CPU storage behind a tensor.
pub(super) fn cpu(storage: &Storage) -> candle_core::Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("a loss operand must be on the CPU"),
    }
}

/// f64 results in the dtype of the operand.
pub(super) fn storage(values: Vec<f64>, dtype: DType) -> CpuStorage {
    match dtype {
        DType::F64 => CpuStorage::F64(values),
        _ => CpuStorage::F32(values.into_iter().map(|v| v as f32).collect()),
    }
}

/// f64 results as a tensor shaped and typed like another.
pub(super) fn tensor_like(values: Vec<f64>, like: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, like.shape(), &Device::Cpu)?.to_dtype(like.dtype())
}
