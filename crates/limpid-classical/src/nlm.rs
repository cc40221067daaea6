//! Non-local means.
//!
//! Buades, Coll & Morel, "A non-local algorithm for image denoising", CVPR 2005, in the definition
//! of `skimage.restoration.denoise_nl_means` but with a true exponential, where scikit-image has an
//! approximate one. Patches beyond the edge are mirrored.
//!
//! Both variants weigh the sample at shift `t` by `exp(-d)`, where `d` is the mean squared
//! difference of the two patches less twice the noise variance, over `h²`; beyond a distance of 5
//! the weight is zero. In the exact variant patches are Gaussian weighted and partners lie inside
//! the image. In the fast one (Darbon et al. 2008, Froment 2014) patches are flat, so that one
//! box sum serves all samples of a shift, and partners may be mirrored ones; its patch is one
//! sample short on the low side, as scikit-image's is.

use limpid_config::{Check, Validate};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::error::{Result, require_valid};
use crate::grid::{Grid, pad};

/// Distances above this have weight zero.
const CUTOFF: f64 = 5.0;
/// Planes and rows of the boxes that the fast variant works on.
const TILE: [usize; 2] = [8, 32];

/// Non-local means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NonLocalMeans {
    /// Side of the compared patches in samples, odd.
    pub patch_size: usize,
    /// Farthest shift along each axis, in samples, at which similar patches are sought.
    pub patch_distance: usize,
    /// Strength: the root mean square difference, in units of the image, at which a patch counts
    /// `1/e`. A little less than the standard deviation of the noise is a good start.
    pub h: f64,
    /// Standard deviation of the noise, in units of the image: differences that it explains do not
    /// count. 0: all differences count.
    pub sigma: f64,
    /// Flat patches by box sums: the cost no longer depends on the patch size.
    pub fast: bool,
}

impl Default for NonLocalMeans {
    fn default() -> Self {
        Self { patch_size: 5, patch_distance: 6, h: 0.1, sigma: 0.0, fast: true }
    }
}

impl Validate for NonLocalMeans {
    fn validate(&self, at: &mut Check) {
        if self.patch_size < 3 || self.patch_size.is_multiple_of(2) || self.patch_size > 99 {
            let message = format!("must be odd and between 3 and 99, got {}", self.patch_size);
            at.problem("patch_size", message);
        }
        if !(1..=99).contains(&self.patch_distance) {
            let message = format!("must be between 1 and 99 samples, got {}", self.patch_distance);
            at.problem("patch_distance", message);
        }
        if !(self.h > 0.0 && self.h.is_finite()) {
            at.problem("h", format!("must be above 0, got {}", self.h));
        }
        if !(self.sigma >= 0.0 && self.sigma.is_finite()) {
            at.problem("sigma", format!("must be at least 0, got {}", self.sigma));
        }
    }
}

/// Averages each sample with those whose surroundings look alike.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn non_local_means(
    image: &[f64],
    shape: &[usize],
    parameters: &NonLocalMeans,
) -> Result<Vec<f64>> {
    let grid = Grid::new("non_local_means", image, shape)?;
    require_valid("non_local_means", parameters)?;
    Ok(if parameters.fast {
        fast(image, &grid, parameters)
    } else {
        exact(image, &grid, parameters)
    })
}

/// The weight of a patch at `distance`.
fn weight(distance: f64) -> f64 {
    if distance > CUTOFF { 0.0 } else { (-distance.max(0.0)).exp() }
}

/// Gaussian patches. One row of the image at a time, one shift at a time: the distances of all
/// samples of the row grow together.
fn exact(image: &[f64], grid: &Grid, parameters: &NonLocalMeans) -> Vec<f64> {
    let [nz, ny, nx] = grid.dims;
    let radius = grid.on_axes(parameters.patch_size / 2, 0);
    let reach = grid.on_axes(parameters.patch_distance, 0);
    let (padded, pdims) = pad(image, grid.dims, radius, Border::Mirror);
    let patch = gaussian_patch(radius, pdims, parameters);
    let explained: f64 =
        patch.iter().map(|(_, w)| w).sum::<f64>() * 2.0 * parameters.sigma * parameters.sigma;

    let mut out = vec![0.0; image.len()];
    out.par_chunks_mut(nx).enumerate().for_each_init(
        || (vec![0.0; nx], vec![0.0; nx]),
        |(distance, norm), (row, out)| {
            let (z, y) = (row / ny, row % ny);
            norm.fill(0.0);
            for z2 in z.saturating_sub(reach[0])..(z + reach[0] + 1).min(nz) {
                for y2 in y.saturating_sub(reach[1])..(y + reach[1] + 1).min(ny) {
                    // the corner of the patch of the first sample of the row, and of its partner
                    let here = (z * pdims[1] + y) * pdims[2];
                    let there = (z2 * pdims[1] + y2) * pdims[2];
                    let partners = &image[(z2 * ny + y2) * nx..][..nx];
                    for shift in -(reach[2] as isize)..=reach[2] as isize {
                        // the samples of the row whose partner is inside the image
                        let first = (-shift).max(0) as usize;
                        let last = nx as isize - shift.max(0);
                        if last <= first as isize {
                            continue;
                        }
                        let n = last as usize - first;
                        let partner = (first as isize + shift) as usize;
                        let distance = &mut distance[..n];
                        distance.fill(-explained);
                        for (offset, w) in &patch {
                            let a = &padded[here + offset + first..][..n];
                            let b = &padded[there + offset + partner..][..n];
                            for ((distance, a), b) in distance.iter_mut().zip(a).zip(b) {
                                *distance += w * (a - b) * (a - b);
                            }
                        }
                        for i in 0..n {
                            let w = weight(distance[i]);
                            norm[first + i] += w;
                            out[first + i] += w * partners[partner + i];
                        }
                    }
                }
            }
            for (out, norm) in out.iter_mut().zip(norm) {
                *out /= *norm;
            }
        },
    );
    out
}

/// Flat offset in the padded image, from the corner of a patch, and weight of each of its samples.
fn gaussian_patch(
    radius: [usize; 3],
    pdims: [usize; 3],
    parameters: &NonLocalMeans,
) -> Vec<(usize, f64)> {
    let a = (parameters.patch_size as f64 - 1.0) / 4.0;
    let mut patch = Vec::new();
    for k in 0..=2 * radius[0] {
        for j in 0..=2 * radius[1] {
            for i in 0..=2 * radius[2] {
                let r2: f64 = [(k, radius[0]), (j, radius[1]), (i, radius[2])]
                    .iter()
                    .map(|(i, r)| (*i as f64 - *r as f64).powi(2))
                    .sum();
                let offset = (k * pdims[1] + j) * pdims[2] + i;
                patch.push((offset, (-r2 / (2.0 * a * a)).exp()));
            }
        }
    }
    let sum: f64 = patch.iter().map(|(_, w)| w).sum();
    let scale = 1.0 / (sum * parameters.h * parameters.h);
    patch.iter_mut().for_each(|(_, w)| *w *= scale);
    patch
}

/// Flat patches. One box of the image at a time, all shifts on it. The sums over a patch are added
/// up afresh rather than taken as differences of running ones: nothing cancels, and no box sees the
/// rounding of another.
fn fast(image: &[f64], grid: &Grid, parameters: &NonLocalMeans) -> Vec<f64> {
    let [nz, ny, nx] = grid.dims;
    let job = FastJob::new(image, grid, parameters);
    let corners: Vec<[usize; 2]> = (0..nz)
        .step_by(TILE[0])
        .flat_map(|z| (0..ny).step_by(TILE[1]).map(move |y| [z, y]))
        .collect();
    let tiles: Vec<Vec<f64>> = corners.par_iter().map(|corner| job.tile(*corner)).collect();

    let mut out = vec![0.0; image.len()];
    for ([z0, y0], tile) in corners.into_iter().zip(tiles) {
        let rows = TILE[1].min(ny - y0);
        for (i, row) in tile.chunks(nx).enumerate() {
            let (z, y) = (z0 + i / rows, y0 + i % rows);
            out[(z * ny + y) * nx..][..nx].copy_from_slice(row);
        }
    }
    out
}

/// What all boxes of the fast variant share.
struct FastJob {
    dims: [usize; 3],
    padded: Vec<f64>,
    pdims: [usize; 3],
    pad: [usize; 3],
    reach: [usize; 3],
    /// Side of the patch as it is summed: one short of `patch_size`.
    side: [usize; 3],
    /// From the sum of squared differences to the distance.
    scale: f64,
    /// The part of that sum which the noise explains.
    explained: f64,
}

impl FastJob {
    fn new(image: &[f64], grid: &Grid, parameters: &NonLocalMeans) -> Self {
        let radius = parameters.patch_size / 2;
        let pad_all = grid.on_axes(radius + parameters.patch_distance, 0);
        let (padded, pdims) = pad(image, grid.dims, pad_all, Border::Mirror);
        let volume = (parameters.patch_size as f64).powi(grid.rank as i32);
        let summed = (2.0 * radius as f64).powi(grid.rank as i32);
        Self {
            dims: grid.dims,
            padded,
            pdims,
            pad: pad_all,
            reach: grid.on_axes(parameters.patch_distance, 0),
            side: grid.on_axes(2 * radius, 1),
            scale: 1.0 / (volume * parameters.h * parameters.h),
            explained: 2.0 * parameters.sigma * parameters.sigma * summed,
        }
    }

    /// The box of the result with its first plane and row at `corner`.
    fn tile(&self, corner: [usize; 2]) -> Vec<f64> {
        let size = [
            TILE[0].min(self.dims[0] - corner[0]),
            TILE[1].min(self.dims[1] - corner[1]),
            self.dims[2],
        ];
        let start = [corner[0] + self.pad[0], corner[1] + self.pad[1], self.pad[2]];
        let halo = [0, 1, 2].map(|a| size[a] + self.side[a] - 1);
        let mut squares = vec![0.0; halo.iter().product()];
        let mut out = vec![0.0; size.iter().product()];
        let mut norm = vec![0.0; out.len()];
        let span = |a: usize| -(self.reach[a] as isize)..=self.reach[a] as isize;
        for tz in span(0) {
            for ty in span(1) {
                for tx in span(2) {
                    let shift = (tz * self.pdims[1] as isize + ty) * self.pdims[2] as isize + tx;
                    self.squared_differences(&mut squares, start, halo, shift);
                    for axis in 0..3 {
                        sum_ahead(&mut squares, halo, axis, self.side[axis]);
                    }
                    for (i, (out, norm)) in
                        out.chunks_mut(size[2]).zip(norm.chunks_mut(size[2])).enumerate()
                    {
                        let (z, y) = (i / size[1], i % size[1]);
                        let sums = &squares[(z * halo[1] + y) * halo[2]..][..size[2]];
                        let at = self.flat(start[0] + z, start[1] + y, start[2]);
                        let partners = &self.padded[at.wrapping_add_signed(shift)..][..size[2]];
                        for x in 0..size[2] {
                            let w = weight((sums[x] - self.explained) * self.scale);
                            norm[x] += w;
                            out[x] += w * partners[x];
                        }
                    }
                }
            }
        }
        for (out, norm) in out.iter_mut().zip(norm) {
            *out /= norm;
        }
        out
    }

    fn flat(&self, z: usize, y: usize, x: usize) -> usize {
        (z * self.pdims[1] + y) * self.pdims[2] + x
    }

    /// Squared difference of each sample of the box and its halo to its partner at `shift`. The
    /// halo starts half a patch below `start`.
    fn squared_differences(
        &self,
        squares: &mut [f64],
        start: [usize; 3],
        halo: [usize; 3],
        shift: isize,
    ) {
        let low = self.side.map(|side| side.saturating_sub(1) / 2);
        for (i, row) in squares.chunks_mut(halo[2]).enumerate() {
            let (z, y) = (start[0] - low[0] + i / halo[1], start[1] - low[1] + i % halo[1]);
            let at = self.flat(z, y, start[2] - low[2]);
            let a = &self.padded[at..][..halo[2]];
            let b = &self.padded[at.wrapping_add_signed(shift)..][..halo[2]];
            for ((square, a), b) in row.iter_mut().zip(a).zip(b) {
                *square = (a - b) * (a - b);
            }
        }
    }
}

/// Adds to each sample the `side - 1` that follow it along `axis`, as far as there are that many.
fn sum_ahead(values: &mut [f64], dims: [usize; 3], axis: usize, side: usize) {
    let inner: usize = dims[axis + 1..].iter().product();
    for block in values.chunks_mut(dims[axis] * inner) {
        for row in 0..dims[axis] + 1 - side {
            let (sum, later) = block[row * inner..].split_at_mut(inner);
            for following in later.chunks(inner).take(side - 1) {
                for (sum, value) in sum.iter_mut().zip(following) {
                    *sum += value;
                }
            }
        }
    }
}
