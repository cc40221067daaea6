//! Which network a checkpoint belongs to, told from its keys and shapes.

use crate::{
    Architecture, NetworkConfig, Shapes, inception_v3, lpips, nlayer_discriminator, patch_gan,
    pixel_discriminator, vgg19,
};
use limpid_config::Validate;

/// The configuration of a network of any sort.
#[derive(Clone, Debug)]
pub enum AnyConfig {
    /// An image-to-image network, which the restoration models can train and run.
    Image(NetworkConfig),
    /// Inception-v3, of which the Fréchet inception distance is made.
    InceptionV3(inception_v3::Config),
    /// The features and weights of LPIPS.
    Lpips(lpips::Config),
    /// The PatchGAN discriminator of the CycleGAN and pix2pix code.
    NlayerDiscriminator(nlayer_discriminator::Config),
    /// NectarGAN's PatchGAN discriminator.
    PatchGan(patch_gan::Config),
    /// The PixelGAN discriminator of the CycleGAN and pix2pix code.
    PixelDiscriminator(pixel_discriminator::Config),
    /// VGG-19 for perceptual losses.
    Vgg19(vgg19::Config),
}

impl AnyConfig {
    /// The settings of the network, whichever it is.
    #[must_use]
    pub fn settings(&self) -> &dyn Architecture {
        match self {
            Self::Image(c) => c,
            Self::InceptionV3(c) => c,
            Self::Lpips(c) => c,
            Self::NlayerDiscriminator(c) => c,
            Self::PatchGan(c) => c,
            Self::PixelDiscriminator(c) => c,
            Self::Vgg19(c) => c,
        }
    }

    /// All that the shapes may belong to.
    fn candidates(shapes: &Shapes) -> Vec<Self> {
        let images = NetworkConfig::candidates(shapes).into_iter();
        let mut all: Vec<_> = images.filter_map(|c| sound(c, Self::Image)).collect();
        all.extend(
            [
                inception_v3::Config::recognise(shapes).and_then(|c| sound(c, Self::InceptionV3)),
                lpips::Config::recognise(shapes).and_then(|c| sound(c, Self::Lpips)),
                nlayer_discriminator::Config::recognise(shapes)
                    .and_then(|c| sound(c, Self::NlayerDiscriminator)),
                patch_gan::Config::recognise(shapes).and_then(|c| sound(c, Self::PatchGan)),
                pixel_discriminator::Config::recognise(shapes)
                    .and_then(|c| sound(c, Self::PixelDiscriminator)),
                vgg19::Config::recognise(shapes).and_then(|c| sound(c, Self::Vgg19)),
            ]
            .into_iter()
            .flatten(),
        );
        all
    }
}

/// The configuration as one of any sort, if it can be built.
fn sound<C: Validate>(config: C, sort: impl Fn(C) -> AnyConfig) -> Option<AnyConfig> {
    limpid_config::check(&config).is_empty().then(|| sort(config))
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
            let named =
                |(k, s): (&String, &Vec<usize>)| Some((config.settings().own_key(k)?, s.clone()));
            let held: Shapes = own.iter().filter_map(named).collect();
            let wrong = expected.iter().filter(|(k, s)| held.get(*k) != Some(s)).count();
            let extra = held.keys().filter(|k| !expected.contains_key(*k)).count();
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
