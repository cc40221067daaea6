//! Dynamic loss scaling for half precision: the loss is multiplied by a large factor, so that small
//! gradients do not vanish in f16, and divided out before the optimizer.
//!
//! Source: `torch.amp.GradScaler`; Micikevicius et al. 2018.

use limpid_config::{Check, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of dynamic loss scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScalerConfig {
    /// First scale.
    pub initial: f64,
    /// Factor after `growth_interval` good steps.
    pub growth: f64,
    /// Factor after a step with a gradient that is not finite.
    pub backoff: f64,
    /// Good steps between growths.
    pub growth_interval: u64,
}

impl Default for ScalerConfig {
    fn default() -> Self {
        Self { initial: 65536.0, growth: 2.0, backoff: 0.5, growth_interval: 2000 }
    }
}

impl Validate for ScalerConfig {
    fn validate(&self, at: &mut Check) {
        if !(self.initial.is_finite() && self.initial > 0.0) {
            at.problem("initial", format!("must be above 0, got {}", self.initial));
        }
        if !(self.growth.is_finite() && self.growth >= 1.0) {
            at.problem("growth", format!("must be at least 1, got {}", self.growth));
        }
        if !(self.backoff > 0.0 && self.backoff < 1.0) {
            at.problem("backoff", format!("must be between 0 and 1, got {}", self.backoff));
        }
        if self.growth_interval == 0 {
            at.problem("growth_interval", "must be at least 1");
        }
    }
}

/// The scale and what it takes to change it. Serialises whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradScaler {
    config: ScalerConfig,
    scale: f64,
    good_steps: u64,
}

impl GradScaler {
    /// A scaler at its first scale.
    #[must_use]
    pub fn new(config: &ScalerConfig) -> Self {
        Self { config: config.clone(), scale: config.initial, good_steps: 0 }
    }

    /// Factor for the loss of this step, by which its gradients are to be divided.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Adapts the scale after a step. `found_nonfinite`: a gradient was not finite, and the
    /// optimizer must not step.
    pub fn update(&mut self, found_nonfinite: bool) {
        if found_nonfinite {
            self.good_steps = 0;
            // dividing by the scale must stay possible
            let smaller = self.scale * self.config.backoff;
            self.scale = smaller.max(f64::from(f32::MIN_POSITIVE));
            return;
        }
        self.good_steps += 1;
        if self.good_steps == self.config.growth_interval {
            self.good_steps = 0;
            let larger = self.scale * self.config.growth;
            if (larger as f32).is_finite() {
                self.scale = larger;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{load, values};
    use candle_core::DType;

    #[test]
    fn the_scale_and_the_rounding_equal_the_reference() {
        let Some(fixture) = load("engine/amp.safetensors") else { return };
        let config = ScalerConfig { growth_interval: 4, ..ScalerConfig::default() };
        let mut scaler = GradScaler::new(&config);
        let found = values(&fixture["found_inf"]);
        for (found, want) in found.into_iter().zip(values(&fixture["scale_before_step"])) {
            assert_eq!(scaler.scale(), want);
            scaler.update(found != 0.0);
            let json = serde_json::to_string(&scaler).unwrap();
            assert_eq!(serde_json::from_str::<GradScaler>(&json).unwrap(), scaler);
        }
        for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
            let rounded = fixture["f32"].to_dtype(dtype).unwrap();
            let (got, want) = (values(&rounded), values(&fixture[name]));
            assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        }
    }

    #[test]
    fn the_scale_stays_usable() {
        let mut scaler =
            GradScaler::new(&ScalerConfig { growth_interval: 1, ..Default::default() });
        (0..400).for_each(|_| scaler.update(true));
        assert!(scaler.scale() > 0.0 && (1.0 / scaler.scale()).is_finite());
        (0..400).for_each(|_| scaler.update(false));
        assert!((scaler.scale() as f32).is_finite());
    }
}
