//! Prediction from file to file: an image as a source of normalised regions, and its restored
//! version as a writer of slabs, in the unit, type and geometry of the original or, for layers
//! between slices and enlarged images, of a finer one.

mod enlarged;
mod journal;
mod layers;

pub use enlarged::{Enlarged, enlarged_info};
pub use journal::Journal;
pub use layers::{LayerSlabs, Outer, Pair, Run, layered_info, taken_info};

use crate::images::{self, ImageFile};
use crate::normalise::{Normalisation, Normaliser, Normalisers};
use crate::{Error, Result};
use limpid_engine::BoxError;
use limpid_engine::infer::{Slabs, Source};
use limpid_io::{Axes, Axis, DType, Data, VolumeInfo, VolumeWriter, WriteOptions};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Bytes of a decoded image that are kept in memory, where the file cannot be read by region.
const DECODED: u64 = 4 << 30;

/// An image to restore.
pub struct Input {
    file: ImageFile,
    normalisation: Normalisation,
    shape: Vec<usize>,
}

/// A frame of an [`Input`]: a slice or time point, `[channels, spatial…]`.
pub struct Frame<'a> {
    input: &'a Input,
    index: usize,
}

impl Input {
    /// Opens an image for a network of `dims` spatial axes; a folder or pattern is one volume, whose
    /// slices are the files in it. `axes` are those of the file in its order, where it does not say.
    /// If each image is normalised for itself, it is read once here; files that can only be decoded
    /// from their start are decoded once, into memory or into a temporary file.
    ///
    /// # Errors
    /// The file cannot be read, does not fit `dims`, or has not the channels that were normalised
    /// in training.
    pub fn open(
        path: &Path,
        dims: usize,
        axes: Option<&Axes>,
        normalisers: &Normalisers,
    ) -> Result<Self> {
        Self::open_within(path, dims, axes, normalisers, DECODED)
    }

    /// [`open`](Self::open), with at most `decoded` bytes in memory.
    fn open_within(
        path: &Path,
        dims: usize,
        axes: Option<&Axes>,
        normalisers: &Normalisers,
        decoded: u64,
    ) -> Result<Self> {
        let mut file = ImageFile::open(path, dims, axes)?;
        file.decode_once(decoded)?;
        let normalisation = match &normalisers.input {
            Normaliser::Dataset { normalisation } => normalisation.clone(),
            Normaliser::Image { normalisation } => file.fit(normalisation)?,
        };
        let expected = normalisation.channels.len();
        if expected > 1 && expected != file.channels {
            return Err(Error::file(
                path,
                format!(
                    "the image has {} channels (axes {}), the model was trained on {expected}",
                    file.channels, file.info.axes
                ),
                "give an image of the kind the model was trained on",
            ));
        }
        let shape = [&[file.channels], file.spatial.as_slice()].concat();
        Ok(Self { file, normalisation, shape })
    }

    /// What the file says about itself.
    #[must_use]
    pub fn info(&self) -> &VolumeInfo {
        &self.file.info
    }

    /// `[channels, spatial…]` of every frame.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of frames, to be restored one after the other.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.file.frames()
    }

    /// The way back of restored values to the unit of the file.
    #[must_use]
    pub fn restored_normalisation(&self, normalisers: &Normalisers) -> Normalisation {
        normalisers.target.clone().unwrap_or_else(|| self.normalisation.clone())
    }

    /// One frame.
    #[must_use]
    pub fn frame(&self, index: usize) -> Frame<'_> {
        Frame { input: self, index }
    }
}

impl Source for Frame<'_> {
    fn shape(&self) -> &[usize] {
        &self.input.shape
    }

    fn read(&self, start: &[usize], size: &[usize]) -> Result<Vec<f32>, BoxError> {
        let mut values = self.input.file.read(self.index, start, size)?;
        if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
            return Err(Box::new(Error::file(
                &self.input.file.path,
                format!("a value near {start:?} is {}", values[bad]),
                "replace such values: the network would spread them over their surroundings",
            )));
        }
        self.input.normalisation.apply(&mut values);
        Ok(values)
    }
}

/// A restored image being written. The file appears with [`finish`](Self::finish); dropped before,
/// nothing stays.
pub struct Output {
    writer: Box<dyn VolumeWriter>,
    path: PathBuf,
    normalisation: Normalisation,
    info: VolumeInfo,
    channels: usize,
    spatial: Vec<usize>,
    /// Values `[channels, frames, spatial…]` of one index along the slowest axis of the file, or of
    /// the whole file if that is the channel; nothing if slabs go straight to the file.
    unit: Option<Vec<f32>>,
    /// Frames in a unit.
    inner: usize,
    /// Frame and row expected next.
    next: (usize, usize),
    clipped: u64,
}

/// Takes the slabs of one frame of an [`Output`].
pub struct OutputFrame<'a> {
    output: &'a mut Output,
    index: usize,
}

impl Output {
    /// Starts the restored version of `input`, of `channels` channels a frame. Without `dtype` it
    /// has the type of the input.
    ///
    /// # Errors
    /// The format cannot hold the image, or the folder cannot be written.
    pub fn create(
        path: &Path,
        input: &Input,
        normalisers: &Normalisers,
        channels: usize,
        dtype: Option<DType>,
        options: &WriteOptions,
    ) -> Result<Self> {
        let normalisation = input.restored_normalisation(normalisers);
        let mut info = input.info().clone();
        info.dtype = dtype.unwrap_or(info.dtype);
        Self::create_with(path, &info, input.file.spatial.len(), normalisation, channels, options)
    }

    /// Starts an image of a geometry of its own: `info` but for the channels, of which a frame of
    /// `dims` spatial axes has `channels`; `normalisation` is that of the values it will be given.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(
        path: &Path,
        info: &VolumeInfo,
        dims: usize,
        normalisation: Normalisation,
        channels: usize,
        options: &WriteOptions,
    ) -> Result<Self> {
        let expected = normalisation.channels.len();
        if expected > 1 && expected != channels {
            return Err(Error::file(
                path,
                format!("the network gives {channels} channels, its normalisation has {expected}"),
                "use the normalisation that the network was trained with",
            ));
        }
        let info = with_channels(info, channels)?;
        let writer = limpid_io::create(path, &info, options)?;
        let (leading, spatial) = (images::leading(&info, dims), images::spatial(&info, dims));
        let frames: usize = leading.iter().map(|(_, n)| n).product();
        let slowest = info.axes.as_slice()[0];
        let (inner, buffered) = match leading.first() {
            Some((axis, count)) if *axis == slowest => (frames / count, true),
            _ => (frames, slowest == Axis::C),
        };
        let values = channels * inner * spatial.iter().product::<usize>();
        Ok(Self {
            writer,
            path: path.to_owned(),
            normalisation,
            info,
            channels,
            spatial,
            unit: buffered.then(|| vec![0.0; values]),
            inner,
            next: (0, 0),
            clipped: 0,
        })
    }

    /// The writer of a frame; frames come in order.
    pub fn frame(&mut self, index: usize) -> OutputFrame<'_> {
        OutputFrame { output: self, index }
    }

    /// Completes the file, and says how many values did not fit its type and were clipped.
    ///
    /// # Errors
    /// Slabs are missing, or the disk is full.
    pub fn finish(self) -> Result<u64> {
        self.writer.finish()?;
        Ok(self.clipped)
    }

    fn write(&mut self, first: usize, values: &[f32]) -> Result<()> {
        let (data, clipped) = Data::from_f32(values, self.info.dtype);
        self.clipped += clipped;
        Ok(self.writer.write_slab(first, &data)?)
    }
}

impl Slabs for OutputFrame<'_> {
    fn slab(&mut self, start: usize, size: usize, data: &[f32]) -> Result<(), BoxError> {
        let mut values = data.to_vec();
        self.output.normalisation.invert(&mut values);
        Ok(self.put(start, size, &values)?)
    }
}

impl OutputFrame<'_> {
    /// Takes a slab that is in the unit of the file.
    fn put(&mut self, start: usize, size: usize, data: &[f32]) -> Result<()> {
        let (index, out) = (self.index, &mut *self.output);
        let row: usize = out.spatial[1..].iter().product();
        if (index, start) != out.next || data.len() != out.channels * size * row {
            return Err(Error::file(
                &out.path,
                format!(
                    "{} values for {size} rows from {start} of frame {index} do not continue the image: expected frame {} from row {}, {} values a row",
                    data.len(),
                    out.next.0,
                    out.next.1,
                    out.channels * row
                ),
                "this is a bug in the program that writes the image",
            ));
        }
        let done = start + size == out.spatial[0];
        out.next = if done { (index + 1, 0) } else { (index, start + size) };
        let Some(mut unit) = out.unit.take() else {
            return out.write(start, data);
        };
        let place = index % out.inner;
        for (c, rows) in data.chunks_exact(size * row).enumerate() {
            let at = ((c * out.inner + place) * out.spatial[0] + start) * row;
            unit[at..at + rows.len()].copy_from_slice(rows);
        }
        if done && place + 1 == out.inner {
            out.write(index / out.inner, &unit)?;
        }
        out.unit = Some(unit);
        Ok(())
    }
}

/// The same image with another number of channels.
fn with_channels(info: &VolumeInfo, channels: usize) -> Result<VolumeInfo> {
    let mut info = info.clone();
    if info.size(Axis::C) == channels {
        return Ok(info);
    }
    let mut names = info.axes.to_string();
    if let Some(at) = info.axes.position(Axis::C) {
        names.remove(at);
        info.shape.remove(at);
        if let Some(spacing) = &mut info.spacing {
            spacing.remove(at);
        }
    }
    if channels > 1 {
        let at = usize::from(names.starts_with('T'));
        names.insert(at, 'C');
        info.shape.insert(at, channels);
        if let Some(spacing) = &mut info.spacing {
            spacing.insert(at, 0.0);
        }
    }
    info.axes = names.parse()?;
    info.meta.rgb = false;
    Ok(info)
}
