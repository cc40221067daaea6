//! Which network a checkpoint belongs to, told from its keys and shapes.

use crate::guided_unet::keys;
use crate::{
    Architecture, NetworkConfig, Shapes, ddpm_unet, grog_mlp, guided_unet, inception_v3, lpips,
    monai_discriminator, nlayer_discriminator, patch_gan, pixel_discriminator, raft, sr_unet3d,
    vgg19,
};
use limpid_config::Validate;
use std::collections::BTreeMap;

/// The configuration of a network of any sort.
#[derive(Clone, Debug)]
pub enum AnyConfig {
    /// An image-to-image network, which the restoration models can train and run.
    Image(NetworkConfig),
    /// MONAI's diffusion network, which is also given a time step.
    DdpmUnet(ddpm_unet::Config),
    /// The network of implicit GROG, which maps a geometry to an interpolation kernel.
    GrogMlp(grog_mlp::Config),
    /// The U-Net of diffusion models, which is told the noise level.
    GuidedUnet(guided_unet::Config),
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
    /// RAFT, which finds how pixels moved from one image to another.
    Raft(raft::Config),
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
            Self::GrogMlp(c) => c,
            Self::GuidedUnet(c) => c,
            Self::InceptionV3(c) => c,
            Self::Lpips(c) => c,
            Self::MonaiDiscriminator(c) => c,
            Self::NlayerDiscriminator(c) => c,
            Self::PatchGan(c) => c,
            Self::PixelDiscriminator(c) => c,
            Self::Raft(c) => c,
            Self::SrUnet3d(c) => c,
            Self::Vgg19(c) => c,
        }
    }

    /// The entries of a reference checkpoint ([`reference_entries`]) under the names of this very
    /// network, which may know its weights by several.
    #[must_use]
    pub fn own_entries<T>(&self, entries: BTreeMap<String, T>) -> BTreeMap<String, T> {
        let own = |(key, value): (String, T)| Some((self.settings().own_key(&key)?, value));
        entries.into_iter().filter_map(own).collect()
    }

    /// All that the shapes may belong to.
    fn candidates(shapes: &Shapes) -> Vec<Self> {
        let images = NetworkConfig::candidates(shapes).into_iter();
        let others = [
            sound(ddpm_unet::Config::recognise(shapes), Self::DdpmUnet),
            sound(grog_mlp::Config::recognise(shapes), Self::GrogMlp),
            sound(guided_unet::Config::recognise(shapes), Self::GuidedUnet),
            sound(inception_v3::Config::recognise(shapes), Self::InceptionV3),
            sound(lpips::Config::recognise(shapes), Self::Lpips),
            sound(monai_discriminator::Config::recognise(shapes), Self::MonaiDiscriminator),
            sound(nlayer_discriminator::Config::recognise(shapes), Self::NlayerDiscriminator),
            sound(patch_gan::Config::recognise(shapes), Self::PatchGan),
            sound(pixel_discriminator::Config::recognise(shapes), Self::PixelDiscriminator),
            sound(raft::Config::recognise(shapes), Self::Raft),
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
    /// Names and shapes that it expects.
    pub expected: Shapes,
}

/// Networks whose typical keys are in the checkpoint, the best fit first.
///
/// What shapes do not tell (slopes, residual connections) has the reference's default.
#[must_use]
pub fn recognise(shapes: &Shapes) -> Vec<Recognised> {
    // no network has a weight without values, and sizes beside a zero need no bytes in a file
    if shapes.values().any(|s| s.contains(&0)) {
        return Vec::new();
    }
    let own = reference_entries(shapes.clone());
    let mut found: Vec<(usize, Recognised)> = AnyConfig::candidates(&own)
        .into_iter()
        .filter_map(|config| {
            let expected = config.settings().shapes().ok()?;
            let held = config.own_entries(own.clone());
            let wrong = expected.iter().filter(|(k, s)| held.get(*k) != Some(s)).count();
            let extra = held.keys().filter(|k| !expected.contains_key(*k)).count();
            let left_out = own.len() - held.len();
            Some((left_out, Recognised { config, mismatches: wrong + extra, expected }))
        })
        .collect();
    // of two that fit, the one that explains more of the checkpoint
    found.sort_by_key(|(left_out, r)| (r.mismatches, *left_out));
    found.into_iter().map(|(_, r)| r).collect()
}

/// The entries of a reference checkpoint under the names we hold them by, without those that repeat
/// another or hold no weights.
///
/// Besides [`reference_key`] this knows the names of EMDiffuse's networks for TorchScript.
#[must_use]
pub fn reference_entries<T>(entries: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let scripted = entries.keys().any(|k| keys::is_scripted(k));
    let named = |(key, value): (String, T)| {
        let key = reference_key(&key)?;
        Some((if scripted { keys::usual_name(key) } else { key.to_owned() }, value))
    };
    entries.into_iter().filter_map(named).collect()
}

/// The name under which we hold a key of a reference checkpoint; none for keys that repeat another
/// or hold no weights.
///
/// The prefix `denoise_fn.` of a network that was saved within its diffusion process is cut off, and
/// the noise schedule beside it left out.
#[must_use]
pub fn reference_key(key: &str) -> Option<&str> {
    let doubled = key.starts_with("skip_layers.")
        || (key.starts_with("blocks.") && key.contains(".layer."))
        || key.ends_with(".num_batches_tracked")
        || key.ends_with(".relative_position_index")
        || key.ends_with(".attn_mask")
        // RAFT's normalisation of a shortcut, which is stored as `norm3` too
        || (key.starts_with("cnet.layer") && key.contains(".downsample.1."));
    if doubled { None } else { keys::inner_name(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dncnn, dynunet};

    fn shapes(entries: &[(&str, &[usize])]) -> Shapes {
        entries.iter().map(|(k, s)| ((*k).to_owned(), s.to_vec())).collect()
    }

    #[test]
    fn hostile_shapes_are_no_network() {
        let wide: &[usize] = &[1 << 20, 1, 1, 1];
        let thin: &[usize] = &[1, 1, 1, 1];
        let dncnn = [("model.0.weight", wide), ("model.2.weight", thin), ("model.4.weight", thin)];
        assert!(recognise(&shapes(&dncnn)).is_empty());
        let empty: &[usize] = &[1 << 20, 1, 0, 0];
        let edsr = [("conv_first.weight", empty), ("conv_last.weight", &[1, 1, 3, 3])];
        assert!(recognise(&shapes(&edsr)).is_empty());

        let mut unet = dynunet::Config::default().shapes().unwrap();
        assert_eq!(recognise(&unet)[0].mismatches, 0);
        for short in [vec![], vec![7]] {
            unet.insert("downsamples.0.conv1.conv.weight".into(), short);
            assert!(recognise(&unet).iter().all(|r| r.mismatches > 0));
        }
        let table = "params.swinViT.layers1.0.blocks.0.attn.relative_position_bias_table";
        for rows in [1 << 60, usize::MAX] {
            let table_shape = [rows, 3];
            let swin = [(table, &table_shape[..]), ("patch_embed.proj.weight", &[8, 1, 2, 2, 2])];
            let _ = recognise(&shapes(&swin));
        }
    }

    #[test]
    fn expected_names_come_with_the_network() {
        let config = dncnn::Config { width: 4, depth: 3, ..dncnn::Config::default() };
        let found = recognise(&config.shapes().unwrap());
        assert_eq!(found[0].expected, config.shapes().unwrap());
    }
}
