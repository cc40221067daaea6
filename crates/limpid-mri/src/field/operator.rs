//! Samples under a field, by few transforms without one.

use super::Segments;
use crate::sense::{add_conjugate_product, check_slices, in_groups, multiply};
use crate::{Complex, Error, Operator, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Numbers that one task takes.
const CHUNK: usize = 1 << 13;

/// Samples `Σ_l h_l(t) A(b_l x)` of any operator `A` under a field.
///
/// The functions of time are repeated as often as they fit in the samples, those of place in the images, so
/// that readouts alike, and frames or coefficients, share them.
#[derive(Clone, Debug)]
pub struct FieldOperator<T, O> {
    operator: O,
    segments: Segments<T>,
}

impl<T: Real, O: Operator<T>> FieldOperator<T, O> {
    /// Turns the samples of `operator` as the segments say.
    ///
    /// # Errors
    /// If the samples are no whole number of the times of the segments, or the images of their voxels.
    pub fn new(operator: O, segments: Segments<T>) -> Result<Self> {
        let fits = |len: usize, part: usize| len > 0 && len.is_multiple_of(part);
        let (domain, range) = (operator.domain(), operator.range());
        if !fits(domain, segments.voxels()) || !fits(range, segments.times()) {
            let expected =
                format!("segments of {domain} voxels and {range} times, or of whole parts of them");
            let got = format!("{} voxels and {} times", segments.voxels(), segments.times());
            return Err(Error::shape("field operator", expected, got));
        }
        Ok(Self { operator, segments })
    }

    /// The approximation of the phase.
    pub fn segments(&self) -> &Segments<T> {
        &self.segments
    }

    fn spatial(&self, term: usize) -> &[Complex<T>] {
        let voxels = self.segments.voxels();
        &self.segments.spatial()[term * voxels..][..voxels]
    }

    fn temporal(&self, term: usize) -> &[Complex<T>] {
        let times = self.segments.times();
        &self.segments.temporal()[term * times..][..times]
    }
}

impl<T: Real, O: Operator<T>> Operator<T> for FieldOperator<T, O> {
    fn domain(&self) -> usize {
        self.operator.domain()
    }

    fn range(&self) -> usize {
        self.operator.range()
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        check_slices(self, image, samples);
        samples.fill(Complex::default());
        let compute = |term: usize, part: &mut [Complex<T>]| {
            let factor = self.spatial(term);
            let mut turned = vec![Complex::default(); image.len()];
            let images = turned.chunks_mut(factor.len()).zip(image.chunks(factor.len()));
            images.for_each(|(turned, image)| multiply(image, factor, turned));
            self.operator.forward(&turned, part);
        };
        in_groups(self.segments.terms(), samples.len(), compute, |term, part| {
            with_factor(samples, part, self.temporal(term), |out, v, factor| {
                *out = *out + factor * v;
            });
        });
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        check_slices(self, image, samples);
        image.fill(Complex::default());
        let compute = |term: usize, part: &mut [Complex<T>]| {
            let mut turned = vec![Complex::default(); samples.len()];
            with_factor(&mut turned, samples, self.temporal(term), |out, v, factor| {
                *out = factor.conj() * v;
            });
            self.operator.adjoint(&turned, part);
        };
        in_groups(self.segments.terms(), image.len(), compute, |term, part| {
            let factor = self.spatial(term);
            let images = image.chunks_mut(factor.len()).zip(part.chunks(factor.len()));
            images.for_each(|(image, part)| add_conjugate_product(image, factor, part));
        });
    }
}

/// Calls `f` with each number of both, and its factor; factors are repeated.
fn with_factor<T: Real>(
    out: &mut [Complex<T>],
    values: &[Complex<T>],
    factors: &[Complex<T>],
    f: impl Fn(&mut Complex<T>, Complex<T>, Complex<T>) + Sync,
) {
    let len = factors.len();
    out.par_chunks_mut(len).zip(values.par_chunks(len)).for_each(|(out, values)| {
        let inputs = values.par_chunks(CHUNK).zip(factors.par_chunks(CHUNK));
        out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (values, factors))| {
            vectorised(
                #[inline(always)]
                || {
                    let inputs = values.iter().zip(factors);
                    out.iter_mut().zip(inputs).for_each(|(out, (&v, &factor))| f(out, v, factor));
                },
            );
        });
    });
}
