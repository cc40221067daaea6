//! `inspect` of both programs.

use crate::model::Trained;
use limpid_arch::guided_unet;
use limpid_cli::Failure;
use limpid_cli::inspect::{InspectArgs, card};
use std::fmt::Write as _;

/// Says what a file holds.
///
/// # Errors
/// It cannot be read.
pub fn run(args: &InspectArgs, program: &str) -> Result<(), Failure> {
    args.run::<guided_unet::Config>(program, |path, bundle| {
        let origin = path.display().to_string();
        let Trained { card: of, task, params, .. } = Trained::of(origin, Some(path), bundle)?;
        let mut text = String::new();
        let process = serde_json::to_string(&task.process).map_err(Failure::run)?;
        let _ = writeln!(text, "process        {process}");
        if task.scale > 1 {
            let _ = writeln!(text, "scale          {}", task.scale);
        }
        if let Some(layers) = task.layers {
            let gap = task.gap.map_or(String::new(), |gap| format!(", slices {gap} apart"));
            let _ = writeln!(text, "layers         {layers} between two slices{gap}");
        }
        if let Some(c) = task.calibration {
            let _ = writeln!(
                text,
                "calibration    {:.0} % within {:.2} deviations of {} samples",
                100.0 * c.coverage,
                c.factor,
                c.samples
            );
        }
        Ok(card(&of, params.count(), &text))
    })
}
