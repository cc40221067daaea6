//! U-Nets and what goes with them, of MONAI and EMDiffuse.
//!
//! Where neither the shapes of the weights nor the metadata tell a setting (strides, groups, heads,
//! parameter-free activations), the few values that fit the weights are tried, the reference's
//! default first, and the one whose output is nearest is compared. The settings change no weight,
//! so that a wrong one cannot come near by chance.

use candle_core::Tensor;
use limpid_arch::{
    AnyConfig, ImageArchitecture, Mixed, Network, NetworkConfig, attention_unet, ddpm_unet, mixed,
    monai_discriminator, segresnet, sr_unet3d, unet,
};
use limpid_kernels::{Precision, precision, set_precision};
use limpid_losses::losses::interpolation_weighted_l2;
use limpid_nn::layers::{ActivationConfig, NormConfig};
use limpid_nn::{Ctx, Params, Scope};
use std::collections::BTreeMap;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, rounding, text, values};
use super::networks::{
    compare, differentiated, filled, output_tolerance, recognised, unscaled, weights,
};

type Build<'a> = dyn Fn(&Scope) -> limpid_nn::Result<Box<dyn Network>> + 'a;

/// Tolerances of the EMDiffuse files.
const OUTPUT: Tolerance = Tolerance { absolute: 2e-5, relative: 1e-4 };
const GRADIENT: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-3 };
const VALUE: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-5 };

/// Compares the first candidate whose output is within the tolerance, else the nearest one.
fn nearest(
    fixture: &Fixture,
    weights: &BTreeMap<String, Tensor>,
    candidates: &[Box<Build>],
) -> Result<Outcome, String> {
    // which one it is does not depend on how it is computed
    let precision = precision();
    set_precision(Precision::F32);
    let found = best(fixture, weights, candidates);
    set_precision(precision);
    let (params, net) = filled(weights, found?)?;
    compare(fixture, &params, &Mixed(net))
}

fn best<'a>(
    fixture: &Fixture,
    weights: &BTreeMap<String, Tensor>,
    candidates: &'a [Box<Build<'a>>],
) -> Result<&'a Build<'a>, String> {
    let (x, expected) = (fixture.tensor("input.0")?, fixture.values("output")?);
    let mut best: Option<(f64, &Build)> = None;
    for build in candidates {
        let (params, net) = filled(weights, build)?;
        let _guard = params.no_grad();
        // settings that do not fit the image are not those of the file
        let Ok(output) = net.forward(x, &Ctx::eval()) else { continue };
        let output = values(&output)?;
        if output.len() != expected.len() {
            continue;
        }
        let distance = |(a, b): (&f64, &f64)| (a - b).abs();
        let error = output
            .iter()
            .zip(&expected)
            .map(distance)
            .fold(0.0, |m: f64, e| if e > m || e.is_nan() { e } else { m });
        if best.is_none_or(|(least, _)| error < least) {
            best = Some((error, build));
        }
        if error <= output_tolerance(fixture) {
            break;
        }
    }
    Ok(best.ok_or("the network does not take the image of the file")?.1)
}

/// Compares an image-to-image network, with the alternatives of its recognised configuration.
fn image<C: ImageArchitecture + 'static>(
    fixture: &Fixture,
    pick: impl Fn(NetworkConfig) -> Option<C>,
    alternatives: impl Fn(&C) -> Vec<C>,
) -> Result<Outcome, String> {
    let weights = weights(fixture, "param.");
    let config = match recognised(&weights)? {
        AnyConfig::Image(config) => pick(config),
        _ => None,
    };
    let config = config.ok_or("the weights are those of another kind of network")?;
    let build = |config: C| -> Box<Build> { Box::new(move |scope| config.build(scope)) };
    let candidates: Vec<Box<Build>> = alternatives(&config).into_iter().map(build).collect();
    nearest(fixture, &weights, &candidates)
}

/// All ways to have each step at one of the strides, the given ones first.
fn strides(given: &[Vec<usize>]) -> Vec<Vec<Vec<usize>>> {
    let mut all = vec![given.to_vec()];
    let dims = given.first().map_or(0, Vec::len);
    let mut ways = vec![Vec::new()];
    for _ in given {
        let longer = |way: &Vec<Vec<usize>>| {
            let way = way.clone();
            [2, 1, 3].map(move |stride| [way.clone(), vec![vec![stride; dims]]].concat())
        };
        ways = ways.iter().flat_map(longer).collect();
    }
    all.extend(ways);
    all
}

/// Normalisations with the same parameters, the given one first.
fn norms(given: NormConfig, channels: &[usize]) -> Vec<NormConfig> {
    let mut all = vec![given];
    match given {
        NormConfig::Instance { affine: false } => all.push(NormConfig::None {}),
        NormConfig::Instance { affine: true } | NormConfig::Group { .. } => {
            let common = channels.iter().fold(0, |a, &b| gcd(a, b));
            all.extend(divisors(common).map(|groups| NormConfig::Group { groups }));
            all.push(NormConfig::Instance { affine: true });
        }
        _ => {}
    }
    all
}

/// Activations with the same parameters, the given one first.
fn activations(given: ActivationConfig) -> Vec<ActivationConfig> {
    if given == (ActivationConfig::Prelu {}) {
        return vec![given];
    }
    let leaky = [0.01, 0.1, 0.2].map(|slope| ActivationConfig::LeakyRelu { slope });
    let mut all = vec![given];
    all.extend(leaky);
    all.extend([ActivationConfig::Silu {}, ActivationConfig::Gelu {}]);
    all
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The divisors of a number, the largest first.
fn divisors(of: usize) -> impl Iterator<Item = usize> {
    (1..=of).rev().filter(move |d| of.is_multiple_of(*d))
}

/// MONAI's Attention U-Net. Strides are tried.
pub(super) fn attention_unet(fixture: &Fixture) -> Result<Outcome, String> {
    let pick = |config| match config {
        NetworkConfig::AttentionUnet(config) => Some(config),
        _ => None,
    };
    image(fixture, pick, |c: &attention_unet::Config| {
        let with = |strides| attention_unet::Config { strides, ..c.clone() };
        strides(&c.strides).into_iter().map(with).collect()
    })
}

/// MONAI's UNet. Strides, activation and normalisation are tried.
pub(super) fn unet(fixture: &Fixture) -> Result<Outcome, String> {
    let pick = |config| match config {
        NetworkConfig::Unet(config) => Some(config),
        _ => None,
    };
    image(fixture, pick, |c: &unet::Config| {
        let channels = [&c.channels[..], &[c.out_channels]].concat();
        let mut all = Vec::new();
        for strides in strides(&c.strides) {
            for activation in activations(c.activation) {
                for norm in norms(c.norm, &channels) {
                    all.push(unet::Config {
                        strides: strides.clone(),
                        activation,
                        norm,
                        ..c.clone()
                    });
                }
            }
        }
        all
    })
}

/// MONAI's SegResNet. The number of groups is tried.
pub(super) fn segresnet(fixture: &Fixture) -> Result<Outcome, String> {
    let pick = |config| match config {
        NetworkConfig::Segresnet(config) => Some(config),
        _ => None,
    };
    image(fixture, pick, |c: &segresnet::Config| {
        let with = |norm| segresnet::Config { norm, ..c.clone() };
        norms(c.norm, &[c.width]).into_iter().map(with).collect()
    })
}

/// MONAI's patch discriminator: its logits. Normalisation and slope are tried.
pub(super) fn discriminator(fixture: &Fixture) -> Result<Outcome, String> {
    let weights = weights(fixture, "param.");
    let AnyConfig::MonaiDiscriminator(config) = recognised(&weights)? else {
        return Err("the weights are not those of a discriminator".into());
    };
    let mut candidates: Vec<Box<Build>> = Vec::new();
    for slope in [config.slope, 0.01, 0.1] {
        for norm in norms(config.norm, &[2 * config.width]) {
            let config = monai_discriminator::Config { slope, norm, ..config.clone() };
            candidates.push(Box::new(move |scope| {
                Ok(Box::new(monai_discriminator::PatchDiscriminator::new(&config, scope)?))
            }));
        }
    }
    nearest(fixture, &weights, &candidates)
}

/// A diffusion network at the time steps of the file.
struct AtSteps {
    net: ddpm_unet::DdpmUNet,
    steps: Tensor,
}

impl Network for AtSteps {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> limpid_nn::Result<Tensor> {
        self.net.forward(x, &self.steps, ctx)
    }
}

/// MONAI's diffusion U-Net. Groups and channels of the heads are tried, the latter the same on all
/// levels or the same number of heads on all levels.
pub(super) fn diffusion(fixture: &Fixture) -> Result<Outcome, String> {
    let weights = weights(fixture, "param.");
    let AnyConfig::DdpmUnet(config) = recognised(&weights)? else {
        return Err("the weights are not those of a diffusion network".into());
    };
    let levels = config.channels.len();
    let attends = |i: &usize| i + 1 == levels || config.attention_levels[*i];
    let attended: Vec<usize> = (0..levels).filter(attends).map(|i| config.channels[i]).collect();
    let common = |numbers: &[usize]| numbers.iter().fold(0, |a, &b| gcd(a, b));
    let mut heads = vec![config.head_channels.clone()];
    for d in divisors(common(&attended)) {
        heads.push(vec![d; levels]);
        heads.push(config.channels.iter().map(|c| (c / d).max(1)).collect());
    }
    let mut candidates: Vec<Box<Build>> = Vec::new();
    let most = std::iter::once(config.norm_groups);
    for norm_groups in most.chain(divisors(common(&config.channels))) {
        for head_channels in &heads {
            let head_channels = head_channels.clone();
            let config = ddpm_unet::Config { norm_groups, head_channels, ..config.clone() };
            let steps = fixture.tensor("input.1")?.clone();
            candidates.push(Box::new(move |scope| {
                let net = ddpm_unet::DdpmUNet::new(&config, scope)?;
                Ok(Box::new(AtSteps { net, steps: steps.clone() }))
            }));
        }
    }
    nearest(fixture, &weights, &candidates)
}

/// EMDiffuse's plain U-Net: output, its f64 reference, loss and the gradients in the file.
pub(super) fn emdiffuse(fixture: &Fixture) -> Result<Outcome, String> {
    let weights = weights(fixture, "weights.");
    let AnyConfig::Image(config) = recognised(&weights)? else {
        return Err("the weights are not those of an image-to-image network".into());
    };
    let (params, net) = filled(&weights, |scope| config.build(scope))?;
    let mut worst = Worst::default();
    let output = net.forward(fixture.tensor("in.x")?, &Ctx::eval()).map_err(text)?;
    for expected in ["out.out", "out64.out"] {
        worst.tensor(expected, &output, fixture.tensor(expected)?, OUTPUT)?;
    }
    let target = fixture.tensor("in.target")?;
    let loss = (&output - target).and_then(|d| d.sqr()?.mean_all()).map_err(text)?;
    worst.tensor("loss", &loss, fixture.tensor("out.loss")?, VALUE)?;
    gradients(fixture, "grad.", &params, &loss, &mut worst)?;
    worst.done()
}

/// Compares the gradients of the parameters below a prefix.
fn gradients(
    fixture: &Fixture,
    prefix: &str,
    params: &Params,
    loss: &Tensor,
    worst: &mut Worst,
) -> Result<(), String> {
    let found = differentiated(loss)?;
    let mut compared = Vec::new();
    for (key, expected) in fixture.part(prefix) {
        let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
        let got = found.get(param.var()).ok_or_else(|| format!("no gradient of `{key}`"))?;
        compared.push((key, unscaled(got)?, expected));
    }
    worst.gradients(&compared, |_| GRADIENT, rounding("grad"))
}

/// What the metadata of a 3D-SR-Unet's file tells.
#[derive(serde::Deserialize)]
struct SuperResolution {
    up_scales: Vec<usize>,
    weights_files: Vec<String>,
}

/// EMDiffuse's 3D-SR-Unet at several factors, with the weights of the files that it names.
pub(super) fn super_resolution(fixture: &Fixture) -> Result<Outcome, String> {
    if !fixture.tensors.contains_key("in.x") && !fixture.part("weights.").is_empty() {
        return Ok(Outcome::Skipped(
            "weights, which are read with the file that names them".into(),
        ));
    }
    let config: SuperResolution = fixture.json("config")?;
    let mut weights = weights(fixture, "weights.");
    for name in &config.weights_files {
        let part = Fixture::load(&fixture.path.with_file_name(name))?;
        weights.extend(super::networks::weights(&part, "weights."));
    }
    let AnyConfig::SrUnet3d(found) = recognised(&weights)? else {
        return Err("the weights are not those of a 3D-SR-Unet".into());
    };
    let (params, net) = filled(&weights, |scope| sr_unet3d::SrUNet3d::new(&found, scope))?;
    let mut worst = Worst::default();
    for scale in config.up_scales {
        let x = fixture.tensor("in.x")?;
        let output = mixed(x, || net.forward(x, scale, &Ctx::eval())).map_err(text)?;
        let expected = fixture.tensor(&format!("out.up{scale}"))?;
        worst.tensor(&format!("output, {scale} times"), &output, expected, OUTPUT)?;
        let target = fixture.tensor(&format!("in.target.up{scale}"))?;
        let interpolated = fixture.tensor(&format!("in.upsampled.up{scale}"))?;
        // slices are channels there
        let slices = fixture.tensor("in.x")?.squeeze(1).map_err(text)?;
        let own = limpid_models::interpolate_slices(&slices, scale).map_err(text)?;
        let own = own.unsqueeze(1).map_err(text)?;
        worst.tensor(&format!("interpolation, {scale} times"), &own, interpolated, OUTPUT)?;
        let loss = interpolation_weighted_l2(&output, target, &own).map_err(text)?;
        let expected = fixture.tensor(&format!("out.loss.up{scale}"))?;
        worst.tensor(&format!("loss, {scale} times"), &loss, expected, VALUE)?;
        gradients(fixture, &format!("grad.up{scale}."), &params, &loss, &mut worst)?;
    }
    worst.done()
}
