//! Which network a checkpoint belongs to, told from its keys and shapes.

use crate::{Architecture, NetworkConfig, Shapes, ddpm_unet, monai_discriminator, sr_unet3d};
use limpid_config::Validate;

/// The configuration of a network of any sort.
#[derive(Clone, Debug)]
pub enum AnyConfig {
    /// An image-to-image network, which the restoration models can train and run.
    Image(NetworkConfig),
    /// MONAI's diffusion network, which is also given a time step.
    DdpmUnet(ddpm_unet::Config),
    /// MONAI's patch discriminator.
    MonaiDiscriminator(monai_discriminator::Config),
    /// 3D-SR-Unet, which is also given a factor.
    SrUnet3d(sr_unet3d::Config),
}

impl AnyConfig {
    /// The settings of the network, whichever it is.
    #[must_use]
    pub fn settings(&self) -> &dyn Architecture {
        match self {
            Self::Image(c) => c,
            Self::DdpmUnet(c) => c,
            Self::MonaiDiscriminator(c) => c,
            Self::SrUnet3d(c) => c,
        }
    }

    /// All that the shapes may belong to.
    fn candidates(shapes: &Shapes) -> Vec<Self> {
        let images = NetworkConfig::candidates(shapes).into_iter();
        let others = [
            ddpm_unet::Config::recognise(shapes).filter(is_valid).map(Self::DdpmUnet),
            monai_discriminator::Config::recognise(shapes)
                .filter(is_valid)
                .map(Self::MonaiDiscriminator),
            sr_unet3d::Config::recognise(shapes).filter(is_valid).map(Self::SrUnet3d),
        ];
        images.filter(is_valid).map(Self::Image).chain(others.into_iter().flatten()).collect()
    }
}

/// Whether a network can be built from a configuration.
fn is_valid(config: &impl Validate) -> bool {
    limpid_config::check(config).is_empty()
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
