//! Pictures: PNG and JPEG through the `image` crate.
//!
//! Grey becomes `YX`, colour `CYX`; 1, 2 and 4 bits are stretched to 8, palettes become colours.
//! PNG can be written: `u8` and `u16`, grey or colour. JPEG cannot, because it loses detail.

use crate::atomic::AtomicFile;
use crate::data::{DType, Data, Encoding, Kind};
use crate::error::{Error, Result};
use crate::format::{Format, VolumeReader, VolumeWriter};
use crate::layout::Layout;
use crate::npy::DEFLATE_RATIO;
use crate::slabs::WholeWriter;
use crate::volume::{Axis, MAX_READ_BYTES, Region, Volume, VolumeInfo};
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, Limits};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Reads a PNG or JPEG; each read decodes the whole picture.
pub(crate) struct PictureReader {
    info: VolumeInfo,
    layout: Layout,
    path: PathBuf,
    format: Format,
}

type Decoder = Box<dyn ImageDecoder>;

impl PictureReader {
    /// Opens a picture.
    pub(crate) fn open(path: &Path, format: Format) -> Result<Self> {
        let decoder = decoder(path, format)?;
        let (width, height) = decoder.dimensions();
        let (channels, dtype) = match decoder.color_type() {
            ColorType::L8 => (1, DType::U8),
            ColorType::La8 => (2, DType::U8),
            ColorType::Rgb8 => (3, DType::U8),
            ColorType::Rgba8 => (4, DType::U8),
            ColorType::L16 => (1, DType::U16),
            ColorType::La16 => (2, DType::U16),
            ColorType::Rgb16 => (3, DType::U16),
            ColorType::Rgba16 => (4, DType::U16),
            other => {
                let message = format!("samples of type {other:?}; use tiff for them");
                return Err(Error::unsupported(name(format), path, message));
            }
        };
        let length = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
        // a block of 64 JPEG pixels takes a bit at least
        let ratio = if format == Format::Png { DEFLATE_RATIO } else { 2048 };
        if decoder.total_bytes() / ratio > length {
            let message = format!("{width}×{height} pixels cannot come from {length} bytes");
            return Err(Error::damaged(name(format), path, message));
        }
        let (mut shape, mut axes) = (vec![height as usize, width as usize], vec![Axis::Y, Axis::X]);
        if channels > 1 {
            shape.push(channels);
            axes.push(Axis::C);
        }
        let encoding =
            Encoding { kind: Kind::Plain(dtype), big_endian: cfg!(target_endian = "big") };
        let axes = crate::Axes::from_distinct(axes);
        let layout = Layout { offset: 0, encoding, shape, axes };
        let mut info = VolumeInfo::new(&layout.canonical_shape(), layout.axes.canonical(), dtype)?;
        info.meta.format = Some(format);
        info.meta.rgb = channels > 2;
        Ok(Self { info, layout, path: path.to_owned(), format })
    }
}

impl VolumeReader for PictureReader {
    fn info(&self) -> &VolumeInfo {
        &self.info
    }

    fn read_region(&self, region: &Region) -> Result<Data> {
        self.info.check_region(region, &self.path)?;
        let decoder = decoder(&self.path, self.format)?;
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map_err(|e| failed(e, self.format, &self.path))?;
        let data = self.layout.read(&pixels, region)?;
        // shorter only if the file changed since it was opened
        data.map_err(|e| Error::io("read", &self.path, e))
    }
}

fn name(format: Format) -> &'static str {
    if format == Format::Png { "png" } else { "jpeg" }
}

fn failed(error: ImageError, format: Format, path: &Path) -> Error {
    match error {
        ImageError::IoError(e) => Error::io("read", path, e),
        ImageError::Unsupported(e) => Error::unsupported(name(format), path, e),
        other => Error::damaged(name(format), path, other),
    }
}

fn decoder(path: &Path, format: Format) -> Result<Decoder> {
    let file = BufReader::new(File::open(path).map_err(|e| Error::io("read", path, e))?);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_READ_BYTES);
    let fail = |e| failed(e, format, path);
    Ok(if format == Format::Png {
        Box::new(PngDecoder::with_limits(file, limits).map_err(fail)?)
    } else {
        Box::new(JpegDecoder::new(file).map_err(fail)?)
    })
}

/// Starts a PNG.
pub(crate) fn create(path: &Path, info: &VolumeInfo) -> Result<Box<dyn VolumeWriter>> {
    let (channels, planes) = (info.size(Axis::C), info.size(Axis::T) * info.size(Axis::Z));
    let color = match (info.dtype, channels) {
        (DType::U8, 1) => ExtendedColorType::L8,
        (DType::U8, 2) => ExtendedColorType::La8,
        (DType::U8, 3) => ExtendedColorType::Rgb8,
        (DType::U8, 4) => ExtendedColorType::Rgba8,
        (DType::U16, 1) => ExtendedColorType::L16,
        (DType::U16, 2) => ExtendedColorType::La16,
        (DType::U16, 3) => ExtendedColorType::Rgb16,
        (DType::U16, 4) => ExtendedColorType::Rgba16,
        _ => ExtendedColorType::A8, // refused below
    };
    let sides = [Axis::X, Axis::Y].map(|axis| u32::try_from(info.size(axis)).ok());
    let [Some(width), Some(height)] = sides else {
        return Err(Error::unsupported("png", path, "a side longer than 2³² pixels; use .tif"));
    };
    if planes > 1 || color == ExtendedColorType::A8 {
        let message = format!(
            "png holds one plane of u8 or u16 with 1 to 4 channels, this is {} {:?} ({}); use .tif",
            info.dtype, info.shape, info.axes
        );
        return Err(Error::unsupported("png", path, message));
    }
    let target = path.to_owned();
    WholeWriter::create(path, info, move |file, volume| {
        let failed = |e| match e {
            ImageError::IoError(e) => Error::io("write", &target, e),
            other => Error::unsupported("png", &target, other),
        };
        let mut out = BufWriter::new(file);
        PngEncoder::new_with_quality(&mut out, CompressionType::Default, FilterType::Adaptive)
            .write_image(&pixels(volume, channels), width, height, color)
            .map_err(failed)?;
        out.flush().map_err(|e| Error::io("write", &target, e))?;
        let file: AtomicFile =
            out.into_inner().map_err(|e| Error::io("write", &target, e.into_error()))?;
        file.commit()
    })
}

/// The samples with the channels of a pixel side by side, in the byte order of the machine.
fn pixels(volume: &Volume, channels: usize) -> Vec<u8> {
    fn weave<T: Copy, const N: usize>(
        v: &[T],
        channels: usize,
        bytes: fn(T) -> [u8; N],
    ) -> Vec<u8> {
        let each = v.len() / channels;
        let order = (0..each).flat_map(|i| (0..channels).map(move |c| c * each + i));
        order.flat_map(|i| bytes(v[i])).collect()
    }
    match &volume.data {
        Data::U8(v) => weave(v, channels, |x| [x]),
        Data::U16(v) => weave(v, channels, u16::to_ne_bytes),
        _ => Vec::new(), // refused when the file was created
    }
}
