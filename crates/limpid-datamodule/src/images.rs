//! Image files as the network sees them: frames of `[channels, spatial…]`, read by region, kept in
//! memory as far as the cap allows.
//!
//! In 2-D every slice (Z) and time point (T) is a frame, in 3-D every time point. Files are kept
//! decoded, in the order they are listed, until the cap is reached; of the rest only the region
//! asked for is read. Patches are drawn from all files evenly, so keeping the latest used instead
//! would not be hit more often, but would decode a whole file for each miss.

use crate::boxes::{line_starts, unflat};
use crate::normalise::{Normalisation, NormalisationConfig, Statistics};
use crate::spool::{Spool, SpoolWriter};
use crate::{Error, Result};
use limpid_io::{Axes, Axis, Data, OpenOptions, Region, VolumeInfo, VolumeReader};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Readers kept open, well below the number of files that a system lets a process open.
const OPEN: usize = 256;

/// Values read at a time when a whole file is walked that is not kept in memory.
const PIECE: usize = 1 << 24;

/// An image file, or a folder or pattern of slices as one volume, and the frames in it.
pub struct ImageFile {
    /// Where it is.
    pub path: PathBuf,
    /// What the file says about itself.
    pub info: VolumeInfo,
    /// Size of a frame on each spatial axis.
    pub spatial: Vec<usize>,
    /// Channels of a frame.
    pub channels: usize,
    /// The files it is read from: itself, or its slices.
    pub(crate) parts: Vec<PathBuf>,
    options: OpenOptions,
    keep: bool,
    kept: Mutex<Option<Arc<Vec<f32>>>>,
    spool: Option<Spool>,
    reader: Option<Box<dyn VolumeReader>>,
}

impl ImageFile {
    /// Opens a file for frames of `dims` spatial axes, of which nothing is kept in memory; a folder
    /// or pattern is one volume, whose slices are the files in it. `axes` are the axes in the order
    /// of the file, where its metadata does not say.
    ///
    /// # Errors
    /// The file cannot be read, or is not of that many dimensions; slices are not alike.
    pub fn open(path: &Path, dims: usize, axes: Option<&Axes>) -> Result<Self> {
        let options = OpenOptions { axes: axes.cloned(), array: None };
        let collection = limpid_io::is_collection(path);
        let parts = if collection { limpid_io::list_images(path)? } else { vec![path.to_owned()] };
        let reader = if collection {
            limpid_io::open_stack(&parts)?
        } else {
            limpid_io::open_with(path, &options)?
        };
        let info = reader.info().clone();
        if dims == 3 && info.axes.position(Axis::Z).is_none() {
            return Err(Error::file(
                path,
                format!(
                    "the image has the axes {} and no Z, but `dims = 3` asks for volumes",
                    info.axes
                ),
                "set `dims = 2`, or give the order of the file's axes, as in `axes = \"ZYX\"`",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            spatial: spatial(&info, dims),
            channels: info.size(Axis::C),
            info,
            parts,
            options,
            keep: false,
            kept: Mutex::new(None),
            spool: None,
            reader: Some(reader),
        })
    }

    /// Bytes of the decoded file.
    pub(crate) fn bytes(&self) -> u64 {
        self.info.samples() as u64 * size_of::<f32>() as u64
    }

    /// Whether its slices are files of their own.
    fn is_stack(&self) -> bool {
        self.parts != [self.path.as_path()]
    }

    /// Whether every region read decodes the file from its start.
    pub(crate) fn is_slow(&self) -> bool {
        let whole = |path: &PathBuf| {
            let name = path.to_string_lossy().to_lowercase();
            [".gz", ".npz", ".png", ".jpg", ".jpeg"].iter().any(|ending| name.ends_with(ending))
        };
        !self.keep && self.spool.is_none() && self.parts.iter().any(whole)
    }

    /// Decodes a slow file once, so that its regions can be read in any order: into memory if it
    /// takes no more than `most` bytes, else into a temporary file. Others stay as they are.
    ///
    /// # Errors
    /// The file cannot be read, or the temporary file not be written.
    pub(crate) fn decode_once(&mut self, most: u64) -> Result<()> {
        if !self.is_slow() {
            return Ok(());
        }
        if self.bytes() <= most {
            self.keep = true;
            return Ok(());
        }
        let failed = |e: std::io::Error| self.spool_error(&e);
        let mut writer = SpoolWriter::new().map_err(failed)?;
        let shape = &self.info.shape;
        for region in pieces(shape) {
            writer.add(&self.read_region(&region)?).map_err(failed)?;
        }
        let spool = writer.finish(shape).map_err(failed)?;
        self.spool = Some(spool);
        Ok(())
    }

    fn spool_error(&self, error: &std::io::Error) -> Error {
        Error::file(
            &self.path,
            format!(
                "the decoded image of {} MiB cannot be kept in `{}`: {error}",
                self.bytes().div_ceil(1 << 20),
                std::env::temp_dir().display()
            ),
            "free space there, name another folder in `TMPDIR`, or save the image uncompressed",
        )
    }

    /// The axes that frames lie along, slowest first, and how many there are on each.
    pub fn leading(&self) -> Vec<(Axis, usize)> {
        leading(&self.info, self.spatial.len())
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.leading().iter().map(|(_, n)| n).product()
    }

    /// A region of a frame, `[channels, size…]`, row-major.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, frame: usize, start: &[usize], size: &[usize]) -> Result<Vec<f32>> {
        let region = self.region(frame, start, size);
        if self.keep {
            let all = self.whole()?;
            return Ok(cut(&all, &self.info.shape, &region));
        }
        if let Some(spool) = &self.spool {
            return spool.read(&region).map_err(|e| self.spool_error(&e));
        }
        self.read_region(&region)
    }

    /// A whole frame.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_frame(&self, frame: usize) -> Result<Vec<f32>> {
        self.read(frame, &vec![0; self.spatial.len()], &self.spatial)
    }

    /// Hands a part of a frame to `piece` in slabs along its first axis: first row, and values.
    ///
    /// # Errors
    /// The file cannot be read, or whatever `piece` returns.
    pub(crate) fn walk_frame(
        &self,
        frame: usize,
        start: &[usize],
        size: &[usize],
        mut piece: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let row = self.channels * size[1..].iter().product::<usize>();
        let rows = (PIECE / row.max(1)).clamp(1, size[0]);
        for first in (0..size[0]).step_by(rows) {
            let (mut from, mut part) = (start.to_vec(), size.to_vec());
            from[0] += first;
            part[0] = rows.min(size[0] - first);
            piece(from[0], &self.read(frame, &from, &part)?)?;
        }
        Ok(())
    }

    /// Hands every frame to `piece` in slabs along its first axis: frame, first row, and values.
    fn walk(&self, mut piece: impl FnMut(usize, usize, &[f32]) -> Result<()>) -> Result<()> {
        let start = vec![0; self.spatial.len()];
        (0..self.frames()).try_for_each(|frame| {
            self.walk_frame(frame, &start, &self.spatial, |row, values| piece(frame, row, values))
        })
    }

    /// The normalisation for this image alone.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn fit(&self, config: &NormalisationConfig) -> Result<Normalisation> {
        let expected = self.info.samples() / self.channels;
        let mut statistics = Statistics::binned(self.channels, expected, config.bin());
        if config.learns() {
            self.walk(|_, _, values| {
                statistics.add_image(values, &self.spatial);
                Ok(())
            })?;
        }
        Ok(config.fit_statistics(&statistics))
    }

    /// Checks that every value is finite.
    ///
    /// # Errors
    /// Names the file and the first place that holds NaN or infinity.
    pub fn check_finite(&self) -> Result<()> {
        if !self.info.dtype.is_float() {
            return Ok(());
        }
        self.walk(|frame, first, values| {
            let Some(at) = values.iter().position(|v| !v.is_finite()) else { return Ok(()) };
            let mut slab = self.spatial.clone();
            slab[0] = values.len() / (self.channels * self.spatial[1..].iter().product::<usize>());
            let mut place = unflat(at, &slab);
            place[0] += first;
            let mut index = self.region(frame, &place, &vec![1; place.len()]).start;
            if let Some(c) = self.info.axes.position(Axis::C) {
                index[c] = at / slab.iter().product::<usize>();
            }
            let names = self.info.axes.as_slice().iter().zip(&index);
            let names: Vec<String> = names.map(|(axis, i)| format!("{axis:?}={i}")).collect();
            Err(Error::file(
                &self.path,
                format!("the value at {} is {}", names.join(" "), values[at]),
                "mend the file or leave it out: one such value spoils a whole training",
            ))
        })
    }

    /// Checks that every value may be a number of counts.
    ///
    /// # Errors
    /// Names the file and a value that is negative or not whole.
    pub(crate) fn check_counts(&self) -> Result<()> {
        self.walk(|_, _, values| {
            match values.iter().find(|v| **v < 0.0 || (*v - v.round()).abs() > 1e-3) {
                None => Ok(()),
                Some(bad) => Err(Error::file(
                    &self.path,
                    format!("thinning needs counts, but there is a value of {bad}"),
                    "give images of raw counts, or simulate `poisson` noise instead",
                )),
            }
        })
    }

    fn region(&self, frame: usize, start: &[usize], size: &[usize]) -> Region {
        let mut rest = frame;
        let (mut s, mut n) = (Vec::new(), Vec::new());
        let dims = start.len();
        for axis in self.info.axes.as_slice().iter().rev() {
            let (first, count) = match axis {
                Axis::X => (start[dims - 1], size[dims - 1]),
                Axis::Y => (start[dims - 2], size[dims - 2]),
                Axis::Z if dims == 3 => (start[0], size[0]),
                Axis::C => (0, self.channels),
                Axis::Z | Axis::T => {
                    let count = self.info.size(*axis);
                    let at = rest % count;
                    rest /= count;
                    (at, 1)
                }
            };
            s.insert(0, first);
            n.insert(0, count);
        }
        Region { start: s, size: n }
    }

    fn read_region(&self, region: &Region) -> Result<Vec<f32>> {
        let data = match &self.reader {
            Some(reader) => reader.read_region(region)?,
            None => limpid_io::open_with(&self.path, &self.options)?.read_region(region)?,
        };
        Ok(match data {
            Data::F32(values) => values,
            other => other.to_f32(),
        })
    }

    /// Decodes a file that is kept in memory now, and not in the midst of other work: the threads that
    /// wait for it meanwhile would be those that it is to be shared with.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn decode(&self) -> Result<()> {
        if self.keep { self.whole().map(drop) } else { Ok(()) }
    }

    /// All values of a file that is kept in memory.
    fn whole(&self) -> Result<Arc<Vec<f32>>> {
        // one thread decodes, the others wait for it
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = &*kept {
            return Ok(all.clone());
        }
        let all = Arc::new(self.read_region(&Region::full(&self.info.shape))?);
        *kept = Some(all.clone());
        Ok(all)
    }
}

/// Size of a frame of `dims` spatial axes.
pub(crate) fn spatial(info: &VolumeInfo, dims: usize) -> Vec<usize> {
    let axes = [Axis::Z, Axis::Y, Axis::X];
    axes[3 - dims.clamp(2, 3)..].iter().map(|a| info.size(*a)).collect()
}

/// The axes that frames of `dims` spatial axes lie along, slowest first, and how many there are on
/// each.
pub(crate) fn leading(info: &VolumeInfo, dims: usize) -> Vec<(Axis, usize)> {
    let leading = |axis: &Axis| match axis {
        Axis::T => true,
        Axis::Z => dims == 2,
        _ => false,
    };
    let axes = info.axes.as_slice().iter();
    axes.filter(|a| leading(a)).map(|a| (*a, info.size(*a))).collect()
}

/// Opens all files, in parallel, and decides which are kept in memory: in order, while the bytes
/// that are `left` last; what they take is subtracted.
///
/// # Errors
/// The first file that cannot be used.
pub(crate) fn open_all(
    paths: &[PathBuf],
    dims: usize,
    axes: Option<&Axes>,
    left: &mut u64,
) -> Result<Vec<ImageFile>> {
    let open = |path: &PathBuf| {
        let mut file = ImageFile::open(path, dims, axes)?;
        if !file.is_stack() {
            file.reader = None; // few may be open at a time; a stack keeps none open
        }
        Ok(file)
    };
    let mut files = paths.par_iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut open = 0;
    for file in &mut files {
        let bytes = file.bytes();
        file.keep = bytes <= *left;
        if file.keep {
            *left -= bytes;
        } else if open < OPEN && !file.is_stack() {
            file.reader = Some(limpid_io::open_with(&file.path, &file.options)?);
            open += 1;
        }
    }
    Ok(files)
}

/// An image in pieces of about [`PIECE`] values, in the order of its file: single indices along the
/// slow axes, a range along the next, all of the rest.
fn pieces(shape: &[usize]) -> Vec<Region> {
    let mut inner = 1;
    let mut axis = shape.len() - 1;
    while axis > 0 && inner * shape[axis] <= PIECE {
        inner *= shape[axis];
        axis -= 1;
    }
    let step = (PIECE / inner).clamp(1, shape[axis]);
    let outer: usize = shape[..axis].iter().product();
    let mut regions = Vec::new();
    for place in (0..outer).map(|i| unflat(i, &shape[..axis])) {
        for first in (0..shape[axis]).step_by(step) {
            let mut region = Region::full(shape);
            region.start[..axis].copy_from_slice(&place);
            region.size[..axis].fill(1);
            region.start[axis] = first;
            region.size[axis] = step.min(shape[axis] - first);
            regions.push(region);
        }
    }
    regions
}

/// A box cut out of a row-major array.
fn cut(data: &[f32], shape: &[usize], region: &Region) -> Vec<f32> {
    let width = region.size[region.size.len() - 1];
    let mut out = Vec::with_capacity(region.size.iter().product());
    for line in line_starts(shape, &region.start, &region.size) {
        out.extend_from_slice(&data[line..line + width]);
    }
    out
}
