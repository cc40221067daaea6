//! Sliding windows, their weights, and test-time augmentation.

use candle_core::{Device, Tensor};
use limpid_engine::infer::{
    Blend, Collect, InMemory, Inferencer, Needs, Padding, Plan, TileConfig, Tta, averaged,
    predictions, weight, window,
};
use limpid_kernels::ConvSpec;
use serde_json::Value;
use std::error::Error;

use super::fixture::{Fixture, Outcome, Worst, absolute, values};

type Checked = Result<(), Box<dyn Error>>;

/// A convolution that keeps the size.
fn conv(x: &Tensor, w: &Tensor, b: &Tensor) -> limpid_engine::Result<Tensor> {
    let rank = x.rank() - 2;
    let padding = w.dims()[2..].iter().map(|k| k / 2).collect();
    let spec = ConvSpec { padding, ..ConvSpec::unit(rank) };
    Ok(limpid_kernels::conv(x, w, Some(b), &spec)?)
}

/// Convolves an image `[1, C, s…]` through windows; returns the result and the window starts.
fn tiled(
    config: &TileConfig,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
) -> Result<(Vec<f64>, Vec<Vec<usize>>), Box<dyn Error>> {
    let spatial = &x.dims()[2..];
    let rank = spatial.len();
    let needs = Needs {
        any_size_from: None,
        fixed_size: None,
        divisor: vec![1; rank],
        receptive_field: w.dims()[2..].to_vec(),
        bytes_per_pixel: 0,
        channels: w.dims()[0],
    };
    let plan = Plan::new(config, &needs, spatial)?;
    let starts = plan.starts.clone();
    let source = InMemory { shape: x.dims()[1..].to_vec(), data: x.flatten_all()?.to_vec1()? };
    let mut sink = Collect::default();
    let inferencer = Inferencer { plan, deviation: false, device: Device::Cpu };
    inferencer.run(&source, &mut sink, |x| conv(x, w, b), |_, _| {})?;
    let image = sink.image(spatial[0], spatial.iter().product());
    Ok((image.data.into_iter().map(f64::from).collect(), starts))
}

fn sizes(v: &Value) -> Vec<usize> {
    v.as_array()
        .map_or_else(Vec::new, |a| a.iter().filter_map(Value::as_u64).map(|n| n as usize).collect())
}

/// `sliding_window`: MONAI's windows, weights and results.
pub(super) fn monai(f: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    monai_cases(f, &mut worst).map_err(|e| e.to_string())?;
    worst.done()
}

fn monai_cases(f: &Fixture, worst: &mut Worst) -> Checked {
    let mut cases = Vec::new();
    if let Some(map) = f.json::<Value>("cases")?.as_object() {
        for (name, case) in map {
            let overlap = vec![case["overlap"].as_f64().ok_or("a case without `overlap`")?];
            let blend = match case["mode"].as_str() {
                Some("gaussian") => Blend::Gaussian { overlap, sigma_scale: 0.125 },
                _ => Blend::Constant { overlap },
            };
            let size = sizes(&case["roi"]);
            cases.push((
                name.clone(),
                TileConfig {
                    size,
                    blend,
                    padding: Padding::Zero,
                    batch: 4,
                    ..TileConfig::default()
                },
            ));
        }
    }
    if let Ok(Value::Object(map)) = f.json::<Value>("extra") {
        for (name, text) in map {
            cases.push((name.clone(), described(text.as_str().unwrap_or_default())));
        }
    }
    for (name, config) in &cases {
        let dims = &name[..2];
        let x = f.tensor(&format!("{dims}.input"))?;
        let (w, b) = (f.tensor(&format!("{dims}.weight"))?, f.tensor(&format!("{dims}.bias"))?);
        let (got, starts) = tiled(config, x, w, b)?;
        worst.compare(name, &got, &f.values(name)?, absolute(1e-5));
        let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
        if let Ok(want) = f.values(&format!("{stem}.starts")) {
            let got: Vec<f64> = starts.iter().flatten().map(|&s| s as f64).collect();
            worst.compare(&format!("{stem}.starts"), &got, &want, absolute(0.0));
        }
    }
    for (name, want) in f.part("importance.gaussian.") {
        let size: Vec<usize> = name.split('x').filter_map(|n| n.parse().ok()).collect();
        let got = weight::monai_gaussian(&size, 0.125);
        worst.compare(&format!("importance {name}"), &got, &values(&want)?, absolute(1e-6));
    }
    Ok(())
}

/// A case given in words: `roi (16,24) overlap .5 gaussian sigma_scale .25`.
fn described(text: &str) -> TileConfig {
    let after = |word: &str| -> Vec<f64> {
        let Some((_, rest)) = text.split_once(word) else { return Vec::new() };
        let rest = rest.trim_start();
        let list = match rest.strip_prefix('(') {
            Some(r) => r.split(')').next().unwrap_or(""),
            None => rest.split_whitespace().next().unwrap_or(""),
        };
        list.split(',').filter_map(|n| n.trim().parse().ok()).collect()
    };
    let overlap = match after("overlap") {
        o if o.is_empty() => vec![0.25],
        o => o,
    };
    let sigma_scale = after("sigma_scale").first().copied().unwrap_or(0.125);
    // the recipe is Gaussian unless it says otherwise
    let blend = if text.contains("constant") {
        Blend::Constant { overlap }
    } else {
        Blend::Gaussian { overlap, sigma_scale }
    };
    TileConfig {
        size: after("roi").into_iter().map(|n| n as usize).collect(),
        blend,
        padding: if text.contains("reflect") { Padding::Reflect } else { Padding::Zero },
        ..TileConfig::default()
    }
}

/// `nnunet_sliding`: nnU-Net's Gaussian and window starts.
pub(super) fn nnunet(f: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for (name, want) in f.part("gauss.") {
        let size: Vec<usize> = name.split('x').filter_map(|n| n.parse().ok()).collect();
        let got = weight::nnunet_gaussian(&size);
        worst.compare(&format!("gauss {name}"), &got, &values(&want)?, absolute(1e-12));
    }
    if let Some(cases) = f.json::<Value>("steps")?.as_object() {
        for (name, case) in cases {
            let step = case["step"].as_f64().ok_or("a case without `step`")?;
            let axes = sizes(&case["image"]).into_iter().zip(sizes(&case["tile"]));
            let starts = case["starts"].as_array().ok_or("a case without `starts`")?;
            for ((image, tile), want) in axes.zip(starts) {
                let float = |v: Vec<usize>| v.into_iter().map(|n| n as f64).collect::<Vec<_>>();
                let got = float(window::nnunet_starts(image, tile, step));
                worst.compare(name, &got, &float(sizes(want)), absolute(0.0));
            }
        }
    }
    worst.done()
}

/// `inference_misc`: nucli's stride rule, and orientations.
pub(super) fn misc(f: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    misc_cases(f, &mut worst).map_err(|e| e.to_string())?;
    worst.done()
}

fn misc_cases(f: &Fixture, worst: &mut Worst) -> Checked {
    let what = f.metadata.get("what").map_or("", String::as_str);
    let number = |word: &str| -> Option<usize> {
        what.split_once(word)?.1.split_whitespace().next()?.trim_end_matches(',').parse().ok()
    };
    let (patch, stride) = (number("patch").unwrap_or(12), number("stride").unwrap_or(5));
    let x = f.tensor("nucli.vol")?;
    let (w, b) = (f.tensor("nucli.weight")?, f.tensor("nucli.bias")?);
    let config = TileConfig {
        size: vec![patch; x.rank() - 2],
        blend: Blend::Stride { stride: vec![stride] },
        padding: Padding::Zero,
        ..TileConfig::default()
    };
    let (got, starts) = tiled(&config, x, w, b)?;
    worst.compare("nucli.out", &got, &f.values("nucli.out")?, absolute(1e-5));
    let count: f64 = f.values("nucli.count")?.iter().sum();
    let own = (starts.len() * patch.pow((x.rank() - 2) as u32)) as f64;
    worst.compare("nucli.count (sum)", &[own], &[count], absolute(0.0));

    let x = f.tensor("tta.x")?;
    let (w2, b2) = (f.tensor("tta.weight")?, f.tensor("tta.bias")?);
    let close = absolute(1e-5);
    let (mean, deviation) = averaged(x, Tta::Flips, true, |x| conv(x, w2, b2))?;
    worst.tensor("tta.flip4", &mean, f.tensor("tta.flip4")?, close)?;
    let deviation = deviation.ok_or("no deviation")?;
    worst.tensor("tta.flip4_std", &deviation, f.tensor("tta.flip4_std")?, close)?;
    let flips = predictions(x, Tta::Flips, |x| conv(x, w2, b2))?;
    worst.compare("tta.flip4_median", &medians(&flips)?, &f.values("tta.flip4_median")?, close);
    let (mean, _) = averaged(x, Tta::Dihedral, false, |x| conv(x, w2, b2))?;
    worst.tensor("tta.d4_mean", &mean, f.tensor("tta.d4_mean")?, close)?;
    let (mean, _) = averaged(f.tensor("tta3.x")?, Tta::Flips, false, |x| conv(x, w, b))?;
    worst.tensor("tta3.flip8", &mean, f.tensor("tta3.flip8")?, close)?;
    Ok(())
}

/// Median over predictions of each pixel: of an even number the lower middle one, as in PyTorch.
fn medians(all: &[Tensor]) -> Result<Vec<f64>, String> {
    let all = all.iter().map(values).collect::<Result<Vec<_>, _>>()?;
    Ok((0..all[0].len())
        .map(|i| {
            let mut v: Vec<f64> = all.iter().map(|a| a[i]).collect();
            v.sort_by(f64::total_cmp);
            v[(v.len() - 1) / 2]
        })
        .collect())
}
