//! Samples that lie on a Cartesian grid, finer than that of the image or the same: Fourier transforms are all
//! that is left of the non-uniform transform.

use crate::error::expect_matrix;
use crate::fft::Filter;
use crate::{CentredFft, Complex, Error, Operator, Real, Result};
use rayon::prelude::*;

/// How far a position may be from a point of the grid, in points.
const SLACK: f64 = 1e-3;

/// Numbers for which waking a thread is worth while.
const LEAST: usize = 1 << 13;

/// The transform between images of the sizes `matrix` and samples at points of a grid that is oversampled. It is
/// that of the crate's conventions, exactly if the oversampling times each size is whole. Several samples may
/// lie at one point.
pub struct GridOperator<T: Real> {
    matrix: Vec<usize>,
    fft: CentredFft<T>,
    /// The point of the grid of each sample.
    index: Vec<usize>,
    /// Samples by their points.
    order: Vec<usize>,
    /// Where in that order the samples of each row of the grid begin, and the end.
    rows: Vec<usize>,
    scale: T,
}

impl<T: Real> GridOperator<T> {
    /// For samples at the positions `targets`, `[samples, rank]` in cycles per field of view, that are multiples
    /// of `1/oversampling`, on a grid of the sizes `round(oversampling · matrix)`.
    ///
    /// # Errors
    /// If the rank is not two or three, the oversampling is not 1 to 1000, the grid too large, or a position is not at a
    /// point of the grid.
    pub fn new(targets: &[f64], matrix: &[usize], oversampling: f64) -> Result<Self> {
        const OP: &str = "grid";
        let rank = matrix.len();
        expect_matrix(OP, matrix)?;
        if !(1.0..=1e3).contains(&oversampling) {
            let problem = format!("the oversampling is {oversampling}, it must be 1 to 1000");
            return Err(Error::value(OP, problem));
        }
        if targets.is_empty() || !targets.len().is_multiple_of(rank) {
            let expected = format!("positions of {rank} coordinates");
            return Err(Error::shape(OP, expected, format!("{} values", targets.len())));
        }
        let sizes = grid_sizes(matrix, oversampling);
        expect_matrix(OP, &sizes)?;
        let index = indices(OP, targets, matrix, oversampling)?;

        let mut order: Vec<usize> = (0..index.len()).collect();
        order.par_sort_unstable_by_key(|&i| (index[i], i));
        let row = sizes[rank - 1];
        let first = |at: usize| order.partition_point(|&i| index[i] < at * row);
        let pixels: usize = sizes.iter().product();
        let rows = (0..=pixels / row).map(first).collect();

        let ratio = pixels as f64 / matrix.iter().product::<usize>() as f64;
        let (matrix, scale) = (matrix.to_vec(), T::of(ratio.sqrt()));
        Ok(Self { matrix, fft: CentredFft::new(&sizes), index, order, rows, scale })
    }

    /// `Aᴴ W A`, of a weight of each sample.
    pub(crate) fn filter(&self, weights: &[T]) -> Filter<T> {
        let ratio = self.fft.pixels() as f64 / self.domain() as f64;
        let mut mask = vec![0.0; self.fft.pixels()];
        for (&at, &weight) in self.index.iter().zip(weights) {
            mask[at] += ratio * weight.f64();
        }
        let mask: Vec<T> = mask.into_iter().map(T::of).collect();
        Filter::new(&self.fft, &self.matrix, &mask)
    }

    /// The sizes of the grid.
    pub fn grid(&self) -> &[usize] {
        self.fft.dims()
    }

    /// The point of the grid of each sample, as an index in row-major order.
    pub fn index(&self) -> &[usize] {
        &self.index
    }
}

impl<T: Real> Operator<T> for GridOperator<T> {
    fn domain(&self) -> usize {
        self.matrix.iter().product()
    }

    fn range(&self) -> usize {
        self.index.len()
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        assert_eq!(image.len(), self.domain(), "one image is sampled");
        assert_eq!(samples.len(), self.range(), "there is room for its samples");
        let mut grid = vec![Complex::default(); self.fft.pixels()];
        self.fft.forward_padded(image, &self.matrix, &mut grid);
        let values = samples.par_iter_mut().zip(&self.index).with_min_len(LEAST);
        values.for_each(|(sample, &at)| *sample = grid[at].scale(self.scale));
    }

    /// Adds samples to an empty grid and transforms it back.
    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        assert_eq!(samples.len(), self.range(), "the samples are those of one image");
        assert_eq!(image.len(), self.domain(), "there is room for the image");
        let row = self.fft.dims()[self.matrix.len() - 1];
        let mut grid = vec![Complex::default(); self.fft.pixels()];
        let rows = grid.par_chunks_mut(row).enumerate().with_min_len((LEAST / row).max(1));
        rows.for_each(|(at, values)| {
            for &i in &self.order[self.rows[at]..self.rows[at + 1]] {
                let value = &mut values[self.index[i] - at * row];
                *value = *value + samples[i].scale(self.scale);
            }
        });
        self.fft.inverse_cropped(&mut grid, &self.matrix, image);
    }
}

/// The sizes of the grid.
fn grid_sizes(matrix: &[usize], oversampling: f64) -> Vec<usize> {
    matrix.iter().map(|&n| (n as f64 * oversampling).round_ties_even() as usize).collect()
}

/// The point of the grid of each position; the grid is periodic.
fn indices(
    op: &'static str,
    targets: &[f64],
    matrix: &[usize],
    oversampling: f64,
) -> Result<Vec<usize>> {
    let sizes = grid_sizes(matrix, oversampling);
    let point = |sample: usize, axis: usize, k: f64| {
        let at = (k * oversampling).round_ties_even();
        if !((k * oversampling - at).abs() <= SLACK) {
            let problem = format!(
                "coordinate {axis} of sample {sample} is {k}, no multiple of 1/{oversampling}; were the \
                 samples gridded for another oversampling?"
            );
            return Err(Error::value(op, problem));
        }
        let edge = matrix[axis] as f64 / 2.0;
        if k.abs() > edge + 1.0 {
            let problem = format!(
                "coordinate {axis} of sample {sample} is {k} cycles per field of view, an image of {} voxels \
                 holds {edge}; is the trajectory in another unit, or the image too small?",
                matrix[axis]
            );
            return Err(Error::value(op, problem));
        }
        let size = sizes[axis];
        Ok((at + (size / 2) as f64).rem_euclid(size as f64) as usize)
    };
    let index = |(sample, position): (usize, &[f64])| {
        position
            .iter()
            .enumerate()
            .try_fold(0, |index, (axis, &k)| Ok(index * sizes[axis] + point(sample, axis, k)?))
    };
    targets.chunks_exact(matrix.len()).enumerate().map(index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::tests::{check_adjoint, distance, random};
    use crate::{Nufft, Trajectory, Weighted, fixture};

    /// Some points of the grid, one of them twice.
    fn targets(count: usize, matrix: &[usize], oversampling: f64) -> Vec<f64> {
        let sizes = grid_sizes(matrix, oversampling);
        let coordinate = |i: usize| {
            let (at, axis) = (i / matrix.len() % (count - 1), i % matrix.len());
            let index = (at * 37 + axis * 11 + at * at) % sizes[axis];
            (index as f64 - (sizes[axis] / 2) as f64) / oversampling
        };
        (0..count * matrix.len()).map(coordinate).collect()
    }

    const CASES: [(&[usize], f64); 5] =
        [(&[16, 16], 1.0), (&[16, 10], 1.5), (&[15, 9], 2.0), (&[5, 8, 6], 1.0), (&[4, 6, 8], 1.5)];

    #[test]
    fn is_the_transform_at_points_of_the_grid() {
        for (matrix, oversampling) in CASES {
            let targets = targets(90, matrix, oversampling);
            let grid = GridOperator::<f64>::new(&targets, matrix, oversampling).unwrap();
            let trajectory = Trajectory::new(1, 90, matrix.len(), targets).unwrap();
            let nufft = Nufft::<f64>::new(&trajectory, matrix, 1e-12).unwrap();
            let image = random(1, grid.domain());
            let mut samples = random(2, grid.range());
            let mut expected = samples.clone();
            grid.forward(&image, &mut samples);
            nufft.forward(&image, &mut expected);
            assert!(distance(&samples, &expected) < 1e-11, "{matrix:?}");
            check_adjoint(&grid, 1e-14);
        }
    }

    #[test]
    fn weights_are_a_mask_of_the_grid() {
        for (matrix, oversampling) in CASES {
            let targets = targets(90, matrix, oversampling);
            let weights: Vec<f64> = (0..90).map(|i| 0.1 + (i % 13) as f64).collect();
            let grid = || GridOperator::<f64>::new(&targets, matrix, oversampling).unwrap();
            let masked = Weighted::on_grid(grid(), weights.clone()).unwrap();
            check_adjoint(&masked, 1e-14);
            let images = random(1, 2 * masked.domain());
            let mut got = images.clone();
            masked.normal(&images, &mut got);
            let plain = Weighted::new(grid(), weights).unwrap();
            let mut expected = images.clone();
            let images = images.chunks(plain.domain());
            for (image, expected) in images.zip(expected.chunks_mut(plain.domain())) {
                plain.normal(image, expected);
            }
            assert!(distance(&got, &expected) < 1e-14, "{matrix:?}");
        }
    }

    #[test]
    fn fits_the_fixture() {
        let Some(fixture) = fixture::load("unit/nufft") else { return };
        let matrix = &fixture.shape("grid_img")[..2];
        let grid = GridOperator::<f64>::new(fixture.values("grid_target"), matrix, 1.5).unwrap();
        let index: Vec<f64> = grid.index().iter().map(|&i| i as f64).collect();
        assert_eq!(index, fixture.values("grid_index"));
        let mut samples = fixture.complex("grid_y");
        grid.forward(&fixture.complex("grid_img"), &mut samples);
        assert!(distance(&samples, &fixture.complex("grid_fwd")) < 1e-13);
        let mut image = fixture.complex("grid_img");
        grid.adjoint(&fixture.complex("grid_y"), &mut image);
        assert!(distance(&image, &fixture.complex("grid_adj")) < 1e-13);
    }

    #[test]
    fn refuses_what_lies_on_no_grid() {
        let problem = |targets: &[f64], matrix: &[usize], oversampling| {
            let grid = GridOperator::<f32>::new(targets, matrix, oversampling);
            grid.err().unwrap().to_string()
        };
        assert!(problem(&[0.0, 0.25], &[8, 8], 1.0).contains("coordinate 1 of sample 0"));
        assert!(problem(&[0.0, f64::NAN], &[8, 8], 1.0).contains("NaN"));
        assert!(problem(&[0.0, 64.0], &[8, 8], 1.0).contains("another unit"));
        assert!(problem(&[0.0; 3], &[8, 8], 1.0).contains("3 values"));
        assert!(problem(&[0.0; 2], &[8, 0], 1.0).contains("above zero"));
        assert!(problem(&[0.0; 2], &[8, 8], 0.5).contains("oversampling"));
    }
}
