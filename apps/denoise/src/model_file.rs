//! Finding and reading the model that a command is to use.

use limpid_arch::{ImageArchitecture, Network, NetworkConfig};
use limpid_cli::Failure;
use limpid_datamodule::normalise::{Normalisation, Normaliser, Normalisers, Transfer};
use limpid_engine::infer::Needs;
use limpid_export::{Bundle, Card};
use limpid_io::DType;
use limpid_kernels::rng::Stream;
use limpid_nn::Params;
use std::path::{Path, PathBuf};

/// A trained network, ready to predict.
pub(crate) struct Trained {
    pub(crate) path: PathBuf,
    pub(crate) card: Card,
    pub(crate) net: Box<dyn Network>,
    pub(crate) params: Params,
    pub(crate) intensities: Intensities,
}

/// How intensities of files become those of the network.
pub(crate) enum Intensities {
    /// As in training.
    OfModel(Normalisers),
    /// From the given range, or else that of the sample type, to 0 and 1; `f32` as it is.
    OfType(Option<(f64, f64)>),
}

impl Intensities {
    /// What it is for a file.
    pub(crate) fn of(&self, path: &Path) -> Result<Normalisers, Failure> {
        let range = match self {
            Self::OfModel(normalisers) => return Ok(normalisers.clone()),
            Self::OfType(Some(range)) => *range,
            Self::OfType(None) => {
                match limpid_io::open(path).map_err(Failure::data)?.info().dtype {
                    DType::U8 => (0.0, 255.0),
                    DType::U16 => (0.0, 65_535.0),
                    DType::F32 | DType::F64 => (0.0, 1.0),
                    other => {
                        return Err(Failure::config(format!(
                            "which values of `{other}` are 0 and 1 to the network is not known"
                        ))
                        .hint("say it with `--range LOW HIGH`")
                        .file(path));
                    }
                }
            }
        };
        let transfer = Transfer::Linear { offset: range.0, scale: range.1 - range.0 };
        let normalisation = Normalisation { channels: vec![transfer] };
        Ok(Normalisers { input: Normaliser::Dataset { normalisation }, target: None })
    }
}

impl Trained {
    /// Reads the model that the user named: a run, a file, the name of runs, or (none) the last run
    /// in `runs/`.
    pub(crate) fn open(named: Option<&Path>) -> Result<Self, Failure> {
        let path = find(named)?;
        let bundle = Bundle::load(&path).map_err(Failure::data)?;
        Self::of(path, bundle)
    }

    /// The network of a model file, with its weights.
    pub(crate) fn of(path: PathBuf, bundle: Bundle) -> Result<Self, Failure> {
        let normalisers =
            serde_json::from_value(bundle.card.normalisation.clone()).map_err(|e| {
                Failure::data(format!("the normalisation of the model cannot be read: {e}"))
                    .hint("the file may come from a newer version")
                    .file(&path)
            })?;
        let params = Params::new();
        let device = candle_core::Device::Cpu;
        let scope = params.scope(Stream::new(0, "init"), candle_core::DType::F32, &device);
        let net = bundle.card.network.build(&scope).map_err(Failure::data)?;
        let report = limpid_nn::compare(&params.shapes(), &bundle.weights);
        if !report.is_match() {
            return Err(Failure::data(format!("the weights do not fit the network\n{report}"))
                .hint("the file is damaged or was put together by hand")
                .file(&path));
        }
        params.set(&bundle.weights).map_err(Failure::data)?;
        let intensities = Intensities::OfModel(normalisers);
        Ok(Self { path, card: bundle.card, net, params, intensities })
    }

    /// What the network asks of its windows.
    pub(crate) fn needs(&self) -> Needs {
        needs(&self.card.network)
    }
}

/// What a network asks of its windows.
pub(crate) fn needs(network: &NetworkConfig) -> Needs {
    Needs {
        channels: network.out_channels(),
        divisor: network.divisor(),
        any_size_from: network.any_size_from(),
        fixed_size: network.fixed_size(),
        receptive_field: network.receptive_field(),
        bytes_per_pixel: network.activation_bytes(),
    }
}

/// The file that the user means.
fn find(named: Option<&Path>) -> Result<PathBuf, Failure> {
    const FILE: &str = "model.safetensors";
    let Some(path) = named else {
        return newest(Path::new("runs"), "").ok_or_else(|| {
            Failure::data("no model: there is no finished training in `runs/`")
                .hint("name one with `--model RUN`, or train one with `denoise train CONFIG`")
        });
    };
    if path.is_file() {
        return Ok(path.to_owned());
    }
    if path.join(FILE).is_file() {
        return Ok(path.join(FILE));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    if path.is_dir() {
        return Err(Failure::data("the run has no model yet")
            .hint("let it train until its first validation")
            .file(path));
    }
    newest(parent, &name).ok_or_else(|| {
        Failure::data("no such model")
            .hint("name a run, a model file, or the name of runs")
            .file(path)
    })
}

/// The model of the run that was worked on last, among those named `NAME-0001` and so on; all runs
/// for an empty name.
fn newest(dir: &Path, name: &str) -> Option<PathBuf> {
    let numbered = |folder: &str| {
        let number = folder.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        name.is_empty()
            || number.is_some_and(|n| n.len() >= 4 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(numbered))
        .map(|entry| entry.path().join("model.safetensors"))
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
}
