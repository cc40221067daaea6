//! The normal operator of the non-uniform transform as a convolution.

use super::Nufft;
use crate::fft::{Filter, fast_len};
use crate::grid::expect_weights;
use crate::{CentredFft, Complex, Operator, Real, Result, Trajectory, pad};

/// `Aᴴ W A` of images of the sizes `matrix`, for a transform `A` and real weights `W` of samples: entry `(r, s)`
/// depends on `r − s` only, so it is two Fourier transforms of twice the size (J. A. Fessler et al.,
/// Toeplitz-based iterative image reconstruction for MRI with correction for magnetic field inhomogeneity, IEEE
/// Trans. Signal Process. 53, 2005). It maps images to images and is its own adjoint.
pub struct Toeplitz<T: Real> {
    filter: Filter<T>,
}

impl<T: Real> Toeplitz<T> {
    /// Computes the convolution with a transform of that tolerance; `weights`, one for each sample, are one by
    /// default.
    ///
    /// # Errors
    /// As [`Nufft::new`], or if there is another number of weights or one is not finite.
    pub fn new(
        trajectory: &Trajectory,
        weights: Option<&[f64]>,
        matrix: &[usize],
        tolerance: f64,
    ) -> Result<Self> {
        const OP: &str = "toeplitz";
        trajectory.check_matrix(OP, matrix)?;
        let mut samples = vec![Complex::new(T::one(), T::zero()); trajectory.len()];
        if let Some(weights) = weights {
            expect_weights(OP, weights, trajectory.len())?;
            for (sample, &weight) in samples.iter_mut().zip(weights) {
                sample.re = T::of(weight);
            }
        }
        // every difference of two voxels; the phases of integers have the period of the image
        let differences: Vec<usize> = matrix.iter().map(|size| 2 * size - 1).collect();
        let rank = matrix.len();
        let point = |(i, &k): (usize, &f64)| {
            let (voxels, size) = (matrix[i % rank] as f64, differences[i % rank] as f64);
            (k / voxels - (k / voxels).round()) * size
        };
        let points = trajectory.points().iter().enumerate().map(point).collect();
        let wide = Trajectory::new(trajectory.shots(), trajectory.samples(), rank, points)?;
        let nufft = Nufft::<T>::new(&wide, &differences, tolerance)?;
        let mut response = vec![Complex::default(); nufft.domain()];
        nufft.adjoint(&samples, &mut response);

        let sizes: Vec<usize> = differences.iter().map(|&size| fast_len(size)).collect();
        let fft = CentredFft::new(&sizes);
        let mut spectrum = vec![Complex::default(); fft.pixels()];
        pad(&response, &differences, &sizes, &mut spectrum);
        fft.forward(&mut spectrum);
        let product = |sizes: &[usize]| sizes.iter().map(|&size| size as f64).product::<f64>();
        let scale = (product(&differences) * product(&sizes)).sqrt() / product(matrix);
        let scale = T::of(scale);
        let mask: Vec<T> = spectrum.iter().map(|v| v.re * scale).collect();
        Ok(Self { filter: Filter::new(&fft, matrix, &mask) })
    }

    /// `result = Aᴴ W A image` of images `[any number, matrix…]`.
    ///
    /// # Panics
    /// If the slices are not as many whole images.
    pub fn apply_many(&self, images: &[Complex<T>], results: &mut [Complex<T>]) {
        self.filter.apply(images, results);
    }
}

impl<T: Real> Operator<T> for Toeplitz<T> {
    fn domain(&self) -> usize {
        self.filter.pixels()
    }

    fn range(&self) -> usize {
        self.filter.pixels()
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        assert_eq!(image.len(), self.domain(), "one image is filtered");
        self.filter.apply(image, samples);
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        self.forward(samples, image);
    }
}
