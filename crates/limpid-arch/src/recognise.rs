//! Which network a checkpoint belongs to, told from its keys and shapes.

use crate::guided_unet::keys;
use crate::{Architecture, NetworkConfig, Shapes, grog_mlp, guided_unet, raft};
use limpid_config::Validate;
use std::collections::BTreeMap;

/// The configuration of a network of any sort.
#[derive(Clone, Debug)]
pub enum AnyConfig {
    /// An image-to-image network, which the restoration models can train and run.
    Image(NetworkConfig),
    /// The U-Net of diffusion models, which is told the noise level.
    GuidedUnet(guided_unet::Config),
    /// The network of implicit GROG, which maps a geometry to an interpolation kernel.
    GrogMlp(grog_mlp::Config),
    /// RAFT, which finds how pixels moved from one image to another.
    Raft(raft::Config),
}

impl AnyConfig {
    /// The settings of the network, whichever it is.
    #[must_use]
    pub fn settings(&self) -> &dyn Architecture {
        match self {
            Self::Image(c) => c,
            Self::GuidedUnet(c) => c,
            Self::GrogMlp(c) => c,
            Self::Raft(c) => c,
        }
    }

    /// All that the shapes may belong to.
    fn candidates(shapes: &Shapes) -> Vec<Self> {
        let images = NetworkConfig::candidates(shapes).into_iter();
        let mut found: Vec<Self> = images.filter(valid).map(Self::Image).collect();
        found.extend(guided_unet::Config::recognise(shapes).filter(valid).map(Self::GuidedUnet));
        found.extend(grog_mlp::Config::recognise(shapes).filter(valid).map(Self::GrogMlp));
        found.extend(raft::Config::recognise(shapes).filter(valid).map(Self::Raft));
        found
    }
}

/// Whether a network can be built of the settings.
fn valid(config: &impl Validate) -> bool {
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
    let own = reference_entries(shapes.clone());
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
