//! Diffusion, flow and bridge: a restoration is drawn step by step.
//!
//! Network, process, grid and sampler are apart. A [`ProcessConfig`] says what a state is made of at a
//! [`Level`] and how a clean estimate follows from the network's answer; a [`GridConfig`] which levels
//! are visited; [`sample`] walks them and knows neither network nor image.

mod aleatoric;
mod combine;
mod grid;
mod guide;
mod joint;
mod layers;
mod level;
mod model;
mod noise;
mod process;
mod recorded;
mod restore;
mod sampler;
mod sampling;
mod schedule;
mod statistics;
#[cfg(test)]
mod testing;

pub use aleatoric::{Aleatoric, AleatoricConfig, AleatoricLoss, VarianceHead};
pub use grid::{GridConfig, Start};
pub use guide::{Adjust, GuideConfig, Inpaint, LowFrequency};
pub use joint::{JointConfig, JointDenoiser};
pub use layers::places;
pub use level::{Input, Level, Transition};
pub use model::{Diffusion, DiffusionConfig, DiffusionLoss, Draws, InitConfig};
pub use noise::{LayerNoise, LayerPlace, NoiseField, Row};
pub use process::{LevelsConfig, Parametrisation, ProcessConfig, TimesConfig, Weighting};
pub use recorded::Recorded;
pub use restore::{ImageRestorer, NetNeeds, RestoreConfig, RestorePlan};
pub use sampler::{Guide, SamplerConfig, Step, evaluations, sample};
pub use sampling::{Degraded, Estimator, Restorer, SamplingConfig};
pub use schedule::{BetaConfig, NoiseSchedule, NoiseScheduleConfig};
pub use statistics::statistics;
