//! Weighted accumulation of windows in a slab that rolls along the first spatial axis, so that
//! memory does not grow with the volume.

use super::Slabs;
use crate::BoxError;
use rayon::prelude::*;

/// Sums of weighted windows over the rows that are still open.
///
/// Sums are kept in f64: the weighted mean of equal f32 values is then that value exactly, so an
/// identity model returns its input bit for bit.
pub(super) struct RollingBlend {
    channels: usize,
    /// Extent of the first spatial axis, and voxels in one of its rows.
    rows: usize,
    row: usize,
    rest: Vec<usize>,
    first_open: usize,
    capacity: usize,
    sum: Vec<f64>,
    weight: Vec<f64>,
    out: Vec<f32>,
}

impl RollingBlend {
    /// For an image `[channels, spatial…]` and windows of at most `window_rows` along the first
    /// axis.
    pub(super) fn new(channels: usize, spatial: &[usize], window_rows: usize) -> Self {
        let row: usize = spatial[1..].iter().product();
        let capacity = (2 * window_rows).min(spatial[0]).max(1);
        Self {
            channels,
            rows: spatial[0],
            row,
            rest: spatial[1..].to_vec(),
            first_open: 0,
            capacity,
            sum: vec![0.0; channels * capacity * row],
            weight: vec![0.0; capacity * row],
            out: Vec::new(),
        }
    }

    /// Bytes held for an image `[channels, spatial…]`.
    pub(super) fn bytes(channels: usize, spatial: &[usize], window_rows: usize) -> u64 {
        let row: u64 = spatial[1..].iter().map(|&n| n as u64).product();
        let capacity = (2 * window_rows).min(spatial[0]).max(1) as u64;
        (8 * (channels as u64 + 1) + 4 * channels as u64) * capacity * row
    }

    /// Adds a window `data [channels, size…]`; the part outside the image is left out.
    ///
    /// Windows must come in order of their start along the first axis.
    pub(super) fn add(
        &mut self,
        start: &[isize],
        size: &[usize],
        data: &[f32],
        weight: &[f64],
        sink: &mut dyn Slabs,
    ) -> Result<(), BoxError> {
        let first = start[0].max(0) as usize;
        let end = ((start[0] + size[0] as isize).max(0) as usize).min(self.rows);
        if first > self.first_open && end > self.first_open + self.capacity {
            self.emit(first, sink)?;
        }
        let voxels: usize = size.iter().product();
        let (rest, row, capacity, first_open) = (&self.rest, self.row, self.capacity, self.first_open);
        let slab_row = |z: usize| (z - first_open) * row;
        let runs = runs(&start[1..], &size[1..], rest);
        let window_row: usize = size[1..].iter().product();
        let add_rows = |target: &mut [f64], value: &(dyn Fn(usize) -> f64 + Sync)| {
            for z in first..end {
                let at = slab_row(z);
                let from = (z as isize - start[0]) as usize * window_row;
                for &(to, src, len) in &runs {
                    for i in 0..len {
                        target[at + to + i] += value(from + src + i);
                    }
                }
            }
        };
        add_rows(&mut self.weight, &|i| weight[i]);
        self.sum.par_chunks_mut(capacity * row).enumerate().for_each(|(c, sum)| {
            let data = &data[c * voxels..(c + 1) * voxels];
            add_rows(sum, &|i| f64::from(data[i]) * weight[i]);
        });
        Ok(())
    }

    /// Hands out the rows below `until`, which no later window touches.
    fn emit(&mut self, until: usize, sink: &mut dyn Slabs) -> Result<(), BoxError> {
        let rows = until - self.first_open;
        let (row, capacity) = (self.row, self.capacity);
        self.out.clear();
        self.out.resize(self.channels * rows * row, 0.0);
        let weight = &self.weight;
        self.out.par_chunks_mut((rows * row).max(1)).enumerate().for_each(|(c, out)| {
            let sum = &self.sum[c * capacity * row..(c + 1) * capacity * row];
            for (i, o) in out.iter_mut().enumerate() {
                *o = (sum[i] / weight[i]) as f32;
            }
        });
        // the open rows move to the front
        let used = rows * row;
        for buffer in std::iter::once(&mut self.weight[..]).chain(self.sum.chunks_mut(capacity * row)) {
            buffer.copy_within(used.., 0);
            let len = buffer.len();
            buffer[len - used..].fill(0.0);
        }
        let start = self.first_open;
        self.first_open = until;
        sink.slab(start, rows, &self.out)
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
