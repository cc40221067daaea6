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

/// A number of bytes in binary units, with three digits: `512 B`, `9.10 GiB`.
#[must_use]
pub fn shown(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // what would round up to 1024 belongs to the next unit
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
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

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn sizes_read_well_at_the_edges() {
        let edges = [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1024 * 10, "10.0 KiB")];
        for (bytes, text) in edges {
            assert_eq!(shown(bytes), text);
        }
        assert_eq!(shown((1 << 20) - 1), "1.00 MiB");
        assert_eq!(shown(9_771_050_598), "9.10 GiB");
        assert_eq!(shown(u64::MAX), "16.0 EiB");
    }
}
