//! Convolutions that are the same along every axis, and borders that mirror the image.

use candle_core::Tensor;
use limpid_kernels::{ConvSpec, ConvTransposeSpec, Pad, pad};
use limpid_nn::layers::{Conv, ConvTranspose};
use limpid_nn::{Result, Scope};

/// Kernel, stride and padding along each axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cubic {
    pub dims: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Cubic {
    pub(crate) fn conv(
        self,
        inputs: usize,
        outputs: usize,
        bias: bool,
        scope: &Scope,
    ) -> Result<Conv> {
        let spec = ConvSpec {
            stride: vec![self.stride; self.dims],
            padding: vec![self.padding; self.dims],
            ..ConvSpec::unit(self.dims)
        };
        Conv::new(inputs, outputs, &vec![self.kernel; self.dims], spec, bias, scope)
    }

    /// `extra` pixels are added to the far end of each axis.
    pub(crate) fn transposed(
        self,
        inputs: usize,
        outputs: usize,
        extra: usize,
        bias: bool,
        scope: &Scope,
    ) -> Result<ConvTranspose> {
        let spec = ConvTransposeSpec {
            stride: vec![self.stride; self.dims],
            padding: vec![self.padding; self.dims],
            output_padding: vec![extra; self.dims],
            ..ConvTransposeSpec::unit(self.dims)
        };
        ConvTranspose::new(inputs, outputs, &vec![self.kernel; self.dims], spec, bias, scope)
    }
}

/// The image with `amount` pixels more on every side.
pub(crate) fn bordered(x: &Tensor, amount: usize, mode: Pad) -> Result<Tensor> {
    pad(x, &vec![(amount, amount); x.rank().saturating_sub(2)], mode)
}
