//! RAFT, with which EMDiffuse registers images: its parts, and whole networks with weights by
//! formula.

use candle_core::{DType, Tensor};
use limpid_arch::raft::ops::{
    Correlation, WarpGrid, consistent_matches, pad_to_eight, upsample_convex, upsample_linear, warp,
};
use limpid_arch::raft::{Config, Model};
use limpid_arch::{AnyConfig, recognise};
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params};
use serde_json::Value;
use std::collections::BTreeMap;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, device, text};
use super::formula;
use super::guided::read_json;

const CLOSE: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
/// Of flows of tens of pixels.
const FLOW: Tolerance = Tolerance { absolute: 2e-4, relative: 1e-4 };

/// `raft_ops`.
pub(super) fn ops(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Value = fixture.json("config")?;
    let input = |name: &str| fixture.tensor(&format!("in.{name}"));
    let mut worst = Worst::default();
    for (name, expected) in fixture.part("out.") {
        let image = || Ok::<_, String>((input("warp.image")?, input("warp.flow")?));
        let got = match name.as_str() {
            "upflow8" => upsample_linear(input("flow_lr")?),
            "upsample_flow" => upsample_convex(input("flow_lr")?, input("up_mask")?),
            "pad" => pad_to_eight(input("pad.image")?),
            "warp" => warp(image()?.0, image()?.1, WarpGrid::Stretched),
            "warp.zero_flow" => {
                let rest = image()?.1.zeros_like().map_err(text)?;
                warp(image()?.0, &rest, WarpGrid::Stretched)
            }
            "delete_outlier.index_sorted" | "delete_outlier.mean_norm" => matches(fixture, &name),
            _ => match name.strip_prefix("corr_lookup.r") {
                Some(radius) => {
                    let levels = meta["corr_levels"][format!("r{radius}")].as_u64();
                    let levels = levels.ok_or("the metadata does not say the levels")? as usize;
                    let radius = radius.parse().map_err(text)?;
                    let all = Correlation::new(input("fmap1")?, input("fmap2")?, levels);
                    all.and_then(|all| all.lookup(input("coords").map_err(bad)?, radius))
                }
                None => return Err(format!("the file has a result that is not ours: `{name}`")),
            },
        };
        worst.tensor(&name, &got.map_err(|e| format!("{name}: {e}"))?, &expected, CLOSE)?;
    }
    worst.done()
}

fn bad(message: String) -> limpid_nn::Error {
    limpid_nn::Error::argument("parity", message)
}

/// The matches that agree, or how far they moved.
fn matches(fixture: &Fixture, name: &str) -> limpid_nn::Result<Tensor> {
    let points = |name: &str| -> limpid_nn::Result<Vec<[f64; 2]>> {
        let values = fixture.values(&format!("in.delete_outlier.{name}")).map_err(bad)?;
        Ok(values.as_chunks::<2>().0.to_vec())
    };
    let (found, length) = consistent_matches(&points("p1")?, &points("p2")?, 0.3)?;
    Ok(if name.ends_with("mean_norm") {
        Tensor::new(length, &device())?
    } else {
        let found: Vec<i64> = found.into_iter().map(|i| i as i64).collect();
        Tensor::new(found, &device())?
    })
}

/// `raft_formula`: flows of the basic and the small network, and the keys that lie beside it.
pub(super) fn networks(fixture: &Fixture) -> Result<Outcome, String> {
    let meta: Value = fixture.json("config")?;
    let seed = meta["formula_seed"].as_u64().ok_or("no formula_seed")?;
    let iterations = meta["kind"].as_str().and_then(|kind| {
        let rest = kind.split_once("iters=")?.1;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    let iterations = iterations.ok_or("the metadata does not say `iters=`")?;
    let image = |name: &str| -> Result<Tensor, String> {
        let grey = fixture.tensor(name)?;
        let (h, w) = grey.dims2().map_err(text)?;
        let three = grey.to_dtype(DType::F32).and_then(|t| t.broadcast_as((1, 3, h, w)));
        three.and_then(|t| t.contiguous()).map_err(text)
    };
    let (first, second) = (image("in.image1")?, image("in.image2")?);
    let path = fixture.path.with_file_name("raft_keys.json");
    let keys: BTreeMap<String, Vec<(String, Vec<usize>)>> = read_json(&path)?;
    let mut worst = Worst::default();
    for (name, model) in [("basic", Model::Basic), ("small", Model::Small)] {
        let keys = keys.get(name).ok_or_else(|| format!("no keys of `{name}`"))?;
        let best = recognise(&keys.iter().cloned().collect()).into_iter().next();
        let fits = best.is_some_and(|best| {
            let found = matches!(best.config, AnyConfig::Raft(c) if c.model == model);
            found && best.mismatches == 0
        });
        worst.require(&format!("parameters of {name}"), fits);

        let params = Params::new();
        let scope = params.scope(Stream::new(0, "parity"), DType::F32, &device());
        let net = Config { model }.build(&scope).map_err(text)?;
        formula::fill(&params, seed)?;
        let _guard = params.no_grad();
        let flow = net.forward(&first, &second, iterations, None, &Ctx::eval()).map_err(text)?;
        let fine = flow.fine.last().ok_or("no flow")?;
        for (part, got) in [("flow_low", &flow.coarse), ("flow_up", fine)] {
            let key = format!("out.{name}.{part}");
            worst.tensor(&key, got, fixture.tensor(&key)?, FLOW)?;
        }
    }
    worst.done()
}
