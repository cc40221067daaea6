//! `denoise eval`: how good restored images are, as a table, a CSV file and a report.

use crate::model_file::Trained;
use limpid_cli::evaluation::{Evaluation, of_model, positive};
use limpid_cli::{ComputeArgs, Failure, HELP};
use limpid_track::report::Report;
use std::path::PathBuf;

/// Measure restored images against references, and write a report
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  denoise eval restored.tif --input noisy.tif --target clean.tif --data-range 255
  denoise eval restored/ --input noisy/ --target clean/ --data-range 255 --baselines --out eval/"
)]
pub(crate) struct Args {
    /// Restored image, or folder of them
    restored: PathBuf,
    /// What they were restored from: files of the same names, whatever their endings
    #[arg(long, value_name = "PATH")]
    input: PathBuf,
    /// References: files of the same names, whatever their endings
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// Span of valid intensities: 255 for 8-bit images
    #[arg(long, value_name = "RANGE")]
    data_range: f64,
    /// Axes that count as space: 3 measures a stack as a volume, 2 slice by slice [default: 3 for
    /// files with a Z axis]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=3))]
    dims: Option<u8>,
    /// Also run the classical filters, each at its best strength for the image
    #[arg(long)]
    baselines: bool,
    /// The run that restored them, for its curves and configuration
    #[arg(long, value_name = "RUN")]
    model: Option<PathBuf>,
    /// Folder for the report and the table of all images
    #[arg(long, value_name = "DIR", default_value = "eval")]
    out: PathBuf,
    /// Only say what went wrong
    #[arg(short, long)]
    quiet: bool,
    /// Write the scores as JSON to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.compute.apply()?;
    positive(args.data_range)?;
    let about = match args.model.as_deref() {
        Some(named) => {
            let Trained { path, card, params, .. } =
                Trained::open(Some(named), &candle_core::Device::Cpu)?;
            of_model(&path, &card, params.count(), "denoise")
        }
        None => Report::default(),
    };
    Evaluation {
        restored: &args.restored,
        input: &args.input,
        target: &args.target,
        data_range: args.data_range,
        dims: args.dims,
        baselines: args.baselines,
        enlarge: false,
        out: &args.out,
        quiet: args.quiet,
        json: args.json,
    }
    .run(about)
}
