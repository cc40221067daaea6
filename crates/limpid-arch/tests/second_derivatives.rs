//! Every discriminator can be trained with a gradient penalty: the derivative of the squared
//! gradient with respect to the image, by the weights, equals finite differences.
//!
//! candle keeps what that needs only if `CANDLE_GRAD_DO_NOT_DETACH` was set when the process began,
//! so the test runs itself again with it.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use limpid_arch::cyclegan::Normalisation;
use limpid_arch::{Network, nlayer_discriminator, patch_gan, pixel_discriminator};
use limpid_kernels::gradcheck::test_tensor;
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Error, Params, Result, Scope};
use std::process::Command;

#[test]
fn discriminators_have_second_derivatives() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env("CANDLE_GRAD_DO_NOT_DETACH", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The squared gradient of the sum of squared logits by the image.
fn penalty(net: &dyn Network, image: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let x = Var::from_tensor(image)?;
    let gradients = net.forward(x.as_tensor(), ctx)?.sqr()?.sum_all()?.backward()?;
    Ok(of(&gradients, &x, "x")?.sqr()?.sum_all()?)
}

fn of(gradients: &GradStore, var: &Var, name: &str) -> Result<Tensor> {
    let missing = || Error::argument("penalty", format!("{name} has no gradient"));
    gradients.get(var).cloned().ok_or_else(missing)
}

fn check(
    name: &str,
    size: usize,
    build: impl Fn(&Scope) -> Result<Box<dyn Network>>,
    train: bool,
) -> Result<()> {
    let params = Params::new();
    let net = build(&params.scope(Stream::new(3, "test"), DType::F64, &Device::Cpu))?;
    let x = test_tensor(1, &[2, 2, size, size + 4])?;
    let ctx = || if train { Ctx::train(Stream::new(1, "test")) } else { Ctx::eval() };
    let gradients = penalty(net.as_ref(), &x, &ctx())?.backward()?;
    for param in params.trainable() {
        let analytic = of(&gradients, param.var(), param.name())?;
        let analytic = analytic.flatten_all()?.to_vec1::<f64>()?;
        let held = param.tensor().detach().flatten_all()?.to_vec1::<f64>()?;
        for i in (0..held.len()).step_by(1 + held.len() / 5) {
            let moved = |by: f64| -> Result<f64> {
                let mut values = held.clone();
                values[i] += by;
                param.set(&Tensor::from_vec(values, param.shape(), &Device::Cpu)?)?;
                Ok(penalty(net.as_ref(), &x, &ctx())?.to_scalar::<f64>()?)
            };
            // short, so that no value crosses the kink of an activation on the way
            let step = 1e-7;
            let numeric = (moved(step)? - moved(-step)?) / (2.0 * step);
            moved(0.0)?;
            let error = (analytic[i] - numeric).abs() / (1e-3 + numeric.abs());
            assert!(error < 1e-4, "{name} {}: {} {numeric}", param.name(), analytic[i]);
        }
    }
    Ok(())
}

#[test]
#[ignore = "run by discriminators_have_second_derivatives with its environment"]
fn child() -> Result<()> {
    let patch = patch_gan::Config { channels: 1, features: 3, layers: 3, ..Default::default() };
    check("patch_gan", 16, |s| Ok(Box::new(patch_gan::PatchGan::new(&patch, s)?)), false)?;
    for norm in [Normalisation::Batch, Normalisation::Instance, Normalisation::None] {
        for train in [false, true] {
            let layers = nlayer_discriminator::Config {
                in_channels: 2,
                features: 2,
                layers: 2,
                norm,
                ..Default::default()
            };
            check(
                &format!("nlayer_discriminator {norm:?} {train}"),
                16,
                |s| Ok(Box::new(nlayer_discriminator::NlayerDiscriminator::new(&layers, s)?)),
                train,
            )?;
            let pixels = pixel_discriminator::Config {
                in_channels: 2,
                features: 3,
                norm,
                ..Default::default()
            };
            check(
                &format!("pixel_discriminator {norm:?} {train}"),
                5,
                |s| Ok(Box::new(pixel_discriminator::PixelDiscriminator::new(&pixels, s)?)),
                train,
            )?;
        }
    }
    Ok(())
}
