//! TIFFs of other makers: built here byte by byte, or written and read by the `tiff` crate.

use super::tag;
use crate::tests::{cut, noise, volume};
use crate::{Axis, Compression, DType, Data, OpenOptions, Region, Volume, WriteOptions};
use crate::{create, open, open_with, save};
use std::io::{Cursor, Write};
use std::path::Path;

/// Tag, field type and values.
type Field = (u16, u16, Vec<u64>);

/// A page before it is laid out: its fields but offsets and counts, and its chunks.
struct Page {
    fields: Vec<Field>,
    chunks: Vec<Vec<u8>>,
}

fn number(value: u64, size: usize, big_endian: bool) -> Vec<u8> {
    match big_endian {
        true => value.to_be_bytes()[8 - size..].to_vec(),
        false => value.to_le_bytes()[..size].to_vec(),
    }
}

/// Lays pages out as a file, straight from the TIFF 6.0 text.
fn build(big_endian: bool, big_tiff: bool, pages: Vec<Page>) -> Vec<u8> {
    let num = |value: u64, size| number(value, size, big_endian);
    let word = if big_tiff { 8 } else { 4 };
    let mut out = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
    out.extend(num(if big_tiff { 43 } else { 42 }, 2));
    if big_tiff {
        out.extend([num(8, 2), num(0, 2)].concat());
    }
    let mut link = out.len();
    out.extend(num(0, word));
    for mut page in pages {
        let mut offsets = Vec::new();
        for chunk in &page.chunks {
            offsets.push(out.len() as u64);
            out.extend(chunk);
        }
        let tiled = page.fields.iter().any(|field| field.0 == tag::TILE_WIDTH);
        let (at, lengths) = match tiled {
            true => (tag::TILE_OFFSETS, tag::TILE_COUNTS),
            false => (tag::STRIP_OFFSETS, tag::STRIP_COUNTS),
        };
        let kind = if big_tiff { 16 } else { 4 };
        page.fields.push((at, kind, offsets));
        page.fields.push((lengths, kind, page.chunks.iter().map(|c| c.len() as u64).collect()));
        page.fields.sort();
        let mut entries = Vec::new();
        for (tag, kind, values) in &page.fields {
            let size = match kind {
                2 => 1,
                3 => 2,
                4 => 4,
                _ => 8,
            };
            // two longs make a rational
            let size = if *kind == 5 { 4 } else { size };
            let bytes: Vec<u8> = values.iter().flat_map(|v| num(*v, size)).collect();
            let count = if *kind == 5 { values.len() / 2 } else { values.len() };
            entries.extend(
                [num((*tag).into(), 2), num((*kind).into(), 2), num(count as u64, word)].concat(),
            );
            if bytes.len() <= word {
                entries.extend(&bytes);
                entries.resize(entries.len() + word - bytes.len(), 0);
            } else {
                entries.extend(num(out.len() as u64, word));
                out.extend(bytes);
            }
        }
        let here = num(out.len() as u64, word);
        out[link..link + word].copy_from_slice(&here);
        out.extend(num(page.fields.len() as u64, if big_tiff { 8 } else { 2 }));
        out.extend(entries);
        link = out.len();
        out.extend(num(0, word));
    }
    out
}

fn fields(width: usize, height: usize, bits: u64, more: &[(u16, u64)]) -> Vec<Field> {
    let mut fields: Vec<Field> = vec![
        (tag::WIDTH, 4, vec![width as u64]),
        (tag::HEIGHT, 3, vec![height as u64]),
        (tag::BITS, 3, vec![bits]),
    ];
    fields.extend(more.iter().map(|(tag, value)| (*tag, 3, vec![*value])));
    fields
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A file, and what must be read from it.
struct Odd {
    name: &'static str,
    bytes: Vec<u8>,
    axes: &'static str,
    shape: Vec<usize>,
    data: Data,
}

fn planar_big_endian() -> Odd {
    // three planes of 5 rows of 4, two rows to a strip
    let value = |c: u16, y: u16, x: u16| 1000 * c + 10 * y + x;
    let rows = [0..2u16, 2..4, 4..5];
    let strip = |c, rows: std::ops::Range<u16>| {
        rows.flat_map(|y| (0..4).flat_map(move |x| value(c, y, x).to_be_bytes())).collect()
    };
    let chunks = (0..3).flat_map(|c| rows.iter().cloned().map(move |r| strip(c, r))).collect();
    let more =
        [(tag::SAMPLES, 3), (tag::PLANAR, 2), (tag::ROWS_PER_STRIP, 2), (tag::PHOTOMETRIC, 2)];
    let bytes = build(true, false, vec![Page { fields: fields(4, 5, 16, &more), chunks }]);
    let data = (0..60).map(|i| value(i / 20, i / 4 % 5, i % 4)).collect();
    Odd { name: "planar", bytes, axes: "CYX", shape: vec![3, 5, 4], data: Data::U16(data) }
}

fn tiles_of_packbits() -> Odd {
    // 20 by 18 of bytes in four tiles of 16 by 16, each byte sent as a run of one
    let value = |y: usize, x: usize| (7 * y + x) as u8;
    let tile = |top: usize, left: usize| {
        let pixels = (0..256).map(move |i| (top + i / 16, left + i % 16));
        pixels.flat_map(move |(y, x)| [0, value(y, x)]).collect::<Vec<u8>>()
    };
    let chunks = vec![tile(0, 0), tile(0, 16), tile(16, 0), tile(16, 16)];
    let more = [(tag::TILE_WIDTH, 16), (tag::TILE_HEIGHT, 16), (tag::COMPRESSION, 32773)];
    let bytes = build(false, false, vec![Page { fields: fields(20, 18, 8, &more), chunks }]);
    let data = (0..360).map(|i| value(i / 20, i % 20)).collect();
    Odd { name: "tiles", bytes, axes: "YX", shape: vec![18, 20], data: Data::U8(data) }
}

fn one_bit_white_is_zero() -> Odd {
    let chunks = vec![vec![0b1010_0000, 0b0100_0000, 0b0000_0001, 0b1000_0000]];
    let fields = fields(10, 2, 1, &[(tag::PHOTOMETRIC, 0), (tag::ROWS_PER_STRIP, 2)]);
    let bytes = build(false, false, vec![Page { fields, chunks }]);
    let data = vec![1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0];
    Odd { name: "bits", bytes, axes: "YX", shape: vec![2, 10], data: Data::U8(data) }
}

fn twelve_bits() -> Odd {
    // three values to four and a half bytes, rows padded
    let chunks = vec![vec![0xab, 0xcd, 0xef, 0x12, 0x30, 0x00, 0x1f, 0xff, 0x80, 0x00]];
    let bytes = build(true, false, vec![Page { fields: fields(3, 2, 12, &[]), chunks }]);
    let data = Data::U16(vec![0xabc, 0xdef, 0x123, 0x001, 0xfff, 0x800]);
    Odd { name: "twelve", bytes, axes: "YX", shape: vec![2, 3], data }
}

fn float_predictor(big_endian: bool) -> Odd {
    // TIFF technical note 3: bytes by significance, then differences of bytes
    let values: Vec<f32> = (0..24).map(|i| (i as f32 - 7.5) * 1.7).collect();
    let mut coded = Vec::new();
    for row in values.chunks(8) {
        let planes = (0..4).flat_map(|k| row.iter().map(move |v| v.to_be_bytes()[k]));
        let planes: Vec<u8> = planes.collect();
        coded.extend((0..32).map(|i| match i {
            0 => planes[0],
            _ => planes[i].wrapping_sub(planes[i - 1]),
        }));
    }
    let more = [(tag::COMPRESSION, 8), (tag::PREDICTOR, 3), (tag::SAMPLE_FORMAT, 3)];
    let page = Page { fields: fields(8, 3, 32, &more), chunks: vec![deflate(&coded)] };
    let bytes = build(big_endian, false, vec![page]);
    let name = if big_endian { "floats-be" } else { "floats-le" };
    Odd { name, bytes, axes: "YX", shape: vec![3, 8], data: Data::F32(values) }
}

fn differences(size: usize, big_endian: bool, big_tiff: bool) -> Odd {
    // pixels of two channels, each as the difference to the pixel on the left
    let dtype = [DType::U8, DType::I16, DType::I32, DType::U64][size.ilog2() as usize];
    let data = noise(dtype, 2 * 3 * 5, 3);
    let plain = data.to_le_bytes();
    let sample = |c: usize, y: usize, x: usize| {
        let at = ((c * 3 + y) * 5 + x) * size;
        plain[at..at + size].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
    };
    let mut coded = Vec::new();
    for i in 0..30 {
        let (y, x, c) = (i / 10, i / 2 % 5, i % 2);
        let left = if x == 0 { 0 } else { sample(c, y, x - 1) };
        let mask = u64::MAX >> (64 - 8 * size);
        coded.extend(number(sample(c, y, x).wrapping_sub(left) & mask, size, big_endian));
    }
    let more = [
        (tag::COMPRESSION, 32946),
        (tag::PREDICTOR, 2),
        (tag::SAMPLES, 2),
        (tag::SAMPLE_FORMAT, if dtype.is_signed() { 2 } else { 1 }),
    ];
    let mut fields = fields(5, 3, 8 * size as u64, &more);
    fields[2].2 = vec![8 * size as u64; 2];
    let bytes = build(big_endian, big_tiff, vec![Page { fields, chunks: vec![deflate(&coded)] }]);
    Odd { name: "differences", bytes, axes: "CYX", shape: vec![2, 3, 5], data }
}

fn half_floats_with_thumbnail() -> Odd {
    let chunks = vec![vec![0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0x00, 0x7c]];
    let page = Page { fields: fields(2, 2, 16, &[(tag::SAMPLE_FORMAT, 3)]), chunks };
    let small = Page { fields: fields(1, 1, 8, &[(tag::SUBFILE, 1)]), chunks: vec![vec![9]] };
    let bytes = build(false, false, vec![page, small]);
    let data = Data::F32(vec![1.0, -2.0, 0.5, f32::INFINITY]);
    Odd { name: "halves", bytes, axes: "YX", shape: vec![2, 2], data }
}

fn imagej_with_one_directory() -> Odd {
    // as ImageJ saves stacks above 4 GB: six images, one directory; channels run fastest
    let text = "ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\nhyperstack=true\nunit=\\u00B5m\nspacing=2.0\n\0";
    let chunks = vec![(0..24).collect()];
    let mut fields = fields(2, 2, 8, &[]);
    fields.push((tag::DESCRIPTION, 2, text.bytes().map(u64::from).collect()));
    fields.push((tag::X_RESOLUTION, 5, vec![4, 1]));
    fields.push((tag::Y_RESOLUTION, 5, vec![2, 1]));
    let bytes = build(true, false, vec![Page { fields, chunks }]);
    let page = |n: u8| 4 * n..4 * n + 4;
    let data = [0, 2, 4, 1, 3, 5].into_iter().flat_map(page).collect();
    Odd { name: "imagej", bytes, axes: "CZYX", shape: vec![2, 3, 2, 2], data: Data::U8(data) }
}

fn all() -> Vec<Odd> {
    let mut all = vec![
        planar_big_endian(),
        tiles_of_packbits(),
        one_bit_white_is_zero(),
        twelve_bits(),
        float_predictor(false),
        float_predictor(true),
        half_floats_with_thumbnail(),
        imagej_with_one_directory(),
    ];
    for size in [1, 2, 4, 8] {
        all.push(differences(size, true, false));
        all.push(differences(size, false, true));
    }
    all
}

/// Small valid files, to be damaged elsewhere.
pub(crate) fn odd_files() -> Vec<(&'static str, Vec<u8>)> {
    all().into_iter().map(|odd| (odd.name, odd.bytes)).collect()
}

#[test]
fn odd_but_valid_files() {
    let dir = tempfile::tempdir().unwrap();
    for odd in all() {
        let path = dir.path().join(odd.name);
        std::fs::write(&path, &odd.bytes).unwrap();
        let reader = open(&path).unwrap();
        let info = reader.info();
        assert_eq!(
            (info.axes.to_string().as_str(), &info.shape),
            (odd.axes, &odd.shape),
            "{}",
            odd.name
        );
        assert_eq!(reader.read().unwrap().data, odd.data, "{}", odd.name);
        // the lower right half, so that every offset matters
        let start: Vec<usize> = odd.shape.iter().map(|n| n / 2).collect();
        let size: Vec<usize> = odd.shape.iter().map(|n| n - n / 2).collect();
        let region = Region { start, size };
        let part = reader.read_region(&region).unwrap();
        assert_eq!(part, cut(&odd.data, info, &region), "{}", odd.name);
    }
}

#[test]
fn imagej_spacing_and_photometric_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let reread = |odd: Odd| -> Volume {
        let (first, second) = (dir.path().join("first.tif"), dir.path().join("second.tif"));
        std::fs::write(&first, odd.bytes).unwrap();
        let volume = open(&first).unwrap().read().unwrap();
        save(&second, &volume).unwrap();
        let again = open(&second).unwrap().read().unwrap();
        assert_eq!(again, volume);
        again
    };
    let info = reread(imagej_with_one_directory()).info;
    assert_eq!(info.spacing, Some(vec![0.0, 2.0, 0.5, 0.25]));
    assert_eq!(info.unit.as_deref(), Some("µm"));
    let info = reread(one_bit_white_is_zero()).info;
    assert_eq!(info.meta.text["photometric"], "white_is_zero");
}

#[test]
fn what_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let case = |pages: Vec<Page>, expected: &str| {
        let path = dir.path().join("bad.tif");
        std::fs::write(&path, build(false, false, pages)).unwrap();
        let error = open(&path).and_then(|r| r.read()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.ends_with("bad.tif`"), "{error}");
    };
    let page = |w, h, bits, more: &[(u16, u64)], bytes: usize| Page {
        fields: fields(w, h, bits, more),
        chunks: vec![vec![0; bytes]],
    };
    case(vec![page(2, 2, 8, &[(tag::COMPRESSION, 7)], 4)], "jpeg compression");
    case(vec![page(2, 2, 64, &[(tag::SAMPLE_FORMAT, 6)], 32)], "complex");
    case(vec![page(2, 2, 8, &[(tag::PHOTOMETRIC, 6)], 4)], "YCbCr");
    case(vec![page(2, 2, 8, &[], 4), page(3, 2, 8, &[], 6)], "page 1 is 3×2 of u8, page 0 is 2×2");
    case(vec![page(60000, 60000, 8, &[], 4)], "the file has");
    case(vec![page(60000, 60000, 8, &[(tag::COMPRESSION, 8)], 40)], "cannot come from 40 packed");
    case(vec![page(2, 2, 8, &[(tag::ROWS_PER_STRIP, 1)], 4)], "expected 2 strips or tiles, got 1");
    let mut stack = page(2, 2, 8, &[], 4);
    let text = "ImageJ=1.53\nimages=5\nslices=5\n\0";
    stack.fields.push((tag::DESCRIPTION, 2, text.bytes().map(u64::from).collect()));
    case(vec![stack], "promises Z = 5, but there are 1 pages");
    let mut sparse = build(false, false, vec![page(2, 2, 8, &[], 4)]);
    // the strip offset is the last entry but one
    let at = sparse.len() - 4 - 12 * 2;
    sparse[at + 8..at + 12].fill(0);
    std::fs::write(dir.path().join("sparse.tif"), sparse).unwrap();
    let error = open(dir.path().join("sparse.tif")).err().unwrap().to_string();
    assert!(error.contains("strip or tile 0 is missing"), "{error}");
    let mut circle = build(false, false, vec![page(2, 2, 8, &[], 4)]);
    let first = circle[4..8].to_vec();
    let end = circle.len();
    circle[end - 4..].copy_from_slice(&first);
    std::fs::write(dir.path().join("circle.tif"), circle).unwrap();
    let error = open(dir.path().join("circle.tif")).err().unwrap().to_string();
    assert!(error.contains("circle"), "{error}");
}

#[test]
fn the_caller_can_name_the_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages.tif");
    let page = |n: u8| Page { fields: fields(2, 1, 8, &[]), chunks: vec![vec![n, n]] };
    std::fs::write(&path, build(false, false, (0..6).map(page).collect())).unwrap();
    assert_eq!(open(&path).unwrap().info().axes.to_string(), "ZYX");
    let named = |axes: &str| {
        let options = OpenOptions { axes: Some(axes.parse().unwrap()), array: None };
        open_with(&path, &options).map(|reader| reader.info().clone())
    };
    let info = named("TYX").unwrap();
    assert_eq!((info.axes.to_string().as_str(), info.size(Axis::T)), ("TYX", 6));
    assert!(named("TZYX").unwrap_err().to_string().contains("cannot be shared out"));
    assert!(named("YX").is_err());
}

/// What the `tiff` crate reads of the pages of a file.
fn foreign_read(path: &Path) -> Vec<tiff::decoder::DecodingResult> {
    let file = std::fs::File::open(path).unwrap();
    let mut decoder = tiff::decoder::Decoder::new(std::io::BufReader::new(file)).unwrap();
    let mut pages = vec![decoder.read_image().unwrap()];
    while decoder.more_images() {
        decoder.next_image().unwrap();
        pages.push(decoder.read_image().unwrap());
    }
    pages
}

#[test]
fn the_tiff_crate_reads_what_is_written() {
    use tiff::decoder::DecodingResult as Page;
    let dir = tempfile::tempdir().unwrap();
    for dtype in DType::ALL {
        for (compression, big_tiff) in [
            (Compression::None, false),
            (Compression::Deflate, false),
            (Compression::Deflate, true),
        ] {
            let original = volume("TCZYX", &[2, 2, 3, 70, 90], dtype);
            let path = dir.path().join("a.tif");
            let options = WriteOptions { compression, big_tiff };
            let mut writer = create(&path, &original.info, &options).unwrap();
            writer.write_slab(0, &original.data).unwrap();
            writer.finish().unwrap();
            let pages = foreign_read(&path);
            assert_eq!(pages.len(), 12);
            for (number, page) in pages.into_iter().enumerate() {
                // ImageJ's order: channels fastest, then slices, then frames
                let (t, z, c) = (number / 6, number / 2 % 3, number % 2);
                let plane = original.data.slice(((t * 2 + c) * 3 + z) * 6300, 6300).unwrap();
                let page = match page {
                    Page::U8(v) => Data::U8(v),
                    Page::U16(v) => Data::U16(v),
                    Page::U32(v) => Data::U32(v),
                    Page::U64(v) => Data::U64(v),
                    Page::I8(v) => Data::I8(v),
                    Page::I16(v) => Data::I16(v),
                    Page::I32(v) => Data::I32(v),
                    Page::I64(v) => Data::I64(v),
                    Page::F32(v) => Data::F32(v),
                    Page::F64(v) => Data::F64(v),
                    Page::F16(_) => panic!("never written"),
                };
                assert_eq!(page, plane, "{dtype} {compression:?} page {number}");
            }
        }
    }
}

#[test]
fn what_the_tiff_crate_writes_is_read() {
    use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, colortype};
    let dir = tempfile::tempdir().unwrap();
    let Data::U16(values) = noise(DType::U16, 2 * 300 * 200 * 3, 5) else { unreachable!() };
    let packings = [
        Compression::Uncompressed,
        Compression::Lzw,
        Compression::Deflate(DeflateLevel::Fast),
        Compression::Packbits,
    ];
    for (packing, predictor) in packings.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let mut file = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file).unwrap().with_compression(packing);
        if predictor {
            encoder = encoder.with_predictor(tiff::tags::Predictor::Horizontal);
        }
        for page in values.chunks(300 * 200 * 3) {
            encoder.write_image::<colortype::RGB16>(300, 200, page).unwrap();
        }
        let path = dir.path().join("a.tif");
        std::fs::write(&path, file.into_inner()).unwrap();
        let reader = open(&path).unwrap();
        assert_eq!(reader.info().axes.to_string(), "CZYX");
        let Data::U16(read) = reader.read().unwrap().data else { panic!("not u16") };
        for (i, value) in read.into_iter().enumerate() {
            let (c, z, pixel) = (i / 120_000, i / 60_000 % 2, i % 60_000);
            assert!(
                value == values[(z * 60_000 + pixel) * 3 + c],
                "sample {i}, predictor {predictor}"
            );
        }
    }
}

#[test]
fn uncompressed_stacks_lie_as_imagej_expects() {
    // ImageJ reads images=N from the first strip on and ignores the other directories
    let original = volume("CZYX", &[2, 3, 4, 5], DType::U8);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tif");
    save(&path, &original).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mut expected = Vec::new();
    for page in 0..6 {
        let (z, c) = (page / 2, page % 2);
        expected.extend(original.data.slice((c * 3 + z) * 20, 20).unwrap().to_le_bytes());
    }
    assert_eq!(&bytes[16..136], &expected);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n"));
}

#[test]
fn spacing_and_foreign_descriptions_are_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tif");
    let mut original = volume("YX", &[3, 4], DType::U8);
    for spacing in [3.3, 0.0078125, 1.0 / 3.0, 1e-9, 12345.678, 4.65e-5] {
        original.info.spacing = Some(vec![spacing; 2]);
        original.info.unit = Some("nm".into());
        original.info.meta.text.insert("description".into(), "beam µA = 5".into());
        save(&path, &original).unwrap();
        let info = open(&path).unwrap().info().clone();
        let read = info.spacing_of(Axis::X).unwrap();
        assert!((read / spacing - 1.0).abs() < 1e-9, "{spacing} {read}");
        assert_eq!(info.meta.text["description"], "beam µA = 5");
    }
    original.info.spacing = Some(vec![1e-10; 2]);
    let error = save(&path, &original).unwrap_err().to_string();
    assert!(error.contains("give it in another unit"), "{error}");
    original.info.spacing = None;
    original.info.unit = None;
    save(&path, &original).unwrap();
    let info = open(&path).unwrap().info().clone();
    assert_eq!((info.spacing, info.meta.text["description"].as_str()), (None, "beam µA = 5"));
}
