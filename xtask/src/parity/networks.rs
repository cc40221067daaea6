//! Networks with the weights of their reference: output, loss and every gradient.

use candle_core::{DType, Tensor, Var};
use limpid_arch::ffdnet::FfdNet;
use limpid_arch::{
    AnyConfig, ImageArchitecture, Network, NetworkConfig, Shapes, mixed, recognise,
    reference_entries, reference_key, srresnet,
};
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Error, Params, Scope};
use std::collections::BTreeMap;

use super::fixture::{
    Fixture, Outcome, Tolerance, Worst, absolute, device, is_half, rounding, text,
};

const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };

/// Weights by our names.
pub(super) type Weights = BTreeMap<String, Tensor>;

/// Builds the network that the weights belong to, and compares it.
pub(super) fn network(fixture: &Fixture) -> Result<Outcome, String> {
    let (config, weights) = recognised_image(fixture)?;
    image_network(fixture, &complete(config, fixture)?, &weights)
}

/// The image-to-image network that the weights of the file belong to.
pub(super) fn recognised_image(fixture: &Fixture) -> Result<(NetworkConfig, Weights), String> {
    let weights = weights(fixture, "param.");
    match recognised(&weights)? {
        AnyConfig::Image(config) => Ok((config, weights)),
        other => Err(format!("{} is no image-to-image network", other.settings().kind())),
    }
}

/// Compares an image-to-image network of a known configuration.
pub(super) fn image_network(
    fixture: &Fixture,
    config: &NetworkConfig,
    weights: &Weights,
) -> Result<Outcome, String> {
    if let NetworkConfig::Ffdnet(config) = config {
        let (params, net) = filled(weights, |scope| FfdNet::new(config, scope))?;
        return compare_passes(fixture, &params, &|inputs, ctx| match inputs {
            [x, sigma] => mixed(x, || net.forward(x, sigma, ctx)),
            _ => Err(Error::shape("ffdnet", "an image and its noise level", inputs.len())),
        });
    }
    let (params, net) = filled(weights, |scope| config.build(scope))?;
    compare(fixture, &params, net.as_ref())
}

/// The configuration with what the shapes of the weights do not tell.
fn complete(config: NetworkConfig, fixture: &Fixture) -> Result<NetworkConfig, String> {
    let NetworkConfig::Srresnet(config) = config else { return Ok(config) };
    let (small, large) = (fixture.shape("input.0")?, fixture.shape("output")?);
    let (Some(small), Some(large)) = (small.last(), large.last()) else {
        return Err("the image has no size".into());
    };
    // repeating pixels twice and three times takes the same weights
    let scale = large / small.max(&1);
    Ok(NetworkConfig::Srresnet(srresnet::Config { scale, ..config }))
}

/// A network or block with the given weights.
pub(super) fn filled<N>(
    weights: &Weights,
    build: impl FnOnce(&Scope) -> limpid_nn::Result<N>,
) -> Result<(Params, N), String> {
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "parity"), DType::F32, &device());
    let net = build(&scope).map_err(text)?;
    params.set(weights).map_err(text)?;
    Ok((params, net))
}

/// The weights below a prefix under our names, in f32.
pub(super) fn weights(fixture: &Fixture, prefix: &str) -> Weights {
    let single = |(key, tensor): (String, Tensor)| Some((key, tensor.to_dtype(DType::F32).ok()?));
    reference_entries(fixture.part(prefix)).into_iter().filter_map(single).collect()
}

/// The configuration of the network that has these weights.
pub(super) fn recognised(weights: &Weights) -> Result<AnyConfig, String> {
    let shapes: Shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let best = recognise(&shapes).into_iter().next().ok_or("no network has these weights")?;
    if best.mismatches > 0 {
        let kind = best.config.settings().kind();
        return Err(format!("{} weights do not fit the nearest network, {kind}", best.mismatches));
    }
    Ok(best.config)
}

/// How far the output may be off: twenty times the distance of PyTorch's own f32 from f64.
pub(super) fn output_tolerance(fixture: &Fixture) -> f64 {
    let rounding: f64 = fixture.meta("max_abs_err_f32_vs_f64").unwrap_or(0.0);
    (20.0 * rounding).max(1e-5)
}

/// Compares a network that has the weights of the file, in evaluation and, where the file holds
/// that, with its gradients and in training.
pub(super) fn compare(
    fixture: &Fixture,
    params: &Params,
    net: &dyn Network,
) -> Result<Outcome, String> {
    compare_passes(fixture, params, &|inputs, ctx| match inputs {
        // what else there is, the handler has given the network
        [x, ..] => net.forward(x, ctx),
        [] => Err(Error::shape("network", "an input", 0)),
    })
}

/// [`compare`] for a network of any number of inputs.
fn compare_passes(
    fixture: &Fixture,
    params: &Params,
    forward: &dyn Fn(&[Var], &Ctx) -> limpid_nn::Result<Tensor>,
) -> Result<Outcome, String> {
    let inputs = (0..).map_while(|i| fixture.tensors.get(&format!("input.{i}")));
    let inputs: Vec<Var> = inputs.map(Var::from_tensor).collect::<Result<_, _>>().map_err(text)?;
    let output = forward(&inputs, &Ctx::eval()).map_err(text)?;
    let close = absolute(output_tolerance(fixture));
    let mut worst = Worst::default();
    worst.tensor("output", &output, fixture.tensor("output")?, close)?;

    // weights that are stored in half precision come without gradients
    if let Some(expected) = fixture.tensors.get("loss") {
        let target = fixture.tensor("target")?;
        let loss = (&output - target).and_then(|d| d.sqr()?.mean_all()).map_err(text)?;
        worst.tensor("loss", &loss, expected, GRADIENT)?;
        let gradients = differentiated(&loss)?;
        let mut found = Vec::new();
        for (key, expected) in fixture.part("grad.") {
            let input =
                key.strip_prefix("input.").and_then(|i| inputs.get(i.parse::<usize>().ok()?));
            let got = if let Some(input) = input {
                gradients.get(input.as_tensor())
            } else {
                let Some(key) = reference_key(&key) else { continue };
                let param = params.get(key).ok_or_else(|| format!("no parameter `{key}`"))?;
                gradients.get(param.var())
            };
            let got = got.ok_or_else(|| format!("no gradient of `{key}`"))?;
            found.push((key, unscaled(got)?, expected));
        }
        worst.gradients(&found, |_| GRADIENT, rounding("grad"))?;
    }

    if let Some(expected) = fixture.tensors.get("output_train") {
        let ctx = Ctx::train(Stream::new(0, "parity"));
        let output = forward(&inputs, &ctx).map_err(text)?;
        worst.tensor("training output", &output, expected, close)?;
        for (key, expected) in fixture.part("after_train.") {
            let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
            worst.tensor(&format!("{key} after training"), &param.tensor(), &expected, close)?;
        }
    }
    worst.done()
}

/// What a loss is scaled by in half precision, as in training, so that gradients do not vanish.
const SCALE: f64 = 1024.0;

/// The gradients of a loss; in half precision scaled.
pub(super) fn differentiated(loss: &Tensor) -> Result<autograd::Gradients, String> {
    let loss = if is_half() { (loss * SCALE).map_err(text)? } else { loss.clone() };
    autograd::backward(&loss).map_err(text)
}

/// A gradient without that scale.
pub(super) fn unscaled(gradient: &Tensor) -> Result<Tensor, String> {
    if is_half() { (gradient / SCALE).map_err(text) } else { Ok(gradient.clone()) }
}
