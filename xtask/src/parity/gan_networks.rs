//! Networks of NectarGAN and of the CycleGAN code, beside their reference: outputs in evaluation and
//! training, losses and gradients.

use candle_core::{Tensor, Var};
use limpid_arch::nlayer_discriminator::NlayerDiscriminator;
use limpid_arch::patch_gan::PatchGan;
use limpid_arch::pix2pix_unet::{
    BlockConfig, BlockKind, Output, Pix2pixUnet, UnetBlock, Upsampling,
};
use limpid_arch::pixel_discriminator::PixelDiscriminator;
use limpid_arch::resnet_generator::Border;
use limpid_arch::vgg19::Vgg19;
use limpid_arch::{AnyConfig, ImageArchitecture, Mixed, Network, NetworkConfig, mixed};
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_losses::losses::{feature_l1, l1};
use limpid_nn::{Ctx, Params, Scope};
use serde_json::Value;
use std::collections::BTreeSet;

use super::fixture::{
    Fixture, Outcome, Tolerance, Worst, absolute, device, relative, rounding, text,
};
use super::networks::{self, Weights, differentiated, filled, unscaled};

/// How far the reference's own f32 is off its f64, and what is nothing but that.
struct Noise {
    output: f64,
    /// Of the loss, as a fraction.
    loss: f64,
    input: f64,
    parameter: f64,
    /// Parameters whose gradient is zero but for rounding.
    only: BTreeSet<String>,
}

impl Noise {
    /// From the metadata of one mode.
    fn of(json: &Value) -> Self {
        let number = |key: &str| json[key].as_f64().unwrap_or(0.0);
        let only = json["noise_only_grads"].as_array().into_iter().flatten();
        Self {
            output: number("y"),
            loss: number("loss_rel"),
            input: number("grad_in"),
            parameter: number("grad_param_maxabs_err"),
            only: only.filter_map(|key| Some(key.as_str()?.to_owned())).collect(),
        }
    }

    /// What an output may be off.
    fn forward(&self) -> Tolerance {
        Tolerance { absolute: (10.0 * self.output).max(2e-5), relative: 1e-5 }
    }

    /// What the loss may be off.
    fn loss(&self) -> Tolerance {
        relative((10.0 * self.loss).max(1e-5))
    }

    /// What the gradient of a parameter, or of an input, may be off.
    fn gradient(&self, key: &str) -> Tolerance {
        let noise = if key.starts_with("in.") { self.input } else { self.parameter };
        Tolerance { absolute: (10.0 * noise).max(1e-6), relative: 1e-4 }
    }
}

/// What the weights belong to, and they by our names.
fn recognised(theirs: &Weights) -> Result<(AnyConfig, Weights), String> {
    let config = networks::recognised(theirs)?;
    let weights = config.own_entries(theirs.clone());
    Ok((config, weights))
}

/// A network of one input.
fn build(config: &AnyConfig, scope: &Scope) -> limpid_nn::Result<Box<dyn Network>> {
    Ok(match config {
        AnyConfig::Image(c) => c.build(scope)?,
        AnyConfig::NlayerDiscriminator(c) => Box::new(Mixed(NlayerDiscriminator::new(c, scope)?)),
        AnyConfig::PatchGan(c) => Box::new(Mixed(PatchGan::new(c, scope)?)),
        AnyConfig::PixelDiscriminator(c) => Box::new(Mixed(PixelDiscriminator::new(c, scope)?)),
        other => {
            let message = format!("{other:?} is no network of one input");
            return Err(limpid_nn::Error::argument("parity", message));
        }
    })
}

/// Puts what shapes do not tell from the metadata into a configuration.
fn amend(config: &mut AnyConfig, json: &Value) {
    let AnyConfig::Image(config) = config else { return };
    let dropout = json["use_dropout"].as_bool();
    match config {
        NetworkConfig::UnetGenerator(c) => c.dropout = dropout.unwrap_or(c.dropout),
        NetworkConfig::ResnetGenerator(c) if json["padding_type"] == "replicate" => {
            c.border = Border::Replicate;
        }
        NetworkConfig::Pix2pixUnet(c) => {
            let layers = json["use_dropout_layers"].as_u64();
            c.dropout_layers = layers.map_or(c.dropout_layers, |n| n as usize);
        }
        _ => {}
    }
}

/// What all gradients together may be off in half precision, as a fraction of their norm: twice what those of other
/// networks may, since these normalise images of 2 × 2 pixels and have a kink behind that. PyTorch's autocast to bf16
/// is off by 0.34 in `gen_unet_transposed` and by 0.56 in `gen_unet_transposed_deep` (1.13 on a CPU).
fn in_half() -> Tolerance {
    absolute(2.0 * rounding("grad").absolute)
}

/// One comparison of a forward pass and its gradients.
struct Pass<'f> {
    /// Prefix of the expected gradients.
    prefix: &'f str,
    noise: Noise,
    params: &'f Params,
    inputs: &'f [(&'f str, &'f Var)],
}

impl Pass<'_> {
    /// Compares the loss, the mean square distance to `in.target`, and every gradient.
    fn compare(
        &self,
        fixture: &Fixture,
        output: &Tensor,
        (target, loss): (&str, &str),
        worst: &mut Worst,
    ) -> Result<(), String> {
        let target = fixture.tensor(target)?;
        let value = (output - target).and_then(|d| d.sqr()?.mean_all()).map_err(text)?;
        if let Some(expected) = fixture.tensors.get(loss) {
            let value = value.reshape(expected.dims()).map_err(text)?;
            worst.tensor(loss, &value, expected, self.noise.loss())?;
        }
        let gradients = differentiated(&value)?;
        let mut found = Vec::new();
        for (key, expected) in fixture.part(self.prefix) {
            if self.noise.only.contains(&key) {
                continue;
            }
            let input = self.inputs.iter().find(|(name, _)| *name == key);
            let got = match (input, self.params.get(&key)) {
                (Some((_, var)), _) => gradients.get(var.as_tensor()),
                (None, Some(param)) => gradients.get(param.var()),
                (None, None) => return Err(format!("no parameter `{key}`")),
            };
            let got = got.ok_or_else(|| format!("no gradient of `{key}`"))?;
            found.push((format!("{}{key}", self.prefix), unscaled(got)?, expected));
        }
        let tolerance = |name: &str| self.noise.gradient(&name[self.prefix.len()..]);
        worst.gradients(&found, tolerance, in_half())
    }
}

/// A generator or discriminator of one image: outputs, losses, gradients, running statistics.
pub(super) fn network(fixture: &Fixture) -> Result<Outcome, String> {
    let json: Value = fixture.json("config")?;
    let (mut config, weights) = recognised(&fixture.part("weights."))?;
    amend(&mut config, &json["config"]);
    let (params, net) = filled(&weights, |scope| build(&config, scope))?;
    let x = Var::from_tensor(fixture.tensor("in.x")?).map_err(text)?;
    let inputs = [("in.x", &x)];
    let mut worst = Worst::default();
    let eval = Pass {
        prefix: "grad.",
        noise: Noise::of(&json["f32_vs_f64"]["eval"]),
        params: &params,
        inputs: &inputs,
    };
    let y = net.forward(x.as_tensor(), &Ctx::eval()).map_err(text)?;
    let expected = fixture.tensor("out.y").or_else(|_| fixture.tensor("out.y_eval"))?;
    worst.tensor("output", &y, expected, eval.noise.forward())?;
    eval.compare(fixture, &y, ("in.target", "out.loss"), &mut worst)?;
    if let Ok(x) = fixture.tensor("in.x_rect") {
        let y = net.forward(x, &Ctx::eval()).map_err(text)?;
        let expected = fixture.tensor("out.y_rect_eval")?;
        worst.tensor("output of a rectangle", &y, expected, eval.noise.forward())?;
    }
    if let (Ok(expected), AnyConfig::Image(NetworkConfig::Pix2pixUnet(c))) =
        (fixture.tensor("out.y_train_with_masks"), &config)
    {
        let (_, net) = filled(&weights, |scope| Pix2pixUnet::new(c, scope))?;
        let masks = fixture.part("in.dropout_mask.ups.");
        let mask = |i: usize, h: &Tensor| match masks.get(&i.to_string()) {
            Some(mask) => Ok(((h * mask.to_dtype(h.dtype())?)? * 2.0)?),
            None => Ok(h.clone()),
        };
        let x = x.as_tensor();
        let masked = mixed(x, || net.forward_with(x, mask)).map_err(text)?;
        worst.tensor("output with masks", &masked, expected, eval.noise.forward())?;
    }
    if let Ok(expected) = fixture.tensor("out.y_train") {
        let train = Pass {
            prefix: "grad_train.",
            noise: Noise::of(&json["f32_vs_f64"]["train"]),
            params: &params,
            inputs: &inputs,
        };
        let ctx = Ctx::train(Stream::new(0, "parity"));
        let y = net.forward(x.as_tensor(), &ctx).map_err(text)?;
        worst.tensor("training output", &y, expected, train.noise.forward())?;
        train.compare(fixture, &y, ("in.target", "out.loss_train"), &mut worst)?;
        for (key, expected) in fixture.part("after_train.") {
            let Some(key) = config.settings().own_key(&key) else { continue };
            let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
            let what = format!("{key} after training");
            worst.tensor(&what, &param.tensor(), &expected, train.noise.forward())?;
        }
    }
    worst.done()
}

/// The discriminator of pairs.
pub(super) fn patch_gan(fixture: &Fixture) -> Result<Outcome, String> {
    let json: Value = fixture.json("config")?;
    let (config, weights) = recognised(&fixture.part("weights."))?;
    let AnyConfig::PatchGan(config) = config else {
        return Err(format!("the weights are of {config:?}"));
    };
    let (params, net) = filled(&weights, |scope| PatchGan::new(&config, scope))?;
    let var = |key: &str| Var::from_tensor(fixture.tensor(key)?).map_err(text);
    let (x, y) = (var("in.x")?, var("in.y")?);
    let mut worst = Worst::default();
    let pass = Pass {
        prefix: "grad.",
        noise: Noise::of(&json["f32_vs_f64"]["eval"]),
        params: &params,
        inputs: &[("in.x", &x), ("in.y", &y)],
    };
    let logits = mixed(x.as_tensor(), || net.judge(x.as_tensor(), y.as_tensor(), &Ctx::eval()));
    let logits = logits.map_err(text)?;
    worst.tensor("logits", &logits, fixture.tensor("out.y")?, pass.noise.forward())?;
    pass.compare(fixture, &logits, ("in.target", "out.loss"), &mut worst)?;
    worst.done()
}

/// Whether the file holds blocks of NectarGAN's generator.
pub(super) fn has_blocks(fixture: &Fixture) -> bool {
    fixture.names().any(|name| name.starts_with("case."))
}

/// Blocks of NectarGAN's generator by themselves.
pub(super) fn blocks(fixture: &Fixture) -> Result<Outcome, String> {
    let json: Value = fixture.json("config")?;
    let cases = json["cases"].as_object().ok_or("the metadata has no cases")?;
    let mut worst = Worst::default();
    for (prefix, case) in cases {
        let failed = |e: String| format!("{prefix}: {e}");
        let config = block_config(&case["config"]).map_err(failed)?;
        let weights: Weights = fixture.part(&format!("{prefix}weights."));
        let (params, block) = filled(&weights, |scope| UnetBlock::new(&config, scope))?;
        let x = fixture.tensor(&format!("{prefix}in.x"))?;
        let x = Var::from_tensor(x).map_err(text)?;
        let y = block.forward(x.as_tensor()).map_err(|e| failed(text(e)))?;
        let gradients = format!("{prefix}grad.");
        let pass = Pass {
            prefix: &gradients,
            noise: Noise::of(&case["f32_vs_f64"]["eval"]),
            params: &params,
            inputs: &[("in.x", &x)],
        };
        let output = format!("{prefix}out.y");
        worst.tensor(&output, &y, fixture.tensor(&output)?, pass.noise.forward())?;
        let (target, loss) = (format!("{prefix}in.target"), format!("{prefix}out.loss"));
        pass.compare(fixture, &y, (&target, &loss), &mut worst)?;
    }
    worst.done()
}

/// The settings of a block in the reference's words.
fn block_config(case: &Value) -> Result<BlockConfig, String> {
    let size = |key: &str| case[key].as_u64().map(|n| n as usize).ok_or(format!("no `{key}`"));
    let flag = |key: &str| case[key].as_bool().ok_or(format!("no `{key}`"));
    let known = |key: &str| format!("unknown `{key}`: {}", case[key]);
    Ok(BlockConfig {
        dims: 2,
        kind: match case["block"].as_str() {
            Some("UnetBlock") => BlockKind::Standard,
            Some("ResidualUnetBlock") => BlockKind::Residual,
            _ => return Err(known("block")),
        },
        inputs: size("in_channels")?,
        outputs: size("out_channels")?,
        down: flag("down")?,
        upsampling: match case["upconv_type"].as_str() {
            Some("Transposed") => Upsampling::Transposed,
            Some("Bilinear") => Upsampling::Bilinear,
            _ => return Err(known("upconv_type")),
        },
        normalised: case["norm"] == "instance",
        output: match case["activation"].as_str() {
            Some("leaky") => Output::LeakyRelu,
            Some("relu") => Output::Relu,
            Some("tanh") => Output::Tanh,
            None => Output::Linear,
            _ => return Err(known("activation")),
        },
        bias: flag("bias")?,
    })
}

/// A generator and a discriminator out of a training's checkpoint.
pub(super) fn checkpoint(fixture: &Fixture) -> Result<Outcome, String> {
    let (generator, g) = recognised(&fixture.part("G.state_dict."))?;
    let (discriminator, d) = recognised(&fixture.part("D.state_dict."))?;
    let (_, generator) = filled(&g, |scope| build(&generator, scope))?;
    let (_, discriminator) = filled(&d, |scope| build(&discriminator, scope))?;
    let close = Tolerance { absolute: 2e-5, relative: 1e-5 };
    let (x, expected) = (fixture.tensor("in.x")?, fixture.tensor("out.y_eval")?);
    let mut worst = Worst::default();
    let y = generator.forward(x, &Ctx::eval()).map_err(text)?;
    worst.tensor("output", &y, expected, close)?;
    let pair = Tensor::cat(&[x, expected], 1).map_err(text)?;
    let logits = discriminator.forward(&pair, &Ctx::eval()).map_err(text)?;
    worst.tensor("logits", &logits, fixture.tensor("out.D_logits")?, close)?;
    worst.done()
}

/// Numbers in `[0, 1)` that a name and a position determine: FNV-1a of the name, the finaliser of
/// murmur3 of the two.
fn hash_uniform(name: &str, n: usize) -> Vec<f64> {
    let seed = name
        .bytes()
        .fold(0x811c_9dc5u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let number = |i: usize| {
        let mut x = seed.wrapping_add((i as u32).wrapping_mul(2_654_435_761));
        x ^= x >> 16;
        x = x.wrapping_mul(0x85eb_ca6b);
        x ^= x >> 13;
        x = x.wrapping_mul(0xc2b2_ae35);
        x ^= x >> 16;
        f64::from(x) / 4_294_967_296.0
    };
    (0..n).map(number).collect()
}

/// A tensor of such numbers between `offset ± amp`.
fn formula(name: &str, shape: &[usize], amp: f64, offset: f64) -> Result<Tensor, String> {
    let uniform = hash_uniform(name, shape.iter().product());
    let values: Vec<f32> =
        uniform.into_iter().map(|u| (offset + (2.0 * u - 1.0) * amp) as f32).collect();
    Tensor::from_vec(values, shape, &device()).map_err(text)
}

/// The tensor that the metadata describes.
fn described(name: &str, json: &Value) -> Result<Tensor, String> {
    let shape: Vec<usize> =
        serde_json::from_value(json["shape"].clone()).map_err(|e| format!("{name}: {e}"))?;
    let amp = json["amp"].as_f64().ok_or_else(|| format!("{name} has no `amp`"))?;
    formula(name, &shape, amp, json["offset"].as_f64().unwrap_or(0.0))
}

/// The weights that the metadata describes, below a prefix of their names.
fn described_weights(prefix: &str, json: &Value) -> Result<Weights, String> {
    let weights = json["formula_weights"].as_object().ok_or("no `formula_weights`")?;
    let made = |(key, json): (&String, &Value)| {
        Ok((key.clone(), described(&format!("{prefix}/{key}"), json)?))
    };
    weights.iter().map(made).collect()
}

/// The formula itself.
pub(super) fn formula_selftest(fixture: &Fixture) -> Result<Outcome, String> {
    let (u, w) = (fixture.values("u")?, fixture.tensor("w")?);
    let mut worst = Worst::default();
    let exact = absolute(0.0);
    worst.compare("u", &hash_uniform("selftest", u.len()), &u, exact);
    worst.tensor("w", &formula("selftest/w", w.dims(), 0.5, 0.0)?, w, exact)?;
    worst.done()
}

/// A network of published size, with weights that a formula makes.
pub(super) fn full_size(fixture: &Fixture) -> Result<Outcome, String> {
    let json: Value = fixture.json("config")?;
    let prefix = json["formula_prefix"].as_str().ok_or("no `formula_prefix`")?;
    let (config, weights) = recognised(&described_weights(prefix, &json)?)?;
    let (params, net) = filled(&weights, |scope| build(&config, scope))?;
    let inputs = json["in"].as_object().ok_or("no inputs")?;
    // x and, for the judge of a pair, y
    let made = inputs.values().map(|json| described(json["name"].as_str().unwrap_or(""), json));
    let x = Tensor::cat(&made.collect::<Result<Vec<_>, _>>()?, 1).map_err(text)?;
    let _untracked = params.no_grad();
    let y = net.forward(&x, &Ctx::eval()).map_err(text)?;
    let noise = json["f32_vs_f64_maxabs"].as_f64().unwrap_or(0.0);
    let close = Tolerance { absolute: (10.0 * noise).max(2e-5), relative: 1e-5 };
    let mut worst = Worst::default();
    let expected = fixture.tensor("out.y").or_else(|_| fixture.tensor("out.logits"))?;
    worst.tensor("output", &y, expected, close)?;
    if let Some(n) = json["n_params"].as_u64() {
        worst.require("the number of parameters differs", params.count() as u64 == n);
    }
    worst.done()
}

/// The perceptual loss: features, distances and gradient, with stored or made weights.
pub(super) fn perceptual(fixture: &Fixture) -> Result<Outcome, String> {
    let json: Value = fixture.json("config")?;
    let stored = fixture.part("weights.");
    let set = json["set"].as_str().unwrap_or("dev");
    let theirs = if stored.is_empty() { described_weights(set, &json)? } else { stored };
    let (config, weights) = recognised(&theirs)?;
    let AnyConfig::Vgg19(config) = config else {
        return Err(format!("the weights are of {config:?}"));
    };
    let (params, net) = filled(&weights, |scope| Vgg19::new(&config, scope))?;
    params.freeze(true);
    let fake = Var::from_tensor(fixture.tensor("in.fake")?).map_err(text)?;
    let seen = net.features(fake.as_tensor()).map_err(text)?;
    let real = net.features(fixture.tensor("in.real")?).map_err(text)?;
    let mut worst = Worst::default();
    let close = Tolerance { absolute: 2e-5, relative: 1e-5 };
    let mut distances = Vec::new();
    for (i, (seen, real)) in seen.iter().zip(&real).enumerate() {
        let name = format!("act.fake.block{i}");
        worst.tensor(&name, seen, fixture.tensor(&name)?, close)?;
        let distance = l1(seen, real).and_then(|d| Ok(d.to_scalar::<f32>()?)).map_err(text)?;
        distances.push(f64::from(distance));
    }
    let expected = fixture.values("out.per_block_l1")?;
    worst.compare("distance of each feature", &distances, &expected, relative(1e-5));
    let factors: Vec<f64> = serde_json::from_value(json["layer_weights"].clone()).map_err(text)?;
    let loss = feature_l1(&seen, &real, &factors).map_err(text)?;
    let loss_value = loss.reshape(fixture.shape("out.loss")?).map_err(text)?;
    worst.tensor("loss", &loss_value, fixture.tensor("out.loss")?, relative(1e-5))?;
    let gradients = autograd::backward(&loss).map_err(text)?;
    let got = gradients.get(fake.as_tensor()).ok_or("no gradient of the image")?;
    let noise = json["grad_maxerr"].as_f64().unwrap_or(0.0);
    let close = Tolerance { absolute: (10.0 * noise).max(1e-6), relative: 1e-4 };
    worst.tensor("gradient", got, fixture.tensor("grad.fake")?, close)?;
    worst.done()
}
