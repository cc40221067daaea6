//! Image-to-image networks by name: the configuration that picks one.

use crate::{
    Architecture, ImageArchitecture, Network, Shapes, basic_unet, dncnn, dynunet, nucli_unet,
    pix2pix_unet, resnet_generator, unet_generator,
};
use limpid_config::{Check, Validate};
use limpid_nn::{Result, Scope};
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
    /// NectarGAN's U-Net generator.
    Pix2pixUnet(pix2pix_unet::Config),
    /// CycleGAN's residual generator.
    ResnetGenerator(resnet_generator::Config),
    /// The U-Net generator of the pix2pix code.
    UnetGenerator(unet_generator::Config),
}

/// Names of the networks, as `kind` spells them.
pub const KINDS: [&str; 7] = [
    "basic_unet",
    "dncnn",
    "dynunet",
    "nucli_unet",
    "pix2pix_unet",
    "resnet_generator",
    "unet_generator",
];

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::BasicUnet(basic_unet::Config::default())
    }
}

impl NetworkConfig {
    /// The settings of the network, whichever it is.
    fn settings(&self) -> &dyn ImageArchitecture {
        match self {
            Self::BasicUnet(c) => c,
            Self::Dncnn(c) => c,
            Self::Dynunet(c) => c,
            Self::NucliUnet(c) => c,
            Self::Pix2pixUnet(c) => c,
            Self::ResnetGenerator(c) => c,
            Self::UnetGenerator(c) => c,
        }
    }

    /// The configuration of the network whose settings a checkpoint's shapes fit best.
    pub(crate) fn candidates(shapes: &Shapes) -> Vec<Self> {
        let found = [
            basic_unet::Config::recognise(shapes).map(Self::BasicUnet),
            dncnn::Config::recognise(shapes).map(Self::Dncnn),
            dynunet::Config::recognise(shapes).map(Self::Dynunet),
            nucli_unet::Config::recognise(shapes).map(Self::NucliUnet),
            pix2pix_unet::Config::recognise(shapes).map(Self::Pix2pixUnet),
            resnet_generator::Config::recognise(shapes).map(Self::ResnetGenerator),
            unet_generator::Config::recognise(shapes).map(Self::UnetGenerator),
        ];
        found.into_iter().flatten().collect()
    }
}

impl Architecture for NetworkConfig {
    fn kind(&self) -> &'static str {
        self.settings().kind()
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        self.settings().define(scope)
    }

    fn own_key(&self, key: &str) -> Option<String> {
        self.settings().own_key(key)
    }
}

impl ImageArchitecture for NetworkConfig {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        self.settings().build(scope)
    }

    fn in_channels(&self) -> usize {
        self.settings().in_channels()
    }

    fn out_channels(&self) -> usize {
        self.settings().out_channels()
    }

    fn divisor(&self) -> Vec<usize> {
        self.settings().divisor()
    }

    fn receptive_field(&self) -> Vec<usize> {
        self.settings().receptive_field()
    }

    fn activation_bytes(&self) -> usize {
        self.settings().activation_bytes()
    }

    fn scale(&self) -> usize {
        self.settings().scale()
    }

    fn fixed_size(&self) -> Option<Vec<usize>> {
        self.settings().fixed_size()
    }
}

impl Validate for NetworkConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::BasicUnet(c) => c.validate(at),
            Self::Dncnn(c) => c.validate(at),
            Self::Dynunet(c) => c.validate(at),
            Self::NucliUnet(c) => c.validate(at),
            Self::Pix2pixUnet(c) => c.validate(at),
            Self::ResnetGenerator(c) => c.validate(at),
            Self::UnetGenerator(c) => c.validate(at),
        }
    }
}
