//! `denoise inspect`: what is in a file.

use crate::model_file::Trained;
use limpid_arch::{recognise, reference_key};
use limpid_cli::{CommonArgs, Failure, HELP, print};
use limpid_io::VolumeInfo;
use limpid_nn::tensors;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Say what an image, a model or a checkpoint holds
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  denoise inspect image.tif
  denoise inspect runs/em-demo-0001
  denoise inspect weights.pth"
)]
pub(crate) struct Args {
    /// Image, model, run or checkpoint
    path: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.common.apply()?;
    let path = &args.path;
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let text = match ending.as_str() {
        "safetensors" | "pth" | "pt" | "ckpt" | "bin" => weights(path)?,
        _ if path.is_dir() => model(path)?,
        _ => image(path)?,
    };
    print(text)
}

fn image(path: &Path) -> Result<String, Failure> {
    let reader = limpid_io::open(path).map_err(Failure::data)?;
    let VolumeInfo { shape, axes, dtype, spacing, unit, affine, .. } = reader.info().clone();
    let volume = reader.read().map_err(Failure::data)?;
    let mut values = volume.data.to_f32();
    let mut text = String::new();
    let _ = writeln!(text, "shape    {shape:?} ({axes})");
    let _ = writeln!(text, "type     {dtype}");
    if let Some(spacing) = spacing {
        let _ = writeln!(text, "spacing  {spacing:?} {}", unit.unwrap_or_default());
    }
    if let Some(affine) = affine {
        let _ = writeln!(text, "affine   {affine:?}");
    }
    if let Some((count, first)) = volume.nonfinite() {
        let _ = writeln!(text, "warning  {count} values are not finite, the first at {first:?}");
    }
    values.retain(|v| v.is_finite());
    if !values.is_empty() {
        values.sort_by(f32::total_cmp);
        let at = |q: f64| values[((values.len() - 1) as f64 * q) as usize];
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let _ = writeln!(
            text,
            "values   min {}  1% {}  median {}  99% {}  max {}  mean {mean:.4}",
            at(0.0), at(0.01), at(0.5), at(0.99), at(1.0)
        );
    }
    Ok(text)
}

fn model(path: &Path) -> Result<String, Failure> {
    let trained = Trained::open(Some(path))?;
    let card = &trained.card;
    let mut text = String::new();
    let _ = writeln!(text, "model          {} (step {})", card.name, card.step);
    if let Some((name, value)) = &card.score {
        let _ = writeln!(text, "score          {name} {value:.4} in validation");
    }
    let _ = writeln!(text, "network        {}, {} parameters", card.network.kind(), trained.params.count());
    let _ = writeln!(text, "axes           {}", card.axes);
    let _ = writeln!(text, "receptive field {:?}, divisor {:?}", card.network.receptive_field(), card.network.divisor());
    let _ = writeln!(text, "normalisation  {}", card.normalisation);
    let _ = writeln!(text, "data range     {}", card.data_range);
    Ok(text)
}

/// A file of weights: the model card if it has one, else which network the keys belong to.
fn weights(path: &Path) -> Result<String, Failure> {
    if let Ok(text) = model(path) {
        return Ok(text);
    }
    let tensors = tensors::load_any(path).map_err(Failure::data)?;
    let tensors: BTreeMap<String, candle_core::Tensor> = tensors
        .into_iter()
        .filter_map(|(k, t)| Some((reference_key(&k)?.to_owned(), t)))
        .collect();
    let shapes: limpid_arch::Shapes =
        tensors.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let scalars: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
    let mut text = format!("{} tensors, {scalars} values\n", tensors.len());
    match recognise(&shapes).first() {
        Some(best) if best.mismatches == 0 => {
            let _ = writeln!(text, "fits the network `{}`: {:?}", best.config.kind(), best.config);
        }
        Some(best) => {
            let expected = best.config.shapes().map_err(Failure::data)?;
            let _ = writeln!(text, "resembles the network `{}`, but {} keys differ", best.config.kind(), best.mismatches);
            let _ = writeln!(text, "{}", limpid_nn::compare(&expected, &tensors));
        }
        None => {
            let _ = writeln!(text, "no network of ours has these keys; the first are:");
            for (name, shape) in shapes.iter().take(10) {
                let _ = writeln!(text, "  {name} {shape:?}");
            }
        }
    }
    Ok(text)
}
