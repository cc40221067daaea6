//! Weighted mean of overlapping windows in a slab that rolls along the first spatial axis, so that
//! memory does not grow with the volume.

use super::Slabs;
use crate::BoxError;
use rayon::prelude::*;
use std::ops::Range;

/// Values handed out at a time, at least one row.
const PIECE: usize = 1 << 22;

/// Running weighted means over the rows that are still open, in a ring: row `z` lies in slot
/// `z % capacity`.
///
/// A window moves the mean by `(value - mean)·weight/weights so far`. Equal values move nothing,
/// so an identity model returns its input bit for bit although means are kept in f32.
pub(super) struct RollingBlend {
    channels: usize,
    /// Extent of the first spatial axis, and voxels in one of its rows.
    rows: usize,
    row: usize,
    rest: Vec<usize>,
    first_open: usize,
    capacity: usize,
    /// `[channels, capacity, rest…]`.
    mean: Vec<f32>,
    /// Weights so far, `[capacity, rest…]`.
    weight: Vec<f32>,
    out: Vec<f32>,
}

/// A window to be blended.
pub(super) struct Window<'a> {
    /// Where it starts in the image; may be outside.
    pub(super) start: &'a [isize],
    /// Its size on every spatial axis.
    pub(super) size: &'a [usize],
    /// Its rows that count.
    pub(super) rows: Range<usize>,
    /// `[channels, size…]`.
    pub(super) data: &'a [f32],
    /// `[size…]`; positions of weight 0 are left out.
    pub(super) weight: &'a [f32],
}

impl RollingBlend {
    /// For an image `[channels, spatial…]` of which windows keep `capacity` rows open.
    pub(super) fn new(channels: usize, spatial: &[usize], capacity: usize) -> Self {
        let row: usize = spatial[1..].iter().product();
        let capacity = capacity.clamp(1, spatial[0]);
        Self {
            channels,
            rows: spatial[0],
            row,
            rest: spatial[1..].to_vec(),
            first_open: 0,
            capacity,
            mean: vec![0.0; channels * capacity * row],
            weight: vec![0.0; capacity * row],
            out: Vec::new(),
        }
    }

    /// Bytes held by such a blend.
    pub(super) fn bytes(channels: usize, spatial: &[usize], capacity: usize) -> u64 {
        let row = spatial[1..].iter().fold(1, |p: u64, &n| p.saturating_mul(n as u64));
        let (channels, capacity) = (channels as u64, capacity.clamp(1, spatial[0]) as u64);
        let piece = (PIECE as u64 / channels.saturating_mul(row).max(1)).clamp(1, capacity);
        let rows = (channels + 1) * capacity + channels * piece;
        rows.saturating_mul(row).saturating_mul(size_of::<f32>() as u64)
    }

    /// Adds a window; the part outside the image is left out.
    ///
    /// Windows must come in order of their start along the first axis.
    pub(super) fn add(&mut self, window: &Window, sink: &mut dyn Slabs) -> Result<(), BoxError> {
        let Window { start, size, data, weight, .. } = *window;
        let inside = |p: usize| ((start[0] + p as isize).max(0) as usize).min(self.rows);
        let (first, end) = (inside(window.rows.start), inside(window.rows.end));
        self.emit(first, sink)?;
        let (row, capacity) = (self.row, self.capacity);
        let voxels: usize = size.iter().product();
        let window_row: usize = size[1..].iter().product();
        let runs = runs(&start[1..], &size[1..], &self.rest);
        // where the image row of a slot begins in the window
        let begin = |slot: usize| {
            let z = first + (slot + capacity - first % capacity) % capacity;
            (z < end).then(|| (z as isize - start[0]) as usize * window_row)
        };
        self.weight.par_chunks_mut(row).enumerate().for_each(|(slot, line)| {
            let Some(from) = begin(slot) else { return };
            for &(to, src, len) in &runs {
                let added = &weight[from + src..][..len];
                line[to..to + len].iter_mut().zip(added).for_each(|(sum, w)| *sum += w);
            }
        });
        let so_far = &self.weight;
        self.mean.par_chunks_mut(row).enumerate().for_each(|(i, line)| {
            let (c, slot) = (i / capacity, i % capacity);
            let Some(from) = begin(slot) else { return };
            for &(to, src, len) in &runs {
                let sums = &so_far[slot * row + to..][..len];
                let weights = &weight[from + src..][..len];
                let values = &data[c * voxels + from + src..][..len];
                let means = &mut line[to..to + len];
                for (((mean, value), w), sum) in means.iter_mut().zip(values).zip(weights).zip(sums)
                {
                    if w == sum {
                        *mean = if *w > 0.0 { *value } else { *mean };
                    } else if *w > 0.0 {
                        *mean += (value - *mean) * (w / sum);
                    }
                }
            }
        });
        Ok(())
    }

    /// Hands out the rows below `until`, which no later window touches.
    fn emit(&mut self, until: usize, sink: &mut dyn Slabs) -> Result<(), BoxError> {
        let (row, capacity) = (self.row, self.capacity);
        let piece = (PIECE / (self.channels * row).max(1)).clamp(1, capacity);
        while self.first_open < until {
            let start = self.first_open;
            let rows = start..until.min(start + piece);
            self.out.clear();
            for c in 0..self.channels {
                for z in rows.clone() {
                    let at = (c * capacity + z % capacity) * row;
                    self.out.extend_from_slice(&self.mean[at..at + row]);
                }
            }
            for z in rows.clone() {
                let at = z % capacity * row;
                self.weight[at..at + row].fill(0.0);
            }
            self.first_open = rows.end;
            sink.slab(start, rows.len(), &self.out)?;
        }
        Ok(())
    }

    /// Hands out the rest.
    pub(super) fn finish(mut self, sink: &mut dyn Slabs) -> Result<(), BoxError> {
        self.emit(self.rows, sink)
    }
}

/// Contiguous runs `(offset in the row, offset in the window row, length)` of a window clipped to
/// the image, over the axes after the first.
fn runs(start: &[isize], size: &[usize], image: &[usize]) -> Vec<(usize, usize, usize)> {
    let Some(last) = size.len().checked_sub(1) else {
        return vec![(0, 0, 1)];
    };
    let clip = |axis: usize| {
        let from = start[axis].max(0) as usize;
        let to = ((start[axis] + size[axis] as isize).max(0) as usize).min(image[axis]);
        from..to.max(from)
    };
    let mut heads = vec![(0usize, 0usize)];
    for axis in 0..last {
        heads = heads
            .iter()
            .flat_map(|&(to, src)| {
                clip(axis).map(move |p| {
                    let inside = (p as isize - start[axis]) as usize;
                    (to * image[axis] + p, src * size[axis] + inside)
                })
            })
            .collect();
    }
    let x = clip(last);
    let inside = (x.start as isize - start[last]) as usize;
    heads
        .into_iter()
        .map(|(to, src)| (to * image[last] + x.start, src * size[last] + inside, x.len()))
        .collect()
}
