//! What is in the batches, and that nothing but seed, epoch and index decides it.

use super::*;
use crate::blind_spot::BlindSpotConfig;
use crate::dataset::{RepeatAxis, SimulatedTarget};
use crate::noise::NoiseConfig;
use crate::normalise::Fit;
use crate::sampler::{SamplerConfig, Weight};

fn simulated(dir: &Path, target: SimulatedTarget, fixed: bool) -> DatasetConfig {
    save(&dir.join("clean/a.tif"), "YX", &[40, 48], |i| (i % 97) as f32);
    save(&dir.join("clean/b.tif"), "YX", &[33, 24], |i| (i % 89) as f32);
    let noise = NoiseConfig::Poisson { dose: 30.0 };
    DatasetConfig::Simulated { images: place(dir, "clean"), noise, fixed, target, range: None }
}

#[test]
fn threads_interruption_and_memory_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clean = simulated(dir.path(), SimulatedTarget::Noisy, false);
    let void = DatasetConfig::Noise2void {
        images: place(dir.path(), "clean"),
        mask: BlindSpotConfig { percent: 2.0, ..Default::default() },
    };
    let foreground = SamplerConfig::Foreground { threshold: 80.0, fraction: 0.5 };
    for (dataset, sampler) in [
        (clean.clone(), SamplerConfig::Uniform {}),
        (clean, SamplerConfig::Weighted { by: Weight::Gradient }),
        (void, foreground),
    ] {
        let config = |workers, prefetch, cache_mib| DataConfig {
            workers,
            prefetch,
            cache_mib,
            sampler: sampler.clone(),
            normalisation: NormalisationConfig::default(),
            augment: AugmentConfig { gain: 0.2, offset: 0.1, ..Default::default() },
            ..plain(dataset.clone())
        };
        let one = open(config(1, 1, 100), 7);
        let four = open(config(4, 6, 0), 7);
        assert_eq!(one.fingerprint(), four.fingerprint());
        let (a, b) = (one.train().unwrap(), four.train().unwrap());
        let whole = batches(&*a, 2, 0);
        assert_eq!(whole.len() as u64, a.batches());
        assert_eq!(bits(&whole), bits(&batches(&*b, 2, 0)));
        assert_eq!(bits(&whole[4..]), bits(&batches(&*b, 2, 4)));
        assert_eq!(whole[5].ids, batches(&*b, 2, 5)[0].ids);
        assert_ne!(bits(&whole), bits(&batches(&*a, 3, 0)), "epochs repeat");
        let other = open(config(1, 1, 100), 8);
        assert_ne!(bits(&whole), bits(&batches(&*other.train().unwrap(), 2, 0)), "seed ignored");
    }
}

#[test]
fn pairs_stay_aligned_through_augmentation() {
    let dir = tempfile::tempdir().unwrap();
    let config = DataConfig {
        augment: AugmentConfig { gain: 0.3, ..Default::default() },
        ..plain(pairs(dir.path(), 3, [30, 26]))
    };
    let data = open(config, 1);
    let loader = data.train().unwrap();
    let mut files = std::collections::BTreeSet::new();
    for batch in batches(&*loader, 0, 0) {
        assert_eq!(batch.get("input").unwrap().dims(), [3, 1, 8, 8]);
        let (x, y) = (values(&batch, "input"), values(&batch, "target"));
        assert!(x.iter().zip(&y).all(|(x, y)| (2.0 * x - y).abs() <= 1e-3 * y.abs()));
        files.extend(batch.ids.into_iter().map(|id| id.file));
    }
    assert_eq!(files.len(), 3);
    assert_eq!(data.channels().unwrap(), (1, 1));
}

#[test]
fn ids_say_where_a_patch_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let set = numbered(dir.path(), "TZYX", &[2, 3, 20, 17]);
    for dims in [2, 3] {
        let patch = if dims == 2 { vec![8] } else { vec![2, 8, 8] };
        let data = open(DataConfig { dims, patch, ..plain(set.clone()) }, 3);
        for batch in batches(&*data.train().unwrap(), 0, 0) {
            let target = batch.get("target").unwrap();
            for (i, id) in batch.ids.iter().enumerate() {
                let first = target.get(i).unwrap().flatten_all().unwrap();
                let first = first.to_vec1::<f32>().unwrap()[0] as usize;
                let r: Vec<usize> = id.region.iter().map(|r| r[0]).collect();
                assert_eq!(((r[0] * 3 + r[1]) * 20 + r[2]) * 17 + r[3], first);
            }
        }
    }
}

#[test]
fn noise_is_fresh_or_fixed_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    // the noise at pixels that turn up in two epochs
    let seen = |fixed| {
        let set = simulated(dir.path(), SimulatedTarget::Clean, fixed);
        let sampler = SamplerConfig::Grid { stride: vec![] };
        let data = open(DataConfig { sampler, ..plain(set) }, 1);
        let loader = data.train().unwrap();
        let epoch = |e| {
            let mut all = Vec::new();
            for batch in batches(&*loader, e, 0) {
                let x = values(&batch, "input");
                let patches = x.chunks(64).map(<[f32]>::to_vec);
                all.extend(
                    batch.ids.iter().map(|i| (i.file.clone(), i.region.clone())).zip(patches),
                );
            }
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all.dedup_by(|a, b| a.0 == b.0);
            all
        };
        (epoch(0), epoch(1))
    };
    let (a, b) = seen(true);
    assert_eq!(a, b);
    let (a, b) = seen(false);
    assert!(a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
}

#[test]
fn repeats_make_pairs_of_different_noise() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("r/a.tif"), "ZYX", &[3, 16, 16], |i| (i / 256 * 1000 + i % 256) as f32);
    let set = |swap| DatasetConfig::Noise2noise {
        input: place(dir.path(), "r"),
        target: None,
        repeats: Some(RepeatAxis::Z),
        swap,
    };
    for swap in [false, true] {
        let config = DataConfig { samples_per_epoch: Some(90), ..plain(set(swap)) };
        let data = open(config, 2);
        let mut seen = std::collections::BTreeSet::new();
        for batch in batches(&*data.train().unwrap(), 0, 0) {
            let (x, y) = (values(&batch, "input"), values(&batch, "target"));
            assert!(x.iter().zip(&y).all(|(x, y)| x % 1000.0 == y % 1000.0));
            let repeats = x.iter().zip(&y).map(|(x, y)| ((x / 1e3) as u8, (y / 1e3) as u8));
            seen.extend(repeats);
        }
        let ordered = [(0, 1), (0, 2), (1, 2)];
        let expected = if swap { 6 } else { 3 };
        assert_eq!(seen.len(), expected, "{seen:?}");
        assert!(ordered.iter().all(|p| seen.contains(p)) && seen.iter().all(|(a, b)| a != b));
    }
    // along T in volumes, from two files
    save(&dir.path().join("x/v.tif"), "ZYX", &[8, 8, 8], |i| i as f32);
    save(&dir.path().join("y/w.tif"), "ZYX", &[8, 8, 8], |i| i as f32 + 0.5);
    let set = DatasetConfig::Noise2noise {
        input: place(dir.path(), "x"),
        target: Some(place(dir.path(), "y")),
        repeats: None,
        swap: true,
    };
    let data = open(DataConfig { dims: 3, samples_per_epoch: Some(30), ..plain(set) }, 2);
    let mut signs = std::collections::BTreeSet::new();
    for batch in batches(&*data.train().unwrap(), 0, 0) {
        let (x, y) = (values(&batch, "input"), values(&batch, "target"));
        signs.extend(x.iter().zip(&y).map(|(x, y)| ((x - y) * 2.0) as i8));
    }
    assert_eq!(signs.into_iter().collect::<Vec<_>>(), [-1, 1]);
}

#[test]
fn validation_is_the_same_every_time_and_for_every_seed() {
    let dir = tempfile::tempdir().unwrap();
    let set = simulated(dir.path(), SimulatedTarget::Noisy, false);
    let validation =
        |whole| ValidationConfig { split: SplitConfig::Region { fraction: 0.3 }, whole, limit: 0 };
    for whole in [false, true] {
        let config = DataConfig { validation: validation(whole), ..plain(set.clone()) };
        let data = [open(config.clone(), 1), open(config, 2)];
        let sets: Vec<_> = data.iter().map(|d| d.validation().unwrap().remove(0)).collect();
        assert_eq!(sets[0].0, "validation");
        let first = batches(&*sets[0].1, 0, 0);
        assert_eq!(first.len() as u64, sets[0].1.batches());
        assert_eq!(bits(&first), bits(&batches(&*sets[1].1, 5, 0)));
        let dims = first[0].get("clean").unwrap().dims().to_vec();
        assert_eq!(dims, if whole { vec![1, 1, 12, 48] } else { vec![3, 1, 8, 8] });
        let clean = values(&first[0], "clean");
        assert_ne!(values(&first[0], "input"), clean);
        assert_ne!(values(&first[0], "input"), values(&first[0], "target"));
    }
}

#[test]
fn normalisation_is_learnt_from_all_or_each_image_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("m/a.tif"), "YX", &[8, 8], |i| i as f32);
    save(&dir.path().join("m/b.tif"), "YX", &[8, 8], |i| 100.0 + 4.0 * i as f32);
    let set =
        DatasetConfig::Noise2void { images: place(dir.path(), "m"), mask: Default::default() };
    for (fit, top) in [(Fit::Dataset, [63.0 / 352.0, 1.0]), (Fit::Image, [1.0, 1.0])] {
        let config = DataConfig {
            normalisation: NormalisationConfig::MinMax {},
            normalisation_fit: fit,
            ..plain(set.clone())
        };
        let data = open(config, 0);
        let stored = serde_json::to_string(data.normalisers().unwrap()).unwrap();
        assert_eq!(
            &serde_json::from_str::<crate::normalise::Normalisers>(&stored).unwrap(),
            data.normalisers().unwrap()
        );
        for batch in batches(&*data.train().unwrap(), 0, 0) {
            let target = values(&batch, "target");
            for (id, patch) in batch.ids.iter().zip(target.chunks(64)) {
                let expected = top[usize::from(id.file.ends_with("b.tif"))];
                assert!((patch[63] - expected).abs() < 1e-6, "{} {}", patch[63], id.file);
            }
        }
    }
}

#[test]
fn small_images_grow_by_mirroring() {
    let dir = tempfile::tempdir().unwrap();
    let set = numbered(dir.path(), "YX", &[5, 8]);
    let data = open(DataConfig { pad_small: true, ..plain(set) }, 0);
    let batch = data.train().unwrap().epoch(0, 0).next().unwrap().unwrap();
    let target = values(&batch, "target");
    let column: Vec<f32> = (0..8).map(|y| target[y * 8]).collect();
    assert_eq!(column, [8., 0., 8., 16., 24., 32., 24., 16.]);
}

#[test]
fn fingerprint_knows_data_and_options_but_not_places_or_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let (a, b) = (plain(pairs(&one, 2, [16, 16])), plain(pairs(&two, 2, [16, 16])));
    let print = |config: DataConfig| open(config, 1).fingerprint();
    let first = print(a.clone());
    assert_eq!(first, print(b.clone()));
    assert_eq!(first, print(DataConfig { workers: 3, cache_mib: 7, ..a.clone() }));
    assert_ne!(first, print(DataConfig { batch: 2, ..a.clone() }));
    assert_ne!(first, open(a, 2).fingerprint());
    pairs(&two, 3, [16, 16]);
    assert_ne!(first, print(b));
}
