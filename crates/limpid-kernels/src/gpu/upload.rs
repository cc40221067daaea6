//! Uploads beside the work of a GPU: a second stream copies from pinned memory.
//!
//! There are two slots. Filling one is safe once the copy from it is done, and copying into it once the GPU has taken
//! what was there: two events for each say so.

#![allow(unsafe_code)] // copies by address

use crate::memory::shown;
use crate::op::bytes;
use crate::{Error, Result};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DriverError,
    PinnedHostSlice, result,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Storage, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

const OP: &str = "upload";
/// Tensors begin at multiples of so many bytes.
const ALIGNMENT: usize = 256;
/// The priority of copies: drivers take the nearest that they have.
const FIRST: i32 = -1;
/// Bytes that a thread copies at a time.
const CHUNK: usize = 1 << 18;

/// The way to a device.
pub(crate) struct Lane {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// The stream that copies.
    copies: Arc<CudaStream>,
    slots: [Slot; 2],
    turn: usize,
}

struct Slot {
    /// On the host and on the device, of one length.
    memory: Option<(PinnedHostSlice<u8>, CudaSlice<u8>)>,
    /// What was put here is on the device.
    copied: CudaEvent,
    /// The device has taken it.
    taken: CudaEvent,
}

fn failed(e: DriverError) -> Error {
    Error::argument(OP, format!("a batch does not reach the GPU: {e}"))
}

impl Lane {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = stream.context().clone();
        let slot = || {
            let event = || context.new_event(None).map_err(failed);
            Ok::<_, Error>(Slot { memory: None, copied: event()?, taken: event()? })
        };
        // before other work that is ready: it is short, and something waits for it
        let copies = context.new_stream_with_priority(FIRST).map_err(failed)?;
        let slots = [slot()?, slot()?];
        Ok(Self { device: device.clone(), stream, copies, slots, turn: 0 })
    }

    /// Sets tensors on their way and returns the slot that they go through; none if they go without.
    pub(crate) fn begin(&mut self, tensors: &[Tensor]) -> Result<Option<usize>> {
        let Some((places, length)) = places(tensors) else { return Ok(None) };
        let at = self.turn;
        self.turn = 1 - at;
        let slot = &mut self.slots[at];
        slot.copied.synchronize().map_err(failed)?;
        if slot.memory.as_ref().is_none_or(|(host, _)| host.len() < length) {
            slot.memory = None;
            // SAFETY: both are written before they are read.
            let memory = unsafe {
                let host = self.stream.context().alloc_pinned::<u8>(length).map_err(|e| {
                    let size = shown(length as u64);
                    Error::argument(OP, format!("no {size} of memory for a batch: {e}"))
                })?;
                (host, self.stream.alloc::<u8>(length).map_err(failed)?)
            };
            slot.memory = Some(memory);
            // the device's memory is there in the order of its own stream
            slot.taken.record(&self.stream).map_err(failed)?;
        }
        let Some((host, device)) = &mut slot.memory else { return Ok(None) };
        let to = host.as_mut_slice().map_err(failed)?;
        for (tensor, place) in tensors.iter().zip(&places) {
            let tensor = tensor.contiguous()?;
            bytes(OP, &tensor, |from| {
                let to = to[*place..*place + from.len()].par_chunks_mut(CHUNK);
                to.zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
            })?;
        }
        self.copies.wait(&slot.taken).map_err(failed)?;
        let (to, _to) = device.device_ptr_mut(&self.copies);
        let from = &host.as_slice().map_err(failed)?[..length];
        // SAFETY: both have so many bytes; they stay as they are until `copied`, which `begin` waits for on the host and
        // `finish` on the device.
        unsafe { result::memcpy_htod_async(to, from, self.copies.cu_stream()) }.map_err(failed)?;
        slot.copied.record(&self.copies).map_err(failed)?;
        Ok(Some(at))
    }

    /// Takes tensors out of a slot.
    pub(crate) fn finish(&mut self, at: usize, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let slot = &self.slots[at];
        let (Some((places, _)), Some((_, memory))) = (places(tensors), &slot.memory) else {
            return Err(Error::argument(OP, "what is taken has not been sent"));
        };
        self.stream.wait(&slot.copied).map_err(failed)?;
        let (from, _from) = memory.device_ptr(&self.stream);
        let taken = tensors.iter().zip(places).map(|(tensor, place)| {
            let from = from + place as u64;
            let count = tensor.elem_count();
            let storage = match tensor.dtype() {
                DType::F32 => self.taken::<f32>(from, count),
                DType::F64 => self.taken::<f64>(from, count),
                DType::I64 => self.taken::<i64>(from, count),
                DType::U32 => self.taken::<u32>(from, count),
                _ => self.taken::<u8>(from, count),
            }?;
            let op = BackpropOp::none();
            Ok(Tensor::from_storage(Storage::Cuda(storage), tensor.shape(), op, false))
        });
        let taken = taken.collect::<Result<Vec<_>>>()?;
        slot.taken.record(&self.stream).map_err(failed)?;
        Ok(taken)
    }

    /// A copy of `count` numbers on the device.
    fn taken<T>(&self, from: u64, count: usize) -> Result<CudaStorage>
    where
        T: DeviceRepr + candle_core::cuda_backend::CudaDType,
    {
        // SAFETY: all of it is written by the copy.
        let mut to = unsafe { self.stream.alloc::<T>(count) }.map_err(failed)?;
        {
            let (to, _to) = to.device_ptr_mut(&self.stream);
            // SAFETY: the slot has these numbers, of this type.
            unsafe {
                result::memcpy_dtod_async(to, from, count * size_of::<T>(), self.stream.cu_stream())
            }
            .map_err(failed)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(to, self.device.clone()))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // what is on its way needs the slots
        let _ = self.copies.synchronize();
    }
}

/// Where tensors of the CPU lie in a slot, and its length; none if one is not for it.
fn places(tensors: &[Tensor]) -> Option<(Vec<usize>, usize)> {
    let (mut places, mut length) = (Vec::new(), 0);
    for t in tensors {
        let fits =
            matches!(t.dtype(), DType::F32 | DType::F64 | DType::I64 | DType::U32 | DType::U8);
        if !t.device().is_cpu() || !fits || t.elem_count() == 0 {
            return None;
        }
        places.push(length);
        length += (t.elem_count() * t.dtype().size_in_bytes()).next_multiple_of(ALIGNMENT);
    }
    (length > 0).then_some((places, length))
}

#[cfg(test)]
mod tests {
    use crate::upload::Uploads;
    use candle_core::{Device, Tensor};

    /// With a GPU, real or in software.
    #[test]
    #[ignore = "run by cargo xtask cuda test"]
    fn cuda_batches_arrive_as_they_were_sent() {
        let device = crate::gpu::open(0).unwrap();
        let mut uploads = Uploads::new(&device).unwrap();
        let set = |i: usize| -> Vec<Tensor> {
            let n = 100 + 77 * (i % 3);
            let x = Tensor::arange(i as f32, (i + n) as f32, &Device::Cpu).unwrap();
            let y = Tensor::arange(i as i64, (i + n) as i64, &Device::Cpu).unwrap();
            let z = Tensor::full(i as u8, (3, i + 1), &Device::Cpu).unwrap();
            vec![x.reshape((n, 1)).unwrap().t().unwrap(), y, z]
        };
        let text = |t: &Tensor| format!("{}", t.to_device(&Device::Cpu).unwrap());
        let mut next = Some(uploads.begin(set(0)).unwrap());
        for i in 0..8 {
            let now = next.take().unwrap();
            next = Some(uploads.begin(set(i + 1)).unwrap());
            let arrived = uploads.finish(now).unwrap();
            // one more goes through the slot before anybody looks
            for (sent, arrived) in set(i).iter().zip(&arrived) {
                assert!(arrived.device().is_cuda());
                assert_eq!(text(sent), text(arrived));
            }
        }
    }
}
