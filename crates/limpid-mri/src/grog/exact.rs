//! Kernels of least squares by sums over all voxels: slow, and what the table is measured by.

use super::calibration::Calibration;
use crate::cholesky::cholesky;
use crate::error::expect_len;
use crate::real::{turn, wide};
use crate::{Complex, Error, Real, Result};
use nalgebra::DMatrix;

/// The least squares of one geometry, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelSystem {
    /// `AᴴA`, `[S·C, S·C]`, without regularisation.
    pub normal: Vec<Complex<f64>>,
    /// `AᴴB`, `[S·C, C]`.
    pub target: Vec<Complex<f64>>,
    /// The kernel, `[C, S·C]`.
    pub kernel: Vec<Complex<f64>>,
}

/// The least squares of the offsets `[S, rank]`, in cycles per field of view, without a table; `lam` is as
/// in [`ClosedForm`](super::ClosedForm).
///
/// # Errors
/// If the offsets are none, not finite, or no whole positions of the rank of the images; or if the system
/// has no solution, which takes a `lam` of nearly zero.
pub fn exact_kernel<T: Real>(
    calibration: &Calibration<T>,
    offsets: &[f64],
    lam: f64,
) -> Result<KernelSystem> {
    exact_moved_kernel(calibration, offsets, lam, |_| 0.0)
}

/// The same of sources that a field has turned by so many turns at each voxel, relative to the target.
pub(super) fn exact_moved_kernel<T: Real>(
    calibration: &Calibration<T>,
    offsets: &[f64],
    lam: f64,
    turned: impl Fn(usize) -> f64,
) -> Result<KernelSystem> {
    const OP: &str = "exact kernel";
    let (coils, rank) = (calibration.coils(), calibration.dims().len());
    expect_len(OP, "offsets", &[(offsets.len() / rank).max(1), rank], offsets.len())?;
    if offsets.iter().any(|d| !d.is_finite()) {
        return Err(Error::value(OP, "an offset is not finite"));
    }
    if !(lam >= 0.0 && lam.is_finite()) {
        return Err(Error::value(OP, format!("lam must be zero or more, is {lam}")));
    }
    let size = offsets.len() / rank * coils;
    let value = |voxel: usize, column: usize| wide(calibration.image(column % coils)[voxel]);
    let sources = DMatrix::from_fn(calibration.voxels(), size, |voxel, column| {
        let offset = &offsets[column / coils * rank..][..rank];
        let turns: f64 = offset.iter().zip(calibration.position(voxel)).map(|(d, r)| d * r).sum();
        value(voxel, column) * turn::<f64>(turned(voxel) - turns)
    });
    let targets = DMatrix::from_fn(calibration.voxels(), coils, value);
    let (normal, target) = (sources.ad_mul(&sources), sources.ad_mul(&targets));
    let mut regular = normal.clone();
    for i in 0..size {
        regular[(i, i)] += lam * calibration.power() / coils as f64;
    }
    let problem = "sources or coils depend on each other; the system needs regularisation (lam)";
    let factor = cholesky(regular).ok_or_else(|| Error::value(OP, problem))?;
    // what is kept column by column is the transpose, row by row
    let kernel = factor.solve(&target).iter().copied().collect();
    let rows = |matrix: &DMatrix<Complex<f64>>| matrix.transpose().iter().copied().collect();
    Ok(KernelSystem { normal: rows(&normal), target: rows(&target), kernel })
}
