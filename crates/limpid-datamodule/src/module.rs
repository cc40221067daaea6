//! The data of a task for the trainer: prepared once, then read by loaders.

use crate::config::DataConfig;
use crate::dataset::Sample;
use crate::normalise::Normalisers;
use crate::prefetch::{Make, Prefetch};
use crate::prepared::Prepared;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use limpid_engine::{Batch, Batches, BoxError, DataModule, Loader};
use std::collections::BTreeMap;
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
        let channels = |view: &crate::dataset::View| prepared.collection.files[view.file].channels;
        let views = prepared.scenes.first().map_or(&[][..], |s| &s.views);
        let input = views.first().map_or(1, channels);
        Ok((input, views.get(1).map_or(input, channels)))
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
        let loader = |(set, v): (usize, &crate::prepared::ValidationSet)| {
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

struct TrainLoader(Arc<Prepared>);

impl Loader for TrainLoader {
    fn batches(&self) -> u64 {
        self.0.samples().div_ceil(self.0.config.batch as u64)
    }

    fn epoch(&self, epoch: u64, first: u64) -> Batches<'_> {
        let prepared = self.0.clone();
        let order = prepared.order(epoch);
        let batch = prepared.config.batch as u64;
        let make: Arc<Make> = Arc::new(move |number, wanted| {
            collect(number * batch..(number + 1) * batch, wanted, |index| {
                prepared.sample(&order, epoch, index)
            })
        });
        let config = &self.0.config;
        Box::new(Prefetch::new(make, first, self.batches(), config.workers, config.prefetch))
    }
}

struct ValidationLoader {
    prepared: Arc<Prepared>,
    set: usize,
}

impl ValidationLoader {
    /// Places, and how many go into a batch.
    fn extent(&self) -> (u64, u64) {
        let config = &self.prepared.config;
        let batch = if config.validation.whole { 1 } else { config.batch as u64 };
        (self.prepared.validation[self.set].places.len() as u64, batch)
    }
}

impl Loader for ValidationLoader {
    fn batches(&self) -> u64 {
        let (places, batch) = self.extent();
        places.div_ceil(batch)
    }

    fn epoch(&self, _: u64, first: u64) -> Batches<'_> {
        let (prepared, set) = (self.prepared.clone(), self.set);
        let (places, batch) = self.extent();
        let make: Arc<Make> = Arc::new(move |number, wanted| {
            let patch = (!prepared.config.validation.whole).then_some(prepared.patch.as_slice());
            let range = number * batch..((number + 1) * batch).min(places);
            collect(range, wanted, |index| prepared.validation[set].sample(index, patch))
        });
        let config = &self.prepared.config;
        Box::new(Prefetch::new(make, first, self.batches(), config.workers, config.prefetch))
    }
}

/// Makes the samples of a batch one after the other, unless nobody wants it any more.
fn collect(
    range: std::ops::Range<u64>,
    wanted: &dyn Fn() -> bool,
    sample: impl Fn(u64) -> Result<Sample>,
) -> Option<Result<Batch, BoxError>> {
    let mut samples = Vec::new();
    for index in range {
        if !wanted() {
            return None;
        }
        match sample(index) {
            Ok(sample) => samples.push(sample),
            Err(error) => return Some(Err(error.into())),
        }
    }
    Some(stack(samples).map_err(Into::into))
}

/// Puts samples of one size into a batch.
fn stack(samples: Vec<Sample>) -> Result<Batch> {
    let mut parts: BTreeMap<&str, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut ids = Vec::with_capacity(samples.len());
    let count = samples.len();
    for sample in samples {
        for (name, channels, values) in sample.tensors {
            let (_, all) = parts.entry(name).or_insert_with(|| {
                let shape = [&[count, channels], sample.size.as_slice()].concat();
                (shape, Vec::with_capacity(count * values.len()))
            });
            all.extend(values);
        }
        ids.push(sample.id);
    }
    let tensor = |(name, (shape, values)): (&str, (Vec<usize>, Vec<f32>))| {
        Ok((name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu)?))
    };
    let tensors = parts.into_iter().map(tensor).collect::<Result<_>>()?;
    Ok(Batch { tensors, ids })
}
