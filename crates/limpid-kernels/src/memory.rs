//! The allocator of the programs.
//!
//! A fresh buffer of 16 MB costs as many milliseconds in page faults as the convolution that fills
//! it. A training step needs the same buffers as the one before, so freed pages are kept.

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
