//! What MONAI's networks are made of: a convolution followed by normalisation and activation.
//!
//! MONAI names the three `conv`, `adn.N` and `adn.A`, and pads so that an odd kernel keeps the size
//! at stride 1 and divides or multiplies it by the stride otherwise.

use crate::{Shapes, size_of};
use candle_core::Tensor;
use limpid_config::Check;
use limpid_kernels::{ConvSpec, ConvTransposeSpec};
use limpid_nn::layers::{
    Activation, ActivationConfig, Conv, ConvTranspose, Norm, NormConfig, same_padding,
};
use limpid_nn::{Ctx, Error, Result, Scope};

/// What follows a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adn {
    pub(crate) norm: NormConfig,
    pub(crate) activation: ActivationConfig,
}

#[derive(Debug)]
enum Layer {
    Conv(Conv),
    Transposed(ConvTranspose),
}

/// A convolution, and what follows it.
#[derive(Debug)]
pub(crate) struct ConvAdn {
    layer: Layer,
    then: Option<(Norm, Activation)>,
}

impl ConvAdn {
    /// A convolution to `1/stride` of the size.
    pub(crate) fn down(
        [inputs, outputs]: [usize; 2],
        kernel: &[usize],
        stride: &[usize],
        bias: bool,
        adn: Option<Adn>,
        scope: &Scope,
    ) -> Result<Self> {
        let spec = ConvSpec {
            stride: stride.to_vec(),
            padding: same_padding(kernel),
            ..ConvSpec::unit(kernel.len())
        };
        Self::with(inputs, outputs, kernel, spec, bias, adn, scope)
    }

    /// A convolution of any geometry.
    pub(crate) fn with(
        inputs: usize,
        outputs: usize,
        kernel: &[usize],
        spec: ConvSpec,
        bias: bool,
        adn: Option<Adn>,
        scope: &Scope,
    ) -> Result<Self> {
        let conv = Conv::new(inputs, outputs, kernel, spec, bias, &scope.pp("conv"))?;
        Ok(Self { layer: Layer::Conv(conv), then: followed(adn, outputs, scope)? })
    }

    /// A transposed convolution to `stride` times the size.
    pub(crate) fn up(
        [inputs, outputs]: [usize; 2],
        kernel: &[usize],
        stride: &[usize],
        bias: bool,
        adn: Option<Adn>,
        scope: &Scope,
    ) -> Result<Self> {
        let spec = ConvTransposeSpec {
            stride: stride.to_vec(),
            padding: same_padding(kernel),
            output_padding: stride.iter().map(|s| s.saturating_sub(1)).collect(),
            ..ConvTransposeSpec::unit(kernel.len())
        };
        let conv = ConvTranspose::new(inputs, outputs, kernel, spec, bias, &scope.pp("conv"))?;
        Ok(Self { layer: Layer::Transposed(conv), then: followed(adn, outputs, scope)? })
    }

    /// # Shapes
    /// `x [N, in, s…]` → `[N, out, s'…]`
    pub(crate) fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.forward_cat(&[x], ctx)
    }

    /// Of tensors joined along the channels, which need no join.
    pub(crate) fn forward_cat(&self, parts: &[&Tensor], ctx: &Ctx) -> Result<Tensor> {
        let y = match &self.layer {
            Layer::Conv(conv) => conv.forward_cat(parts)?,
            Layer::Transposed(conv) => conv.forward_cat(parts)?,
        };
        match &self.then {
            Some((norm, activation)) => activation.forward_norm(norm, &y, ctx),
            None => Ok(y),
        }
    }
}

fn followed(
    adn: Option<Adn>,
    channels: usize,
    scope: &Scope,
) -> Result<Option<(Norm, Activation)>> {
    let scope = scope.pp("adn");
    let parts = |adn: Adn| -> Result<_> {
        let norm = Norm::new(adn.norm, channels, &scope.pp("N"))?;
        Ok((norm, Activation::new(adn.activation, &scope.pp("A"))?))
    };
    adn.map(parts).transpose()
}

/// The normalisation whose parameters have that prefix. Group normalisation looks like an instance
/// normalisation with parameters, which is what such shapes are taken for; one without parameters
/// is MONAI's default.
pub(crate) fn norm_of(shapes: &Shapes, prefix: &str) -> NormConfig {
    if shapes.contains_key(&format!("{prefix}.running_mean")) {
        NormConfig::Batch {}
    } else {
        NormConfig::Instance { affine: shapes.contains_key(&format!("{prefix}.weight")) }
    }
}

/// The activation whose parameters have that prefix: only a parametric one has any.
pub(crate) fn activation_of(shapes: &Shapes, prefix: &str) -> ActivationConfig {
    match size_of(shapes, &format!("{prefix}.weight"), 0) {
        Some(_) => ActivationConfig::Prelu {},
        None => ActivationConfig::Relu {},
    }
}

/// Reports a normalisation that some of the channels do not allow.
pub(crate) fn check_norm(norm: NormConfig, channels: &[usize], at: &mut Check) {
    if let NormConfig::Group { groups } = norm
        && channels.iter().any(|c| groups == 0 || c % groups != 0)
    {
        at.problem("norm.groups", format!("must divide all of {channels:?}, got {groups}"));
    }
}

/// Reports strides whose product along an axis is beyond any image.
pub(crate) fn check_strides(strides: &[Vec<usize>], at: &mut Check) {
    const MOST: usize = 1 << 16;
    let axes = strides.iter().map(Vec::len).max().unwrap_or(0);
    let along = |axis: usize| {
        let of_axis = strides.iter().filter_map(|s| s.get(axis));
        of_axis.fold(1usize, |product, s| product.saturating_mul(*s))
    };
    if let Some(axis) = (0..axes).find(|&axis| along(axis) > MOST) {
        at.problem("strides", format!("must multiply to at most {MOST} on axis {axis}"));
    }
}

/// Reports a list that has not one number above 0 per axis.
pub(crate) fn check_axes(key: &str, list: &[usize], dims: usize, odd: bool, at: &mut Check) {
    if list.len() != dims || list.contains(&0) {
        at.problem(key, format!("must have {dims} numbers above 0, got {list:?}"));
    } else if odd && list.iter().any(|k| k % 2 == 0) {
        at.problem(key, format!("must be odd, got {list:?}"));
    }
}

/// Checks an image against what a network takes.
///
/// # Errors
/// [`Error::Shape`] unless `x` is `[N, channels, s…]` with each size a positive multiple of its
/// divisor.
pub(crate) fn check_image(
    op: &'static str,
    x: &Tensor,
    channels: usize,
    divisor: &[usize],
) -> Result<()> {
    let fits = x.rank() == divisor.len() + 2
        && x.dims()[1] == channels
        && x.dims()[2..].iter().zip(divisor).all(|(s, d)| *s > 0 && s % d == 0);
    if fits {
        return Ok(());
    }
    let expected = format!("[N, {channels}, s…] with sizes that are multiples of {divisor:?}");
    Err(Error::shape(op, expected, x.dims()))
}

/// How far apart the pixels of each level are along an axis, in pixels of the image.
pub(crate) fn spacings(strides: &[Vec<usize>], axis: usize) -> Vec<usize> {
    let mut spacings = vec![1];
    for stride in strides {
        let last: usize = spacings.last().copied().unwrap_or(1);
        spacings.push(last.saturating_mul(stride.get(axis).copied().unwrap_or(1)));
    }
    spacings
}
