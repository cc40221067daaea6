//! Data that cannot be used is refused before training, by name.

use super::*;
use crate::dataset::RepeatAxis;
use crate::sampler::SamplerConfig;

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn missing_empty_and_broken_files() {
    let dir = tempfile::tempdir().unwrap();
    let void = |name: &str| DatasetConfig::Noise2void {
        images: place(dir.path(), name),
        mask: Default::default(),
    };
    assert_says(&refused(plain(void("nowhere"))), &["nowhere"]);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    assert_says(&refused(plain(void("empty"))), &["empty", "no readable image"]);
    numbered(dir.path(), "YX", &[16, 16]);
    std::fs::write(dir.path().join("n/b.tif"), b"II*\0 not much").unwrap();
    assert_says(&refused(plain(void("n"))), &["b.tif"]);
    assert_says(&refused(plain(DatasetConfig::default())), &["dataset.input", "must name"]);
}

#[test]
fn nan_is_found_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    numbered(dir.path(), "CZYX", &[2, 3, 16, 16]);
    save(&dir.path().join("n/bad.tif"), "CZYX", &[2, 3, 16, 16], |i| {
        if i == ((3 + 2) * 16 + 4) * 16 + 7 { f32::NAN } else { 0.0 }
    });
    for (dims, patch) in [(2, vec![8]), (3, vec![2, 8, 8])] {
        for cache_mib in [0, 10] {
            let images = place(dir.path(), "n");
            let set = DatasetConfig::Noise2void { images, mask: Default::default() };
            let error = refused(DataConfig { dims, patch: patch.clone(), cache_mib, ..plain(set) });
            assert_says(&error, &["C=1 Z=2 Y=4 X=7 is NaN", "bad.tif"]);
        }
    }
}

#[test]
fn unpaired_and_unequal_partners() {
    let dir = tempfile::tempdir().unwrap();
    let set = pairs(dir.path(), 3, [16, 16]);
    std::fs::rename(dir.path().join("out/1.tif"), dir.path().join("out/7.tif")).unwrap();
    let error = refused(plain(set.clone()));
    assert_says(&error, &["2 of the images", "in/1.tif", "out/7.tif", "rename"]);
    std::fs::rename(dir.path().join("out/7.tif"), dir.path().join("out/1.tif")).unwrap();
    save(&dir.path().join("out/1.tif"), "YX", &[16, 15], |_| 0.0);
    let error = refused(plain(set.clone()));
    assert_says(&error, &["[16, 15]", "[16, 16]", "in/1.tif", "out/1.tif"]);
    save(&dir.path().join("out/1.tif"), "YX", &[16, 16], |_| 0.0);
    save(&dir.path().join("out/1.png.tif"), "YX", &[16, 16], |_| 0.0);
    save(&dir.path().join("in/2.tif"), "CYX", &[2, 16, 16], |_| 0.0);
    std::fs::remove_file(dir.path().join("out/1.png.tif")).unwrap();
    assert_says(&refused(plain(set.clone())), &["2 channels", "in/2.tif", "in/0.tif"]);
    std::fs::copy(dir.path().join("in/0.tif"), dir.path().join("in/0.tiff")).unwrap();
    assert_says(&refused(plain(set)), &["in/0.tif", "which is meant"]);
}

#[test]
fn settings_that_do_not_fit_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let set = numbered(dir.path(), "YX", &[20, 12]);
    let plain = || plain(set.clone());
    let large = DataConfig { patch: vec![16], ..plain() };
    assert_says(&refused(large), &["[20, 12]", "[16, 16]", "pad_small", "a.tif"]);
    assert_says(&refused(DataConfig { dims: 3, ..plain() }), &["YX", "dims", "a.tif"]);
    let split = SplitConfig::Region { fraction: 0.5 };
    let validation = ValidationConfig { split, ..Default::default() };
    let config = DataConfig { patch: vec![11, 8], validation, ..plain() };
    assert_says(&refused(config), &["cannot be divided", "a.tif"]);
    save(&dir.path().join("p/x.tif"), "CYX", &[2, 16, 16], |i| i as f32);
    save(&dir.path().join("q/x.tif"), "CYX", &[3, 16, 16], |i| i as f32);
    let other =
        DatasetConfig::Paired { input: place(dir.path(), "p"), target: place(dir.path(), "q") };
    let normalisation = NormalisationConfig::MinMax {};
    let config = DataConfig { dataset: other, normalisation, ..plain() };
    assert_says(&refused(config.clone()), &["3 channels", "target_normalisation", "q/x.tif"]);
    let own = Some(NormalisationConfig::MinMax {});
    assert_eq!(
        open(DataConfig { target_normalisation: own, ..config }, 0).channels().unwrap(),
        (2, 3)
    );
    let sampler = SamplerConfig::Foreground { threshold: 1e6, fraction: 0.5 };
    assert_says(&refused(DataConfig { sampler, ..plain() }), &["1000000", "threshold"]);
    let repeats = DatasetConfig::Noise2noise {
        input: place(dir.path(), "n"),
        target: None,
        repeats: Some(RepeatAxis::T),
        swap: true,
    };
    assert_says(&refused(DataConfig { dataset: repeats, ..plain() }), &["repeats", "a.tif"]);
    assert!(Data::new(plain(), 0).train().err().unwrap().to_string().contains("preprocess"));
}

#[test]
fn a_file_that_vanishes_is_named_by_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let set = numbered(dir.path(), "YX", &[20, 12]);
    // neither in memory nor kept open
    let mut data = Data::new(DataConfig { cache_mib: 0, ..plain(set) }, 0);
    data.preprocess().unwrap();
    let loader = data.train().unwrap();
    assert!(loader.epoch(0, 0).next().unwrap().is_ok());
    std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(dir.path().join("n/a.tif"))
        .unwrap();
    let error = loader.epoch(0, 0).next().unwrap().unwrap_err().to_string();
    assert_says(&error, &["a.tif"]);
}

#[test]
fn thinning_of_anything_but_counts() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("c/a.tif"), "YX", &[16, 16], |i| (i % 7) as f32);
    let set = DatasetConfig::Simulated {
        images: place(dir.path(), "c"),
        noise: crate::noise::NoiseConfig::Thinning { fraction: 0.5 },
        fixed: false,
        target: Default::default(),
        range: None,
    };
    open(plain(set.clone()), 0);
    save(&dir.path().join("c/b.tif"), "YX", &[16, 16], |i| i as f32 / 255.0);
    assert_says(&refused(plain(set)), &["counts", "b.tif", "poisson"]);
}
