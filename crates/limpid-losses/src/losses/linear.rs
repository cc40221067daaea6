//! Linear maps of tensors with their exact adjoints: separable correlation and the half spectrum.
//!
//! The gradient of a linear map is its adjoint applied to the incoming gradient, so each map states
//! both and one custom operation serves them all.

use super::operand::{prepare, storage, to_f64};
use crate::fft::{Complex, Direction, complex, transform};
use crate::filter::{Border, separable};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use limpid_kernels::{Error, Result};
use std::sync::Arc;

/// Correlates the spatial axes of `[N, C, ..]` with one odd kernel per axis; zeros outside.
pub(super) fn correlate_same(op: &'static str, x: &Tensor, taps: Vec<Vec<f64>>) -> Result<Tensor> {
    spatial_rank(op, x)?;
    apply(op, x, Map::Correlation(taps))
}

/// Half spectrum of the spatial axes of `[N, C, ..]`, as `torch.fft.rfftn(norm="ortho")`.
///
/// The last axis `w` becomes `w / 2 + 1` frequencies, and a new last axis holds real and imaginary
/// part.
pub(super) fn half_spectrum(op: &'static str, x: &Tensor) -> Result<Tensor> {
    spatial_rank(op, x)?;
    apply(op, x, Map::HalfSpectrum)
}

/// Number of spatial axes of `[N, C, ..]`.
///
/// # Errors
/// [`Error::Shape`] if there is none.
pub(super) fn spatial_rank(op: &'static str, x: &Tensor) -> Result<usize> {
    match x.rank() {
        rank if rank > 2 => Ok(rank - 2),
        _ => Err(Error::shape(op, "[N, C, spatial..]", x.dims())),
    }
}

fn apply(op: &'static str, x: &Tensor, map: Map) -> Result<Tensor> {
    let [ready] = prepare(op, [x])?;
    let linear = Linear { map: Arc::new(map), domain: x.dims().to_vec(), adjoint: false };
    Ok(ready.apply_op1(linear)?.to_device(x.device())?)
}

enum Map {
    Correlation(Vec<Vec<f64>>),
    HalfSpectrum,
}

impl Map {
    fn apply(&self, x: &[f64], domain: &[usize]) -> (Vec<f64>, Vec<usize>) {
        match self {
            Self::Correlation(taps) => separable(x, domain, taps, Border::Zero),
            Self::HalfSpectrum => half_spectrum_of(x, domain),
        }
    }

    fn adjoint(&self, y: &[f64], domain: &[usize]) -> Vec<f64> {
        match self {
            Self::Correlation(taps) => separable(y, domain, &flipped(taps), Border::Zero).0,
            Self::HalfSpectrum => half_spectrum_adjoint(y, domain),
        }
    }
}

fn flipped(taps: &[Vec<f64>]) -> Vec<Vec<f64>> {
    taps.iter().map(|t| t.iter().rev().copied().collect()).collect()
}

/// What a GPU is told of a correlation of the last axes of a shape.
#[cfg(feature = "cuda")]
pub(super) fn axes(
    shape: &[usize],
    taps: &[Vec<f64>],
    border: Border,
) -> Vec<limpid_kernels::loss::Axis> {
    let axis = |(len, taps): (&usize, &Vec<f64>)| limpid_kernels::loss::Axis {
        taps: taps.clone(),
        length: border.output(*len, taps.len()),
        shift: border.shift(taps.len()),
    };
    shape[shape.len() - taps.len()..].iter().zip(taps).map(axis).collect()
}

fn half_spectrum_of(x: &[f64], domain: &[usize]) -> (Vec<f64>, Vec<usize>) {
    let width = domain[domain.len() - 1];
    let half = width / 2 + 1;
    let scale = orthonormal(domain);
    let mut spectrum = complex(x);
    transform(&mut spectrum, domain, 2, Direction::Forward);
    let kept = spectrum.chunks(width).flat_map(|row| &row[..half]);
    let y = kept.flat_map(|v| [v.re * scale, v.im * scale]).collect();
    let mut shape = domain.to_vec();
    shape[domain.len() - 1] = half;
    shape.push(2);
    (y, shape)
}

/// Real part of the inverse transform of the half spectrum padded with zeros.
fn half_spectrum_adjoint(y: &[f64], domain: &[usize]) -> Vec<f64> {
    let width = domain[domain.len() - 1];
    let half = width / 2 + 1;
    let scale = orthonormal(domain);
    let mut spectrum = vec![Complex::default(); domain.iter().product()];
    for (row, kept) in spectrum.chunks_mut(width).zip(y.chunks(2 * half)) {
        for (v, parts) in row.iter_mut().zip(kept.chunks(2)) {
            *v = Complex::new(parts[0], parts[1]);
        }
    }
    transform(&mut spectrum, domain, 2, Direction::Inverse);
    spectrum.iter().map(|v| v.re * scale).collect()
}

fn orthonormal(domain: &[usize]) -> f64 {
    1.0 / (domain[2..].iter().product::<usize>() as f64).sqrt()
}

struct Linear {
    map: Arc<Map>,
    /// Shape that the forward map takes.
    domain: Vec<usize>,
    adjoint: bool,
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        match *self.map {
            Map::Correlation(_) => "correlation",
            Map::HalfSpectrum => "half_spectrum",
        }
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = to_f64(s, l)?;
        let (y, shape) = match self.adjoint {
            false => self.map.apply(&x, &self.domain),
            true => (self.map.adjoint(&x, &self.domain), self.domain.clone()),
        };
        let dtype = if matches!(s, CpuStorage::F64(_)) { DType::F64 } else { DType::F32 };
        Ok((storage(y, dtype), Shape::from(shape)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        use limpid_kernels::loss::{correlate, half_spectrum, half_spectrum_adjoint};
        let (op, scale) = (self.name(), orthonormal(&self.domain));
        match (&*self.map, self.adjoint) {
            (Map::Correlation(taps), false) => {
                correlate(op, (s, l), &axes(&self.domain, taps, Border::Zero))
            }
            (Map::Correlation(taps), true) => {
                correlate(op, (s, l), &axes(&self.domain, &flipped(taps), Border::Zero))
            }
            (Map::HalfSpectrum, false) => half_spectrum(op, (s, l), scale),
            (Map::HalfSpectrum, true) => half_spectrum_adjoint(op, (s, l), &self.domain, scale),
        }
        .map_err(candle_core::Error::wrap)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let back =
            Self { map: self.map.clone(), domain: self.domain.clone(), adjoint: !self.adjoint };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}
