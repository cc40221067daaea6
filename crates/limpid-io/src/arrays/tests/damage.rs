//! Damaged files: reading fails with an error or gives arrays, never a panic, never more memory than
//! the file can fill.

use super::*;
use crate::tests::mutation::mutate;

/// The most bytes in memory that one byte of a file may stand for: deflated bytes, widened.
const MOST: usize = 1032 * 4;

fn survives(path: &Path) -> bool {
    let length = std::fs::metadata(path).unwrap().len() as usize;
    match open_arrays(path) {
        Ok(arrays) => {
            for (name, array) in &arrays {
                let bytes = array.data().len() * 4;
                assert!(bytes <= MOST * length, "{name} is {bytes} bytes, the file {length}");
            }
            true
        }
        Err(error) => {
            assert!(error.to_string().ends_with('`'), "names no file: {error}");
            false
        }
    }
}

fn assault(path: &Path, cases: u64, least: u64) {
    let bytes = std::fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(survives(path), "the undamaged {name} must be readable");
    let mut refused = 0;
    for case in 0..cases {
        std::fs::remove_file(path).unwrap(); // replacing a file makes some disks sync
        std::fs::write(path, mutate(&bytes, &mut Lcg(case))).unwrap();
        match std::panic::catch_unwind(|| survives(path)) {
            Ok(true) => {}
            Ok(false) => refused += 1,
            Err(_) => panic!("{name}: case {case} panics"),
        }
    }
    assert!(refused >= least, "{name}: only {refused} of {cases} refused");
}

#[test]
fn hdf5() {
    let (_dir, path) = file("old.h5");
    assault(&path, 1500, 150);
}

#[test]
fn hdf5_of_the_new_kind() {
    for name in ["new.h5", "newest.h5"] {
        let (_dir, path) = file(name);
        assault(&path, 1000, 100);
    }
    let (_dir, path) = file("block.h5");
    assault(&path, 600, 60);
    let (_dir, path) = file("tree.h5");
    assault(&path, 400, 20);
}

#[test]
fn raw_data() {
    let (_dir, path) = file("raw.h5");
    assault(&path, 1500, 100);
}

#[test]
fn matlab() {
    let (_dir, path) = file("v5.mat");
    assault(&path, 1000, 100);
    let (_dir, path) = file("v5z.mat");
    assault(&path, 1000, 300);
    let (_dir, path) = file("v73.mat");
    assault(&path, 1000, 100);
}

#[test]
fn numpy_and_bart() {
    let (_dir, path) = file("be.npy");
    assault(&path, 600, 100);
    let (_dir, path) = file("c.npz");
    assault(&path, 600, 200);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.cfl");
    write_cfl(&path, &z()).unwrap();
    assault(&path, 200, 20);
    write_cfl(&path, &z()).unwrap();
    assault(&dir.path().join("a.hdr"), 200, 20);
}

#[test]
fn one_changed_bit_of_packed_numbers_is_noticed() {
    for (_dir, path) in [file("c.npz"), file("v5z.mat")] {
        let (bytes, whole) = (std::fs::read(&path).unwrap(), open_arrays(&path).unwrap());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, damaged).unwrap();
            for (name, array) in open_arrays(&path).unwrap_or_default() {
                // names are not covered by the sums of a zip
                assert!(whole.get(&name).is_none_or(|w| *w == array), "`{name}`, byte {at}");
            }
        }
    }
}
