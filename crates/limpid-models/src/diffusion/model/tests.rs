//! Losses by hand; validation; initial weights.

use super::*;
use crate::diffusion::{Input, LevelsConfig, Parametrisation, Weighting};
use std::collections::BTreeMap;
use std::sync::Arc;

fn network(layers: bool) -> guided_unet::Config {
    guided_unet::Config {
        in_channels: if layers { 3 } else { 2 },
        inner_channels: 16,
        channels: vec![16, 16],
        res_blocks: 1,
        heads: guided_unet::Heads::Count { down: 1, up: 1 },
        dropout: 0.0,
        layer_index: layers,
        ..guided_unet::Config::emdiffuse()
    }
}

fn diffusion(process: ProcessConfig, layers: bool) -> Diffusion {
    let config = DiffusionConfig { process, ..DiffusionConfig::default() };
    let denoted: Arc<dyn Fn(&mut [f32]) + Send + Sync> = Arc::new(|_| {});
    let measure = Measure { data_range: 1.0, denormalise: denoted, truth: true };
    Diffusion::new(
        &config,
        &network(layers),
        OptimizerConfig::default(),
        ScheduleConfig::default(),
        measure,
        1,
        &Device::Cpu,
    )
    .unwrap()
}

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let init = Init::Uniform { low: 0.0, high: 1.0 };
    init.tensor(shape, Stream::new(seed, "model"), DType::F32, &Device::Cpu).unwrap()
}

fn batch(channels: usize, layers: usize) -> Batch {
    let tensors = BTreeMap::from([
        ("input".to_owned(), random(1, &[2, channels, 8, 8])),
        ("target".to_owned(), random(2, &[2, layers, 8, 8])),
    ]);
    Batch { tensors, ids: Vec::new() }
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// A new network answers zero, since its last layer is zero: the loss is that of the question.
#[test]
fn the_loss_is_the_weighted_square_of_the_question() {
    let batch = batch(1, 1);
    let clean: Vec<f64> =
        numbers(batch.get("target").unwrap()).iter().map(|v| 2.0 * v - 1.0).collect();
    for (weighting, most) in
        [(Weighting::Uniform {}, f64::NAN), (Weighting::MinSnr { most: 5.0 }, 5.0)]
    {
        let process = ProcessConfig::Diffusion {
            predict: Parametrisation::Velocity {},
            input: Input::Gamma,
            weighting,
            train: LevelsConfig::default(),
        };
        let model = diffusion(process, false);
        let draws = model.draws(&batch, Stream::new(5, "draws")).unwrap();
        let loss = model.loss(&batch, &draws, &Ctx::eval()).unwrap();
        assert!(numbers(&loss.answer).iter().all(|a| *a == 0.0));
        let noise = numbers(&draws.noise);
        let mut want = 0.0;
        for (i, at) in draws.levels.iter().enumerate() {
            let snr = (at.clean / at.noise).powi(2);
            // the squared error of x0 counts min(SNR, 5); that of v is larger by SNR + 1
            let weight = if most.is_nan() { 1.0 } else { snr.min(most) / (snr + 1.0) };
            for j in i * 64..(i + 1) * 64 {
                want += weight * (at.clean * noise[j] - at.noise * clean[j]).powi(2) / 128.0;
            }
        }
        let got = numbers(&loss.value)[0];
        assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
    }
}

#[test]
fn one_layer_of_each_sample_is_learnt() {
    let process = ProcessConfig::Diffusion {
        predict: Parametrisation::Clean {},
        input: Input::Gamma,
        weighting: Weighting::Uniform {},
        train: LevelsConfig::default(),
    };
    let model = diffusion(process, true);
    let batch = batch(2, 5);
    let mut draws = model.draws(&batch, Stream::new(5, "draws")).unwrap();
    draws.layers = Some(vec![4, 1]);
    let loss = numbers(&model.loss(&batch, &draws, &Ctx::eval()).unwrap().value)[0];
    let target = numbers(batch.get("target").unwrap());
    let learnt = target[4 * 64..5 * 64].iter().chain(&target[6 * 64..7 * 64]);
    let want = learnt.map(|v| (2.0 * v - 1.0).powi(2)).sum::<f64>() / 128.0;
    assert!((loss / want - 1.0).abs() < 1e-5, "{loss} {want}");
    draws.layers = None;
    assert!(model.loss(&batch, &draws, &Ctx::eval()).is_err());
}

/// What is known is shown as it is and not asked for: of a clean answer of zero, the loss is the square of
/// the clean image where it is unknown, over all pixels.
#[test]
fn what_is_known_is_shown_and_does_not_count() {
    let process = ProcessConfig::Diffusion {
        predict: Parametrisation::Clean {},
        input: Input::Gamma,
        weighting: Weighting::Uniform {},
        train: LevelsConfig::default(),
    };
    let model = diffusion(process.clone(), false);
    let batch = batch(1, 1);
    let mask: Vec<f32> = (0..128).map(|i| f32::from(u8::from(i % 3 == 0))).collect();
    let mut draws = model.draws(&batch, Stream::new(5, "draws")).unwrap();
    let whole = Question::new(&process, &batch, &draws).unwrap();
    draws.mask = Some(Tensor::from_vec(mask.clone(), (2, 1, 8, 8), &Device::Cpu).unwrap());
    let clean: Vec<f64> =
        numbers(batch.get("target").unwrap()).iter().map(|v| 2.0 * v - 1.0).collect();
    let question = Question::new(&process, &batch, &draws).unwrap();
    let (seen, noisy) = (numbers(&question.seen), numbers(&whole.seen));
    for i in 0..128 {
        let want = if mask[i] == 1.0 { noisy[i] } else { clean[i] };
        assert!((seen[i] - want).abs() < 1e-6, "{i}");
    }
    let loss = numbers(&model.loss(&batch, &draws, &Ctx::eval()).unwrap().value)[0];
    let unknown = clean.iter().zip(&mask).filter(|(_, m)| **m == 1.0);
    let want = unknown.map(|(c, _)| c * c).sum::<f64>() / 128.0;
    assert!((loss / want - 1.0).abs() < 1e-5, "{loss} {want}");
}

#[test]
fn validation_draws_all_layers_and_always_the_same() {
    let model = diffusion(ProcessConfig::default(), true);
    let mut batch = batch(2, 3);
    let id = |index| limpid_engine::SampleId { file: "a".into(), index, region: Vec::new() };
    batch.ids = vec![id(0), id(1)];
    let scores = model.validation_step(&batch, &Ctx::eval()).unwrap();
    assert!(scores.len() == 2 && scores.iter().all(|s| s["psnr"].is_finite()));
    let again = model.validation_step(&batch, &Ctx::eval()).unwrap();
    assert_eq!(format!("{scores:?}"), format!("{again:?}"));
    assert_eq!(model.pictures(&batch, &Ctx::eval()).unwrap().len(), 1);
    assert!(model.predict(batch.get("input").unwrap(), &Ctx::eval()).is_err());
}

#[test]
fn initial_weights_are_own_or_those_of_the_reference() {
    let own = diffusion(ProcessConfig::default(), false);
    let last = own.params().get("out.2.weight").unwrap().tensor();
    assert!(numbers(&last).iter().all(|w| *w == 0.0));
    redraw(own.params(), Stream::new(1, "redraw"), &Device::Cpu).unwrap();
    let weights = numbers(&own.params().get("input_blocks.0.0.weight").unwrap().tensor());
    let mean = weights.iter().map(|w| w * w).sum::<f64>() / weights.len() as f64;
    // 2 input channels of 3×3
    assert!((mean.sqrt() / (2.0f64 / 18.0).sqrt() - 1.0).abs() < 0.15, "{}", mean.sqrt());
    let last = numbers(&own.params().get("out.2.weight").unwrap().tensor());
    assert!(last.iter().any(|w| *w != 0.0));
    // a convolution of one pixel, over 16 channels
    let qkv = numbers(&own.params().get("middle_block.1.qkv.weight").unwrap().tensor());
    let mean = qkv.iter().map(|w| w * w).sum::<f64>() / qkv.len() as f64;
    assert!((mean.sqrt() / (2.0f64 / 16.0).sqrt() - 1.0).abs() < 0.1, "{}", mean.sqrt());
    for name in ["out.0.weight", "middle_block.1.norm.weight"] {
        let norm = numbers(&own.params().get(name).unwrap().tensor());
        assert!(norm.iter().all(|w| *w == 1.0));
    }
    for name in ["input_blocks.0.0.bias", "cond_embed.0.bias", "middle_block.1.qkv.bias"] {
        let offsets = numbers(&own.params().get(name).unwrap().tensor());
        assert!(offsets.iter().all(|b| *b == 0.0));
    }
}
