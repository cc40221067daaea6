//! Non-uniform Fourier transforms: images to samples anywhere in k-space, and the adjoint.
//!
//! The image is divided by the transform of a window, padded and transformed; the window then interpolates the
//! samples (J. A. Fessler, B. P. Sutton, Nonuniform fast Fourier transforms using min-max interpolation, IEEE
//! Trans. Signal Process. 51, 2003). Samples are sorted by where they lie on the grid, and the adjoint adds
//! them up in that order, slab by slab (A. H. Barnett, J. Magland, L. af Klinteberg, A parallel nonuniform
//! fast Fourier transform library based on an "exponential of semicircle" kernel, SIAM J. Sci. Comput. 41, 2019).

mod kernel;
mod points;
mod spread;
#[cfg(test)]
mod tests;
mod toeplitz;

pub(crate) use toeplitz::toeplitz;

use crate::fft::fast_len;
use crate::real::is_single;
use crate::{CentredFft, Complex, Error, Operator, Real, Result, Trajectory};
use kernel::Kernel;
use points::Points;
use spread::Spreader;

/// Oversampling of the grid, from little work for the samples to little for the grid.
const OVERSAMPLING: [f64; 3] = [2.0, 1.5, 1.25];

/// Images that are transformed together, at most: so many grids that the caches hold what a sample reaches.
const TOGETHER: usize = 8;

/// Numbers of all grids that are in memory at the same time, unless one has more.
const ROOM: usize = 1 << 24;

/// The transform between images of the sizes `matrix` and the samples of a trajectory,
/// `y = 1/√(N₀N₁…) Σᵣ x(r) exp(−2πi k·r/N)`, with an error that is chosen. Its adjoint is exactly that of
/// what it computes.
pub struct Nufft<T: Real> {
    fft: CentredFft<T>,
    /// What the image is multiplied by, along each axis.
    windows: Vec<Vec<T>>,
    pixels: usize,
    samples: usize,
    spreader: Spreader<T>,
}

impl<T: Real> Nufft<T> {
    /// Plans transforms of a relative error of about `tolerance` in the ℓ₂ norm: `1e-2` to `1e-6` in f32, to
    /// `1e-12` in f64.
    ///
    /// # Errors
    /// If the tolerance is out of range, or the trajectory is too wide for the image or of another rank.
    pub fn new(trajectory: &Trajectory, matrix: &[usize], tolerance: f64) -> Result<Self> {
        const OP: &str = "nufft";
        trajectory.check_matrix(OP, matrix)?;
        let single = is_single::<T>();
        let (finest, unit) = if single { (1e-6, 6e-8) } else { (1e-12, 1.2e-16) };
        // a hair beyond the limits, for tolerances that were computed
        if !(finest * 0.999..=0.01001).contains(&tolerance) {
            let numbers = if single { "f32" } else { "f64" };
            let problem =
                format!("the tolerance is {tolerance:e}, for {numbers} it is {finest:e} to 1e-2");
            return Err(Error::value(OP, problem));
        }
        let rank = matrix.len();
        let kernels = OVERSAMPLING.iter().filter_map(|&o| Kernel::within(tolerance, o, rank, unit));
        let cost = |kernel: &Kernel| cost(kernel, matrix, trajectory.len());
        let Some(kernel) = kernels.min_by(|a, b| cost(a).total_cmp(&cost(b))) else {
            return Err(Error::value(OP, format!("no window has the tolerance {tolerance:e}")));
        };
        let sizes: Vec<usize> = matrix.iter().map(|&size| grid_size(&kernel, size)).collect();
        let window = |(&size, &points): (&usize, &usize)| {
            let scale = (points as f64 / size as f64).sqrt();
            let voxel = |n: usize| n as f64 - (size / 2) as f64;
            let factor = |n| T::of(scale / kernel.transform(voxel(n) / points as f64));
            (0..size).map(factor).collect()
        };
        let windows = matrix.iter().zip(&sizes).map(window).collect();
        let points = Points::new(OP, trajectory, matrix, &sizes, &kernel)?;
        let spreader = Spreader::new(points, &kernel.polynomials(tolerance, rank));
        let (pixels, samples) = (matrix.iter().product(), trajectory.len());
        Ok(Self { fft: CentredFft::new(&sizes), windows, pixels, samples, spreader })
    }

    /// The samples `[any number, samples]` of images `[the same, matrix…]`; what belongs to a sample is computed
    /// once for several images.
    ///
    /// # Panics
    /// If the slices are not whole images and the samples of as many.
    pub fn forward_many(&self, images: &[Complex<T>], samples: &mut [Complex<T>]) {
        let batch = self.batch(images.len(), samples.len());
        let mut grids = vec![Complex::default(); batch * self.fft.pixels()];
        let images = images.chunks(batch * self.pixels);
        for (images, samples) in images.zip(samples.chunks_mut(batch * self.samples)) {
            let grids = &mut grids[..images.len() / self.pixels * self.fft.pixels()];
            self.fft.forward_windowed(images, &self.windows, grids);
            self.spreader.interpolate(grids, samples);
        }
    }

    /// The adjoint of [`Nufft::forward_many`].
    ///
    /// # Panics
    /// As there.
    pub fn adjoint_many(&self, samples: &[Complex<T>], images: &mut [Complex<T>]) {
        let batch = self.batch(images.len(), samples.len());
        let mut grids = vec![Complex::default(); batch * self.fft.pixels()];
        let samples = samples.chunks(batch * self.samples);
        for (images, samples) in images.chunks_mut(batch * self.pixels).zip(samples) {
            let grids = &mut grids[..images.len() / self.pixels * self.fft.pixels()];
            self.spreader.spread(samples, grids);
            self.fft.inverse_windowed(grids, &self.windows, images);
        }
    }

    /// How many images are transformed together; at least one.
    fn batch(&self, images: usize, samples: usize) -> usize {
        let count = images / self.pixels;
        assert!(
            images == count * self.pixels && samples == count * self.samples,
            "whole images of {} numbers have {} samples each",
            self.pixels,
            self.samples
        );
        (ROOM / self.fft.pixels()).min(TOGETHER).min(count).max(1)
    }
}

impl<T: Real> Operator<T> for Nufft<T> {
    fn domain(&self) -> usize {
        self.pixels
    }

    fn range(&self) -> usize {
        self.samples
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        assert_eq!(image.len(), self.pixels, "one image is transformed");
        self.forward_many(image, samples);
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        assert_eq!(image.len(), self.pixels, "one image is transformed");
        self.adjoint_many(samples, image);
    }
}

/// Points of the grid for so many voxels.
fn grid_size(kernel: &Kernel, voxels: usize) -> usize {
    fast_len(((voxels as f64 * kernel.oversampling).ceil() as usize).max(kernel.width))
}

/// About how long a transform takes.
fn cost(kernel: &Kernel, matrix: &[usize], samples: usize) -> f64 {
    let points: f64 = matrix.iter().map(|&size| grid_size(kernel, size) as f64).product();
    let rows = (kernel.width as f64).powi(matrix.len() as i32 - 1);
    let taps = kernel.width.next_multiple_of(4) as f64;
    samples as f64 * (rows * taps / 8.0 + 10.0) + 0.8 * points * points.log2()
}
