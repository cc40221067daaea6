//! `vemdiffuse thin`: an isotropic volume as if its slices lay further apart, to measure with.

use limpid_cli::prediction::{apart, by_type};
use limpid_cli::{ComputeArgs, Failure, report};
use limpid_datamodule::predict::{Input, Output, taken_info};
use limpid_engine::infer::{Slabs as _, Source as _};
use limpid_io::{Axes, Axis, WriteOptions};
use std::path::{Path, PathBuf};

/// What `vemdiffuse thin` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Volume with fine slices
    input: PathBuf,
    /// The volume with few slices to write
    output: PathBuf,
    /// Keep every Z-th slice, from the first on
    #[arg(short, long, value_name = "Z", value_parser = clap::value_parser!(u32).range(2..))]
    z: u32,
    /// Also write all slices from the first to the last that is kept, which restored ones are
    /// compared with
    #[arg(long, value_name = "PATH")]
    truth: Option<PathBuf>,
    /// Axes of the file in its order, slowest first, where it does not say: ZYX
    #[arg(long, value_name = "AXES")]
    axes: Option<Axes>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Writes the kept slices, and those to compare with.
///
/// # Errors
/// The volume cannot be read, has too few slices, or a result cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.compute.apply()?;
    let results: Vec<&Path> =
        std::iter::once(&args.output).chain(&args.truth).map(PathBuf::as_path).collect();
    apart(&args.input, &results)?;
    // values stay in the unit of the file
    let same = by_type(&args.input, Some((0.0, 1.0)))?;
    let input = Input::open(&args.input, 2, args.axes.as_ref(), &same).map_err(Failure::data)?;
    if input.info().axes.as_slice().first() != Some(&Axis::Z) {
        return Err(Failure::data(format!("the axes are {}", input.info().axes))
            .hint("give a volume of slices along Z: ZYX")
            .file(&args.input));
    }
    let z = args.z as usize;
    let (channels, size) = (input.shape()[0], &input.shape()[1..]);
    let kept = input.frames().saturating_sub(1) / z + 1;
    let write = |path: &Path, step: usize, count: usize| {
        let info = taken_info(input.info(), [0, step, count])
            .map_err(|e| Failure::data(e).file(&args.input))?;
        let way_back = input.restored_normalisation(&same);
        let options = WriteOptions::default();
        let mut output = Output::create_with(path, &info, 2, way_back, channels, &options)
            .map_err(Failure::data)?;
        let wrong = |e: limpid_engine::BoxError| Failure::data(e.to_string()).file(&args.input);
        for slice in 0..count {
            let values = input.frame(slice * step).read(&[0, 0], size).map_err(wrong)?;
            output.frame(slice).slab(0, size[0], &values).map_err(wrong)?;
        }
        output.finish().map_err(Failure::data)?;
        report(format!("{}: {:?} ({})", path.display(), info.shape, info.axes));
        Ok::<_, Failure>(())
    };
    if kept < 2 {
        return Err(Failure::data(format!("of {} slices every {z}th is {kept}", input.frames()))
            .hint("give a volume with more slices, or a smaller `--z`")
            .file(&args.input));
    }
    if let Some(truth) = &args.truth {
        write(truth, 1, (kept - 1) * z + 1)?;
    }
    write(&args.output, z, kept)
}
