//! Opening a GPU, or saying why there is none.

#![allow(unsafe_code)] // the driver

use crate::memory::DeviceMemory;
use crate::{Error, Result, first_line};
use candle_core::CudaDevice;
use candle_core::Device;
use candle_core::cuda_backend::cudarc::cudnn;
use candle_core::cuda_backend::cudarc::driver::sys::{
    self, CUdevice, CUdevice_attribute_enum as Attribute, CUevent_flags, CUmemPool_attribute,
    CUmemoryPool, CUresult,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, DriverError, result,
};
use std::ptr::{from_mut, from_ref};
use std::sync::Arc;

const OP: &str = "device";

/// The toolkit that the kernels were compiled by, as the driver counts: 13000 is 13.0.
const TOOLKIT: &str = env!("LIMPID_CUDA_VERSION");

/// The first version of cuDNN with the functions that are called; what stands for it where it is not installed says
/// less.
const CUDNN: usize = 90_000;

/// The least capability that kernels are compiled for.
const CAPABILITY: (i32, i32) = (8, 0);

/// The GPU of that number, for one stream of work, with a pool of memory that keeps what is freed.
///
/// # Errors
/// [`Error::Argument`] if there is no driver, no such GPU, or one of both is too old; or one of the libraries that are
/// called is not there.
pub fn open(ordinal: usize) -> Result<Device> {
    let (required, driver) = (TOOLKIT.parse().unwrap_or(0), driver_version()?);
    if driver < required {
        let message = format!(
            "the driver supports CUDA {}, but this program needs {}; update NVIDIA's driver",
            version(driver),
            version(required)
        );
        return Err(Error::argument(OP, message));
    }
    let count = CudaContext::device_count().map_err(|e| refused(&e))?;
    if ordinal >= usize::try_from(count).unwrap_or(0) {
        let message = match count {
            0 => "there is no NVIDIA GPU".into(),
            1 => format!("there is no GPU {ordinal}; the only one is cuda:0"),
            _ => format!("there is no GPU {ordinal}; there are cuda:0 to cuda:{}", count - 1),
        };
        return Err(Error::argument(OP, message));
    }
    let device = Device::new_cuda_with_stream(ordinal).map_err(|e| lacking(&e))?;
    if cudnn::result::get_version() < CUDNN {
        return Err(Error::argument(OP, not_installed("cuDNN 9 (libcudnn.so.9)")));
    }
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    let context = stream.context();
    let capability = context.compute_capability().map_err(|e| refused(&e))?;
    if capability < CAPABILITY {
        let message = format!(
            "cuda:{ordinal} has compute capability {}.{}, but kernels need {}.{} or later",
            capability.0, capability.1, CAPABILITY.0, CAPABILITY.1
        );
        return Err(Error::argument(OP, message));
    }
    // SAFETY: all work is queued on the one stream of the device, whose order is all that is needed.
    unsafe { cuda.disable_event_tracking() };
    keep_memory(ordinal).map_err(|e| refused(&e))?;
    Ok(device)
}

/// Why a device could not be made: which library is not there, or what candle says.
fn lacking(e: &candle_core::Error) -> Error {
    let text = first_line(e);
    let library = [("CUBLAS", "cuBLAS (libcublas.so.13)"), ("CURAND", "cuRAND (libcurand.so.10)")];
    let is_it = |(sign, _): &(&str, &str)| text.contains(&format!("{sign}_STATUS_NOT_INITIALIZED"));
    let message = match library.into_iter().find(is_it) {
        Some((_, name)) => not_installed(name),
        None => text,
    };
    Error::argument(OP, message)
}

fn not_installed(library: &str) -> String {
    format!("{library} is not installed, or not where `LD_LIBRARY_PATH` tells")
}

/// What a GPU is called, and its memory: free and in all.
///
/// # Errors
/// [`Error::Argument`] if the device is none or the driver does not answer.
pub fn describe(device: &Device) -> Result<String> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    let name = context.name().map_err(|e| refused(&e))?;
    let (free, total) = context.mem_get_info().map_err(|e| refused(&e))?;
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Ok(format!("{name}, {:.1} of {:.1} GiB free", gib(free), gib(total)))
}

/// A moment of a GPU's stream, to measure the time from there on by the GPU's own events.
pub struct Clock {
    start: CudaEvent,
    stream: Arc<CudaStream>,
}

impl Clock {
    /// After all that was queued.
    ///
    /// # Errors
    /// [`Error::Argument`] if the device is no GPU, or the driver refuses.
    pub fn start(device: &Device) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let start = Self::event(&stream)?;
        Ok(Self { start, stream })
    }

    /// Waits for what was queued since; the milliseconds that it took.
    ///
    /// # Errors
    /// [`Error::Argument`] if the driver refuses, or a kernel has failed.
    pub fn stop(self) -> Result<f64> {
        let end = Self::event(&self.stream)?;
        let elapsed = end.synchronize().and_then(|()| self.start.elapsed_ms(&end));
        Ok(f64::from(elapsed.map_err(|e| refused(&e))?))
    }

    fn event(stream: &CudaStream) -> Result<CudaEvent> {
        let flags = CUevent_flags::CU_EVENT_DEFAULT;
        stream.record_event(Some(flags)).map_err(|e| refused(&e))
    }
}

/// Has memory that is freed kept for what comes next, instead of given back to the driver.
fn keep_memory(ordinal: usize) -> std::result::Result<(), DriverError> {
    let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX))?;
    // SAFETY: the device exists.
    let pools = unsafe {
        result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)
    }?;
    if pools == 0 {
        return Ok(());
    }
    // SAFETY: the threshold is a number of 64 bits, as this attribute is.
    unsafe {
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        set(pool(device)?, attribute, u64::MAX)
    }
}

/// The pool that memory of a device is taken from.
pub(super) fn pool(device: CUdevice) -> std::result::Result<CUmemoryPool, DriverError> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: there is room for the answer.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device) }.result()?;
    Ok(pool)
}

/// # Safety
/// The attribute is a number of 64 bits.
unsafe fn set(
    pool: CUmemoryPool,
    attribute: CUmemPool_attribute,
    value: u64,
) -> std::result::Result<(), DriverError> {
    // SAFETY: the caller's.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, from_ref(&value).cast_mut().cast()) }
        .result()
}

/// How the memory of a GPU stands.
///
/// # Errors
/// [`Error::Argument`] if the driver does not answer.
pub(crate) fn memory(device: &CudaDevice) -> Result<DeviceMemory> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let read = || {
        let pool = pool(context.cu_device())?;
        let get = |attribute| {
            let mut value = 0u64;
            // SAFETY: these attributes are numbers of 64 bits.
            unsafe { sys::cuMemPoolGetAttribute(pool, attribute, from_mut(&mut value).cast()) }
                .result()?;
            Ok::<_, DriverError>(value)
        };
        let used = get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let peak = get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
        let reserved = get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let (free, _) = context.mem_get_info()?;
        // what the pool keeps is there for tensors too
        Ok(DeviceMemory { used, peak, free: free as u64 + reserved.saturating_sub(used) })
    };
    read().map_err(|e| refused(&e))
}

/// Sets the most memory that was used back to what is.
///
/// # Errors
/// [`Error::Argument`] if the driver refuses.
pub(crate) fn watch_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: this attribute is a number of 64 bits; 0 sets it back.
    pool(stream.context().cu_device())
        .and_then(|pool| unsafe { set(pool, attribute, 0) })
        .map_err(|e| refused(&e))
}

fn driver_version() -> Result<i32> {
    result::init().map_err(|e| refused(&e))?;
    let mut version = 0;
    // SAFETY: there is room for the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| refused(&e))?;
    Ok(version)
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn refused(e: &DriverError) -> Error {
    let message = match e.0 {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "there is no NVIDIA GPU, or its driver (libcuda.so.1) is not installed".into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "NVIDIA's driver was updated while the old one is loaded; restart the machine".into()
        }
        _ => format!("NVIDIA's driver refused: {e}"),
    };
    Error::argument(OP, message)
}
