//! `inspect`: what a model, a run or an image holds.

use crate::learn::TrainedKernels;
use limpid_arch::grog_mlp;
use limpid_cli::Failure;
use limpid_cli::inspect::{InspectArgs, card};

/// Says what a file holds.
///
/// # Errors
/// If it cannot be read.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    args.run::<grog_mlp::Config>("igrog", |path, bundle| {
        let trained = TrainedKernels::of(&bundle).map_err(|e| super::failure(e).file(&path))?;
        let geometry = trained.card.geometry;
        let mut text = format!(
            "kernels        {} sources over {} cycles, grid ×{}, {} coils, {} dimensions\n",
            geometry.num_inputs,
            geometry.kern_width,
            geometry.oversamp_grid,
            trained.coils(),
            trained.card.rank
        );
        if let Some(span) = trained.card.span {
            text += &format!("field          up to {:.1} Hz\n", span / 2.0);
        }
        Ok(card(&bundle.card, trained.parameters(), &text))
    })
    .map_err(|failure| {
        let name = args.path.to_string_lossy().to_lowercase();
        let scan = [".npz", ".h5", ".mat", ".cfl", ".npy"].iter().any(|end| name.ends_with(end));
        if !scan || !args.path.is_file() {
            return failure;
        }
        failure.hint(format!("`igrog check {}` says what a scan holds", args.path.display()))
    })
}
