//! NumPy arrays: `.npy` of format versions 1 to 3, and `.npz`, stored or deflated.

use super::flaw::{self, Flaw};
use super::values::{Stored, Values};
use super::{Array, Arrays, not_empty};
use crate::atomic::{self, AtomicFile};
use crate::error::{Error, Result};
use crate::format::Compression;
use crate::npy::{DEFLATE_RATIO, header};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Reads an `.npy` of numbers: any integer or floating point type up to 64 bits, bool, `c8`, `c16`,
/// in either byte order and either order of axes.
///
/// # Errors
/// The file is missing, damaged, or holds no numbers (text, objects, records).
pub fn read_npy(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let fail = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    read(&mut BufReader::with_capacity(1 << 18, file), length, path)
}

/// Reads all arrays of an `.npz` that hold numbers.
///
/// # Errors
/// The file is missing, damaged, encrypted, or holds no array of numbers.
pub fn read_npz(path: impl AsRef<Path>) -> Result<Arrays> {
    let path = path.as_ref();
    let fail = |e| Error::io("read", path, e);
    let broken = |e| Error::damaged("npz", path, e);
    let file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let (mut arrays, mut left_out, mut packed) = (Arrays::new(), Vec::new(), 0u64);
    for index in 0..zip.len() {
        let Some(name) = zip.name_for_index(index).and_then(|n| n.strip_suffix(".npy")) else {
            continue;
        };
        let name = name.to_owned();
        let mut entry = zip.by_index(index).map_err(broken)?;
        // entries that overlap would let a small file stand for any amount of data
        packed = packed.saturating_add(entry.compressed_size());
        if packed > length {
            let message = "the arrays are longer than the file; copy it again";
            return Err(Error::damaged("npz", path, message));
        }
        let ratio = match entry.compression() {
            CompressionMethod::Stored => 1,
            _ => DEFLATE_RATIO,
        };
        let available = entry.size().min(entry.compressed_size().saturating_mul(ratio));
        match read(&mut entry, available, path) {
            Ok(array) => _ = arrays.insert(name, array),
            Err(Error::Unsupported { message, .. }) => {
                left_out.push(format!("`{name}`: {message}"));
                continue;
            }
            Err(other) => return Err(other),
        }
        // the checksum is compared at the end of the entry
        match io::copy(&mut entry.take(1), &mut io::sink()) {
            Ok(0) => {}
            Ok(_) => return Err(Error::damaged("npz", path, "an array is longer than its shape")),
            Err(e) => return Err(Error::damaged("npz", path, e)),
        }
    }
    not_empty(arrays, &left_out, "npz", path)
}

/// Reads one array, header and numbers, that can take up `available` bytes.
fn read(reader: &mut dyn Read, available: u64, path: &Path) -> Result<Array> {
    let header = header::read(reader, path)?;
    let (real, complex) = match header.descr.split_once('c') {
        Some((order, "8")) => (format!("{order}f4"), true),
        Some((order, "16")) => (format!("{order}f8"), true),
        _ => (header.descr.clone(), false),
    };
    let encoding = header::encoding(&real, path)?;
    let stored = Stored { encoding, complex };
    let at = |flaw: Flaw| flaw.in_file("npy", path);
    let dims = header.shape;
    let count = flaw::count(&dims, stored.size()).map_err(at)?;
    let needed = header.offset + (count * stored.size()) as u64;
    if needed > available {
        let message = format!(
            "shape {dims:?} needs {needed} bytes, there are {available}; the file is cut short, copy it again"
        );
        return Err(Error::damaged("npy", path, message));
    }
    let data = Values::read(reader, count, stored).map_err(at)?;
    let data = if header.fortran {
        let reversed = dims.clone();
        data.row_major(&reversed)
    } else {
        data
    };
    Array::new(dims, data)
}

/// Writes an `.npy`, little-endian and in C order.
///
/// # Errors
/// The folder does not exist or cannot be written, or the disk is full.
pub fn write_npy(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    atomic::write(path, |file| write(array, file))
}

/// Writes arrays as an `.npz`, by name.
///
/// # Errors
/// As [`write_npy`], or a name cannot be used twice.
pub fn write_npz(path: impl AsRef<Path>, arrays: &Arrays, compression: Compression) -> Result<()> {
    let path = path.as_ref();
    let fail = |e: io::Error| Error::io("write", path, e);
    let method = match compression {
        Compression::None => CompressionMethod::Stored,
        Compression::Deflate => CompressionMethod::Deflated,
    };
    let mut zip = ZipWriter::new(AtomicFile::create(path)?);
    for (name, array) in arrays {
        // without the zip64 fields an entry ends at 4 GB
        let settings = SimpleFileOptions::default()
            .compression_method(method)
            .large_file(array.data.len() as u64 * 16 > 0xfff0_0000)
            .last_modified_time(zip::DateTime::default()); // the same bytes whenever written
        zip.start_file(format!("{name}.npy"), settings).map_err(|e| fail(e.into()))?;
        write(array, &mut zip).map_err(fail)?;
    }
    zip.finish().map_err(|e| fail(e.into()))?.commit()
}

fn write(array: &Array, to: &mut dyn Write) -> io::Result<()> {
    to.write_all(&header::bytes(array.data.descr(), &array.dims))?;
    array.data.write_le(&mut |bytes| to.write_all(bytes))
}
