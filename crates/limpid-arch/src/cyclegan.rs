//! What the networks of the CycleGAN and pix2pix code have in common: their normalisation, and how
//! they are initialised.
//!
//! Reference: junyanz/pytorch-CycleGAN-and-pix2pix, `models/networks.py` (BSD).

use crate::{Shapes, reference_key};
use limpid_nn::layers::{Norm, NormConfig};
use limpid_nn::{Init, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Normalisation after the convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Batch normalisation with running statistics (pix2pix).
    Batch,
    /// Instance normalisation without parameters (CycleGAN).
    Instance,
    /// None.
    None,
}

impl Normalisation {
    pub(crate) fn layer(self, channels: usize, scope: &Scope) -> Result<Norm> {
        let config = match self {
            Self::Batch => NormConfig::Batch {},
            Self::Instance => NormConfig::Instance { affine: false },
            Self::None => NormConfig::None {},
        };
        Norm::new(config, channels, scope)
    }

    /// Whether the convolutions before it have a bias: of all three, only before the instance
    /// normalisation, where it has no effect.
    pub(crate) fn bias(self) -> bool {
        self == Self::Instance
    }

    /// Which one a checkpoint has behind the convolution `conv` under the key `norm`.
    pub(crate) fn recognise(shapes: &Shapes, conv: &str, norm: &str) -> Self {
        if shapes.contains_key(&format!("{norm}.weight")) {
            Self::Batch
        } else if shapes.contains_key(&format!("{conv}.bias")) {
            Self::Instance
        } else {
            Self::None
        }
    }

    /// Key of a checkpoint under our name. Instance normalisation kept running statistics, which
    /// nothing read, until PyTorch 0.4.
    pub(crate) fn own_key(self, key: &str) -> Option<String> {
        let unread = key.ends_with(".running_mean") || key.ends_with(".running_var");
        let key = reference_key(key)?;
        (self == Self::Batch || !unread).then(|| key.to_owned())
    }
}

/// The scope with the reference's initialisation, `normal` with gain 0.02.
pub(crate) fn initialised(scope: &Scope) -> Scope {
    scope.initialised(|name, shape, _| match (name.ends_with(".bias"), shape.len()) {
        (true, _) => Init::Zeros,
        (false, 1) => Init::Normal { mean: 1.0, std: 0.02 },
        (false, _) => Init::Normal { mean: 0.0, std: 0.02 },
    })
}
