//! RAFT: how pixels moved from one image to another (Teed & Deng 2020, arXiv:2003.12039). EMDiffuse
//! registers pairs of micrographs with it.
//!
//! Reference: princeton-vl/RAFT (BSD-3-Clause), basic and small.
//!
//! ```text
//! images [N, 3, H, W] → fnet → scalar products of all pixels, at four scales
//! first image → cnet → state, context [N, ·, H/8, W/8]
//! repeat: products around where the flow points, flow → motion; state ← GRU(state, context, motion)
//!         flow ← flow + head(state);   upsample(flow) → [N, 2, H, W]
//! ```

mod net;
pub mod ops;
mod register;
#[cfg(test)]
mod tests;

pub use net::{Flow, Raft};

use crate::{Architecture, Shapes, size_of};
use limpid_config::{Check, Validate};
use limpid_nn::{Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the two published networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// 5.3 million parameters, learnt upsampling.
    #[default]
    Basic,
    /// 1 million parameters, bilinear upsampling.
    Small,
}

impl Model {
    /// Channels of the three scales of an encoder.
    fn widths(self) -> [usize; 3] {
        match self {
            Self::Basic => [64, 96, 128],
            Self::Small => [32, 64, 96],
        }
    }

    /// Channels of the state.
    fn hidden(self) -> usize {
        match self {
            Self::Basic => 128,
            Self::Small => 96,
        }
    }

    /// Channels of the context.
    fn context(self) -> usize {
        match self {
            Self::Basic => 128,
            Self::Small => 64,
        }
    }

    /// How far around a position correlations are looked up.
    fn radius(self) -> usize {
        match self {
            Self::Basic => 4,
            Self::Small => 3,
        }
    }
}

/// Settings of a RAFT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which of the two published networks.
    pub model: Model,
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        size_of(shapes, "update_block.flow_head.conv2.weight", 0).filter(|n| *n == 2)?;
        let sorts = [Model::Basic, Model::Small];
        let width = size_of(shapes, "fnet.conv1.weight", 0)?;
        sorts.into_iter().find(|m| m.widths()[0] == width).map(|model| Self { model })
    }

    /// Defines the parameters and returns the network.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn build(&self, scope: &Scope) -> Result<Raft> {
        Raft::new(self, scope)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "raft"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        self.build(scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, _: &mut Check) {}
}
