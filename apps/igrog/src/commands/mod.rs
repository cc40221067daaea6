//! The verbs of the program.

pub mod check;
pub mod eval;
pub mod grid;
pub mod inspect;
pub mod recon;
pub mod simulate;
pub mod train;

use crate::config::{Config, Correction};
use crate::error::Error;
use crate::learn::TrainedKernels;
use crate::output::check_apart;
use crate::prepare::Prepared;
use crate::scan::{self, Finding};
use limpid_cli::{ComputeArgs, Failure, RequestArgs, find_model, report};
use limpid_config::{Loaded, load};
use std::path::{Path, PathBuf};

/// A standard configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    text: &'static str,
}

/// Kernels from the calibrated middle of k-space.
pub const BASIC: Preset =
    Preset { name: "basic", text: include_str!("../../../../configs/igrog/basic.toml") };
/// Kernels from what coils see at voxels.
pub const IMAGE_BASED: Preset = Preset {
    name: "image-based",
    text: include_str!("../../../../configs/igrog/image_based.toml"),
};
/// Kernels that also move the phase of a field.
pub const FIELDCORR: Preset =
    Preset { name: "fieldcorr", text: include_str!("../../../../configs/igrog/fieldcorr.toml") };

/// What all verbs take that read a scan.
#[derive(clap::Args)]
pub struct ScanArgs {
    /// Scan: `.npz`, ISMRMRD and other `.h5`, `.mat`, or the samples alone as `.npy` or `.cfl`
    pub scan: PathBuf,
    /// Configuration file on top of the preset
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Seed and keys.
    #[command(flatten)]
    pub request: RequestArgs,
}

impl ScanArgs {
    /// The configuration.
    ///
    /// # Errors
    /// All problems that it has.
    pub fn load(&self, preset: Option<Preset>) -> Result<Loaded<Config>, Failure> {
        let mut request = self.request.request(self.config.clone());
        request.builtin = preset.map(|preset| (preset.name, preset.text));
        Ok(load(&request)?)
    }

    /// The scan, ready to be reconstructed; what is noteworthy is said. `written` are the files that results
    /// go to.
    ///
    /// # Errors
    /// If it cannot be read or prepared.
    pub fn prepare(
        &self,
        config: &Config,
        quiet: bool,
        written: &[PathBuf],
    ) -> Result<Prepared, Failure> {
        let scan = scan::open(&self.scan, &config.scan).map_err(failure)?;
        check_apart(&scan.files, written).map_err(failure)?;
        if config.name == FIELDCORR.name
            && config.field.correct == Correction::Kernels
            && scan.field.is_none()
        {
            return Err(Failure::data("the scan has no field to correct")
                .hint("name it with `scan.field`, or use `igrog image-based`")
                .file(&self.scan));
        }
        if !quiet {
            say(&scan.findings);
        }
        Prepared::new(scan, config).map_err(|e| failure(e).file(&self.scan))
    }
}

/// Says what was found.
pub(crate) fn say(findings: &[Finding]) {
    for finding in findings {
        report(format!("warning: {}", finding.message));
    }
}

/// The trained network that the user named: a run, a file, or the name of runs.
pub(crate) fn trained(named: Option<&Path>) -> Result<Option<TrainedKernels>, Failure> {
    let Some(named) = named else { return Ok(None) };
    let path = find_model(Some(named), "igrog image-based")?;
    TrainedKernels::open(&path).map(Some).map_err(failure)
}

/// An error of this crate as the user sees it.
pub(crate) fn failure(error: Error) -> Failure {
    match error {
        Error::Training(error) => limpid_cli::failure(error),
        other => Failure::data(other),
    }
}

/// What commands share that compute and write a result.
#[derive(clap::Args)]
pub struct OutputArgs {
    /// Only say what went wrong
    #[arg(short, long)]
    pub quiet: bool,
    /// Write what was done as a JSON line to standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl OutputArgs {
    /// Starts the threads.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn apply(&self) -> Result<(), Failure> {
        self.compute.apply().map(drop)
    }
}

/// A count of seconds to read.
pub(crate) fn seconds(s: f64) -> String {
    if s < 0.1 { format!("{:.0} ms", 1e3 * s) } else { format!("{s:.2} s") }
}
