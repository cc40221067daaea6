//! Models made of weights that others published: the network is told from the file, intensities go
//! by the sample type.

use crate::model_file::{Intensities, Trained, axes};
use candle_core::{DType, Device};
use limpid_arch::{AnyConfig, Architecture, ImageArchitecture, NetworkConfig};
use limpid_cli::{Failure, report};
use limpid_config::{Check, Request, Validate};
use limpid_export::{Card, Published};
use limpid_kernels::rng::Stream;
use limpid_nn::Params;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the user says about the weights.
pub(crate) struct Wishes<'a> {
    /// Settings of the network, as `network.KEY=VALUE`.
    pub(crate) sets: Vec<String>,
    /// Intensities that are 0 and 1 to the network.
    pub(crate) range: Option<(f64, f64)>,
    /// Use the weights although some are missing or left over.
    pub(crate) partial: bool,
    /// Say nothing.
    pub(crate) quiet: bool,
    /// The file.
    pub(crate) path: &'a Path,
}

/// The keys that may be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The network.
    network: NetworkConfig,
}

impl Validate for Settings {
    fn validate(&self, at: &mut Check) {
        at.nested("network", &self.network);
    }
}

/// Builds the network that the weights belong to and fills it.
pub(crate) fn open(wishes: &Wishes<'_>, device: &Device) -> Result<Trained, Failure> {
    let path = wishes.path;
    let Published { weights, network, .. } = Published::open(path).map_err(Failure::data)?;
    let network = settings(network, wishes)?;
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "init"), DType::F32, device);
    let net = network.build(&scope).map_err(Failure::data)?;
    let keys = limpid_nn::compare(&params.shapes(), &weights);
    if !keys.is_match() {
        if !wishes.partial {
            return Err(Failure::data(format!(
                "the weights do not fit the network `{}`\n{keys}",
                network.kind()
            ))
            .hint("set what shapes do not tell with `--set network.KEY=VALUE`, or give `--partial` to use what fits")
            .file(path));
        }
        if !wishes.quiet {
            report(format!("warning: what is missing keeps its initial values\n{keys}"));
        }
    }
    let fitting = weights
        .into_iter()
        .filter(|(k, t)| params.get(k).is_some_and(|p| p.shape() == t.dims()))
        .collect();
    params.set(&fitting).map_err(Failure::data)?;
    if network.scale() != 1 {
        return Err(Failure::config(format!(
            "the network enlarges images {} times; `predict` restores them at their size",
            network.scale()
        ))
        .file(path));
    }
    let name = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    if !wishes.quiet {
        report(format!(
            "{}: network {}, {} parameters",
            path.display(),
            network.kind(),
            params.count()
        ));
    }
    let card = Card::new(&name, &network, axes(&network), serde_json::Value::Null, 1.0, "");
    let intensities = Intensities::OfType(wishes.range);
    let device = device.clone();
    Ok(Trained { path: path.to_owned(), card, net, params, intensities, device })
}

/// The recognised network with the user's settings.
fn settings(found: Option<AnyConfig>, wishes: &Wishes<'_>) -> Result<NetworkConfig, Failure> {
    let named = wishes.sets.iter().any(|s| s.starts_with("network.kind"));
    let network = match found {
        Some(AnyConfig::Image(network)) => network,
        _ if named => NetworkConfig::default(),
        Some(other) => {
            return Err(Failure::data(format!(
                "these are weights of `{}`, which does not restore images by itself",
                other.settings().kind()
            ))
            .hint("`denoise inspect FILE` says more")
            .file(wishes.path));
        }
        None => {
            return Err(Failure::data("no network of ours has these weights")
                .hint("name one with `--set network.kind=\"…\"`; `denoise inspect FILE` lists the names")
                .file(wishes.path));
        }
    };
    let text = toml::to_string(&Settings { network }).map_err(Failure::run)?;
    let request = Request {
        builtin: Some(("the weights' network", &text)),
        sets: wishes.sets.clone(),
        ..Request::default()
    };
    Ok(limpid_config::load::<Settings>(&request)?.value.network)
}
