//! Damaged files of every format: reading fails with an error or gives samples, never a panic,
//! never memory that the file cannot fill.

use super::{Lcg, volume};
use crate::{Compression, DType, Region, Volume, WriteOptions, create, open, save};
use std::path::Path;

/// Damages a file: cuts it, or changes bytes, more often where headers are.
pub(crate) fn mutate(bytes: &[u8], lcg: &mut Lcg) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let near = |lcg: &mut Lcg, len: usize| match lcg.below(3) {
        0 => lcg.below(len),
        1 => lcg.below(len.min(400)),
        _ => len - 1 - lcg.below(len.min(400)),
    };
    match lcg.below(4) {
        0 => bytes.truncate(near(lcg, bytes.len())),
        1 => {
            for _ in 0..=lcg.below(4) {
                let at = near(lcg, bytes.len());
                bytes[at] = lcg.next() as u8;
            }
        }
        2 => {
            let at = near(lcg, bytes.len());
            let end = bytes.len().min(at + 1 + lcg.below(8));
            bytes[at..end].fill([0, 0xff, 0x7f, 0x80][lcg.below(4)]);
        }
        _ => {
            let at = near(lcg, bytes.len());
            bytes[at] ^= 1 << lcg.below(8);
        }
    }
    bytes
}

/// Reads everything there is; `true` if that worked.
fn survives(path: &Path) -> bool {
    let Ok(reader) = open(path) else { return false };
    let info = reader.info().clone();
    let corner = Region { start: vec![0; info.shape.len()], size: vec![1; info.shape.len()] };
    let _ = reader.read_region(&corner);
    match reader.read() {
        Ok(volume) => {
            assert_eq!(volume.data.len(), info.samples());
            assert_eq!(volume.data.dtype(), info.dtype);
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.ends_with('`'), "names no file: {text}");
            false
        }
    }
}

fn assault(name: &str, bytes: &[u8], cases: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    assert!(survives(&path), "the undamaged {name} must be readable");
    let mut refused = 0;
    for case in 0..cases {
        // a new file each time: replacing one makes some disks sync
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, mutate(bytes, &mut Lcg(case))).unwrap();
        match std::panic::catch_unwind(|| survives(&path)) {
            Ok(true) => {}
            Ok(false) => refused += 1,
            Err(_) => panic!("{name}: case {case} panics"),
        }
    }
    assert!(refused > cases / 10, "{name}: only {refused} of {cases} refused");
}

fn file(name: &str, volume: &Volume, compression: Compression, big_tiff: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let options = WriteOptions { compression, big_tiff };
    let mut writer = create(&path, &volume.info, &options).unwrap();
    writer.write_slab(0, &volume.data).unwrap();
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn tiff() {
    let mut stack = volume("TCZYX", &[2, 2, 2, 5, 6], DType::U16);
    stack.info.spacing = Some(vec![1.0, 0.0, 2.0, 0.5, 0.5]);
    stack.info.unit = Some("µm".into());
    assault("a.tif", &file("a.tif", &stack, Compression::None, false), 400);
    assault("a.tif", &file("a.tif", &stack, Compression::Deflate, true), 400);
    let mut colour = volume("CYX", &[3, 20, 20], DType::U8);
    colour.info.meta.rgb = true;
    assault("a.tif", &file("a.tif", &colour, Compression::Deflate, false), 400);
    for (name, bytes) in crate::tiff::odd_files() {
        assault(&format!("{name}.tif"), &bytes, 120);
    }
}

#[test]
fn nifti() {
    let mut brain = volume("ZYX", &[3, 4, 5], DType::I16);
    brain.info.spacing = Some(vec![3.0, 1.0, 1.0]);
    assault("a.nii", &file("a.nii", &brain, Compression::None, false), 400);
    assault("a.nii.gz", &file("a.nii.gz", &brain, Compression::None, false), 400);
    for (name, bytes) in crate::nifti::odd_files() {
        assault(&format!("{name}.nii"), &bytes, 300);
    }
}

#[test]
fn numpy() {
    let array = volume("ZYX", &[3, 4, 5], DType::F32);
    assault("a.npy", &file("a.npy", &array, Compression::None, false), 400);
    assault("a.npz", &file("a.npz", &array, Compression::None, false), 400);
    assault("a.npz", &file("a.npz", &array, Compression::Deflate, false), 400);
}

#[test]
fn pictures() {
    for dtype in [DType::U8, DType::U16] {
        let picture = volume("CYX", &[3, 9, 11], dtype);
        assault("a.png", &file("a.png", &picture, Compression::None, false), 300);
    }
    let mut jpeg = Vec::new();
    let pixels: Vec<u8> = (0..32 * 24 * 3).map(|i| (i / 9) as u8).collect();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90)
        .encode(&pixels, 32, 24, image::ExtendedColorType::Rgb8)
        .unwrap();
    assault("a.jpg", &jpeg, 400);
}

#[test]
fn checksums_notice_one_changed_bit_of_the_samples() {
    let smooth = Volume::new(
        crate::Data::U8((0..40 * 50).map(|i| (i / 50) as u8).collect()),
        &[40, 50],
        "YX".parse().unwrap(),
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.nii.gz", "a.tif", "a.npz", "a.png"] {
        let bytes = file(name, &smooth, Compression::Deflate, false);
        let path = dir.path().join(name);
        // the compressed samples lie in the middle, where every format has nothing else
        let (from, to) = match name {
            "a.tif" => (20, 60),
            "a.npz" => (120, bytes.len() - 130),
            _ => (bytes.len() / 2, bytes.len() - 24),
        };
        for at in from..to {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::remove_file(&path).unwrap_or_default();
            std::fs::write(&path, damaged).unwrap();
            if let Ok(volume) = open(&path).and_then(|reader| reader.read()) {
                assert!(volume.data == smooth.data, "{name}: byte {at} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn wrong_kinds_of_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let case = |name: &str, bytes: &[u8], expected: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.ends_with(&format!("{name}`")), "{error}");
    };
    case("empty.tif", b"", "the file is empty");
    case("text.tif", b"hello world", "it begins with [68, 65");
    case("text.nii.gz", b"hello world", "nifti (.nii");
    case("a.h5", b"\x89HDF\r\n\x1a\n....", "hdf5");
    case("bad.npz", b"PK\x03\x04", "damaged npz");
    case("short.tif", b"II*\0", "damaged tiff");
    case("short.png", b"\x89PNG\r\n\x1a\n", "png");
    let mut dicom = vec![0; 128];
    dicom.extend(b"DICM");
    case("a.dcm", &dicom, "dicom");
    let error = open(dir.path().join("none.tif")).err().unwrap().to_string();
    assert!(error.contains("check the name"), "{error}");
    assert!(open(dir.path()).err().unwrap().to_string().contains("folder"));
    // the content decides, not the name
    let original = volume("YX", &[4, 5], DType::U8);
    save(dir.path().join("real.png"), &original).unwrap();
    std::fs::rename(dir.path().join("real.png"), dir.path().join("named.tif")).unwrap();
    let read = open(dir.path().join("named.tif")).unwrap().read().unwrap();
    assert_eq!(read.data, original.data);
    let outside = Region { start: vec![2, 2], size: vec![2, 4] };
    let error = open(dir.path().join("named.tif")).unwrap().read_region(&outside).unwrap_err();
    assert!(error.to_string().contains("is not within [4, 5] (YX)"), "{error}");
}
