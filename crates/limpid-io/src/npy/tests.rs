//! Headers as NumPy writes them, in every order and type that can be read.

use super::*;
use crate::format::{OpenOptions, open, open_with, save};
use crate::volume::Volume;

fn npy(dict: &str, version: u8, samples: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((dict.len() as u16).to_le_bytes()),
        _ => bytes.extend((dict.len() as u32).to_le_bytes()),
    }
    bytes.extend(dict.as_bytes());
    bytes.extend(samples);
    bytes
}

fn read(bytes: &[u8], axes: Option<&str>) -> Result<Volume> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    std::fs::write(&path, bytes).unwrap();
    let axes = axes.map(|a| a.parse().unwrap());
    open_with(&path, &OpenOptions { axes, array: None })?.read()
}

#[test]
fn orders_versions_and_types() {
    let c = npy(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }",
        1,
        b"\x01\x02\x03\x04\x05\x06",
    );
    assert_eq!(read(&c, None).unwrap().data, Data::U8(vec![1, 2, 3, 4, 5, 6]));
    let f =
        npy("{'descr':'|u1','fortran_order':True,'shape':(2,3)}", 2, b"\x01\x04\x02\x05\x03\x06");
    assert_eq!(read(&f, None).unwrap().data, Data::U8(vec![1, 2, 3, 4, 5, 6]));
    let big =
        npy("{'descr': '>i2', 'fortran_order': False, 'shape': (1, 2), }", 3, b"\xff\xfe\x01\x00");
    assert_eq!(read(&big, None).unwrap().data, Data::I16(vec![-2, 256]));
    let half =
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }", 1, b"\x00\x3c\x00\xc0");
    assert_eq!(read(&half, None).unwrap().data, Data::F32(vec![1.0, -2.0]));
    let bool =
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 3), }", 1, b"\x00\x01\x01");
    assert_eq!(read(&bool, None).unwrap().data, Data::U8(vec![0, 1, 1]));
    let colour =
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 3), }", 1, b"abcdef");
    let volume = read(&colour, Some("YXC")).unwrap();
    assert_eq!((volume.info.axes.to_string(), volume.info.shape), ("CYX".into(), vec![3, 1, 2]));
    assert_eq!(volume.data, Data::U8(b"adbecf".to_vec()));
}

#[test]
fn what_cannot_be_read_says_why() {
    let case = |dict: &str, samples: &[u8], axes: Option<&str>, expected: &str| {
        let error = read(&npy(dict, 1, samples), axes).unwrap_err().to_string();
        assert!(error.contains(expected) && error.ends_with("a.npy`"), "{error}");
    };
    case("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }", &[0; 8], None, "complex");
    case("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", &[0; 8], None, "`|O`");
    case(
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1), }",
        &[],
        None,
        "structured",
    );
    case(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }",
        &[0; 16],
        None,
        "is no image",
    );
    case(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }",
        &[0; 63],
        None,
        "cut short",
    );
    case("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }", &[0; 16], None, "`shape`");
    case("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }", &[], None, "above 0");
    case("{'descr': '<f4', 'fortran_order': False}", &[0; 16], None, "`shape`");
    case(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }",
        &[0; 16],
        Some("ZYX"),
        "`ZYX`",
    );
    let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }";
    case(huge, &[0; 16], None, "fewer samples");
}

#[test]
fn headers_are_numpys_to_the_byte() {
    // numpy.lib.format.write_array_header_1_0 for np.zeros((3, 4), '<f4')
    let bytes = header::bytes(&header::descr(crate::DType::F32), &[3, 4]);
    assert_eq!(bytes.len(), 128);
    assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
    let text = String::from_utf8(bytes[10..].to_vec()).unwrap();
    assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }");
    assert!(text.ends_with(" \n"));
}

#[test]
fn arrays_of_an_npz_are_chosen_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.npz");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, method) in
        [("a.npy", CompressionMethod::Stored), ("b.npy", CompressionMethod::Deflated)]
    {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        let dict = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 3), }";
        zip.write_all(&npy(dict, 1, name.replace(".", "").get(..3).unwrap().as_bytes())).unwrap();
    }
    zip.finish().unwrap();
    let member = |name: &str| open(format!("{}:{name}", path.display())).and_then(|r| r.read());
    assert_eq!(member("a").unwrap().data, Data::U8(b"anp".to_vec()));
    assert_eq!(member("b.npy").unwrap().data, Data::U8(b"bnp".to_vec()));
    let error = member("c").unwrap_err().to_string();
    assert!(error.contains("there are `a`, `b`"), "{error}");
    let error = open(&path).err().unwrap().to_string();
    assert!(error.contains("choose one of the arrays `a`, `b`"), "{error}");
    // and one written under a name of its own
    let volume = Volume::new(Data::U8(vec![7; 6]), &[2, 3], "YX".parse().unwrap()).unwrap();
    let named = format!("{}:mine", dir.path().join("one.npz").display());
    save(&named, &volume).unwrap();
    assert_eq!(open(&named).unwrap().read().unwrap().data, volume.data);
}
