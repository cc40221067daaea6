//! `inspect` of both programs.

use crate::axial::{Axial, Gap};
use crate::model::Trained;
use candle_core::Device;
use limpid_arch::guided_unet;
use limpid_cli::inspect::{InspectArgs, card};
use limpid_cli::{Failure, find_model, print};
use std::fmt::Write as _;
use std::path::Path;

/// Says what a file holds.
///
/// # Errors
/// It cannot be read.
pub fn run(args: &InspectArgs, program: &str) -> Result<(), Failure> {
    args.compute.apply()?; // before anything is computed
    if let Some(axial) = axial(&args.path, program)? {
        let Gap { layers, distance } = axial.gap;
        let text = between(layers, distance);
        return print(card(&axial.card, axial.params.count(), &text));
    }
    args.run::<guided_unet::Config>(program, |path, bundle| {
        let origin = path.display().to_string();
        let Trained { card: of, task, params, .. } =
            Trained::of(origin, Some(path), bundle, &Device::Cpu)?;
        let mut text = String::new();
        let process = serde_json::to_string(&task.process).map_err(Failure::run)?;
        let _ = writeln!(text, "process        {process}");
        if task.scale > 1 {
            let _ = writeln!(text, "scale          {}", task.scale);
        }
        if let Some(layers) = task.layers {
            text += &between(layers, task.gap);
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

/// The model of one pass that a file or run holds.
fn axial(path: &Path, program: &str) -> Result<Option<Axial>, Failure> {
    match find_model(Some(path), program) {
        Ok(file) if file.extension().is_some_and(|e| e == "safetensors") => {
            Axial::open(&file, &Device::Cpu)
        }
        _ => Ok(None), // not a model at all, of which others say what it is
    }
}

/// The line about what is filled in.
fn between(layers: usize, distance: Option<f64>) -> String {
    let gap = distance.map_or(String::new(), |gap| format!(", slices {gap} apart"));
    format!("layers         {layers} between two slices{gap}\n")
}
