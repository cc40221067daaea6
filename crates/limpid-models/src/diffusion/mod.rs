//! Diffusion: how noise is added step by step. Networks and samplers are elsewhere.

mod schedule;

pub use schedule::{BetaConfig, NoiseSchedule, NoiseScheduleConfig};
