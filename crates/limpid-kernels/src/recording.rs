//! Work that a GPU is given once and then does again and again: a CUDA graph.
//!
//! Queueing the kernels of a step one by one takes the host some microseconds each, longer than many of them run. A
//! recording queues them at once. It does what was done while it was recorded: with the same tensors, whose contents may
//! have changed, and with the random numbers that it is told. So what is recorded must be fixed work: it reads nothing
//! back, and everything that changes between two plays is in tensors that outlive it.

use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::Device;

/// Recorded work.
pub struct Recording {
    #[cfg(feature = "cuda")]
    graph: crate::gpu::graph::Graph,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

/// Whether work of a device can be recorded. With `CUDA_LAUNCH_BLOCKING=1` in the environment nothing is, so that each
/// kernel is waited for.
#[must_use]
pub fn is_recordable(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    return device.is_cuda() && !crate::gpu::is_blocking();
    #[cfg(not(feature = "cuda"))]
    return device.is_cuda();
}

/// Runs work that is to be recorded afterwards, so that what it prepares is there then: algorithms, and tables on the
/// device.
pub fn rehearse<R>(device: &Device, f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "cuda")]
    let _kept = device.as_cuda_device().ok().map(|device| device.enable_cuda_graph_htod_cache());
    let _ = device;
    f()
}

/// Records what `f` does instead of doing it. What it returns is there after the first play, and changes with each; of a
/// recording that is never played it is to be dropped before that.
///
/// # Errors
/// Those of `f`, and [`Error::Argument`] if something cannot be recorded: what reads a result back, what uploads
/// something new, a device that is no GPU. Nothing has been done then.
pub fn record<R, E: From<Error>>(
    device: &Device,
    f: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<(Recording, R), E> {
    #[cfg(feature = "cuda")]
    if let Ok(device) = device.as_cuda_device() {
        let (graph, result) = crate::gpu::graph::capture(device, f)?;
        return Ok((Recording { graph }, result));
    }
    let _ = f;
    Err(Error::argument("record", format!("work of {device:?} is not recorded")).into())
}

impl Recording {
    /// The streams that random numbers were drawn from, each once.
    #[must_use]
    pub fn streams(&self) -> &[Stream] {
        #[cfg(feature = "cuda")]
        return self.graph.streams();
        #[cfg(not(feature = "cuda"))]
        match self.never {}
    }

    /// Queues the work, with random numbers of these streams in place of those of [`Recording::streams`].
    ///
    /// # Errors
    /// [`Error::Argument`] if there are fewer streams, or the GPU fails.
    pub fn play(&self, streams: &[Stream]) -> Result<()> {
        #[cfg(feature = "cuda")]
        return self.graph.play(streams);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = streams;
            match self.never {}
        }
    }
}
