//! Places chosen by what the input shows: a coarse map of cells over every scene, a cell drawn by
//! its weight, and a centre within it.

use super::{Weight, pick, running_sum};
use crate::boxes::unflat;
use crate::dataset::{Collection, Scene};
use crate::{Error, Result};
use limpid_kernels::rng::Draws;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// A map of weights over the scenes.
pub(super) struct Focus {
    /// Share of the patches that are chosen by the map.
    pub(super) share: f64,
    cells: Vec<Cell>,
    sums: Vec<f64>,
    /// Centres are pixels above this value.
    threshold: Option<f32>,
}

#[derive(Clone)]
struct Cell {
    scene: usize,
    start: Vec<usize>,
    size: Vec<usize>,
}

impl Focus {
    /// Nothing if all places weigh the same.
    pub(super) fn weighted(
        by: Weight,
        collection: &Collection,
        scenes: &[Scene],
        patch: &[usize],
    ) -> Result<Option<Self>> {
        let score = |values: &[f32], size: &[usize]| match by {
            Weight::Intensity => {
                values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
            }
            Weight::Gradient => mean_difference(values, size),
        };
        let (cells, mut scores) = map(collection, scenes, patch, score)?;
        if by == Weight::Intensity {
            let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
            scores.iter_mut().for_each(|s| *s -= least);
        }
        for (score, cell) in scores.iter_mut().zip(&cells) {
            *score *= cell.size.iter().product::<usize>() as f64;
        }
        let sums = running_sum(scores.into_iter());
        let flat = !sums.last().is_some_and(|s| *s > 0.0);
        Ok((!flat).then_some(Self { share: 1.0, cells, sums, threshold: None }))
    }

    pub(super) fn foreground(
        threshold: f64,
        share: f64,
        collection: &Collection,
        scenes: &[Scene],
        patch: &[usize],
    ) -> Result<Self> {
        let threshold = threshold as f32;
        let count = |values: &[f32], size: &[usize]| {
            let first = &values[..size.iter().product()];
            first.iter().filter(|v| **v > threshold).count() as f64
        };
        let (cells, counts) = map(collection, scenes, patch, count)?;
        let sums = running_sum(counts.into_iter());
        if !sums.last().is_some_and(|s| *s > 0.0) {
            return Err(Error::setting(
                format!(
                    "no pixel of the training images is above the foreground threshold {threshold}"
                ),
                "lower `sampler.threshold`, which is in the unit of the files",
            ));
        }
        Ok(Self { share, cells, sums, threshold: Some(threshold) })
    }

    /// The scene and the centre of a patch, from a place in the total weight.
    pub(super) fn centre(
        &self,
        part: f64,
        collection: &Collection,
        scenes: &[Scene],
        draws: &mut Draws,
    ) -> Result<(usize, Vec<usize>)> {
        let cell = &self.cells[pick(&self.sums, part)];
        let voxels: usize = cell.size.iter().product();
        let mut chosen = draws.below(voxels as u64) as usize;
        if let Some(threshold) = self.threshold {
            let view = scenes[cell.scene].views[0];
            let values = collection.files[view.file].read(view.frame, &cell.start, &cell.size)?;
            let bright: Vec<usize> = (0..voxels).filter(|&i| values[i] > threshold).collect();
            let pick = draws.below(bright.len() as u64) as usize;
            chosen = bright.get(pick).copied().unwrap_or(chosen);
        }
        let within = unflat(chosen, &cell.size);
        let centre = cell.start.iter().zip(&within).map(|(s, w)| s + w).collect();
        Ok((cell.scene, centre))
    }
}

/// Cells of half a patch over every scene, and the score of each.
fn map(
    collection: &Collection,
    scenes: &[Scene],
    patch: &[usize],
    score: impl Fn(&[f32], &[usize]) -> f64 + Sync,
) -> Result<(Vec<Cell>, Vec<f64>)> {
    let side: Vec<usize> = patch.iter().map(|p| p.div_ceil(2)).collect();
    let of_scene = |(index, scene): (usize, &Scene)| -> Result<Vec<(Cell, f64)>> {
        let mut cells = vec![Cell { scene: index, start: Vec::new(), size: Vec::new() }];
        for a in 0..side.len() {
            let (start, end) = (scene.start[a], scene.start[a] + scene.size[a]);
            cells = cells
                .iter()
                .flat_map(|c| (start..end).step_by(side[a]).map(move |s| (c, s)))
                .map(|(c, s)| Cell {
                    scene: index,
                    start: [c.start.as_slice(), &[s]].concat(),
                    size: [c.size.as_slice(), &[side[a].min(end - s)]].concat(),
                })
                .collect();
        }
        let view = scene.views[0];
        let file = &collection.files[view.file];
        cells
            .into_iter()
            .map(|cell| {
                let values = file.read(view.frame, &cell.start, &cell.size)?;
                let score = score(&values, &cell.size);
                Ok((cell, score))
            })
            .collect()
    };
    let files: BTreeSet<usize> = scenes.iter().map(|scene| scene.views[0].file).collect();
    files.into_iter().try_for_each(|file| collection.files[file].decode())?;
    let all: Vec<_> = scenes.par_iter().enumerate().map(of_scene).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().unzip())
}

/// Mean absolute difference of neighbours along every axis of `[channels, size…]`.
fn mean_difference(values: &[f32], size: &[usize]) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    let mut stride = 1;
    for n in size.iter().rev() {
        for (i, v) in values.iter().enumerate() {
            if i / stride % n + 1 < *n {
                sum += f64::from((values[i + stride] - v).abs());
                count += 1;
            }
        }
        stride *= n;
    }
    sum / count.max(1) as f64
}
