//! Classical filters at their best, to compare with.

use super::Scores;
use crate::Failure;
use limpid_classical::{FilterConfig, FilterKind, Tuned, tune};

/// The filters that reports compare with.
pub(super) const BASELINES: [FilterKind; 4] = [
    FilterKind::Gaussian,
    FilterKind::Median,
    FilterKind::NonLocalMeans,
    FilterKind::TotalVariation,
];

/// The best setting of a filter for images of `shape` one after the other, by their mean PSNR.
///
/// # Errors
/// [`Kind::Data`](crate::Kind::Data) for images that cannot be filtered.
pub fn best_of(
    kind: FilterKind,
    noisy: &[f64],
    reference: &[f32],
    shape: &[usize],
    range: f64,
) -> Result<Tuned, Failure> {
    let score = |images: &[f64]| {
        let values: Vec<f32> = images.iter().map(|&v| v as f32).collect();
        Scores::of(&values, reference, shape, range).map_or(f64::NAN, |s| s.psnr)
    };
    tune(kind, noisy, shape, score).map_err(Failure::data)
}

/// A filter's settings in one line.
///
/// # Errors
/// [`Kind::Run`](crate::Kind::Run) for what JSON cannot say.
pub fn described(filter: &FilterConfig) -> Result<String, Failure> {
    let value = serde_json::to_value(filter).map_err(Failure::run)?;
    let settings = value.as_object().map_or_else(String::new, |map| {
        let shown = map.iter().filter(|(k, _)| *k != "kind");
        shown.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    });
    Ok(format!("{} {settings}", filter.kind().name()))
}
