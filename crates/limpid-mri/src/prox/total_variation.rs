//! The proximal map of total variation.

use super::{Prox, check_dims};
use crate::{Complex, Error, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Isotropic total variation, `Σ_r √(Σ_d |x(r + e_d) − x(r)|²)` with no difference across the edge, of each
/// complex image by itself. Its proximal map is found on its dual by accelerated projected gradients from zero
/// (Chambolle, JMIV 2004; Beck and Teboulle, IEEE TIP 2009).
#[derive(Clone, Debug)]
pub struct TotalVariation<T> {
    images: usize,
    dims: Vec<usize>,
    iterations: usize,
    /// Dual of the differences, and the point beyond it: `[rows, axes, row]`.
    duals: [Vec<Complex<T>>; 2],
    primal: Vec<Complex<T>>,
}

impl<T: Real> TotalVariation<T> {
    /// A map of `images` images of the sizes `dims`, by `iterations` steps on the dual.
    ///
    /// # Errors
    /// If there are no images, a size is zero, or there are no iterations.
    pub fn new(images: usize, dims: &[usize], iterations: usize) -> Result<Self> {
        const OP: &str = "total variation";
        check_dims(OP, images, dims)?;
        if iterations == 0 {
            return Err(Error::value(OP, "`iterations` must be above zero"));
        }
        let pixels: usize = dims.iter().product();
        let dual = || vec![Complex::default(); pixels * dims.len()];
        let (duals, primal) = ([dual(), dual()], vec![Complex::default(); pixels]);
        Ok(Self { images, dims: dims.to_vec(), iterations, duals, primal })
    }

    fn solve(&mut self, x: &mut [Complex<T>], threshold: f64) {
        let Self { dims, iterations, duals: [dual, point], primal, .. } = self;
        let grid = Grid::new(dims);
        dual.fill(Complex::default());
        point.fill(Complex::default());
        // the norm of the differences is at most `4 · axes`
        let step = T::of((4.0 * dims.len() as f64 * threshold).recip());
        let mut pace = 1.0f64;
        for _ in 0..*iterations {
            grid.primal(x, point, T::of(threshold), primal);
            let next = (1.0 + (1.0 + 4.0 * pace * pace).sqrt()) / 2.0;
            grid.ascend(primal, dual, point, step, T::of((pace - 1.0) / next));
            pace = next;
        }
        grid.primal(x, dual, T::of(threshold), primal);
        x.copy_from_slice(primal);
    }
}

impl<T: Real> Prox<T> for TotalVariation<T> {
    fn domain(&self) -> usize {
        self.images * self.primal.len()
    }

    fn apply(&mut self, x: &mut [Complex<T>], threshold: f64) {
        assert_eq!(x.len(), self.domain(), "whole images");
        if !(threshold > 0.0) {
            return;
        }
        for image in x.chunks_mut(self.primal.len()) {
            self.solve(image, threshold);
        }
    }
}

/// Rows of an image and their neighbours.
struct Grid<'a> {
    dims: &'a [usize],
    /// Rows between neighbours along each axis but the last.
    strides: Vec<usize>,
    row: usize,
}

impl<'a> Grid<'a> {
    fn new(dims: &'a [usize]) -> Self {
        let last = dims.len() - 1;
        let strides = (0..last).map(|d| dims[d + 1..last].iter().product()).collect();
        Self { dims, strides, row: dims[last] }
    }

    /// Rows that one task takes, at least.
    fn least(&self) -> usize {
        ((1 << 12) / self.row).max(1)
    }

    /// `primal = x − threshold · Dᴴ dual`, where `D` takes forward differences.
    fn primal<T: Real>(
        &self,
        x: &[Complex<T>],
        dual: &[Complex<T>],
        threshold: T,
        primal: &mut [Complex<T>],
    ) {
        let (row, axes) = (self.row, self.dims.len());
        let of = |r: usize, axis: usize| &dual[(r * axes + axis) * row..][..row];
        let rows = primal.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate();
        rows.with_min_len(self.least()).for_each(|(r, (primal, x))| {
            vectorised(
                #[inline(always)]
                || {
                    // the dual is zero where there is no difference, at the end of each axis
                    let along = of(r, axes - 1);
                    primal[0] = x[0] + along[0].scale(threshold);
                    for i in 1..row {
                        primal[i] = x[i] + (along[i] - along[i - 1]).scale(threshold);
                    }
                    for (axis, &stride) in self.strides.iter().enumerate() {
                        let here = of(r, axis);
                        for (p, v) in primal.iter_mut().zip(here) {
                            *p = *p + v.scale(threshold);
                        }
                        if r / stride % self.dims[axis] > 0 {
                            for (p, v) in primal.iter_mut().zip(of(r - stride, axis)) {
                                *p = *p - v.scale(threshold);
                            }
                        }
                    }
                },
            );
        });
    }

    /// A projected gradient step of the dual from `point`, and the new point beyond it.
    fn ascend<T: Real>(
        &self,
        primal: &[Complex<T>],
        dual: &mut [Complex<T>],
        point: &mut [Complex<T>],
        step: T,
        momentum: T,
    ) {
        let (row, axes) = (self.row, self.dims.len());
        let rows = dual.par_chunks_mut(axes * row).zip(point.par_chunks_mut(axes * row));
        let buffers = || vec![T::zero(); row];
        let rows = rows.enumerate().with_min_len(self.least());
        rows.for_each_init(buffers, |squares, (r, (dual, point))| {
            vectorised(
                #[inline(always)]
                || {
                    let here = &primal[r * row..][..row];
                    squares.fill(T::zero());
                    for (axis, &stride) in self.strides.iter().enumerate() {
                        if r / stride % self.dims[axis] + 1 < self.dims[axis] {
                            let next = &primal[(r + stride) * row..][..row];
                            let point = &mut point[axis * row..][..row];
                            climb(point, here, next, step, squares);
                        }
                    }
                    let along = &mut point[(axes - 1) * row..][..row - 1];
                    climb(along, here, &here[1..], step, squares);
                    for square in squares.iter_mut() {
                        let length = square.f64().sqrt();
                        *square = T::of(length.max(1.0).recip());
                    }
                    for (dual, point) in dual.chunks_mut(row).zip(point.chunks_mut(row)) {
                        for ((d, p), &f) in dual.iter_mut().zip(point).zip(squares.iter()) {
                            let new = p.scale(f);
                            *p = new + (new - *d).scale(momentum);
                            *d = new;
                        }
                    }
                },
            );
        });
    }
}

/// `point += step · (next − here)`, and adds its squares.
#[inline(always)]
fn climb<T: Real>(
    point: &mut [Complex<T>],
    here: &[Complex<T>],
    next: &[Complex<T>],
    step: T,
    squares: &mut [T],
) {
    for (((p, a), b), s) in point.iter_mut().zip(here).zip(next).zip(squares) {
        *p = *p + (b - a).scale(step);
        *s += p.norm_sqr();
    }
}
