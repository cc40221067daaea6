//! `denoise predict`.

use crate::model_file::Trained;
use crate::published::{self, Wishes};
use limpid_arch::{ImageArchitecture, NetworkConfig};
use limpid_cli::prediction::{beside, jobs, progress, range, sample_type};
use limpid_cli::{
    CommonArgs, Failure, HELP, PrecisionArgs, SetArgs, Verbosity, failure, interrupt, report,
};
use limpid_datamodule::normalise::{Normaliser, Normalisers};
use limpid_datamodule::predict::{Input, Output, OutputFrame};
use limpid_engine::infer::{Inferencer, Plan, Slabs, TileConfig, Tta};
use limpid_engine::{BoxError, Event};
use limpid_io::{Axes, DType, WriteOptions};
use limpid_nn::{Ctx, Replay};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Restore images with a trained model
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  denoise predict noisy.tif restored.tif
  denoise predict noisy/*.tif --out restored/ --model runs/em-demo-0001
  denoise predict noisy.nii.gz restored.nii.gz --tta flips --deviation"
)]
pub(crate) struct Args {
    /// Image and result; with `--out`, images and folders of images
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Run, model file, or name of runs [default: the last run in runs/]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Published weights instead of a model: a PyTorch or safetensors file, from whose keys the
    /// network is told; what they do not tell is set with `--set network.KEY=VALUE`
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    weights: Option<PathBuf>,
    /// Use published weights although some are missing or left over
    #[arg(long, requires = "weights")]
    partial: bool,
    /// Intensities that are 0 and 1 to published weights [default: 0 and the largest of u8 or u16;
    /// f32 is taken as it is]
    #[arg(long, value_names = ["LOW", "HIGH"], num_args = 2, requires = "weights", allow_negative_numbers = true)]
    range: Vec<f64>,
    /// Sample type of the result [default: that of the input]
    #[arg(long, value_name = "TYPE", value_parser = ["input", "u8", "u16", "f32"], default_value = "input")]
    dtype: String,
    /// Predict also in other orientations and average [default: as the model was configured]
    #[arg(long, value_name = "VIEWS", value_parser = ["none", "flips", "dihedral"])]
    tta: Option<String>,
    /// Also write the standard deviation over the orientations, as NAME_std in f32
    #[arg(long)]
    deviation: bool,
    /// Axes of the files in their order, slowest first, where they do not say: ZYX
    #[arg(long, value_name = "AXES")]
    axes: Option<Axes>,
    #[command(flatten)]
    keys: SetArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let common = &args.common;
    common.apply()?;
    let device = common.open_device()?;
    args.precision.apply(&device);
    let jobs = jobs(&args.paths, common.out.as_deref(), common.dry_run)?;
    let (network, tiling): (Vec<String>, Vec<String>) =
        args.keys.sets.iter().cloned().partition(|s| s.starts_with("network."));
    let trained = match &args.weights {
        Some(path) => {
            let wishes = Wishes {
                path,
                sets: network,
                range: range(&args.range)?,
                partial: args.partial,
                quiet: common.verbosity() == Verbosity::Quiet,
            };
            published::open(&wishes, &device)?
        }
        None if !network.is_empty() => {
            return Err(Failure::config("the network of a model cannot be set")
                .hint("`--set network.KEY=VALUE` goes with `--weights`"));
        }
        None => Trained::open(args.model.as_deref(), &device)?,
    };
    let mut tile = tile_config(&trained)?;
    // other keys are those of `[tile]`
    let sets = tiling.iter().map(|s| s.strip_prefix("tile.").unwrap_or(s).to_owned());
    let text = toml::to_string(&tile).map_err(Failure::run)?;
    let request = limpid_config::Request {
        builtin: Some(("the model's tiling", &text)),
        sets: sets.collect(),
        ..limpid_config::Request::default()
    };
    tile = limpid_config::load::<TileConfig>(&request)?.value;
    if let Some(tta) = &args.tta {
        tile.tta = match tta.as_str() {
            "flips" => Tta::Flips,
            "dihedral" => Tta::Dihedral,
            _ => Tta::None,
        };
    }
    if args.deviation && tile.tta == Tta::None {
        return Err(
            Failure::config("`--deviation` needs several orientations").hint("add `--tta flips`")
        );
    }
    let stop = interrupt::install()?;
    for (input, output) in &jobs {
        restore(args, &trained, &tile, input, output, &|| stop.flag().load(Ordering::Relaxed))?;
    }
    Ok(())
}

/// How the model's own configuration tiles.
fn tile_config(trained: &Trained) -> Result<TileConfig, Failure> {
    let table: toml::Table = trained.card.config.parse().map_err(Failure::data)?;
    match table.get("tile") {
        Some(tile) => tile.clone().try_into().map_err(Failure::data),
        None => Ok(TileConfig::default()),
    }
}

fn restore(
    args: &Args,
    trained: &Trained,
    tile: &TileConfig,
    input: &Path,
    output: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<(), Failure> {
    let dims = trained.card.network.dims();
    let normalisers = &trained.intensities.of(input)?;
    let image = Input::open(input, dims, args.axes.as_ref(), normalisers).map_err(Failure::data)?;
    let (got, expected) = (image.shape()[0], trained.card.network.in_channels());
    if got != expected {
        return Err(Failure::data(format!(
            "the image has {got} channels (axes {}), the network takes {expected}",
            image.info().axes
        ))
        .hint(channels_hint(&trained.card.network))
        .file(input));
    }
    let dtype = sample_type(&args.dtype).unwrap_or(image.info().dtype);
    let mut needs = trained.needs();
    if args.deviation {
        needs.channels *= 2;
    }
    let plan = Plan::new(tile, &needs, &image.shape()[1..]).map_err(failure)?;
    let frames = image.frames() as u64;
    if args.common.verbosity() > Verbosity::Quiet {
        let times = if frames > 1 { format!(", {frames} times") } else { String::new() };
        report(format!("{} → {}: {plan}{times}", input.display(), output.display()));
    }
    if args.common.dry_run {
        return Ok(());
    }
    let channels = trained.card.network.out_channels();
    let options = WriteOptions::default();
    let mut restored = Output::create(output, &image, normalisers, channels, Some(dtype), &options)
        .map_err(Failure::data)?;
    let mut deviation = args
        .deviation
        .then(|| {
            let scales = scales(normalisers)?;
            let path = beside(output, "_std");
            Output::create(&path, &image, &scales, channels, Some(DType::F32), &options)
                .map_err(Failure::data)
        })
        .transpose()?;
    let windows = plan.starts.len() as u64;
    let inferencer = Inferencer { plan, deviation: args.deviation, device: trained.device.clone() };
    let mut sink = progress(&args.common);
    let _no_grad = trained.params.no_grad();
    // windows have one shape: a GPU repeats the pass by itself
    let mut pass = Replay::new();
    for index in 0..image.frames() {
        let predict = |x: &candle_core::Tensor| -> limpid_engine::Result<_> {
            if stop() {
                return Err(limpid_engine::Error::Data("interrupted".into()));
            }
            let y = pass.run(&[x], &Ctx::eval(), |x, ctx| trained.net.forward(&x[0], ctx))?;
            Ok(if pass.is_recorded() { y.copy()? } else { y })
        };
        let done = inferencer.run(
            &image.frame(index),
            &mut Both {
                mean: restored.frame(index),
                deviation: deviation.as_mut().map(|d| d.frame(index)),
            },
            predict,
            |done, _| {
                let task = "restoring".to_owned();
                let (done, total) = (index as u64 * windows + done, frames * windows);
                sink.event(&Event::Progress { task, done, total });
            },
        );
        if stop() {
            return Err(Failure::interrupted(format!(
                "stopped; {} was not written",
                output.display()
            )));
        }
        done.map_err(failure)?;
    }
    let clipped = restored.finish().map_err(Failure::data)?;
    if let Some(deviation) = deviation {
        deviation.finish().map_err(Failure::data)?;
    }
    if clipped > 0 && args.common.verbosity() > Verbosity::Quiet {
        report(format!("{clipped} values were beyond the range of {dtype} and clipped"));
    }
    Ok(())
}

/// What to do about an image with another number of channels.
fn channels_hint(network: &NetworkConfig) -> &'static str {
    match network {
        NetworkConfig::Drunet(settings) if settings.sigma.is_none() => {
            "give the noise level with `--set network.sigma=NUMBER`, for intensities from 0 to 1"
        }
        _ => "give an image of the kind the network was trained on, or its axes with `--axes`",
    }
}

/// Hands the first half of the channels to one file, the second to another.
struct Both<'a> {
    mean: OutputFrame<'a>,
    deviation: Option<OutputFrame<'a>>,
}

impl Slabs for Both<'_> {
    fn slab(&mut self, start: usize, size: usize, data: &[f32]) -> Result<(), BoxError> {
        let Some(deviation) = &mut self.deviation else {
            return self.mean.slab(start, size, data);
        };
        let (mean, spread) = data.split_at(data.len() / 2);
        self.mean.slab(start, size, mean)?;
        deviation.slab(start, size, spread)
    }
}

/// The way back for deviations: they scale with the intensities, but have no offset.
fn scales(normalisers: &Normalisers) -> Result<Normalisers, Failure> {
    let base = match (&normalisers.target, &normalisers.input) {
        (Some(target), _) => target,
        (None, Normaliser::Dataset { normalisation }) => normalisation,
        (None, Normaliser::Image { .. }) => {
            return Err(Failure::config("`--deviation` needs a model normalised by its data set")
                .hint("train with `data.normalisation_fit = \"dataset\"`"));
        }
    };
    let differences = base.of_differences().ok_or_else(|| {
        Failure::config("`--deviation` needs a linear normalisation")
            .hint("a deviation has no way back through a curve")
    })?;
    Ok(Normalisers { target: Some(differences), ..normalisers.clone() })
}
