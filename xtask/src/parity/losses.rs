//! Training objectives, beside PyTorch, MONAI and the papers' code: values and gradients.

use candle_core::{Tensor, Var};
use limpid_datamodule::blind_spot::median_filled;
use limpid_datamodule::normalise::{
    anscombe, anscombe_algebraic, anscombe_asymptotic, anscombe_unbiased,
};
use limpid_kernels::autograd;
use limpid_losses::losses::{self, gan};

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, relative, text};
use super::{gan_losses, losses_em};

const VALUE: Tolerance = relative(1e-5);
const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };
/// Width of the window that N2V2 takes the median of; the files do not say.
const MEDIAN_WINDOW: usize = 5;
/// MONAI adds the 1331 products of an 11³ window one after the other in f32, which by itself is
/// this far from the definition.
const MONAI_3D_ROUNDING: f64 = 1.3e-6;

/// Every `loss.<name>.value` and `loss.<name>.grad`; the folders name what they hold differently.
pub(super) fn losses(fixture: &Fixture) -> Result<Outcome, String> {
    if gan_losses::has_losses(fixture) {
        return gan_losses::losses(fixture);
    }
    if losses_em::is_layout(fixture) {
        return losses_em::losses(fixture);
    }
    let inner = |key: &str| -> Option<String> {
        Some(key.strip_prefix("loss.")?.strip_suffix(".value")?.to_string())
    };
    let names: Vec<String> = fixture.names().filter_map(inner).collect();
    if names.is_empty() {
        return Ok(Outcome::Skipped("no `loss.<name>.value` in the file".into()));
    }
    let mut worst = Worst::default();
    for name in names {
        let (value, grad) = (format!("loss.{name}.value"), format!("loss.{name}.grad"));
        let expected = fixture.tensor(&grad)?;
        // the input is the one that the gradient has the shape of
        let input = ["pred", "logits", "pred3d"]
            .into_iter()
            .find(|input| fixture.tensors.get(*input).is_some_and(|t| t.dims() == expected.dims()));
        let input = input.ok_or_else(|| format!("no input has the shape of `{grad}`"))?;
        let x = Var::from_tensor(fixture.tensor(input)?).map_err(text)?;
        let loss = evaluate(fixture, &name, x.as_tensor())?;
        let rounding = if name == "ssim3d_monai_g11" { MONAI_3D_ROUNDING } else { 0.0 };
        let tolerance = Tolerance { absolute: rounding, ..VALUE };
        worst.tensor(&value, &loss, fixture.tensor(&value)?, tolerance)?;
        let gradients = autograd::backward(&loss).map_err(text)?;
        match gradients.get(x.as_tensor()) {
            Some(got) => worst.tensor(&grad, got, expected, GRADIENT)?,
            None => worst.require(&format!("{grad} is missing"), false),
        }
    }
    worst.done()
}

/// The loss called `name` of the input `x`; numbers in a name are its parameters.
fn evaluate(fixture: &Fixture, name: &str, x: &Tensor) -> Result<Tensor, String> {
    let target = || fixture.tensor("target");
    let deep = || fixture.tensor("target3d");
    let counts = || (fixture.tensor("target")? * 20.0).map_err(text);
    // the name up to its number, and the number
    let split = name.rfind(|c: char| !(c.is_ascii_digit() || "e.-".contains(c))).unwrap_or(0) + 1;
    let (stem, number) = name.split_at(split);
    let parameter = || number.parse().map_err(|_| format!("no parameter in `{name}`"));
    let taps = || number.parse().map_err(|_| format!("no window size in `{name}`"));
    let loss = match (name, stem) {
        ("l1", _) => losses::l1(x, target()?),
        ("l1_sum", _) => losses::l1_sum(x, target()?),
        ("l2", _) => losses::l2(x, target()?),
        (_, "charbonnier_eps") => losses::charbonnier(x, target()?, parameter()?),
        (_, "huber_d") => losses::huber(x, target()?, parameter()?),
        (_, "smoothl1_b") => losses::smooth_l1(x, target()?, parameter()?),
        ("log_cosh", _) => losses::log_cosh(x, target()?),
        ("rel_l2", _) => losses::relative_l2(x, target()?),
        ("correlation", _) => losses::correlation(x, target()?),
        ("psnr_loss", _) => losses::negative_psnr(x, target()?, 1.0),
        ("one_minus_pytorch_msssim_ssim", _) => losses::ssim_gaussian(x, target()?, 1.0, 11, 1.5),
        (_, "ssim_monai_g") => losses::ssim_gaussian(x, target()?, 1.0, taps()?, 1.5),
        (_, "ssim_monai_uniform") => losses::ssim_uniform(x, target()?, 1.0, taps()?),
        (_, "ssim3d_monai_g") => losses::ssim_gaussian(x, deep()?, 1.0, taps()?, 1.5),
        (_, "l1_ssim_mix_") => losses::l1_ssim(x, target()?, 1.0, parameter()?),
        ("fft_l1_ortho", _) => losses::fft_l1(x, target()?),
        ("sobel_edge_l1", _) => losses::sobel_l1(x, target()?, 1e-6),
        ("tv_aniso_mean", _) => losses::tv_anisotropic(x),
        (_, "tv_iso_eps") => losses::tv_isotropic(x, parameter()?),
        ("gaussian_nll_var" | "gaussian_nll_full", _) => {
            let full = name.ends_with("full");
            losses::gaussian_nll(x, target()?, fixture.tensor("var")?, 1e-6, full)
        }
        ("gaussian_nll_logvar", _) => {
            losses::gaussian_nll_logvar(x, target()?, fixture.tensor("logvar")?)
        }
        ("poisson_nll_rate", _) => {
            let rate = x.abs().and_then(|rate| rate + 0.01).map_err(text)?;
            losses::poisson_nll(&rate, &counts()?, 1e-8)
        }
        ("poisson_nll_log", _) => losses::poisson_nll_log(x, &counts()?),
        ("bce_logits", _) => gan::bce_with_logits(x, fixture.tensor("labels")?, 1.0),
        (_, "bce_logits_posw") => gan::bce_with_logits(x, fixture.tensor("labels")?, parameter()?),
        ("gan_vanilla_real", _) => gan::vanilla(x, 1.0),
        (_, "gan_vanilla_real_smooth") => gan::vanilla(x, parameter()?),
        ("gan_vanilla_fake", _) => gan::vanilla(x, 0.0),
        ("lsgan_real", _) => gan::least_squares(x, 1.0),
        ("lsgan_fake", _) => gan::least_squares(x, 0.0),
        ("hinge_d_real", _) => gan::hinge_d_real(x),
        ("hinge_d_fake", _) => gan::hinge_d_fake(x),
        ("hinge_g", _) => gan::hinge_g(x),
        ("wgan_d_fake", _) => gan::wasserstein_d_fake(x),
        ("softplus_g", _) => gan::softplus_g(x),
        ("monai_patchadv_hinge_d_real", _) => gan::monai_patch_hinge_d_real(x),
        ("monai_patchadv_lsq_d_fake", _) => gan::monai_patch_least_squares(x, 0.0),
        ("monai_patchadv_lsq_g", _) => gan::monai_patch_least_squares(x, 1.0),
        _ => return Err(format!("the file has a loss that no function claims: `{name}`")),
    };
    loss.map_err(|e| format!("{name}: {e}"))
}

/// Losses that need no clean image, with the masks and choices of the file, and the transform that
/// makes the noise of counts even.
pub(super) fn self_supervised(fixture: &Fixture) -> Result<Outcome, String> {
    const CLOSE: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };
    let mut worst = Worst::default();
    let mut check =
        |name: &str, got: &Tensor| worst.tensor(name, got, fixture.tensor(name)?, CLOSE);
    let gradient = |loss: &Tensor, of: &Var| -> Result<Tensor, String> {
        let gradients = autograd::backward(loss).map_err(text)?;
        gradients.get(of.as_tensor()).cloned().ok_or_else(|| "no gradient".into())
    };

    let noisy = fixture.tensor("n2v.noisy")?;
    let pred = Var::from_tensor(fixture.tensor("n2v.pred")?).map_err(text)?;
    let mask = fixture.tensor("n2v.mask")?;
    let loss = losses::masked_l2(pred.as_tensor(), noisy, mask).map_err(text)?;
    check("n2v.loss", &loss)?;
    check("n2v.grad", &gradient(&loss, &pred)?)?;
    let hidden = losses::noise2self_input(noisy, fixture.tensor("n2s.mask")?).map_err(text)?;
    check("n2s.masked_input", &hidden)?;

    let choice: Vec<usize> = fixture.values("nb2nb.rd_idx")?.iter().map(|i| *i as usize).collect();
    let (first, second) = losses::neighbor_pair(noisy, &choice).map_err(text)?;
    check("nb2nb.sub1", &first)?;
    check("nb2nb.sub2", &second)?;
    let pred = Var::from_tensor(fixture.tensor("nb2nb.pred")?).map_err(text)?;
    let denoised = fixture.tensor("nb2nb.denoised_full")?;
    let (d1, d2) = losses::neighbor_pair(denoised, &choice).map_err(text)?;
    let (fit, smooth) =
        losses::neighbor2neighbor(pred.as_tensor(), &second, &d1, &d2, 2.0).map_err(text)?;
    check("nb2nb.loss1", &fit)?;
    check("nb2nb.loss2_lambda2", &smooth)?;
    let sum = (fit + smooth).map_err(text)?;
    check("nb2nb.grad", &gradient(&sum, &pred)?)?;

    let suv = fixture.tensor("nucli.suv")?;
    check("nucli.three_channel", &losses::suv_three_channel(suv).map_err(text)?)?;
    check("nucli.disc_input", &losses::suv_unit(suv).map_err(text)?)?;

    // SURE in f64: a difference quotient leaves no digits in f32
    let double = |name: &str| fixture.tensor(name)?.to_dtype(candle_core::DType::F64).map_err(text);
    let (noisy, probe, w) = (double("n2v.noisy")?, double("sure.probe")?, double("sure.weight")?);
    let (sigma, eps) = (fixture.scalar("sure.sigma")?, fixture.scalar("sure.eps")?);
    let spec =
        limpid_kernels::ConvSpec { padding: vec![1; 2], ..limpid_kernels::ConvSpec::unit(2) };
    let network = |x: &Tensor| limpid_kernels::conv(x, &w, None, &spec).map_err(text);
    let moved = (&probe * eps).and_then(|step| &noisy + step).map_err(text)?;
    let loss = losses::mc_sure(&network(&noisy)?, &noisy, &network(&moved)?, &probe, sigma, eps);
    let value = loss.map_err(text)?;
    worst.tensor("sure.value", &value, fixture.tensor("sure.value")?, absolute(1e-6))?;

    let counts = fixture.values("anscombe.in")?;
    let stabilise: [(&str, fn(f64) -> f64); 4] = [
        ("anscombe.fwd", |x| anscombe(x, 0.0)),
        ("anscombe.inv_algebraic", anscombe_algebraic),
        ("anscombe.inv_asym_unbiased", anscombe_asymptotic),
        ("anscombe.inv_closed", anscombe_unbiased),
    ];
    for (name, function) in stabilise {
        let got: Vec<f64> = counts.iter().map(|x| function(*x)).collect();
        worst.compare(name, &got, &fixture.values(name)?, CLOSE);
    }

    let single = |name: &str| -> Result<Vec<f32>, String> {
        Ok(fixture.values(name)?.into_iter().map(|v| v as f32).collect())
    };
    let (noisy, mask) = (single("n2v.noisy")?, single("n2v.mask")?);
    // images and channels, each with the size of the axes that follow
    let size = fixture.shape("n2v.noisy")?.get(2..).ok_or("`n2v.noisy` has too few axes")?;
    let pixels = size.iter().product::<usize>().max(1);
    let mut filled = Vec::new();
    for (image, mask) in noisy.chunks(pixels).zip(mask.chunks(pixels)) {
        let image = median_filled(image, mask, size, MEDIAN_WINDOW).map_err(text)?;
        filled.extend(image.into_iter().map(f64::from));
    }
    let expected = fixture.values("n2v2.median_replaced")?;
    worst.compare("n2v2.median_replaced", &filled, &expected, CLOSE);
    worst.done()
}
