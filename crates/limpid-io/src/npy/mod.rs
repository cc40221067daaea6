//! NumPy arrays: `.npy` (format versions 1 to 3) and the arrays of an `.npz`.
//!
//! Source: the NEP 1 text kept as `numpy.lib.format`. Little and big endian, C and Fortran
//! order, bool (read as `u8`) and half precision (read as `f32`); complex, structured and object
//! arrays are refused.

pub(crate) mod header;

use crate::atomic::AtomicFile;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::format::{Compression, Format, VolumeReader, VolumeWriter, WriteOptions};
use crate::layout::{Bytes, Forward, Layout, Section};
use crate::slabs::Slabs;
use crate::volume::{Axes, Region, VolumeInfo};
use flate2::read::DeflateDecoder;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// The most a byte of deflate can stand for (zlib's technical notes: 1032:1).
pub(crate) const DEFLATE_RATIO: u64 = 1032;

/// Reads one NumPy array.
pub(crate) struct NpyReader {
    info: VolumeInfo,
    layout: Layout,
    source: Box<dyn Bytes>,
    path: PathBuf,
}

impl NpyReader {
    /// Opens an `.npy`. `axes` names its axes in the order of its shape.
    pub(crate) fn open(path: &Path, axes: Option<&Axes>) -> Result<Self> {
        let fail = |e| Error::io("read", path, e);
        let file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let layout = header::layout(&mut BufReader::new(&file), axes, path)?;
        Self::new(layout, Box::new(file), length, Format::Npy, path)
    }

    /// Opens an array of an `.npz`, the only one if `name` is not given.
    pub(crate) fn open_zip(path: &Path, name: Option<&str>, axes: Option<&Axes>) -> Result<Self> {
        let fail = |e| Error::io("read", path, e);
        let damaged = |e| Error::damaged("npz", path, e);
        let file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut zip = ZipArchive::new(BufReader::new(&file)).map_err(damaged)?;
        let index = find_array(&zip, name, path)?;
        let entry = zip.by_index_raw(index).map_err(damaged)?;
        let (start, size, crc) = (entry.data_start(), entry.size(), entry.crc32());
        let (method, encrypted) = (entry.compression(), entry.encrypted());
        let end = start.checked_add(entry.compressed_size()).filter(|end| *end <= length);
        let Some(end) = end else {
            return Err(Error::damaged(
                "npz",
                path,
                "the array ends beyond the file; copy it again",
            ));
        };
        drop(entry);
        let section = || -> std::io::Result<Section> {
            Ok(Section { file: file.try_clone()?, at: start, end })
        };
        match method {
            CompressionMethod::Stored if !encrypted => {
                let header = BufReader::new(section().map_err(fail)?);
                let mut layout = header::layout(&mut { header }, axes, path)?;
                layout.offset += start;
                Self::new(layout, Box::new(file), end, Format::Npz, path)
            }
            CompressionMethod::Deflated if !encrypted => {
                if size / DEFLATE_RATIO > end - start {
                    let message = format!("{size} bytes cannot come from {} packed", end - start);
                    return Err(Error::damaged("npz", path, message));
                }
                let unpacked = DeflateDecoder::new(BufReader::new(section().map_err(fail)?));
                let layout = header::layout(&mut BufReader::new(unpacked), axes, path)?;
                let reopen = move || -> std::io::Result<Box<dyn Read + Send>> {
                    let section = Section { file: file.try_clone()?, at: start, end };
                    Ok(Box::new(DeflateDecoder::new(BufReader::new(section))))
                };
                let source = Forward::new(reopen, size, Some(crc));
                Self::new(layout, Box::new(source), size, Format::Npz, path)
            }
            _ if encrypted => Err(Error::unsupported("npz", path, "the archive is encrypted")),
            other => Err(Error::unsupported(
                "npz",
                path,
                format!("compression {other:?}; save it again with numpy.savez"),
            )),
        }
    }

    fn new(
        layout: Layout,
        source: Box<dyn Bytes>,
        available: u64,
        format: Format,
        path: &Path,
    ) -> Result<Self> {
        let shape = layout.canonical_shape();
        let mut info = VolumeInfo::new(&shape, layout.axes.canonical(), layout.encoding.dtype())
            .map_err(|e| Error::damaged("npy", path, e))?;
        info.meta.format = Some(format);
        let needed = layout.offset + (info.samples() * layout.encoding.size()) as u64;
        if needed > available {
            let message = format!(
                "shape {:?} needs {needed} bytes, there are {available}; the file is cut short, copy it again",
                layout.shape
            );
            return Err(Error::damaged("npy", path, message));
        }
        Ok(Self { info, layout, source, path: path.to_owned() })
    }
}

impl VolumeReader for NpyReader {
    fn info(&self) -> &VolumeInfo {
        &self.info
    }

    fn read_region(&self, region: &Region) -> Result<Data> {
        self.info.check_region(region, &self.path)?;
        let data = self.layout.read(self.source.as_ref(), region)?;
        data.map_err(|e| Error::io("read", &self.path, e))
    }
}

/// Which entry of the archive to read.
fn find_array<R: Read + std::io::Seek>(
    zip: &ZipArchive<R>,
    name: Option<&str>,
    path: &Path,
) -> Result<usize> {
    let arrays: Vec<(usize, &str)> = (0..zip.len())
        .filter_map(|i| Some((i, zip.name_for_index(i)?.strip_suffix(".npy")?)))
        .collect();
    let names = || arrays.iter().map(|(_, n)| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    match (name, arrays.as_slice()) {
        (_, []) => Err(Error::unsupported("npz", path, "the archive holds no .npy arrays")),
        (None, [(index, _)]) => Ok(*index),
        (None, _) => {
            let message =
                format!("choose one of the arrays {} by adding `:name` to the path", names());
            Err(Error::argument(path, message))
        }
        (Some(name), _) => {
            let wanted = name.strip_suffix(".npy").unwrap_or(name);
            let found = arrays.iter().find(|(_, n)| *n == wanted);
            found.map(|(index, _)| *index).ok_or_else(|| {
                Error::argument(path, format!("no array `{wanted}`; there are {}", names()))
            })
        }
    }
}

/// Starts an `.npy` file.
pub(crate) fn create(path: &Path, info: &VolumeInfo) -> Result<Box<dyn VolumeWriter>> {
    let mut file = AtomicFile::create(path)?;
    let header = header::bytes(&header::descr(info.dtype), &info.shape);
    file.write_all(&header).map_err(|e| Error::io("write", path, e))?;
    let slabs = Slabs::new(path, info);
    Ok(Box::new(NpyWriter { out: Out::Plain(file), slabs, path: path.to_owned() }))
}

/// Starts an `.npz` with one array, called `data` unless named.
pub(crate) fn create_zip(
    path: &Path,
    name: Option<&str>,
    info: &VolumeInfo,
    options: &WriteOptions,
) -> Result<Box<dyn VolumeWriter>> {
    let method = match options.compression {
        Compression::None => CompressionMethod::Stored,
        Compression::Deflate => CompressionMethod::Deflated,
    };
    // without the zip64 fields an archive ends at 4 GB
    let settings = SimpleFileOptions::default()
        .compression_method(method)
        .large_file((info.samples() * info.dtype.size()) as u64 > 0xfff0_0000)
        .last_modified_time(zip::DateTime::default()); // the same bytes whenever written
    let mut zip = ZipWriter::new(AtomicFile::create(path)?);
    zip.start_file(format!("{}.npy", name.unwrap_or("data")), settings)
        .map_err(|e| Error::io("write", path, e.into()))?;
    let header = header::bytes(&header::descr(info.dtype), &info.shape);
    zip.write_all(&header).map_err(|e| Error::io("write", path, e))?;
    let slabs = Slabs::new(path, info);
    Ok(Box::new(NpyWriter { out: Out::Zip(Box::new(zip)), slabs, path: path.to_owned() }))
}

enum Out {
    Plain(AtomicFile),
    Zip(Box<ZipWriter<AtomicFile>>),
}

/// Writes one array in C order.
struct NpyWriter {
    out: Out,
    slabs: Slabs,
    path: PathBuf,
}

impl VolumeWriter for NpyWriter {
    fn write_slab(&mut self, first: usize, data: &Data) -> Result<()> {
        self.slabs.accept(first, data)?;
        let bytes = data.to_le_bytes();
        match &mut self.out {
            Out::Plain(file) => file.write_all(&bytes),
            Out::Zip(zip) => zip.write_all(&bytes),
        }
        .map_err(|e| Error::io("write", &self.path, e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.slabs.complete()?;
        match self.out {
            Out::Plain(file) => file.commit(),
            Out::Zip(zip) => {
                zip.finish().map_err(|e| Error::io("write", &self.path, e.into()))?.commit()
            }
        }
    }
}

#[cfg(test)]
mod tests;
