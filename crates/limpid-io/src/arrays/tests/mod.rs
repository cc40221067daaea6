//! Files by independent writers, the shared data, and round trips.

mod damage;

use super::*;
use crate::format::Compression;
use crate::tests::Lcg;
use std::path::PathBuf;

/// A file of the folder `files`, unpacked into a folder of its own.
fn file(name: &str) -> (tempfile::TempDir, PathBuf) {
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/src/arrays/tests/files");
    let packed = File::open(Path::new(packed).join(format!("{name}.gz"))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// A file of the shared folder, or nothing, with a word about it, where it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    #[allow(clippy::print_stderr)] // the reason for skipping
    {
        eprintln!("skipped: no {}", path.display());
    }
    None
}

fn array(dims: &[usize], data: Values) -> Array {
    Array::new(dims.to_vec(), data).unwrap()
}

/// `arange(24)` with itself, back to front along the first axis, as imaginary part.
fn z() -> Array {
    let values = (0..24).map(|i| [i as f32, ((i + 12) % 24) as f32]).collect();
    array(&[2, 3, 4], Values::C64(values))
}

/// `arange(60) / 7`.
fn f() -> Array {
    array(&[5, 12], Values::F64((0..60).map(|i| f64::from(i) / 7.0).collect()))
}

/// `arange(77) - 30`, of 16-bit integers.
fn i() -> Array {
    array(&[7, 11], Values::F32((0..77).map(|i| (i - 30) as f32).collect()))
}

fn floats(dims: &[usize], values: &[f32]) -> Array {
    array(dims, Values::F32(values.to_vec()))
}

fn error(path: &Path) -> String {
    let text = open_arrays(path).unwrap_err().to_string();
    assert!(text.contains(path.file_stem().unwrap().to_str().unwrap()), "names no file: {text}");
    text
}

#[test]
fn the_golden_data_set_is_the_same_in_every_format() {
    let Some(folder) = shared("golden/igrog/io") else { return };
    let read = |name: &str| open_arrays(folder.join(name)).unwrap();
    let (ksp, trj) =
        (read("ksp.npy").remove("ksp").unwrap(), read("trj.npy").remove("trj").unwrap());
    assert_eq!((ksp.dims(), trj.dims()), (&[4, 2, 224][..], &[2, 224, 2][..]));
    assert!(matches!((ksp.data(), trj.data()), (Values::C64(_), Values::F32(_))));
    assert_eq!(read("ksp_f_order.npy")["ksp_f_order"], ksp);
    let both = read("both.npz");
    assert_eq!(both.keys().collect::<Vec<_>>(), ["ksp", "t", "trj"]);
    assert_eq!((&both["ksp"], &both["trj"]), (&ksp, &trj));
    assert_eq!(both["t"].dims(), [224]);

    for name in ["ksp.cfl", "ksp.hdr", "ksp"] {
        let bart = read(name).remove("ksp").unwrap();
        assert_eq!((bart.dims(), bart.data()), (&[4, 2, 224, 1][..], ksp.data()));
    }
    let bart = read("trj.cfl").remove("trj").unwrap();
    assert_eq!(bart.dims(), [2, 224, 3]);
    let (bart, plane) =
        (bart.into_parts().1.into_f64().unwrap(), trj.clone().into_parts().1.into_f64().unwrap());
    for (position, expected) in bart.chunks(3).zip(plane.chunks(2)) {
        assert_eq!((&position[..2], position[2]), (expected, 0.0));
    }

    let raw = read("tiny.h5");
    assert_eq!(raw["ksp"], ksp);
    let in_cycles_per_voxel = plane.iter().map(|k| (k / 32.0) as f32).collect(); // exact
    assert_eq!(raw["trj"], array(&[2, 224, 2], Values::F32(in_cycles_per_voxel)));
    assert_eq!(raw["noise"].dims(), [4, 1, 64]);
    let raw = read_ismrmrd(folder.join("tiny.h5")).unwrap();
    assert_eq!((raw.acquisitions.len(), raw.noise.len(), raw.header.channels), (2, 1, Some(4)));
    let [Encoding { encoded, recon, trajectory }] = raw.header.encodings.as_slice() else {
        panic!()
    };
    assert_eq!(
        (encoded.matrix, encoded.fov_mm, trajectory.as_str()),
        ([32, 32, 1], [220.0, 220.0, 5.0], "spiral")
    );
    assert_eq!((recon.matrix, recon.fov_mm), ([32, 32, 1], [220.0, 220.0, 5.0]));
}

#[test]
fn shared_scans() {
    let sum = |array: &Array| {
        let numbers = array.data().clone().into_c128();
        numbers.iter().fold([0.0, 0.0], |sum, z| [sum[0] + z[0], sum[1] + z[1]])
    };
    let close = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).abs() + (a[1] - b[1]).abs() < 1e-6;
    let Some(path) = shared("data/mri/cartesian_brain_8ch_230x180_c64.npy") else { return };
    let brain = read_npy(path).unwrap();
    assert_eq!(brain.dims(), [8, 230, 180]);
    assert!(close(sum(&brain), [-4.421302919706591, -119.56900450309641]), "{:?}", sum(&brain));
    let Some(path) = shared("data/mri/radial_brain_64spokes_32ch.npz") else { return };
    let radial = read_npz(path).unwrap();
    assert_eq!(
        (radial["ksp"].dims(), radial["coord"].dims()),
        (&[32, 64, 512][..], &[64, 512, 2][..])
    );
    assert!(close(sum(&radial["ksp"]), [-1.6432413221993372, -10.198778876731353]));
}

#[test]
fn hdf5_of_every_generation() {
    let check = |path: &Path, groups: &[&str]| {
        let arrays = open_arrays(path).unwrap();
        assert_eq!(arrays["one/z"], z());
        assert_eq!(
            (&arrays["one/deep/er/f"], &arrays["one/gz"], &arrays["one/i"]),
            (&f(), &f(), &i())
        );
        assert_eq!(arrays["one/scalar"], floats(&[], &[2.5]));
        assert_eq!(arrays["one/bool"], floats(&[3], &[1.0, 0.0, 1.0]));
        assert_eq!(arrays["one/half"], floats(&[3], &[1.0, -2.0, 0.5]));
        assert_eq!(arrays["two/never"], array(&[3], Values::F64(vec![-1.5; 3])));
        assert_eq!(arrays["two/zero"].dims(), [0, 3]);
        let mut sparse = vec![7.0; 36];
        for at in [14, 15, 20, 21] {
            sparse[at] = 1.0;
        }
        assert_eq!(arrays["two/sparse"], floats(&[6, 6], &sparse));
        let first: Vec<[f64; 2]> = z().data().clone().into_c128()[..12].to_vec();
        assert_eq!(arrays["two/compact_c16"], array(&[3, 4], Values::C128(first)));
        for other in groups {
            assert_eq!(arrays[*other], f());
        }
        assert_eq!(arrays.len(), 11 + groups.len()); // no text, no record, no link
    };
    let (_dir, path) = file("old.h5");
    check(&path, &[]);
    for name in ["new.h5", "newest.h5"] {
        let (_dir, path) = file(name);
        check(&path, &["single"]);
    }
}

#[test]
fn hdf5_structures() {
    let (_dir, path) = file("new.h5");
    assert_eq!(open_arrays(&path).unwrap()["single"], f());
    let (_dir, path) = file("block.h5");
    assert_eq!(open_arrays(&path).unwrap()["z"], z());
    let (_dir, path) = file("tree.h5");
    let counted: Vec<f32> = (0..400).map(|i| i as f32).collect();
    assert_eq!(open_arrays(&path).unwrap()["p"], floats(&[200, 2], &counted));
    let (_dir, path) = file("paged.h5");
    let counted: Vec<f32> = (0..3000).map(|i| i as f32).collect();
    let steps: Vec<f32> = (0..3000).map(|i| (i / 600) as f32).collect();
    let arrays = open_arrays(&path).unwrap();
    assert_eq!(
        (&arrays["p"], &arrays["pz"]),
        (&floats(&[3000], &counted), &floats(&[3000], &steps))
    );
    let (_dir, path) = file("many.h5");
    assert_eq!(open_arrays(&path).unwrap()["a000"], floats(&[], &[0.0]));
    let (_dir, path) = file("grow.h5");
    assert!(error(&path).contains("index of type 4"));
    let (_dir, path) = file("dense.h5");
    assert!(error(&path).contains("fractal heap"));
}

#[test]
fn raw_data_of_the_reference_writer() {
    let (_dir, path) = file("raw.h5");
    let raw = read_ismrmrd(&path).unwrap();
    assert_eq!((raw.acquisitions.len(), raw.noise.len(), raw.header.channels), (18, 2, Some(3)));
    assert!(raw.xml.contains("H1resonanceFrequency_Hz"));
    let [Encoding { encoded, recon, trajectory }] = raw.header.encodings.as_slice() else {
        panic!()
    };
    assert_eq!(
        (encoded.matrix, encoded.fov_mm[0], trajectory.as_str()),
        ([16, 8, 1], 250.5, "radial")
    );
    assert_eq!((recon.matrix, recon.fov_mm[0]), ([8, 8, 1], 125.0));
    for (n, readout) in raw.noise.iter().chain(&raw.acquisitions).enumerate() {
        let head = &readout.head;
        assert_eq!((head.is_noise(), head.is_imaging()), (n < 2, n >= 2));
        assert_eq!((head.scan_counter as usize, head.kspace_encode_step_1 as usize), (n, n));
        assert_eq!((head.slice, head.center_sample, head.sample_time_us), (2, 8, 2.5));
        assert_eq!((head.user_int[3], head.position), (-7, [0.0, 4.5, 0.0]));
        let sizes = (head.active_channels, head.number_of_samples, head.trajectory_dimensions);
        assert_eq!(sizes, (3, 16, 2));
        let expected: Vec<_> = (0..48).map(|i| [(i + 100 * n) as f32; 2]).collect();
        assert_eq!(readout.data, expected);
        let expected = (0..32).map(|i| (f64::from(i) * 0.01 - n as f64) as f32);
        assert_eq!(readout.trajectory, expected.collect::<Vec<_>>());
    }
    let arrays = open_arrays(&path).unwrap();
    assert_eq!(arrays["ksp"].dims(), [3, 18, 16]);
    assert_eq!((arrays["trj"].dims(), arrays["noise"].dims()), (&[18, 16, 2][..], &[3, 2, 16][..]));
    let Values::C64(ksp) = arrays["ksp"].data() else { panic!() };
    assert_eq!(ksp[(2 * 18 + 5) * 16 + 7], [(2 * 16 + 7 + 700) as f32; 2]);
    let mut uneven = raw.clone();
    uneven.acquisitions[4].head.number_of_samples = 8;
    assert!(uneven.arrays().unwrap_err().to_string().contains("16 samples"));
    let mut short = raw.clone();
    short.acquisitions[4].data.pop();
    assert!(short.arrays().unwrap_err().to_string().contains("47 numbers"));
    uneven.acquisitions.clear();
    assert!(uneven.arrays().is_err());
    let mut discarding = raw.clone();
    for (n, readout) in discarding.acquisitions.iter_mut().enumerate() {
        // as many of each, though not the same ones
        (readout.head.discard_pre, readout.head.discard_post) =
            if n == 5 { (3, 1) } else { (2, 2) };
    }
    let kept = discarding.arrays().unwrap();
    assert_eq!((kept["ksp"].dims(), kept["trj"].dims()), (&[3, 18, 12][..], &[18, 12, 2][..]));
    let Values::C64(ksp) = kept["ksp"].data() else { panic!() };
    assert_eq!(ksp[(2 * 18 + 5) * 12 + 4], [(2 * 16 + 7 + 700) as f32; 2]);
    let Values::F32(trj) = kept["trj"].data() else { panic!() };
    assert_eq!(trj[(5 * 12 + 4) * 2], (14.0 * 0.01 - 7.0) as f32);
    discarding.acquisitions[4].head.discard_post = 3;
    assert!(discarding.arrays().is_err());
    discarding.acquisitions.iter_mut().for_each(|a| a.head.discard_pre = 99);
    assert!(discarding.arrays().unwrap_err().to_string().contains("samples to keep"));
}

#[test]
fn matlab_packed_or_not() {
    let check = |path: &Path| {
        let arrays = open_arrays(path).unwrap();
        assert_eq!(arrays.keys().collect::<Vec<_>>(), ["b", "e", "f", "i", "s", "u", "z", "zd"]);
        assert_eq!((&arrays["z"], &arrays["f"], &arrays["i"]), (&z(), &f(), &i()));
        assert_eq!(arrays["zd"], array(&[2, 3, 4], Values::C128(z().data().clone().into_c128())));
        assert_eq!(
            (&arrays["s"], &arrays["b"]),
            (&floats(&[1, 1], &[3.5]), &floats(&[1, 2], &[1.0, 0.0]))
        );
        assert_eq!(arrays["u"], array(&[1, 5], Values::F64(vec![0.0, 1.0, 2.0, 3.0, 4.0])));
        assert_eq!(arrays["e"], array(&[0, 4], Values::F64(Vec::new())));
    };
    let (_dir, path) = file("v5.mat");
    check(&path);
    let (_dir, path) = file("v5z.mat");
    check(&path);
}

#[test]
fn matlab_7_3_has_the_dimensions_that_matlab_shows() {
    let (_dir, path) = file("v73.mat");
    let arrays = open_arrays(&path).unwrap();
    assert_eq!(arrays.keys().collect::<Vec<_>>(), ["b", "e", "f", "s/a", "z"]);
    assert_eq!((&arrays["z"], &arrays["f"]), (&z(), &f()));
    assert_eq!(arrays["b"], floats(&[1, 2], &[1.0, 0.0]));
    assert_eq!(arrays["e"], array(&[0, 4], Values::F64(Vec::new())));
    assert_eq!(arrays["s/a"], array(&[1, 1], Values::F64(vec![1.5])));
}

#[test]
fn numpy_of_every_kind() {
    let (_dir, path) = file("be.npy");
    let expected = array(&[2, 3, 4], Values::C128(z().data().clone().into_c128()));
    assert_eq!(read_npy(&path).unwrap(), expected); // big-endian, in Fortran order
    let (_dir, path) = file("c.npz");
    let arrays = read_npz(&path).unwrap();
    assert_eq!(arrays.keys().collect::<Vec<_>>(), ["f", "z"]); // without the text `t`
    assert_eq!((&arrays["z"], &arrays["f"]), (&z(), &f()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    for (version, length) in [(1, &[59, 0][..]), (2, &[59, 0, 0, 0]), (3, &[59, 0, 0, 0])] {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        bytes.extend(length);
        bytes.extend(b"{'descr': '>u2', 'fortran_order': True, 'shape': (2, 2), }\n");
        bytes.extend([0, 1, 0, 2, 1, 0, 0, 4]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_npy(&path).unwrap(), floats(&[2, 2], &[1.0, 256.0, 2.0, 4.0]));
        bytes.pop();
        std::fs::write(&path, &bytes).unwrap();
        assert!(error(&path).contains("cut short"));
    }
}

#[test]
fn round_trips() {
    let dir = tempfile::tempdir().unwrap();
    let mut lcg = Lcg(5);
    let mut number = || lcg.next() as f64 * 1e-9 - 7e4;
    for dims in
        [vec![], vec![1], vec![7], vec![3, 0, 2], vec![2, 3, 4], vec![70_000, 2], vec![2; 9]]
    {
        let count: usize = dims.iter().product();
        let real = Values::F64((0..count).map(|_| number()).collect());
        let complex = Values::C128((0..count).map(|_| [number(), number()]).collect());
        let single = Values::F32((0..count).map(|_| number() as f32).collect());
        let c64 = Values::C64((0..count).map(|_| [number() as f32, number() as f32]).collect());
        let mut arrays = Arrays::new();
        for (name, data) in [("real", real), ("complex", complex), ("single", single), ("c64", c64)]
        {
            let one = array(&dims, data);
            let path = dir.path().join("a.npy");
            write_npy(&path, &one).unwrap();
            assert_eq!(open_arrays(&path).unwrap()["a"], one);
            arrays.insert(name.into(), one);
        }
        for compression in [Compression::None, Compression::Deflate] {
            let path = dir.path().join("a.npz");
            write_npz(&path, &arrays, compression).unwrap();
            assert_eq!(open_arrays(&path).unwrap(), arrays);
        }
        if count > 0 {
            for one in arrays.values() {
                let path = dir.path().join("scan.1"); // no ending, but a dot
                write_cfl(&path, one).unwrap();
                let back = open_arrays(&path).unwrap().remove("scan").unwrap();
                assert_eq!(back.data(), &Values::C64(one.data().clone().into_c64()));
                let first =
                    dims.iter().take_while(|n| **n == 1).count().min(dims.len().saturating_sub(1));
                let expected = if dims.is_empty() { &[1][..] } else { &dims[first..] };
                assert_eq!(back.dims(), expected);
            }
        }
    }
    let hdr = std::fs::read_to_string(dir.path().join("scan.1.hdr")).unwrap();
    assert_eq!(hdr, "# Dimensions\n2 2 2 2 2 2 2 2 2 1 1 1 1 1 1 1\n");
}

#[test]
fn what_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let case = |name: &str, bytes: &[u8], expected: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = error(&path);
        assert!(text.contains(expected), "{text}");
    };
    case("empty.npy", b"", "the file is empty");
    case("text.h5", b"hello world", "begins with [68, 65");
    case("text.txt", b"hello world", "ismrmrd and other hdf5 (.h5), matlab (.mat)");
    case("bad.npz", b"PK\x03\x04", "damaged npz");
    case("bad.h5", b"\x89HDF\r\n\x1a\n....", "version 46 of the superblock");
    case("lone.cfl", &[0; 16], "its folder exists");
    case("other.hdr", b"# Dimensions\n2 1 \n", "its folder exists");
    case("odd.hdr", b"# Dimensions\n2 0\n", "damaged bart");
    case("short.hdr", b"# Dimensions\n2 2\n", "its folder exists");
    case("short.cfl", &[0; 31], "32 bytes are expected");
    case("huge.cfl", &[0; 8], "check the name");
    case("huge.hdr", b"# Dimensions\n4294967296 4294967296 4294967296\n", "more than memory");
    let missing = open_arrays(dir.path().join("none.npy")).unwrap_err().to_string();
    assert!(missing.contains("check the name"), "{missing}");
    let wrong = Array::new(vec![2, 3], Values::F32(vec![0.0; 5])).unwrap_err().to_string();
    assert!(wrong.contains("[2, 3]"), "{wrong}");
    assert!(Array::new(vec![usize::MAX, 2], Values::F32(Vec::new())).is_err());
    let (_dir, path) = file("old.h5");
    assert!(
        read_ismrmrd(&path).unwrap_err().to_string().contains("no group with `xml` and `data`")
    );
    assert!(read_mat(&path).unwrap_err().to_string().contains("-v7"));
}
