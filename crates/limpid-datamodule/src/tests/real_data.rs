//! The same on real files of the formats and axes that users have.

use super::*;
use crate::dataset::RepeatAxis;
use crate::sampler::SamplerConfig;

/// A real image; none, with a printed reason, where it is absent.
#[allow(clippy::print_stderr)]
fn real(name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path.display().to_string())
}

fn normalised(dataset: DatasetConfig) -> DataConfig {
    DataConfig {
        patch: vec![32],
        normalisation: NormalisationConfig::default(),
        validation: ValidationConfig { limit: 2, ..Default::default() },
        ..plain(dataset)
    }
}

/// Correlation of two tensors of the first batch.
fn correlation(data: &Data, a: &str, b: &str) -> f64 {
    let batch = data.train().unwrap().epoch(0, 0).next().unwrap().unwrap();
    let (a, b) = (values(&batch, a), values(&batch, b));
    let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let product = |x: &[f32], mx: f64, y: &[f32], my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (f64::from(*x) - mx) * (f64::from(*y) - my)).sum()
    };
    product(&a, ma, &b, mb) / (product(&a, ma, &a, ma) * product(&b, mb, &b, mb)).sqrt()
}

#[test]
fn repeats_in_a_tiff_stack_and_in_a_nifti_series() {
    let repeats = |name: &str, axis| {
        Some(DatasetConfig::Noise2noise {
            input: real(name)?,
            target: None,
            repeats: Some(axis),
            swap: true,
        })
    };
    if let Some(set) = repeats("em/stem_haadf_pair_2x1024_i16.tif", RepeatAxis::Z) {
        let data = open(DataConfig { samples_per_epoch: Some(12), ..normalised(set) }, 1);
        let c = correlation(&data, "input", "target");
        assert!((0.2..0.9).contains(&c), "the noise is not independent: {c}");
    }
    if let Some(set) = repeats("medical/epi_two_repeats.nii.gz", RepeatAxis::T) {
        let config = DataConfig { dims: 3, patch: vec![8, 32, 32], ..normalised(set) };
        let data = open(config, 1);
        let batch = data.train().unwrap().epoch(0, 0).next().unwrap().unwrap();
        assert_eq!(batch.get("input").unwrap().dims(), [3, 1, 8, 32, 32]);
        assert!(correlation(&data, "input", "target") > 0.95);
        assert_eq!(data.validation().unwrap()[0].1.batches(), 1);
    }
}

#[test]
fn pairs_of_volumes_and_masks() {
    let name = |n: &str| real(&format!("em/fib25_training_sample2_{n}160x250x250_u8.tif"));
    let (Some(input), Some(target)) = (name("10nm_"), name("membranes_")) else { return };
    let config = DataConfig {
        target_normalisation: Some(NormalisationConfig::Scale { divide: 255.0 }),
        sampler: SamplerConfig::Uniform {},
        samples_per_epoch: Some(6),
        dims: 3,
        patch: vec![16, 32, 32],
        ..normalised(DatasetConfig::Paired { input, target })
    };
    let data = open(config, 1);
    let batch = data.train().unwrap().epoch(0, 1).next().unwrap().unwrap();
    assert!(values(&batch, "target").iter().all(|v| *v == 0.0 || *v == 1.0));
    assert!(correlation(&data, "input", "target") < -0.3, "membranes are dark");
}
