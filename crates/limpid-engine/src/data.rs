//! What the trainer asks of the data.

use crate::{Batch, BoxError};

/// Batches of an epoch, each made once; an item may name a broken file.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch, BoxError>> + 'a>;

/// A source of batches whose content is a pure function of (seed, epoch, index).
///
/// The number of worker threads, an interruption or the order of calls must not change a batch.
pub trait Loader {
    /// Batches in an epoch; at least 1.
    fn batches(&self) -> u64;

    /// The batches of an epoch from the `first` on.
    fn epoch(&self, epoch: u64, first: u64) -> Batches<'_>;
}

/// The data of a task: prepared once, then read by loaders.
pub trait DataModule {
    /// Opens, checks and if need be converts the files; called before any loader is asked for.
    ///
    /// # Errors
    /// The first file that cannot be used, named.
    fn preprocess(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// The training samples.
    ///
    /// # Errors
    /// If there are none.
    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError>;

    /// Validation sets by name; each is walked once per validation, without augmentation.
    ///
    /// # Errors
    /// If one cannot be read.
    fn validation(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError>;

    /// Test sets by name.
    ///
    /// # Errors
    /// If one cannot be read.
    fn test(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        Ok(Vec::new())
    }

    /// Called when all predictions have been written.
    ///
    /// # Errors
    /// Whatever the task's last work meets.
    fn postprocess(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Identifies the data (files, sizes, options): a run is not resumed on other data by mistake.
    fn fingerprint(&self) -> String;
}
