//! Forward and data gradient: transform, multiply, transform back, block by block.

use super::buffer::{Buffer, with_scratch};
use super::collect::{self, Planes, Products};
use super::filter::{Weight, points};
use super::product::product;
use super::spread::{Patches, Target, longest, spread};
use super::tiling::Tiling;
use crate::Result;
use crate::matrix::{Left, Rows};
use crate::parts::Outputs;
use crate::simd::Lanes;
use rayon::prelude::*;
use std::ops::Range;

/// Transformed filters up to this many elements pass by tiles that stay in the second-level cache;
/// for larger ones tasks share the tiles.
const LOCAL_FILTER: usize = 3 << 17;

/// Elements of transformed tiles that a task keeps in its second-level cache.
const LOCAL_TILES: usize = 150 << 10;

/// Elements of transformed tiles that tasks share, for the third-level cache.
const SHARED_TILES: usize = 1 << 20;

/// A convolution of stride one: `source [batch, inputs, ..]` to `target [batch, outputs, ..]`.
pub(super) struct Correlation<'a> {
    pub patches: Patches<'a>,
    pub tiling: Tiling,
    pub deep: bool,
    pub outputs: usize,
    pub target: [usize; 3],
    pub bias: Option<&'a [f32]>,
    pub output: &'a Outputs<f32>,
}

impl Correlation<'_> {
    /// Transforms the filter and computes all outputs.
    pub(super) fn run<S: Lanes, const R: usize, const N: usize>(
        &self,
        weight: &Weight,
    ) -> Result<()> {
        let width = N * S::LANES;
        let filter = self.outputs.div_ceil(width) * weight.block(width);
        if filter <= LOCAL_FILTER {
            self.local::<S, R, N>(weight, &weight.transformed::<S, N>()?);
            return Ok(());
        }
        // tasks that use a filter for all tiles at once find it in their cache if they transform it
        let in_tasks = self.tiling.len() <= self.shared_tiles::<S>();
        let filter = if in_tasks { None } else { Some(weight.transformed::<S, N>()?) };
        self.shared::<S, R, N>(weight, filter.as_ref())
    }

    /// Each task does a block of tiles from source to target.
    pub(super) fn local<S: Lanes, const R: usize, const N: usize>(
        &self,
        weight: &Weight,
        filter: &Buffer,
    ) {
        let (width, points) = (N * S::LANES, points(self.deep));
        let columns = self.patches.channels.next_multiple_of(S::LANES);
        let tiles = self.tiling.len();
        let most = (LOCAL_TILES / (points * columns)).clamp(R, 48);
        // as many blocks as make work for some cores
        let block = most.min(tiles.div_ceil(16)).next_multiple_of(R);
        let (v_point, m_point) = (block * columns + 16, block * width + 16);
        let blocks = self.outputs.div_ceil(width);
        (0..tiles.div_ceil(block)).into_par_iter().for_each(|task| {
            let tiles = task * block..tiles.min((task + 1) * block);
            let sizes = [points * v_point, points * m_point, self.scratch::<S>()];
            with_scratch(sizes, |[v, m, scratch]| {
                let v = Target { data: v, point: v_point, tile: columns };
                // SAFETY: the level that the caller dispatched to; scratch of these sizes; the
                // outputs of a tile belong to the task of the tile.
                unsafe {
                    S::run(
                        #[inline(always)]
                        || {
                            let channels = 0..self.patches.channels;
                            spread::<S, false>(&self.patches, tiles.clone(), channels, v, scratch);
                            for index in 0..blocks {
                                let filter =
                                    filter.at(index * weight.block(width), weight.block(width));
                                let u =
                                    Rows { data: filter.cast_const(), row: weight.point(width) };
                                let m = Target { data: m, point: m_point, tile: width };
                                self.block::<S, R, N>(index, tiles.clone(), v, u, m, scratch);
                            }
                        },
                    );
                }
            });
        });
    }

    /// Tiles that are transformed at a time if tasks share them.
    fn shared_tiles<S: Lanes>(&self) -> usize {
        let tile = points(self.deep) * self.patches.channels.next_multiple_of(S::LANES);
        (SHARED_TILES / tile).next_multiple_of(64).max(64)
    }

    /// Tasks transform tiles, then blocks of outputs for all of these tiles.
    pub(super) fn shared<S: Lanes, const R: usize, const N: usize>(
        &self,
        weight: &Weight,
        filter: Option<&Buffer>,
    ) -> Result<()> {
        const CHANNELS: usize = 64;
        let (width, points) = (N * S::LANES, points(self.deep));
        let channels = self.patches.channels;
        let columns = channels.next_multiple_of(S::LANES);
        let (tiles, most) = (self.tiling.len(), self.shared_tiles::<S>().min(self.tiling.len()));
        // a block of tiles whose products stay in the second-level cache
        let block =
            if self.deep { 32usize } else { 64 }.next_multiple_of(R).min(most.next_multiple_of(R));
        let v_point = (most + block) * columns + 16;
        let m_point = block * width + 16;
        let v = Buffer::new("conv", points * v_point)?;
        let outputs = self.outputs.div_ceil(width);
        for chunk in (0..tiles).step_by(most) {
            let chunk = chunk..tiles.min(chunk + most);
            let v_at = |tile: usize| Target {
                data: v.at((tile - chunk.start) * columns, 0),
                point: v_point,
                tile: columns,
            };
            let part = longest(self.deep);
            let groups = channels.div_ceil(CHANNELS);
            (0..chunk.len().div_ceil(part) * groups).into_par_iter().for_each(|task| {
                let (index, group) = (task / groups, task % groups);
                let start = chunk.start + index * part;
                let tiles = start..chunk.end.min(start + part);
                let channels = group * CHANNELS..channels.min((group + 1) * CHANNELS);
                with_scratch([self.scratch::<S>()], |[scratch]| {
                    // SAFETY: as in `local`; the transformed tiles and channels are this task's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                spread::<S, false>(
                                    &self.patches,
                                    tiles.clone(),
                                    channels.clone(),
                                    v_at(start),
                                    scratch,
                                )
                            },
                        );
                    }
                });
            });
            // a task that transforms its filter does so for all blocks of tiles
            let blocks = chunk.len().div_ceil(block);
            let tasks = if filter.is_some() { blocks } else { 1 };
            (0..outputs * tasks).into_par_iter().for_each(|task| {
                let (index, task) = (task / tasks, task % tasks);
                let size = weight.block(width);
                let own = if filter.is_some() { 0 } else { size };
                with_scratch([own, points * m_point, self.scratch::<S>()], |[own, m, scratch]| {
                    let u = filter.map_or(own, |filter| filter.at(index * size, size));
                    let m = Target { data: m, point: m_point, tile: width };
                    // SAFETY: as in `local`; outputs and tiles are this task's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                if filter.is_none() {
                                    weight.transform::<S, N>(index, 0..channels, u);
                                }
                                let u = Rows { data: u.cast_const(), row: weight.point(width) };
                                for i in (0..blocks).skip(task).step_by(tasks) {
                                    let start = chunk.start + i * block;
                                    let tiles = start..chunk.end.min(start + block);
                                    self.block::<S, R, N>(index, tiles, v_at(start), u, m, scratch);
                                }
                            },
                        );
                    }
                });
            });
        }
        Ok(())
    }

    fn scratch<S: Lanes>(&self) -> usize {
        Patches::scratch::<S>(self.deep).max(collect::scratch::<S>(self.deep))
    }

    /// Outputs of one block of channels for some tiles; `u` are the filters of the block.
    ///
    /// # Safety
    /// As [`Lanes`]; `m` and `scratch` have room, the outputs belong to this task.
    #[inline(always)]
    unsafe fn block<S: Lanes, const R: usize, const N: usize>(
        &self,
        index: usize,
        tiles: Range<usize>,
        v: Target,
        u: Rows<*const f32>,
        m: Target,
        scratch: *mut f32,
    ) {
        let width = N * S::LANES;
        // SAFETY: the caller's.
        unsafe {
            for point in 0..points(self.deep) {
                let a = Left { data: v.data.add(point * v.point), row: v.tile, column: 1 };
                let b = Rows { data: u.data.add(point * u.row), row: width };
                let c = Rows { data: m.data.add(point * m.point), row: width };
                product::<S, R, N>(tiles.len(), self.patches.channels, a, b, c, false);
            }
            for first in (index * width..self.outputs.min((index + 1) * width)).step_by(S::LANES) {
                let channels = S::LANES.min(self.outputs - first);
                let products = Products {
                    data: m.data.add(first - index * width),
                    point: m.point,
                    tile: m.tile,
                    deep: self.deep,
                };
                for run in self.tiling.runs(tiles.clone(), longest(self.deep)) {
                    let planes = Planes {
                        data: self.output.planes(run.image, first..first + channels),
                        dims: self.target,
                        bias: self.bias.map(|bias| &bias[first..first + channels]),
                        channels,
                    };
                    products.collect::<S>(&run, &planes, scratch);
                }
            }
        }
    }
}
