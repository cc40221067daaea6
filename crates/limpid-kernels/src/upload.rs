//! Copies of tensors to a device, made while it computes.

use crate::Result;
use candle_core::{Device, Tensor};

/// Brings one set of tensors after the other to a device. For a GPU they are copied to memory that it can fetch from by
/// itself, and fetched beside its work; on the CPU nothing is done.
pub struct Uploads {
    device: Device,
    #[cfg(feature = "cuda")]
    lane: Option<crate::gpu::upload::Lane>,
}

/// Tensors on their way.
pub struct Upload {
    tensors: Vec<Tensor>,
    #[cfg(feature = "cuda")]
    slot: Option<usize>,
}

impl Uploads {
    /// To a device.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if the device fails.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            lane: device.as_cuda_device().ok().map(crate::gpu::upload::Lane::new).transpose()?,
        })
    }

    /// Whether it makes sense to begin with a set before the one before it has been used.
    #[must_use]
    pub fn overlap(&self) -> bool {
        self.device.is_cuda()
    }

    /// Sets tensors on their way. At most two sets may be.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if the device fails or memory runs out.
    pub fn begin(&mut self, tensors: Vec<Tensor>) -> Result<Upload> {
        #[cfg(feature = "cuda")]
        if let Some(lane) = &mut self.lane {
            let slot = lane.begin(&tensors)?;
            return Ok(Upload { tensors, slot });
        }
        Ok(Upload {
            tensors,
            #[cfg(feature = "cuda")]
            slot: None,
        })
    }

    /// The tensors on the device, in their order.
    ///
    /// # Errors
    /// As [`Uploads::begin`].
    pub fn finish(&mut self, upload: Upload) -> Result<Vec<Tensor>> {
        #[cfg(feature = "cuda")]
        if let (Some(lane), Some(slot)) = (&mut self.lane, upload.slot) {
            return lane.finish(slot, &upload.tensors);
        }
        let moved = upload.tensors.iter().map(|t| t.to_device(&self.device));
        Ok(moved.collect::<candle_core::Result<_>>()?)
    }
}
