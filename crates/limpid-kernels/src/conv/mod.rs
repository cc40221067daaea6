//! Convolution and transposed convolution in one, two or three dimensions.
//!
//! What PyTorch's `conv1d/2d/3d` and `conv_transpose1d/2d/3d` compute (a cross-correlation: the
//! kernel is not flipped). Three bilinear maps do all the work, each the derivative of another (Dumoulin & Visin, arXiv:1603.07285, section 4):
//! forward (image, weight → result), data gradient (result, weight → image) and weight gradient
//! (image, result → weight). The transposed convolution is the data gradient.
//!
//! `geometry.rs` checks the sizes, `op.rs` gives the three maps their gradients, `cpu/` computes
//! them: by Winograd's minimal filtering, by sums in registers where a group has few channels, else
//! by an implicit matrix product (im2col in tiles). `algorithm.rs` has the choice and the errors. All
//! three maps are differentiable any number of times.

mod algorithm;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
mod geometry;
mod op;
#[cfg(test)]
mod tests;

pub use algorithm::{ConvAlgorithm, set_conv_algorithm};

use crate::Result;
use crate::parts::joined_image;
use candle_core::Tensor;
use geometry::Geometry;
use op::Direction;
use std::sync::Arc;

/// How a kernel moves over the image; one entry per spatial dimension, in the order of the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Image pixels per step of the kernel, at least 1.
    pub stride: Vec<usize>,
    /// Zeros added to both ends of a dimension.
    pub padding: Vec<usize>,
    /// Image pixels between neighbouring taps of the kernel, at least 1.
    pub dilation: Vec<usize>,
    /// Channel groups that do not see each other; divides input and output channels.
    pub groups: usize,
}

impl ConvSpec {
    /// Stride 1, no padding, dilation 1, one group, for `rank` spatial dimensions.
    #[must_use]
    pub fn unit(rank: usize) -> Self {
        Self { stride: vec![1; rank], padding: vec![0; rank], dilation: vec![1; rank], groups: 1 }
    }
}

/// The parameters of a transposed convolution, those of the convolution it transposes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTransposeSpec {
    /// Output pixels per input pixel, at least 1.
    pub stride: Vec<usize>,
    /// Pixels cut from both ends of a dimension of the output.
    pub padding: Vec<usize>,
    /// Pixels added to the far end of a dimension; less than stride or dilation.
    pub output_padding: Vec<usize>,
    /// Output pixels between neighbouring taps of the kernel, at least 1.
    pub dilation: Vec<usize>,
    /// Channel groups that do not see each other; divides input and output channels.
    pub groups: usize,
}

impl ConvTransposeSpec {
    /// Stride 1, no padding, dilation 1, one group, for `rank` spatial dimensions.
    #[must_use]
    pub fn unit(rank: usize) -> Self {
        let ConvSpec { stride, padding, dilation, groups } = ConvSpec::unit(rank);
        Self { stride, padding, output_padding: vec![0; rank], dilation, groups }
    }
}

/// Convolution, as `torch.nn.functional.conv1d/2d/3d`.
///
/// # Shapes
/// `x [N, C, s…]`, `w [K, C/groups, k…]`, `b [K]` → `[N, K, s'…]` with one to three spatial
/// dimensions and `s' = (s + 2·padding − dilation·(k − 1) − 1) / stride + 1`, rounded down. f32 or
/// f64 on the CPU; operands need not be contiguous.
///
/// # Errors
/// [`crate::Error::Shape`] if the operands do not fit each other or the result would be empty,
/// [`crate::Error::Argument`] if `spec` is out of range.
pub fn conv(x: &Tensor, w: &Tensor, b: Option<&Tensor>, spec: &ConvSpec) -> Result<Tensor> {
    conv_cat(&[x], w, b, spec)
}

/// [`conv`] of tensors joined along the channels, which are read where they are if all but the last
/// have a multiple of 16 channels.
///
/// # Errors
/// As [`conv`] and [`crate::cat`].
pub fn conv_cat(
    parts: &[&Tensor],
    w: &Tensor,
    b: Option<&Tensor>,
    spec: &ConvSpec,
) -> Result<Tensor> {
    let geometry = Geometry::of_conv(&joined_image("conv", parts)?, w, b, spec)?;
    op::map(&Arc::new(geometry), Direction::Forward, parts, w, b)
}

/// Transposed convolution, as `torch.nn.functional.conv_transpose1d/2d/3d`.
///
/// # Shapes
/// `x [N, C, s…]`, `w [C, K/groups, k…]`, `b [K]` → `[N, K, s'…]` with one to three spatial
/// dimensions and `s' = (s − 1)·stride − 2·padding + dilation·(k − 1) + output_padding + 1`. f32 or
/// f64 on the CPU; operands need not be contiguous.
///
/// # Errors
/// As [`conv`].
pub fn conv_transpose(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    spec: &ConvTransposeSpec,
) -> Result<Tensor> {
    conv_transpose_cat(&[x], w, b, spec)
}

/// [`conv_transpose`] of tensors joined along the channels, as [`conv_cat`].
///
/// # Errors
/// As [`conv`] and [`crate::cat`].
pub fn conv_transpose_cat(
    parts: &[&Tensor],
    w: &Tensor,
    b: Option<&Tensor>,
    spec: &ConvTransposeSpec,
) -> Result<Tensor> {
    let geometry =
        Geometry::of_conv_transpose(&joined_image("conv_transpose", parts)?, w, b, spec)?;
    op::map(&Arc::new(geometry), Direction::Back, parts, w, b)
}
