//! The weight gradient: `Gᵀ [Σ (A y Aᵀ) ⊙ (Bᵀ d B)] G`, the sum over all tiles of a batch.
//!
//! Products add up some tiles in registers, and these sums are added in the order of the tiles, so
//! that the rounding error grows more slowly than the number of pixels.

use super::buffer::{Buffer, LINE, with_scratch};
use super::collect::to_rows;
use super::filter::points;
use super::product::product;
use super::spread::{Patches, Target, longest, spread};
use super::transform::{filter_grad4, filter_grad6};
use crate::Result;
use crate::matrix::{Left, Rows};
use crate::output::Output;
use crate::simd::Lanes;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Elements of transformed tiles that tasks share, for the third-level cache.
const SHARED_TILES: usize = 1 << 20;

/// Tiles that a block of the weight sums at a time from its first-level cache.
const TILES: usize = 64;

/// Channels and (at least) features of a block of the weight.
const BLOCK: usize = 32;

/// Where blocks are few, tasks compute this part of the points of one.
const PARTS: usize = 4;

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
}

impl WeightGrad<'_> {
    /// Writes all of the weight: tasks transform tiles, then sum blocks of the weight over all of
    /// these tiles.
    pub(super) fn run<S: Lanes, const R: usize, const N: usize>(&self) -> Result<()> {
        const GROUP: usize = 64;
        let (deep, width) = (self.image.deep, N * S::LANES);
        let points = points(deep);
        let (channels, features) = (self.image.channels, self.result.channels);
        // tiles not a power of two apart, so that they do not compete for one set of the cache
        let columns = channels.next_multiple_of(S::LANES) + LINE;
        let features_up = features.next_multiple_of(width) + LINE;
        let tiles = self.image.tiling.len();
        let block_features = BLOCK.next_multiple_of(width);
        let block_channels = BLOCK / R * R;
        let k_blocks = features.div_ceil(block_features);
        let blocks = channels.div_ceil(block_channels) * k_blocks;
        let parts = if blocks < 4 * PARTS { PARTS } else { 1 };
        let u_point = block_channels * block_features + LINE;
        let u_len = points * u_point;
        let block = |index: usize| {
            let channel = index / k_blocks * block_channels;
            let feature = index % k_blocks * block_features;
            let channels = channel..channels.min(channel + block_channels);
            (channels, feature..features.min(feature + block_features))
        };
        let tile = points * (columns + features_up);
        // transformed all at once if that takes less memory than sums that outlive a chunk
        let chunk = if tiles * tile <= blocks * u_len { tiles } else { SHARED_TILES / tile };
        let chunk = chunk.clamp(32, tiles.max(32));
        let (v_point, q_point) = (chunk * columns + 16, chunk * features_up + 16);
        let v = Buffer::new("conv", points * v_point + columns)?;
        let q = Buffer::new("conv", points * q_point)?;
        // sums of one task in one go stay in its cache
        let own = parts == 1 && tiles <= chunk;
        let sums = Buffer::new("conv", if own { 0 } else { blocks * u_len })?;
        let sums_of = |data: *mut f32| Sums { data, point: u_point, channel: block_features };

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
                    // SAFETY: the level that the caller dispatched to; room for all tiles, of which
                    // these and these channels are this task's.
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
            (0..blocks * parts).into_par_iter().for_each(|task| {
                let (index, part) = (task / parts, task % parts);
                let (channels, features) = block(index);
                let sizes = [if own { u_len } else { 0 }, self.finish_scratch::<S>(block_channels)];
                with_scratch(sizes, |[own_sums, scratch]| {
                    let u = if own { own_sums } else { sums.at(index * u_len, u_len) };
                    let (v, q) = (v_at(start), q_at(start));
                    // SAFETY: as above; this part of this block of the weight is this task's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                let all = 0..chunk.len();
                                for point in points * part / parts..points * (part + 1) / parts {
                                    let v = v.data.add(point * v.point + channels.start);
                                    let q = q.data.add(point * q.point + features.start);
                                    for t in all.clone().step_by(TILES) {
                                        let len = TILES.min(all.end - t);
                                        let data = v.add(t * columns);
                                        let a = Left { data, row: 1, column: columns };
                                        for k in (0..features.len()).step_by(width) {
                                            let data = q.add(t * features_up + k).cast_const();
                                            let b = Rows { data, row: features_up };
                                            let u = u.add(point * u_point + k);
                                            let c = Rows { data: u, row: block_features };
                                            let add = start + t > 0;
                                            product::<S, R, N>(channels.len(), len, a, b, c, add);
                                        }
                                    }
                                }
                                if parts == 1 && chunk.end == tiles {
                                    self.finish::<S>(
                                        sums_of(u),
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
        if parts > 1 {
            (0..blocks).into_par_iter().for_each(|index| {
                let (channels, features) = block(index);
                let u = sums_of(sums.at(index * u_len, u_len));
                with_scratch([self.finish_scratch::<S>(block_channels)], |[scratch]| {
                    // SAFETY: as above; this block of the weight is this task's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || self.finish::<S>(u, channels.clone(), features.clone(), scratch),
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
                    let mut planes = MaybeUninit::<[[[S::V; 6]; 6]; 3]>::uninit();
                    let planes = planes.as_mut_ptr();
                    for y in 0..6 {
                        for x in 0..6 {
                            let from = from.add((y * 6 + x) * sums.point);
                            if deep {
                                let mut u = [S::splat(0.0); 4];
                                for z in 0..4 {
                                    u[z] = S::load(from.add(z * 36 * sums.point));
                                }
                                let g = filter_grad4::<S>(u);
                                for z in 0..3 {
                                    (*planes)[z][x][y] = g[z];
                                }
                            } else {
                                (*planes)[0][x][y] = S::load(from);
                            }
                        }
                    }
                    for z in 0..slices {
                        let mut rows = [[S::splat(0.0); 6]; 3];
                        for x in 0..6 {
                            let column = filter_grad6::<S>((*planes)[z][x]);
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
