//! A way of its own for every pixel: dense Lucas–Kanade with local contrast, coarse to fine.
//!
//! Around each place the warped image is fitted, under a Gaussian window, by the fixed image, a
//! constant and the two gradients of the fixed image: `moving(p + u) ≈ α fixed(p) + β − α ∇fixed·δ`
//! (Lucas & Kanade 1981; gain and offset after Negahdaripour, IEEE TPAMI 20, 1998), and `u` grows by
//! `δ`. The window averages over hundreds of pixels, against photon noise; what a window blurs, the
//! next step mends. Since the result is as smooth as the window, it is kept at nodes several pixels
//! apart.

use limpid_config::{Check, Validate};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::warp::{cubic, is_inside};
use super::{Level, check_pair, gradient, pyramid, solve};
use crate::border::Border;
use crate::error::{Result, require_valid};
use crate::gaussian::smooth;
use crate::grid::Grid;

const OP: &str = "optical_flow";
/// Least rows and columns, also at the coarsest scale.
const LEAST: usize = 16;
/// Nodes per standard deviation of the window.
const NODES: f64 = 2.0;
/// Sums of a window: weight, three terms, their six products, the warped image and its products.
const SUMS: usize = 14;
/// Most that a step changes the flow, in pixels of its scale: further the gradient does not see.
const REACH: f64 = 1.5;
/// Least part of a window that must lie within the moving image.
const SHARED: f64 = 0.1;

/// Settings of [`optical_flow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Standard deviation in pixels of the window around each place; larger for noisier images,
    /// smaller for distortions that vary faster.
    pub window: f64,
    /// Standard deviation in pixels of the Gaussian that both images are smoothed with. The window
    /// averages better, so a clean fixed image needs none; more helps where it is noisy too.
    pub smooth: f64,
    /// Most scales, each half as fine as the one before: at the coarsest, ways of about two pixels
    /// can be found.
    pub levels: usize,
    /// Steps at each scale.
    pub steps: usize,
    /// How far windows without structure keep to the flow of the coarser scale, as a part of the
    /// mean structure of the image.
    pub damping: f64,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { window: 16.0, smooth: 0.5, levels: 4, steps: 5, damping: 0.02 }
    }
}

impl Validate for FlowConfig {
    fn validate(&self, at: &mut Check) {
        if !(1.0..=256.0).contains(&self.window) {
            at.problem("window", format!("must be between 1 and 256 pixels, got {}", self.window));
        }
        if !(0.0..=64.0).contains(&self.smooth) {
            at.problem("smooth", format!("must be between 0 and 64 pixels, got {}", self.smooth));
        }
        for (key, value) in [("levels", self.levels), ("steps", self.steps)] {
            if !(1..=1000).contains(&value) {
                at.problem(key, format!("must be between 1 and 1000, got {value}"));
            }
        }
        if !(self.damping >= 0.0 && self.damping.is_finite()) {
            at.problem("damping", format!("must be 0 or above, got {}", self.damping));
        }
    }
}

/// Finds where each pixel of the fixed image lies in the moving one: `moving(p + flow(p)) =
/// fixed(p)`, down and right.
///
/// # Shapes
/// `fixed` and `moving` `[H, W]`, at least 16 pixels high and wide → twice `[H, W]`, in pixels
///
/// # Errors
/// Shapes that do not fit, a value that is not finite, or a setting out of range.
pub fn optical_flow(
    fixed: &[f64],
    moving: &[f64],
    shape: [usize; 2],
    config: &FlowConfig,
) -> Result<[Vec<f64>; 2]> {
    check_pair(OP, fixed, moving, shape, LEAST)?;
    require_valid(OP, config)?;
    let fixed = pyramid(fixed, shape, config.smooth, config.levels, LEAST)?;
    let moving = pyramid(moving, shape, config.smooth, config.levels, LEAST)?;
    let mut flow: Option<Nodes> = None;
    for (f, m) in fixed.iter().zip(&moving).rev() {
        let mut finer = Nodes::new(f.shape, config.window, flow.as_ref());
        for _ in 0..config.steps {
            finer.improve(f, m, config)?;
        }
        flow = Some(finer);
    }
    Ok(flow.map(|flow| flow.dense()).unwrap_or_default())
}

/// A flow at the middles of blocks of pixels; between them it is interpolated.
struct Nodes {
    /// Of the image.
    shape: [usize; 2],
    /// Rows and columns of a block; the last ones may be smaller.
    step: usize,
    /// Rows and columns of blocks.
    count: [usize; 2],
    flow: Vec<[f64; 2]>,
}

impl Nodes {
    /// Nodes for an image of `shape`, from the flow at half the scale or at rest.
    fn new(shape: [usize; 2], window: f64, coarser: Option<&Self>) -> Self {
        let step = (window / NODES).max(1.0) as usize;
        let count = shape.map(|n| n.div_ceil(step));
        let mut flow = vec![[0.0; 2]; count[0] * count[1]];
        if let Some(coarser) = coarser {
            // pixel i there lies at 2 i + 0.5 here
            let middle = |i: usize| 0.5 * ((i * step) as f64 + 0.5 * (step as f64 - 1.0) - 0.5);
            let columns: Vec<_> = (0..count[1]).map(|i| coarser.between(middle(i), 1)).collect();
            for (i, line) in flow.chunks_mut(count[1]).enumerate() {
                let row = coarser.between(middle(i), 0);
                for (flow, column) in line.iter_mut().zip(&columns) {
                    *flow = coarser.at(row, *column).map(|v| 2.0 * v);
                }
            }
        }
        Self { shape, step, count, flow }
    }

    /// The node before a place on an axis, and how far the place lies on the way to the next.
    fn between(&self, place: f64, axis: usize) -> (usize, f64) {
        let last = self.count[axis] - 1;
        let step = self.step as f64;
        let at = ((place - 0.5 * (step - 1.0)) / step).clamp(0.0, last as f64);
        let before = (at as usize).min(last.saturating_sub(1));
        (before, at - before as f64)
    }

    /// The flow between nodes.
    #[inline]
    fn at(&self, (y, v): (usize, f64), (x, u): (usize, f64)) -> [f64; 2] {
        let [rows, columns] = self.count;
        let (below, right) = ((y + 1).min(rows - 1), (x + 1).min(columns - 1));
        let [a, b] = [x, right].map(|x| self.flow[y * columns + x]);
        let [c, d] = [x, right].map(|x| self.flow[below * columns + x]);
        [0, 1].map(|i| {
            let (above, below) = (a[i] + u * (b[i] - a[i]), c[i] + u * (d[i] - c[i]));
            above + v * (below - above)
        })
    }

    /// The flow of every pixel.
    fn dense(&self) -> [Vec<f64>; 2] {
        let [h, w] = self.shape;
        let (mut down, mut right) = (vec![0.0; h * w], vec![0.0; h * w]);
        let columns: Vec<_> = (0..w).map(|x| self.between(x as f64, 1)).collect();
        let lines = down.par_chunks_mut(w).zip(right.par_chunks_mut(w)).enumerate();
        lines.for_each(|(y, (down, right))| {
            let row = self.between(y as f64, 0);
            for ((down, right), column) in down.iter_mut().zip(right).zip(&columns) {
                [*down, *right] = self.at(row, *column);
            }
        });
        [down, right]
    }

    /// One step of every node.
    fn improve(&mut self, fixed: &Level, moving: &Level, config: &FlowConfig) -> Result<()> {
        let sums = self.sums(fixed, moving);
        let total = sums.iter().fold([0.0; SUMS], |mut total, sums| {
            total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
            total
        });
        let Some(whole) = Fit::of(&total) else { return Ok(()) };
        let damping = config.damping * 0.5 * (whole.terms[1][1] + whole.terms[2][2]);
        let Some([gain, ..]) = whole.solve(damping).filter(|[gain, ..]| *gain > 0.0) else {
            return Ok(()); // nothing in common at this scale
        };

        let [rows, columns] = self.count;
        let grid = Grid::of_shape(OP, &[rows, columns, SUMS])?;
        let sigma = config.window / self.step as f64;
        let windows =
            smooth(sums.as_flattened(), &grid, [sigma, sigma, 0.0], Border::Constant(0.0));
        let full = (self.step * self.step) as f64;
        let update = |(flow, sums): (&mut [f64; 2], &[f64; SUMS])| {
            let fit = Fit::of(sums).filter(|_| sums[0] >= SHARED * full);
            let Some([own, down, right]) = fit.and_then(|fit| fit.solve(damping)) else { return };
            // where the images differ, a contrast near zero would make any way long
            let own = own.max(0.5 * gain);
            let way = [-down / own, -right / own];
            let shorter = (REACH / way[0].hypot(way[1])).min(1.0);
            if shorter.is_finite() {
                flow.iter_mut().zip(way).for_each(|(flow, way)| *flow += shorter * way);
            }
        };
        let windows = windows.as_chunks::<SUMS>().0;
        self.flow.par_iter_mut().zip(windows).for_each(update);
        Ok(())
    }

    /// The sums over each block.
    fn sums(&self, fixed: &Level, moving: &Level) -> Vec<[f64; SUMS]> {
        let ([h, w], columns) = (self.shape, self.count[1]);
        let across: Vec<_> = (0..w).map(|x| self.between(x as f64, 1)).collect();
        let mut all = vec![[0.0; SUMS]; self.flow.len()];
        all.par_chunks_mut(columns).enumerate().for_each(|(block, line)| {
            for y in block * self.step..((block + 1) * self.step).min(h) {
                let row = self.between(y as f64, 0);
                for x in 0..w {
                    let [down, right] = self.at(row, across[x]);
                    let place = [y as f64 + down, x as f64 + right];
                    if !is_inside(place, moving.shape) {
                        continue;
                    }
                    let m = cubic(&moving.image, moving.shape, place, Border::Nearest);
                    let f = fixed.image[y * w + x];
                    let [gy, gx] = gradient(&fixed.image, fixed.shape, y, x);
                    let terms = [
                        1.0,
                        f,
                        gy,
                        gx,
                        f * f,
                        f * gy,
                        f * gx,
                        gy * gy,
                        gy * gx,
                        gx * gx,
                        m,
                        m * f,
                        m * gy,
                        m * gx,
                    ];
                    let sums = &mut line[x / self.step];
                    sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
            }
        });
        all
    }
}

/// The covariances that a window tells: of the fixed image and its gradients, and of these with the
/// warped image.
struct Fit {
    terms: [[f64; 3]; 3],
    warped: [f64; 3],
}

impl Fit {
    /// Of sums; `None` without any weight.
    fn of(sums: &[f64; SUMS]) -> Option<Self> {
        if !(sums[0] > 0.0) {
            return None;
        }
        let [_, f, y, x, ff, fy, fx, yy, yx, xx, m, mf, my, mx] = sums.map(|s| s / sums[0]);
        let (fy, fx, yx) = (fy - f * y, fx - f * x, yx - y * x);
        Some(Self {
            terms: [[ff - f * f, fy, fx], [fy, yy - y * y, yx], [fx, yx, xx - x * x]],
            warped: [mf - m * f, my - m * y, mx - m * x],
        })
    }

    /// The parts of the fixed image and of its gradients in the warped image; `damping` draws the
    /// latter to zero.
    fn solve(&self, damping: f64) -> Option<[f64; 3]> {
        let mut terms = self.terms;
        terms[1][1] += damping;
        terms[2][2] += damping;
        solve(terms, self.warped)
    }
}
