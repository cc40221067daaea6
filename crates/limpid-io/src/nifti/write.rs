//! Writing `.nii` and `.nii.gz`, little endian, with the header of the image restored.

use super::{Header, geometry};
use crate::atomic::AtomicFile;
use crate::data::{DType, Data};
use crate::error::{Error, Result};
use crate::format::VolumeWriter;
use crate::slabs::{Slabs, WholeWriter};
use crate::volume::{Axis, VolumeInfo};
use flate2::{Compression, write::GzEncoder};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Starts a NIfTI file, gzipped if `path` ends in `.gz`.
pub(crate) fn create(path: &Path, info: &VolumeInfo) -> Result<Box<dyn VolumeWriter>> {
    let header = header(info, path)?;
    let start = header.to_bytes((8 * info.dtype.size()) as i16);
    let gzip = path.to_string_lossy().to_lowercase().ends_with(".gz");
    if info.size(Axis::T) > 1 && info.size(Axis::C) > 1 {
        // the file has channels slowest, slabs come with time slowest
        let path = path.to_owned();
        return WholeWriter::create(&path.clone(), info, move |file, volume| {
            let mut out = Out::new(file, gzip);
            let fail = |e| Error::io("write", &path, e);
            out.write_all(&start).map_err(fail)?;
            let info = &volume.info;
            let (times, channels) = (info.size(Axis::T), info.size(Axis::C));
            let each = info.samples() / (times * channels);
            for c in 0..channels {
                for t in 0..times {
                    let data = volume.data.slice((t * channels + c) * each, each)?;
                    out.write_all(&data.to_le_bytes()).map_err(fail)?;
                }
            }
            out.finish().map_err(fail)?.commit()
        });
    }
    let mut out = Out::new(AtomicFile::create(path)?, gzip);
    out.write_all(&start).map_err(|e| Error::io("write", path, e))?;
    Ok(Box::new(NiftiWriter { out, slabs: Slabs::new(path, info), path: path.to_owned() }))
}

enum Out {
    Plain(AtomicFile),
    Gzip(Box<GzEncoder<AtomicFile>>),
}

impl Out {
    fn new(file: AtomicFile, gzip: bool) -> Self {
        if gzip {
            Self::Gzip(Box::new(GzEncoder::new(file, Compression::default())))
        } else {
            Self::Plain(file)
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(gzip) => gzip.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<AtomicFile> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Gzip(gzip) => gzip.finish(),
        }
    }
}

struct NiftiWriter {
    out: Out,
    slabs: Slabs,
    path: PathBuf,
}

impl VolumeWriter for NiftiWriter {
    fn write_slab(&mut self, first: usize, data: &Data) -> Result<()> {
        self.slabs.accept(first, data)?;
        let bytes = data.to_le_bytes();
        self.out.write_all(&bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.slabs.complete()?;
        self.out.finish().map_err(|e| Error::io("write", &self.path, e))?.commit()
    }
}

/// The header of the input, brought up to date, or a new one.
fn header(info: &VolumeInfo, path: &Path) -> Result<Header> {
    let mut header = info.meta.nifti.as_ref().map_or_else(Header::empty, |h| (**h).clone());
    geometry::to_header(info, &mut header);
    header.datatype = match info.dtype {
        DType::U8 => 2,
        DType::I16 => 4,
        DType::I32 => 8,
        DType::F32 => 16,
        DType::F64 => 64,
        DType::I8 => 256,
        DType::U16 => 512,
        DType::U32 => 768,
        DType::I64 => 1024,
        DType::U64 => 1280,
    };
    (header.scl_slope, header.scl_inter) = (1.0, 0.0); // samples are in real units
    let order = [Axis::X, Axis::Y, Axis::Z, Axis::T, Axis::C];
    let rank = (1..=5).rev().find(|i| info.axes.position(order[i - 1]).is_some()).unwrap_or(2);
    header.dim = [1; 8];
    header.dim[0] = rank as i64;
    for (i, axis) in order.into_iter().enumerate() {
        header.dim[i + 1] = info.size(axis) as i64;
    }
    if header.dim.iter().any(|n| *n > i64::from(i16::MAX)) {
        header.version = 2; // NIfTI-1 counts to 32767
    }
    let extensions: usize = header.extensions.iter().map(|(_, content)| content.len() + 24).sum();
    if extensions > 16 << 20 && header.version == 1 {
        // its offset is an f32, exact to 2²⁴
        let message = format!("header extensions of {extensions} bytes; drop them or use nifti-2");
        return Err(Error::unsupported("nifti", path, message));
    }
    Ok(header)
}
