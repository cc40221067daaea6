//! The weight gradient: `Gᵀ [Σ (A y Aᵀ) ⊙ (Bᵀ d B)] G`, the sum over all tiles of a batch.
//!
//! Products add up tiles in registers, block by block, and blocks are added in order, so that the
//! rounding error grows with the number of blocks and not with that of pixels.

use super::buffer::{Buffer, with_scratch};
use super::collect::to_rows;
use super::filter::points;
use super::product::{Left, Rows, product};
use super::spread::{Patches, Target, longest, spread};
use super::transform::{filter_grad4, filter_grad6};
use crate::Result;
use crate::conv::cpu::output::Output;
use crate::simd::Lanes;
use rayon::prelude::*;
use std::ops::Range;

/// Sums of up to this many elements stay in the second-level cache of a task.
const LOCAL_SUMS: usize = 160 << 10;

/// Elements of transformed tiles beside them.
const LOCAL_TILES: usize = 96 << 10;

/// Elements of transformed tiles that tasks share, for the third-level cache.
const SHARED_TILES: usize = 4 << 20;

/// Parts of the batch that are summed apart; as many for any number of threads.
const PARTS: usize = 16;

/// Image and gradient of the result, cut to the same tiles.
pub(super) struct WeightGrad<'a> {
    pub image: Patches<'a>,
    pub result: Patches<'a>,
    /// `[features, channels, taps]`
    pub weight: &'a Output<f32>,
}

/// Sums `[point][channel][feature]` of some channels and features.
#[derive(Clone, Copy)]
struct Sums {
    data: *const f32,
    /// Distances of points and of channels.
    point: usize,
    channel: usize,
    /// The same of further parts of the batch follow at this distance.
    part: usize,
    parts: usize,
}

impl WeightGrad<'_> {
    /// Writes all of the weight.
    pub(super) fn run<S: Lanes, const R: usize, const N: usize>(&self) -> Result<()> {
        let features = self.result.channels.next_multiple_of(N * S::LANES);
        let sums = points(self.image.deep) * self.image.channels.next_multiple_of(R) * features;
        if sums <= LOCAL_SUMS { self.by_parts::<S, R, N>() } else { self.by_blocks::<S, R, N>() }
    }

    /// Each task sums a part of the batch, for few channels.
    fn by_parts<S: Lanes, const R: usize, const N: usize>(&self) -> Result<()> {
        let (deep, width) = (self.image.deep, N * S::LANES);
        let points = points(deep);
        let (channels, features) = (self.image.channels, self.result.channels);
        let (columns, rows) = (channels.next_multiple_of(S::LANES), channels.next_multiple_of(R));
        let features_up = features.next_multiple_of(width);
        let tiles = self.image.tiling.len();
        let block = (LOCAL_TILES / (points * (columns + features_up))).clamp(8, 64);
        let parts = tiles.div_ceil(block).clamp(1, PARTS);
        let (v_point, q_point) = (block * columns + 16, block * features_up + 16);
        let (u_point, part_len) = (rows * features_up, points * rows * features_up);
        let sums = Buffer::new("conv", parts * part_len)?;
        (0..parts).into_par_iter().for_each(|part| {
            let tiles = tiles * part / parts..tiles * (part + 1) / parts;
            let u = sums.at(part * part_len, part_len);
            let sizes = [points * v_point, points * q_point, Patches::scratch::<S>(deep)];
            with_scratch(sizes, |[v, q, scratch]| {
                let v = Target { data: v, point: v_point, tile: columns };
                let q = Target { data: q, point: q_point, tile: features_up };
                // SAFETY: the level that the caller dispatched to; scratch of these sizes, sums of
                // this part.
                unsafe {
                    S::run(
                        #[inline(always)]
                        || {
                            for start in tiles.clone().step_by(block) {
                                let block = start..tiles.end.min(start + block);
                                let len = block.len();
                                spread::<S, false>(
                                    &self.image,
                                    block.clone(),
                                    0..channels,
                                    v,
                                    scratch,
                                );
                                spread::<S, true>(&self.result, block, 0..features, q, scratch);
                                let add = start > tiles.start;
                                for point in 0..points {
                                    let v = v.data.add(point * v.point);
                                    let a = Left { data: v, row: 1, column: columns };
                                    for k in (0..features).step_by(width) {
                                        let q = q.data.add(point * q.point + k);
                                        let b = Rows { data: q.cast_const(), row: features_up };
                                        let u = u.add(point * u_point + k);
                                        let c = Rows { data: u, row: features_up };
                                        product::<S, R, N>(channels, len, a, b, c, add);
                                    }
                                }
                            }
                        },
                    );
                }
            });
        });
        const CHANNELS: usize = 16;
        let blocks = channels.div_ceil(CHANNELS);
        (0..blocks).into_par_iter().for_each(|task| {
            let channels = task * CHANNELS..channels.min((task + 1) * CHANNELS);
            let sums = Sums {
                data: sums.at(channels.start * features_up, 0),
                point: u_point,
                channel: features_up,
                part: part_len,
                parts,
            };
            with_scratch([self.finish_scratch::<S>(channels.len())], |[scratch]| {
                // SAFETY: as above; these channels belong to this task.
                unsafe {
                    S::run(
                        #[inline(always)]
                        || self.finish::<S>(sums, channels.clone(), 0..features, scratch),
                    );
                }
            });
        });
        Ok(())
    }

    /// Tasks transform tiles, then sum blocks of the weight over all of these tiles.
    fn by_blocks<S: Lanes, const R: usize, const N: usize>(&self) -> Result<()> {
        const GROUP: usize = 64;
        let (deep, width) = (self.image.deep, N * S::LANES);
        let points = points(deep);
        let (channels, features) = (self.image.channels, self.result.channels);
        let (columns, features_up) =
            (channels.next_multiple_of(S::LANES), features.next_multiple_of(width));
        let tiles = self.image.tiling.len();
        let chunk = (SHARED_TILES / (points * (columns + features_up))).clamp(32, tiles.max(32));
        let (v_point, q_point) = (chunk * columns + 16, chunk * features_up + 16);
        let v = Buffer::new("conv", points * v_point + columns)?;
        let q = Buffer::new("conv", points * q_point)?;

        let block_features = 32usize.next_multiple_of(width);
        let k_blocks = features.div_ceil(block_features);
        let block_channels = if channels.div_ceil(32) * k_blocks < 16 { 16 } else { 32 } / R * R;
        let blocks = channels.div_ceil(block_channels) * k_blocks;
        let u_point = block_channels * block_features + 16;
        let u_len = points * u_point;
        let one = tiles <= chunk;
        let sums = Buffer::new("conv", if one { 0 } else { blocks * u_len })?;

        for start in (0..tiles).step_by(chunk) {
            let chunk = start..tiles.min(start + chunk);
            let v_at = |tile: usize| Target {
                data: v.at((tile - start) * columns, 0),
                point: v_point,
                tile: columns,
            };
            let q_at = |tile: usize| Target {
                data: q.at((tile - start) * features_up, 0),
                point: q_point,
                tile: features_up,
            };
            let part = longest(deep);
            let groups = [channels.div_ceil(GROUP), features.div_ceil(GROUP)];
            let of_tiles = groups[0] + groups[1];
            (0..chunk.len().div_ceil(part) * of_tiles).into_par_iter().for_each(|task| {
                let (index, group) = (task / of_tiles, task % of_tiles);
                let from = start + index * part;
                let tiles = from..chunk.end.min(from + part);
                with_scratch([Patches::scratch::<S>(deep)], |[scratch]| {
                    let of = |group: usize, all: usize| group * GROUP..all.min((group + 1) * GROUP);
                    // SAFETY: as in `by_parts`; these tiles and channels are this task's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                if group < groups[0] {
                                    let (of, to) = (of(group, channels), v_at(from));
                                    spread::<S, false>(&self.image, tiles, of, to, scratch);
                                } else {
                                    let (of, to) = (of(group - groups[0], features), q_at(from));
                                    spread::<S, true>(&self.result, tiles, of, to, scratch);
                                }
                            },
                        );
                    }
                });
            });
            (0..blocks).into_par_iter().for_each(|task| {
                let channel = task / k_blocks * block_channels;
                let feature = task % k_blocks * block_features;
                let channels = channel..channels.min(channel + block_channels);
                let features = feature..features.min(feature + block_features);
                let own = if one { u_len } else { 0 };
                let sizes = [own, self.finish_scratch::<S>(block_channels)];
                with_scratch(sizes, |[own, scratch]| {
                    let u = if one { own } else { sums.at(task * u_len, u_len) };
                    let (v, q) = (v_at(start), q_at(start));
                    // SAFETY: as in `by_parts`; this block of the weight is this task's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                for point in 0..points {
                                    let v = v.data.add(point * v.point + channel);
                                    let a = Left { data: v, row: 1, column: columns };
                                    for k in (0..features.len()).step_by(width) {
                                        let q = q.data.add(point * q.point + feature + k);
                                        let b = Rows { data: q.cast_const(), row: features_up };
                                        let u = u.add(point * u_point + k);
                                        let c = Rows { data: u, row: block_features };
                                        let (rows, len) = (channels.len(), chunk.len());
                                        product::<S, R, N>(rows, len, a, b, c, start > 0);
                                    }
                                }
                                if chunk.end == tiles {
                                    let sums = Sums {
                                        data: u,
                                        point: u_point,
                                        channel: block_features,
                                        part: 0,
                                        parts: 1,
                                    };
                                    self.finish::<S>(
                                        sums,
                                        channels.clone(),
                                        features.clone(),
                                        scratch,
                                    );
                                }
                            },
                        );
                    }
                });
            });
        }
        Ok(())
    }

    /// Elements of scratch that [`WeightGrad::finish`] needs.
    fn finish_scratch<S: Lanes>(&self, channels: usize) -> usize {
        channels * 27 * S::LANES
    }

    /// Writes the weight of some channels and features from their sums.
    ///
    /// # Safety
    /// As [`Lanes`]; the sums are there, the weights belong to this task, `scratch` has room.
    #[inline(always)]
    unsafe fn finish<S: Lanes>(
        &self,
        sums: Sums,
        channels: Range<usize>,
        features: Range<usize>,
        scratch: *mut f32,
    ) {
        let n = S::LANES;
        let deep = self.image.deep;
        let (taps, slices) = if deep { (27, 3) } else { (9, 1) };
        let row = self.image.channels * taps;
        for feature in features.clone().step_by(n) {
            let lanes = n.min(features.end - feature);
            // SAFETY: the caller's.
            unsafe {
                for c in 0..channels.len() {
                    let from = sums.data.add(c * sums.channel + feature - features.start);
                    let mut planes = [[[S::splat(0.0); 6]; 6]; 3];
                    for y in 0..6 {
                        for x in 0..6 {
                            let from = from.add((y * 6 + x) * sums.point);
                            if deep {
                                let mut u = [S::splat(0.0); 4];
                                for z in 0..4 {
                                    u[z] = sums.load::<S>(from.add(z * 36 * sums.point));
                                }
                                let g = filter_grad4::<S>(u);
                                for z in 0..3 {
                                    planes[z][x][y] = g[z];
                                }
                            } else {
                                planes[0][x][y] = sums.load::<S>(from);
                            }
                        }
                    }
                    for z in 0..slices {
                        let mut rows = [[S::splat(0.0); 6]; 3];
                        for x in 0..6 {
                            let column = filter_grad6::<S>(planes[z][x]);
                            for y in 0..3 {
                                rows[y][x] = column[y];
                            }
                        }
                        for y in 0..3 {
                            let g = filter_grad6::<S>(rows[y]);
                            for x in 0..3 {
                                let tap = c * taps + (z * 3 + y) * 3 + x;
                                S::store(scratch.add(tap * n), g[x]);
                            }
                        }
                    }
                }
                let first = feature * row + channels.start * taps;
                let len = (lanes - 1) * row + channels.len() * taps;
                let to = self.weight.at(first, len);
                to_rows::<S>(scratch, channels.len() * taps, to, row, lanes);
            }
        }
    }
}

impl Sums {
    /// One vector, all parts added in order.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn load<S: Lanes>(&self, from: *const f32) -> S::V {
        // SAFETY: the caller vouches for the sums of all parts.
        unsafe {
            let mut sum = S::load(from);
            for part in 1..self.parts {
                sum = S::add(sum, S::load(from.add(part * self.part)));
            }
            sum
        }
    }
}
