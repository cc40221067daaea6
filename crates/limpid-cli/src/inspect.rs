//! `inspect`: what is in an image, a model, a run, a checkpoint or a file of weights.

use crate::args::ComputeArgs;
use crate::failure::Failure;
use crate::format::{Align, bytes, table};
use crate::model::find_model;
use crate::runs;
use crate::terminal::print;
use limpid_datamodule::normalise::Statistics;
use limpid_export::{Bundle, BundleError, Card, CardNetwork, Published};
use limpid_io::{Region, VolumeInfo};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The arguments of every `inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// Image, model, run or checkpoint
    pub path: PathBuf,
    /// Threads and colour.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Samples read at a time.
const PIECE: usize = 1 << 24;

impl InspectArgs {
    /// Says what there is; of a model with a network `N` what `model` says ([`card`]). `program` is
    /// the one that is run.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::Kind::Data) if it cannot be read; those of `model`.
    pub fn run<N: CardNetwork>(
        &self,
        program: &str,
        model: impl FnOnce(PathBuf, Bundle<N>) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        self.compute.apply()?;
        let path = &self.path;
        let ending =
            path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let text = match ending.as_str() {
            _ if path.join("state.json").is_file() => checkpoint(path)?,
            _ if path.join("run.json").is_file() && !path.join("model.safetensors").is_file() => {
                runs::details(path)?
            }
            _ if path.is_dir() => {
                let path = find_model(Some(path), program)?;
                let bundle = Bundle::load(&path).map_err(Failure::data)?;
                model(path, bundle)?
            }
            "safetensors" | "pth" | "pt" | "ckpt" | "bin" => match Bundle::load(path) {
                Ok(bundle) => model(path.clone(), bundle)?,
                Err(BundleError::NoCard { .. }) => weights(path)?,
                Err(e) => return Err(Failure::data(e)),
            },
            _ => image(path)?,
        };
        print(text)
    }
}

/// What a card says; `network` are further lines about the network, whose parameters are so many.
#[must_use]
pub fn card<N: CardNetwork>(card: &Card<N>, parameters: usize, network: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "model          {} (step {})", card.name, card.step);
    if let Some((name, value)) = &card.score {
        let _ = writeln!(text, "score          {name} {value:.4} in validation");
    }
    let _ = writeln!(text, "network        {}, {parameters} parameters", card.network.kind());
    // a network of no images has no axes
    if card.axes.is_empty() {
        text.push_str(network);
        return text;
    }
    let _ = writeln!(text, "axes           {}", card.axes);
    text.push_str(network);
    let _ = writeln!(text, "normalisation  {}", card.normalisation);
    let _ = writeln!(text, "data range     {}", card.data_range);
    text
}

fn image(path: &Path) -> Result<String, Failure> {
    let reader = limpid_io::open(path).map_err(Failure::data)?;
    let VolumeInfo { shape, axes, dtype, spacing, unit, affine, .. } = reader.info().clone();
    let mut text = String::new();
    let _ = writeln!(text, "shape    {shape:?} ({axes})");
    let _ = writeln!(text, "type     {dtype}");
    if let Some(spacing) = spacing {
        let _ = writeln!(text, "spacing  {spacing:?} {}", unit.unwrap_or_default());
    }
    if let Some(affine) = affine {
        let _ = writeln!(text, "affine   {affine:?}");
    }
    let mut statistics = Statistics::new(1, reader.info().samples());
    let (mut finite, mut bad) = (0, 0);
    for region in pieces(&shape) {
        let mut values = reader.read_region(&region).map_err(Failure::data)?.to_f32();
        let all = values.len();
        values.retain(|v| v.is_finite());
        finite += values.len();
        bad += all - values.len();
        statistics.add(&values);
    }
    if bad > 0 {
        let _ = writeln!(text, "warning  {bad} values are not finite");
    }
    if finite > 0 {
        let ((min, max), (mean, _)) = (statistics.range(0), statistics.moments(0));
        let (low, high) = statistics.percentiles(0, 1.0, 99.0);
        let (median, _) = statistics.percentiles(0, 50.0, 50.0);
        let [min, low, median, high, max] = [min, low, median, high, max].map(|v| v as f32);
        let _ = writeln!(
            text,
            "values   min {min}  1% {low}  median {median}  99% {high}  max {max}  mean {mean:.4}"
        );
    }
    Ok(text)
}

/// Regions of at most [`PIECE`] samples that cover an image, in the order of its samples.
fn pieces(shape: &[usize]) -> impl Iterator<Item = Region> + '_ {
    let inner = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    // the first axis whose entries fit is cut; those before it are walked one by one
    let cut = (0..shape.len()).find(|&axis| inner(axis) <= PIECE).unwrap_or(0);
    let rows = (PIECE / inner(cut).max(1)).clamp(1, shape[cut]);
    (0..shape[..cut].iter().product::<usize>()).flat_map(move |outer| {
        (0..shape[cut]).step_by(rows).map(move |first| {
            let (mut start, mut size) = (vec![0; shape.len()], shape.to_vec());
            let mut rest = outer;
            for axis in (0..cut).rev() {
                start[axis] = rest % shape[axis];
                size[axis] = 1;
                rest /= shape[axis];
            }
            start[cut] = first;
            size[cut] = rows.min(shape[cut] - first);
            Region { start, size }
        })
    })
}

/// The state of a run at one step: how far it had come, and its files of tensors.
fn checkpoint(path: &Path) -> Result<String, Failure> {
    let file = path.join("state.json");
    let state = std::fs::read(&file)
        .map_err(|e| Failure::data(limpid_io::Error::io("read the state", &file, e)))?;
    let state: Value = serde_json::from_slice(&state).map_err(|e| {
        Failure::data(format!("the state cannot be read: {e}"))
            .hint("the checkpoint is damaged; training passes over it")
            .file(&file)
    })?;
    let progress = &state["progress"];
    let number = |key: &str| progress[key].as_u64().map_or("?".to_owned(), |n| n.to_string());
    let mut text = String::new();
    let _ = writeln!(text, "checkpoint  step {}", number("step"));
    let _ = writeln!(
        text,
        "progress    epoch {}, {} batches of it, {} samples seen, {} batches left out",
        number("epoch"),
        number("cursor"),
        number("samples"),
        number("skipped")
    );
    for best in progress["best"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "best        step {}: {}", best[0], best[1]);
    }
    let mut rows = Vec::new();
    for name in ["weights", "ema", "optimizers"].map(|n| format!("{n}.safetensors")) {
        let file = path.join(&name);
        if let Ok(meta) = file.metadata() {
            let (tensors, _) = limpid_nn::tensors::load(&file).map_err(Failure::data)?;
            let values: usize = tensors.values().map(candle_core::Tensor::elem_count).sum();
            rows.push(vec![name, tensors.len().to_string(), values.to_string(), bytes(meta.len())]);
        }
    }
    let columns = [
        ("file", Align::Left),
        ("tensors", Align::Right),
        ("values", Align::Right),
        ("size", Align::Right),
    ];
    Ok(text + "\n" + &table(&columns, &rows))
}

/// A file of weights without a card: which network the keys belong to.
fn weights(path: &Path) -> Result<String, Failure> {
    let Published { weights, network, report } = Published::open(path).map_err(Failure::data)?;
    let scalars: usize = weights.values().map(candle_core::Tensor::elem_count).sum();
    let mut text = format!("{} tensors, {scalars} values\n", weights.len());
    match network {
        Some(network) if report.is_match() => {
            let settings = network.settings();
            let parameters = settings.initial().map_err(Failure::data)?.count();
            let _ = writeln!(text, "{parameters} parameters");
            let _ = writeln!(text, "fits the network `{}`: {settings:?}", settings.kind());
        }
        Some(network) => {
            let count = report.missing.len() + report.unexpected.len() + report.mismatched.len();
            let kind = network.settings().kind();
            let _ = writeln!(text, "resembles the network `{kind}`, but {count} keys differ");
            let _ = writeln!(text, "{report}");
        }
        None => {
            let _ = writeln!(text, "no network of ours has these keys; the first are:");
            for (name, tensor) in weights.iter().take(10) {
                let _ = writeln!(text, "  {name} {:?}", tensor.dims());
            }
            let _ = writeln!(text, "networks of ours: {}", limpid_arch::KINDS.join(", "));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_image_once_and_stay_small() {
        for shape in [vec![5, 7], vec![3, 5000, 4000], vec![2, 3, 5000, 4000], vec![2, 40_000_000]]
        {
            let regions: Vec<Region> = pieces(&shape).collect();
            let samples = |r: &Region| r.size.iter().product::<usize>();
            assert!(regions.iter().all(|r| samples(r) <= PIECE), "{shape:?}");
            assert_eq!(regions.iter().map(samples).sum::<usize>(), shape.iter().product::<usize>());
            // in order, each beginning where the one before it ends
            let flat = |r: &Region| r.start.iter().zip(&shape).fold(0, |f, (s, n)| f * n + s);
            let mut end = 0;
            for region in &regions {
                assert_eq!(flat(region), end, "{shape:?}");
                end += samples(region);
            }
        }
    }
}
