//! Slices between others as samples.

use super::*;
use crate::fixture;
use crate::sampler::SamplerConfig;

fn layers(volume: String, layers: usize) -> DatasetConfig {
    DatasetConfig::Layers { volume, layers }
}

#[test]
fn the_outer_slices_are_the_input_and_those_between_the_target() {
    let dir = tempfile::tempdir().unwrap();
    // the value says where the voxel is: 1000·z + 20·y + x
    let value = |i: usize| (i / 400 * 1000 + i % 400) as f32;
    save(&dir.path().join("v/a.tif"), "ZYX", &[9, 20, 20], value);
    for z in 0..9 {
        save(&dir.path().join(format!("s/{z}.tif")), "YX", &[20, 20], |i| value(z * 400 + i));
    }
    let batches_of = |place: &str, cache_mib| {
        let config = DataConfig {
            samples_per_epoch: Some(60),
            cache_mib,
            ..plain(layers(super::place(dir.path(), place), 3))
        };
        let data = open(config, 2);
        assert_eq!(data.channels().unwrap(), (2, 3));
        batches(&*data.train().unwrap(), 0, 0)
    };
    let from_file = batches_of("v/a.tif", 10);
    let mut firsts = std::collections::BTreeSet::new();
    for batch in &from_file {
        assert_eq!(batch.get("input").unwrap().dims(), [3, 2, 8, 8]);
        assert_eq!(batch.get("target").unwrap().dims(), [3, 3, 8, 8]);
        let (input, target) = (values(batch, "input"), values(batch, "target"));
        for (i, id) in batch.ids.iter().enumerate() {
            let [z, y, x] = [0, 1, 2].map(|a| id.region[a][0]);
            assert_eq!(id.region[0][1], 5);
            firsts.insert(z);
            let at = |z: usize| (1000 * z + 20 * y + x) as f32;
            assert_eq!([input[i * 128], input[i * 128 + 64]], [at(z + 4), at(z)]);
            let between = [0, 1, 2].map(|c| target[(i * 3 + c) * 64]);
            assert_eq!(between, [at(z + 1), at(z + 2), at(z + 3)]);
        }
    }
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    // the same from a folder and from a pattern of slices, in memory and not
    for (place, cache) in [("s", 10), ("s", 0), ("s/?.tif", 10), ("v", 0)] {
        assert_eq!(bits(&batches_of(place, cache)), bits(&from_file), "{place}");
    }
}

#[test]
fn of_thinned_volumes_every_nth_slice_is_given() {
    let dir = tempfile::tempdir().unwrap();
    // the value says where the voxel is: 1000·z + 20·y + x
    let value = |i: usize| (i / 400 * 1000 + i % 400) as f32;
    save(&dir.path().join("a.tif"), "ZYX", &[11, 20, 20], value);
    let set =
        |slices| DatasetConfig::Thinned { volume: place(dir.path(), "a.tif"), layers: 2, slices };
    let data = open(DataConfig { samples_per_epoch: Some(60), ..plain(set(3)) }, 2);
    assert_eq!(data.channels().unwrap(), (3, 9));
    let mut firsts = std::collections::BTreeSet::new();
    for batch in batches(&*data.train().unwrap(), 0, 0) {
        assert_eq!(batch.get("input").unwrap().dims(), [3, 3, 8, 8]);
        assert_eq!(batch.get("target").unwrap().dims(), [3, 9, 8, 8]);
        let (input, target) = (values(&batch, "input"), values(&batch, "target"));
        for (i, id) in batch.ids.iter().enumerate() {
            let [z, y, x] = [0, 1, 2].map(|a| id.region[a][0]);
            assert_eq!(id.region[0][1], 9);
            firsts.insert(z);
            let at = |z: usize| (1000 * z + 20 * y + x) as f32;
            for c in 0..3 {
                assert_eq!(input[(i * 3 + c) * 64], at(z + 3 * c));
            }
            for c in 0..9 {
                assert_eq!(target[(i * 9 + c) * 64], at(z + c));
            }
        }
    }
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    let error = refused(plain(set(4)));
    assert!(error.contains("12 slices or more"), "{error}");
    assert!(refused(plain(set(1))).contains("at least 2"));
    assert!(refused(DataConfig { dims: 3, ..plain(set(3)) }).contains("must be 2 for layers"));
}

#[test]
fn normalisation_sees_every_slice_once() {
    let dir = tempfile::tempdir().unwrap();
    // slice z is z everywhere: the mean of 0…8 is 4, the variance 60/9
    save(&dir.path().join("a.tif"), "ZYX", &[9, 16, 16], |i| (i / 256) as f32);
    let config = DataConfig {
        normalisation: NormalisationConfig::ZScore {},
        ..plain(layers(place(dir.path(), "a.tif"), 3))
    };
    let data = open(config, 0);
    let batch = &batches(&*data.train().unwrap(), 0, 0)[0];
    let z = batch.ids[0].region[0][0] as f64;
    let expected = (z - 4.0) / (60.0f64 / 9.0).sqrt();
    assert!((f64::from(values(batch, "input")[64]) - expected).abs() < 1e-6);
}

#[test]
fn validation_keeps_pixels_apart_and_counts_layers() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("a.tif"), "ZYX", &[6, 30, 16], |i| i as f32);
    let set = layers(place(dir.path(), "a.tif"), 2);
    let validation = ValidationConfig { limit: 0, ..Default::default() };
    let data = open(DataConfig { validation, ..plain(set.clone()) }, 1);
    let seen = |loader: &dyn Loader| -> std::collections::BTreeSet<u32> {
        let all = (0..6).flat_map(|e| batches(loader, e, 0));
        all.flat_map(|b| values(&b, "target")).map(|v| v as u32).collect()
    };
    let (train, held) = (seen(&*data.train().unwrap()), seen(&*data.validation().unwrap()[0].1));
    assert!(train.is_disjoint(&held) && held.len() >= 4 * 8 * 16, "{}", held.len());
    let other = layers(place(dir.path(), "a.tif"), 3);
    let sets = [("more".to_owned(), other)].into();
    let validation = ValidationConfig { split: SplitConfig::Sets { sets }, ..Default::default() };
    let error = refused(DataConfig { validation, ..plain(set) });
    assert!(error.contains("3 layers for 2 slices, training 2 for 2"), "{error}");
}

#[test]
fn what_is_no_volume_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("thin.tif"), "ZYX", &[4, 16, 16], |i| i as f32);
    save(&dir.path().join("flat.tif"), "YX", &[16, 16], |i| i as f32);
    save(&dir.path().join("c.tif"), "CZYX", &[2, 9, 16, 16], |i| i as f32);
    for file in ["thin.tif", "flat.tif", "c.tif"] {
        let error = refused(plain(layers(place(dir.path(), file), 3)));
        assert!(error.contains("5 slices or more") && error.ends_with(file), "{error}");
    }
    save(&dir.path().join("s/0.tif"), "YX", &[16, 16], |i| i as f32);
    save(&dir.path().join("s/1.tif"), "YX", &[16, 17], |i| i as f32);
    let error = refused(plain(layers(place(dir.path(), "s"), 1)));
    assert!(error.contains("must be alike"), "{error}");
    let three = DataConfig { dims: 3, ..plain(layers(place(dir.path(), "thin.tif"), 1)) };
    assert!(refused(three).contains("must be 2 for layers"));
}

#[test]
fn samples_are_those_of_the_reference() {
    let folder = fixture::emdiffuse();
    let Some(t) = fixture::tensors_in(&folder, "datasets") else { return };
    // the reference picked x = 7, y = 11 and the centres 5 (z = 4) and 4 (z = 5)
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.csv");
    for (z, centre) in [(4, 5), (5, 4)] {
        // the patch of 16 around this pixel of the upper slice
        let upper = centre + z / 2 + z % 2;
        std::fs::write(&list, format!("file,z,y,x\nvol,{upper},{},{}\n", 11 + 8, 7 + 8)).unwrap();
        let config = DataConfig {
            patch: vec![16],
            batch: 1,
            sampler: SamplerConfig::Coordinates { file: list.display().to_string() },
            normalisation: NormalisationConfig::Scale { divide: 255.0 },
            ..plain(layers(folder.join("dataset_tree/vol").display().to_string(), z - 1))
        };
        let data = open(config, 0);
        let batch = &batches(&*data.train().unwrap(), 0, 0)[0];
        for (ours, theirs) in [("input", "cond"), ("target", "gt")] {
            let expected = &t[&format!("out.vol.z{z}.{theirs}")];
            let got = values(batch, ours);
            assert_eq!(got.len(), expected.len());
            for (a, b) in got.iter().zip(expected) {
                assert!((2.0 * a - 1.0 - b).abs() < 1e-6, "z = {z}, {theirs}: {a} and {b}");
            }
        }
    }
}
