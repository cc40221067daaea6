//! Block matching and 3-D filtering.
//!
//! Dabov, Foi, Katkovnik & Egiazarian, "Image denoising by sparse 3-D transform-domain
//! collaborative filtering", IEEE TIP 16, 2007; for volumes its extension to cubes, Maggioni,
//! Katkovnik, Egiazarian & Foi, "Nonlocal transform-domain filter for volumetric data denoising
//! and reconstruction", IEEE TIP 22, 2013 (BM4D). Written from the papers, with their parameters.
//!
//! ```text
//! noisy ── match, bior1.5 x Haar, hard threshold ──> basic
//! noisy, basic ── match in basic, DCT x Haar, Wiener ──> result
//! ```
//!
//! Blocks that look alike are stacked and shrunk together: what they share is concentrated in a few
//! coefficients, noise is not. Every block of a stack gives an estimate of its pixels; estimates
//! are averaged, those of stacks with few coefficients counting more.
//!
//! Unlike in the papers, where blocks must agree within a fixed number of grey levels, the limit is
//! in units of the noise, equal to the published one at a standard deviation of 25 of 255: images
//! of any unit are treated alike. The mean of a stack always passes, so that an offset of the image
//! is an offset of the result.

mod stage;
mod transform;

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::border::Border;
use crate::error::{Result, require_valid};
use crate::grid::{Grid, pad};
use crate::wavelet::estimate_sigma;
use stage::{Shrink, Stage};
use transform::Transform;

/// Largest mean squared difference of matching blocks, over the noise variance, in the first stage
/// (3000 at a noise of 25).
const NOISY_MATCH: f64 = 4.8;
/// The same in the second stage, where blocks of the first result are compared (400).
const BASIC_MATCH: f64 = 0.64;
/// Most blocks in a stack of the first stage.
const NOISY_GROUP: usize = 16;
/// Most blocks in a stack of the second stage.
const BASIC_GROUP: usize = 32;
/// An image that exceeds its noise by this factor is as good as free of noise.
const CLEAN: f64 = 1e9;

/// BM3D.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bm3d {
    /// Standard deviation of the noise, in units of the image; by default it is estimated from the
    /// image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
    /// Coefficients below this many standard deviations of the noise count as noise in the first
    /// stage.
    pub threshold: f64,
    /// Distance of the blocks for which partners are sought, in samples: a greater one is faster
    /// and a little worse.
    pub step: usize,
    /// Farthest partner along each axis, in samples; by default 19, in volumes 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<usize>,
}

impl Default for Bm3d {
    fn default() -> Self {
        Self { sigma: None, threshold: 2.7, step: 3, reach: None }
    }
}

impl Validate for Bm3d {
    fn validate(&self, at: &mut Check) {
        if let Some(sigma) = self.sigma
            && !(sigma >= 0.0 && sigma.is_finite())
        {
            at.problem("sigma", format!("must be at least 0, got {sigma}"));
        }
        if !(self.threshold >= 0.0 && self.threshold.is_finite()) {
            at.problem("threshold", format!("must be at least 0, got {}", self.threshold));
        }
        // the blocks of a volume are four wide: no sample may be left out
        if !(1..=4).contains(&self.step) {
            at.problem("step", format!("must be between 1 and 4 samples, got {}", self.step));
        }
        if let Some(reach) = self.reach
            && !(1..=99).contains(&reach)
        {
            at.problem("reach", format!("must be between 1 and 99 samples, got {reach}"));
        }
    }
}

/// Filters blocks that look alike together. Images have blocks of 8² samples, volumes of 4³; axes
/// with a single sample do not count, and images smaller than a block are mirrored at their edges.
///
/// # Errors
/// A shape that does not fit, a value that is not finite, or a parameter out of range.
pub fn bm3d(image: &[f64], shape: &[usize], parameters: &Bm3d) -> Result<Vec<f64>> {
    Grid::new("bm3d", image, shape)?;
    require_valid("bm3d", parameters)?;
    let sigma = match parameters.sigma {
        Some(sigma) => sigma,
        None => estimate_sigma(image, shape)?,
    };
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    // in units of the noise from here on
    let scaled: Vec<f64> = image.iter().map(|v| (v - mean) / sigma).collect();
    if !scaled.iter().all(|v| v.abs() < CLEAN) {
        return Ok(image.to_vec());
    }
    let axes: Vec<usize> = shape.iter().copied().filter(|n| *n > 1).collect();
    let grid = Grid::of_shape("bm3d", if axes.is_empty() { &[1] } else { &axes })?;
    let out = if grid.rank == 3 {
        denoise::<4, 12>(&scaled, &grid, parameters, 5)
    } else {
        denoise::<8, 20>(&scaled, &grid, parameters, 19)
    };
    Ok(out.into_iter().map(|v| mean + sigma * v).collect())
}

/// Both stages with blocks of `SIDE` samples along each axis, for noise of unit variance.
fn denoise<const SIDE: usize, const LANES: usize>(
    image: &[f64],
    grid: &Grid,
    parameters: &Bm3d,
    usual_reach: usize,
) -> Vec<f64> {
    let sides = grid.on_axes(SIDE, 1);
    let margin = [0, 1, 2].map(|a| sides[a].saturating_sub(grid.dims[a]).div_ceil(2));
    let (noisy, dims) = pad(image, grid.dims, margin, Border::Reflect);
    let reach = grid.on_axes(parameters.reach.unwrap_or(usual_reach), 0);
    let voxels = sides.iter().product::<usize>() as f64;

    let hard = Stage::<SIDE, LANES> {
        dims,
        sides,
        reach,
        step: parameters.step,
        group: NOISY_GROUP,
        limit: (NOISY_MATCH * voxels) as f32,
        transform: Transform::bior15(),
        noisy: &noisy,
        shrink: Shrink::Hard { threshold: parameters.threshold },
    };
    let basic = hard.run();
    let wiener = Stage::<SIDE, LANES> {
        group: BASIC_GROUP,
        limit: (BASIC_MATCH * voxels) as f32,
        transform: Transform::cosine(),
        shrink: Shrink::Wiener { basic: &basic },
        ..hard
    };
    let padded = wiener.run();

    let [nz, ny, nx] = grid.dims;
    let mut out = Vec::with_capacity(image.len());
    for z in 0..nz {
        for y in 0..ny {
            let row = ((z + margin[0]) * dims[1] + y + margin[1]) * dims[2] + margin[2];
            out.extend_from_slice(&padded[row..row + nx]);
        }
    }
    out
}
