//! What is written comes back: every format, type and set of axes, whole and by region.

use super::{cut, noise, volume};
use crate::{Axis, Compression, DType, Data, OpenOptions, Region, Volume, WriteOptions};
use crate::{create, open, open_with, save};
use proptest::prelude::*;
use std::path::Path;

/// File name, compression and whether BigTIFF is forced.
const TARGETS: [(&str, Compression, bool); 8] = [
    ("a.tif", Compression::None, false),
    ("a.tiff", Compression::Deflate, false),
    ("a.tif", Compression::None, true),
    ("a.tif", Compression::Deflate, true),
    ("a.nii", Compression::None, false),
    ("a.nii.gz", Compression::None, false),
    ("a.npy", Compression::None, false),
    ("a.npz", Compression::Deflate, false),
];

fn write(path: &Path, volume: &Volume, target: usize, step: usize) {
    let (_, compression, big_tiff) = TARGETS[target];
    let options = WriteOptions { compression, big_tiff };
    let mut writer = create(path, &volume.info, &options).unwrap();
    let (total, each) = (volume.info.shape[0], volume.data.len() / volume.info.shape[0]);
    for first in (0..total).step_by(step) {
        let count = step.min(total - first);
        writer.write_slab(first, &volume.data.slice(first * each, count * each).unwrap()).unwrap();
    }
    assert!(!path.exists(), "the file must not appear before it is finished");
    writer.finish().unwrap();
}

/// A volume with geometry whose numbers an `f32` can hold.
fn geometry(mut volume: Volume) -> Volume {
    let spacing = |axis: &Axis| match axis {
        Axis::T => 2.5,
        Axis::C => 0.0,
        Axis::Z => 3.0,
        Axis::Y => 0.75,
        Axis::X => 0.125,
    };
    volume.info.spacing = Some(volume.info.axes.as_slice().iter().map(spacing).collect());
    volume.info.unit = Some("µm".into());
    volume
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_volume_through_any_format(
        optional in prop::sample::select(vec!["", "T", "C", "Z", "TC", "TZ", "CZ", "TCZ"]),
        sizes in prop::collection::vec(1usize..7, 5),
        dtype in prop::sample::select(DType::ALL.to_vec()),
        target in 0..TARGETS.len(),
        step in 1usize..5,
        picks in prop::collection::vec((0usize..100, 0usize..100), 5),
    ) {
        let axes = format!("{optional}YX");
        let shape = &sizes[..axes.len()];
        let original = geometry(volume(&axes, shape, dtype));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TARGETS[target].0);
        write(&path, &original, target, step);

        // numpy has no names for axes
        let numpy = TARGETS[target].0.contains(".np");
        let axes = numpy.then(|| original.info.axes.clone());
        let reader = open_with(&path, &OpenOptions { axes, array: None }).unwrap();
        let read = reader.read().unwrap();
        prop_assert_eq!(&read.data, &original.data);
        let info = &read.info;
        if TARGETS[target].0.contains(".nii") {
            // dimensions below the last one used exist in NIfTI, with size 1
            for axis in [Axis::T, Axis::C, Axis::Z, Axis::Y, Axis::X] {
                prop_assert_eq!(info.size(axis), original.info.size(axis));
                if original.info.axes.position(axis).is_some() {
                    prop_assert_eq!(info.spacing_of(axis), original.info.spacing_of(axis));
                }
            }
        } else {
            prop_assert_eq!((&info.axes, &info.shape), (&original.info.axes, &original.info.shape));
            if !numpy {
                prop_assert_eq!(&info.spacing, &original.info.spacing);
            }
        }
        if !numpy {
            prop_assert_eq!(&info.unit, &original.info.unit);
        }

        let (mut start, mut size) = (Vec::new(), Vec::new());
        for (n, (a, b)) in info.shape.iter().zip(picks) {
            start.push(a % n);
            size.push(1 + b % (n - a % n));
        }
        let region = Region { start, size };
        let part = reader.read_region(&region).unwrap();
        prop_assert_eq!(part, cut(&original.data, info, &region));

        // and what was read can be written again without a change
        let second = dir.path().join(format!("b{}", &TARGETS[target].0[1..]));
        save(&second, &read).unwrap();
        let axes = numpy.then(|| original.info.axes.clone());
        let again = open_with(&second, &OpenOptions { axes, array: None }).unwrap().read().unwrap();
        prop_assert_eq!(again.data, read.data);
        prop_assert_eq!(again.info, read.info);
    }
}

#[test]
fn pictures() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in [DType::U8, DType::U16] {
        for channels in 1..=4 {
            let original = match channels {
                1 => volume("YX", &[5, 7], dtype),
                _ => volume("CYX", &[channels, 5, 7], dtype),
            };
            let path = dir.path().join(format!("{dtype}{channels}.png"));
            save(&path, &original).unwrap();
            let reader = open(&path).unwrap();
            let read = reader.read().unwrap();
            assert_eq!(read.data, original.data);
            assert_eq!(
                (&read.info.axes, &read.info.shape),
                (&original.info.axes, &original.info.shape)
            );
            assert_eq!(read.info.meta.rgb, channels > 2);
            let mut region = Region::full(&read.info.shape);
            let rank = region.size.len();
            (region.start[rank - 1], region.size[rank - 1]) = (2, 3);
            let part = reader.read_region(&region).unwrap();
            assert_eq!(part, cut(&original.data, &read.info, &region));
            // colour goes on as colour
            let tiff = dir.path().join(format!("{dtype}{channels}.tif"));
            save(&tiff, &read).unwrap();
            let again = open(&tiff).unwrap().read().unwrap();
            assert_eq!((again.data, again.info.meta.rgb), (read.data, channels > 2));
            assert_eq!((again.info.axes, again.info.shape), (read.info.axes, read.info.shape));
        }
    }
    for bad in [volume("ZYX", &[2, 3, 3], DType::U8), volume("YX", &[3, 3], DType::F32)] {
        let error = save(dir.path().join("no.png"), &bad).unwrap_err().to_string();
        assert!(error.contains("use .tif") && error.ends_with("no.png`"), "{error}");
    }
}

#[test]
fn large_enough_for_many_strips_and_batches() {
    // 3 planes of 1.1 MB: several strips each, slabs that end inside a page's strip
    let original = volume("ZYX", &[3, 700, 800], DType::U16);
    let dir = tempfile::tempdir().unwrap();
    for target in 0..TARGETS.len() {
        let path = dir.path().join(TARGETS[target].0);
        let _ = std::fs::remove_file(&path);
        write(&path, &original, target, 2);
        let reader = open(&path).unwrap();
        assert_eq!(reader.read().unwrap().data, original.data);
        let region = Region { start: vec![1, 320, 5], size: vec![2, 101, 790] };
        let part = reader.read_region(&region).unwrap();
        assert_eq!(part, cut_rows(&original.data, &region));
    }
    // one plane, written row by row
    let plane = volume("YX", &[700, 800], DType::F32);
    let path = dir.path().join("rows.tif");
    write(&path, &plane, 1, 37);
    assert_eq!(open(&path).unwrap().read().unwrap().data, plane.data);
}

/// [`cut`] for the case above, row by row.
fn cut_rows(data: &Data, region: &Region) -> Data {
    let mut out = Data::zeros(data.dtype(), region.size.iter().product()).unwrap();
    for z in 0..region.size[0] {
        for y in 0..region.size[1] {
            let from = ((region.start[0] + z) * 700 + region.start[1] + y) * 800 + region.start[2];
            let row = data.slice(from, region.size[2]).unwrap();
            out.copy_from((z * region.size[1] + y) * region.size[2], &row);
        }
    }
    out
}

#[test]
fn writers_refuse_disorder_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.tif", "a.nii", "a.nii.gz", "a.npy", "a.npz", "a.png"] {
        let path = dir.path().join(name);
        let two_d = name.ends_with("png");
        let original = match two_d {
            true => volume("YX", &[4, 3], DType::U8),
            false => volume("ZYX", &[4, 3, 1], DType::U8),
        };
        let start = || create(&path, &original.info, &WriteOptions::default()).unwrap();
        let refused = |result: crate::Result<()>, expected: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected) && error.ends_with(&format!("{name}`")), "{error}");
        };
        let mut writer = start();
        refused(writer.write_slab(1, &noise(DType::U8, 3, 1)), "expected index 0, got 1");
        refused(writer.write_slab(0, &noise(DType::U16, 3, 1)), "expected samples of u8, got u16");
        refused(writer.write_slab(0, &noise(DType::U8, 4, 1)), "1 to 4 times 3 samples, got 4");
        refused(writer.write_slab(0, &noise(DType::U8, 15, 1)), "got 15");
        refused(writer.write_slab(0, &noise(DType::U8, 0, 1)), "got 0");
        writer.write_slab(0, &noise(DType::U8, 6, 1)).unwrap();
        refused(writer.finish(), "only 2 of 4 slabs");
        let mut dropped = start();
        dropped.write_slab(0, &noise(DType::U8, 6, 1)).unwrap();
        drop(dropped);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
    }
    let info = volume("YX", &[4, 3], DType::U8).info;
    let error = create(dir.path().join("a.jpg"), &info, &WriteOptions::default()).err().unwrap();
    assert!(error.to_string().contains("must end in .tif"), "{error}");
    let error = create(dir.path().join("no/a.tif"), &info, &WriteOptions::default()).err().unwrap();
    assert!(error.to_string().contains("folder exists"), "{error}");
}

#[test]
fn the_same_volume_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let original = geometry(volume("CZYX", &[2, 3, 40, 50], DType::U16));
    for target in 0..TARGETS.len() {
        let file = |folder: &str, threads: usize| {
            let path = dir.path().join(folder).join(TARGETS[target].0);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = std::fs::remove_file(&path);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| write(&path, &original, target, threads));
            std::fs::read(path).unwrap()
        };
        assert!(file("one", 1) == file("two", 2), "{}", TARGETS[target].0);
    }
}
