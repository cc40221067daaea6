//! `grid`: samples to the points of a grid.

use super::{OutputArgs, Preset, ScanArgs, failure, say, seconds, trained};
use crate::output::{SAMPLES, check_place, sample_files, write_gridded};
use crate::recon::{Method, grid};
use limpid_cli::{Failure, HELP, print, report};
use std::path::PathBuf;
use std::time::Instant;

/// Move the samples of a scan to a grid, and write them with weights and maps
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog image-based grid scan.npz gridded.npz
  igrog basic grid scan.h5 gridded.cfl --set coils.compress=12
  igrog recon gridded.npz image.nii.gz --method nearest"
)]
pub struct Args {
    #[command(flatten)]
    scan: ScanArgs,
    /// What to write: `.npz`, or `.cfl` for pairs of BART named NAME_ksp, NAME_trj and so on
    out: PathBuf,
    /// Trained kernels to use instead of those of least squares: a run, the name of runs, or a file
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Grids.
///
/// # Errors
/// If the scan cannot be read, its parts do not go together, or the result cannot be written.
pub fn run(args: &Args, preset: Preset) -> Result<(), Failure> {
    args.output.apply()?;
    check_place(&args.out, SAMPLES).map_err(failure)?;
    let loaded = args.scan.load(Some(preset))?;
    let trained = trained(args.model.as_deref())?;
    let prepared = args.scan.prepare(&loaded.value, args.output.quiet, &sample_files(&args.out))?;
    let began = Instant::now();
    let gridded = grid(&prepared, &loaded.value, Method::Igrog, trained).map_err(failure)?;
    let took = began.elapsed().as_secs_f64();
    let files = write_gridded(&args.out, &gridded, &prepared).map_err(failure)?;
    let samples = prepared.scan.len();
    if args.output.json {
        let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
        let coils = prepared.scan.coils;
        let line = serde_json::json!({
            "samples": samples, "coils": coils, "seconds": took, "files": files,
            "findings": gridded.findings,
        });
        return print(format!("{line}\n"));
    }
    if !args.output.quiet {
        say(&gridded.findings);
        let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
        report(format!(
            "{}: {samples} samples of {} coils on the grid in {} → {}",
            args.scan.scan.display(),
            prepared.scan.coils,
            seconds(took),
            names.join(", ")
        ));
    }
    Ok(())
}
