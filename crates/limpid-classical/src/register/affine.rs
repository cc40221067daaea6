//! The affine map between two images that correlates them best.
//!
//! The criterion is the enhanced correlation coefficient of Evangelidis & Psarakis (IEEE TPAMI 30,
//! 2008): the correlation of the fixed image with the moving one, which is blind to brightness and
//! contrast. It is maximised in the inverse form of Baker & Matthews (IJCV 56, 2004, and part 3):
//! the warped image is fitted by the fixed one, a constant, and the changes of the fixed one under
//! the six parameters. So the gradients come from the fixed image, which is not warped.

use rayon::prelude::*;

use super::warp::{apply_affine, cubic, invert_affine, is_inside};
use super::{Level, check_pair, gradient, pyramid, solve};
use crate::border::Border;
use crate::error::{Error, Result};

const OP: &str = "affine_registration";
/// Least rows and columns at the coarsest scale.
const LEAST: usize = 32;
/// Standard deviation in pixels of the Gaussian that both images are smoothed with.
const SMOOTH: f64 = 0.5;
/// Steps at one scale.
const STEPS: usize = 40;
/// Corners that move by fewer pixels have come to rest.
const REST: f64 = 2e-3;
/// Least part of the fixed image that must be found in the moving one.
const SHARED: f64 = 0.25;
/// Rows whose sums are added up before they join the others.
const ROWS: usize = 16;
/// Fixed image, constant, and the changes under the six parameters.
const TERMS: usize = 8;

/// What [`affine_registration`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineFit {
    /// `moving(matrix [y, x, 1]) = fixed(y, x)`, in pixels.
    pub matrix: [[f64; 3]; 2],
    /// Correlation of the two images where both are known, after smoothing by half a pixel.
    pub correlation: f64,
    /// Whether the map came to rest at the finest scale. If not, it is the start.
    pub converged: bool,
}

/// Finds the affine map that correlates the images best, near `start`, which maps as the result.
/// `levels` is the most scales, each half as fine as the one before; at the coarsest one the start
/// must be right to a few pixels.
///
/// # Shapes
/// `fixed` and `moving` `[H, W]`, at least 32 pixels high and wide
///
/// # Errors
/// Shapes that do not fit, a value that is not finite, or no level.
pub fn affine_registration(
    fixed: &[f64],
    moving: &[f64],
    shape: [usize; 2],
    start: [[f64; 3]; 2],
    levels: usize,
) -> Result<AffineFit> {
    check_pair(OP, fixed, moving, shape, LEAST)?;
    if levels == 0 {
        return Err(Error::parameter(OP, "`levels` must be at least 1"));
    }
    if let Some(bad) = start.iter().flatten().find(|v| !(v.abs() <= 1e6)) {
        let problem = format!("`start` must hold numbers of at most 1e6, got {bad}");
        return Err(Error::parameter(OP, problem));
    }
    let fixed = pyramid(fixed, shape, SMOOTH, levels, LEAST)?;
    let moving = pyramid(moving, shape, SMOOTH, levels, LEAST)?;
    let mut matrix = (1..fixed.len()).fold(start, |matrix, _| coarser(&matrix));
    let mut converged = false;
    for (i, (f, m)) in fixed.iter().zip(&moving).enumerate().rev() {
        (matrix, converged) = refine(f, m, matrix);
        if i > 0 {
            matrix = finer(&matrix);
        }
    }
    if !converged {
        matrix = start;
    }
    let correlation = Sums::of(&fixed[0], &moving[0], &matrix).correlation();
    Ok(AffineFit { matrix, correlation, converged })
}

/// The map at half the scale, where pixel `i` lies at `2 i + ½`.
fn coarser(matrix: &[[f64; 3]; 2]) -> [[f64; 3]; 2] {
    matrix.map(|[a, b, c]| [a, b, 0.5 * (c - 0.5 + 0.5 * (a + b))])
}

/// The map at twice the scale.
fn finer(matrix: &[[f64; 3]; 2]) -> [[f64; 3]; 2] {
    matrix.map(|[a, b, c]| [a, b, 2.0 * c + 0.5 - 0.5 * (a + b)])
}

/// Improves the map at one scale, and tells whether it came to rest.
fn refine(fixed: &Level, moving: &Level, start: [[f64; 3]; 2]) -> ([[f64; 3]; 2], bool) {
    let [h, w] = fixed.shape.map(|n| n as f64 - 1.0);
    let corners = [[0.0, 0.0], [0.0, w], [h, 0.0], [h, w]];
    let mut matrix = start;
    for _ in 0..STEPS {
        let sums = Sums::of(fixed, moving, &matrix);
        let Some(step) = sums.step(fixed.shape) else { return (start, false) };
        let Some(next) = compose(&matrix, &step) else { return (start, false) };
        let moves = corners.iter().map(|[y, x]| {
            let [from, to] = [&matrix, &next].map(|m| apply_affine(m, *y, *x));
            (to[0] - from[0]).hypot(to[1] - from[1])
        });
        let most = moves.fold(0.0, f64::max);
        matrix = next;
        if !(most < h + w) {
            return (start, false);
        }
        if most < REST {
            return (matrix, true);
        }
    }
    (start, false)
}

/// `matrix · (1 - step)⁻¹`.
fn compose(matrix: &[[f64; 3]; 2], step: &[[f64; 3]; 2]) -> Option<[[f64; 3]; 2]> {
    let ([a, b, c], [d, e, f]) = (step[0].map(|v| -v), step[1].map(|v| -v));
    let inverse = invert_affine(&[[1.0 + a, b, c], [d, 1.0 + e, f]])?;
    Some(matrix.map(|[p, q, r]| {
        let part = |k: usize| p * inverse[0][k] + q * inverse[1][k];
        [part(0), part(1), part(2) + r]
    }))
}

/// Sums of products over the pixels that both images know.
#[derive(Clone, Copy)]
struct Sums {
    /// Of the terms with each other, the upper triangle.
    terms: [[f64; TERMS]; TERMS],
    /// Of the terms with the warped image.
    warped: [f64; TERMS],
    /// Of the warped image with itself.
    square: f64,
    /// Pixels of the fixed image.
    pixels: usize,
}

impl Sums {
    fn of(fixed: &Level, moving: &Level, matrix: &[[f64; 3]; 2]) -> Self {
        let [h, w] = fixed.shape;
        let none =
            Self { terms: [[0.0; TERMS]; TERMS], warped: [0.0; TERMS], square: 0.0, pixels: h * w };
        let row = |mut sums: Self, y: usize| {
            for x in 0..w {
                let place = apply_affine(matrix, y as f64, x as f64);
                if !is_inside(place, moving.shape) {
                    continue;
                }
                let value = cubic(&moving.image, moving.shape, place, Border::Nearest);
                let [down, right] = gradient(&fixed.image, fixed.shape, y, x);
                let [v, u] = [unit(y, h), unit(x, w)];
                let terms = [
                    fixed.image[y * w + x],
                    1.0,
                    down * v,
                    down * u,
                    down,
                    right * v,
                    right * u,
                    right,
                ];
                for i in 0..TERMS {
                    for j in i..TERMS {
                        sums.terms[i][j] += terms[i] * terms[j];
                    }
                    sums.warped[i] += terms[i] * value;
                }
                sums.square += value * value;
            }
            sums
        };
        let blocks = (0..h.div_ceil(ROWS)).into_par_iter();
        let blocks = blocks.map(|b| (b * ROWS..((b + 1) * ROWS).min(h)).fold(none, row));
        // in order, so that the number of threads changes no bit
        blocks.collect::<Vec<Self>>().iter().fold(none, Self::plus)
    }

    fn plus(mut self, other: &Self) -> Self {
        for i in 0..TERMS {
            for j in i..TERMS {
                self.terms[i][j] += other.terms[i][j];
            }
            self.warped[i] += other.warped[i];
        }
        self.square += other.square;
        self
    }

    /// Correlation of the fixed and the warped image.
    fn correlation(&self) -> f64 {
        let n = self.terms[1][1];
        let (f, m) = (self.terms[0][1] / n, self.warped[1] / n);
        let (ff, mm) = (self.terms[0][0] / n - f * f, self.square / n - m * m);
        let r = (self.warped[0] / n - f * m) / (ff * mm).sqrt();
        if r.is_finite() { r } else { 0.0 }
    }

    /// How the map should change, in pixels of the fixed image; `None` if too little is shared or
    /// the images do not tell.
    fn step(&self, [h, w]: [usize; 2]) -> Option<[[f64; 3]; 2]> {
        if self.terms[1][1] < SHARED * self.pixels as f64 {
            return None;
        }
        let mut all = self.terms;
        for i in 0..TERMS {
            for j in 0..i {
                all[i][j] = all[j][i];
            }
        }
        let [gain, _, change @ ..] = solve(all, self.warped)?;
        if !(gain > 0.0) {
            return None;
        }
        let [sy, sx] = [h, w].map(|n| 2.0 / n as f64);
        let [cy, cx] = [h, w].map(|n| (n as f64 - 1.0) / 2.0);
        let pixels = |a: f64, b: f64, c: f64| {
            let [a, b, c] = [-a / gain * sy, -b / gain * sx, -c / gain];
            [a, b, c - a * cy - b * cx]
        };
        let [a, b, c, d, e, f] = change;
        Some([pixels(a, b, c), pixels(d, e, f)])
    }
}

/// A pixel of `n`, counted from the middle in halves of the image.
fn unit(i: usize, n: usize) -> f64 {
    (i as f64 - (n as f64 - 1.0) / 2.0) * (2.0 / n as f64)
}
