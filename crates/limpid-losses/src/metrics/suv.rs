//! Standardised uptake values from activity concentrations.

use limpid_kernels::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The time that the activity in the image refers to (DICOM `DecayCorrection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecayReference {
    /// Start of the scan (`START`): the dose decays until then.
    Start,
    /// Administration (`ADMIN`): the dose counts in full.
    Admin,
}

/// What the scanner knows of dose and patient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    /// Body weight in kg.
    pub weight_kg: f64,
    /// Injected activity in Bq, at the time of injection.
    pub dose_bq: f64,
    /// Half-life of the nuclide in s.
    pub half_life_s: f64,
    /// From injection to the start of the scan, in s. Negative times mean wrong headers, usually a
    /// scan past midnight.
    pub delay_s: f64,
    /// The time that the activity in the image refers to.
    pub decay_reference: DecayReference,
}

/// Factor from Bq/ml to SUV by body weight, in g/ml.
///
/// # Errors
/// [`Error::Argument`] naming the quantity that is not physical.
pub fn suv_factor(injection: &Injection) -> Result<f64> {
    const OP: &str = "suv_factor";
    let Injection { weight_kg, dose_bq, half_life_s, delay_s, decay_reference } = *injection;
    for (name, value) in
        [("weight_kg", weight_kg), ("dose_bq", dose_bq), ("half_life_s", half_life_s)]
    {
        if !value.is_finite() || value <= 0.0 {
            return Err(Error::argument(OP, format!("`{name}` must be above 0, got {value}")));
        }
    }
    if !delay_s.is_finite() || delay_s < 0.0 {
        return Err(Error::argument(
            OP,
            format!("`delay_s` must not be negative, got {delay_s}; does the scan cross midnight?"),
        ));
    }
    let remaining = match decay_reference {
        DecayReference::Start => dose_bq * (-delay_s / half_life_s).exp2(),
        DecayReference::Admin => dose_bq,
    };
    Ok(weight_kg * 1000.0 / remaining)
}
