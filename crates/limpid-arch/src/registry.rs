//! Networks by name: the configuration that picks one, and the search for the one that a
//! checkpoint belongs to.

use crate::{ImageToImage, Shapes, basic_unet, dncnn, dynunet, nucli_unet};
use limpid_config::{Check, Validate};
use limpid_nn::{Params, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// MONAI's BasicUNet: five scales, two convolutions each.
    BasicUnet(basic_unet::Config),
    /// DnCNN: plain convolutions, residual.
    Dncnn(dncnn::Config),
    /// MONAI's DynUNet, as nnU-Net configures it.
    Dynunet(dynunet::Config),
    /// nucli-train's U-Net for PET.
    NucliUnet(nucli_unet::Config),
}

/// Names of the networks, as `kind` spells them.
pub const KINDS: [&str; 4] = ["basic_unet", "dncnn", "dynunet", "nucli_unet"];

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::BasicUnet(basic_unet::Config::default())
    }
}

impl NetworkConfig {
    /// Name of the network.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BasicUnet(_) => "basic_unet",
            Self::Dncnn(_) => "dncnn",
            Self::Dynunet(_) => "dynunet",
            Self::NucliUnet(_) => "nucli_unet",
        }
    }

    /// Defines the parameters and returns the network.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn build(&self, scope: &Scope) -> Result<Box<dyn ImageToImage>> {
        Ok(match self {
            Self::BasicUnet(c) => Box::new(basic_unet::BasicUNet::new(c, scope)?),
            Self::Dncnn(c) => Box::new(dncnn::DnCnn::new(c, scope)?),
            Self::Dynunet(c) => Box::new(dynunet::DynUNet::new(c, scope)?),
            Self::NucliUnet(c) => Box::new(nucli_unet::NucliUNet::new(c, scope)?),
        })
    }

    /// Spatial dimensions.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.divisor().len()
    }

    /// Channels of the image it takes.
    #[must_use]
    pub fn in_channels(&self) -> usize {
        match self {
            Self::BasicUnet(c) => c.in_channels,
            Self::Dncnn(c) => c.channels,
            Self::Dynunet(c) => c.in_channels,
            Self::NucliUnet(_) => 1,
        }
    }

    /// Channels of the image it gives.
    #[must_use]
    pub fn out_channels(&self) -> usize {
        match self {
            Self::BasicUnet(c) => c.out_channels,
            Self::Dncnn(c) => c.channels,
            Self::Dynunet(c) => c.out_channels,
            Self::NucliUnet(_) => 1,
        }
    }

    /// Image sizes must be multiples of this, per spatial axis.
    #[must_use]
    pub fn divisor(&self) -> Vec<usize> {
        match self {
            Self::BasicUnet(c) => c.divisor(),
            Self::Dncnn(c) => c.divisor(),
            Self::Dynunet(c) => c.divisor(),
            Self::NucliUnet(c) => c.divisor(),
        }
    }

    /// Pixels that an output pixel depends on, per spatial axis.
    #[must_use]
    pub fn receptive_field(&self) -> Vec<usize> {
        match self {
            Self::BasicUnet(c) => c.receptive_field(),
            Self::Dncnn(c) => c.receptive_field(),
            Self::Dynunet(c) => c.receptive_field(),
            Self::NucliUnet(c) => c.receptive_field(),
        }
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    #[must_use]
    pub fn activation_bytes(&self) -> usize {
        match self {
            Self::BasicUnet(c) => c.activation_bytes(),
            Self::Dncnn(c) => c.activation_bytes(),
            Self::Dynunet(c) => c.activation_bytes(),
            Self::NucliUnet(c) => c.activation_bytes(),
        }
    }

    /// Names and shapes of the parameters and buffers.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn shapes(&self) -> Result<Shapes> {
        let params = Params::new();
        let stream = limpid_kernels::rng::Stream::new(0, "shapes");
        self.build(&params.scope(stream, candle_core::DType::F32, &candle_core::Device::Cpu))?;
        Ok(params.shapes())
    }
}

impl Validate for NetworkConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::BasicUnet(c) => c.validate(at),
            Self::Dncnn(c) => c.validate(at),
            Self::Dynunet(c) => c.validate(at),
            Self::NucliUnet(c) => c.validate(at),
        }
    }
}

/// A network that a checkpoint may belong to.
#[derive(Clone, Debug)]
pub struct Recognised {
    /// Its configuration, as far as shapes tell.
    pub config: NetworkConfig,
    /// Keys that are missing from the checkpoint, left over, or of another shape.
    pub mismatches: usize,
}

/// Networks whose typical keys are in the checkpoint, the best fit first.
///
/// What shapes do not tell (slopes, residual connections) has the reference's default.
#[must_use]
pub fn recognise(shapes: &Shapes) -> Vec<Recognised> {
    let own: Shapes = shapes
        .iter()
        .filter_map(|(k, s)| Some((reference_key(k)?.to_owned(), s.clone())))
        .collect();
    let candidates = [
        basic_unet::Config::recognise(&own).map(NetworkConfig::BasicUnet),
        dncnn::Config::recognise(&own).map(NetworkConfig::Dncnn),
        dynunet::Config::recognise(&own).map(NetworkConfig::Dynunet),
        nucli_unet::Config::recognise(&own).map(NetworkConfig::NucliUnet),
    ];
    let mut found: Vec<Recognised> = candidates
        .into_iter()
        .flatten()
        .filter(|config| limpid_config::check(config).is_empty())
        .filter_map(|config| {
            let expected = config.shapes().ok()?;
            let wrong = expected.iter().filter(|(k, s)| own.get(*k) != Some(s)).count();
            let extra = own.keys().filter(|k| !expected.contains_key(*k)).count();
            Some(Recognised { config, mismatches: wrong + extra })
        })
        .collect();
    found.sort_by_key(|r| r.mismatches);
    found
}

/// The name under which we hold a key of a reference checkpoint; none for keys that repeat another
/// or hold no weights.
#[must_use]
pub fn reference_key(key: &str) -> Option<&str> {
    let doubled = key.starts_with("skip_layers.")
        || (key.starts_with("blocks.") && key.contains(".layer."))
        || key.ends_with(".num_batches_tracked");
    (!doubled).then_some(key)
}
