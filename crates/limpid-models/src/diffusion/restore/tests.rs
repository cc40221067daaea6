//! What a restoration does not depend on (windows, regions, batches, threads), with a network that
//! sees single pixels; and how little it does with one that sees its window.

use super::*;
use crate::diffusion::model::redraw;
use crate::diffusion::testing::Exact;
use crate::diffusion::{
    Degraded, Input, LevelsConfig, Parametrisation, Restorer, Weighting, places,
};
use candle_core::DType;
use limpid_arch::guided_unet::GuidedUnet;
use limpid_engine::infer::{Collect, InMemory, Inferencer};
use limpid_kernels::rng::Stream;
use limpid_losses::metrics::{Image, seam};
use limpid_nn::{Ctx, Params};

const EXACT: Exact = Exact { variance: 0.04 };
const NEEDS: NetNeeds = NetNeeds { divisor: 8, bytes_per_pixel: 1000 };

/// A smooth image in 0…1 with noise.
fn image(channels: usize, [height, width]: [usize; 2]) -> InMemory {
    let mut noise = vec![0f32; channels * height * width];
    Stream::new(4, "restore").fill_normal(&mut noise);
    let value = |(i, noise): (usize, f32)| {
        let (y, x) = (i / width % height, i % width);
        0.5 + 0.25 * (y as f32 / 9.0).sin() * (x as f32 / 13.0).cos() + 0.05 * noise
    };
    let data = noise.into_iter().enumerate().map(value).collect();
    InMemory { shape: vec![channels, height, width], data }
}

fn config(samples: usize, joint: JointConfig) -> RestoreConfig {
    let config = RestoreConfig { samples, joint, ..RestoreConfig::default() };
    assert!(limpid_config::check(&config).is_empty());
    config
}

fn joint(window: usize, batch: usize, region_mib: usize) -> JointConfig {
    JointConfig { window, overlap: window / 4, batch, region_mib }
}

fn restorer<'a>(
    net: &'a dyn NoisePredictor,
    process: &'a ProcessConfig,
    config: &'a RestoreConfig,
) -> ImageRestorer<'a> {
    ImageRestorer { net, needs: NEEDS, process, config, seed: 5, device: Device::Cpu }
}

/// Restores an image through its plan; the evaluations are checked.
fn restored(restorer: &ImageRestorer, image: &InMemory, layers: &[LayerPlace]) -> Vec<f32> {
    let size = [image.shape[1], image.shape[2]];
    let plan = restorer.plan(size, layers.len()).unwrap();
    let inferencer =
        Inferencer { plan: plan.regions.clone(), deviation: false, device: Device::Cpu };
    let mut sink = Collect::default();
    let mut seen = 0;
    let predict = |x: &Tensor, places: &[Vec<isize>]| {
        let at = [places[0][0] as i64, places[0][1] as i64];
        let mut last = (0, 1);
        let y = restorer.region(x, at, 3, layers, &mut |done, of| {
            last = (done, of);
            Ok(())
        })?;
        assert_eq!(last.0, last.1);
        seen += last.0;
        assert_eq!(y.dims()[1], restorer.channels(layers.len()));
        Ok(y)
    };
    inferencer.run_at(image, &mut sink, predict, |_, _| {}).unwrap();
    assert_eq!(seen, plan.evaluations);
    let result = sink.image(size[0], size[0] * size[1]);
    assert_eq!(result.shape, [restorer.channels(layers.len()), size[0], size[1]]);
    result.data
}

/// A network with random weights, asked for clean images.
fn network(layers: bool) -> (GuidedUnet, ProcessConfig, NetNeeds) {
    let config = guided_unet::Config {
        in_channels: if layers { 3 } else { 2 },
        inner_channels: 16,
        channels: vec![16, 32],
        res_blocks: 1,
        heads: guided_unet::Heads::Channels { channels: 16 },
        layer_index: layers,
        ..guided_unet::Config::emdiffuse()
    };
    let params = Params::new();
    let stream = Stream::new(8, "net");
    let net = config.build(&params.scope(stream, DType::F32, &Device::Cpu)).unwrap();
    redraw(&params, stream, &Device::Cpu).unwrap();
    let process = ProcessConfig::Diffusion {
        predict: Parametrisation::Velocity {},
        input: Input::LogSnr,
        weighting: Weighting::Uniform {},
        train: LevelsConfig::default(),
    };
    (net, process, NetNeeds::from(&config))
}

#[test]
fn windows_and_regions_change_nothing_that_sees_single_pixels() {
    let process = ProcessConfig::default();
    // no multiple of the divisor, and too small for the region's memory of 0
    let image = image(1, [70, 93]);
    for sampler in [
        SamplerConfig::DpmSolver { order: 2, stochastic: false },
        SamplerConfig::UniPc { order: 3 },
        SamplerConfig::Ancestral {},
    ] {
        let draw = |joint: JointConfig| {
            let mut config = config(2, joint);
            config.sampling.sampler = sampler;
            config.sampling.grid = GridConfig::LogSnr { steps: 4, start: 0.05, end: 0.999 };
            let restorer = restorer(&EXACT, &process, &config);
            let plan = restorer.plan([70, 93], 0).unwrap();
            (restored(&restorer, &image, &[]), plan.regions.starts.len(), plan.windows.starts.len())
        };
        let (whole, regions, windows) = draw(joint(256, 1, 2048));
        assert_eq!((regions, windows), (1, 1));
        assert!(whole.iter().all(|v| v.is_finite()));
        for (joint, cut, many) in [
            (joint(32, 1, 2048), false, true),
            (joint(64, 3, 2048), false, true),
            (joint(16, 5, 0), true, true),
            (joint(64, 1, 0), true, false),
        ] {
            let (got, regions, windows) = draw(joint.clone());
            assert_eq!((regions > 1, windows > 1), (cut, many), "{joint:?}");
            assert!(got == whole, "{joint:?}, {sampler:?}");
        }
    }
}

#[test]
fn samples_have_the_spread_of_the_truth() {
    let process = ProcessConfig::default();
    let flat = InMemory { shape: vec![1, 48, 40], data: vec![0.6; 48 * 40] };
    let mut config = config(16, joint(32, 4, 2048));
    config.sampling.grid = GridConfig::LogSnr { steps: 40, start: 1e-4, end: 0.9999 };
    config.sampling.start = Start::Noise {};
    config.sampling.clip = None;
    config.quantiles = vec![0.0, 1.0];
    let y = restored(&restorer(&EXACT, &process, &config), &flat, &[]);
    let pixels = 48 * 40;
    let middle = |c: usize| {
        y[c * pixels..(c + 1) * pixels].iter().map(|v| f64::from(*v)).sum::<f64>() / pixels as f64
    };
    // 0.2 in -1…1 is 0.1 in 0…1; the expected range of 16 normal values is 3.532 deviations, and
    // their mean deviation is 1 - 1/(4·16) of the true one
    assert!((middle(0) - 0.6).abs() < 0.002, "{}", middle(0));
    assert!((middle(1) / 0.1 - 0.983).abs() < 0.03, "{}", middle(1));
    assert!(((middle(3) - middle(2)) / 0.1 - 3.532).abs() < 0.1, "{}", middle(3) - middle(2));
    for i in 0..pixels {
        assert!(y[2 * pixels + i] <= y[i] && y[i] <= y[3 * pixels + i]);
    }
}

#[test]
fn threads_change_no_bit_and_batches_the_last() {
    for layers in [false, true] {
        let (net, process, needs) = network(layers);
        let image = image(if layers { 2 } else { 1 }, [37, 50]);
        let places = if layers { places(3, 2, None).unwrap() } else { Vec::new() };
        for window in [64, 32] {
            let draw = |batch| {
                let mut config = config(3, joint(window, batch, 2048));
                config.sampling.grid = GridConfig::LogSnr { steps: 2, start: 0.05, end: 0.999 };
                config.sampling.guide =
                    GuideConfig::LowFrequency { strength: 0.5, scale: 8, until: 1.0 };
                config.layer_noise = LayerNoise::Shared { share: 0.5 };
                let restorer = ImageRestorer { needs, ..restorer(&net, &process, &config) };
                restored(&restorer, &image, &places)
            };
            let one = draw(1);
            // small convolutions are summed in another order where more images go together
            for batch in [2, 3, 4, 100] {
                let many = draw(batch);
                let worst = many.iter().zip(&one).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(worst < 1e-5, "{layers} {window} {batch}: {worst}");
            }
            let four = draw(4);
            for threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert!(pool.install(|| draw(4)) == four, "{layers} {window}, {threads} threads");
            }
        }
    }
}

#[test]
fn layers_are_drawn_as_if_alone() {
    let (net, process, needs) = network(true);
    let (image, all) = (image(2, [24, 32]), places(5, 3, None).unwrap());
    let pixels = 24 * 32;
    let mut config = config(2, joint(64, 1, 2048));
    config.sampling.grid = GridConfig::LogSnr { steps: 2, start: 0.05, end: 0.999 };
    config.quantiles = vec![0.5];
    let restorer = ImageRestorer { needs, ..restorer(&net, &process, &config) };
    let together = restored(&restorer, &image, &all);
    assert_eq!(together.len(), 9 * pixels);
    for (l, layer) in all.iter().enumerate() {
        let alone = restored(&restorer, &image, &[*layer]);
        for statistic in 0..3 {
            let of = |data: &[f32], channel: usize| {
                data[channel * pixels..(channel + 1) * pixels].to_vec()
            };
            assert!(of(&together, statistic * 3 + l) == of(&alone, statistic), "{l} {statistic}");
        }
    }
    assert!(together[..pixels] != together[pixels..2 * pixels]);
}

#[test]
fn an_image_in_one_window_is_drawn_as_by_the_network_alone() {
    let (net, process, needs) = network(false);
    let (image, config) = (image(1, [16, 24]), config(1, JointConfig::default()));
    let joined = ImageRestorer { needs, ..restorer(&net, &process, &config) };
    let got = restored(&joined, &image, &[]);
    let condition = Tensor::from_vec(image.data, (1, 1, 16, 24), &Device::Cpu).unwrap();
    let whole = Restorer { net: &net, process: &process, sampling: &config.sampling };
    let degraded = Degraded { condition: &condition, reference: &condition, layers: None };
    let row = [Row { sample: 0, slice: 3, layer: None }];
    let mut noise =
        |step| NoiseField::new(5).fill(&row, step, [0, 0], [16, 24], &LayerNoise::Independent {});
    let alone = whole.draw(degraded, &mut noise, &Ctx::eval()).unwrap();
    assert!(alone.flatten_all().unwrap().to_vec1::<f32>().unwrap() == got);
}

#[test]
fn what_windows_change_is_small_and_has_no_seams() {
    let (net, process, needs) = network(false);
    let size = [112, 128];
    let image = image(1, size);
    let draw = |joint: JointConfig| {
        let config = config(1, joint);
        let restorer = ImageRestorer { needs, ..restorer(&net, &process, &config) };
        let edges = restorer.plan(size, 0).unwrap().edges();
        (restored(&restorer, &image, &[]), edges)
    };
    let (whole, edges) = draw(joint(256, 4, 2048));
    assert!(edges.iter().all(Vec::is_empty));
    let (tiled, [rows, columns]) = draw(joint(64, 4, 2048));
    assert!(!rows.is_empty() && !columns.is_empty());
    let squares = tiled.iter().zip(&whole).map(|(a, b)| f64::from(a - b).powi(2));
    let difference = (squares.sum::<f64>() / whole.len() as f64).sqrt();
    let score = seam(&Image::new(tiled.as_slice(), &size).unwrap(), &rows, &columns).unwrap();
    // group norms of random weights see the window: this is how much they can do
    assert!(difference < 0.1, "{difference}");
    assert!((score - 1.0).abs() < 0.05, "{score}");
}

#[test]
fn a_guided_region_is_drawn_as_the_whole() {
    let process = ProcessConfig::default();
    let image = image(1, [150, 130]);
    let draw = |region_mib| {
        let mut config = config(1, joint(64, 1, region_mib));
        config.sampling.guide = GuideConfig::LowFrequency { strength: 1.0, scale: 12, until: 1.0 };
        let restorer = restorer(&EXACT, &process, &config);
        let plan = restorer.plan([150, 130], 0).unwrap();
        assert_eq!(plan.regions.starts.len() > 1, region_mib == 0);
        restored(&restorer, &image, &[])
    };
    let (whole, cut) = (draw(2048), draw(0));
    let worst = whole.iter().zip(&cut).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // the means beyond a region are missing, and every step carries that a little further
    assert!(worst > 0.0 && worst < 0.02, "{worst}");
}

#[test]
fn plans_tell_what_is_to_come() {
    let process = ProcessConfig::default();
    let config = config(8, JointConfig { batch: 8, ..JointConfig::default() });
    let restorer = restorer(&EXACT, &process, &config);
    let plan = restorer.plan([1000, 700], 0).unwrap();
    // windows of 256 advance by at most 192
    assert_eq!(plan.windows.starts.len(), 5 * 4);
    assert_eq!((plan.rows, plan.evaluations), (8, 20 * 8 * 10));
    assert_eq!(
        plan.to_string(),
        "1000×700 in 20 windows of 256×256, 8 images to draw, 1600 network evaluations, about 664 MiB"
    );
    let large = restorer.plan([20_000, 20_000], 0).unwrap();
    assert!(large.regions.starts.len() > 1 && large.bytes < 2049 * MIB, "{large}");
    assert!(large.to_string().contains("regions of"), "{large}");
    assert!(restorer.plan([0, 5], 0).is_err());
}

#[test]
fn progress_can_stop() {
    let process = ProcessConfig::default();
    let config = config(2, joint(16, 1, 2048));
    let restorer = restorer(&EXACT, &process, &config);
    let condition = Tensor::full(0.5f32, (1, 1, 20, 30), &Device::Cpu).unwrap();
    let mut calls = 0;
    let stopped = restorer.region(&condition, [0, 0], 0, &[], &mut |done, _| {
        calls += 1;
        if done < 5 { Ok(()) } else { Err(limpid_kernels::Error::argument("test", "stop").into()) }
    });
    assert!(stopped.unwrap_err().to_string().contains("stop"));
    assert_eq!(calls, 5);
}

#[test]
fn small_images_come_back_whole() {
    let process = ProcessConfig::default();
    let config = config(1, JointConfig::default());
    for size in [[1, 1], [3, 17], [9, 2]] {
        let got = restored(&restorer(&EXACT, &process, &config), &image(1, size), &[]);
        assert_eq!(got.len(), size[0] * size[1]);
        assert!(got.iter().all(|v| (0.0..=1.0).contains(v)));
    }
}

#[test]
fn the_reference_visits_its_whole_schedule() {
    let process = ProcessConfig::default();
    let config = RestoreConfig::reference(25);
    assert!(limpid_config::check(&config).is_empty());
    let restorer = restorer(&EXACT, &process, &config);
    assert_eq!(restorer.plan([64, 64], 0).unwrap().evaluations, 25);
    // γ of the first level: the product of 1 - β, where β goes from 1e-4 to 0.09
    let gamma: f64 = (0..25).map(|t| 1.0 - 1e-4 - (0.09 - 1e-4) * f64::from(t) / 24.0).product();
    let first = config.sampling.grid.levels(&process).unwrap()[0];
    assert!((first.gamma() / gamma - 1.0).abs() < 1e-6);
    assert_eq!(restored(&restorer, &image(1, [9, 9]), &[]).len(), 81);
}

#[test]
fn nonsense_is_refused() {
    let keys = |config: &RestoreConfig| -> Vec<String> {
        limpid_config::check(config).into_iter().map(|finding| finding.key).collect()
    };
    let config = RestoreConfig {
        samples: 0,
        quantiles: vec![1.5],
        layer_noise: LayerNoise::Shared { share: 2.0 },
        joint: JointConfig { window: 4, overlap: 100, batch: 0, region_mib: usize::MAX },
        ..RestoreConfig::default()
    };
    let expected = [
        "samples",
        "quantiles",
        "layer_noise.share",
        "joint.window",
        "joint.overlap",
        "joint.batch",
        "joint.region_mib",
    ];
    assert_eq!(keys(&config), expected);
    let one = RestoreConfig { quantiles: vec![0.5], ..RestoreConfig::default() };
    assert_eq!(keys(&one), ["quantiles"]);
    let process = ProcessConfig::default();
    let several = Tensor::zeros((2, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let config = RestoreConfig::default();
    let refused =
        restorer(&EXACT, &process, &config).region(&several, [0; 2], 0, &[], &mut |_, _| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("[1, Cc, H, W]"));
}
