//! Writing a TIFF: one page per plane in ImageJ's order, directories at the end.
//!
//! ImageJ finds the images of an uncompressed stack one behind the other, so their place is
//! fixed before the first slab comes. Compressed strips follow as they come.

use super::describe::escape;
use super::tag;
use crate::atomic::AtomicFile;
use crate::data::{DType, Data};
use crate::error::{Error, Result};
use crate::format::{Compression, VolumeWriter, WriteOptions};
use crate::slabs::{Slabs, WholeWriter};
use crate::volume::{Axis, Volume, VolumeInfo};
use flate2::write::ZlibEncoder;
use rayon::prelude::*;
use std::fmt::Write as _;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of a strip: small enough to share out compression, large enough to make it worthwhile.
const STRIP: usize = 256 << 10;
/// Where samples begin: after either kind of header, aligned.
const START: u64 = 16;

/// Starts a TIFF.
pub(crate) fn create(
    path: &Path,
    info: &VolumeInfo,
    options: &WriteOptions,
) -> Result<Box<dyn VolumeWriter>> {
    if info.meta.rgb && matches!(info.size(Axis::C), 3 | 4) {
        // colours of a pixel lie together in the file, but come one after the other
        let (info, options) = (info.clone(), options.clone());
        let target = path.to_owned();
        return WholeWriter::create(path, &info.clone(), move |file, volume| {
            let mut pages = Pages::new(file, &target, &info, &options, info.size(Axis::C))?;
            for_each_colour_page(volume, |bytes| pages.push(&bytes))?;
            pages.finish(&info)
        });
    }
    let file = AtomicFile::create(path)?;
    let pages = Pages::new(file, path, info, options, 1)?;
    Ok(Box::new(TiffWriter { pages, slabs: Slabs::new(path, info), info: info.clone() }))
}

struct TiffWriter {
    pages: Pages,
    slabs: Slabs,
    info: VolumeInfo,
}

impl VolumeWriter for TiffWriter {
    fn write_slab(&mut self, first: usize, data: &Data) -> Result<()> {
        self.slabs.accept(first, data)?;
        self.pages.push(&data.to_le_bytes())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.slabs.complete()?;
        self.pages.finish(&self.info)
    }
}

/// Calls `push` with the bytes of each page, the colours of a pixel side by side.
fn for_each_colour_page(
    volume: &Volume,
    mut push: impl FnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    let info = &volume.info;
    let (channels, slices) = (info.size(Axis::C), info.size(Axis::Z));
    let (plane, size) = (info.size(Axis::Y) * info.size(Axis::X), info.dtype.size());
    for t in 0..info.size(Axis::T) {
        for z in 0..slices {
            let mut page = vec![0; plane * channels * size];
            for c in 0..channels {
                let start = ((t * channels + c) * slices + z) * plane;
                let bytes = volume.data.slice(start, plane)?.to_le_bytes();
                for (i, sample) in bytes.chunks_exact(size).enumerate() {
                    page[(i * channels + c) * size..][..size].copy_from_slice(sample);
                }
            }
            push(page)?;
        }
    }
    Ok(())
}

/// The pages being written, whose bytes come in the order T, C, Z, Y, X.
struct Pages {
    file: AtomicFile,
    path: PathBuf,
    big: bool,
    deflate: bool,
    predict: bool,
    dtype: DType,
    width: usize,
    height: usize,
    /// Samples of a pixel that lie side by side.
    samples: usize,
    /// Pages along T, C and Z.
    counts: [usize; 3],
    rows_per_strip: usize,
    /// Bytes that do not fill a strip yet.
    pending: Vec<u8>,
    /// Offset and byte count of the strips so far, plane after plane as they come.
    strips: Vec<(u64, u64)>,
    /// Where the next write would go without seeking, and where compressed strips end.
    at: u64,
}

impl Pages {
    fn new(
        file: AtomicFile,
        path: &Path,
        info: &VolumeInfo,
        options: &WriteOptions,
        samples: usize,
    ) -> Result<Self> {
        let (width, height) = (info.size(Axis::X), info.size(Axis::Y));
        if width.max(height) > u32::MAX as usize {
            let message = "a side longer than 2³² pixels";
            return Err(Error::unsupported("tiff", path, message));
        }
        for axis in [Axis::X, Axis::Y] {
            if let Some(size) = info.spacing_of(axis).filter(|size| per_length(*size).is_none()) {
                let unit = info.unit.as_deref().unwrap_or("pixel");
                let message = format!("a spacing of {size} {unit}; give it in another unit");
                return Err(Error::unsupported("tiff", path, message));
            }
        }
        let channels = if samples > 1 { 1 } else { info.size(Axis::C) };
        let row = width * samples * info.dtype.size();
        let rows_per_strip = (STRIP / row).clamp(1, height);
        let counts = [info.size(Axis::T), channels, info.size(Axis::Z)];
        let pages = counts.iter().product::<usize>() as u64;
        let strips = height.div_ceil(rows_per_strip) as u64;
        // an upper bound: deflate may grow what it cannot shrink, a page needs some 300 bytes
        let bytes = (info.samples() * info.dtype.size()) as u64;
        let bound = bytes + bytes / 1000 + pages * (512 + 32 * strips) + (1 << 16);
        let deflate = options.compression == Compression::Deflate;
        let mut pages = Self {
            file,
            path: path.to_owned(),
            big: options.big_tiff || bound > u64::from(u32::MAX),
            deflate,
            predict: deflate && !info.dtype.is_float(),
            dtype: info.dtype,
            width,
            height,
            samples,
            counts,
            rows_per_strip,
            pending: Vec::new(),
            strips: Vec::new(),
            at: 0,
        };
        pages.write_at(0, &[0; START as usize])?; // the header, filled in at the end
        Ok(pages)
    }

    fn row_bytes(&self) -> usize {
        self.width * self.samples * self.dtype.size()
    }

    fn strips_per_page(&self) -> usize {
        self.height.div_ceil(self.rows_per_strip)
    }

    /// Bytes of the strip with this number, counted over all planes.
    fn strip_bytes(&self, strip: usize) -> usize {
        let top = strip % self.strips_per_page() * self.rows_per_strip;
        self.rows_per_strip.min(self.height - top) * self.row_bytes()
    }

    /// Number in the file of the page that comes as number `plane`: C fastest, then Z, then T.
    fn page_of(&self, plane: usize) -> usize {
        let [_, channels, slices] = self.counts;
        let (t, c, z) = (plane / (channels * slices), plane / slices % channels, plane % slices);
        (t * slices + z) * channels + c
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let fail = |e| Error::io("write", &self.path, e);
        if at != self.at {
            self.file.seek(SeekFrom::Start(at)).map_err(fail)?;
        }
        self.file.write_all(bytes).map_err(fail)?;
        self.at = at + bytes.len() as u64;
        Ok(())
    }

    /// Takes the next bytes; writes the strips that are complete.
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        let (mut ready, mut end) = (Vec::new(), 0);
        while end < pending.len() {
            let size = self.strip_bytes(self.strips.len() + ready.len());
            if size > pending.len() - end {
                break;
            }
            ready.push(end..end + size);
            end += size;
        }
        if self.deflate {
            let packed: Vec<std::io::Result<Vec<u8>>> =
                ready.into_par_iter().map(|range| self.pack(&pending[range])).collect();
            for strip in packed {
                let strip = strip.map_err(|e| Error::io("write", &self.path, e))?;
                let at = self.at;
                self.write_at(at, &strip)?;
                self.strips.push((at, strip.len() as u64));
            }
        } else {
            let page_bytes = (self.row_bytes() * self.height) as u64;
            for range in ready {
                let (plane, strip) = {
                    let per_page = self.strips_per_page();
                    (self.strips.len() / per_page, self.strips.len() % per_page)
                };
                let within = (strip * self.rows_per_strip * self.row_bytes()) as u64;
                let at = START + self.page_of(plane) as u64 * page_bytes + within;
                self.write_at(at, &pending[range.clone()])?;
                self.strips.push((at, range.len() as u64));
            }
        }
        pending.drain(..end);
        self.pending = pending;
        Ok(())
    }

    /// Compresses a strip, integers as differences to their left neighbours.
    fn pack(&self, strip: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut strip = strip.to_vec();
        if self.predict {
            let size = self.dtype.size();
            let step = self.samples * size;
            for row in strip.chunks_exact_mut(self.row_bytes()) {
                // from the right, so that the left neighbour is still what it was
                for i in (step..row.len()).step_by(size).rev() {
                    let number = |at: usize| {
                        let mut value = [0; 8];
                        value[..size].copy_from_slice(&row[at..at + size]);
                        u64::from_le_bytes(value)
                    };
                    let difference = number(i).wrapping_sub(number(i - step)).to_le_bytes();
                    row[i..i + size].copy_from_slice(&difference[..size]);
                }
            }
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&strip)?;
        encoder.finish()
    }

    /// Writes the directories and the header, and puts the file in its place.
    fn finish(mut self, info: &VolumeInfo) -> Result<()> {
        let per_page = self.strips_per_page();
        let planes = self.strips.len() / per_page;
        let mut strips_of = vec![0; planes]; // where the strips of a page begin
        for plane in 0..planes {
            strips_of[self.page_of(plane)] = plane * per_page;
        }
        let samples_end = START + (self.row_bytes() * self.height * planes) as u64;
        let end = if self.deflate { self.at } else { samples_end };
        let mut at = end.next_multiple_of(8);
        let first = at;
        let (common, description) = (self.common_tags(info), description(info, planes));
        let mut block = vec![0; (at - end) as usize];
        for (page, first_strip) in strips_of.into_iter().enumerate() {
            let strips = &self.strips[first_strip..first_strip + per_page];
            let mut tags = common.clone();
            tags.push(self.offsets(tag::STRIP_OFFSETS, strips.iter().map(|s| s.0).collect()));
            tags.push(self.offsets(tag::STRIP_COUNTS, strips.iter().map(|s| s.1).collect()));
            if let Some(text) = description.as_ref().filter(|_| page == 0) {
                let mut bytes = text.clone().into_bytes();
                bytes.push(0);
                tags.push(Tag { tag: tag::DESCRIPTION, kind: 2, count: bytes.len(), bytes });
            }
            let bytes = self.directory(tags, at, page + 1 == planes);
            at += bytes.len() as u64;
            block.extend(bytes);
        }
        self.write_at(end, &block)?;
        let mut header = b"II".to_vec();
        if self.big {
            header.extend([43, 0, 8, 0, 0, 0]);
            header.extend(first.to_le_bytes());
        } else {
            header.extend([42, 0]);
            header.extend((first as u32).to_le_bytes());
        }
        self.write_at(0, &header)?;
        self.file.commit()
    }

    /// Offsets or byte counts, in the width the file has.
    fn offsets(&self, tag: u16, values: Vec<u64>) -> Tag {
        if self.big {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Tag { tag, kind: 16, count: values.len(), bytes }
        } else {
            Tag::long(tag, &values.iter().map(|v| *v as u32).collect::<Vec<_>>())
        }
    }

    /// The tags that are the same for all pages.
    fn common_tags(&self, info: &VolumeInfo) -> Vec<Tag> {
        let format = match (info.dtype.is_float(), info.dtype.is_signed()) {
            (true, _) => 3,
            (_, true) => 2,
            _ => 1,
        };
        let white = info.meta.text.get("photometric").is_some_and(|p| p == "white_is_zero");
        let photometric = match self.samples {
            1 if white => 0,
            1 => 1,
            _ => 2,
        };
        let mut tags = vec![
            Tag::long(tag::WIDTH, &[self.width as u32]),
            Tag::long(tag::HEIGHT, &[self.height as u32]),
            Tag::short(tag::BITS, &vec![8 * info.dtype.size() as u16; self.samples]),
            Tag::short(tag::COMPRESSION, &[if self.deflate { 8 } else { 1 }]),
            Tag::short(tag::PHOTOMETRIC, &[photometric]),
            Tag::short(tag::SAMPLES, &[self.samples as u16]),
            Tag::long(tag::ROWS_PER_STRIP, &[self.rows_per_strip as u32]),
            Tag::short(tag::PLANAR, &[1]),
            Tag::short(tag::SAMPLE_FORMAT, &vec![format; self.samples]),
        ];
        if self.predict {
            tags.push(Tag::short(tag::PREDICTOR, &[2]));
        }
        if self.samples == 4 {
            tags.push(Tag::short(tag::EXTRA_SAMPLES, &[2])); // alpha, not multiplied in
        }
        let sizes = [Axis::X, Axis::Y].map(|axis| info.spacing_of(axis).and_then(per_length));
        if let [Some(x), Some(y)] = sizes {
            tags.push(Tag::rational(tag::X_RESOLUTION, x));
            tags.push(Tag::rational(tag::Y_RESOLUTION, y));
            tags.push(Tag::short(tag::RESOLUTION_UNIT, &[1])); // the unit is in the description
        }
        tags
    }

    /// The bytes of a directory that begins at `at`, with the values that do not fit inside.
    fn directory(&self, mut tags: Vec<Tag>, at: u64, last: bool) -> Vec<u8> {
        tags.sort_by_key(|tag| tag.tag);
        let inline = if self.big { 8 } else { 4 };
        let number = |n: u64| n.to_le_bytes()[..inline].to_vec();
        let (mut head, mut values) = (Vec::new(), Vec::new());
        let head_bytes = if self.big { 8 + 20 * tags.len() + 8 } else { 2 + 12 * tags.len() + 4 };
        head.extend(&(tags.len() as u64).to_le_bytes()[..if self.big { 8 } else { 2 }]);
        let outside = (at as usize + head_bytes).next_multiple_of(8);
        for tag in tags {
            head.extend(tag.tag.to_le_bytes());
            head.extend(tag.kind.to_le_bytes());
            head.extend(number(tag.count as u64));
            if tag.bytes.len() <= inline {
                head.extend(&tag.bytes);
                head.resize(head.len() + inline - tag.bytes.len(), 0);
            } else {
                head.extend(number((outside + values.len()) as u64));
                values.extend(tag.bytes);
                values.resize(values.len().next_multiple_of(8), 0);
            }
        }
        let end = outside + values.len();
        head.extend(number(if last { 0 } else { end as u64 }));
        head.resize(outside - at as usize, 0);
        head.extend(values);
        head
    }
}

/// A tag with its values as bytes.
#[derive(Clone)]
struct Tag {
    tag: u16,
    kind: u16,
    count: usize,
    bytes: Vec<u8>,
}

impl Tag {
    fn short(tag: u16, values: &[u16]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { tag, kind: 3, count: values.len(), bytes }
    }

    fn long(tag: u16, values: &[u32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { tag, kind: 4, count: values.len(), bytes }
    }

    fn rational(tag: u16, (over, under): (u32, u32)) -> Self {
        let bytes = [over, under].iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { tag, kind: 5, count: 1, bytes }
    }
}

/// `1 / length` as the closest fraction of 32-bit numbers, by continued fractions.
fn per_length(length: f64) -> Option<(u32, u32)> {
    let (mut h, mut k) = ((1u64, 0u64), (0u64, 1u64)); // this and the former convergent
    let mut x = 1.0 / length;
    for _ in 0..64 {
        let whole = x.floor();
        if !(0.0..=f64::from(u32::MAX)).contains(&whole) {
            break;
        }
        let next = |(now, before): (u64, u64)| {
            (whole as u64).checked_mul(now)?.checked_add(before).filter(|n| *n <= u32::MAX.into())
        };
        let (Some(over), Some(under)) = (next(h), next(k)) else { break };
        (h, k) = ((over, h.0), (under, k.0));
        x = 1.0 / (x - whole);
    }
    match (u32::try_from(h.0), u32::try_from(k.0)) {
        (Ok(over), Ok(under)) if over > 0 && under > 0 => Some((over, under)),
        _ => None,
    }
}

/// ImageJ's list of axes and spacing, or the description the image came with if there is nothing
/// to say.
fn description(info: &VolumeInfo, planes: usize) -> Option<String> {
    let own = info.meta.text.get("description");
    if info.axes.rank() == 2 && info.spacing.is_none() && own.is_some() {
        return own.cloned();
    }
    let mut text = format!("ImageJ=1.53t\nimages={planes}\n");
    let axes = [(Axis::C, "channels"), (Axis::Z, "slices"), (Axis::T, "frames")];
    for (axis, key) in axes {
        let in_pixel = axis == Axis::C && info.meta.rgb && matches!(info.size(axis), 3 | 4);
        if info.axes.position(axis).is_some() && !in_pixel {
            let _ = writeln!(text, "{key}={}", info.size(axis));
        }
    }
    if axes.iter().filter(|(axis, _)| info.size(*axis) > 1).count() > 1 {
        text.push_str("hyperstack=true\nmode=grayscale\n");
    }
    // spacing without a unit is what ImageJ counts in pixels
    let pixels = info.spacing.as_ref().map(|_| "pixel".to_owned());
    if let Some(unit) = info.unit.as_ref().or(pixels.as_ref()) {
        let _ = writeln!(text, "unit={}", escape(unit).replace(['\n', '\r'], " "));
    }
    if let Some(z) = info.spacing_of(Axis::Z) {
        let _ = writeln!(text, "spacing={z}");
    }
    if let Some(t) = info.spacing_of(Axis::T) {
        let _ = writeln!(text, "finterval={t}");
    }
    for (key, value) in &info.meta.text {
        let foreign = (key == "description").then_some(key.as_str());
        if let Some(key) = key.strip_prefix("imagej.").or(foreign) {
            let _ =
                writeln!(text, "{}", escape(&format!("{key}={value}")).replace(['\n', '\r'], " "));
        }
    }
    Some(text)
}
