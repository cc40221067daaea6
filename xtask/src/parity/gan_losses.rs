//! Objectives and schedules of NectarGAN and of the CycleGAN code: values, gradients, the gradient
//! penalty.

use candle_core::{DType, Device, Tensor, Var};
use limpid_arch::nlayer_discriminator::NlayerDiscriminator;
use limpid_arch::{AnyConfig, Network, Shapes, recognise};
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_losses::losses::gan::{self, Game, gradient_penalty};
use limpid_losses::losses::{grey, l1, l2, laplacian_l1, sobel_l1};
use limpid_nn::schedule::{Ramp, RampForm};
use limpid_nn::{Ctx, Params};
use serde_json::Value;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, relative, text};

const GRADIENT: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-4 };

/// Whether the file holds NectarGAN's losses.
pub(super) fn has_losses(fixture: &Fixture) -> bool {
    fixture.tensors.contains_key("out.sobel")
}

/// Compares a loss with `out.<name>`, and its gradient with `grad.<name>`.
fn compare(
    fixture: &Fixture,
    name: &str,
    x: &Var,
    loss: limpid_kernels::Result<Tensor>,
    worst: &mut Worst,
) -> Result<(), String> {
    let loss = loss.map_err(|e| format!("{name}: {e}"))?;
    let expected = fixture.tensor(&format!("out.{name}"))?;
    let value = loss.reshape(expected.dims()).map_err(text)?;
    // a mean of logits cancels, down to what f32 resolves of its terms
    let close = Tolerance { absolute: 1e-8, relative: 1e-5 };
    worst.tensor(name, &value, expected, close)?;
    let gradients = autograd::backward(&loss).map_err(text)?;
    let grad = format!("grad.{name}");
    match gradients.get(x.as_tensor()) {
        Some(got) => worst.tensor(&grad, got, fixture.tensor(&grad)?, GRADIENT),
        None => Err(format!("{grad} is missing")),
    }
}

/// Every `out.<name>` and `grad.<name>` of NectarGAN's losses. `_1ch` is of the first channel alone,
/// `_flat_pred` of a constant image.
pub(super) fn losses(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for name in fixture.part("out.").into_keys() {
        let (x, y) =
            (if name.ends_with("_flat_pred") { "in.flat" } else { "in.pred" }, "in.target");
        let image = |key: &str| {
            let all = fixture.tensor(key)?;
            match name.ends_with("_1ch") {
                true => all.narrow(1, 0, 1).and_then(|t| t.contiguous()).map_err(text),
                false => Ok(all.clone()),
            }
        };
        let of_logits = name.starts_with("bce_logits");
        let x = if of_logits { fixture.tensor("in.logits")?.clone() } else { image(x)? };
        let (x, y) = (Var::from_tensor(&x).map_err(text)?, image(y)?);
        let on_grey = |loss: &dyn Fn(&Tensor, &Tensor) -> limpid_kernels::Result<Tensor>| {
            loss(&grey(x.as_tensor())?, &grey(&y)?)
        };
        let stem = name.trim_end_matches("_1ch").trim_end_matches("_flat_pred");
        let loss = match stem {
            "bce_logits_ones" => gan::vanilla(x.as_tensor(), 1.0),
            "bce_logits_zeros" => gan::vanilla(x.as_tensor(), 0.0),
            "l1" => l1(x.as_tensor(), &y),
            "l2" => l2(x.as_tensor(), &y),
            "sobel" => on_grey(&|x, y| sobel_l1(x, y, 1e-6)),
            "laplacian" => on_grey(&laplacian_l1),
            _ => return Err(format!("the file has a loss that no function claims: `{name}`")),
        };
        compare(fixture, &name, &x, loss, &mut worst)?;
    }
    worst.done()
}

/// The three games of `GANLoss`, and the gradient penalty.
pub(super) fn games(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for name in fixture.part("out.").into_keys() {
        let x = Var::from_tensor(fixture.tensor("in.pred")?).map_err(text)?;
        let (game, label) = name.split_once('_').ok_or_else(|| format!("unknown `{name}`"))?;
        let game = match game {
            "vanilla" => Game::Vanilla,
            "lsgan" => Game::LeastSquares,
            "wgangp" => Game::Wasserstein,
            _ => return Err(format!("the file has a game that we do not play: `{name}`")),
        };
        let loss = game.loss(x.as_tensor(), label == "real");
        compare(fixture, &name, &x, loss, &mut worst)?;
    }
    if fixture.tensors.contains_key("gp.out") {
        if limpid_kernels::second_derivatives() {
            penalty(fixture, &mut worst)?;
        } else {
            penalty_elsewhere(fixture, &mut worst)?;
        }
    }
    worst.done()
}

/// Compares the file in a process that was told to keep second derivatives.
fn penalty_elsewhere(fixture: &Fixture, worst: &mut Worst) -> Result<(), String> {
    let program = std::env::current_exe().map_err(text)?;
    let output = std::process::Command::new(program)
        .arg("parity")
        .arg(&fixture.path)
        .env("CANDLE_GRAD_DO_NOT_DETACH", "1")
        .output()
        .map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let what = format!("with second derivatives: {said}");
    worst.require(&what, output.status.success() && said.starts_with("ok"));
    Ok(())
}

/// The penalty of the discriminator in the file, and its gradient by every parameter.
fn penalty(fixture: &Fixture, worst: &mut Worst) -> Result<(), String> {
    let json: Value = fixture.json("config")?;
    let weights = fixture.part("gp.weights.");
    let shapes: Shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let best = recognise(&shapes).into_iter().find(|found| found.mismatches == 0);
    let Some(AnyConfig::NlayerDiscriminator(config)) = best.map(|found| found.config) else {
        return Err("no critic has these weights".into());
    };
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "parity"), DType::F32, &Device::Cpu);
    let net = NlayerDiscriminator::new(&config, &scope).map_err(text)?;
    params.set(&weights).map_err(text)?;
    let input = |name: &str| fixture.tensor(&format!("gp.in.{name}"));
    let critic = |x: &Tensor| net.forward(x, &Ctx::train(Stream::new(0, "parity")));
    let penalty = gradient_penalty(critic, input("real")?, input("fake")?, input("alpha")?, 1.0);
    let penalty = penalty.and_then(|p| Ok((p * 10.0)?)).map_err(text)?;
    let expected = fixture.tensor("gp.out")?;
    let value = penalty.reshape(expected.dims()).map_err(text)?;
    worst.tensor("gp.out", &value, expected, relative(1e-5))?;
    let gradients = autograd::backward(&penalty).map_err(text)?;
    let noise = json["gradient_penalty"]["f32_vs_f64"].as_f64().unwrap_or(0.0);
    let close = Tolerance { absolute: (10.0 * noise).max(1e-6), ..GRADIENT };
    for (key, expected) in fixture.part("gp.grad.") {
        let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
        // what the penalty does not depend on has no gradient with us, and zero there
        let got = match gradients.get(param.var()) {
            Some(got) => got.clone(),
            None => expected.zeros_like().map_err(text)?,
        };
        worst.tensor(&format!("gp.grad.{key}"), &got, &expected, close)?;
    }
    Ok(())
}

/// NectarGAN's schedules of loss weights and learning rates.
pub(super) fn schedules(fixture: &Fixture) -> Result<Outcome, String> {
    let json: Value = fixture.json("config")?;
    let close = Tolerance { absolute: 1e-15, relative: 1e-9 };
    let number = |json: &Value, key: &str| json[key].as_f64().ok_or(format!("no `{key}`"));
    let form = |json: &Value| match json["schedule"].as_str() {
        Some("linear") => Ok(RampForm::Linear),
        Some("exponential") => Ok(RampForm::Exponential),
        _ => Err(format!("unknown schedule {}", json["schedule"])),
    };
    let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
    let mut worst = Worst::default();
    for (i, case) in list("cases").iter().enumerate() {
        let (given, stored) = (&case["ctor"], &case["stored"]);
        let ramp = Ramp {
            form: form(case)?,
            start: number(stored, "start_epoch")?,
            end: number(stored, "end_epoch")?,
            from: number(given, "initial_value")?,
            to: number(given, "target_value")?,
        };
        let epochs = fixture.values(&format!("case{i}.epochs"))?;
        let got: Vec<f64> = epochs.into_iter().map(|e| ramp.at(e)).collect();
        let name = format!("case{i}.value");
        worst.compare(&name, &got, &fixture.values(&name)?, close);
    }
    for (i, case) in list("trainer_lr").iter().enumerate() {
        let (from, to) = (number(case, "initial")?, number(case, "target")?);
        let constant = number(case, "epochs")?;
        let end = constant + number(case, "epochs_decay")?;
        let ramp = Ramp { form: form(case)?, start: constant - 1.0, end, from, to };
        // the reference's factor is relative to the larger of the two, which halves a rise
        let expected = fixture.values(&format!("lr{i}"))?;
        let got: Vec<f64> =
            (0..expected.len()).map(|e| from * ramp.at(e as f64) / from.max(to)).collect();
        worst.compare(&format!("lr{i}"), &got, &expected, close);
    }
    worst.done()
}
