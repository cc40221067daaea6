//! `denoise filter`: classical filters, as baselines and for quick work.

use limpid_classical::{FilterConfig, FilterKind, apply_each};
use limpid_cli::evaluation::{best_of, described, positive, read, space};
use limpid_cli::{ComputeArgs, Failure, HELP, print, report};
use limpid_io::{Data, Volume};
use std::path::{Path, PathBuf};

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
    /// Image to filter; its channels and times are filtered one by one
    input: PathBuf,
    /// Where the result goes; its ending decides the format
    output: PathBuf,
    /// Set a parameter of the filter, such as sigma=1.2; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Axes that count as space: 3 filters a stack as a volume, 2 slice by slice [default: 3 for
    /// files with a Z axis]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=3))]
    dims: Option<u8>,
    /// Find the best strength for this image
    #[arg(long, requires_all = ["target", "data_range"], conflicts_with = "sets")]
    tune: bool,
    /// Reference to tune with
    #[arg(long, value_name = "FILE", requires = "tune")]
    target: Option<PathBuf>,
    /// Span of valid intensities, 255 for 8-bit images
    #[arg(long, value_name = "RANGE", requires = "tune")]
    data_range: Option<f64>,
    #[command(flatten)]
    compute: ComputeArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.compute.apply()?;
    spare(&args.output, std::iter::once(&args.input).chain(&args.target))?;
    let volume = read(&args.input)?;
    let shape = space(&volume.info, args.dims).map_err(|e| e.file(&args.input))?;
    let noisy: Vec<f64> = volume.data.to_f32().into_iter().map(f64::from).collect();
    let result = if let (Some(target), Some(range)) = (&args.target, args.data_range) {
        positive(range)?;
        let reference = read(target)?;
        if reference.info.shape != volume.info.shape {
            let (image, target) = (&volume.info.shape, &reference.info.shape);
            return Err(Failure::data(format!("the image is {image:?}, the target {target:?}"))
                .hint("both must show the same field, pixel by pixel")
                .file(&args.input));
        }
        let best = best_of(kind(&args.filter)?, &noisy, &reference.data.to_f32(), shape, range)?;
        print(format!("{}  psnr {:.2} dB\n", described(&best.filter)?, best.score))?;
        best.image
    } else {
        let mut sets = args.sets.clone();
        sets.push(format!("kind=\"{}\"", args.filter));
        let request = limpid_config::Request { sets, ..limpid_config::Request::default() };
        let filter = limpid_config::load::<FilterConfig>(&request)?.value;
        apply_each(&filter, &noisy, shape).map_err(Failure::config)?
    };
    let values: Vec<f32> = result.into_iter().map(|v| v as f32).collect();
    let dtype = volume.info.dtype;
    let (data, clipped) = Data::from_f32(&values, dtype);
    limpid_io::save(&args.output, &Volume { data, ..volume }).map_err(Failure::data)?;
    if clipped > 0 {
        report(format!("{clipped} values were beyond the range of {dtype} and clipped"));
    }
    Ok(())
}

/// Refuses a result that would replace what it is made from.
fn spare<'a>(output: &Path, sources: impl Iterator<Item = &'a PathBuf>) -> Result<(), Failure> {
    let Ok(place) = output.canonicalize() else { return Ok(()) };
    for source in sources {
        if source.canonicalize().is_ok_and(|s| s == place) {
            return Err(Failure::config("the result would replace an image that is read")
                .hint("choose another name or folder")
                .file(output));
        }
    }
    Ok(())
}

fn kind(name: &str) -> Result<FilterKind, Failure> {
    FilterKind::ALL
        .into_iter()
        .find(|k| k.name() == name)
        .ok_or_else(|| Failure::config(format!("unknown filter `{name}`")))
}
