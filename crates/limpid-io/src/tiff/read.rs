//! Reading a TIFF by region: which pages, which strips or tiles of them, which rows.

use super::chunk;
use super::describe::{Described, describe, imagej_images};
use super::ifd::{Ifd, Skeleton};
use super::page::{Packing, Page};
use super::tag;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::format::{Format, VolumeReader};
use crate::volume::{Axes, Axis, Region, VolumeInfo};
use rayon::prelude::*;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Decoded bytes held at once.
const BATCH: usize = 64 << 20;

/// Reads a TIFF.
pub(crate) struct TiffReader {
    info: VolumeInfo,
    pages: Vec<Page>,
    /// Name and length of each page axis, slowest first.
    order: Vec<(Axis, usize)>,
    file: File,
    path: PathBuf,
}

/// Rows of one chunk that a region needs.
struct Job {
    page: usize,
    chunk: usize,
    rows: Range<usize>,
    /// Where the chunk begins in its page.
    corner: (usize, usize),
    /// First sample plane the chunk holds, and how many.
    planes: (usize, usize),
    /// T and Z (and C, if pages are channels), relative to the region.
    place: [usize; 3],
}

impl TiffReader {
    /// Opens a TIFF. `axes` replaces what its metadata says about the order of the pages.
    pub(crate) fn open(path: &Path, axes: Option<&Axes>) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let (tiff, ifds) = Skeleton::read(&file, path)?;
        let mut pages = Vec::with_capacity(ifds.len());
        for (i, ifd) in ifds.iter().enumerate() {
            if i > 0 && tiff.integer(ifd, tag::SUBFILE, 0)? & 0b101 != 0 {
                continue; // a thumbnail or a mask of the page before
            }
            let page = Page::read(&tiff, ifd, i)?;
            if let Some(first) = pages.first().filter(|first: &&Page| !first.matches(&page)) {
                let message = format!(
                    "page {i} is {}×{} of {}, page 0 is {}×{} of {}; split the file into pages of one kind",
                    page.width,
                    page.height,
                    page.encoding.dtype(),
                    first.width,
                    first.height,
                    first.encoding.dtype()
                );
                return Err(tiff.unsupported(message));
            }
            pages.push(page);
        }
        let text = tiff.text(&ifds[0], tag::DESCRIPTION).unwrap_or_default();
        if let (Some(images), [only]) = (imagej_images(&text), pages.as_slice()) {
            pages = contiguous(&tiff, &ifds[0], only, images);
        }
        let samples = pages[0].samples;
        let described = match axes {
            Some(axes) => {
                let order = page_axes(axes, pages.len(), samples, &text);
                let order = order.map_err(|message| Error::argument(path, message))?;
                Described {
                    pages: order,
                    ..describe(&text, pages.len(), samples).unwrap_or_default()
                }
            }
            None => describe(&text, pages.len(), samples).map_err(|e| tiff.damaged(e))?,
        };
        let info = info(&tiff, &ifds[0], &pages[0], &described)?;
        let path = path.to_owned();
        Ok(Self { info, pages, order: described.pages, file, path })
    }

    /// The chunks that `region` needs, page by page.
    fn jobs(&self, region: &Region) -> Vec<Job> {
        let along = |axis| match self.info.axes.position(axis) {
            Some(i) => region.start[i]..region.start[i] + region.size[i],
            None => 0..1,
        };
        let (ys, xs) = (along(Axis::Y), along(Axis::X));
        let samples = self.pages[0].samples;
        let (channels, planes) =
            if samples > 1 { (0..1, along(Axis::C)) } else { (along(Axis::C), 0..1) };
        let mut jobs = Vec::new();
        for (i, t) in along(Axis::T).enumerate() {
            for (j, c) in channels.clone().enumerate() {
                for (k, z) in along(Axis::Z).enumerate() {
                    let index = |axis| match axis {
                        Axis::T => t,
                        Axis::C => c,
                        _ => z,
                    };
                    let number =
                        self.order.iter().fold(0, |number, (axis, n)| number * n + index(*axis));
                    let page = &self.pages[number];
                    let ((across, down), (width, height)) = (page.grid(), page.chunk);
                    for (p, first) in planes.clone().enumerate() {
                        if p > 0 && !page.planar {
                            break; // the first chunk holds them all
                        }
                        for y in ys.start / height..ys.end.div_ceil(height) {
                            for x in xs.start / width..xs.end.div_ceil(width) {
                                let top = y * height;
                                let rows = ys.start.saturating_sub(top)
                                    ..(ys.end - top).min(page.rows_of(y));
                                let plane = if page.planar { first } else { 0 };
                                jobs.push(Job {
                                    page: number,
                                    chunk: (plane * down + y) * across + x,
                                    rows,
                                    corner: (top, x * width),
                                    planes: (plane, page.samples_per_chunk()),
                                    place: [i, j, k],
                                });
                            }
                        }
                    }
                }
            }
        }
        jobs
    }

    /// Puts the decoded rows of a chunk into the samples of `region`.
    fn place(&self, job: &Job, bytes: &[u8], region: &Region, data: &mut Data) {
        let page = &self.pages[job.page];
        let encoding = page.encoding;
        let rank = region.size.len();
        let range = |i: usize| region.start[i]..region.start[i] + region.size[i];
        let (ys, xs) = (range(rank - 2), range(rank - 1));
        let stride = |axis| match self.info.axes.position(axis) {
            Some(i) => region.size[i + 1..].iter().product::<usize>(),
            None => 0,
        };
        let [t, c, z] = job.place;
        let base = t * stride(Axis::T) + c * stride(Axis::C) + z * stride(Axis::Z);
        let wanted = match self.info.axes.position(Axis::C) {
            Some(i) if page.samples > 1 => range(i),
            _ => 0..1,
        };
        let (sample, pixel) = (encoding.size(), encoding.size() * job.planes.1);
        let left = xs.start.max(job.corner.1);
        let count = xs.end.min(job.corner.1 + page.chunk.0) - left;
        let row_bytes = page.chunk.0 * pixel;
        for plane in wanted.start.max(job.planes.0)..wanted.end.min(job.planes.0 + job.planes.1) {
            for (i, row) in job.rows.clone().enumerate() {
                let from =
                    i * row_bytes + (left - job.corner.1) * pixel + (plane - job.planes.0) * sample;
                let to = base
                    + (plane - wanted.start) * stride(Axis::C)
                    + (job.corner.0 + row - ys.start) * xs.len()
                    + (left - xs.start);
                data.put((to, 1, count), &bytes[from..], pixel, encoding);
            }
        }
    }
}

impl VolumeReader for TiffReader {
    fn info(&self) -> &VolumeInfo {
        &self.info
    }

    fn read_region(&self, region: &Region) -> Result<Data> {
        let samples = self.info.check_region(region, &self.path)?;
        let mut data = Data::zeros(self.info.dtype, samples)?;
        let jobs = self.jobs(region);
        let mut rest = jobs.as_slice();
        while !rest.is_empty() {
            let bytes = |job: &Job| self.pages[job.page].stored_row().saturating_mul(job.rows.end);
            let mut held = 0;
            let fits = |job: &&Job| {
                held += bytes(job);
                held <= BATCH
            };
            let (batch, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            let decoded: Vec<Result<Vec<u8>>> = batch
                .par_iter()
                .map(|job| {
                    let page = &self.pages[job.page];
                    chunk::read(&self.file, page, job.chunk, job.rows.clone()).map_err(|e| {
                        let (page, chunk) = (job.page, job.chunk);
                        let message = format!("page {page}, strip or tile {chunk}: {e}");
                        Error::damaged("tiff", &self.path, message)
                    })
                })
                .collect();
            for (job, bytes) in batch.iter().zip(decoded) {
                self.place(job, &bytes?, region, &mut data);
            }
            rest = after;
        }
        Ok(data)
    }
}

/// ImageJ writes stacks above 4 GB with one directory; the other images follow the first.
fn contiguous(tiff: &Skeleton<'_>, ifd: &Ifd, first: &Page, images: usize) -> Vec<Page> {
    let adjacent = first.chunks.windows(2).enumerate().all(|(i, pair)| {
        let bytes = (first.stored_row() * first.rows_of(i % first.grid().1)) as u64;
        pair[0].0.checked_add(bytes) == Some(pair[1].0)
    });
    let bytes = (first.stored_row() * first.height) as u64
        * if first.planar { first.samples as u64 } else { 1 };
    let end = bytes.checked_mul(images as u64).and_then(|n| n.checked_add(first.chunks[0].0));
    let whole = first.packing == Packing::None && first.grid().0 == 1 && adjacent;
    let fits = |end: &u64| *end <= tiff.length && !ifd.reaches_into(first.chunks[0].0, *end);
    if images < 2 || !whole || !end.as_ref().is_some_and(fits) {
        return vec![first.clone()];
    }
    let shifted = |i: usize| {
        let mut page = first.clone();
        page.chunks.iter_mut().for_each(|chunk| chunk.0 += i as u64 * bytes);
        page
    };
    (0..images).map(shifted).collect()
}

/// The page axes, when the caller names the axes in the order of the file.
fn page_axes(
    axes: &Axes,
    pages: usize,
    samples: usize,
    text: &str,
) -> std::result::Result<Vec<(Axis, usize)>, String> {
    let own = |axis: &Axis| match axis {
        Axis::Y | Axis::X => false,
        Axis::C => samples == 1,
        _ => true,
    };
    let names: Vec<Axis> = axes.as_slice().iter().copied().filter(own).collect();
    match names.as_slice() {
        [] if pages == 1 => Ok(Vec::new()),
        [one] => Ok(vec![(*one, pages)]),
        several => {
            // the text may know the lengths, if not the names
            let lengths = describe(text, pages, samples)?.pages;
            if several.is_empty() || lengths.len() != several.len() {
                return Err(format!("the {pages} pages cannot be shared out to the axes `{axes}`"));
            }
            Ok(several.iter().copied().zip(lengths.into_iter().map(|(_, n)| n)).collect())
        }
    }
}

/// Shape, spacing and the rest.
fn info(tiff: &Skeleton<'_>, ifd: &Ifd, page: &Page, described: &Described) -> Result<VolumeInfo> {
    let mut sizes = described.pages.clone();
    if page.samples > 1 {
        if sizes.iter().any(|(axis, n)| *axis == Axis::C && *n > 1) {
            return Err(tiff.unsupported("channels both as pages and as samples of a pixel"));
        }
        sizes.retain(|(axis, _)| *axis != Axis::C);
        sizes.push((Axis::C, page.samples));
    }
    sizes.extend([(Axis::Y, page.height), (Axis::X, page.width)]);
    sizes.sort();
    let (axes, shape): (Vec<Axis>, Vec<usize>) = sizes.into_iter().unzip();
    let distinct = axes.windows(2).all(|pair| pair[0] != pair[1]);
    if !distinct {
        return Err(tiff.damaged("the metadata names an axis twice; give the axes yourself"));
    }
    let axes = Axes::from_distinct(axes);
    let mut info =
        VolumeInfo::new(&shape, axes, page.encoding.dtype()).map_err(|e| tiff.damaged(e))?;
    spacing(tiff, ifd, described, &mut info)?;
    info.meta.format = Some(Format::Tiff);
    info.meta.rgb = page.photometric == 2 && (3..=4).contains(&page.samples);
    info.meta.text = described.text.clone();
    if page.photometric == 0 {
        info.meta.text.insert("photometric".into(), "white_is_zero".into());
    }
    Ok(info)
}

/// Spacing from the text, or from the resolution if that counts pixels per centimetre. Pixels
/// per inch are left alone: they are the habit of a program more often than a measurement.
fn spacing(
    tiff: &Skeleton<'_>,
    ifd: &Ifd,
    described: &Described,
    info: &mut VolumeInfo,
) -> Result<()> {
    let mut known = described.spacing.clone();
    let centimetres = tiff.integer(ifd, tag::RESOLUTION_UNIT, 2)? == 3;
    let x = tiff.rational(ifd, tag::X_RESOLUTION);
    let y = tiff.rational(ifd, tag::Y_RESOLUTION).or(x);
    let mut unit = described.unit.clone();
    // pixels per what: the unit that ImageJ names, or centimetres
    let scale = if described.imagej && (unit.is_some() || !centimetres) {
        let trivial = x == Some(1.0) && unit.is_none();
        if trivial { None } else { Some(1.0) }
    } else if centimetres {
        unit = unit.or(Some("µm".into()));
        Some(1e4)
    } else {
        None
    };
    if let (Some(scale), Some(x), Some(y)) = (scale, x, y) {
        known.entry(Axis::X).or_insert(scale / x);
        known.entry(Axis::Y).or_insert(scale / y);
    }
    let z_unknown = info.size(Axis::Z) > 1 && !known.contains_key(&Axis::Z);
    if !known.contains_key(&Axis::X) || !known.contains_key(&Axis::Y) {
        return Ok(());
    }
    if z_unknown && described.imagej {
        known.insert(Axis::Z, 1.0); // what ImageJ takes it for
    }
    let spacing = |axis: &Axis| known.get(axis).copied().unwrap_or(0.0);
    info.spacing = Some(info.axes.as_slice().iter().map(spacing).collect());
    info.unit = unit.filter(|unit| !unit.starts_with("pixel"));
    Ok(())
}
