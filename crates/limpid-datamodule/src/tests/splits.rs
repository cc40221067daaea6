//! Training and validation are apart, and validation may be of another kind.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// Pixel numbers that turn up in training and in validation.
fn seen(config: DataConfig) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let data = open(config, 4);
    let all = |loader: &dyn Loader| -> BTreeSet<u32> {
        let epochs = (0..4).flat_map(|e| batches(loader, e, 0));
        epochs.flat_map(|b| values(&b, "target")).map(|v| v as u32).collect()
    };
    let train = all(&*data.train().unwrap());
    let sets = data.validation().unwrap();
    (train, sets.iter().flat_map(|(_, loader)| all(&**loader)).collect())
}

#[test]
fn no_pixel_is_in_both_parts() {
    let dir = tempfile::tempdir().unwrap();
    for (axes, shape, dims) in [
        ("YX", vec![40, 24], 2),
        ("ZYX", vec![3, 40, 24], 2),
        ("ZYX", vec![12, 16, 16], 2),
        ("ZYX", vec![24, 12, 12], 3),
        ("TZYX", vec![2, 24, 12, 12], 3),
        ("TYX", vec![12, 24, 16], 2),
    ] {
        let n: usize = shape.iter().product();
        let set = numbered(dir.path(), axes, &shape);
        for split in [SplitConfig::Auto {}, SplitConfig::Region { fraction: 0.4 }] {
            let validation = ValidationConfig { split, limit: 0, whole: false };
            let config = DataConfig { dims, validation, ..plain(set.clone()) };
            let (train, held) = seen(config);
            assert!(train.is_disjoint(&held), "{axes} {shape:?} in {dims}-D");
            assert!(held.len() * 12 >= n && train.len() * 3 > n, "{} {}", train.len(), held.len());
        }
    }
}

#[test]
fn files_are_held_back_whole_and_spread_over_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let set = pairs(dir.path(), 12, [16, 16]);
    let split = SplitConfig::Files { fraction: 0.25 };
    for (split, count) in [(SplitConfig::Auto {}, 2), (split, 3)] {
        let validation = ValidationConfig { split, limit: 0, whole: false };
        let data = open(DataConfig { validation, ..plain(set.clone()) }, 0);
        let files = |loader: &dyn Loader| -> BTreeSet<String> {
            batches(loader, 0, 0).into_iter().flat_map(|b| b.ids).map(|id| id.file).collect()
        };
        let held = files(&*data.validation().unwrap()[0].1);
        let train = files(&*data.train().unwrap());
        assert_eq!((held.len(), train.len()), (count, 12 - count));
        assert!(train.is_disjoint(&held));
    }
}

#[test]
fn sets_may_have_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    let train = numbered(dir.path(), "YX", &[16, 16]);
    let sets = BTreeMap::from([("truth".to_owned(), pairs(dir.path(), 2, [16, 16]))]);
    let validation = ValidationConfig { split: SplitConfig::Sets { sets }, limit: 3, whole: false };
    let data = open(DataConfig { validation, ..plain(train) }, 0);
    let sets = data.validation().unwrap();
    assert_eq!((sets.len(), sets[0].0.as_str(), sets[0].1.batches()), (1, "truth", 1));
    let batch = &batches(&*sets[0].1, 0, 0)[0];
    assert_eq!(batch.len(), 3);
    assert!(batch.get("mask").is_err() && batch.get("target").is_ok());
}
