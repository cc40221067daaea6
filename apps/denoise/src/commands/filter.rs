//! `denoise filter`: classical filters, as baselines and for quick work.

use crate::scores::Scores;
use limpid_classical::{FilterConfig, FilterKind, apply, tune};
use limpid_cli::{CommonArgs, Failure, HELP, print};
use limpid_io::{Data, Volume};
use std::path::PathBuf;

/// Filter an image without a network
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  denoise filter gaussian noisy.tif out.tif --set sigma=1.2
  denoise filter non_local_means noisy.tif out.tif --tune --target clean.tif --data-range 255"
)]
pub(crate) struct Args {
    /// Which filter
    #[arg(value_parser = FilterKind::ALL.map(FilterKind::name))]
    filter: String,
    /// Image to filter
    input: PathBuf,
    /// Where the result goes; its ending decides the format
    output: PathBuf,
    /// Find the best strength for this image; needs `--target`
    #[arg(long, requires = "target")]
    tune: bool,
    /// Reference to measure with
    #[arg(long, value_name = "FILE")]
    target: Option<PathBuf>,
    /// Span of valid intensities, 255 for 8-bit images
    #[arg(long, value_name = "RANGE", required_if_eq("tune", "true"))]
    data_range: Option<f64>,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.common.apply()?;
    let volume = read(&args.input)?;
    let shape = volume.info.shape.clone();
    let noisy: Vec<f64> = volume.data.to_f32().into_iter().map(f64::from).collect();
    let result = if args.tune {
        let (Some(target), Some(range)) = (&args.target, args.data_range) else {
            return Err(Failure::config("`--tune` needs `--target` and `--data-range`"));
        };
        let reference = read(target)?;
        if reference.info.shape != shape {
            return Err(Failure::data(format!("the image is {shape:?}, the target {:?}", reference.info.shape))
                .file(target));
        }
        let best = best_of(kind(&args.filter)?, &noisy, &reference.data.to_f32(), &shape, range)?;
        print(format!("{}  psnr {:.2} dB\n", described(&best.filter)?, best.score))?;
        best.image
    } else {
        let mut sets = args.common.sets.clone();
        sets.push(format!("kind=\"{}\"", args.filter));
        let request = limpid_config::Request { sets, ..limpid_config::Request::default() };
        let filter = limpid_config::load::<FilterConfig>(&request)?.value;
        apply(&filter, &noisy, &shape).map_err(Failure::config)?
    };
    let values: Vec<f32> = result.into_iter().map(|v| v as f32).collect();
    let (data, _) = Data::from_f32(&values, volume.info.dtype);
    limpid_io::save(&args.output, &Volume { data, ..volume }).map_err(Failure::data)
}

/// The best setting of a filter for an image, by PSNR.
pub(crate) fn best_of(
    kind: FilterKind,
    noisy: &[f64],
    reference: &[f32],
    shape: &[usize],
    range: f64,
) -> Result<limpid_classical::Tuned, Failure> {
    let score = |image: &[f64]| {
        let values: Vec<f32> = image.iter().map(|&v| v as f32).collect();
        Scores::of(&values, reference, shape, range).map_or(f64::NAN, |s| s.psnr)
    };
    tune(kind, noisy, shape, score).map_err(Failure::data)
}

/// A filter's settings in one line.
pub(crate) fn described(filter: &FilterConfig) -> Result<String, Failure> {
    let value = serde_json::to_value(filter).map_err(Failure::run)?;
    let settings = value.as_object().map_or_else(String::new, |map| {
        let shown = map.iter().filter(|(k, _)| *k != "kind");
        shown.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    });
    Ok(format!("{} {settings}", filter.kind().name()))
}

fn kind(name: &str) -> Result<FilterKind, Failure> {
    FilterKind::ALL
        .into_iter()
        .find(|k| k.name() == name)
        .ok_or_else(|| Failure::config(format!("unknown filter `{name}`")))
}

/// Reads a whole image; values that are not finite are refused.
pub(crate) fn read(path: &PathBuf) -> Result<Volume, Failure> {
    let volume = limpid_io::open(path).and_then(|r| r.read()).map_err(Failure::data)?;
    if let Some((count, first)) = volume.nonfinite() {
        return Err(Failure::data(format!("{count} values are not finite, the first at {first:?}"))
            .hint("replace them, or cut the image")
            .file(path));
    }
    Ok(volume)
}
