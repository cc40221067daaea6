//! Batches from samples, for training and validation.

use crate::Result;
use crate::dataset::Sample;
use crate::prefetch::{Ahead, Make, Prefetch};
use crate::prepared::Prepared;
use candle_core::{Device, Tensor};
use limpid_engine::{Batch, Batches, BoxError, Loader};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Training batches.
pub(crate) struct TrainLoader(pub(crate) Arc<Prepared>);

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
        Box::new(Prefetch::new(make, first..self.batches(), config.workers, Ahead::of(config)))
    }
}

/// Batches of a validation set, the same in every epoch.
pub(crate) struct ValidationLoader {
    pub(crate) prepared: Arc<Prepared>,
    /// Which one.
    pub(crate) set: usize,
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
        Box::new(Prefetch::new(make, first..self.batches(), config.workers, Ahead::of(config)))
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
