//! What a new run begins with: weights of another model, or of EMDiffuse's own files with their
//! averages and optimizer, of which its programs restore only the first.

use crate::model::published_network;
use candle_core::Tensor;
use limpid_arch::{Architecture, guided_unet};
use limpid_cli::{Failure, find_model};
use limpid_engine::callback::{Callback, Control, Hook};
use limpid_engine::{Error, Result as Done, TrainState};
use limpid_export::Bundle;
use limpid_nn::KeyReport;
use limpid_nn::torch::TorchFile;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Weights to begin with, and what goes with them.
#[derive(Debug, Default)]
pub struct Start {
    weights: BTreeMap<String, Tensor>,
    /// Averages of the weights.
    ema: Option<BTreeMap<String, Tensor>>,
    /// Moments by the number of the parameter.
    adam: BTreeMap<usize, BTreeMap<String, Tensor>>,
    /// What it is, for the user.
    pub said: String,
}

impl Start {
    /// Reads what `named` names, for a network of that configuration. Weights of a second head that
    /// the file lacks stay as they are initially.
    ///
    /// # Errors
    /// There is no such file, or its weights are of another network.
    pub fn open(
        named: &str,
        network: &guided_unet::Config,
        program: &str,
    ) -> Result<Self, Failure> {
        let path = Path::new(named);
        let with = |ending: &str| PathBuf::from(format!("{named}{ending}"));
        let mut start = if with("_Network.pth").is_file() {
            Self::prefix(named, with)?
        } else if path.is_file() && path.extension().is_none_or(|e| e != "safetensors") {
            Self { weights: published_network(path)?.1.weights, ..Self::default() }
        } else {
            let path = find_model(Some(path), program)?;
            let bundle: Bundle<guided_unet::Config> = Bundle::load(&path).map_err(Failure::data)?;
            Self { weights: bundle.weights, ..Self::default() }
        };
        let shapes = network.shapes().map_err(Failure::config)?;
        let report = limpid_nn::compare(&shapes, &start.weights);
        if !fits(&report) {
            return Err(Failure::config(format!(
                "the weights to begin with are of another network\n{report}"
            ))
            .hint("set `network` as it was for them")
            .file(path));
        }
        start.said = format!("begins with {named}");
        if start.ema.is_some() {
            start.said += ", its averages";
        }
        if !start.adam.is_empty() {
            start.said += " and its optimizer";
        }
        Ok(start)
    }

    /// The weights, by reference name.
    #[must_use]
    pub fn weights(&self) -> &BTreeMap<String, Tensor> {
        &self.weights
    }

    /// The three files that EMDiffuse's training writes.
    fn prefix(named: &str, with: impl Fn(&str) -> PathBuf) -> Result<Self, Failure> {
        let weights = published_network(&with("_Network.pth"))?.1.weights;
        let ema = Some(with("_Network_ema.pth")).filter(|path| path.is_file());
        let ema = ema.map(|path| Ok::<_, Failure>(published_network(&path)?.1.weights));
        let state = Some(PathBuf::from(format!("{named}.state"))).filter(|path| path.is_file());
        let adam = match state {
            Some(path) => moments(&TorchFile::open(&path).map_err(Failure::data)?),
            None => BTreeMap::new(),
        };
        Ok(Self { weights, ema: ema.transpose()?, adam, said: String::new() })
    }

    /// Puts everything in its place.
    fn apply(&self, state: &mut TrainState<'_>) -> Done<()> {
        state.model.weights().set(&self.fitting(&self.weights, state))?;
        if let Some(ema) = &mut state.ema {
            let averages = self.ema.as_ref().unwrap_or(&self.weights);
            let mut tensors = ema.tensors();
            for (name, average) in averages {
                if let Some(place) = tensors.get_mut(name) {
                    *place = average.clone();
                }
            }
            let updates = ema.state();
            ema.load(&tensors, &updates)?;
        }
        let Some(group) = state.groups.first_mut().filter(|_| !self.adam.is_empty()) else {
            return Ok(());
        };
        let mut slots = BTreeMap::new();
        for (i, param) in group.params.iter().enumerate() {
            for (slot, tensor) in self.adam.get(&i).into_iter().flatten() {
                if slot != "step" && tensor.dims() != param.shape() {
                    return Err(Error::Setting {
                        message: format!(
                            "the optimizer state has {:?} for parameter {i}, `{}` is {:?}",
                            tensor.dims(),
                            param.name(),
                            param.shape()
                        ),
                        hint: "the .state file is of another network: remove it or rename it"
                            .into(),
                    });
                }
                slots.insert(format!("{}.{slot}", param.name()), tensor.clone());
            }
        }
        Ok(group.optimizer.load_state(&slots)?)
    }

    /// Those tensors that the model has.
    fn fitting(
        &self,
        tensors: &BTreeMap<String, Tensor>,
        state: &TrainState<'_>,
    ) -> BTreeMap<String, Tensor> {
        let params = state.model.weights();
        let known = |name: &&String| params.get(name).is_some();
        tensors.keys().filter(known).map(|n| (n.clone(), tensors[n].clone())).collect()
    }
}

/// Whether the weights lack at most a head for the variance.
fn fits(report: &KeyReport) -> bool {
    report.unexpected.is_empty()
        && report.mismatched.is_empty()
        && report.missing.iter().all(|name| name.starts_with("out_variance."))
}

/// The moments of the first optimizer in a `.state` file, by the number of the parameter.
fn moments(file: &TorchFile) -> BTreeMap<usize, BTreeMap<String, Tensor>> {
    let mut moments = BTreeMap::<usize, BTreeMap<String, Tensor>>::new();
    for (key, tensor) in &file.tensors {
        let place = key.strip_prefix("optimizers.0.state.").and_then(|rest| rest.split_once('.'));
        let Some((number, slot)) = place else { continue };
        if let Ok(number) = number.parse() {
            moments.entry(number).or_default().insert(slot.to_owned(), tensor.clone());
        }
    }
    moments
}

impl Callback for Start {
    fn name(&self) -> &str {
        "start"
    }

    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, _: &mut Control) -> Done<()> {
        if hook == Hook::TrainStarted && state.progress.step == 0 {
            self.apply(state)?;
        }
        Ok(())
    }
}
