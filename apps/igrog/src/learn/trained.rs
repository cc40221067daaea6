//! A trained network as kernels, and its file.

use super::{Phase, features};
use crate::config::{KernelGeometry, Sign};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use limpid_arch::grog_mlp::{self, GrogMlp};
use limpid_export::{Bundle, Card};
use limpid_kernels::rng::Stream;
use limpid_mri::{Complex, Geometry, Kernels};
use limpid_nn::Params;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// Under which key a card says what its kernels are for.
pub const CARD_KEY: &str = "kernels";

/// What the card of a network says beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelsCard {
    /// Where its sources are.
    pub geometry: KernelGeometry,
    /// Dimensions of k-space.
    pub rank: usize,
    /// For networks that move the phase of a field: the hertz that times are measured by.
    pub span: Option<f64>,
    /// The times over which they move it, in turns of that, from the least to the largest.
    pub turns: Option<[f64; 2]>,
    /// Which way the field turned its samples.
    pub sign: Option<Sign>,
}

/// A trained network of kernels.
pub struct TrainedKernels {
    /// What it is for.
    pub card: KernelsCard,
    network: grog_mlp::Config,
    net: GrogMlp,
    parameters: usize,
    phase: Option<Phase>,
}

impl TrainedKernels {
    /// The network of a model file with its weights.
    ///
    /// # Errors
    /// If the file is another model, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let bundle = Bundle::<grog_mlp::Config>::load(path)?;
        Self::of(&bundle).map_err(|e| e.at(path))
    }

    /// The network of a bundle with its weights.
    ///
    /// # Errors
    /// If its card says nothing of kernels, or the weights do not fit.
    pub fn of(bundle: &Bundle<grog_mlp::Config>) -> Result<Self> {
        let Card { network, extra, .. } = &bundle.card;
        let card = extra.get(CARD_KEY).cloned().unwrap_or_default();
        let card: KernelsCard = serde_json::from_value(card).map_err(|e| {
            let message = format!("the card does not say what its kernels are for: {e}");
            Error::scan(message, "the file may come from a newer version; train the network again")
        })?;
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "init"), DType::F32, &Device::Cpu);
        let net = network.build(&scope).map_err(limpid_engine::Error::from)?;
        let report = limpid_nn::compare(&params.shapes(), &bundle.weights);
        if !report.is_match() {
            let message = format!("the weights do not fit the network\n{report}");
            return Err(Error::scan(message, "the file is damaged or was put together by hand"));
        }
        params.set(&bundle.weights).map_err(limpid_engine::Error::from)?;
        let parameters = params.count();
        Ok(Self { card, network: network.clone(), net, parameters, phase: None })
    }

    /// How many numbers were trained.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Coils of its samples.
    #[must_use]
    pub fn coils(&self) -> usize {
        self.network.coils
    }

    /// The same for a phase that is moved, which networks of field correction need.
    ///
    /// # Errors
    /// If the network needs a phase and there is none, or the other way round.
    pub fn with_phase(mut self, phase: Option<Phase>) -> Result<Self> {
        self.phase = match (self.card.span, phase) {
            (Some(span), Some(phase)) => {
                let phase = Phase { span, ..phase };
                let ([low, high], [least, most]) =
                    (phase.range(), self.card.turns.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]));
                if self.card.sign.is_some_and(|sign| sign != phase.sign) {
                    return Err(Error::scan(
                        "the network has learnt a field of the other sign",
                        "use it with the `field.sign` that it was trained with, or train it again",
                    ));
                }
                let slack = 0.05 * (most - least);
                if low < least - slack || high > most + slack {
                    return Err(Error::scan(
                        format!(
                            "phases are to be moved over {low:.2} to {high:.2} turns, the network has learnt {least:.2} \
                             to {most:.2}"
                        ),
                        "use it with the `field.segments`, times and field that it was trained with",
                    ));
                }
                Some(phase)
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error::scan(
                    "the network moves the phase of a field, but none is to be moved",
                    "give the scan a field and set `field.correct = \"kernels\"`, or use another model",
                ));
            }
            (None, Some(_)) => {
                return Err(Error::scan(
                    "the network was trained without a field",
                    "set `field.correct = \"segments\"`, which such kernels go with",
                ));
            }
        };
        Ok(self)
    }
}

impl Kernels<f32> for TrainedKernels {
    fn coils(&self) -> usize {
        self.network.coils
    }

    fn kernels(
        &self,
        geometry: &Geometry,
        block: Range<usize>,
        out: &mut [Complex<f32>],
    ) -> limpid_mri::Result<()> {
        let fail = |problem: String| limpid_mri::Error::Value { op: "network", problem };
        let rows = block.len();
        let own = [geometry.sources(), geometry.rank()];
        if own != [self.network.sources, self.card.rank] {
            return Err(fail(format!(
                "it takes {} sources in {} dimensions, the geometry has {} in {}",
                self.network.sources, self.card.rank, own[0], own[1]
            )));
        }
        let features = features(geometry, self.phase.as_ref(), block);
        let predicted = Tensor::from_vec(features, (rows, self.network.features), &Device::Cpu)
            .map_err(limpid_nn::Error::from)
            .and_then(|features| self.net.kernel(&features))
            .and_then(|kernel| Ok(kernel.flatten_all()?.to_vec1::<f32>()?))
            .map_err(|e| fail(e.to_string()))?;
        if predicted.len() != 2 * out.len() {
            return Err(fail(format!("{} kernels do not fit room for {}", rows, out.len())));
        }
        for (out, [re, im]) in out.iter_mut().zip(predicted.as_chunks().0) {
            *out = Complex::new(*re, *im);
        }
        Ok(())
    }
}
