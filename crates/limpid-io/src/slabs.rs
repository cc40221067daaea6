//! What writers share: the order of slabs, and writers that need the whole image at once.

use crate::atomic::AtomicFile;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::format::VolumeWriter;
use crate::volume::{Volume, VolumeInfo};
use std::path::{Path, PathBuf};

/// Watches that slabs along the slowest axis come in order, whole and of the right type.
#[derive(Debug)]
pub(crate) struct Slabs {
    path: PathBuf,
    info: VolumeInfo,
    next: usize,
}

impl Slabs {
    pub(crate) fn new(path: &Path, info: &VolumeInfo) -> Self {
        Self { path: path.to_owned(), info: info.clone(), next: 0 }
    }

    /// Samples with one index along the slowest axis.
    pub(crate) fn samples_each(&self) -> usize {
        self.info.shape[1..].iter().product()
    }

    /// Takes note of the slab that starts at index `first`.
    pub(crate) fn accept(&mut self, first: usize, data: &Data) -> Result<()> {
        let (each, total) = (self.samples_each(), self.info.shape[0]);
        let count = data.len() / each;
        let message = if first != self.next {
            format!("slabs must be written in order: expected index {}, got {first}", self.next)
        } else if data.dtype() != self.info.dtype {
            format!("slab {first}: expected samples of {}, got {}", self.info.dtype, data.dtype())
        } else if !data.len().is_multiple_of(each) || count == 0 || count > total - first {
            format!(
                "slab {first}: expected 1 to {} times {each} samples, got {}",
                total - first,
                data.len()
            )
        } else {
            self.next += count;
            return Ok(());
        };
        Err(Error::argument(&self.path, message))
    }

    /// Checks that all slabs came.
    pub(crate) fn complete(&self) -> Result<()> {
        let total = self.info.shape[0];
        if self.next == total {
            return Ok(());
        }
        let message = format!("only {} of {total} slabs were written, no file is made", self.next);
        Err(Error::argument(&self.path, message))
    }
}

/// Gathers the whole image, for formats that cannot take it in slabs.
pub(crate) struct WholeWriter<F> {
    file: AtomicFile,
    volume: Volume,
    slabs: Slabs,
    save: F,
}

impl<F: FnOnce(AtomicFile, &Volume) -> Result<()> + Send + 'static> WholeWriter<F> {
    /// A writer that hands everything to `save`, which commits the file.
    pub(crate) fn create(path: &Path, info: &VolumeInfo, save: F) -> Result<Box<dyn VolumeWriter>> {
        let data = Data::zeros(info.dtype, info.samples())?;
        let volume = Volume { info: info.clone(), data };
        let (file, slabs) = (AtomicFile::create(path)?, Slabs::new(path, info));
        Ok(Box::new(Self { file, volume, slabs, save }))
    }
}

impl<F: FnOnce(AtomicFile, &Volume) -> Result<()> + Send> VolumeWriter for WholeWriter<F> {
    fn write_slab(&mut self, first: usize, data: &Data) -> Result<()> {
        self.slabs.accept(first, data)?;
        self.volume.data.copy_from(first * self.slabs.samples_each(), data);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.slabs.complete()?;
        (self.save)(self.file, &self.volume)
    }
}
