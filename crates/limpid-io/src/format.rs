//! The formats: recognised by their first bytes, opened for reading by region, written in slabs.
//!
//! A new format is one module with a `VolumeReader` (and perhaps a [`VolumeWriter`]), one
//! variant of [`Format`] and its line in each `match` here.

use crate::data::Data;
use crate::error::{Error, Result};
use crate::volume::{Axes, Region, Volume, VolumeInfo};
use crate::{nifti, npy, picture, tiff};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Format {
    Tiff,
    Png,
    Jpeg,
    Nifti,
    Npy,
    Npz,
}

/// What can be read, for error messages.
pub(crate) const READABLE: &str =
    "tiff (.tif, .tiff), png, jpeg, nifti (.nii, .nii.gz, .hdr with .img), numpy (.npy, .npz)";

/// Endings of file names that can be read, lowercase. An `.img` is read through its `.hdr`.
pub(crate) const READABLE_ENDINGS: [&str; 11] = [
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".nii", ".nii.gz", ".hdr", ".hdr.gz", ".npy", ".npz",
];

/// Reads an image, all of it or by region. Shared by threads.
pub trait VolumeReader: Send + Sync {
    /// Everything about the image but its samples.
    fn info(&self) -> &VolumeInfo;

    /// The samples of a region, row-major, in [`VolumeInfo::dtype`]; only what is needed of the
    /// file is held in memory. Compressed streams (`.nii.gz`, `.npz`, `.png`) are decoded from
    /// their start unless regions come in the order of the file.
    ///
    /// # Errors
    /// The region is not within the image, or the file is damaged or cannot be read.
    fn read_region(&self, region: &Region) -> Result<Data>;

    /// The whole image.
    ///
    /// # Errors
    /// As [`read_region`](Self::read_region).
    fn read(&self) -> Result<Volume> {
        let info = self.info().clone();
        Ok(Volume { data: self.read_region(&Region::full(&info.shape))?, info })
    }
}

/// Writes an image in slabs. The file appears when it is finished; dropped before, nothing stays.
pub trait VolumeWriter: Send {
    /// Writes samples for one or more indices along the slowest axis, from `first` on. Slabs
    /// come in order, without gaps, in the type given to [`create`].
    ///
    /// # Errors
    /// The slab is out of order or of the wrong type or size, or the disk is full.
    fn write_slab(&mut self, first: usize, data: &Data) -> Result<()>;

    /// Completes the file and puts it in its place.
    ///
    /// # Errors
    /// Slabs are missing, or the disk is full.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What a reader cannot know from the file.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The axes in the order of the file, slowest first. Without them the metadata of the file
    /// decides, and an array that has none is taken for `YX`, `ZYX`, `CZYX` or `TCZYX`.
    pub axes: Option<Axes>,
    /// Which array of an `.npz`, if it has several.
    pub array: Option<String>,
}

/// Compression of a written file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None: fastest, and ImageJ can map the file. (`.nii.gz` and `.png` are always compressed.)
    #[default]
    None,
    /// Deflate, for TIFF and npz.
    Deflate,
}

/// How a file is written.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Compression of TIFF and npz.
    pub compression: Compression,
    /// BigTIFF even if the file is small; above 4 GB it is used anyway.
    pub big_tiff: bool,
}

/// Opens an image, recognising its format by content. For an array of an `.npz` the path may be
/// `file.npz:name`.
///
/// # Errors
/// The file is missing, of no readable format, damaged, or uses an unsupported feature.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn VolumeReader>> {
    open_with(path, &OpenOptions::default())
}

/// As [`open`], with what the caller knows about the file.
///
/// # Errors
/// As [`open`], or the options contradict the file.
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Box<dyn VolumeReader>> {
    let (path, member) = split_member(path.as_ref());
    let options =
        OpenOptions { array: member.or(options.array.clone()), axes: options.axes.clone() };
    let format = sniff(&path)?;
    if let Some(name) = &options.array
        && format != Format::Npz
    {
        let message = format!("array `{name}` was asked for, but only an .npz has named arrays");
        return Err(Error::argument(&path, message));
    }
    let axes = options.axes.as_ref();
    let reader: Box<dyn VolumeReader> = match format {
        Format::Tiff => Box::new(tiff::TiffReader::open(&path, axes)?),
        Format::Png | Format::Jpeg => Box::new(picture::PictureReader::open(&path, format)?),
        Format::Nifti => Box::new(nifti::NiftiReader::open(&path)?),
        Format::Npy => Box::new(npy::NpyReader::open(&path, axes)?),
        Format::Npz => Box::new(npy::NpyReader::open_zip(&path, options.array.as_deref(), axes)?),
    };
    let info = reader.info();
    match axes {
        Some(axes) if axes.canonical() != info.axes => {
            let message = format!("axes `{axes}` were asked for, but the file has `{}`", info.axes);
            Err(Error::argument(&path, message))
        }
        _ => Ok(reader),
    }
}

/// Starts writing an image; the ending of `path` decides the format: `.tif`, `.tiff`, `.png`,
/// `.nii`, `.nii.gz`, `.npy` or `.npz` (or `file.npz:name`). `info` should be that of the image
/// restored, so that spacing, affine and metadata live on.
///
/// # Errors
/// The ending is unknown, the format cannot hold the image, or the folder cannot be written.
pub fn create(
    path: impl AsRef<Path>,
    info: &VolumeInfo,
    options: &WriteOptions,
) -> Result<Box<dyn VolumeWriter>> {
    let (path, member) = split_member(path.as_ref());
    info.check()?;
    let name = path.to_string_lossy().to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".tif", ".tiff"]) {
        tiff::create(&path, info, options)
    } else if ends(&[".nii", ".nii.gz"]) {
        nifti::create(&path, info)
    } else if ends(&[".npy"]) {
        npy::create(&path, info)
    } else if ends(&[".npz"]) {
        npy::create_zip(&path, member.as_deref(), info, options)
    } else if ends(&[".png"]) {
        picture::create(&path, info)
    } else {
        let message = "cannot write this kind of file; the name must end in .tif, .tiff, .png, .nii, .nii.gz, .npy or .npz";
        Err(Error::argument(&path, message))
    }
}

/// Writes a whole image with the default [`WriteOptions`].
///
/// # Errors
/// As [`create`], or the samples do not fill the shape.
pub fn save(path: impl AsRef<Path>, volume: &Volume) -> Result<()> {
    volume.check()?;
    let mut writer = create(path, &volume.info, &WriteOptions::default())?;
    let each = volume.info.samples() / volume.info.shape[0];
    let step = ((16 << 20) / each).max(1); // bounds the copy that a writer makes
    for first in (0..volume.info.shape[0]).step_by(step) {
        let count = step.min(volume.info.shape[0] - first);
        writer.write_slab(first, &volume.data.slice(first * each, count * each)?)?;
    }
    writer.finish()
}

/// Splits `file.npz:name`, unless a file of that very name exists.
fn split_member(path: &Path) -> (PathBuf, Option<String>) {
    if let Some(text) = path.to_str()
        && let Some(at) = text.to_lowercase().rfind(".npz:")
        && !path.exists()
    {
        let (file, name) = text.split_at(at + 4);
        return (file.into(), Some(name[1..].to_owned()));
    }
    (path.to_owned(), None)
}

/// Recognises a file by its first bytes.
pub(crate) fn sniff(path: &Path) -> Result<Format> {
    let unknown = |found: String| {
        Err(Error::UnknownFormat { found, readable: READABLE, path: path.to_owned() })
    };
    let fail = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return unknown("it is a folder".into());
    }
    let mut head = first_bytes(file).map_err(fail)?;
    let gzipped = head.starts_with(&[0x1f, 0x8b]);
    if gzipped {
        let file = File::open(path).map_err(fail)?;
        head = match first_bytes(flate2::read::MultiGzDecoder::new(file)) {
            Ok(head) => head,
            Err(e) => return Err(Error::damaged("gzip", path, e)),
        };
    }
    let starts = |magic: &[&[u8]]| magic.iter().any(|m| head.starts_with(m));
    let found = if nifti::is_header(&head) {
        return Ok(Format::Nifti);
    } else if nifti::header_beside(path).is_some() {
        return Ok(Format::Nifti); // the .img of a pair, which has no mark of its own
    } else if gzipped {
        "gzip, but not of nifti"
    } else if starts(&[b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]) {
        return Ok(Format::Tiff);
    } else if starts(&[b"\x89PNG\r\n\x1a\n"]) {
        return Ok(Format::Png);
    } else if starts(&[b"\xff\xd8\xff"]) {
        return Ok(Format::Jpeg);
    } else if starts(&[b"\x93NUMPY"]) {
        return Ok(Format::Npy);
    } else if starts(&[b"PK\x03\x04", b"PK\x05\x06"]) {
        return Ok(Format::Npz);
    } else if head.is_empty() {
        "the file is empty"
    } else if starts(&[b"\x89HDF\r\n\x1a\n"]) {
        "hdf5, which cannot be read; convert it to npy or tiff"
    } else if head.get(128..132) == Some(b"DICM") {
        "dicom, which cannot be read; convert it to nifti"
    } else if nifti::is_analyze(&head) {
        "analyze 7.5, which cannot be read; convert it to nifti"
    } else if starts(&[b"NRRD"]) {
        "nrrd, which cannot be read; convert it to nifti"
    } else {
        return unknown(format!("it begins with {:02x?}", &head[..head.len().min(8)]));
    };
    unknown(found.into())
}

/// As many bytes as recognising takes.
fn first_bytes(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(540).read_to_end(&mut head)?;
    Ok(head)
}
