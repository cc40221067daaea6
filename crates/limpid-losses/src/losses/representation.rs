//! Differentiable representations of standardised uptake values that nucli-train feeds to its
//! networks; the generator's output passes through them on its way to the discriminator.

use candle_core::Tensor;
use limpid_kernels::{Error, Result};

/// `[N, 1, ..]` SUV as three channels of different compression: `x / (1 + x)`, `ln(1 + x)`, `0.4 x`.
///
/// # Errors
/// [`Error::Shape`] unless there is exactly one channel.
pub fn suv_three_channel(suv: &Tensor) -> Result<Tensor> {
    if suv.rank() < 2 || suv.dim(1)? != 1 {
        return Err(Error::shape("suv_three_channel", "[N, 1, ..]", suv.dims()));
    }
    let logarithm = (suv + 1.0)?.log()?;
    Ok(Tensor::cat(&[&saturated(suv)?, &logarithm, &(suv * 0.4)?], 1)?)
}

/// SUV squeezed into `[-1, 1)`: `2 x / (1 + x) - 1`, the input of nucli-train's discriminator.
///
/// # Errors
/// None beyond those of candle.
pub fn suv_unit(suv: &Tensor) -> Result<Tensor> {
    Ok(saturated(suv)?.affine(2.0, -1.0)?)
}

fn saturated(suv: &Tensor) -> Result<Tensor> {
    Ok((suv / (suv + 1.0)?)?)
}
