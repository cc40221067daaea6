//! Adversarial losses: functions of the logits of a discriminator, of any shape `[N, ..]`.
//!
//! The two-player game is the caller's: these are its terms. Names say whose loss it is (`d` the
//! discriminator, `g` the generator) and what the logits were computed from.

use super::pixel::{positive, squared};
use super::reduce::{mean_of, mean_of2};
use candle_core::Tensor;
use limpid_kernels::{Error, Result};

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
    mean_of2(OP, [logits, labels], move |[x, t]| {
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
    mean_of(OP, logits, move |[x]| (softplus(x) - label * x, [sigmoid(x) - label]))
}

/// Mean squared distance of logits from one label: 1 real, 0 fake (LSGAN, Mao et al. 2017).
///
/// # Errors
/// [`Error::Shape`] if the tensor is empty; so for all below.
pub fn least_squares(logits: &Tensor, label: f64) -> Result<Tensor> {
    mean_of("gan_least_squares", logits, move |[x]| {
        let (value, [slope, _]) = squared([x, label]);
        (value, [slope])
    })
}

/// Hinge loss of the discriminator on real images: mean of `max(0, 1 - x)`.
///
/// # Errors
/// As [`least_squares`].
pub fn hinge_d_real(logits: &Tensor) -> Result<Tensor> {
    mean_of("hinge_d_real", logits, |[x]| {
        let (value, slope) = relu(1.0 - x);
        (value, [-slope])
    })
}

/// Hinge loss of the discriminator on generated images: mean of `max(0, 1 + x)`.
///
/// # Errors
/// As [`least_squares`].
pub fn hinge_d_fake(logits: &Tensor) -> Result<Tensor> {
    mean_of("hinge_d_fake", logits, |[x]| {
        let (value, slope) = relu(1.0 + x);
        (value, [slope])
    })
}

/// Hinge or Wasserstein loss of the generator: the negated mean of the logits.
///
/// # Errors
/// As [`least_squares`].
pub fn hinge_g(logits: &Tensor) -> Result<Tensor> {
    mean_of("hinge_g", logits, |[x]| (-x, [-1.0]))
}

/// Wasserstein loss of the critic on generated images: the mean of the logits. On real images it is
/// [`hinge_g`].
///
/// # Errors
/// As [`least_squares`].
pub fn wasserstein_d_fake(logits: &Tensor) -> Result<Tensor> {
    mean_of("wasserstein_d_fake", logits, |[x]| (x, [1.0]))
}

/// Logistic loss of the generator, non-saturating: mean of `softplus(-x)` (StyleGAN).
///
/// # Errors
/// As [`least_squares`].
pub fn softplus_g(logits: &Tensor) -> Result<Tensor> {
    mean_of("softplus_g", logits, |[x]| (softplus(-x), [-sigmoid(-x)]))
}

/// MONAI `PatchAdversarialLoss(criterion="hinge")` on real images: [`hinge_d_real`] of `tanh(x)`.
///
/// # Errors
/// As [`least_squares`].
pub fn monai_patch_hinge_d_real(logits: &Tensor) -> Result<Tensor> {
    mean_of("monai_patch_hinge_d_real", logits, |[x]| {
        let t = x.tanh();
        (1.0 - t, [t * t - 1.0])
    })
}

/// MONAI `PatchAdversarialLoss(criterion="hinge")` on generated images.
///
/// # Errors
/// As [`least_squares`].
pub fn monai_patch_hinge_d_fake(logits: &Tensor) -> Result<Tensor> {
    mean_of("monai_patch_hinge_d_fake", logits, |[x]| {
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
    mean_of("monai_patch_least_squares", logits, move |[x]| {
        // at 0 PyTorch takes the slope of the negative side
        let leak = if x > 0.0 { 1.0 } else { SLOPE };
        let d = x * leak - label;
        (d * d, [2.0 * d * leak])
    })
}
