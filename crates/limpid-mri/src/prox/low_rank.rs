//! Soft thresholds of the singular values of blocks.

use super::{Prox, Shift, check_dims};
use crate::real::{narrow, wide};
use crate::{Complex, Error, Real, Result};
use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

/// Blocks that are held at a time.
const GROUP: usize = 256;

/// Shrinks the singular values of each block, as a matrix of its voxels by the images: the proximal map of
/// their sum (Trzasko and Manduca, Asilomar 2011; Zhang et al., MRM 2015).
///
/// Blocks lie side by side, around the edge where they are shifted; where they do not divide an axis, the
/// last ones are smaller.
#[derive(Clone, Debug)]
pub struct LocallyLowRank {
    images: usize,
    dims: Vec<usize>,
    block: Vec<usize>,
    shift: Shift,
    passes: u64,
}

impl LocallyLowRank {
    /// Thresholds for `images` images of the sizes `dims`, in blocks of the sizes `block`.
    ///
    /// # Errors
    /// If there are no images, a size is zero, or blocks are not of the rank of images or larger than they.
    pub fn new(images: usize, dims: &[usize], block: &[usize], shift: Shift) -> Result<Self> {
        const OP: &str = "locally low rank";
        check_dims(OP, images, dims)?;
        let fits = |(&block, &size): (&usize, &usize)| (1..=size).contains(&block);
        if block.len() != dims.len() || !block.iter().zip(dims).all(fits) {
            let expected = format!("a block of sizes from one to those of the image, {dims:?}");
            return Err(Error::shape(OP, expected, format!("{block:?}")));
        }
        Ok(Self { images, dims: dims.to_vec(), block: block.to_vec(), shift, passes: 0 })
    }

    /// The voxels of a block.
    fn voxels(&self, mut index: usize, shift: &[usize]) -> Vec<usize> {
        let mut voxels = vec![0];
        let mut stride = 1;
        for d in (0..self.dims.len()).rev() {
            let (size, block) = (self.dims[d], self.block[d]);
            let start = index % size.div_ceil(block) * block;
            index /= size.div_ceil(block);
            let along = start..(start + block).min(size);
            let places = along.map(|at| (at + shift[d]) % size * stride);
            voxels = places.flat_map(|place| voxels.iter().map(move |v| place + v)).collect();
            stride *= size;
        }
        voxels
    }
}

impl<T: Real> Prox<T> for LocallyLowRank {
    fn domain(&self) -> usize {
        self.images * self.dims.iter().product::<usize>()
    }

    fn apply(&mut self, x: &mut [Complex<T>], threshold: f64) {
        assert_eq!(x.len(), Prox::<T>::domain(self), "whole images");
        let shift = self.shift.at(self.passes, &self.block);
        self.passes += 1;
        let pixels: usize = self.dims.iter().product();
        let blocks: usize =
            self.dims.iter().zip(&self.block).map(|(size, block)| size.div_ceil(*block)).product();
        let shrink = |index: usize, x: &[Complex<T>]| {
            let voxels = self.voxels(index, &shift);
            let value = |v: usize, image: usize| wide(x[image * pixels + voxels[v]]);
            let block = DMatrix::from_fn(voxels.len(), self.images, value);
            let block = shrink_singular_values(block, threshold);
            (voxels, block)
        };
        for first in (0..blocks).step_by(GROUP) {
            let group = first..blocks.min(first + GROUP);
            let done: Vec<_> = group.into_par_iter().map(|index| shrink(index, x)).collect();
            for (voxels, block) in done {
                for image in 0..self.images {
                    for (&voxel, &v) in voxels.iter().zip(block.column(image).iter()) {
                        x[image * pixels + voxel] = narrow(v);
                    }
                }
            }
        }
    }
}

/// `U max(S − threshold, 0) Vᴴ` of a matrix `U S Vᴴ`, by the eigenvectors of the smaller of its products with
/// its own adjoint. A matrix that is not finite stays as it is.
fn shrink_singular_values(matrix: DMatrix<Complex<f64>>, threshold: f64) -> DMatrix<Complex<f64>> {
    let wide = matrix.ncols() > matrix.nrows();
    let gram = if wide { &matrix * matrix.adjoint() } else { matrix.ad_mul(&matrix) };
    let trace = gram.trace().re;
    if !trace.is_finite() {
        return matrix;
    }
    // no singular value is above the root of the sum of their squares
    if trace.sqrt() <= threshold {
        return DMatrix::zeros(matrix.nrows(), matrix.ncols());
    }
    let eigen = SymmetricEigen::new(gram);
    let factor = |square: f64| {
        let value = square.max(0.0).sqrt();
        if value > threshold { 1.0 - threshold / value } else { 0.0 }
    };
    let mut scaled = eigen.eigenvectors.clone();
    for (mut column, &square) in scaled.column_iter_mut().zip(eigen.eigenvalues.iter()) {
        column *= Complex::from(factor(square));
    }
    let shrink = scaled * eigen.eigenvectors.adjoint();
    if wide { shrink * matrix } else { matrix * shrink }
}
