//! Samples that count by their weights.

use crate::error::expect_len;
use crate::fft::Filter;
use crate::nufft::toeplitz;
use crate::{Complex, Error, GridOperator, Nufft, Operator, Real, Result, Trajectory};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Numbers that one task takes.
const CHUNK: usize = 1 << 13;

/// Samples times the square roots of their weights: `√W A`, whose normal map is `AᴴWA`.
pub struct Weighted<T: Real, O> {
    operator: O,
    weights: Vec<T>,
    roots: Vec<T>,
    /// The normal map, where it need not go through samples.
    filter: Option<Filter<T>>,
}

impl<T: Real, O: Operator<T>> Weighted<T, O> {
    /// Weighs each sample of `operator`, by its density for one.
    ///
    /// # Errors
    /// If there is not one weight a sample, or one is negative or not finite.
    pub fn new(operator: O, weights: Vec<T>) -> Result<Self> {
        const OP: &str = "weighted samples";
        expect_len(OP, "weights", &[operator.range()], weights.len())?;
        let good = |w: &T| *w >= T::zero() && w.f64().is_finite();
        if let Some(at) = weights.iter().position(|w| !good(w)) {
            let problem = format!(
                "weight {at} is {}, but must be finite and not negative",
                weights[at].f64()
            );
            return Err(Error::value(OP, problem));
        }
        let roots = weights.iter().map(|w| T::of(w.f64().sqrt())).collect();
        Ok(Self { operator, weights, roots, filter: None })
    }

    /// Multiplies measured samples `[any number, samples]` by the roots of their weights, so that the
    /// adjoint of them is `AᴴWy`.
    ///
    /// # Errors
    /// If they are no whole number of all samples.
    pub fn weigh(&self, samples: &mut [Complex<T>]) -> Result<()> {
        let len = self.roots.len();
        if len == 0 || samples.is_empty() || !samples.len().is_multiple_of(len) {
            let expected = format!("a multiple of {len} samples");
            return Err(Error::shape("weighted samples", expected, format!("{}", samples.len())));
        }
        samples.chunks_mut(len).for_each(|samples| scale(samples, &self.roots));
        Ok(())
    }
}

impl<T: Real> Weighted<T, GridOperator<T>> {
    /// Weighs samples on a grid. Their normal map is a factor of each point of the grid between two Fourier
    /// transforms, whatever the number of samples.
    ///
    /// # Errors
    /// As [`Weighted::new`].
    pub fn on_grid(operator: GridOperator<T>, weights: Vec<T>) -> Result<Self> {
        let mut weighted = Self::new(operator, weights)?;
        weighted.filter = Some(weighted.operator.filter(&weighted.weights));
        Ok(weighted)
    }
}

impl<T: Real> Weighted<T, Nufft<T>> {
    /// Weighs samples anywhere, as [`Nufft::new`] plans them. Their normal map is a convolution with an image of
    /// twice the size, whatever the number of samples (J. A. Fessler et al., Toeplitz-based iterative image
    /// reconstruction for MRI with correction for magnetic field inhomogeneity, IEEE Trans. Signal Process. 53,
    /// 2005); it takes a transform of that size to prepare.
    ///
    /// # Errors
    /// As [`Nufft::new`] and [`Weighted::new`].
    pub fn toeplitz(
        trajectory: &Trajectory,
        weights: Vec<T>,
        matrix: &[usize],
        tolerance: f64,
    ) -> Result<Self> {
        let nufft = Nufft::new(trajectory, matrix, tolerance)?;
        let mut weighted = Self::new(nufft, weights)?;
        let filter = toeplitz(trajectory, &weighted.weights, matrix, tolerance)?;
        weighted.filter = Some(filter);
        Ok(weighted)
    }
}

impl<T: Real, O: Operator<T>> Operator<T> for Weighted<T, O> {
    fn domain(&self) -> usize {
        self.operator.domain()
    }

    fn range(&self) -> usize {
        self.operator.range()
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        self.operator.forward(image, samples);
        scale(samples, &self.roots);
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        let mut samples = samples.to_vec();
        scale(&mut samples, &self.roots);
        self.operator.adjoint(&samples, image);
    }

    fn normal(&self, image: &[Complex<T>], result: &mut [Complex<T>]) {
        if let Some(filter) = &self.filter {
            return filter.apply(image, result);
        }
        let mut samples = vec![Complex::default(); self.range()];
        self.operator.forward(image, &mut samples);
        scale(&mut samples, &self.weights);
        self.operator.adjoint(&samples, result);
    }
}

/// Multiplies each sample by its factor.
fn scale<T: Real>(samples: &mut [Complex<T>], factors: &[T]) {
    samples.par_chunks_mut(CHUNK).zip(factors.par_chunks(CHUNK)).for_each(|(samples, factors)| {
        vectorised(
            #[inline(always)]
            || samples.iter_mut().zip(factors).for_each(|(s, &f)| *s = s.scale(f)),
        );
    });
}
