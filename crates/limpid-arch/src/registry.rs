//! Image-to-image networks by name: the configuration that picks one.

use crate::{
    Architecture, ImageArchitecture, Network, Shapes, basic_unet, dncnn, dynunet, nucli_unet,
    swin_unetr, swinir, unetr, vit, vit_autoenc,
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
    /// MONAI's Swin UNETR: a U-Net on the scales of a Swin transformer.
    SwinUnetr(swin_unetr::Config),
    /// SwinIR: a Swin transformer for restoration and super-resolution.
    Swinir(swinir::Config),
    /// MONAI's UNETR: a U-Net decoder on a vision transformer.
    Unetr(unetr::Config),
    /// timm's vision transformer, from image to image.
    Vit(vit::Config),
    /// MONAI's ViTAutoEnc: a vision transformer and transposed convolutions.
    VitAutoenc(vit_autoenc::Config),
}

/// Names of the networks, as `kind` spells them.
pub const KINDS: [&str; 9] = [
    "basic_unet",
    "dncnn",
    "dynunet",
    "nucli_unet",
    "swin_unetr",
    "swinir",
    "unetr",
    "vit",
    "vit_autoenc",
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
            Self::SwinUnetr(c) => c,
            Self::Swinir(c) => c,
            Self::Unetr(c) => c,
            Self::Vit(c) => c,
            Self::VitAutoenc(c) => c,
        }
    }

    /// The configuration of the network whose settings a checkpoint's shapes fit best.
    pub(crate) fn candidates(shapes: &Shapes) -> Vec<Self> {
        let found = [
            basic_unet::Config::recognise(shapes).map(Self::BasicUnet),
            dncnn::Config::recognise(shapes).map(Self::Dncnn),
            dynunet::Config::recognise(shapes).map(Self::Dynunet),
            nucli_unet::Config::recognise(shapes).map(Self::NucliUnet),
            swin_unetr::Config::recognise(shapes).map(Self::SwinUnetr),
            swinir::Config::recognise(shapes).map(Self::Swinir),
            unetr::Config::recognise(shapes).map(Self::Unetr),
            vit::Config::recognise(shapes).map(Self::Vit),
            vit_autoenc::Config::recognise(shapes).map(Self::VitAutoenc),
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
            Self::SwinUnetr(c) => c.validate(at),
            Self::Swinir(c) => c.validate(at),
            Self::Unetr(c) => c.validate(at),
            Self::Vit(c) => c.validate(at),
            Self::VitAutoenc(c) => c.validate(at),
        }
    }
}
