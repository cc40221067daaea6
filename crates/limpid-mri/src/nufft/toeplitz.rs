//! The normal map of the non-uniform transform as a convolution.

use super::Nufft;
use crate::fft::{Filter, fast_len};
use crate::{CentredFft, Complex, Operator, Real, Result, Trajectory, pad};

/// `Aᴴ W A` of images of the sizes `matrix`, for a transform `A` of that tolerance and a weight of each sample: entry
/// `(r, s)` depends on `r − s` only, so it is two Fourier transforms of twice the size.
pub(crate) fn toeplitz<T: Real>(
    trajectory: &Trajectory,
    weights: &[T],
    matrix: &[usize],
    tolerance: f64,
) -> Result<Filter<T>> {
    let samples: Vec<_> = weights.iter().map(|&w| Complex::new(w, T::zero())).collect();
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
    Ok(Filter::new(&fft, matrix, &mask))
}
