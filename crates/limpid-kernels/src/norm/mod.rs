//! Group, instance, layer and batch normalisation.
//!
//! `y = (x - mean) / sqrt(var + eps) * weight + bias` over different sets of elements (Wu & He,
//! arXiv:1803.08494, figure 2), as the functions of the same names in PyTorch. Statistics are
//! accumulated in f64. Forward and backward are fused: one pass for the statistics, one for the
//! values, which may go through a pointwise function on the way; where second derivatives are
//! wanted, the gradient is composed of differentiable operations instead (`composed.rs`).

mod channel;
mod composed;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
mod layer;
mod moments;
#[cfg(test)]
mod tests;

use crate::activation::Activation;
use crate::algebra::cat;
use crate::autograd::takes_many;
use crate::check::{image, shape_of};
use crate::op::{apply, check_dtypes};
use crate::parts::joined_image;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use channel::{Normalise, Sharing};
use moments::{Moment, Statistic, Statistics};
use std::sync::{Arc, OnceLock};

/// Normalises each of `groups` groups of channels of each batch item.
///
/// # Shapes
/// `x [N, C, s..]` with any number of spatial sizes, `weight` and `bias` both `[C]` or, one for each
/// batch item, both `[N, C]` → the same as `x`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other, or if there is a single element to
/// normalise; [`Error::Argument`] unless `groups` divides the channels and `eps` is not negative.
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    group_norm_act(x, groups, weight, bias, eps, Activation::Identity)
}

/// A function of [`group_norm`] in one operation. With `weight = w (1 + s)` and `bias = b (1 + s) + t`
/// it is the scale-shift normalisation of diffusion networks (Dhariwal & Nichol, arXiv:2105.05233).
///
/// # Errors
/// As [`group_norm`] and [`Activation::apply`].
pub fn group_norm_act(
    x: &Tensor,
    groups: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    group_norm_act_cat(&[x], groups, weight, bias, eps, activation)
}

/// [`group_norm_act`] of tensors joined along the channels, which are read where they are.
///
/// # Shapes
/// `parts [N, C_i, s..]`, weight and bias as of [`group_norm`] for `C = Σ C_i` → `[N, C, s..]`
///
/// # Errors
/// As [`group_norm_act`] and [`crate::cat`].
pub fn group_norm_act_cat(
    parts: &[&Tensor],
    groups: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    by_group("group_norm", parts, groups, [weight, bias], eps, activation)
}

/// Normalises each channel of each batch item.
///
/// # Shapes
/// `x [N, C, s..]` with one to three spatial sizes, `weight` and `bias` as of [`group_norm`] → the
/// same as `x`.
///
/// # Errors
/// As [`group_norm`]; [`Error::Shape`] also if channels have a single pixel, whose normal is zero.
pub fn instance_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    instance_norm_act(x, weight, bias, eps, Activation::Identity)
}

/// A function of [`instance_norm`] in one operation.
///
/// # Errors
/// As [`instance_norm`] and [`Activation::apply`].
pub fn instance_norm_act(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let op = "instance_norm";
    let (_, channels, spatial) = image(op, x)?;
    if spatial.iter().product::<usize>() == 1 {
        return Err(Error::shape(op, "more than one pixel per channel", x.dims()));
    }
    by_group(op, &[x], channels, [weight, bias], eps, activation)
}

/// Normalises over the trailing `normalized_dims` dimensions.
///
/// # Shapes
/// `x [.., d..]`, `weight [d..]`, `bias [d..]` → the same as `x`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other; [`Error::Argument`] unless
/// `normalized_dims` is from 1 to the rank and `eps` is not negative.
pub fn layer_norm(
    x: &Tensor,
    normalized_dims: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let op = "layer_norm";
    if !(1..=x.rank()).contains(&normalized_dims) {
        let message = format!(
            "`normalized_dims` is {normalized_dims}, but must be 1 to {}, the rank of x",
            x.rank()
        );
        return Err(Error::Argument { op, message });
    }
    let dims = &x.dims()[x.rank() - normalized_dims..];
    let args = operands(&[x], weight, bias);
    check(op, &args, [weight, bias], dims, eps)?;
    let width: usize = dims.iter().product();
    if width == 0 {
        return Err(Error::shape(op, "at least one element to normalise", x.dims()));
    }
    let (statistics, affine) = (OnceLock::new(), Affine::of(weight, bias));
    apply(layer::LayerNorm { dims: dims.to_vec(), width, eps, statistics, affine }, &args)
}

/// Normalises each channel over the whole batch; also returns its mean and biased variance `[C]`,
/// which carry no gradient.
///
/// # Shapes
/// `x [N, C, s..]` with any number of spatial sizes, `weight` and `bias` both `[C]` or, one for each
/// batch item, both `[N, C]` → the same as `x`.
///
/// # Errors
/// As [`group_norm`]; [`Error::Shape`] also if channels have a single element, whose normal is zero.
pub fn batch_norm_train(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    batch_norm_train_act(x, weight, bias, eps, Activation::Identity)
}

/// [`batch_norm_train`] with a function of its first result in one operation.
///
/// # Errors
/// As [`batch_norm_train`] and [`Activation::apply`].
pub fn batch_norm_train_act(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    activation: Activation,
) -> Result<(Tensor, Tensor, Tensor)> {
    let op = "batch_norm";
    let sharing = Sharing::batch(op, x.dims())?;
    let args = operands(&[x], weight, bias);
    check_channels(op, &args, &sharing, [weight, bias], eps, activation)?;
    if sharing.count() < 2 {
        let expected = "more than one element per channel; use a larger batch or another norm";
        return Err(Error::shape(op, expected, x.dims()));
    }
    let statistics = Arc::new(OnceLock::new());
    let found = Arc::clone(&statistics);
    let affine = Affine::of(weight, bias);
    let op = Normalise { name: op, sharing, statistics, eps, fixed: false, affine, activation };
    let y = apply(op, &args)?;
    let missing = || Error::argument("batch_norm", "the statistics are not known yet");
    let found = found.get().ok_or_else(missing)?;
    Ok((y, found.vector(Moment::Mean, x)?, found.vector(Moment::Variance, x)?))
}

/// Normalises each channel with a given mean and variance `[C]`, which get no gradient.
///
/// # Shapes
/// `x [N, C, s..]` with any number of spatial sizes, `weight` and `bias` both `[C]` or, one for each
/// batch item, both `[N, C]` → the same as `x`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other; [`Error::Argument`] if `eps` is negative.
pub fn batch_norm_eval(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    batch_norm_eval_act(x, mean, var, weight, bias, eps, Activation::Identity)
}

/// A function of [`batch_norm_eval`] in one operation.
///
/// # Errors
/// As [`batch_norm_eval`] and [`Activation::apply`].
pub fn batch_norm_eval_act(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let op = "batch_norm";
    let sharing = Sharing::batch(op, x.dims())?;
    let args = operands(&[x], weight, bias);
    check_channels(op, &args, &sharing, [weight, bias], eps, activation)?;
    let statistics = Arc::new(OnceLock::from(given(op, x, mean, var, eps)?));
    let affine = Affine::of(weight, bias);
    let op = Normalise { name: op, sharing, statistics, eps, fixed: true, affine, activation };
    apply(op, &args)
}

/// The statistics that a mean and a variance for each channel of x make.
fn given(
    op: &'static str,
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
) -> Result<Statistics> {
    shape_of(op, "mean", Some(mean), &x.dims()[1..2])?;
    shape_of(op, "var", Some(var), &x.dims()[1..2])?;
    let (mean, var) = (mean.to_dtype(DType::F64)?, var.to_dtype(DType::F64)?);
    #[cfg(feature = "cuda")]
    if [x, &mean, &var].into_iter().any(|t| t.device().is_cuda()) {
        return cuda::given(op, &mean, &var, eps);
    }
    let (mean, var) = (mean.to_vec1::<f64>()?, var.to_vec1::<f64>()?);
    let all = mean.into_iter().zip(var).map(|(mean, var)| Statistic::new(mean, var, eps));
    Ok(Statistics::Host(all.collect()))
}

fn by_group(
    op: &'static str,
    parts: &[&Tensor],
    groups: usize,
    [weight, bias]: [Option<&Tensor>; 2],
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let dims = joined_image(op, parts)?;
    let sharing = Sharing::group(op, &dims, groups)?;
    let args = operands(parts, weight, bias);
    check_channels(op, &args, &sharing, [weight, bias], eps, activation)?;
    if sharing.count() == 0 || sharing.batch * sharing.count() == 1 {
        let expected = "more than one element to normalise; it would always be zero";
        return Err(Error::shape(op, expected, dims));
    }
    if parts.len() > 1 && !takes_many(&args) {
        return by_group(op, &[&cat(parts, 1)?], groups, [weight, bias], eps, activation);
    }
    let statistics = Arc::default();
    let affine = Affine { sources: parts.len(), ..Affine::of(weight, bias) };
    let op = Normalise { name: op, sharing, statistics, eps, fixed: false, affine, activation };
    apply(op, &args)
}

/// What the operands are: those that are normalised together, then the parameters there are.
#[derive(Clone, Copy)]
struct Affine {
    sources: usize,
    weight: bool,
    bias: bool,
}

impl Affine {
    /// With one operand that is normalised.
    fn of(weight: Option<&Tensor>, bias: Option<&Tensor>) -> Self {
        Self { sources: 1, weight: weight.is_some(), bias: bias.is_some() }
    }

    /// The operands that are normalised.
    fn sources<A>(self, args: &[A]) -> &[A] {
        &args[..self.sources]
    }

    /// The weight among the operands.
    fn weight<A>(self, args: &[A]) -> Option<&A> {
        if self.weight { args.get(self.sources) } else { None }
    }

    /// The bias among the operands.
    fn bias<A>(self, args: &[A]) -> Option<&A> {
        if self.bias { args.get(self.sources + usize::from(self.weight)) } else { None }
    }

    /// The gradients in the order of the operands.
    fn gradients(self, x: Vec<Option<Tensor>>, w: Tensor, b: Tensor) -> Vec<Option<Tensor>> {
        let w = self.weight.then_some(Some(w));
        let b = self.bias.then_some(Some(b));
        x.into_iter().chain(w).chain(b).collect()
    }
}

fn operands<'a>(
    sources: &[&'a Tensor],
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
) -> Vec<&'a Tensor> {
    sources.iter().copied().chain(weight).chain(bias).collect()
}

/// Checks the operands of a normalisation with parameters per channel or per batch item and channel.
fn check_channels(
    op: &'static str,
    args: &[&Tensor],
    sharing: &Sharing,
    [weight, bias]: [Option<&Tensor>; 2],
    eps: f64,
    activation: Activation,
) -> Result<()> {
    activation.check()?;
    let dims = [sharing.batch, sharing.channels];
    let per_item = weight.or(bias).is_some_and(|t| t.rank() == 2);
    check(op, args, [weight, bias], if per_item { &dims } else { &dims[1..] }, eps)
}

fn check(
    op: &'static str,
    args: &[&Tensor],
    [weight, bias]: [Option<&Tensor>; 2],
    dims: &[usize],
    eps: f64,
) -> Result<()> {
    shape_of(op, "weight", weight, dims)?;
    shape_of(op, "bias", bias, dims)?;
    check_dtypes(op, args)?;
    if eps >= 0.0 {
        return Ok(());
    }
    Err(Error::Argument { op, message: format!("`eps` is {eps}, but must not be negative") })
}
