//! Negative log-likelihoods: losses that know the noise.

use super::operand::prepare;
use super::pixel::positive;
use super::reduce::{Kernel, mean_of2, mean_of3};
use candle_core::Tensor;
use limpid_kernels::Result;

/// Gaussian with a predicted variance (`torch.nn.GaussianNLLLoss`): mean of
/// `(ln v + d² / v) / 2`, with `v` the variance clamped to at least `eps`.
///
/// `full` adds the constant `ln(2π) / 2`. As in PyTorch the clamp does not stop the gradient, so a
/// variance below `eps` is pushed up again. PyTorch's `eps` is 1e-6.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) if the shapes differ;
/// [`Error::Argument`](limpid_kernels::Error::Argument) if `eps` is not above 0.
pub fn gaussian_nll(
    pred: &Tensor,
    target: &Tensor,
    variance: &Tensor,
    eps: f64,
    full: bool,
) -> Result<Tensor> {
    const OP: &str = "gaussian_nll";
    let eps = positive(OP, "eps", eps)?;
    let constant = if full { 0.5 * std::f64::consts::TAU.ln() } else { 0.0 };
    mean_of3(OP, [pred, target, variance], Kernel("gaussian", [eps, constant]), move |[x, y, v]| {
        let (d, v) = (x - y, if v < eps { eps } else { v });
        let slope = d / v;
        let by_variance = 0.5 / v - 0.5 * slope * slope;
        (0.5 * (v.ln() + d * slope) + constant, [slope, -slope, by_variance])
    })
}

/// Gaussian with a predicted logarithm of the variance: mean of `(s + d² e^-s) / 2`.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) if the shapes differ.
pub fn gaussian_nll_logvar(
    pred: &Tensor,
    target: &Tensor,
    log_variance: &Tensor,
) -> Result<Tensor> {
    let kernel = Kernel::plain("gaussian_log");
    mean_of3("gaussian_nll_logvar", [pred, target, log_variance], kernel, |[x, y, s]| {
        let d = x - y;
        let slope = d * (-s).exp();
        (0.5 * (s + d * slope), [slope, -slope, 0.5 - 0.5 * d * slope])
    })
}

/// [`gaussian_nll_logvar`] with the predicted logarithm multiplied by a weight for each element,
/// cut to 0.01 to 1 (EMDiffuse `mse_var_loss2`). The weights receive no gradient.
///
/// # Errors
/// As [`gaussian_nll_logvar`].
pub fn gaussian_nll_logvar_weighted(
    pred: &Tensor,
    target: &Tensor,
    log_variance: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    let [variance, weight] = prepare("gaussian_nll_logvar_weighted", [log_variance, weight])?;
    let weighted = (variance * weight.detach().clamp(0.01, 1.0)?)?;
    let weighted = weighted.to_dtype(pred.dtype())?.to_device(pred.device())?;
    gaussian_nll_logvar(pred, target, &weighted)
}

/// Poisson counts with a predicted rate (`torch.nn.PoissonNLLLoss(log_input=False)`): mean of
/// `rate - counts ln(rate + eps)`. PyTorch's `eps` is 1e-8.
///
/// Rates must not be negative: end the network with a softplus, or give `|x|`.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) if the shapes differ;
/// [`Error::Argument`](limpid_kernels::Error::Argument) if `eps` is not above 0.
pub fn poisson_nll(rate: &Tensor, counts: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "poisson_nll";
    let eps = positive(OP, "eps", eps)?;
    mean_of2(OP, [rate, counts], Kernel("poisson", [eps, 0.0]), move |[r, n]| {
        let log = (r + eps).ln();
        (r - n * log, [1.0 - n / (r + eps), -log])
    })
}

/// Poisson counts with a predicted logarithm of the rate (`torch.nn.PoissonNLLLoss`): mean of
/// `e^x - counts x`.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) if the shapes differ.
pub fn poisson_nll_log(log_rate: &Tensor, counts: &Tensor) -> Result<Tensor> {
    let kernel = Kernel::plain("poisson_log");
    mean_of2("poisson_nll_log", [log_rate, counts], kernel, |[x, n]| {
        (x.exp() - n * x, [x.exp() - n, -x])
    })
}
