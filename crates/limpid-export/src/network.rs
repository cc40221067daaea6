//! The configurations of networks that a model card can hold.

use limpid_arch::{AnyConfig, Architecture, NetworkConfig, grog_mlp, guided_unet, sr_unet3d};
use limpid_config::Validate;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The configuration of a network that a card can hold.
pub trait CardNetwork: Architecture + Validate + Clone + Serialize + DeserializeOwned {
    /// What such a network is called where another one was given.
    const WHAT: &'static str;

    /// Whether the configuration of a recognised network is one of these.
    fn is(found: &AnyConfig) -> bool;
}

impl CardNetwork for NetworkConfig {
    const WHAT: &'static str = "an image-to-image network";

    fn is(found: &AnyConfig) -> bool {
        matches!(found, AnyConfig::Image(_))
    }
}

impl CardNetwork for guided_unet::Config {
    const WHAT: &'static str = "the network `guided_unet`";

    fn is(found: &AnyConfig) -> bool {
        matches!(found, AnyConfig::GuidedUnet(_))
    }
}

impl CardNetwork for sr_unet3d::Config {
    const WHAT: &'static str = "the network `sr_unet3d`";

    fn is(found: &AnyConfig) -> bool {
        matches!(found, AnyConfig::SrUnet3d(_))
    }
}

impl CardNetwork for grog_mlp::Config {
    const WHAT: &'static str = "the network `grog_mlp`";

    fn is(found: &AnyConfig) -> bool {
        matches!(found, AnyConfig::GrogMlp(_))
    }
}
