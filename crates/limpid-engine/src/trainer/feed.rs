//! Batches on their way from the loader to the device.

use crate::{Batch, Batches, Error, Result, SampleId};
use candle_core::Device;
use limpid_kernels::upload::{Upload, Uploads};

/// A batch on the device.
pub(super) struct Fed {
    pub batch: Batch,
    /// The first tensor with a value that is not finite, and the sample it is in.
    pub nonfinite: Option<(String, SampleId)>,
}

/// The batches of an epoch. For a GPU the next one is fetched and sent while the last is worked on.
pub(super) struct Feed<'a> {
    batches: Batches<'a>,
    uploads: Uploads,
    ahead: Option<Result<OnTheWay>>,
}

struct OnTheWay {
    names: Vec<String>,
    ids: Vec<SampleId>,
    upload: Upload,
    nonfinite: Option<(String, SampleId)>,
}

impl<'a> Feed<'a> {
    pub(super) fn new(batches: Batches<'a>, device: &Device) -> Result<Self> {
        Ok(Self { batches, uploads: Uploads::new(device)?, ahead: None })
    }

    /// Fetches the next batch, if that can be done beside the work of the device.
    pub(super) fn fetch(&mut self) {
        if self.uploads.overlap() && self.ahead.is_none() {
            self.ahead = self.send();
        }
    }

    /// The next batch; none after the last.
    ///
    /// # Errors
    /// Those of the loader and of the device.
    pub(super) fn next(&mut self) -> Result<Option<Fed>> {
        let Some(sent) = self.ahead.take().or_else(|| self.send()) else { return Ok(None) };
        let OnTheWay { names, ids, upload, nonfinite } = sent?;
        let tensors = names.into_iter().zip(self.uploads.finish(upload)?).collect();
        Ok(Some(Fed { batch: Batch { tensors, ids }, nonfinite }))
    }

    fn send(&mut self) -> Option<Result<OnTheWay>> {
        let batch = self.batches.next()?;
        Some(batch.map_err(Error::Data).and_then(|batch| {
            let nonfinite = batch.first_nonfinite()?;
            let (names, tensors) = batch.tensors.into_iter().unzip();
            let upload = self.uploads.begin(tensors)?;
            Ok(OnTheWay { names, ids: batch.ids, upload, nonfinite })
        }))
    }
}
