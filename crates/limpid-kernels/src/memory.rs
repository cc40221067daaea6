//! Memory: the allocator of the programs, and what there is of a GPU's.
//!
//! A fresh buffer of 16 MB costs as many milliseconds in page faults as the convolution that fills
//! it. A training step needs the same buffers as the one before, so freed pages are kept.

use crate::Result;
use candle_core::Device;

/// The global allocator that the programs install.
pub use mimalloc::MiMalloc as Allocator;

/// The place of `mi_option_purge_delay` among mimalloc's options (mimalloc.h).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory in the process instead of handing it back to the system a moment later; to be
/// called once, when the program starts. Without effect unless [`Allocator`] is installed.
#[allow(unsafe_code)] // calls a C function
pub fn keep_freed_pages() {
    // SAFETY: the function may be called at any time; it checks the option and stores a number.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Held by tensors.
    pub used: u64,
    /// The most that was, since [`watch`] began.
    pub peak: u64,
    /// Left for more.
    pub free: u64,
}

/// How the memory of a device stands; none if it is the computer's own.
///
/// # Errors
/// [`crate::Error::Argument`] if the device does not say.
pub fn of_device(device: &Device) -> Result<Option<DeviceMemory>> {
    #[cfg(feature = "cuda")]
    if let Ok(device) = device.as_cuda_device() {
        return Ok(Some(crate::gpu::memory(device)?));
    }
    let _ = device;
    Ok(None)
}

/// Begins to look for the most memory that is used. Without effect on the CPU.
///
/// # Errors
/// As [`of_device`].
pub fn watch(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Ok(device) = device.as_cuda_device() {
        return crate::gpu::watch_memory(device);
    }
    let _ = device;
    Ok(())
}
