//! Real images from the shared folder, where it is present: sums computed by independent code.

use crate::{Data, Region, list_images, open, save};
use std::path::PathBuf;

/// A file of the shared data, or nothing, with a word about it, where it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    #[allow(clippy::print_stderr)] // the reason for skipping
    {
        eprintln!("skipped: no {}", path.display());
    }
    None
}

fn sum(data: &Data) -> i64 {
    match data {
        Data::U8(v) => v.iter().map(|x| i64::from(*x)).sum(),
        Data::U16(v) => v.iter().map(|x| i64::from(*x)).sum(),
        Data::I16(v) => v.iter().map(|x| i64::from(*x)).sum(),
        other => panic!("not expected in these files: {}", other.dtype()),
    }
}

#[test]
fn microscopy() {
    let cases = [
        ("em/brain_sem_noisy_3.3nm_1600x1600_u16.tif", "YX", vec![1600, 1600], 89914185583),
        ("em/fib25_training_sample1_10nm_250x250x250_u8.tif", "ZYX", vec![250; 3], 2061679510),
        (
            "em/fib25_training_sample2_membranes_160x250x250_u8.tif",
            "ZYX",
            vec![160, 250, 250],
            263377005,
        ),
        ("em/stem_haadf_pair_2x1024_i16.tif", "ZYX", vec![2, 1024, 1024], 8533897585),
        ("em/microns/0.tif", "YX", vec![256, 256], 8267527),
    ];
    for (name, axes, shape, expected) in cases {
        let Some(path) = shared(name) else { return };
        let reader = open(&path).unwrap();
        let info = reader.info();
        assert_eq!((info.axes.to_string().as_str(), &info.shape), (axes, &shape));
        assert_eq!(info.spacing, None); // the files do not say
        assert_eq!(sum(&reader.read().unwrap().data), expected, "{name}");
    }
}

#[test]
fn medical() {
    let cases = [
        ("medical/ct_small.nii.gz", "ZYX", vec![30, 101, 122], -130894872),
        ("medical/epi_two_repeats.nii.gz", "TZYX", vec![2, 24, 96, 128], 101985356),
        (
            "medical/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
            "ZYX",
            vec![189, 233, 197],
            333468829,
        ),
    ];
    for (name, axes, shape, expected) in cases {
        let Some(path) = shared(name) else { return };
        let reader = open(&path).unwrap();
        let info = reader.info();
        assert_eq!((info.axes.to_string().as_str(), &info.shape), (axes, &shape));
        let volume = reader.read().unwrap();
        assert_eq!(sum(&volume.data), expected, "{name}");
        let mut region = Region::full(&shape);
        (region.start[0], region.size[0]) = (1, 1);
        let each = volume.data.len() / shape[0];
        assert_eq!(reader.read_region(&region).unwrap(), volume.data.slice(each, each).unwrap());
    }
}

#[test]
fn geometry_of_a_real_scan_is_kept_to_the_bit() {
    let Some(path) = shared("medical/epi_two_repeats.nii.gz") else { return };
    let volume = open(&path).unwrap().read().unwrap();
    // the affine that nibabel's documentation prints for this file
    let expected = [
        [-2.0, 6.71471565e-19, 9.08102451e-18, 117.855103],
        [-6.71471565e-19, 1.97371149, -0.355528235, -35.7229424],
        [8.25548089e-18, 0.323207617, 2.17108178, -7.24879837],
    ];
    let affine = volume.info.affine.unwrap();
    for (x, y) in affine.iter().flatten().zip(expected.iter().flatten()) {
        assert!((x - y).abs() <= 1e-6 * y.abs(), "{x} {y}");
    }
    let spacing = volume.info.spacing.clone().unwrap();
    assert_eq!(spacing[0], 2000.0); // the header says seconds
    assert_eq!(volume.info.unit.as_deref(), Some("mm"));
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.nii.gz");
    save(&copy, &volume).unwrap();
    assert_eq!(open(&copy).unwrap().read().unwrap(), volume);
}

#[test]
fn raw_mri_is_refused_with_a_reason() {
    for name in ["mri/cartesian_brain_8ch_230x180_c64.npy", "mri/radial_brain_64spokes_32ch.npz"] {
        let Some(path) = shared(name) else { return };
        let error = open(&path).err().unwrap().to_string();
        let expected = if name.ends_with("npz") { "`ksp`" } else { "complex" };
        assert!(error.contains(expected), "{error}");
    }
    let Some(path) = shared("mri/radial_brain_64spokes_32ch.npz") else { return };
    let coordinates = open(format!("{}:coord", path.display())).unwrap();
    assert_eq!(coordinates.info().shape, [64, 512, 2]);
    assert!(coordinates.read().unwrap().data.to_f32().iter().all(|k| (-128.0..=128.0).contains(k)));
}

#[test]
fn folders_are_listed_in_order() {
    let Some(path) = shared("em/microns") else { return };
    let names: Vec<_> = list_images(&path).unwrap();
    assert_eq!(names, [path.join("0.tif"), path.join("1.tif")]);
}
