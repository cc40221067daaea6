//! The data of a task for the trainer: prepared once, then read by loaders.

use crate::config::DataConfig;
use crate::images::ImageFile;
use crate::loader::{TrainLoader, ValidationLoader};
use crate::normalise::Normalisers;
use crate::prepared::{Prepared, ValidationSet};
use crate::{Error, Result};
use limpid_engine::{BoxError, DataModule, Loader};
use std::sync::Arc;

/// The data of a task. Batches hold `input` and `target`, `[N, C, size…]`; with noise2void also
/// `mask`, 1 where a pixel of the input is hidden; in validation on noisy targets `clean`, where it
/// is known.
pub struct Data {
    config: DataConfig,
    seed: u64,
    prepared: Option<Arc<Prepared>>,
}

impl Data {
    /// The data that `config` describes; nothing is read before
    /// [`preprocess`](DataModule::preprocess).
    #[must_use]
    pub fn new(config: DataConfig, seed: u64) -> Self {
        Self { config, seed, prepared: None }
    }

    /// What a model file must keep to normalise as in training.
    ///
    /// # Errors
    /// Before [`preprocess`](DataModule::preprocess).
    pub fn normalisers(&self) -> Result<&Normalisers> {
        Ok(&self.prepared()?.normalisers)
    }

    /// Channels of `input` and of `target`.
    ///
    /// # Errors
    /// Before [`preprocess`](DataModule::preprocess).
    pub fn channels(&self) -> Result<(usize, usize)> {
        let prepared = self.prepared()?;
        Ok(prepared.collection.channels(&prepared.scenes))
    }

    /// What makes preparing batches slow, for the user to know.
    ///
    /// # Errors
    /// Before [`preprocess`](DataModule::preprocess).
    pub fn warnings(&self) -> Result<Vec<String>> {
        let prepared = self.prepared()?;
        let files = || prepared.collection.files.iter();
        let slow = files().filter(|f| f.is_slow()).count();
        let needed = files().map(ImageFile::bytes).sum::<u64>().div_ceil(1 << 20);
        let warning = || {
            format!(
                "{slow} of {} images do not fit into `cache_mib = {}` and are compressed, so every patch decodes its file anew: set it to {needed}, or uncompress them",
                prepared.collection.files.len(),
                prepared.config.cache_mib
            )
        };
        Ok((slow > 0).then(warning).into_iter().collect())
    }

    fn prepared(&self) -> Result<&Arc<Prepared>> {
        self.prepared.as_ref().ok_or_else(|| {
            Error::setting("the data was asked for before it was opened", "call `preprocess` first")
        })
    }
}

impl DataModule for Data {
    fn preprocess(&mut self) -> Result<(), BoxError> {
        if self.prepared.is_none() {
            self.prepared = Some(Arc::new(Prepared::new(&self.config, self.seed)?));
        }
        Ok(())
    }

    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError> {
        Ok(Box::new(TrainLoader(self.prepared()?.clone())))
    }

    fn validation(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        let prepared = self.prepared()?;
        let loader = |(set, v): (usize, &ValidationSet)| {
            let loader = ValidationLoader { prepared: prepared.clone(), set };
            (v.name.clone(), Box::new(loader) as Box<dyn Loader>)
        };
        Ok(prepared.validation.iter().enumerate().map(loader).collect())
    }

    /// Empty before [`preprocess`](DataModule::preprocess).
    fn fingerprint(&self) -> String {
        self.prepared.as_ref().map_or_else(String::new, |p| p.fingerprint.clone())
    }
}
