//! Networks of implicit GROG that a reference program trained: the samples that their kernels grid, and
//! the images of these.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use limpid_arch::grog_mlp::{Config, GrogMlp};
use limpid_arch::{AnyConfig, recognise};
use limpid_kernels::rng::Stream;
use limpid_mri::{Complex, FieldMethod, Geometry};
use limpid_nn::Params;
use serde::Deserialize;

use super::fixture::{Fixture, Outcome, Worst, absolute, relative, text};
use super::mri_data::{Image, Problem, Steps, beside, distance, near, single};
use super::mri_results::{Gridded, IMAGE, geometry, quality};

/// Of gridded samples in f32.
const GRIDDED: f64 = 1e-4;
/// Samples that the network sees at a time.
const BLOCK: usize = 4096;

/// What the network was trained for.
#[derive(Deserialize)]
struct Args {
    variant: String,
    #[serde(rename = "S")]
    sources: usize,
    #[serde(rename = "kw")]
    width: f64,
    #[serde(rename = "os")]
    oversampling: f64,
    #[serde(rename = "L")]
    segments: usize,
}

impl Args {
    fn field(&self) -> bool {
        self.variant == "field"
    }

    /// Features of all samples: where sources lie from the target and, if the field is corrected, the time
    /// from the centre of the segment in turns of twice the largest field.
    fn features(&self, problem: &Problem, geometry: &Geometry) -> Result<Tensor, String> {
        let size = self.sources * geometry.rank();
        let offsets: Vec<f32> = geometry.offsets().iter().map(|&d| d as f32).collect();
        let shape = (geometry.len(), size);
        let offsets = Tensor::from_vec(offsets, shape, &Device::Cpu).map_err(text)?;
        if !self.field() {
            return Ok(offsets);
        }
        let turn = 2.0 * problem.field.iter().fold(0.0, |most: f64, b| most.max(b.abs()));
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let times = &problem.times;
        let (low, high) = times.iter().fold(ends, |(low, high), &t| (low.min(t), high.max(t)));
        let width = (high - low) / self.segments as f64;
        let turns = |&t: &f64| {
            let segment = ((t - low) / width).floor().min(self.segments as f64 - 1.0);
            ((t - low - width * (segment + 0.5)) * turn) as f32
        };
        let turns: Vec<f32> = times.iter().map(turns).collect();
        let turns = turns.repeat(geometry.len() / times.len());
        let turns = Tensor::from_vec(turns, (geometry.len(), 1), &Device::Cpu).map_err(text)?;
        Tensor::cat(&[offsets, turns], 1).map_err(text)
    }
}

/// The network with the weights of the file.
fn build(fixture: &Fixture, args: &Args, coils: usize) -> Result<GrogMlp, String> {
    let weights = fixture.part("w.");
    let shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let best = recognise(&shapes).into_iter().next().ok_or("no network has these weights")?;
    let AnyConfig::GrogMlp(found) = best.config else {
        return Err(format!("the weights fit {}", best.config.settings().kind()));
    };
    // shapes tell sources and coils only together
    let config = Config { sources: args.sources, coils, ..found };
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "parity"), DType::F32, &Device::Cpu);
    let net = config.build(&scope).map_err(text)?;
    params.set(&weights).map_err(text)?;
    Ok(net)
}

/// Samples moved by the kernels of a network.
fn grid(
    net: &GrogMlp,
    features: &Tensor,
    samples: &[Complex<f32>],
    geometry: &Geometry,
) -> Result<Image, String> {
    let (len, sources) = (geometry.len(), geometry.sources());
    let coils = samples.len() / len;
    let values = geometry.source_values(samples).map_err(text)?;
    let mut out = vec![Complex::default(); samples.len()];
    for first in (0..len).step_by(BLOCK) {
        let count = BLOCK.min(len - first);
        let part = &values[first * sources * coils..][..count * sources * coils];
        let part: Vec<f32> = part.iter().flat_map(|v| [v.re, v.im]).collect();
        let moved = || {
            let part = Tensor::from_vec(part, (count, sources, coils, 2), &Device::Cpu)?;
            let features = features.narrow(0, first, count)?.contiguous()?;
            let moved = net.forward(&features, &part).map_err(candle_core::Error::wrap)?;
            moved.flatten_all()?.to_vec1::<f32>()
        };
        for (i, &[re, im]) in moved().map_err(text)?.as_chunks().0.iter().enumerate() {
            out[i % coils * len + first + i / coils] = Complex::new(re, im);
        }
    }
    Ok(out)
}

/// `<object>_<trajectory>…_mlp`.
pub(super) fn network(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let problem = Problem::load(&beside(&fixture.path, "")?)?;
    let args: Args = fixture.json("args")?;
    let shape = (args.sources, args.width);
    let geometry = geometry(&problem.trajectory, &problem.times, shape, args.oversampling)?;
    let samples = problem.noisy(if args.field() { "ksp_b0_clean" } else { "ksp_clean" })?;
    let net = build(fixture, &args, problem.coils.count)?;
    let features = args.features(&problem, &geometry)?;
    let gridded = Gridded {
        targets: geometry.targets().to_vec(),
        oversampling: args.oversampling,
        samples: grid(&net, &features, &samples, &geometry)?,
    };
    near(&mut worst, "ksp_grid", &gridded.samples, &single(fixture, "ksp_grid")?, GRIDDED);

    // kernels left samples with the phase at the centres of their segments
    let segments = || {
        let segments = || problem.segments(args.segments, FieldMethod::ZeroOrder);
        args.field().then(segments).transpose()
    };
    let error = gridded.error(&problem, segments()?)?;
    let curve: Vec<BTreeMap<String, f64>> = fixture.json("curve")?;
    if let Some(&expected) = curve.last().and_then(|last| last.get("ksp")) {
        worst.compare("curve: ksp", &[error], &[expected], relative(2e-2));
    }
    let image = |iterations| {
        gridded.image(&problem.coils, &problem.weights, segments()?, Steps::plain(iterations))
    };
    let list = fixture.metadata.keys().find(|key| key.starts_with("rec_nrmse_it"));
    let list = list.ok_or("the file does not say after how many iterations its image is")?;
    let counts = list["rec_nrmse_it".len()..].split('_').map(str::parse::<usize>);
    let counts: Vec<usize> = counts.collect::<Result<_, _>>().map_err(text)?;
    let expected: Vec<f64> = fixture.json(list)?;
    for (&iterations, expected) in counts.iter().zip(expected) {
        let got = distance(&image(iterations)?, &problem.truth);
        worst.compare(&format!("nrmse after {iterations}"), &[got], &[expected], absolute(1e-3));
    }
    let image = image(counts.last().copied().unwrap_or_default())?;
    near(&mut worst, "img", &image, &single(fixture, "img")?, IMAGE);
    quality(&mut worst, "img", &image, &problem, &fixture.json("metrics")?)?;
    worst.done()
}
