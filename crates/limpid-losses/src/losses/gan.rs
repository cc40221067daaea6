//! Adversarial losses: functions of the logits of a discriminator, of any shape `[N, ..]`.
//!
//! The two-player game is the caller's: these are its terms. Names say whose loss it is (`d` the
//! discriminator, `g` the generator) and what the logits were computed from.

use super::pixel::{positive, squared};
use super::reduce::{Kernel, mean_of, mean_of2};
use candle_core::{Tensor, Var};
use limpid_kernels::{Error, Result, second_derivatives};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The game that generator and discriminator play, as `GANLoss` of the CycleGAN code knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Game {
    /// Cross-entropy of logits ([`vanilla`]).
    Vanilla,
    /// Squared distance from the label ([`least_squares`]).
    LeastSquares,
    /// A critic's score ([`wasserstein_d_fake`]), which needs a [`gradient_penalty`].
    Wasserstein,
}

impl Game {
    /// The loss of logits that are to say real (1) or not (0). The generator's is that of its
    /// images with `real`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor is empty.
    pub fn loss(self, logits: &Tensor, real: bool) -> Result<Tensor> {
        let label = if real { 1.0 } else { 0.0 };
        match self {
            Self::Vanilla => vanilla(logits, label),
            Self::LeastSquares => least_squares(logits, label),
            Self::Wasserstein if real => hinge_g(logits),
            Self::Wasserstein => wasserstein_d_fake(logits),
        }
    }
}

/// Gradient penalty of a Wasserstein critic (WGAN-GP, Gulrajani et al. 2017, arXiv:1704.00028): the
/// mean over samples of `(‖∇D(x)‖ - norm)²` where `x = alpha·real + (1 - alpha)·fake`.
///
/// `alpha` holds one number per sample, drawn from 0 to 1; 1 (0) for all penalises the gradient at
/// real (generated) images only. The usual `norm` is 1 and the usual factor before the penalty 10.
/// It is differentiable with respect to the parameters of the critic, but not to the images.
///
/// # Second derivatives
/// The derivative of the penalty is one of a gradient. candle keeps what that needs only if the
/// environment variable `CANDLE_GRAD_DO_NOT_DETACH` is 1 when the program begins. Without it a
/// penalty would have a wrong derivative, so that it is refused. An operation of the critic that
/// cannot be differentiated twice (see `limpid_kernels`) is refused by `backward` of the penalty;
/// convolutions, normalisations, pads, pools and all activations but PReLU can.
///
/// # Errors
/// [`Error::Argument`] without that variable, or if the critic's result does not depend on the
/// image; [`Error::Shape`] if images or `alpha` do not fit each other.
pub fn gradient_penalty(
    critic: impl FnOnce(&Tensor) -> Result<Tensor>,
    real: &Tensor,
    fake: &Tensor,
    alpha: &Tensor,
    norm: f64,
) -> Result<Tensor> {
    const OP: &str = "gradient_penalty";
    if !second_derivatives() {
        let message = "needs second derivatives: set the environment variable \
                       CANDLE_GRAD_DO_NOT_DETACH=1 before the program starts";
        return Err(Error::argument(OP, message));
    }
    if real.dims() != fake.dims() || real.rank() < 2 || real.elem_count() == 0 {
        let expected = format!("two batches [N, ..] of one shape, {:?}", real.dims());
        return Err(Error::shape(OP, expected, fake.dims()));
    }
    let samples = real.dims()[0];
    if alpha.elem_count() != samples {
        return Err(Error::shape(OP, format!("an alpha of {samples} numbers"), alpha.dims()));
    }
    let mut each = vec![1; real.rank()];
    each[0] = samples;
    let alpha = alpha.to_dtype(real.dtype())?.reshape(each)?;
    let between = real.broadcast_mul(&alpha)?;
    let between = (between + fake.broadcast_mul(&alpha.affine(-1.0, 1.0)?)?)?;
    let x = Var::from_tensor(&between.detach())?;
    let gradients = critic(x.as_tensor())?.sum_all()?.backward()?;
    let missing = || Error::argument(OP, "the critic's result does not depend on the image");
    let slope = gradients.get(x.as_tensor()).ok_or_else(missing)?.flatten_from(1)?;
    // the reference's offset keeps the root differentiable where the gradient is zero
    let length = (slope + 1e-16)?.sqr()?.sum(1)?.sqrt()?;
    Ok((length - norm)?.sqr()?.mean_all()?)
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// `max(0, x)` and its derivative, 0 at the kink; NaN stays NaN.
fn relu(x: f64) -> (f64, f64) {
    if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) }
}

/// Binary cross-entropy of logits against labels in `[0, 1]` (`torch.nn.BCEWithLogitsLoss`), finite
/// for any finite logit.
///
/// `pos_weight` multiplies the loss of positive labels; 1 is plain cross-entropy.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Argument`] if `pos_weight` is not above 0.
pub fn bce_with_logits(logits: &Tensor, labels: &Tensor, pos_weight: f64) -> Result<Tensor> {
    const OP: &str = "bce_with_logits";
    let p = positive(OP, "pos_weight", pos_weight)?;
    mean_of2(OP, [logits, labels], Kernel("cross_entropy", [p, 0.0]), move |[x, t]| {
        let (below, above) = (softplus(-x), softplus(x));
        let value = p * t * below + (1.0 - t) * above;
        let by_logit = (1.0 - t) * sigmoid(x) - p * t * sigmoid(-x);
        (value, [by_logit, p * below - above])
    })
}

/// Cross-entropy of logits against one label for all: 1 real, 0 fake, 0.9 a smoothed real (the
/// original GAN; pix2pix).
///
/// # Errors
/// [`Error::Argument`] if the label is outside `[0, 1]`.
pub fn vanilla(logits: &Tensor, label: f64) -> Result<Tensor> {
    const OP: &str = "gan_vanilla";
    if !(0.0..=1.0).contains(&label) {
        return Err(Error::argument(OP, format!("`label` must lie in 0..=1, got {label}")));
    }
    mean_of(OP, logits, Kernel("vanilla", [label, 0.0]), move |[x]| {
        (softplus(x) - label * x, [sigmoid(x) - label])
    })
}

/// Mean squared distance of logits from one label: 1 real, 0 fake (LSGAN, Mao et al. 2017).
///
/// # Errors
/// [`Error::Shape`] if the tensor is empty, so for all below; [`Error::Argument`] if the label is not
/// finite.
pub fn least_squares(logits: &Tensor, label: f64) -> Result<Tensor> {
    if !label.is_finite() {
        let message = format!("`label` must be finite, got {label}");
        return Err(Error::argument("gan_least_squares", message));
    }
    mean_of("gan_least_squares", logits, Kernel("least_squares", [label, 0.0]), move |[x]| {
        let (value, [slope, _]) = squared([x, label]);
        (value, [slope])
    })
}

/// Hinge loss of the discriminator on real images: mean of `max(0, 1 - x)`.
///
/// # Errors
/// As [`least_squares`].
pub fn hinge_d_real(logits: &Tensor) -> Result<Tensor> {
    mean_of("hinge_d_real", logits, Kernel::plain("hinge_real"), |[x]| {
        let (value, slope) = relu(1.0 - x);
        (value, [-slope])
    })
}

/// Hinge loss of the discriminator on generated images: mean of `max(0, 1 + x)`.
///
/// # Errors
/// As [`least_squares`].
pub fn hinge_d_fake(logits: &Tensor) -> Result<Tensor> {
    mean_of("hinge_d_fake", logits, Kernel::plain("hinge_fake"), |[x]| {
        let (value, slope) = relu(1.0 + x);
        (value, [slope])
    })
}

/// Hinge or Wasserstein loss of the generator: the negated mean of the logits.
///
/// # Errors
/// As [`least_squares`].
pub fn hinge_g(logits: &Tensor) -> Result<Tensor> {
    mean_of("hinge_g", logits, Kernel::plain("negated"), |[x]| (-x, [-1.0]))
}

/// Wasserstein loss of the critic on generated images: the mean of the logits. On real images it is
/// [`hinge_g`].
///
/// # Errors
/// As [`least_squares`].
pub fn wasserstein_d_fake(logits: &Tensor) -> Result<Tensor> {
    mean_of("wasserstein_d_fake", logits, Kernel::plain("identity"), |[x]| (x, [1.0]))
}

/// Logistic loss of the generator, non-saturating: mean of `softplus(-x)` (StyleGAN).
///
/// # Errors
/// As [`least_squares`].
pub fn softplus_g(logits: &Tensor) -> Result<Tensor> {
    mean_of("softplus_g", logits, Kernel::plain("softplus_negated"), |[x]| {
        (softplus(-x), [-sigmoid(-x)])
    })
}

/// MONAI `PatchAdversarialLoss(criterion="hinge")` on real images: [`hinge_d_real`] of `tanh(x)`.
///
/// # Errors
/// As [`least_squares`].
pub fn monai_patch_hinge_d_real(logits: &Tensor) -> Result<Tensor> {
    mean_of("monai_patch_hinge_d_real", logits, Kernel::plain("patch_hinge_real"), |[x]| {
        let t = x.tanh();
        (1.0 - t, [t * t - 1.0])
    })
}

/// MONAI `PatchAdversarialLoss(criterion="hinge")` on generated images.
///
/// # Errors
/// As [`least_squares`].
pub fn monai_patch_hinge_d_fake(logits: &Tensor) -> Result<Tensor> {
    mean_of("monai_patch_hinge_d_fake", logits, Kernel::plain("patch_hinge_fake"), |[x]| {
        let t = x.tanh();
        (1.0 + t, [1.0 - t * t])
    })
}

/// MONAI `PatchAdversarialLoss(criterion="least_squares")`: [`least_squares`] after a leaky ReLU of
/// slope 0.05. Label 1 for real images and for the generator, 0 for generated ones.
///
/// # Errors
/// As [`least_squares`].
pub fn monai_patch_least_squares(logits: &Tensor, label: f64) -> Result<Tensor> {
    const SLOPE: f64 = 0.05;
    let kernel = Kernel("patch_least_squares", [label, SLOPE]);
    mean_of("monai_patch_least_squares", logits, kernel, move |[x]| {
        // at 0 PyTorch takes the slope of the negative side
        let leak = if x > 0.0 { 1.0 } else { SLOPE };
        let d = x * leak - label;
        (d * d, [2.0 * d * leak])
    })
}
