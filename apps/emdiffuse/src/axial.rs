//! The 3D-SR-Unet in `vemdiffuse`: layers between slices in one pass, without noise, as EMDiffuse
//! trains it beside its own models.

use crate::config::Config;
use crate::task;
use candle_core::{DType, Device, Tensor};
use limpid_arch::sr_unet3d::{self, SrUNet3d};
use limpid_cli::{Failure, failure, report};
use limpid_datamodule::normalise::Normalisers;
use limpid_datamodule::predict::{Input, LayerSlabs, Outer, Output, layered_info};
use limpid_engine::infer::{Inferencer, Needs, Plan, TileConfig};
use limpid_engine::{Error, Event, Sink};
use limpid_export::{Bundle, Card};
use limpid_io::{Axes, DType as SampleType, WriteOptions};
use limpid_kernels::rng::Stream;
use limpid_models::diffusion::places;
use limpid_models::finer_slices;
use limpid_nn::{Ctx, Params};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where a model file keeps [`Gap`].
pub(crate) const KEY: &str = "axial";

/// Most slices that the network sees at once. More share the cost of the margins, and take memory.
const SEEN: usize = 16;

/// Memory for the layers that one look fills in, in bytes.
const LOOK: usize = 1 << 30;

/// Slices at either end of those seen whose surroundings are missing; what lies between them is
/// left to the next look.
const MARGIN: usize = 2;

/// Pixels that a pixel of the result depends on: twenty convolutions on three levels.
const RECEPTIVE_FIELD: usize = 73;

/// What lies between two slices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Layers.
    pub layers: usize,
    /// Distance of the slices, in the unit of the training files.
    pub distance: Option<f64>,
}

/// A trained 3D-SR-Unet.
pub struct Axial {
    /// Where it comes from.
    pub origin: String,
    /// Its card.
    pub card: Card<sr_unet3d::Config>,
    /// What it fills in.
    pub gap: Gap,
    /// Its parameters.
    pub params: Params,
    net: SrUNet3d,
    normalisers: Normalisers,
    device: Device,
}

/// How a volume is to be restored.
pub struct Wanted<'a> {
    /// Layers between two slices, if not as many as were trained.
    pub layers: Option<usize>,
    /// Sample type of the result, if not that of the input.
    pub dtype: Option<SampleType>,
    /// Axes of the file, where it does not say.
    pub axes: Option<&'a Axes>,
    /// Intensities that are 0 and 1, if not as in training.
    pub range: Option<(f64, f64)>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Say nothing.
    pub quiet: bool,
}

impl Gap {
    /// What a configuration learns to fill in, if its volumes have slices `spacing` apart.
    #[must_use]
    pub fn of(config: &Config, spacing: Option<f64>) -> Self {
        let layers = config.layers().unwrap_or_default();
        Self { layers, distance: spacing.map(|spacing| (layers + 1) as f64 * spacing) }
    }

    /// Writes it into a card.
    ///
    /// # Errors
    /// Never, unless there is a bug: these are numbers.
    pub fn put(&self, card: &mut Card<sr_unet3d::Config>) -> Result<(), Failure> {
        let value = serde_json::to_value(self).map_err(Failure::run)?;
        card.extra.insert(KEY.to_owned(), value);
        Ok(())
    }
}

impl Axial {
    /// The model in a file, if it is one of these.
    ///
    /// # Errors
    /// It is one, and damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Option<Self>, Failure> {
        if !limpid_export::says(path, KEY) {
            return Ok(None);
        }
        let bundle = Bundle::<sr_unet3d::Config>::load(path).map_err(Failure::data)?;
        let Some(gap) = bundle.card.extra.get(KEY) else { return Ok(None) };
        let damaged = |e: &dyn std::fmt::Display| {
            Failure::data(format!("the model cannot be read: {e}"))
                .hint("the file may come from a newer version, or was put together by hand")
                .file(path)
        };
        let gap = serde_json::from_value(gap.clone()).map_err(|e| damaged(&e))?;
        let normalisers =
            serde_json::from_value(bundle.card.normalisation.clone()).map_err(|e| damaged(&e))?;
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "init"), DType::F32, device);
        let net = SrUNet3d::new(&bundle.card.network, &scope).map_err(Failure::data)?;
        let report = limpid_nn::compare(&params.shapes(), &bundle.weights);
        if !report.is_match() {
            return Err(damaged(&report));
        }
        params.set(&bundle.weights).map_err(Failure::data)?;
        let origin = path.display().to_string();
        let device = device.clone();
        Ok(Some(Self { origin, card: bundle.card, gap, params, net, normalisers, device }))
    }

    /// Restores one volume.
    ///
    /// # Errors
    /// It cannot be read, does not fit the model, or the result cannot be written.
    pub fn restore(
        &self,
        input: &Path,
        output: &Path,
        wanted: &Wanted<'_>,
        sink: &mut dyn Sink,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let normalisers = match wanted.range {
            Some(range) => &limpid_cli::prediction::by_type(input, Some(range))?,
            None => &self.normalisers,
        };
        let image = Input::open(input, 2, wanted.axes, normalisers).map_err(Failure::data)?;
        image.pairs().map_err(Failure::data)?; // or it is no volume of slices
        self.check_gap(&image, wanted.layers)?;
        let Gap { layers, .. } = self.gap;
        let mut info = layered_info(image.info(), layers + 1).map_err(Failure::data)?;
        info.dtype = wanted.dtype.unwrap_or(info.dtype);
        let seen = self.seen(&image);
        let plan = self.plan(&image, seen)?;
        let (slices, windows) = (image.slices(), plan.starts.len() as u64);
        let times = image.frames() / slices;
        let looks = looks(slices, seen);
        let total = (times * looks.len()) as u64 * windows;
        if !wanted.quiet {
            report(format!(
                "{} → {}: {:?} ({}), {plan}, {} times",
                input.display(),
                output.display(),
                info.shape,
                info.axes,
                times * looks.len()
            ));
        }
        if wanted.dry_run {
            return Ok(());
        }
        let (way_back, options) =
            (image.restored_normalisation(normalisers), WriteOptions::default());
        let mut result =
            Output::create_with(output, &info, 2, way_back, 1, &options).map_err(Failure::data)?;
        let inferencer = Inferencer { plan, deviation: false, device: self.device.clone() };
        let _no_grad = self.params.no_grad();
        let mut before = 0;
        for (first, pairs) in (0..times).flat_map(|time| {
            looks.iter().map(move |[first, pairs]| (time * (slices - 1) + first, *pairs))
        }) {
            let pair = image.pair(first).map_err(Failure::data)?;
            let source = image.run(first, MARGIN, seen).map_err(Failure::data)?;
            let mut slabs = LayerSlabs::new(&mut result, pair, pairs, layers, Outer::Slices);
            let predict = |x: &Tensor| {
                if stop() {
                    return Err(Error::Data("interrupted".into()));
                }
                self.between(x, source.before, pairs)
            };
            let done = inferencer.run(&source, &mut slabs, predict, |done, _| {
                let task = "restoring".to_owned();
                sink.event(&Event::Progress { task, done: before + done, total });
            });
            if stop() {
                return Err(Failure::interrupted(format!(
                    "stopped; {} was not written",
                    output.display()
                )));
            }
            done.map_err(failure)?;
            before += windows;
        }
        let clipped = result.finish().map_err(Failure::data)?;
        if clipped > 0 && !wanted.quiet {
            let dtype = info.dtype;
            report(format!("{clipped} values were beyond the range of {dtype} and clipped"));
        }
        Ok(())
    }

    /// The layers between the slices of `pairs` pairs, the first of which has `before` slices below.
    fn between(&self, x: &Tensor, before: usize, pairs: usize) -> limpid_engine::Result<Tensor> {
        let (factor, layers) = (self.gap.layers + 1, self.gap.layers);
        let all = finer_slices(&self.net, x, factor, &Ctx::eval())?;
        let layers = (before..before + pairs)
            .map(|pair| all.narrow(1, pair * factor + 1, layers))
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&layers, 1)?)
    }

    /// Refuses slices that lie otherwise than those of the training.
    fn check_gap(&self, image: &Input, layers: Option<usize>) -> Result<(), Failure> {
        let Gap { layers: trained, distance } = self.gap;
        if let Some(layers) = layers.filter(|layers| *layers != trained) {
            return Err(Failure::config(format!(
                "{layers} layers are wanted, the model fills in {trained} between two slices"
            ))
            .hint("leave `--z` out, or use a model that draws layers one by one"));
        }
        let given = task::distance(image.info());
        places(trained, trained, distance.zip(given).map(|(a, b)| [a, b])).map_err(failure)?;
        Ok(())
    }

    /// How many slices are seen at once: so many that their layers fit into memory.
    fn seen(&self, image: &Input) -> usize {
        let pixels: usize = image.shape()[1..].iter().product();
        let pairs = LOOK / (4 * pixels * self.gap.layers).max(1);
        (pairs + 2 * MARGIN + 1).clamp(2 * MARGIN + 2, SEEN).min(image.slices())
    }

    /// The windows of the slices that are seen at once.
    fn plan(&self, image: &Input, seen: usize) -> Result<Plan, Failure> {
        let finest = self.card.network.channels[0];
        let needs = Needs {
            divisor: vec![4; 2],
            any_size_from: None,
            fixed_size: None,
            receptive_field: vec![RECEPTIVE_FIELD; 2],
            // four tensors of the finest level, of four bytes a value
            bytes_per_pixel: 16 * finest * seen * (self.gap.layers + 1),
            channels: seen * self.gap.layers,
        };
        Plan::new(&TileConfig::default(), &needs, &image.shape()[1..]).map_err(failure)
    }
}

/// The looks at a volume of so many slices, of which `seen` are seen at once: the first pair that each
/// fills in, and how many.
fn looks(slices: usize, seen: usize) -> Vec<[usize; 2]> {
    let mut looks = Vec::new();
    let mut first = 0;
    while first + 1 < slices {
        let end = (first.saturating_sub(MARGIN) + seen).min(slices);
        // the slices above the last pair: none are missing at the end of the volume
        let last = if end == slices { end - 1 } else { end - 1 - MARGIN };
        looks.push([first, last - first]);
        first = last;
    }
    looks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_fill_every_gap_once_and_keep_their_distance() {
        let cases = (2..70).flat_map(|slices| [6, 7, SEEN].map(|seen| (slices, seen)));
        for (slices, seen) in cases {
            let mut next = 0;
            for [first, pairs] in looks(slices, seen) {
                assert_eq!(first, next, "{slices}");
                let lowest = first.saturating_sub(MARGIN).min(slices - seen.min(slices));
                let highest = (lowest + seen).min(slices);
                assert!(pairs > 0 && first + pairs < highest, "{slices} {first} {pairs}");
                assert!(highest == slices || first + pairs + MARGIN < highest, "{slices} {first}");
                next = first + pairs;
            }
            assert_eq!(next, slices - 1);
        }
    }
}
