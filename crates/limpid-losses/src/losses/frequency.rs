//! Losses on the Fourier spectrum.

use super::linear::half_spectrum;
use super::pixel::sign;
use super::reduce::{Kernel, mean_of};
use candle_core::Tensor;
use limpid_kernels::Result;

/// Mean absolute real and imaginary part of the spectrum of the difference.
///
/// The spectrum is `torch.fft.rfft2(norm="ortho")` of the spatial axes of `[N, C, spatial..]`, of
/// any rank.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) if the shapes differ or there is no spatial axis.
pub fn fft_l1(pred: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "fft_l1";
    super::operand::prepare(OP, [pred, target])?;
    let spectrum = half_spectrum(OP, &(pred - target)?)?;
    mean_of(OP, &spectrum, Kernel::plain("magnitude"), |[v]| (v.abs(), [sign(v)]))
}
