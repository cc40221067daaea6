//! An opened dataset, and how one sample of it is made.

use super::{DatasetConfig, Scene, SimulatedTarget, View};
use crate::Result;
use crate::augment::AugmentConfig;
use crate::boxes::unflat;
use crate::images::ImageFile;
use crate::noise::{Grid, Realisation};
use crate::normalise::{Normalisation, Statistics};
use crate::sampler::Place;
use limpid_engine::SampleId;
use limpid_kernels::rng::Stream;
use std::collections::HashSet;

/// What the parts of a sample's random stream are for.
mod purpose {
    pub(super) const PARTNER: u64 = 1;
    pub(super) const NOISE: u64 = 2;
    pub(super) const AUGMENT: u64 = 3;
    pub(super) const MASK: u64 = 4;
}

/// The opened files of a dataset and what has been learnt about them.
pub(crate) struct Collection {
    pub(crate) config: DatasetConfig,
    pub(crate) files: Vec<ImageFile>,
    /// One for all files, or one for each.
    pub(crate) input: Vec<Normalisation>,
    /// For targets of another kind; without it that of the input.
    pub(crate) target: Option<Normalisation>,
    /// File values of no and of full signal, for simulated noise.
    pub(crate) range: [f64; 2],
}

/// One sample before it is put into a batch.
pub(crate) struct Sample {
    /// Name, channels, and `[channels, size…]` values.
    pub(crate) tensors: Vec<(&'static str, usize, Vec<f32>)>,
    pub(crate) size: Vec<usize>,
    pub(crate) id: SampleId,
}

/// What decides how a sample is made.
pub(crate) struct Making<'a> {
    /// Size of the sample.
    pub(crate) patch: &'a [usize],
    /// Random numbers of this sample.
    pub(crate) stream: Stream,
    /// Random numbers of the noise of the whole dataset.
    pub(crate) fixed: Stream,
    /// How it is changed; nothing in validation.
    pub(crate) augment: Option<&'a AugmentConfig>,
    /// Number of the sample in its epoch.
    pub(crate) index: u64,
}

impl Collection {
    /// Channels of `input` and of `target`.
    pub(crate) fn channels(&self, scenes: &[Scene]) -> (usize, usize) {
        if let Some(slices) = self.config.slices() {
            return slices;
        }
        let views = scenes.first().map_or(&[][..], |s| &s.views);
        let of = |view: &View| self.files[view.file].channels;
        let input = views.first().map_or(1, of);
        (input, views.get(1).map_or(input, of))
    }

    /// The normalisation of what comes from that file.
    pub(crate) fn input_normalisation(&self, file: usize) -> &Normalisation {
        &self.input[if self.input.len() == 1 { 0 } else { file }]
    }

    /// The sample at a place of a scene.
    pub(crate) fn sample(&self, scene: &Scene, place: &Place, how: &Making<'_>) -> Result<Sample> {
        let training = how.augment.is_some();
        let (input, target) = self.views(scene, training, how.stream.op(purpose::PARTNER));
        let read = |views: &[View]| -> Result<(usize, Vec<f32>)> {
            let (mut channels, mut values) = (0, Vec::new());
            for view in views {
                let file = &self.files[view.file];
                values.extend(file.read(view.frame, &place.start, &place.size)?);
                channels += file.channels;
            }
            Ok((channels, values))
        };
        let first = input[0];
        let file = &self.files[first.file];
        let (channels, values) = read(&input)?;
        let mut images = vec![("input", channels, values)];
        if !target.is_empty() {
            let (channels, values) = read(&target)?;
            images.push(("target", channels, values));
        }
        if let DatasetConfig::Simulated { noise, fixed, target, .. } = &self.config {
            let stream = if training && !fixed {
                how.stream.op(purpose::NOISE)
            } else {
                let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                how.fixed.named(&name).op(first.frame as u64)
            };
            let grid = Grid { image: &file.spatial, start: &place.start, size: &place.size };
            let clean = images[0].2.clone();
            noise.apply(&mut images[0].2, grid, self.range, stream, Realisation::First);
            match target {
                SimulatedTarget::Clean => images.push(("target", file.channels, clean)),
                SimulatedTarget::Noisy => {
                    let mut second = clean.clone();
                    noise.apply(&mut second, grid, self.range, stream, Realisation::Second);
                    images.push(("target", file.channels, second));
                    if !training {
                        images.push(("clean", file.channels, clean));
                    }
                }
            }
        }

        let normal = self.input_normalisation(first.file);
        for (name, channels, data) in &mut images {
            match &self.target {
                Some(target) if *name != "input" => target.apply(data),
                _ => normal.apply(data),
            }
            if place.size != how.patch {
                *data = reflected(data, *channels, &place.size, how.patch);
            }
        }
        if let Some(augment) = how.augment {
            let mut draws = how.stream.op(purpose::AUGMENT).draws();
            let orientation = augment.orientation.draw(how.patch.len(), &mut draws);
            let intensity = augment.draw_intensity(&mut draws);
            for (name, _, data) in &mut images {
                if *name == "input" {
                    augment.blur_some(data, how.patch, &mut draws)?;
                }
                orientation.apply(data, how.patch);
                if *name == "input" || !augment.input_only {
                    intensity.apply(data);
                }
            }
        }
        if let DatasetConfig::Noise2void { mask, .. } = &self.config {
            let (_, channels, input) = &mut images[0];
            let (channels, original) = (*channels, input.clone());
            let mut draws = how.stream.op(purpose::MASK).draws();
            let hidden = mask.hide(input, how.patch, &mut draws);
            images.push(("target", channels, original));
            images.push(("mask", channels, hidden));
        }
        let id = self.id(&first, place, how.index);
        Ok(Sample { tensors: images, size: how.patch.to_vec(), id })
    }

    /// The views that become the input, and those that become the target.
    fn views(&self, scene: &Scene, training: bool, stream: Stream) -> (Vec<View>, Vec<View>) {
        let views = &scene.views;
        if let Some((given, _)) = self.config.slices() {
            return (views[..given].to_vec(), views[given..].to_vec());
        }
        match self.config {
            DatasetConfig::Noise2noise { swap, .. } if training => {
                let mut draws = stream.draws();
                let i = draws.below(views.len() as u64) as usize;
                let j = draws.below(views.len() as u64 - 1) as usize;
                let j = if j >= i { j + 1 } else { j };
                let (a, b) = if swap { (i, j) } else { (i.min(j), i.max(j)) };
                (vec![views[a]], vec![views[b]])
            }
            _ => (views[..1].to_vec(), views.get(1).copied().into_iter().collect()),
        }
    }

    fn id(&self, view: &View, place: &Place, index: u64) -> SampleId {
        let file = &self.files[view.file];
        let leading: Vec<usize> = file.leading().iter().map(|(_, n)| *n).collect();
        let index_of = unflat(view.frame, &leading);
        let mut region: Vec<[usize; 2]> = index_of.into_iter().map(|i| [i, 1]).collect();
        if let Some([first, count]) = region.last_mut() {
            match self.config {
                // the view is that of the upper slice
                DatasetConfig::Layers { layers, .. } => {
                    *count = layers + 2;
                    *first -= layers + 1;
                }
                DatasetConfig::Thinned { layers, slices, .. } => *count = slices * (layers + 1),
                _ => {}
            }
        }
        region.extend(place.start.iter().zip(&place.size).map(|(a, b)| [*a, *b]));
        SampleId { file: file.path.display().to_string(), index, region }
    }
}

/// Statistics of one view (by its place in [`Scene::views`]; none: of all) of the scenes, in squares
/// of `bin` pixels.
pub(crate) fn statistics(
    files: &[ImageFile],
    scenes: &[Scene],
    view: Option<usize>,
    bin: usize,
) -> Result<Statistics> {
    let views = |scene: &Scene| match view {
        Some(v) => vec![scene.views[v]],
        None => scene.views.clone(),
    };
    // frames that belong to several scenes count once
    let mut seen = HashSet::new();
    let all = scenes.iter().flat_map(|s| views(s).into_iter().map(move |v| (v, s)));
    let parts: Vec<(View, &Scene)> =
        all.filter(|(view, s)| seen.insert((*view, &s.start, &s.size))).collect();
    let channels = parts.first().map_or(1, |(view, _)| files[view.file].channels);
    let voxels = parts.iter().map(|(_, s)| s.size.iter().product::<usize>()).sum();
    let mut statistics = Statistics::binned(channels, voxels, bin);
    for (view, scene) in parts {
        files[view.file].walk_frame(view.frame, &scene.start, &scene.size, |_, values| {
            statistics.add_image(values, &scene.size);
            Ok(())
        })?;
    }
    Ok(statistics)
}

/// Grows `[channels, from…]` to `[channels, to…]` by mirroring about the border pixels, as often as
/// needed; half of what is added comes before.
fn reflected(data: &[f32], channels: usize, from: &[usize], to: &[usize]) -> Vec<f32> {
    let mut offsets = vec![0];
    for (n, size) in from.iter().zip(to) {
        let before = (size - n) / 2;
        let period = (2 * (n - 1)).max(1);
        let source: Vec<usize> = (0..*size)
            .map(|i| {
                // a multiple of the period keeps it above zero
                let m = (i + period * before - before) % period;
                if m < *n { m } else { period - m }
            })
            .collect();
        offsets = offsets.iter().flat_map(|o| source.iter().map(move |s| o * n + s)).collect();
    }
    let voxels: usize = from.iter().product();
    (0..channels).flat_map(|c| offsets.iter().map(move |o| data[c * voxels + o])).collect()
}
