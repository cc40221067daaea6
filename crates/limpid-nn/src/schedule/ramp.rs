//! A value that goes from one number to another, such as the weight of a loss.
//!
//! Source: ZacharyBork/NectarGAN `scheduling` (Apache-2.0), whose learning rates go the same way.

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a value gets from one number to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RampForm {
    /// By the same difference every time.
    #[default]
    Linear,
    /// By the same factor every time; an end of zero counts as 1e-9.
    Exponential,
}

/// A value that is constant until `start`, goes to another number, and stays there from `end` on.
/// The unit of time is the caller's; values below zero become zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// How it goes.
    #[serde(default)]
    pub form: RampForm,
    /// When it sets off.
    pub start: f64,
    /// When it arrives.
    pub end: f64,
    /// The value until then.
    pub from: f64,
    /// The value from then on.
    pub to: f64,
}

impl Ramp {
    /// The value at a time.
    #[must_use]
    pub fn at(&self, time: f64) -> f64 {
        let part = match self.end > self.start {
            true => ((time - self.start) / (self.end - self.start)).clamp(0.0, 1.0),
            false => f64::from(time >= self.end),
        };
        let nonzero = |v: f64| if v == 0.0 { 1e-9 } else { v };
        let value = match self.form {
            RampForm::Linear => self.from + part * (self.to - self.from),
            RampForm::Exponential => {
                let (from, to) = (nonzero(self.from), nonzero(self.to));
                from * (to / from).powf(part)
            }
        };
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        value.min(high).max(low).max(0.0)
    }
}

impl Validate for Ramp {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [("from", self.from), ("to", self.to)] {
            if !value.is_finite() {
                at.problem(key, format!("must be a finite number, got {value}"));
            }
        }
        if self.form == RampForm::Exponential && (self.from < 0.0 || self.to < 0.0) {
            at.problem("from", "and `to` must not be negative on an exponential way");
        }
        if !(self.start <= self.end) {
            let (start, end) = (self.start, self.end);
            at.problem("end", format!("must not lie before `start`, got {start} to {end}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_arrives_and_stays() {
        let ramp = Ramp { form: RampForm::Linear, start: 2.0, end: 10.0, from: 1.0, to: 0.0 };
        let values = [0.0, 2.0, 3.0, 6.0, 10.0, 99.0].map(|t| ramp.at(t));
        assert_eq!(values, [1.0, 1.0, 0.875, 0.5, 0.0, 0.0]);
        let ramp = Ramp { form: RampForm::Exponential, from: 100.0, to: 1.0, ..ramp };
        assert!((ramp.at(6.0) - 10.0).abs() < 1e-12);
        assert_eq!(ramp.at(11.0), 1.0);
        let zero = Ramp { from: 0.0, to: 10.0, ..ramp };
        assert!((zero.at(0.0) - 1e-9).abs() < 1e-20);
        assert_eq!(zero.at(10.0), 10.0);
        let jump = Ramp { start: 4.0, end: 4.0, ..ramp };
        assert_eq!([3.9, 4.0].map(|t| jump.at(t)), [100.0, 1.0]);
        let below = Ramp { form: RampForm::Linear, from: -1.0, to: 1.0, ..ramp };
        assert_eq!(below.at(0.0), 0.0);
    }

    #[test]
    fn bad_settings_are_reported() {
        let bad =
            Ramp { form: RampForm::Exponential, start: 3.0, end: 1.0, from: -1.0, to: f64::NAN };
        assert_eq!(limpid_config::check(&bad).len(), 3);
    }
}
