//! Headers of every version and byte order, scaling, geometry, pairs, and what is refused.

use super::Header;
use crate::tests::volume;
use crate::{Axis, DType, Data, Volume, open, save};
use std::path::Path;

/// A header as an array of bytes that fields are set in by their place in `nifti1.h`/`nifti2.h`.
struct Raw {
    bytes: Vec<u8>,
    big_endian: bool,
}

impl Raw {
    fn first(big_endian: bool, dim: &[i16], datatype: i16) -> Self {
        let mut raw = Self { bytes: vec![0; 352], big_endian };
        raw.set(0, 348i32.to_be_bytes());
        raw.set(40, (dim.len() as i16).to_be_bytes());
        for (i, n) in dim.iter().enumerate() {
            raw.set(42 + 2 * i, n.to_be_bytes());
        }
        raw.set(70, datatype.to_be_bytes());
        (0..8).for_each(|i| raw.set(76 + 4 * i, 1f32.to_be_bytes()));
        raw.set(108, 352f32.to_be_bytes());
        raw.bytes[344..348].copy_from_slice(b"n+1\0");
        raw
    }

    fn second(big_endian: bool, dim: &[i64], datatype: i16) -> Self {
        let mut raw = Self { bytes: vec![0; 544], big_endian };
        raw.set(0, 540i32.to_be_bytes());
        raw.bytes[4..12].copy_from_slice(b"n+2\0\r\n\x1a\n");
        raw.set(12, datatype.to_be_bytes());
        raw.set(16, (dim.len() as i64).to_be_bytes());
        for (i, n) in dim.iter().enumerate() {
            raw.set(24 + 8 * i, n.to_be_bytes());
        }
        (0..8).for_each(|i| raw.set(104 + 8 * i, 1f64.to_be_bytes()));
        raw.set(168, 544i64.to_be_bytes());
        raw
    }

    fn set<const N: usize>(&mut self, at: usize, mut value: [u8; N]) {
        if !self.big_endian {
            value.reverse();
        }
        self.bytes[at..at + N].copy_from_slice(&value);
    }

    fn with(mut self, samples: &[i16]) -> Vec<u8> {
        for sample in samples {
            let pair = if self.big_endian { sample.to_be_bytes() } else { sample.to_le_bytes() };
            self.bytes.extend(pair);
        }
        self.bytes
    }
}

const SAMPLES: [i16; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -300, 3000];

/// Small valid files, to be damaged elsewhere.
pub(crate) fn odd_files() -> Vec<(&'static str, Vec<u8>)> {
    let mut scaled = Raw::first(true, &[2, 3, 2], 4);
    scaled.set(112, 0.5f32.to_be_bytes());
    scaled.set(116, (-10f32).to_be_bytes());
    vec![
        ("be", Raw::first(true, &[2, 3, 2], 4).with(&SAMPLES)),
        ("two", Raw::second(false, &[2, 3, 2], 4).with(&SAMPLES)),
        ("two-be", Raw::second(true, &[2, 3, 2, 1], 4).with(&SAMPLES)),
        ("scaled", scaled.with(&SAMPLES)),
    ]
}

fn read(dir: &Path, bytes: &[u8]) -> crate::Result<Volume> {
    let path = dir.join("a.nii");
    std::fs::write(&path, bytes).unwrap();
    open(&path)?.read()
}

#[test]
fn versions_and_byte_orders() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in odd_files() {
        let volume = read(dir.path(), &bytes).unwrap();
        let axes = if name == "two-be" { "TZYX" } else { "ZYX" };
        assert_eq!(volume.info.axes.to_string(), axes, "{name}");
        assert_eq!((volume.info.size(Axis::X), volume.info.size(Axis::Z)), (2, 2));
        match name {
            "scaled" => {
                let real: Vec<f32> = SAMPLES.iter().map(|s| f32::from(*s) * 0.5 - 10.0).collect();
                assert_eq!(volume.data, Data::F32(real));
            }
            _ => assert_eq!(volume.data, Data::I16(SAMPLES.to_vec()), "{name}"),
        }
        // written again, the values are the same and so is the version
        let path = dir.path().join("b.nii.gz");
        save(&path, &volume).unwrap();
        let again = open(&path).unwrap().read().unwrap();
        assert_eq!(again.data, volume.data);
        let version = |v: &Volume| v.info.meta.nifti.as_ref().unwrap().version;
        assert_eq!(version(&again), version(&volume));
    }
}

#[test]
fn a_slope_without_a_value_means_none() {
    let dir = tempfile::tempdir().unwrap();
    for slope in [0.0, f32::NAN, f32::INFINITY] {
        let mut raw = Raw::first(false, &[2, 3, 2], 4);
        raw.set(112, slope.to_be_bytes());
        raw.set(116, 5f32.to_be_bytes());
        assert_eq!(
            read(dir.path(), &raw.with(&SAMPLES)).unwrap().data,
            Data::I16(SAMPLES.to_vec())
        );
    }
}

#[test]
fn colours_channels_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut rgb = Raw::first(false, &[2, 1, 1], 128).bytes;
    rgb.extend([1, 2, 3, 4, 5, 6]);
    let volume = read(dir.path(), &rgb).unwrap();
    assert_eq!((volume.info.axes.to_string().as_str(), volume.info.meta.rgb), ("CZYX", true));
    assert_eq!(volume.data, Data::U8(vec![1, 4, 2, 5, 3, 6]));
    // (x, y, z, t, u) = (1, 1, 1, 2, 3): u is slowest on disk, and comes as C after T
    let five = Raw::first(false, &[1, 1, 1, 2, 3], 4).with(&[0, 1, 10, 11, 20, 21]);
    let volume = read(dir.path(), &five).unwrap();
    assert_eq!(
        (volume.info.axes.to_string().as_str(), volume.info.shape.as_slice()),
        ("TCZYX", [2, 3, 1, 1, 1].as_slice())
    );
    assert_eq!(volume.data, Data::I16(vec![0, 10, 20, 1, 11, 21]));
    save(dir.path().join("b.nii"), &volume).unwrap();
    let bytes = std::fs::read(dir.path().join("b.nii")).unwrap();
    assert_eq!(&bytes[352..], &five[352..]);
}

#[test]
fn headers_survive_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = Raw::first(false, &[2, 3, 2], 4);
    raw.bytes[123] = 2 | 16; // mm, milliseconds
    raw.bytes[148..156].copy_from_slice(b"hospital");
    raw.set(76, (-1f32).to_be_bytes());
    [0.7f32, 0.8, 2.5].iter().enumerate().for_each(|(i, s)| raw.set(80 + 4 * i, s.to_be_bytes()));
    raw.set(252, 1i16.to_be_bytes());
    raw.set(254, 2i16.to_be_bytes());
    (0..6).for_each(|i| raw.set(256 + 4 * i, (0.1 * (i + 1) as f32).to_be_bytes()));
    (0..12).for_each(|i| raw.set(280 + 4 * i, (0.3 * i as f32 - 1.0).to_be_bytes()));
    raw.set(124, 100f32.to_be_bytes());
    // an extension of 16 bytes: size, code, 8 of content
    raw.bytes[348] = 1;
    raw.bytes.extend([16, 0, 0, 0, 6, 0, 0, 0]);
    raw.bytes.extend(b"comment!");
    raw.set(108, 368f32.to_be_bytes());
    raw.bytes[38] = b'r';
    (3..7).for_each(|i| raw.set(42 + 2 * i, 1i16.to_be_bytes()));
    raw.set(72, 16i16.to_be_bytes());
    raw.set(112, 1f32.to_be_bytes());
    let bytes = raw.with(&SAMPLES);
    let volume = read(dir.path(), &bytes).unwrap();
    let header: &Header = volume.info.meta.nifti.as_ref().unwrap();
    assert_eq!(header.description(), "hospital");
    assert_eq!(header.extensions, [(6, b"comment!".to_vec())]);
    assert_eq!(volume.info.unit.as_deref(), Some("mm"));
    assert_eq!(volume.info.affine.unwrap()[0][3], f64::from(0.3f32 * 3.0 - 1.0));
    save(dir.path().join("b.nii"), &volume).unwrap();
    assert_eq!(std::fs::read(dir.path().join("b.nii")).unwrap(), bytes);
}

#[test]
fn a_new_grid_gets_a_new_affine_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = Raw::first(false, &[2, 3, 2], 4);
    raw.bytes[123] = 2;
    raw.set(252, 1i16.to_be_bytes()); // qform only: identity rotation, sizes 1, 1, 1
    let volume = read(dir.path(), &raw.with(&SAMPLES)).unwrap();
    let mut finer = volume.info.resampled(&[6, 3, 2]).unwrap();
    finer.dtype = DType::F32;
    let data = Data::F32(vec![0.5; 36]);
    save(dir.path().join("b.nii"), &Volume { info: finer.clone(), data }).unwrap();
    let info = open(dir.path().join("b.nii")).unwrap().info().clone();
    assert!((info.spacing_of(Axis::Z).unwrap() - 1.0 / 3.0).abs() < 1e-7);
    let z = info.affine.unwrap()[2];
    assert!((z[2] - 1.0 / 3.0).abs() < 1e-7 && (z[3] + 1.0 / 3.0).abs() < 1e-7, "{z:?}");
    let header = info.meta.nifti.unwrap();
    assert_eq!((header.qform_code, header.sform_code), (1, 1));
    assert!((header.pixdim[3] - 1.0 / 3.0).abs() < 1e-7);
    assert!((header.qoffset[2] + 1.0 / 3.0).abs() < 1e-7);
}

#[test]
fn nanometres_become_micrometres() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = volume("ZYX", &[2, 3, 4], DType::U8);
    volume.info.spacing = Some(vec![40.0, 8.0, 8.0]);
    volume.info.unit = Some("nm".into());
    save(dir.path().join("a.nii"), &volume).unwrap();
    let info = open(dir.path().join("a.nii")).unwrap().info().clone();
    assert_eq!(info.unit.as_deref(), Some("µm"));
    assert!((info.spacing_of(Axis::Z).unwrap() - 0.04).abs() < 1e-8);
}

#[test]
fn pairs_open_by_either_half() {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = Raw::first(true, &[2, 3, 2], 4);
    raw.bytes[344..348].copy_from_slice(b"ni1\0");
    raw.set(108, 0f32.to_be_bytes());
    std::fs::write(dir.path().join("a.hdr"), &raw.bytes[..348]).unwrap();
    let error = open(dir.path().join("a.hdr")).err().unwrap().to_string();
    assert!(error.contains("no .img"), "{error}");
    let samples: Vec<u8> = SAMPLES.iter().flat_map(|s| s.to_be_bytes()).collect();
    std::fs::write(dir.path().join("a.img"), samples).unwrap();
    for half in ["a.hdr", "a.img"] {
        let volume = open(dir.path().join(half)).unwrap().read().unwrap();
        assert_eq!(volume.data, Data::I16(SAMPLES.to_vec()));
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let case = |bytes: &[u8], expected: &str| {
        let error = read(dir.path(), bytes).unwrap_err().to_string();
        assert!(error.contains(expected) && error.ends_with("a.nii`"), "{error}");
    };
    case(&Raw::first(false, &[2, 3, 2], 32).with(&SAMPLES), "complex");
    case(&Raw::first(false, &[2, 3, 2], 77).with(&SAMPLES), "datatype 77");
    case(&Raw::first(false, &[2, 3, 20], 4).with(&SAMPLES), "cut short");
    case(
        &Raw::first(false, &[2, -3, 2], 4).with(&SAMPLES),
        "dim[2]: expected a size above 0, got -3",
    );
    case(&Raw::first(false, &[9; 9], 4).with(&SAMPLES), "dim[0]");
    case(&Raw::first(false, &[1, 1, 1, 1, 1, 2], 4).with(&SAMPLES), "dimensions");
    case(&Raw::second(false, &[1 << 40, 1 << 40, 2], 4).with(&SAMPLES), "fewer samples");
    case(&Raw::first(false, &[2, 3, 2], 4).bytes[..347], "begins with");
    let mut offset = Raw::first(false, &[2, 3, 2], 4);
    offset.set(108, f32::NAN.to_be_bytes());
    case(&offset.with(&SAMPLES), "vox_offset");
    let mut old = Raw::first(false, &[2, 3, 2], 4);
    old.bytes[344..348].fill(0);
    case(&old.with(&SAMPLES), "analyze");
}
