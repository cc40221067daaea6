//! Which network a checkpoint belongs to, told from its keys and shapes.

use crate::{
    Architecture, NetworkConfig, Shapes, ddpm_unet, inception_v3, lpips, monai_discriminator,
    nlayer_discriminator, patch_gan, pixel_discriminator, sr_unet3d, vgg19,
};
use limpid_config::Validate;

/// The configuration of a network of any sort.
#[derive(Clone, Debug)]
pub enum AnyConfig {
    /// An image-to-image network, which the restoration models can train and run.
    Image(NetworkConfig),
    /// MONAI's diffusion network, which is also given a time step.
    DdpmUnet(ddpm_unet::Config),
    /// Inception-v3, of which the Fréchet inception distance is made.
    InceptionV3(inception_v3::Config),
    /// The features and weights of LPIPS.
    Lpips(lpips::Config),
    /// MONAI's patch discriminator.
    MonaiDiscriminator(monai_discriminator::Config),
    /// The PatchGAN discriminator of the CycleGAN and pix2pix code.
    NlayerDiscriminator(nlayer_discriminator::Config),
    /// NectarGAN's PatchGAN discriminator.
    PatchGan(patch_gan::Config),
    /// The PixelGAN discriminator of the CycleGAN and pix2pix code.
    PixelDiscriminator(pixel_discriminator::Config),
    /// 3D-SR-Unet, which is also given a factor.
    SrUnet3d(sr_unet3d::Config),
    /// VGG-19 for perceptual losses.
    Vgg19(vgg19::Config),
}

impl AnyConfig {
    /// The settings of the network, whichever it is.
    #[must_use]
    pub fn settings(&self) -> &dyn Architecture {
        match self {
            Self::Image(c) => c,
            Self::DdpmUnet(c) => c,
            Self::InceptionV3(c) => c,
            Self::Lpips(c) => c,
            Self::MonaiDiscriminator(c) => c,
            Self::NlayerDiscriminator(c) => c,
            Self::PatchGan(c) => c,
            Self::PixelDiscriminator(c) => c,
            Self::SrUnet3d(c) => c,
            Self::Vgg19(c) => c,
        }
    }

    /// All that the shapes may belong to.
    fn candidates(shapes: &Shapes) -> Vec<Self> {
        let images = NetworkConfig::candidates(shapes).into_iter();
        let others = [
            sound(ddpm_unet::Config::recognise(shapes), Self::DdpmUnet),
            sound(inception_v3::Config::recognise(shapes), Self::InceptionV3),
            sound(lpips::Config::recognise(shapes), Self::Lpips),
            sound(monai_discriminator::Config::recognise(shapes), Self::MonaiDiscriminator),
            sound(nlayer_discriminator::Config::recognise(shapes), Self::NlayerDiscriminator),
            sound(patch_gan::Config::recognise(shapes), Self::PatchGan),
            sound(pixel_discriminator::Config::recognise(shapes), Self::PixelDiscriminator),
            sound(sr_unet3d::Config::recognise(shapes), Self::SrUnet3d),
            sound(vgg19::Config::recognise(shapes), Self::Vgg19),
        ];
        images
            .filter_map(|c| sound(Some(c), Self::Image))
            .chain(others.into_iter().flatten())
            .collect()
    }
}

/// A configuration that a network can be built of, as one of any sort.
fn sound<C: Validate>(config: Option<C>, sort: impl Fn(C) -> AnyConfig) -> Option<AnyConfig> {
    config.filter(|c| limpid_config::check(c).is_empty()).map(sort)
}

/// A network that a checkpoint may belong to.
#[derive(Clone, Debug)]
pub struct Recognised {
    /// Its configuration, as far as shapes tell.
    pub config: AnyConfig,
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
    let mut found: Vec<Recognised> = AnyConfig::candidates(&own)
        .into_iter()
        .filter_map(|config| {
            let expected = config.settings().shapes().ok()?;
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
        || key.ends_with(".num_batches_tracked")
        || key.ends_with(".relative_position_index")
        || key.ends_with(".attn_mask");
    (!doubled).then_some(key)
}
