//! One stage: match blocks, shrink stacks, average what they say.

use rayon::prelude::*;

use super::transform::Transform;

/// Reference blocks along the first two axes that are worked on in one go.
const TILE: [usize; 2] = [4, 8];
/// Shape of the window that takes estimates at the rim of a block less seriously.
const KAISER: f64 = 2.0;

/// How the coefficients of a stack are shrunk.
#[derive(Clone, Copy)]
pub(super) enum Shrink<'a> {
    /// Those below `threshold` become zero.
    Hard {
        /// In standard deviations of the noise.
        threshold: f64,
    },
    /// By the Wiener filter for the spectrum of `basic`, which also says what looks alike.
    Wiener {
        /// The result of the first stage.
        basic: &'a [f64],
    },
}

/// One stage, on an image with noise of unit variance in which a block fits. Distances of blocks
/// are computed for `LANES` partners at once.
pub(super) struct Stage<'a, const SIDE: usize, const LANES: usize> {
    /// Shape of the image.
    pub(super) dims: [usize; 3],
    /// Shape of a block: `SIDE` on the axes of the image, 1 on the others.
    pub(super) sides: [usize; 3],
    /// Farthest partner along each axis.
    pub(super) reach: [usize; 3],
    /// Distance of reference blocks.
    pub(super) step: usize,
    /// Most blocks in a stack.
    pub(super) group: usize,
    /// Largest squared distance of blocks that match.
    pub(super) limit: f32,
    /// Transform of blocks along each axis.
    pub(super) transform: Transform<SIDE>,
    /// The image.
    pub(super) noisy: &'a [f64],
    /// What happens to coefficients.
    pub(super) shrink: Shrink<'a>,
}

/// What the stacks of some reference blocks say about the part of the image they reach.
struct Tile {
    /// Corner and size along the first two axes; all of the third.
    low: [usize; 2],
    size: [usize; 2],
    /// Weighted sum of the estimates.
    sums: Vec<f64>,
    /// Sum of the weights.
    weights: Vec<f64>,
}

/// What does not change from stack to stack.
struct Shared {
    /// The image that blocks are compared in, a little longer than it is: a read of several
    /// partners at once may reach beyond the last.
    search: Vec<f32>,
    /// Where the voxels of a block lie, seen from its first.
    offsets: Vec<usize>,
    /// Their weights.
    window: Vec<f64>,
    /// First voxels of the reference blocks along the last axis.
    columns: Vec<usize>,
}

/// Buffers that are used for one stack after the other.
#[derive(Default)]
struct Work {
    /// The reference block.
    block: Vec<f32>,
    /// Distance and first voxel of its partners.
    found: Vec<(f32, usize)>,
    /// The stack.
    stack: Vec<f64>,
    /// The same in the result of the first stage.
    guide: Vec<f64>,
    /// For the transforms.
    other: Vec<f64>,
}

impl<const SIDE: usize, const LANES: usize> Stage<'_, SIDE, LANES> {
    /// The estimate of the image.
    pub(super) fn run(&self) -> Vec<f64> {
        let (rows, columns) = (self.dims[1], self.dims[2]);
        let places = [0, 1, 2].map(|a| self.places(a));
        let searched = match self.shrink {
            Shrink::Hard { .. } => self.noisy,
            Shrink::Wiener { basic } => basic,
        };
        let mut search: Vec<f32> = searched.iter().map(|v| *v as f32).collect();
        search.resize(search.len() + LANES, 0.0);
        let shared = Shared {
            search,
            offsets: self.offsets([rows * columns, columns]),
            window: self.window(),
            columns: places[2].clone(),
        };
        let tiles: Vec<(&[usize], &[usize])> = places[0]
            .chunks(TILE[0])
            .flat_map(|z| places[1].chunks(TILE[1]).map(move |y| (z, y)))
            .collect();
        let mut sums = vec![0.0; self.noisy.len()];
        let mut weights = vec![0.0; self.noisy.len()];
        // tiles overlap; they are added up in order, a few at a time to save memory
        for some in tiles.chunks(4 * rayon::current_num_threads()) {
            let done: Vec<Tile> = some.par_iter().map(|(z, y)| self.tile(&shared, z, y)).collect();
            for tile in done {
                let slab = tile.size[1] * columns;
                for z in 0..tile.size[0] {
                    let at = ((tile.low[0] + z) * rows + tile.low[1]) * columns;
                    add(&mut sums[at..at + slab], &tile.sums[z * slab..]);
                    add(&mut weights[at..at + slab], &tile.weights[z * slab..]);
                }
            }
        }
        sums.iter().zip(weights).map(|(sum, weight)| sum / weight).collect()
    }

    /// Where reference blocks start along an axis: every `step` samples, and as far as they go.
    fn places(&self, axis: usize) -> Vec<usize> {
        let last = self.dims[axis] - self.sides[axis];
        let mut places: Vec<usize> = (0..last).step_by(self.step).collect();
        places.push(last);
        places
    }

    /// Where the voxels of a block lie in an array with those distances of planes and rows.
    fn offsets(&self, strides: [usize; 2]) -> Vec<usize> {
        let [nz, ny, nx] = self.sides;
        let rows = (0..nz).flat_map(|z| (0..ny).map(move |y| z * strides[0] + y * strides[1]));
        rows.flat_map(|row| (0..nx).map(move |x| row + x)).collect()
    }

    /// The weight of each voxel of a block.
    fn window(&self) -> Vec<f64> {
        let mut window = vec![1.0];
        for side in self.sides {
            let taps = kaiser(side);
            window = window.iter().flat_map(|w| taps.iter().map(move |tap| w * tap)).collect();
        }
        window
    }

    fn tile(&self, shared: &Shared, planes: &[usize], rows: &[usize]) -> Tile {
        let span = |axis: usize, places: &[usize]| {
            let (first, last) = (places[0], places[places.len() - 1]);
            let low = first.saturating_sub(self.reach[axis]);
            (low, (last + self.reach[axis] + self.sides[axis]).min(self.dims[axis]) - low)
        };
        let ((z0, nz), (y0, ny)) = (span(0, planes), span(1, rows));
        let columns = self.dims[2];
        let mut tile = Tile {
            low: [z0, y0],
            size: [nz, ny],
            sums: vec![0.0; nz * ny * columns],
            weights: vec![0.0; nz * ny * columns],
        };
        let offsets = self.offsets([ny * columns, columns]);
        let mut work = Work::default();
        for z in planes {
            for y in rows {
                for x in &shared.columns {
                    self.find(shared, &mut work, [*z, *y, *x]);
                    let weight = self.estimate(shared, &mut work);
                    let blocks = work.found.len();
                    for (block, (_, at)) in work.found.iter().enumerate() {
                        let (row, x) = (at / columns, at % columns);
                        let (z, y) = (row / self.dims[1], row % self.dims[1]);
                        let at = ((z - z0) * ny + y - y0) * columns + x;
                        let values = work.stack[block..].iter().step_by(blocks);
                        for ((offset, value), taper) in
                            offsets.iter().zip(values).zip(&shared.window)
                        {
                            tile.sums[at + offset] += weight * taper * value;
                            tile.weights[at + offset] += weight * taper;
                        }
                    }
                }
            }
        }
        tile
    }

    /// Finds the blocks that look like the one at `place`, nearest first, itself in front; a power
    /// of two of them.
    fn find(&self, shared: &Shared, work: &mut Work, place: [usize; 3]) {
        let [_, rows, columns] = self.dims;
        let flat = |z: usize, y: usize, x: usize| (z * rows + y) * columns + x;
        let here = flat(place[0], place[1], place[2]);
        work.block.clear();
        work.block.extend(shared.offsets.iter().map(|offset| shared.search[here + offset]));
        work.found.clear();
        let low = [0, 1, 2].map(|a| place[a].saturating_sub(self.reach[a]));
        let high = [0, 1, 2].map(|a| (place[a] + self.reach[a]).min(self.dims[a] - self.sides[a]));
        for z in low[0]..=high[0] {
            for y in low[1]..=high[1] {
                for x in (low[2]..=high[2]).step_by(LANES) {
                    let first = flat(z, y, x);
                    let distances = self.distances(&shared.search, &work.block, first);
                    let partners = (first..=flat(z, y, high[2])).zip(distances);
                    for (at, distance) in partners.filter(|(_, d)| *d <= self.limit) {
                        let distance = if at == here { -1.0 } else { distance };
                        work.found.push((distance, at));
                    }
                }
            }
        }
        // where two are equally far, the first of the image: the result must not depend on chance
        let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let most = self.group.min(1 << work.found.len().ilog2());
        if work.found.len() > most {
            work.found.select_nth_unstable_by(most - 1, order);
            work.found.truncate(most);
        }
        work.found.sort_unstable_by(order);
    }

    /// Squared distance of `block` to each of the blocks that start at `first` and behind it.
    fn distances(&self, search: &[f32], block: &[f32], first: usize) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        let rows = block.chunks_exact(SIDE).enumerate();
        for (i, block) in rows {
            let (z, y) = (i / self.sides[1], i % self.sides[1]);
            let at = first + (z * self.dims[1] + y) * self.dims[2];
            let row = &search[at..at + SIDE + LANES];
            for (x, value) in block.iter().enumerate() {
                for (sum, other) in sums.iter_mut().zip(&row[x..x + LANES]) {
                    *sum += (value - other) * (value - other);
                }
            }
        }
        sums
    }

    /// Replaces the stack by its estimate; returns how much it counts.
    fn estimate(&self, shared: &Shared, work: &mut Work) -> f64 {
        let blocks = work.found.len();
        gather(self.noisy, &shared.offsets, &work.found, &mut work.stack);
        self.transform.apply(&mut work.stack, &mut work.other, self.sides, blocks);
        // the first coefficient is the mean of the stack: no matter of noise
        let weight = match self.shrink {
            Shrink::Hard { threshold } => {
                let mut kept = 1.0;
                for value in &mut work.stack[1..] {
                    let keep = f64::from(u8::from(value.abs() >= threshold));
                    *value *= keep;
                    kept += keep;
                }
                1.0 / kept
            }
            Shrink::Wiener { basic } => {
                gather(basic, &shared.offsets, &work.found, &mut work.guide);
                self.transform.apply(&mut work.guide, &mut work.other, self.sides, blocks);
                let mut power = 1.0;
                for (value, guide) in work.stack.iter_mut().zip(&work.guide).skip(1) {
                    let gain = guide * guide / (guide * guide + 1.0);
                    *value *= gain;
                    power += gain * gain;
                }
                1.0 / power
            }
        };
        self.transform.undo(&mut work.stack, &mut work.other, self.sides, blocks);
        weight
    }
}

/// Stacks the blocks that start at `found`: voxel by voxel, the blocks side by side.
fn gather(image: &[f64], offsets: &[usize], found: &[(f32, usize)], stack: &mut Vec<f64>) {
    stack.clear();
    for offset in offsets {
        stack.extend(found.iter().map(|(_, at)| image[at + offset]));
    }
}

fn add(total: &mut [f64], part: &[f64]) {
    for (total, part) in total.iter_mut().zip(part) {
        *total += part;
    }
}

/// The Kaiser window with `side` taps.
fn kaiser(side: usize) -> Vec<f64> {
    let middle = (side - 1) as f64 / 2.0;
    let tap = |i: usize| {
        let at = if side > 1 { (i as f64 - middle) / middle } else { 0.0 };
        bessel(KAISER * (1.0 - at * at).max(0.0).sqrt()) / bessel(KAISER)
    };
    (0..side).map(tap).collect()
}

/// The modified Bessel function of the first kind, of order 0, by its series.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..30 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}
