//! Prediction of images of any size through windows, in bounded memory.
//!
//! An [`Inferencer`] walks the windows of a [`Plan`] over a region [`Source`], asks a closure for
//! each batch of them, blends the results in a slab that rolls along the first spatial axis, and
//! hands finished slabs to a [`Slabs`] writer. An identity model returns its input bit for bit.

mod blend;
mod plan;
mod size;
mod tta;
pub mod weight;
pub mod window;

pub use plan::{Blend, Needs, Padding, Plan, TileConfig};
pub use tta::{Orientation, Tta, averaged, predictions};

use crate::{BoxError, Error, Result};
use blend::{RollingBlend, Window};
use candle_core::{DType, Device, Tensor};

/// An image that is read region by region.
pub trait Source {
    /// `[channels, spatial…]`.
    fn shape(&self) -> &[usize];

    /// All channels of a region, row-major `[channels, size…]`, normalised for the network.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read(&self, start: &[usize], size: &[usize]) -> Result<Vec<f32>, BoxError>;
}

/// Takes an image slab by slab along its first spatial axis.
pub trait Slabs {
    /// Rows `start..start + size` of the first spatial axis, `[channels, size, rest…]`.
    ///
    /// # Errors
    /// If they cannot be written.
    fn slab(&mut self, start: usize, size: usize, data: &[f32]) -> Result<(), BoxError>;
}

/// Runs a network over an image of any size.
#[derive(Clone, Debug)]
pub struct Inferencer {
    /// Windows and weights.
    pub plan: Plan,
    /// Also hand out the standard deviation over the orientations, as further channels after the
    /// mean.
    pub deviation: bool,
    /// Where the network runs.
    pub device: Device,
}

impl Inferencer {
    /// Predicts the whole image; `progress` is told windows done and windows in all.
    ///
    /// `predict` maps `[N, C, window…]` to `[N, C', window…]`.
    ///
    /// # Errors
    /// [`Error::Data`] from source and sink, those of `predict`, and [`Error::Setting`] if the
    /// network changes the window size.
    pub fn run(
        &self,
        source: &dyn Source,
        sink: &mut dyn Slabs,
        mut predict: impl FnMut(&Tensor) -> Result<Tensor>,
        progress: impl FnMut(u64, u64),
    ) -> Result<()> {
        self.run_at(source, sink, |x, _| predict(x), progress)
    }

    /// As [`Inferencer::run`]; `predict` also gets where each window of its batch starts in the
    /// image, below 0 where it was padded. Other orientations of a window have its place.
    ///
    /// # Errors
    /// As [`Inferencer::run`].
    pub fn run_at(
        &self,
        source: &dyn Source,
        sink: &mut dyn Slabs,
        mut predict: impl FnMut(&Tensor, &[Vec<isize>]) -> Result<Tensor>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<()> {
        let plan = &self.plan;
        let channels = source.shape()[0];
        let mut blend: Option<RollingBlend> = None;
        let mut done = 0;
        for group in plan.starts.chunks(plan.batch) {
            let mut data =
                Vec::with_capacity(group.len() * channels * plan.size.iter().product::<usize>());
            for start in group {
                data.extend(self.window(source, start)?);
            }
            let shape = [&[group.len(), channels], plan.size.as_slice()].concat();
            let x = Tensor::from_vec(data, shape, &self.device)?;
            let places: Vec<Vec<isize>> = group
                .iter()
                .map(|start| {
                    let axes = start.iter().zip(&plan.before);
                    axes.map(|(s, b)| *s as isize - *b as isize).collect()
                })
                .collect();
            let y = self.oriented(&x, &mut |x: &Tensor| predict(x, &places))?;
            if y.rank() != x.rank() || y.dims()[2..] != plan.size {
                return Err(Error::Setting {
                    message: format!(
                        "the network turned a window of {:?} into {:?}",
                        plan.size,
                        &y.dims()[2.min(y.rank())..]
                    ),
                    hint: "tiled prediction needs a network that keeps the image size".into(),
                });
            }
            let out_channels = y.dims()[1];
            let blend = blend.get_or_insert_with(|| {
                RollingBlend::new(out_channels, &plan.image, plan.open_rows())
            });
            for (i, start) in group.iter().enumerate() {
                let values = y.get(i)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                let window = Window {
                    start: &places[i],
                    size: &plan.size,
                    rows: plan.kept_rows(start[0]),
                    data: &values,
                    weight: &plan.weight(start),
                };
                blend.add(&window, sink).map_err(Error::Data)?;
            }
            done += group.len() as u64;
            progress(done, plan.starts.len() as u64);
        }
        match blend {
            Some(blend) => blend.finish(sink).map_err(Error::Data),
            None => Ok(()),
        }
    }

    fn oriented(
        &self,
        x: &Tensor,
        predict: &mut impl FnMut(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.plan.tta == Tta::None && !self.deviation {
            return predict(x);
        }
        let (mean, deviation) = averaged(x, self.plan.tta, self.deviation, predict)?;
        Ok(match deviation {
            Some(deviation) => Tensor::cat(&[mean, deviation], 1)?,
            None => mean,
        })
    }

    /// Reads the window at `start` of the padded image.
    fn window(&self, source: &dyn Source, start: &[usize]) -> Result<Vec<f32>> {
        let plan = &self.plan;
        let channels = source.shape()[0];
        // the pixels of the image that this window needs, per axis
        let axes: Vec<Vec<Option<usize>>> = (0..start.len())
            .map(|a| {
                (0..plan.size[a])
                    .map(|i| {
                        let p = (start[a] + i) as isize - plan.before[a] as isize;
                        source_pixel(p, plan.image[a], plan.padding)
                    })
                    .collect()
            })
            .collect();
        let bounds: Vec<(usize, usize)> = axes
            .iter()
            .map(|axis| {
                let used = axis.iter().flatten();
                let low = used.clone().min().copied().unwrap_or(0);
                (low, used.max().map_or(1, |h| h + 1 - low))
            })
            .collect();
        let (from, size): (Vec<usize>, Vec<usize>) = bounds.into_iter().unzip();
        let region = source.read(&from, &size).map_err(Error::Data)?;
        if size == plan.size {
            let straight = axes
                .iter()
                .zip(&from)
                .all(|(axis, f)| axis.iter().enumerate().all(|(i, p)| *p == Some(f + i)));
            if straight {
                return Ok(region);
            }
        }
        // gather with padding, axis by axis index tables
        let voxels: usize = size.iter().product();
        let mut out = Vec::with_capacity(channels * plan.size.iter().product::<usize>());
        for c in 0..channels {
            let image = &region[c * voxels..(c + 1) * voxels];
            let mut offsets: Vec<Option<usize>> = vec![Some(0)];
            for a in 0..axes.len() {
                offsets = offsets
                    .iter()
                    .flat_map(|o| axes[a].iter().map(|p| Some((*o)? * size[a] + ((*p)? - from[a]))))
                    .collect();
            }
            out.extend(offsets.into_iter().map(|o| o.map_or(0.0, |o| image[o])));
        }
        Ok(out)
    }
}

/// The image pixel that a padded position shows; none for zero padding.
fn source_pixel(p: isize, n: usize, padding: Padding) -> Option<usize> {
    match padding {
        Padding::Zero => usize::try_from(p).ok().filter(|p| *p < n),
        Padding::Reflect => Some(mirrored(p, n)),
    }
}

/// The pixel of a line of `n` that position `p`, inside or outside, shows: the line is mirrored about
/// its border pixels, as often as needed where it is shorter than what is added.
#[must_use]
pub fn mirrored(p: isize, n: usize) -> usize {
    let n = n as isize;
    let period = (2 * (n - 1)).max(1);
    let m = p.rem_euclid(period);
    (if m < n { m } else { period - m }) as usize
}

/// A whole image in memory, `[channels, spatial…]` row-major.
#[derive(Clone, Debug)]
pub struct InMemory {
    /// `[channels, spatial…]`.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

impl Source for InMemory {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read(&self, start: &[usize], size: &[usize]) -> Result<Vec<f32>, BoxError> {
        let spatial = &self.shape[1..];
        let voxels: usize = spatial.iter().product();
        let mut out = Vec::with_capacity(self.shape[0] * size.iter().product::<usize>());
        for c in 0..self.shape[0] {
            let mut offsets = vec![c * voxels];
            let mut stride = voxels;
            for a in 0..spatial.len() {
                stride /= spatial[a];
                if a + 1 < spatial.len() {
                    offsets = offsets
                        .iter()
                        .flat_map(|o| (0..size[a]).map(move |i| o + (start[a] + i) * stride))
                        .collect();
                }
            }
            let last = spatial.len() - 1;
            for o in offsets {
                out.extend_from_slice(&self.data[o + start[last]..o + start[last] + size[last]]);
            }
        }
        Ok(out)
    }
}

/// Collects slabs into a whole image in memory.
#[derive(Clone, Debug, Default)]
pub struct Collect {
    slabs: Vec<(usize, Vec<f32>)>,
}

impl Slabs for Collect {
    fn slab(&mut self, _: usize, size: usize, data: &[f32]) -> Result<(), BoxError> {
        self.slabs.push((size, data.to_vec()));
        Ok(())
    }
}

impl Collect {
    /// The image of `voxels` spatial pixels and `rows` rows: its channels and its data.
    #[must_use]
    pub fn image(&self, rows: usize, voxels: usize) -> InMemory {
        let row = voxels / rows.max(1);
        let channels = self.slabs.first().map_or(0, |(n, d)| d.len() / (n * row).max(1));
        let mut data = Vec::with_capacity(channels * voxels);
        for c in 0..channels {
            for (n, slab) in &self.slabs {
                data.extend_from_slice(&slab[c * n * row..(c + 1) * n * row]);
            }
        }
        InMemory { shape: vec![channels, rows, row], data }
    }
}

#[cfg(test)]
mod tests;
