//! `recon`: a scan to an image.

use super::{OutputArgs, Preset, ScanArgs, failure, say, seconds, trained};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::output::{IMAGES, check_place, write_image};
use crate::prepare::Prepared;
use crate::recon::{Method, Reconstruction, reconstruct};
use limpid_cli::{Failure, HELP, interrupt, print, report};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Reconstruct the image of a scan on a grid
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog image-based recon scan.npz image.nii.gz
  igrog image-based recon scan.npz image.png --set geometry.oversamp_grid=1.5
  igrog fieldcorr recon scan.npz image.npy --model runs/fieldcorr"
)]
pub struct Args {
    #[command(flatten)]
    own: Own,
}

/// Reconstruct the image of a scan by a method of your choice, to compare with
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog recon scan.npz image.nii.gz --method nufft
  igrog recon scan.h5 image.png --method grog --set coils.compress=8
  igrog recon scan.npz image.npy --method nufft --set solver.kind=wavelet"
)]
pub struct Baseline {
    #[command(flatten)]
    own: Own,
    /// How
    #[arg(long, value_enum, default_value_t = Method::Igrog)]
    method: Method,
}

#[derive(clap::Args)]
struct Own {
    #[command(flatten)]
    scan: ScanArgs,
    /// Image to write: magnitudes to `.nii.gz`, `.tif`, `.png`; complex numbers to `.npy`, `.npz`, `.cfl`
    out: PathBuf,
    /// Trained kernels to use instead of those of least squares: a run, the name of runs, or a file
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Reconstructs with the kernels of a preset.
///
/// # Errors
/// If the scan cannot be read, its parts do not go together, or the image cannot be written.
pub fn run(args: &Args, preset: Preset) -> Result<(), Failure> {
    args.own.run(Some(preset), Method::Igrog)
}

/// Reconstructs by a method.
///
/// # Errors
/// As [`run`].
pub fn baseline(args: &Baseline) -> Result<(), Failure> {
    args.own.run(None, args.method)
}

impl Own {
    fn run(&self, preset: Option<Preset>, method: Method) -> Result<(), Failure> {
        self.output.apply()?;
        if self.model.is_some() && method != Method::Igrog {
            let failure = Failure::config(format!("`{}` takes no trained kernels", method.name()));
            return Err(failure.hint("`--model` goes with `--method igrog`"));
        }
        check_place(&self.out, IMAGES).map_err(failure)?;
        let loaded = self.scan.load(preset)?;
        let trained = trained(self.model.as_deref())?;
        let prepared =
            self.scan.prepare(&loaded.value, self.output.quiet, std::slice::from_ref(&self.out))?;
        if prepared.scan.matrix.len() == 3 && self.out.extension().is_some_and(|e| e == "png") {
            let failure = Failure::data("a volume cannot be written as .png");
            return Err(failure.hint("write .nii.gz or .tif").file(&self.out));
        }
        let found = watched(&prepared, &loaded.value, method, trained)?;
        let scan = &prepared.scan;
        write_image(&self.out, &found.image, &scan.matrix, scan.voxel_mm.as_deref())
            .map_err(failure)?;
        let truth = scan.truth.as_ref();
        let metrics = truth.map(|truth| Metrics::of(&found.image, truth, &scan.matrix));
        let metrics = metrics.transpose().map_err(failure)?;
        if self.output.json {
            let line = serde_json::json!({
                "method": method.name(), "file": self.out.display().to_string(),
                "gridding": found.gridding, "solving": found.solving,
                "residuals": found.residuals, "metrics": metrics, "findings": found.findings,
            });
            return print(format!("{line}\n"));
        }
        if self.output.quiet {
            return Ok(());
        }
        say(&found.findings);
        let iterations = found.residuals.len();
        let mut line = format!(
            "{} → {}: {} {}, {iterations} iterations {}",
            self.scan.scan.display(),
            self.out.display(),
            if method == Method::Nufft { "planning" } else { "gridding" },
            seconds(found.gridding),
            seconds(found.solving)
        );
        if let Some(residual) = found.residuals.last() {
            line += &format!(", residual {residual:.2e}");
        }
        if let Some(Metrics { nrmse, psnr, .. }) = metrics {
            line += &format!("; against the truth: nrmse {nrmse:.4}, psnr {psnr:.2} dB");
        }
        report(line);
        Ok(())
    }
}

/// Reconstructs until it is done or interrupted.
pub(super) fn watched(
    prepared: &Prepared,
    config: &Config,
    method: Method,
    trained: Option<crate::learn::TrainedKernels>,
) -> Result<Reconstruction, Failure> {
    let interrupt = interrupt::install()?;
    let mut observe = |_, _| match interrupt.requested() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let found = reconstruct(prepared, config, method, trained, &mut observe).map_err(failure)?;
    match interrupt.requested() {
        true => Err(Failure::interrupted("nothing was written")),
        false => Ok(found),
    }
}
