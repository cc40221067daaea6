//! NIfTI-1 and NIfTI-2: `.nii`, `.nii.gz`, and pairs of `.hdr` and `.img`, in both byte orders.
//!
//! Source: the reference headers `nifti1.h` and `nifti2.h` of the NIfTI Data Format Working
//! Group. On disk x runs fastest, so an array with dimensions (x, y, z, t) is presented as
//! `TZYX`; the fifth dimension holds channels. Where `scl_slope` says so, samples are given in
//! real units as floating point; a restored file is then written as floating point too.

mod geometry;
mod header;
mod write;

pub use header::Header;
pub(crate) use header::{is_analyze, is_header};
pub(crate) use write::create;

use crate::data::{DType, Data, Encoding, Kind, scaled_dtype};
use crate::error::{Error, Result};
use crate::format::{Format, VolumeReader};
use crate::layout::{Bytes, Forward, Layout};
use crate::npy::DEFLATE_RATIO;
use crate::volume::{Axes, Axis, Region, VolumeInfo};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Reads a NIfTI image.
pub(crate) struct NiftiReader {
    info: VolumeInfo,
    layout: Layout,
    source: Box<dyn Bytes>,
    path: PathBuf,
}

impl NiftiReader {
    /// Opens a `.nii` or either half of a pair, plain or gzipped.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let header_path = match header_beside(path) {
            Some(header) if !begins_with_header(path) => header,
            _ => path.to_owned(),
        };
        let (mut stream, _) = open_stream(&header_path)?;
        let (header, big_endian, single) = header::read(&mut stream, &header_path)?;
        drop(stream);
        let samples_path = if single { header_path.clone() } else { samples_beside(&header_path)? };
        let layout = layout(&header, big_endian, &header_path)?;
        let stored = layout.encoding.dtype();
        let scale = header.scale();
        let dtype = if scale == (1.0, 0.0) { stored } else { scaled_dtype(stored) };
        let mut info = VolumeInfo::new(&layout.canonical_shape(), layout.axes.canonical(), dtype)
            .map_err(|e| Error::damaged("nifti", &header_path, e))?;
        geometry::to_info(&header, &mut info);
        info.meta.format = Some(Format::Nifti);
        info.meta.rgb = is_colour(header.datatype);
        info.meta.nifti = Some(Box::new(header));

        let bytes = (info.samples() * layout.encoding.size()) as u64;
        let end = layout.offset.saturating_add(bytes);
        let file = File::open(&samples_path).map_err(|e| Error::io("read", &samples_path, e))?;
        let length = file.metadata().map_err(|e| Error::io("read", &samples_path, e))?.len();
        let (_, gzipped) = open_stream(&samples_path)?;
        let most = if gzipped { length.saturating_mul(DEFLATE_RATIO) } else { length };
        if end > most {
            let shape = &info.shape;
            let message = format!(
                "shape {shape:?} needs {end} bytes, there are {}{most}; the file is cut short, copy it again",
                if gzipped { "at most " } else { "" }
            );
            return Err(Error::damaged("nifti", &samples_path, message));
        }
        let source: Box<dyn Bytes> = if gzipped {
            let reopen = move || -> std::io::Result<Box<dyn Read + Send>> {
                use std::io::Seek;
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 17, file))))
            };
            Box::new(Forward::new(reopen, end, None))
        } else {
            Box::new(file)
        };
        Ok(Self { info, layout, source, path: samples_path })
    }
}

impl VolumeReader for NiftiReader {
    fn info(&self) -> &VolumeInfo {
        &self.info
    }

    fn read_region(&self, region: &Region) -> Result<Data> {
        self.info.check_region(region, &self.path)?;
        let data = self.layout.read(self.source.as_ref(), region)?;
        let data = data.map_err(|e| Error::io("read", &self.path, e))?;
        match self.info.meta.nifti.as_ref().map_or((1.0, 0.0), |header| header.scale()) {
            (1.0, 0.0) => Ok(data),
            (slope, inter) => Ok(data.scaled(slope, inter)),
        }
    }
}

/// Where and how the samples lie.
fn layout(header: &Header, big_endian: bool, path: &Path) -> Result<Layout> {
    let dtype = match header.datatype {
        2 | 128 | 2304 => DType::U8,
        4 => DType::I16,
        8 => DType::I32,
        16 => DType::F32,
        64 => DType::F64,
        256 => DType::I8,
        512 => DType::U16,
        768 => DType::U32,
        1024 => DType::I64,
        1280 => DType::U64,
        other => {
            let message = match other {
                1 => "1-bit samples; convert them to uint8".to_owned(),
                32 | 1792 | 2048 => "complex samples; save the magnitude".to_owned(),
                1536 => "128-bit floating point samples; convert them to float64".to_owned(),
                _ => format!("datatype {other}"),
            };
            return Err(Error::unsupported("nifti", path, message));
        }
    };
    let rank = header.dim[0];
    if !(1..=7).contains(&rank) {
        let message = format!("dim[0]: expected 1 to 7 dimensions, got {rank}");
        return Err(Error::damaged("nifti", path, message));
    }
    let rank = rank as usize;
    let mut sizes = Vec::new();
    for (i, size) in header.dim[1..=rank].iter().enumerate() {
        match usize::try_from(*size) {
            Ok(size) if size > 0 => sizes.push(size),
            _ => {
                let message = format!("dim[{}]: expected a size above 0, got {size}", i + 1);
                return Err(Error::damaged("nifti", path, message));
            }
        }
    }
    if rank < 2 || sizes.iter().skip(5).any(|size| *size > 1) {
        let message = format!("dimensions {sizes:?}; those of an image are (x, y, z, t, channel)");
        return Err(Error::unsupported("nifti", path, message));
    }
    sizes.truncate(5);
    let names = [Axis::X, Axis::Y, Axis::Z, Axis::T, Axis::C];
    let mut axes: Vec<Axis> = names[..sizes.len()].to_vec();
    if is_colour(header.datatype) {
        // colours of one voxel lie together; a fifth dimension of 1 says nothing more
        if sizes.get(4).is_some_and(|size| *size > 1) {
            return Err(Error::unsupported("nifti", path, "colours in more than one channel"));
        }
        sizes.truncate(4);
        axes.truncate(4);
        sizes.insert(0, if header.datatype == 128 { 3 } else { 4 });
        axes.insert(0, Axis::C);
    }
    sizes.reverse();
    axes.reverse();
    Ok(Layout {
        offset: header.vox_offset,
        encoding: Encoding { kind: Kind::Plain(dtype), big_endian },
        shape: sizes,
        axes: Axes::from_distinct(axes),
    })
}

/// Whether a voxel holds a colour (RGB24, RGBA32).
fn is_colour(datatype: i16) -> bool {
    matches!(datatype, 128 | 2304)
}

/// The file, or what is gzipped in it, and whether it is gzipped.
fn open_stream(path: &Path) -> Result<(Box<dyn Read>, bool)> {
    let fail = |e| Error::io("read", path, e);
    let mut magic = [0; 2];
    let file = File::open(path).map_err(fail)?;
    let gzipped = file.read_at(0, &mut magic).is_ok() && magic == [0x1f, 0x8b];
    let file = BufReader::new(file);
    Ok(if gzipped { (Box::new(MultiGzDecoder::new(file)), true) } else { (Box::new(file), false) })
}

fn begins_with_header(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = open_stream(path).map(|(stream, _)| stream.take(540).read_to_end(&mut head));
    matches!(read, Ok(Ok(_))) && is_header(&head)
}

/// The path with its ending replaced, `.gz` kept or not, if such a file exists.
fn sibling(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let bare = name.strip_suffix(".gz").unwrap_or(name);
    let (stem, ending) = bare.split_at_checked(bare.len().checked_sub(from.len())?)?;
    let upper = match ending {
        _ if ending == from => false,
        _ if ending == from.to_uppercase() => true,
        _ => return None,
    };
    let to = if upper { to.to_uppercase() } else { to.to_owned() };
    [format!("{stem}{to}"), format!("{stem}{to}.gz")]
        .into_iter()
        .map(|name| path.with_file_name(name))
        .find(|path| path.is_file())
}

/// The `.hdr` that belongs to an `.img`.
pub(crate) fn header_beside(path: &Path) -> Option<PathBuf> {
    sibling(path, ".img", ".hdr")
}

/// The `.img` that belongs to a `.hdr`.
fn samples_beside(path: &Path) -> Result<PathBuf> {
    sibling(path, ".hdr", ".img").ok_or_else(|| {
        let message = "the header of a pair, but there is no .img with its name beside it";
        Error::damaged("nifti", path, message)
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::odd_files;
