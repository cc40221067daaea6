//! Image-to-image networks by name: the configuration that picks one.

use crate::{
    Architecture, ImageArchitecture, Mixed, Network, Shapes, attention_unet, basic_unet, dncnn,
    drunet, dynunet, edsr, em_unet, ffdnet, nafnet, nucli_unet, pix2pix_unet, resnet_generator,
    restormer, segresnet, srresnet, swin_unetr, swinir, unet, unet_generator, unetr, vit,
    vit_autoenc,
};
use limpid_config::{Check, Validate};
use limpid_nn::{Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// Attention U-Net: skip connections weighted by what the coarser level found.
    AttentionUnet(attention_unet::Config),
    /// MONAI's BasicUNet: five scales, two convolutions each.
    BasicUnet(basic_unet::Config),
    /// DnCNN: plain convolutions, residual.
    Dncnn(dncnn::Config),
    /// DRUNet: U-Net of residual blocks, told the noise level.
    Drunet(drunet::Config),
    /// MONAI's DynUNet, as nnU-Net configures it.
    Dynunet(dynunet::Config),
    /// EDSR: super-resolution by residual blocks, after the intensities are centred.
    Edsr(edsr::Config),
    /// EMDiffuse's plain U-Net.
    EmUnet(em_unet::Config),
    /// FFDNet: plain convolutions at half resolution, told the noise level.
    Ffdnet(ffdnet::Config),
    /// NAFNet: U-Net without activation functions.
    Nafnet(nafnet::Config),
    /// nucli-train's U-Net for PET.
    NucliUnet(nucli_unet::Config),
    /// NectarGAN's U-Net generator.
    Pix2pixUnet(pix2pix_unet::Config),
    /// CycleGAN's residual generator.
    ResnetGenerator(resnet_generator::Config),
    /// Restormer: U-Net of transformer blocks that attend between channels.
    Restormer(restormer::Config),
    /// SegResNet: residual blocks, wide encoder, slim decoder.
    Segresnet(segresnet::Config),
    /// Modified SRResNet: super-resolution by residual blocks.
    Srresnet(srresnet::Config),
    /// MONAI's Swin UNETR: a U-Net on the scales of a Swin transformer.
    SwinUnetr(swin_unetr::Config),
    /// SwinIR: a Swin transformer for restoration and super-resolution.
    Swinir(swinir::Config),
    /// MONAI's UNet, optionally with residual units.
    Unet(unet::Config),
    /// The U-Net generator of the pix2pix code.
    UnetGenerator(unet_generator::Config),
    /// MONAI's UNETR: a U-Net decoder on a vision transformer.
    Unetr(unetr::Config),
    /// timm's vision transformer, from image to image.
    Vit(vit::Config),
    /// MONAI's ViTAutoEnc: a vision transformer and transposed convolutions.
    VitAutoenc(vit_autoenc::Config),
}

/// Names of the networks, as `kind` spells them.
pub const KINDS: [&str; 22] = [
    "attention_unet",
    "basic_unet",
    "dncnn",
    "drunet",
    "dynunet",
    "edsr",
    "em_unet",
    "ffdnet",
    "nafnet",
    "nucli_unet",
    "pix2pix_unet",
    "resnet_generator",
    "restormer",
    "segresnet",
    "srresnet",
    "swin_unetr",
    "swinir",
    "unet",
    "unet_generator",
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
            Self::AttentionUnet(c) => c,
            Self::BasicUnet(c) => c,
            Self::Dncnn(c) => c,
            Self::Drunet(c) => c,
            Self::Dynunet(c) => c,
            Self::Edsr(c) => c,
            Self::EmUnet(c) => c,
            Self::Ffdnet(c) => c,
            Self::Nafnet(c) => c,
            Self::NucliUnet(c) => c,
            Self::Pix2pixUnet(c) => c,
            Self::ResnetGenerator(c) => c,
            Self::Restormer(c) => c,
            Self::Segresnet(c) => c,
            Self::Srresnet(c) => c,
            Self::SwinUnetr(c) => c,
            Self::Swinir(c) => c,
            Self::Unet(c) => c,
            Self::UnetGenerator(c) => c,
            Self::Unetr(c) => c,
            Self::Vit(c) => c,
            Self::VitAutoenc(c) => c,
        }
    }

    /// The configurations, one per network at most, whose typical keys a checkpoint has.
    pub(crate) fn candidates(shapes: &Shapes) -> Vec<Self> {
        let found = [
            attention_unet::Config::recognise(shapes).map(Self::AttentionUnet),
            basic_unet::Config::recognise(shapes).map(Self::BasicUnet),
            dncnn::Config::recognise(shapes).map(Self::Dncnn),
            drunet::Config::recognise(shapes).map(Self::Drunet),
            dynunet::Config::recognise(shapes).map(Self::Dynunet),
            edsr::Config::recognise(shapes).map(Self::Edsr),
            em_unet::Config::recognise(shapes).map(Self::EmUnet),
            ffdnet::Config::recognise(shapes).map(Self::Ffdnet),
            nafnet::Config::recognise(shapes).map(Self::Nafnet),
            nucli_unet::Config::recognise(shapes).map(Self::NucliUnet),
            pix2pix_unet::Config::recognise(shapes).map(Self::Pix2pixUnet),
            resnet_generator::Config::recognise(shapes).map(Self::ResnetGenerator),
            restormer::Config::recognise(shapes).map(Self::Restormer),
            segresnet::Config::recognise(shapes).map(Self::Segresnet),
            srresnet::Config::recognise(shapes).map(Self::Srresnet),
            swin_unetr::Config::recognise(shapes).map(Self::SwinUnetr),
            swinir::Config::recognise(shapes).map(Self::Swinir),
            unet::Config::recognise(shapes).map(Self::Unet),
            unet_generator::Config::recognise(shapes).map(Self::UnetGenerator),
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

    fn own_key(&self, key: &str) -> Option<String> {
        self.settings().own_key(key)
    }
}

impl ImageArchitecture for NetworkConfig {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(Mixed(self.settings().build(scope)?)))
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

    fn any_size_from(&self) -> Option<usize> {
        self.settings().any_size_from()
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
            Self::AttentionUnet(c) => c.validate(at),
            Self::BasicUnet(c) => c.validate(at),
            Self::Dncnn(c) => c.validate(at),
            Self::Drunet(c) => c.validate(at),
            Self::Dynunet(c) => c.validate(at),
            Self::Edsr(c) => c.validate(at),
            Self::EmUnet(c) => c.validate(at),
            Self::Ffdnet(c) => c.validate(at),
            Self::Nafnet(c) => c.validate(at),
            Self::NucliUnet(c) => c.validate(at),
            Self::Pix2pixUnet(c) => c.validate(at),
            Self::ResnetGenerator(c) => c.validate(at),
            Self::Restormer(c) => c.validate(at),
            Self::Segresnet(c) => c.validate(at),
            Self::Srresnet(c) => c.validate(at),
            Self::SwinUnetr(c) => c.validate(at),
            Self::Swinir(c) => c.validate(at),
            Self::Unet(c) => c.validate(at),
            Self::UnetGenerator(c) => c.validate(at),
            Self::Unetr(c) => c.validate(at),
            Self::Vit(c) => c.validate(at),
            Self::VitAutoenc(c) => c.validate(at),
        }
    }
}
