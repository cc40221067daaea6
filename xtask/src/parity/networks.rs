//! Networks with the weights of their reference: output, loss and every gradient.

use candle_core::{DType, Device, Tensor, Var};
use limpid_arch::{AnyConfig, ImageArchitecture, NetworkConfig, Shapes, recognise, reference_key};
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params};
use std::collections::BTreeMap;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, text};

const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };

/// Weights by our names.
pub(super) type Weights = BTreeMap<String, Tensor>;

/// Builds the network that the weights belong to, and compares it.
pub(super) fn network(fixture: &Fixture) -> Result<Outcome, String> {
    let (config, weights) = recognised(fixture)?;
    compare(fixture, &config, &weights)
}

/// The image-to-image network that the weights of the file belong to.
pub(super) fn recognised(fixture: &Fixture) -> Result<(NetworkConfig, Weights), String> {
    let weights: Weights = fixture
        .part("param.")
        .into_iter()
        .filter_map(|(key, tensor)| Some((reference_key(&key)?.to_owned(), tensor)))
        .collect();
    let shapes: Shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let best = recognise(&shapes).into_iter().next().ok_or("no network has these weights")?;
    if best.mismatches > 0 {
        let kind = best.config.settings().kind();
        return Err(format!("{} weights do not fit the nearest network, {kind}", best.mismatches));
    }
    let AnyConfig::Image(config) = best.config;
    Ok((config, weights))
}

/// Compares a network in evaluation and, where the file holds that, with its gradients and in
/// training.
pub(super) fn compare(
    fixture: &Fixture,
    config: &NetworkConfig,
    weights: &Weights,
) -> Result<Outcome, String> {
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "parity"), DType::F32, &Device::Cpu);
    let net = config.build(&scope).map_err(text)?;
    params.set(weights).map_err(text)?;
    let x = Var::from_tensor(fixture.tensor("input.0")?).map_err(text)?;
    let output = net.forward(x.as_tensor(), &Ctx::eval()).map_err(text)?;
    // twenty times the distance of PyTorch's own f32 from f64
    let rounding: f64 = fixture.meta("max_abs_err_f32_vs_f64").unwrap_or(0.0);
    let close = absolute((20.0 * rounding).max(1e-5));
    let mut worst = Worst::default();
    worst.tensor("output", &output, fixture.tensor("output")?, close)?;

    let Some(expected) = fixture.tensors.get("loss") else { return worst.done() };
    let target = fixture.tensor("target")?;
    let loss = (&output - target).and_then(|d| d.sqr()?.mean_all()).map_err(text)?;
    worst.tensor("loss", &loss, expected, GRADIENT)?;
    let gradients = loss.backward().map_err(text)?;
    for (key, expected) in fixture.part("grad.") {
        let got = if key == "input.0" {
            gradients.get(x.as_tensor())
        } else {
            let Some(key) = reference_key(&key) else { continue };
            let param = params.get(key).ok_or_else(|| format!("no parameter `{key}`"))?;
            gradients.get(param.var())
        };
        let got = got.ok_or_else(|| format!("no gradient of `{key}`"))?;
        worst.tensor(&format!("gradient of {key}"), got, &expected, GRADIENT)?;
    }

    if let Some(expected) = fixture.tensors.get("output_train") {
        let ctx = Ctx::train(Stream::new(0, "parity"));
        let output = net.forward(x.as_tensor(), &ctx).map_err(text)?;
        worst.tensor("training output", &output, expected, close)?;
        for (key, expected) in fixture.part("after_train.") {
            let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
            worst.tensor(&format!("{key} after training"), &param.tensor(), &expected, close)?;
        }
    }
    worst.done()
}
