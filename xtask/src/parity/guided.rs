//! The guided-diffusion U-Net of EMDiffuse: whole networks, its blocks, and its checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use limpid_arch::guided_unet::blocks::{
    Attention, ResBlock, ResSettings, Resample, down_conv, gamma_embedding, qkv_attention,
};
use limpid_arch::guided_unet::{AttentionOrder, Config, GuidedUnet, Heads, Prediction};
use limpid_arch::{AnyConfig, reference_entries};
use limpid_losses::losses;
use limpid_nn::torch::TorchFile;
use limpid_nn::{Ctx, Scope};
use serde_json::Value;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, rounding, text};
use super::formula;
use super::networks::{self, Weights, differentiated, filled, unscaled};

/// Twenty times the noise of PyTorch's f32 beside its f64.
pub(super) const OUTPUT: Tolerance = Tolerance { absolute: 2e-5, relative: 1e-4 };
pub(super) const GRADIENT: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-3 };
const BLOCK: Tolerance = Tolerance { absolute: 2e-6, relative: 1e-5 };

/// What the metadata of a fixture says of its network (or networks), with a `unet` of constructor
/// arguments.
fn described(fixture: &Fixture) -> Result<Value, String> {
    fixture.json("config")
}

/// Puts what shapes do not tell into a recognised configuration: the heads and their order.
fn amend(config: &mut Config, unet: &Value) {
    let number = |key: &str| unet[key].as_u64().map(|n| n as usize);
    config.heads = match number("num_head_channels") {
        Some(channels) => Heads::Channels { channels },
        None => {
            let down = number("num_heads").unwrap_or(1);
            Heads::Count { down, up: number("num_heads_upsample").unwrap_or(down) }
        }
    };
    if unet["use_new_attention_order"].as_bool() == Some(true) {
        config.attention_order = AttentionOrder::QkvFirst;
    }
}

/// The configuration that the weights belong to.
fn recognised(weights: &Weights, unet: &Value) -> Result<Config, String> {
    match networks::recognised(weights)? {
        AnyConfig::GuidedUnet(mut config) => {
            amend(&mut config, unet);
            Ok(config)
        }
        other => Err(format!("these are weights of {}", other.settings().kind())),
    }
}

/// The weights of a file and the configuration that they belong to.
pub(super) fn network_of(fixture: &Fixture) -> Result<(Config, Weights), String> {
    let weights = reference_entries(fixture.part("weights."));
    let config = recognised(&weights, &described(fixture)?["unet"])?;
    Ok((config, weights))
}

/// The same of the file called `weights_file` beside a fixture.
pub(super) fn network_beside(
    fixture: &Fixture,
    weights_file: &str,
) -> Result<(Config, Weights), String> {
    network_of(&Fixture::load(&fixture.path.with_file_name(weights_file))?)
}

/// `weights_trained_*`: whose weights these are, and that there are no others.
pub(super) fn trained(fixture: &Fixture) -> Result<Outcome, String> {
    let (config, weights) = network_of(fixture)?;
    let (params, _) = filled(&weights, |scope| config.build(scope))?;
    let report = limpid_nn::compare(&params.shapes(), &weights);
    let mut worst = Worst::default();
    worst.require(&format!("the weights do not fit: {report}"), report.is_match());
    worst.done()
}

/// Runs the network on the inputs below `prefix`.
fn predict(fixture: &Fixture, prefix: &str, net: &GuidedUnet) -> Result<Prediction, String> {
    let input = |name: &str| fixture.tensors.get(&format!("{prefix}{name}"));
    let [x, gammas] = ["x", "gammas"].map(|name| fixture.tensor(&format!("{prefix}{name}")));
    net.forward(x?, gammas?, input("channel_index"), &Ctx::eval()).map_err(text)
}

/// Compares both heads with what is below `prefix`.
fn check(
    worst: &mut Worst,
    fixture: &Fixture,
    prefix: &str,
    got: &Prediction,
) -> Result<(), String> {
    let expected = |name: &str| fixture.tensors.get(&format!("{prefix}{name}"));
    for (name, got) in [("out", Some(&got.output)), ("variance", got.variance.as_ref())] {
        match (got, expected(name)) {
            (Some(got), Some(want)) => {
                worst.tensor(&format!("{prefix}{name}"), got, want, OUTPUT)?
            }
            (None, None) => {}
            (got, _) => {
                let has = if got.is_some() { "we have" } else { "the file has" };
                worst.require(&format!("only {has} {prefix}{name}"), false);
            }
        }
    }
    Ok(())
}

/// `net_unet*`: output, variance, loss and gradients of one network, in any of its layouts.
pub(super) fn network(fixture: &Fixture) -> Result<Outcome, String> {
    let (config, weights) = network_of(fixture)?;
    let (params, net) = filled(&weights, |scope| config.build(scope))?;
    let got = predict(fixture, "in.", &net)?;
    let mut worst = Worst::default();
    check(&mut worst, fixture, "out.", &got)?;

    let target = fixture.tensor("in.target")?;
    let loss = match &got.variance {
        None => losses::l2(&got.output, target).map_err(text)?,
        Some(variance) => mse_variance(&got.output, target, variance).map_err(text)?,
    };
    let value = Tolerance { absolute: 1e-6, relative: 1e-5 };
    worst.tensor("out.loss", &loss, fixture.tensor("out.loss")?, value)?;
    let gradients = differentiated(&loss)?;
    let mut found = Vec::new();
    for (key, expected) in reference_entries(fixture.part("grad.")) {
        let param = params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
        let got = gradients.get(param.var()).ok_or_else(|| format!("no gradient of `{key}`"))?;
        found.push((key, unscaled(got)?, expected));
    }
    worst.gradients(&found, |_| GRADIENT, rounding("grad"))?;
    worst.done()
}

/// EMDiffuse's `mse_var_loss` with a weight of 2 on the log-variance.
fn mse_variance(
    output: &Tensor,
    target: &Tensor,
    variance: &Tensor,
) -> candle_core::Result<Tensor> {
    let variance = (variance * 2.0)?;
    let error = (output - target)?.sqr()?;
    ((variance.neg()?.exp()? * error)? + variance)?.mean_all()? * 0.5
}

/// `net_real_formula`: the shipped networks at full size with weights by formula, and all parameter
/// names and shapes that lie beside it.
pub(super) fn shipped(fixture: &Fixture) -> Result<Outcome, String> {
    let meta = described(fixture)?;
    let seed = meta["formula_seed"].as_u64().ok_or("no formula_seed")?;
    let path = fixture.path.with_file_name("real_config_keys.json");
    let keys: BTreeMap<String, Vec<(String, Vec<usize>)>> = read_json(&path)?;
    let mut worst = Worst::default();
    for (name, keys) in keys {
        let mut config = match name.as_str() {
            "emdiffuse_n" => Config::emdiffuse(),
            "vemdiffuse_i" => Config::vemdiffuse(),
            "aleatoric" => Config::emdiffuse_aleatoric(),
            "aleatoric3d" => Config::vemdiffuse_aleatoric(),
            _ => return Err(format!("no preset is named `{name}`")),
        };
        amend(&mut config, &meta["unet"]);
        let (params, net) = filled(&BTreeMap::new(), |scope| config.build(scope))?;
        worst.require(
            &format!("parameters of {name}"),
            params.shapes() == keys.into_iter().collect(),
        );
        formula::fill(&params, seed)?;
        formula::check_samples(
            &mut worst,
            &params,
            &fixture.part(&format!("weights_sample.{name}.")),
        )?;
        let _guard = params.no_grad();
        let got = predict(fixture, &format!("in.{name}."), &net)?;
        check(&mut worst, fixture, &format!("out.{name}."), &got)?;
    }
    worst.done()
}

/// A JSON file.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let at = |e: &dyn std::fmt::Display| format!("{e}: `{}`", path.display());
    let bytes = std::fs::read(path).map_err(|e| at(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| at(&e))
}

/// `blocks` of EMDiffuse: every part of the network by itself.
pub(super) fn blocks(fixture: &Fixture) -> Result<Outcome, String> {
    if !fixture.tensors.contains_key("in.gammas") {
        return Ok(Outcome::Skipped("no blocks of EMDiffuse: no `in.gammas`".into()));
    }
    let mut worst = Worst::default();
    for (name, expected) in fixture.part("out.") {
        let got = block(fixture, &name, &expected)?;
        worst.tensor(&name, &got, &expected, BLOCK)?;
    }
    worst.done()
}

/// What the block called `name` makes of its input.
fn block(fixture: &Fixture, name: &str, expected: &Tensor) -> Result<Tensor, String> {
    let input = |name: &str| fixture.tensor(&format!("in.{name}"));
    let x = input("x")?;
    let channels = x.dims().get(1).copied().ok_or("no channels")?;
    let outputs = expected.dims().get(1).copied().unwrap_or(channels);
    let (stem, number) = name.split_once('.').unwrap_or((name, ""));
    let number = || number.parse::<usize>().map_err(|_| format!("no number in `{name}`"));
    let order = |name: &str| match name.ends_with("new") {
        true => AttentionOrder::QkvFirst,
        false => AttentionOrder::HeadsFirst,
    };
    let weights = fixture.part(&format!("weights.{name}."));
    let shape = |key: &str| {
        weights.get(key).map(|t| t.dims().to_vec()).ok_or_else(|| format!("no `{key}` of `{name}`"))
    };
    // channels of these blocks are few, and the reference gives them a group each
    let got = match stem {
        "gamma_embedding" => gamma_embedding(input("gammas")?, number()?),
        "channel_embedding" => {
            let index = input("channel_index")?.to_dtype(DType::F32).map_err(text)?;
            gamma_embedding(&index, number()?)
        }
        "qkv_legacy" | "qkv_new" => qkv_attention(input("qkv")?, number()?, order(stem)),
        "attn_legacy" | "attn_new" => return attention(x, &weights, order(stem), expected),
        "upsample_nearest" => Resample::Up.forward(x),
        "downsample_avg" => Resample::Down.forward(x),
        "down_conv" => {
            filled(&weights, |scope| down_conv(channels, outputs, &scope.pp("op")))?.1.forward(x)
        }
        _ if stem.starts_with("res_") => {
            let embed = shape("emb_layers.1.weight")?;
            let skip = weights.get("skip_connection.weight");
            let settings = ResSettings {
                embedding: embed[1],
                groups: 16,
                scale_shift: embed[0] == 2 * outputs,
                conv_skip: skip.is_some_and(|w| w.dims()[2] == 3),
                dropout: 0.0,
            };
            let resample = match expected.dims()[2].cmp(&x.dims()[2]) {
                std::cmp::Ordering::Less => Resample::Down,
                std::cmp::Ordering::Equal => Resample::Keep,
                std::cmp::Ordering::Greater => Resample::Up,
            };
            let build =
                |scope: &Scope| ResBlock::new(&settings, channels, outputs, resample, scope);
            filled(&weights, build)?.1.forward(x, input("emb")?, &Ctx::eval())
        }
        _ => return Err(format!("the file has a block that is not ours: `{name}`")),
    };
    got.map_err(|e| format!("{name}: {e}"))
}

/// The file does not say how many heads an attention has: of the possible ones, the one that fits
/// best.
fn attention(
    x: &Tensor,
    weights: &BTreeMap<String, Tensor>,
    order: AttentionOrder,
    expected: &Tensor,
) -> Result<Tensor, String> {
    let channels = x.dims()[1];
    let mut best: Option<(f32, Tensor)> = None;
    for heads in (1..=channels).filter(|n| channels.is_multiple_of(*n)) {
        let (_, block) =
            filled(weights, |scope| Attention::new(channels, 16, heads, order, scope))?;
        let got = block.forward(x).map_err(text)?;
        let distance = || (&got - expected)?.abs()?.sum_all()?.to_scalar::<f32>();
        let distance = distance().map_err(text)?;
        if best.as_ref().is_none_or(|(d, _)| distance < *d) {
            best = Some((distance, got));
        }
    }
    best.map(|(_, got)| got).ok_or_else(|| "no heads are possible".into())
}

/// `ckpt_expected` of EMDiffuse: the files in `ckpt/` hold what the fixture holds, and their networks
/// give its outputs.
pub(super) fn checkpoints(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let meta = described(fixture)?;
    let dir = fixture.path.with_file_name("ckpt");
    let entries = std::fs::read_dir(&dir).map_err(|e| format!("{e}: `{}`", dir.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = TorchFile::open(&path).map_err(|e| format!("{name}: {e}"))?;
        if name.ends_with(".state") {
            state(&mut worst, fixture, &meta["state"], &file)?;
        } else if name.starts_with("views") {
            for (key, expected) in fixture.part("views.") {
                same(&mut worst, &format!("{name} {key}"), file.tensors.get(&key), &expected)?;
            }
            worst.require(&format!("{name} holds seven tensors"), file.tensors.len() == 7);
        } else if name.starts_with("srunet_style") {
            let got = file.state_dict(None).map_err(text)?;
            let expected = fixture.part("srunet_style.");
            worst.require(&format!("{name}: keys"), got.keys().eq(expected.keys()));
            for (key, expected) in expected {
                same(&mut worst, &format!("{name} {key}"), got.get(&key), &expected)?;
            }
        } else {
            let set = if name.contains("_ema") { "ema" } else { "net" };
            weights(&mut worst, fixture, &meta["unet"], (&name, set), &file)?;
        }
    }
    worst.done()
}

/// A tensor that must be equal, in its own precision.
fn same(
    worst: &mut Worst,
    what: &str,
    got: Option<&Tensor>,
    expected: &Tensor,
) -> Result<(), String> {
    match got {
        Some(got) => {
            let expected = expected.to_dtype(got.dtype()).map_err(text)?;
            worst.tensor(what, got, &expected, absolute(0.0))
        }
        None => {
            worst.require(&format!("{what} is missing"), false);
            Ok(())
        }
    }
}

/// Epoch, iteration, scheduler and optimizer of a `.state` file.
fn state(
    worst: &mut Worst,
    fixture: &Fixture,
    meta: &Value,
    file: &TorchFile,
) -> Result<(), String> {
    for key in ["epoch", "iter"] {
        worst.require(&format!("{key} of the state"), file.values[key] == meta[key]);
    }
    let scheduler = |value: &Value| -> Vec<f64> {
        let entry = &value["schedulers"][0];
        [&entry["base_lrs"][0], &entry["_last_lr"][0], &entry["last_epoch"], &entry["total_epoch"]]
            .map(|v| v.as_f64().unwrap_or(f64::NAN))
            .to_vec()
    };
    worst.compare("scheduler", &scheduler(&file.values), &scheduler(meta), absolute(0.0));
    for (key, expected) in fixture.part("adam.") {
        let got = file.tensors.get(&format!("optimizers.0.state.{key}"));
        same(worst, &format!("adam {key}"), got, &expected)?;
    }
    Ok(())
}

/// The weights of a network file, and what its network makes of the fixture's input.
fn weights(
    worst: &mut Worst,
    fixture: &Fixture,
    unet: &Value,
    (name, set): (&str, &str),
    file: &TorchFile,
) -> Result<(), String> {
    let got = file.state_dict(None).map_err(|e| format!("{name}: {e}"))?;
    for (key, expected) in fixture.part(&format!("{set}.")) {
        // without its prefix it is no weight of the network
        if name.contains("nobuffers") && !key.starts_with("denoise_fn.") {
            worst.require(&format!("{name} has `{key}`"), !got.contains_key(&key));
            continue;
        }
        same(worst, &format!("{name} {key}"), got.get(&key), &expected)?;
    }
    let half = got.values().any(|t| t.dtype() == DType::F16);
    let own = reference_entries(got);
    let config = recognised(&own, unet).map_err(|e| format!("{name}: {e}"))?;
    let (_, net) = filled(&own, |scope| config.build(scope))?;
    let got = predict(fixture, "in.", &net)?;
    if !half {
        check(worst, fixture, &format!("out.{set}."), &got)?;
    }
    Ok(())
}
