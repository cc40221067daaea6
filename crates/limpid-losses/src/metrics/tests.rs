//! Parity with scikit-image, MONAI, piq and the PET fixtures; properties; bad input.

use super::*;
use crate::fixture::{self, Fixture, assert_close};
use limpid_kernels::Error;
use limpid_kernels::rng::Stream;

/// An owned image of a fixture.
struct Owned {
    data: Vec<f64>,
    shape: Vec<usize>,
}

impl Owned {
    /// The tensor without leading axes of extent 1.
    fn load(f: &Fixture, name: &str) -> Self {
        let shape = f.shape(name);
        let first = shape.iter().position(|&n| n > 1).unwrap();
        Self { data: f.values(name), shape: shape[first..].to_vec() }
    }

    /// Noise in `[0, 1)`, smoothed a little so that windows see structure.
    fn random(seed: u64, shape: &[usize]) -> Self {
        let mut noise = vec![0f32; shape.iter().product()];
        Stream::new(seed, "metrics").fill_uniform(&mut noise);
        let wave = |i: usize| 0.5 + 0.4 * (i as f64 * 0.05).sin();
        let data = noise.iter().enumerate().map(|(i, &v)| 0.7 * wave(i) + 0.3 * f64::from(v));
        Self { data: data.collect(), shape: shape.to_vec() }
    }

    fn view(&self) -> Image<'_> {
        Image::new(self.data.as_slice(), &self.shape).unwrap()
    }
}

fn mask(f: &Fixture, name: &str) -> Vec<bool> {
    f.values(name).iter().map(|&v| v != 0.0).collect()
}

fn range_of(f: &Fixture, case: &str, name: &str) -> f64 {
    let (low, high) = Owned::load(f, &format!("{case}.clean")).view().extremes();
    match name {
        "psnr_range_from_gt_max" => high,
        _ if name.contains("R20") => 20.0,
        // the fixtures are generated so that the clean image spans the data range
        _ => high - low,
    }
}

fn golden_metric(f: &Fixture, case: &str, name: &str) -> f64 {
    let key = |part: &str| format!("{case}.{part}");
    let (pred, truth) = (Owned::load(f, &key("noisy")), Owned::load(f, &key("clean")));
    let (pred, truth) = (pred.view(), truth.view());
    let (roi, bg) = (mask(f, &key("roi_mask")), mask(f, &key("bg_mask")));
    let range = range_of(f, case, name);
    let uniform = |size, sample| SsimSpec::new(Window::Uniform { size }, sample);
    let bias = global_bias(&pred, &truth).unwrap();
    let result = match name {
        "mse" => mse(&pred, &truth),
        "mae" | "monai_mae" => mae(&pred, &truth),
        "rmse" | "monai_rmse" => rmse(&pred, &truth),
        "skimage_psnr"
        | "psnr_range_from_gt_minmax"
        | "psnr_range_from_gt_max"
        | "monai_psnr"
        | "nucli_psnr_R20" => psnr(&pred, &truth, range),
        "skimage_nrmse_euclidean" => nrmse(&pred, &truth, Normaliser::Euclidean),
        "skimage_nrmse_minmax" => nrmse(&pred, &truth, Normaliser::MinMax),
        "skimage_nrmse_mean" => nrmse(&pred, &truth, Normaliser::Mean),
        "nucli_nrmse" => nrmse(&pred, &truth, Normaliser::Guarded),
        "skimage_ssim_default_win7" | "nucli_ssim_R20" => {
            ssim(&pred, &truth, range, &SsimSpec::SKIMAGE)
        }
        "skimage_ssim_win11_uniform" => ssim(&pred, &truth, range, &uniform(11, true)),
        "skimage_ssim_wang" | "monai_ssim_gauss11" => ssim(&pred, &truth, range, &SsimSpec::WANG),
        "skimage_ssim_gauss_samplecov" => {
            let spec = SsimSpec { sample_covariance: true, ..SsimSpec::WANG };
            ssim(&pred, &truth, range, &spec)
        }
        "monai_ssim_uniform7" => ssim(&pred, &truth, range, &uniform(7, false)),
        "skimage_nmi" => normalized_mutual_information(&pred, &truth, 64),
        "suvmax_bias" => Ok(bias.max),
        "suvmean_bias" => Ok(bias.mean),
        "suvstd_bias" => Ok(bias.std),
        "roi_mean_rel_bias_pct" => relative_bias(&pred, &truth, &roi),
        "roi_crc" => contrast_recovery(&pred, &truth, &roi, &bg),
        "bg_cov" => coefficient_of_variation(&pred, &bg, 0),
        "cnr" => contrast_to_noise(&pred, &roi, &bg),
        other => panic!("the fixture has a metric that no function claims: `{other}`"),
    };
    result.unwrap()
}

#[test]
fn values_match_the_references_in_two_and_three_dimensions() {
    for file in ["metrics_2d", "metrics_3d"] {
        let Some(f) = fixture::load(file) else { return };
        let mut checked = 0;
        for key in f.names() {
            let Some((case, name)) = key.split_once(".value.") else { continue };
            let got = golden_metric(&f, case, name);
            // differences of nearly equal numbers keep the absolute precision of their terms
            let (relative, absolute) = match name {
                _ if name.starts_with("monai") => (0.0, 2e-5),
                _ => (1e-9, 1e-12),
            };
            assert_close(key, &[got], &[f.scalar(key)], relative, absolute);
            checked += 1;
        }
        assert!(checked >= 58, "only {checked} values in `{file}`");
    }
}

#[test]
fn ssim_maps_match_scikit_image() {
    let Some(f) = fixture::load("ssim_maps") else { return };
    let (pred, truth) = (Owned::load(&f, "noisy"), Owned::load(&f, "clean"));
    let (pred, truth) = (pred.view(), truth.view());
    for (name, spec) in [("default", SsimSpec::SKIMAGE), ("wang", SsimSpec::WANG)] {
        let map = ssim_map(&pred, &truth, 1.0, &spec).unwrap();
        assert_close(name, &map, &f.values(&format!("map_{name}")), 0.0, 1e-10);
        let mean = ssim(&pred, &truth, 1.0, &spec).unwrap();
        assert_close(name, &[mean], &f.values(&format!("mean_{name}")), 0.0, 1e-10);
    }
    let gradient = ssim_gradient(&pred, &truth, 1.0, &SsimSpec::SKIMAGE).unwrap();
    assert_close("gradient", &gradient, &f.values("grad_default"), 0.0, 1e-10);
}

#[test]
fn perceptual_metrics_match_piq_and_friends() {
    let Some(f) = fixture::load("metrics_ms_fsim") else { return };
    let (pred, truth) = (Owned::load(&f, "ms.noisy"), Owned::load(&f, "ms.clean"));
    let (pred, truth) = (pred.view(), truth.view());
    let multi = |odd| ms_ssim(&pred, &truth, 1.0, &SsimSpec::WANG, &MS_SSIM_WEIGHTS, odd);
    let check = |name: &str, got: limpid_kernels::Result<f64>| {
        let expected = f.scalar(&format!("value.{name}"));
        assert_close(name, &[got.unwrap()], &[expected], 0.0, 1e-4);
    };
    check("pytorch_msssim_ssim", ssim(&pred, &truth, 1.0, &SsimSpec::WANG));
    check("piq_ssim_downsampleFalse", ssim(&pred, &truth, 1.0, &SsimSpec::WANG));
    check("monai_msssim", multi(OddExtent::Drop));
    check("pytorch_msssim_msssim", multi(OddExtent::ZeroBefore));
    check("piq_msssim", multi(OddExtent::RepeatFirst));
    check("piq_gmsd", gmsd(&pred, &truth, 1.0));
    check("piq_haarpsi", haarpsi(&pred, &truth, 1.0));
    check("piq_vif_p", vifp(&pred, &truth, 1.0));
    check("piq_fsim", fsim(&pred, &truth, 1.0));
    check("piq_srsim", sr_sim(&pred, &truth, 1.0));

    let (pred, truth) = (Owned::load(&f, "msssim3d.noisy"), Owned::load(&f, "msssim3d.clean"));
    let spec = SsimSpec::new(Window::Gaussian { size: 5, sigma: 1.5 }, false);
    // the fixture does not record its weights; these follow from the three factors
    let weights = [0.3, 0.3, 0.4];
    check(
        "monai_msssim3d_k5_w3",
        ms_ssim(&pred.view(), &truth.view(), 1.0, &spec, &weights, OddExtent::Drop),
    );
}

#[test]
fn batches_are_scored_image_by_image() {
    let Some(f) = fixture::load("metrics_ms_fsim") else { return };
    let (pred, truth) = (f.values("batch.noisy"), f.values("batch.clean"));
    let size = f.shape("batch.clean")[2..].to_vec();
    let pixels: usize = size.iter().product();
    let (mut psnrs, mut similarities, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (p, t) in pred.chunks(pixels).zip(truth.chunks(pixels)) {
        let (p, t) = (Image::new(p, &size).unwrap(), Image::new(t, &size).unwrap());
        psnrs.push(psnr(&p, &t, 1.0).unwrap());
        similarities.push(ssim(&p, &t, 1.0, &SsimSpec::WANG).unwrap());
        errors.push(mse(&p, &t).unwrap());
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    assert_close("psnr", &psnrs, &f.values("batch.monai_psnr_per_sample"), 0.0, 1e-4);
    assert_close("ssim", &similarities, &f.values("batch.monai_ssim_per_sample"), 0.0, 1e-4);
    let of_samples = f.values("value.batch_psnr_mean_of_samples");
    assert_close("mean of dB", &[mean(&psnrs)], &of_samples, 0.0, 1e-4);
    let pooled = -10.0 * mean(&errors).log10();
    assert_close("pooled", &[pooled], &f.values("value.batch_psnr_of_pooled_mse"), 0.0, 1e-4);
}

#[test]
fn pet_figures_match_the_reference() {
    let Some(f) = fixture::load("pet_quant") else { return };
    let (pred, truth) = (Owned::load(&f, "pred"), Owned::load(&f, "gt"));
    let (pred, truth) = (pred.view(), truth.view());
    let labels = f.values("labels");
    let spacing: [f64; 3] = f.values("spacing_zyx").try_into().unwrap();
    let mut checked = 0;
    for key in f.names() {
        let Some(name) = key.strip_prefix("value.") else { continue };
        let got = match name.split('.').collect::<Vec<_>>()[..] {
            ["nmae_l1"] => nmae(&pred, &truth),
            ["nmse"] => nmse(&pred, &truth),
            ["nrmse_minmax"] => nrmse(&pred, &truth, Normaliser::MinMax),
            ["psnr_gtmax"] => psnr_truth_max(&pred, &truth),
            ["ssim_udpet_legacy"] => ssim_udpet_legacy(&pred, &truth),
            ["ssim_gtmax_range1"] => {
                let (_, max) = truth.extremes();
                ssim(&pred, &truth, max, &SsimSpec::SKIMAGE)
            }
            [region, ref rest @ ..] => {
                let label: f64 = region.trim_start_matches("roi").parse().unwrap();
                let region: Vec<bool> = labels.iter().map(|&l| l == label).collect();
                let figures = |image| region_figures(image, &region, spacing).unwrap();
                let error = |of: fn(&RegionFigures) -> f64| {
                    Ok(percent_error(of(&figures(&pred)), of(&figures(&truth))))
                };
                match *rest {
                    ["local_psnr_gtmax"] => local_psnr(&pred, &truth, &region),
                    ["suvmax_pct_err"] => error(|r| r.max),
                    ["suvmean_pct_err"] => error(|r| r.mean),
                    [which, figure] => {
                        let r = figures(if which == "gt" { &truth } else { &pred });
                        Ok(match figure {
                            "suvmax" => r.max,
                            "suvmean" => r.mean,
                            "suvpeak_1ml_sphere_anywhere_center_in_roi" => r.peak,
                            "median" => r.median,
                            "p90" => r.p90,
                            "rms" => r.rms,
                            "cov_ddof1" => r.cov,
                            "tlg_ml" => r.tlg_ml,
                            other => panic!("unknown figure `{other}`"),
                        })
                    }
                    _ => panic!("unknown value `{name}`"),
                }
            }
            [] => panic!("empty name"),
        };
        assert_close(key, &[got.unwrap()], &[f.scalar(key)], 1e-9, 0.0);
        checked += 1;
    }
    assert!(checked >= 60, "only {checked} values");
}

#[test]
fn uptake_values_match_the_reference() {
    let Some(f) = fixture::load("suv") else { return };
    for row in f.values("table").chunks(7) {
        let injection = |decay_reference| Injection {
            weight_kg: row[0],
            dose_bq: row[1],
            half_life_s: row[2],
            delay_s: row[3],
            decay_reference,
        };
        let suv = |reference| row[4] * suv_factor(&injection(reference)).unwrap();
        let got = [suv(DecayReference::Start), suv(DecayReference::Admin)];
        assert_close("suv", &got, &row[5..7], 1e-12, 0.0);
    }
    let midnight = Injection {
        weight_kg: 70.0,
        dose_bq: 2e8,
        half_life_s: 6586.2,
        delay_s: -80_000.0,
        decay_reference: DecayReference::Start,
    };
    assert!(suv_factor(&midnight).unwrap_err().to_string().contains("midnight"));
}

/// Every metric of two images that a configuration can ask for, with range 1.
fn all_configs() -> Vec<MetricConfig> {
    let schema = serde_json::to_value(schemars::schema_for!(MetricConfig)).unwrap();
    let parse = |kind: &serde_json::Value| {
        let mut value = serde_json::json!({ "kind": kind["properties"]["kind"]["const"] });
        for key in kind["required"].as_array().unwrap() {
            match key.as_str().unwrap() {
                "data_range" => value["data_range"] = 1.0.into(),
                "by" => value["by"] = "min_max".into(),
                _ => {}
            }
        }
        serde_json::from_value(value).unwrap()
    };
    schema["oneOf"].as_array().unwrap().iter().map(parse).collect()
}

#[test]
fn equal_images_score_best_and_noise_scores_worse() {
    // the scale of the noise that a metric must notice
    let truth = Owned::random(1, &[176, 180]);
    let noise = Owned::random(2, &[176, 180]);
    let mixed = |part: f64| Owned {
        data: truth.data.iter().zip(&noise.data).map(|(t, n)| t + part * (n - 0.5)).collect(),
        shape: truth.shape.clone(),
    };
    let (little, much) = (mixed(0.1), mixed(0.6));
    let configs = all_configs();
    assert_eq!(configs.len(), 18);
    for config in configs {
        let info = config.info();
        assert_eq!(metric_info(info.name), Some(&info));
        let score = |image: &Owned| config.evaluate(&image.view(), &truth.view()).unwrap();
        let (best, good, bad) = (score(&truth), score(&little), score(&much));
        assert!(info.better(best, good) && info.better(good, bad), "{info:?} {best} {good} {bad}");
        let ideal = match info.name {
            "psnr" => f64::INFINITY,
            "mutual_information" => 2.0,
            _ if info.higher_is_better => 1.0,
            _ => 0.0,
        };
        assert!(best == ideal || (best - ideal).abs() < 1e-6, "{info:?}: {best}");
    }
}

#[test]
fn a_nan_is_never_a_good_score() {
    let truth = Owned::random(1, &[176, 176]);
    let mut broken = Owned::random(1, &[176, 176]);
    broken.data[5000] = f64::NAN;
    for config in all_configs() {
        for (p, t) in [(&broken, &truth), (&truth, &broken)] {
            assert!(config.evaluate(&p.view(), &t.view()).unwrap().is_nan(), "{config:?}");
        }
        assert!(!config.info().better(f64::NAN, 0.0) && config.info().better(0.0, f64::NAN));
    }
    // the functions themselves, not only the configured ones
    let (p, t) = (broken.view(), truth.view());
    let region = vec![true; truth.data.len()];
    let scores = [
        mae(&p, &t),
        psnr(&p, &t, 1.0),
        nrmse(&t, &p, Normaliser::MinMax),
        mape(&p, &t),
        normalized_mutual_information(&p, &t, 10),
        ssim(&p, &t, 1.0, &SsimSpec::WANG),
        gmsd(&p, &t, 1.0),
        fsim(&p, &t, 1.0),
        vifp(&p, &t, 1.0),
        haarpsi(&p, &t, 1.0),
        sr_sim(&p, &t, 1.0),
        ms_ssim(&p, &t, 1.0, &SsimSpec::WANG, &MS_SSIM_WEIGHTS, OddExtent::Drop),
        local_psnr(&t, &p, &region),
        psnr_truth_max(&t, &p),
        ssim_udpet_legacy(&p, &t),
        global_bias(&p, &t).map(|b| b.max),
    ];
    for (i, score) in scores.into_iter().enumerate() {
        assert!(score.unwrap().is_nan(), "metric {i}");
    }
    let volume = Image::new(broken.data.as_slice(), &[16, 44, 44]).unwrap();
    let r = region_figures(&volume, &region, [2.0; 3]).unwrap();
    assert!([r.max, r.mean, r.peak, r.median, r.p90, r.rms, r.cov].iter().all(|v| v.is_nan()));
}

#[test]
fn f32_and_f64_views_agree() {
    let single: Vec<f32> = Owned::random(3, &[40, 40]).data.iter().map(|&v| v as f32).collect();
    let double: Vec<f64> = single.iter().map(|&v| f64::from(v)).collect();
    let truth = Owned::random(4, &[40, 40]);
    let a = Image::new(single.as_slice(), &truth.shape).unwrap();
    let b = Image::new(double.as_slice(), &truth.shape).unwrap();
    for config in
        all_configs().iter().filter(|c| c.info().name != "ms_ssim" && c.info().name != "vifp")
    {
        let score = |image| config.evaluate(image, &truth.view()).unwrap();
        assert_eq!(score(&a).to_bits(), score(&b).to_bits(), "{config:?}");
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (pred, truth) = (Owned::random(5, &[190, 200]), Owned::random(6, &[190, 200]));
    let run = |threads: usize| -> Vec<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let score = |c: &MetricConfig| c.evaluate(&pred.view(), &truth.view()).unwrap();
            all_configs().iter().map(|c| score(c).to_bits()).collect()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_images_are_named() {
    let data = [0.0f32; 12];
    assert!(matches!(Image::new(&data[..], &[3, 5]), Err(Error::Shape { .. })));
    assert!(matches!(Image::new(&data[..0], &[0, 5]), Err(Error::Shape { .. })));
    assert!(matches!(Image::new(&data[..], &[]), Err(Error::Shape { .. })));
    let (flat, tall) =
        (Image::new(&data[..], &[3, 4]).unwrap(), Image::new(&data[..], &[4, 3]).unwrap());
    let error = mse(&flat, &tall).unwrap_err().to_string();
    assert_eq!(error, "mse: expected the shape of the reference, [4, 3], got [3, 4]");
    for range in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(psnr(&flat, &flat, range), Err(Error::Argument { .. })));
    }
    let error = ssim(&flat, &flat, 1.0, &SsimSpec::SKIMAGE).unwrap_err().to_string();
    assert!(error.contains("at least 7"), "{error}");
    let even = SsimSpec::new(Window::Uniform { size: 4 }, true);
    assert!(ssim(&flat, &flat, 1.0, &even).unwrap_err().to_string().contains("odd"));
    assert!(roi_mean(&flat, &[false; 12]).unwrap_err().to_string().contains("no voxel"));
    assert!(matches!(roi_mean(&flat, &[true; 11]), Err(Error::Shape { .. })));
    let small = Owned::random(1, &[100, 100]);
    let weights = &MS_SSIM_WEIGHTS;
    let result =
        ms_ssim(&small.view(), &small.view(), 1.0, &SsimSpec::WANG, weights, OddExtent::Drop);
    assert!(matches!(result, Err(Error::Shape { .. })));
}

#[test]
fn a_metric_reads_its_configuration() {
    let parse = |text: &str| serde_json::from_str::<MetricConfig>(text);
    let fixed = parse(r#"{"kind": "psnr", "data_range": 20}"#).unwrap();
    assert_eq!(fixed, MetricConfig::Psnr { data_range: DataRange::Fixed(20.0) });
    let truth = parse(r#"{"kind": "ssim", "data_range": "truth_max"}"#).unwrap();
    let of_truth = DataRange::OfTruth(TruthRange::TruthMax);
    assert_eq!(truth, MetricConfig::Ssim { data_range: of_truth });
    assert!(parse(r#"{"kind": "psnr"}"#).is_err());
    assert!(parse(r#"{"kind": "mse", "data_range": 1}"#).is_err());
    let image = Owned::random(7, &[8, 8]);
    let zero = Owned { data: vec![0.0; 64], shape: vec![8, 8] };
    assert!(matches!(truth.evaluate(&image.view(), &zero.view()), Err(Error::Argument { .. })));
}

#[test]
fn peak_of_a_constant_volume_is_the_constant_even_at_the_border() {
    let data = vec![3.0f32; 6 * 7 * 8];
    let image = Image::new(data.as_slice(), &[6, 7, 8]).unwrap();
    let r = region_figures(&image, &vec![true; data.len()], [4.0, 2.0, 3.0]).unwrap();
    assert_close(
        "figures",
        &[r.peak, r.median, r.p90, r.rms, r.cov],
        &[3.0, 3.0, 3.0, 3.0, 0.0],
        1e-12,
        0.0,
    );
    assert!((r.volume_ml - 336.0 * 24.0 / 1000.0).abs() < 1e-12);
}

#[test]
fn ring_correlation_separates_signal_from_noise() {
    // a shared wave of 8 samples period along each axis, and independent noise
    let shape = [64, 96];
    let image = |seed: u64| {
        let mut draws = Stream::new(seed, "ring").draws();
        let phase = std::f64::consts::TAU / 8.0;
        let wave = |i: usize| ((i / 96) as f64 * phase).sin() + ((i % 96) as f64 * phase).cos();
        let data = (0..64 * 96).map(|i| wave(i) + draws.range(-0.3, 0.3)).collect();
        Owned { data, shape: shape.to_vec() }
    };
    let (a, b) = (image(1), image(2));
    let curve = ring_correlation(&a.view(), &b.view(), &[0.5, 0.5], false).unwrap();
    assert_eq!(curve.frequency.len(), 33);
    assert_eq!(*curve.frequency.last().unwrap(), 1.0);
    assert!(curve.correlation[8] > 0.99, "{:?}", curve.correlation);
    let noise: f64 = curve.correlation[16..].iter().sum::<f64>() / 17.0;
    assert!(noise.abs() < 0.1, "{noise}");

    let same = ring_correlation(&a.view(), &a.view(), &[1.0, 1.0], true).unwrap();
    assert!(same.correlation[1..].iter().all(|c| (c - 1.0).abs() < 1e-12));
    assert_eq!(same.resolution(ONE_SEVENTH), None);

    let line = RingCorrelation {
        frequency: vec![0.0, 0.1, 0.2, 0.3],
        correlation: vec![1.0, 0.9, 0.5, 0.1],
        samples: vec![1; 4],
    };
    let crossing = 0.2 + 0.1 * (0.5 - GOLD_STANDARD) / 0.4;
    assert!((line.resolution(GOLD_STANDARD).unwrap() - 1.0 / crossing).abs() < 1e-12);
    assert!(ring_correlation(&a.view(), &b.view(), &[1.0], false).is_err());
}
