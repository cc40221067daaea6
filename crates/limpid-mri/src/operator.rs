//! Linear maps with their adjoints.

use crate::{Complex, Real};

/// A linear map from images to samples. Its adjoint fulfils `⟨A x, y⟩ = ⟨x, Aᴴ y⟩`.
pub trait Operator<T: Real>: Sync {
    /// Complex numbers of an image.
    fn domain(&self) -> usize;

    /// Complex numbers of its samples.
    fn range(&self) -> usize;

    /// `samples = A image`.
    ///
    /// # Panics
    /// If the slices have other lengths than [`Operator::domain`] and [`Operator::range`]; so do the other
    /// two.
    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]);

    /// `image = Aᴴ samples`.
    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]);

    /// `result = Aᴴ A image`.
    fn normal(&self, image: &[Complex<T>], result: &mut [Complex<T>]) {
        let mut samples = vec![Complex::default(); self.range()];
        self.forward(image, &mut samples);
        self.adjoint(&samples, result);
    }
}

impl<T: Real, O: Operator<T> + ?Sized> Operator<T> for &O {
    fn domain(&self) -> usize {
        (**self).domain()
    }

    fn range(&self) -> usize {
        (**self).range()
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        (**self).forward(image, samples);
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        (**self).adjoint(samples, image);
    }

    fn normal(&self, image: &[Complex<T>], result: &mut [Complex<T>]) {
        (**self).normal(image, result);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::real::wide;
    use limpid_kernels::rng::Stream;

    /// Reproducible complex numbers of mean zero and variance two.
    pub(crate) fn random<T: Real>(seed: u64, len: usize) -> Vec<Complex<T>> {
        let mut draws = Stream::new(seed, "mri tests").draws();
        let mut draw = || T::of(draws.normal());
        (0..len).map(|_| Complex::new(draw(), draw())).collect()
    }

    /// `⟨a, b⟩`, the first conjugated.
    pub(crate) fn inner<T: Real>(a: &[Complex<T>], b: &[Complex<T>]) -> Complex<f64> {
        a.iter().zip(b).map(|(&a, &b)| wide(a).conj() * wide(b)).sum()
    }

    /// The relative distance of `a` from `b`.
    pub(crate) fn distance<T: Real>(a: &[Complex<T>], b: &[Complex<T>]) -> f64 {
        assert_eq!(a.len(), b.len());
        let difference: f64 = a.iter().zip(b).map(|(&a, &b)| (wide(a) - wide(b)).norm_sqr()).sum();
        (difference / b.iter().map(|&b| wide(b).norm_sqr()).sum::<f64>()).sqrt()
    }

    /// Asserts that forward, adjoint and normal map fit together.
    pub(crate) fn check_adjoint<T: Real>(operator: &dyn Operator<T>, tolerance: f64) {
        let (x, y) = (random(1, operator.domain()), random(2, operator.range()));
        let mut ax = vec![Complex::default(); operator.range()];
        let mut ahy = vec![Complex::default(); operator.domain()];
        operator.forward(&x, &mut ax);
        operator.adjoint(&y, &mut ahy);
        let norm = |v: &[Complex<T>]| inner(v, v).re.sqrt();
        let gap = (inner(&ax, &y) - inner(&x, &ahy)).norm() / (norm(&ax) * norm(&y));
        assert!(gap <= tolerance, "⟨Ax,y⟩ and ⟨x,Aᴴy⟩ differ by {gap:e}");
        let (mut twice, mut normal) = (ahy.clone(), ahy);
        operator.adjoint(&ax, &mut twice);
        operator.normal(&x, &mut normal);
        let gap = distance(&normal, &twice);
        assert!(gap <= tolerance, "AᴴA and its two factors differ by {gap:e}");
    }
}
