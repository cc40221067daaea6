//! The data once opened: files checked, parts divided, normalisation learnt, sampler ready.

use crate::config::DataConfig;
use crate::dataset::{Collection, DatasetConfig, Making, Sample, Scene, statistics};
use crate::images::{ImageFile, open_all};
use crate::noise::NoiseConfig;
use crate::normalise::{Fit, Normalisation, Normaliser, Normalisers};
use crate::sampler::{Place, Sampler, SamplerConfig, grid};
use crate::split::{SplitConfig, divide};
use crate::{Error, Result};
use limpid_kernels::rng::Stream;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Everything that loaders share.
pub(crate) struct Prepared {
    pub(crate) config: DataConfig,
    pub(crate) patch: Vec<usize>,
    pub(crate) seed: u64,
    pub(crate) collection: Arc<Collection>,
    pub(crate) scenes: Vec<Scene>,
    pub(crate) sampler: Sampler,
    pub(crate) validation: Vec<ValidationSet>,
    pub(crate) normalisers: Normalisers,
    pub(crate) fingerprint: String,
}

/// A validation set and the places in it that are looked at.
pub(crate) struct ValidationSet {
    pub(crate) name: String,
    pub(crate) collection: Arc<Collection>,
    pub(crate) scenes: Vec<Scene>,
    pub(crate) places: Vec<Place>,
}

impl Prepared {
    /// Opens and checks everything.
    pub(crate) fn new(config: &DataConfig, seed: u64) -> Result<Self> {
        if let Some(finding) = limpid_config::check(config).into_iter().next() {
            let hint = finding.hint.clone().unwrap_or_else(|| "correct the data settings".into());
            return Err(Error::setting(finding, hint));
        }
        let patch = config.patch_size();
        let mut left = config.cache_mib << 20;
        let (mut collection, scenes) = open(config, &config.dataset, &mut left)?;
        let mut hash = Fingerprint::new(config, seed)?;
        hash.files("train", &collection.files)?;

        let split = &config.validation.split;
        let (scenes, held) = divide(split, scenes, &collection.files, &patch)?;
        refuse_small(config, &collection, &scenes, &patch)?;
        check(&collection)?;
        let normalisers = learn(config, &mut collection, &scenes)?;
        let (target, range) = (collection.target.clone(), collection.range);
        check_target(&collection, &scenes)?;
        let sampler = Sampler::new(&config.sampler, &collection, &scenes, &patch)?;
        let channels = collection.channels(&scenes);
        let collection = Arc::new(collection);

        let mut validation = Vec::new();
        if !held.is_empty() {
            let same = collection.clone();
            validation.push(ValidationSet::new("validation", config, same, held, &patch)?);
        }
        if let SplitConfig::Sets { sets } = split {
            for (name, dataset) in sets {
                let (mut set, scenes) = open(config, dataset, &mut left)?;
                hash.files(name, &set.files)?;
                same_channels(channels, &set, &scenes)?;
                check(&set)?;
                set.input = match &normalisers.input {
                    Normaliser::Dataset { normalisation } => vec![normalisation.clone()],
                    Normaliser::Image { .. } => fit_each(config, &set.files)?,
                };
                set.target = target.clone();
                check_target(&set, &scenes)?;
                set.range = match (&config.dataset, dataset) {
                    (
                        DatasetConfig::Simulated { .. },
                        DatasetConfig::Simulated { range: None, .. },
                    ) => range,
                    _ => full_range(dataset, &set.files, &scenes)?,
                };
                validation.push(ValidationSet::new(name, config, Arc::new(set), scenes, &patch)?);
            }
        }
        Ok(Self {
            config: config.clone(),
            patch,
            seed,
            collection,
            scenes,
            sampler,
            validation,
            normalisers,
            fingerprint: hash.finish(),
        })
    }

    /// Training patches in an epoch.
    pub(crate) fn samples(&self) -> u64 {
        let wanted = self.config.samples_per_epoch;
        let n = wanted.unwrap_or_else(|| self.sampler.natural_len(&self.scenes)).max(1);
        let batch = self.config.batch as u64;
        n.min(u64::from(u32::MAX) - batch).next_multiple_of(batch)
    }

    /// The order of an epoch.
    pub(crate) fn order(&self, epoch: u64) -> Vec<u32> {
        self.sampler.order(self.samples() as usize, Stream::new(self.seed, "order").op(epoch))
    }

    /// A training sample, a pure function of seed, epoch and index.
    pub(crate) fn sample(&self, order: &[u32], epoch: u64, index: u64) -> Result<Sample> {
        let stream = Stream::new(self.seed, "sample").at(epoch, index);
        let mut draws = stream.named("place").draws();
        let (k, n) = (order[index as usize], order.len());
        let place = self.sampler.place(k, n, &self.collection, &self.scenes, &mut draws)?;
        self.collection.sample(
            &self.scenes[place.scene],
            &place,
            &Making {
                patch: &self.patch,
                stream,
                fixed: Stream::new(self.seed, "fixed noise"),
                augment: Some(&self.config.augment),
                index,
            },
        )
    }
}

impl ValidationSet {
    fn new(
        name: &str,
        config: &DataConfig,
        collection: Arc<Collection>,
        scenes: Vec<Scene>,
        patch: &[usize],
    ) -> Result<Self> {
        let all = if config.validation.whole {
            let whole = |(scene, s): (usize, &Scene)| Place {
                scene,
                start: s.start.clone(),
                size: s.size.clone(),
            };
            scenes.iter().enumerate().map(whole).collect()
        } else {
            refuse_small(config, &collection, &scenes, patch)?;
            grid(&scenes, patch, &[])?
        };
        let limit = match config.validation.limit {
            0 => all.len(),
            n => n.min(all.len()),
        };
        let places = (0..limit).map(|i| all[i * all.len() / limit].clone()).collect();
        Ok(Self { name: name.to_owned(), collection, scenes, places })
    }

    /// The sample of a place, the same for every seed so that runs can be compared.
    pub(crate) fn sample(&self, index: u64, patch: Option<&[usize]>) -> Result<Sample> {
        let place = &self.places[index as usize];
        let scene = &self.scenes[place.scene];
        let how = Making {
            patch: patch.unwrap_or(&place.size),
            stream: Stream::new(0, "validation").op(index),
            fixed: Stream::new(0, "validation noise"),
            augment: None,
            index,
        };
        self.collection.sample(scene, place, &how)
    }
}

fn open(
    config: &DataConfig,
    dataset: &DatasetConfig,
    left: &mut u64,
) -> Result<(Collection, Vec<Scene>)> {
    let axes = config.axes.as_ref().map(|a| a.parse()).transpose()?;
    let listing = dataset.list()?;
    let files = open_all(&listing.paths, config.dims, axes.as_ref(), left)?;
    let scenes = dataset.scenes(&listing, &files)?;
    let collection = Collection {
        config: dataset.clone(),
        files,
        input: vec![Normalisation::identity()],
        target: None,
        range: [0.0, 1.0],
    };
    Ok((collection, scenes))
}

/// Refuses images smaller than the patch, unless they may be grown.
fn refuse_small(
    config: &DataConfig,
    collection: &Collection,
    scenes: &[Scene],
    patch: &[usize],
) -> Result<()> {
    let small = |s: &&Scene| s.size.iter().zip(patch).any(|(n, p)| n < p);
    match scenes.iter().find(small) {
        Some(scene) if !config.pad_small => Err(Error::file(
            &collection.files[scene.views[0].file].path,
            format!("an image part of size {:?} is smaller than the patch {patch:?}", scene.size),
            "set a smaller `patch`, or `pad_small = true` to grow small images by mirroring",
        )),
        _ => Ok(()),
    }
}

/// Checks the values of all files.
fn check(collection: &Collection) -> Result<()> {
    let counts = matches!(
        collection.config,
        DatasetConfig::Simulated { noise: NoiseConfig::Thinning { .. }, .. }
    );
    collection.files.par_iter().try_for_each(|file| {
        file.check_finite()?;
        if counts { file.check_counts() } else { Ok(()) }
    })
}

/// Checks that a validation set has the input channels of training, and of layers as many.
fn same_channels(expected: (usize, usize), set: &Collection, scenes: &[Scene]) -> Result<()> {
    let got = set.channels(scenes);
    let slices = set.config.slices().is_some();
    let message = if slices && got != expected {
        format!(
            "validation has {} layers for {} slices, training {} for {}",
            got.1, got.0, expected.1, expected.0
        )
    } else if got.0 != expected.0 {
        format!("the validation image has {} channels, training images {}", got.0, expected.0)
    } else {
        return Ok(());
    };
    Err(Error::file(&set.files[0].path, message, "validate on images of the same kind"))
}

/// Checks that the normalisation of the targets has their number of channels.
fn check_target(collection: &Collection, scenes: &[Scene]) -> Result<()> {
    let Some(target) = scenes.first().and_then(|s| s.views.get(1)) else { return Ok(()) };
    let file = &collection.files[target.file];
    let normal = collection.target.as_ref().unwrap_or(&collection.input[0]).channels.len();
    if normal == 1 || normal == file.channels {
        return Ok(());
    }
    Err(Error::file(
        &file.path,
        format!("the target has {} channels, its normalisation {normal}", file.channels),
        "set `target_normalisation`: targets of another kind than the input need their own",
    ))
}

/// Learns normalisation and intensity range from the training part, and enters them.
fn learn(
    config: &DataConfig,
    collection: &mut Collection,
    scenes: &[Scene],
) -> Result<Normalisers> {
    let (input_view, target_view) = collection.config.roles();
    let files = &collection.files;
    let dataset_fit =
        |config: &crate::normalise::NormalisationConfig, view| -> Result<Normalisation> {
            let some = if config.learns() { scenes } else { &scenes[..0] };
            Ok(config.fit_statistics(&statistics(files, some, view, config.bin())?))
        };
    let range = full_range(&collection.config, files, scenes)?;
    let target =
        config.target_normalisation.as_ref().map(|t| dataset_fit(t, target_view)).transpose()?;
    let input = match config.normalisation_fit {
        Fit::Dataset => vec![dataset_fit(&config.normalisation, input_view)?],
        Fit::Image => fit_each(config, files)?,
    };
    let normaliser = match config.normalisation_fit {
        Fit::Dataset => Normaliser::Dataset { normalisation: input[0].clone() },
        Fit::Image => Normaliser::Image { normalisation: config.normalisation.clone() },
    };
    collection.range = range;
    collection.input = input;
    collection.target = target.clone();
    Ok(Normalisers { input: normaliser, target })
}

fn fit_each(config: &DataConfig, files: &[ImageFile]) -> Result<Vec<Normalisation>> {
    files.par_iter().map(|file| file.fit(&config.normalisation)).collect()
}

/// File values of no and of full signal of a simulated dataset.
fn full_range(dataset: &DatasetConfig, files: &[ImageFile], scenes: &[Scene]) -> Result<[f64; 2]> {
    let DatasetConfig::Simulated { range, .. } = dataset else { return Ok([0.0, 1.0]) };
    if let Some(range) = range {
        return Ok(*range);
    }
    let statistics = statistics(files, scenes, Some(0), 1)?;
    let ranges = (0..statistics.channels()).map(|c| statistics.range(c));
    let (low, high) =
        ranges.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), (c, d)| (a.min(c), b.max(d)));
    if low < high {
        return Ok([low, high]);
    }
    Err(Error::setting(
        format!(
            "all training images have the one value {low}, so there is no signal to add noise to"
        ),
        "check the files, or set `dataset.range`",
    ))
}

/// A hash of what decides the batches: options, names and sizes of files; not where they lie, nor
/// how fast they are prepared.
struct Fingerprint(Sha256);

impl Fingerprint {
    fn new(config: &DataConfig, seed: u64) -> Result<Self> {
        let mut options = DataConfig {
            dataset: config.dataset.without_places(),
            workers: 0,
            prefetch: 0,
            prefetch_mib: 0,
            cache_mib: 0,
            ..config.clone()
        };
        if let SplitConfig::Sets { sets } = &mut options.validation.split {
            sets.values_mut().for_each(|set| *set = set.without_places());
        }
        let mut hash = Self(Sha256::new());
        if let SamplerConfig::Coordinates { file } = &mut options.sampler {
            hash.text(&limpid_io::atomic::sha256_file(&*file)?);
            file.clear();
        }
        hash.text(&seed.to_string());
        // keys that are left out at their default keep the fingerprints of runs older than they are
        let text = serde_json::to_string(&options)
            .map_err(|e| Error::setting(e, "correct the data settings"))?;
        hash.text(&text);
        Ok(hash)
    }

    fn files(&mut self, set: &str, files: &[ImageFile]) -> Result<()> {
        self.text(set);
        for (path, file) in files.iter().flat_map(|f| f.parts.iter().map(move |p| (p, f))) {
            let name = path.file_name().unwrap_or_default();
            let size =
                std::fs::metadata(path).map_err(|e| limpid_io::Error::io("read", path, e))?.len();
            self.text(&format!("{} {size} {:?}", name.to_string_lossy(), file.info.shape));
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}
