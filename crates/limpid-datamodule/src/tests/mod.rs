//! Whole data modules on small files.

mod bad_input;
mod batches;
mod layers;
mod real_data;
mod settings;
mod splits;

use crate::augment::{AugmentConfig, OrientationConfig};
use crate::dataset::DatasetConfig;
use crate::normalise::NormalisationConfig;
use crate::split::SplitConfig;
use crate::{Data, DataConfig, ValidationConfig};
use limpid_engine::{Batch, DataModule, Loader};
use limpid_io::{Data as Samples, Volume};
use std::path::Path;

/// Saves values as a float image; axes and shape as given.
fn save(path: &Path, axes: &str, shape: &[usize], value: impl Fn(usize) -> f32) {
    let n: usize = shape.iter().product();
    let data = Samples::F32((0..n).map(value).collect());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    limpid_io::save(path, &Volume::new(data, shape, axes.parse().unwrap()).unwrap()).unwrap();
}

/// Small patches, values as they are, no augmentation, no validation.
fn plain(dataset: DatasetConfig) -> DataConfig {
    DataConfig {
        dataset,
        patch: vec![8],
        batch: 3,
        normalisation: NormalisationConfig::None {},
        augment: AugmentConfig { orientation: OrientationConfig::None, ..AugmentConfig::default() },
        validation: ValidationConfig { split: SplitConfig::None {}, ..Default::default() },
        ..DataConfig::default()
    }
}

fn place(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// A folder of noisy-looking images with their doubled values as targets.
fn pairs(dir: &Path, count: usize, size: [usize; 2]) -> DatasetConfig {
    for i in 0..count {
        let value = move |p: usize| ((p * 31 + i * 977) % 1009) as f32;
        save(&dir.join(format!("in/{i}.tif")), "YX", &size, value);
        save(&dir.join(format!("out/{i}.tif")), "YX", &size, move |p| 2.0 * value(p));
    }
    DatasetConfig::Paired { input: place(dir, "in"), target: place(dir, "out") }
}

/// Images of their running pixel number, so that a patch shows where it was taken.
fn numbered(dir: &Path, axes: &str, shape: &[usize]) -> DatasetConfig {
    save(&dir.join("n/a.tif"), axes, shape, |i| i as f32);
    DatasetConfig::Noise2void { images: place(dir, "n"), mask: Default::default() }
}

fn open(config: DataConfig, seed: u64) -> Data {
    let mut data = Data::new(config, seed);
    data.preprocess().unwrap();
    data
}

fn refused(config: DataConfig) -> String {
    Data::new(config, 0).preprocess().unwrap_err().to_string()
}

fn batches(loader: &dyn Loader, epoch: u64, first: u64) -> Vec<Batch> {
    loader.epoch(epoch, first).map(Result::unwrap).collect()
}

fn values(batch: &Batch, name: &str) -> Vec<f32> {
    batch.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Everything in batches, for comparison bit by bit.
fn bits(batches: &[Batch]) -> Vec<(String, Vec<u32>)> {
    let named = |b: &Batch| -> Vec<(String, Vec<u32>)> {
        let names = b.tensors.keys();
        names.map(|n| (n.clone(), values(b, n).iter().map(|v| v.to_bits()).collect())).collect()
    };
    batches.iter().flat_map(named).collect()
}
