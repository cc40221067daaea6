//! Moves samples to their targets by kernels from any source.

use super::geometry::Geometry;
use crate::error::expect_len;
use crate::{Complex, Error, Real, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Kernels `[C, S·C]` for every sample of a geometry: they take the values of its sources, coil by coil
/// within each source, to those of its target.
pub trait Kernels<T: Real>: Sync {
    /// Number of coils `C`.
    fn coils(&self) -> usize;

    /// The kernels `[block, C, S·C]` of a block of samples.
    ///
    /// # Errors
    /// If the geometry is of another kind than these kernels are for, or the block or the room for kernels
    /// does not fit it.
    fn kernels(
        &self,
        geometry: &Geometry,
        block: Range<usize>,
        out: &mut [Complex<T>],
    ) -> Result<()>;

    /// Moves samples `[C, M]` to the targets of the geometry, in their order. Kernels are dropped block by
    /// block.
    ///
    /// # Errors
    /// As [`Kernels::kernels`], or if the samples do not fit the geometry.
    fn grid(&self, samples: &[Complex<T>], geometry: &Geometry) -> Result<Vec<Complex<T>>> {
        let coils = self.coils();
        check_coils("grid", coils, samples, geometry)?;
        let row = geometry.sources() * coils;
        // kernels of at most 4 Mi numbers
        let most = ((1 << 22) / (row * coils)).clamp(1, 4096);
        let mut kernels = vec![Complex::default(); most.min(geometry.len()) * row * coils];
        let mut moved = vec![Complex::default(); most * coils];
        let mut out = vec![Complex::default(); samples.len()];
        for first in (0..geometry.len()).step_by(most) {
            let block = first..geometry.len().min(first + most);
            let kernels = &mut kernels[..block.len() * row * coils];
            self.kernels(geometry, block.clone(), kernels)?;
            let moved = &mut moved[..block.len() * coils];
            let pairs = moved.par_chunks_mut(coils).zip(kernels.par_chunks(row * coils));
            let buffer = || vec![Complex::default(); row];
            pairs.enumerate().with_min_len(64).for_each_init(
                buffer,
                |sources, (i, (to, kernel))| {
                    let sample = first + i;
                    geometry.gather(samples, coils, sample..sample + 1, sources);
                    for (value, weights) in to.iter_mut().zip(kernel.chunks_exact(row)) {
                        *value = weights.iter().zip(&*sources).map(|(w, v)| w * v).sum();
                    }
                },
            );
            for (c, out) in out.chunks_exact_mut(geometry.len()).enumerate() {
                for (value, moved) in out[block.clone()].iter_mut().zip(moved.chunks_exact(coils)) {
                    *value = moved[c];
                }
            }
        }
        Ok(out)
    }
}

/// Kernels that are there already.
#[derive(Clone, Copy, Debug)]
pub struct GivenKernels<'a, T: Real> {
    coils: usize,
    /// `[M, C, S·C]`
    kernels: &'a [Complex<T>],
}

impl<'a, T: Real> GivenKernels<'a, T> {
    /// Kernels `[M, C, S·C]` of all samples of a geometry.
    ///
    /// # Errors
    /// If they have another shape.
    pub fn new(coils: usize, geometry: &Geometry, kernels: &'a [Complex<T>]) -> Result<Self> {
        let shape = [geometry.len(), coils, geometry.sources() * coils];
        expect_len("given kernels", "kernels", &shape, kernels.len())?;
        Ok(Self { coils, kernels })
    }
}

impl<T: Real> Kernels<T> for GivenKernels<'_, T> {
    fn coils(&self) -> usize {
        self.coils
    }

    fn kernels(
        &self,
        geometry: &Geometry,
        block: Range<usize>,
        out: &mut [Complex<T>],
    ) -> Result<()> {
        check_block("given kernels", self.coils, geometry, &block, out)?;
        let size = self.coils * self.coils * geometry.sources();
        expect_len("given kernels", "kernels", &[geometry.len(), size], self.kernels.len())?;
        out.copy_from_slice(&self.kernels[block.start * size..block.end * size]);
        Ok(())
    }
}

/// Refuses samples that are not `[coils, M]`.
pub(super) fn check_coils<T: Real>(
    op: &'static str,
    coils: usize,
    samples: &[Complex<T>],
    geometry: &Geometry,
) -> Result<()> {
    if coils == 0 || samples.len() != coils * geometry.len() {
        let expected =
            format!("samples [{coils}, {}], as kernels and geometry are", geometry.len());
        return Err(Error::shape(op, expected, format!("{} values", samples.len())));
    }
    Ok(())
}

/// Refuses a block that the geometry has not, and room for other kernels than the block has.
pub(super) fn check_block<T: Real>(
    op: &'static str,
    coils: usize,
    geometry: &Geometry,
    block: &Range<usize>,
    out: &[Complex<T>],
) -> Result<()> {
    if block.start > block.end || block.end > geometry.len() {
        let problem = format!("kernels of samples {block:?} of {} are asked for", geometry.len());
        return Err(Error::value(op, problem));
    }
    expect_len(op, "kernels", &[block.len(), coils, geometry.sources() * coils], out.len())
}
