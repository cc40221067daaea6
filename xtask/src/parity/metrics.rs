//! Image-quality metrics, beside scikit-image, MONAI, piq and the PET evaluations, and statistics
//! beside scipy.

use std::collections::BTreeMap;

use limpid_losses::metrics::{
    DecayReference, Image, Injection, MS_SSIM_WEIGHTS, Normaliser, OddExtent, RegionFigures,
    SsimSpec, Window, coefficient_of_variation, contrast_recovery, contrast_to_noise, fsim,
    global_bias, gmsd, haarpsi, local_psnr, mae, ms_ssim, mse, nmae, nmse,
    normalized_mutual_information, nrmse, percent_error, psnr, psnr_truth_max, region_figures,
    relative_bias, rmse, sr_sim, ssim, ssim_gradient, ssim_map, ssim_udpet_legacy, suv_factor,
    vifp,
};
use limpid_losses::stats;
use serde_json::Value;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, relative, text};

/// Exponents of the three scales of the MS-SSIM of volumes, which its name does not say.
const VOLUME_WEIGHTS: [f64; 3] = [0.3, 0.3, 0.4];

/// An image of the fixture, without leading axes of extent one.
struct Owned {
    data: Vec<f64>,
    shape: Vec<usize>,
}

impl Owned {
    fn load(fixture: &Fixture, name: &str) -> Result<Self, String> {
        let shape = fixture.shape(name)?;
        let first = shape.iter().position(|n| *n > 1).unwrap_or(0);
        Ok(Self { data: fixture.values(name)?, shape: shape[first..].to_vec() })
    }

    fn view(&self) -> Result<Image<'_>, String> {
        Image::new(self.data.as_slice(), &self.shape).map_err(text)
    }
}

/// `<case>.value.<metric>` of the pair `<case>.noisy`, `<case>.clean`.
pub(super) fn image(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for key in fixture.names() {
        let Some((case, name)) = key.split_once(".value.") else { continue };
        let got = image_metric(fixture, case, name)?;
        // MONAI computes in f32; differences keep the absolute precision of their terms
        let tolerance = if name.starts_with("monai") {
            absolute(2e-5)
        } else {
            Tolerance { absolute: 1e-12, relative: 1e-9 }
        };
        worst.compare(key, &[got], &fixture.values(key)?, tolerance);
    }
    worst.done()
}

fn image_metric(fixture: &Fixture, case: &str, name: &str) -> Result<f64, String> {
    let load = |part: &str| Owned::load(fixture, &format!("{case}.{part}"));
    let (pred, truth) = (load("noisy")?, load("clean")?);
    let (pred, truth) = (pred.view()?, truth.view()?);
    let mask = |part: &str| -> Result<Vec<bool>, String> {
        Ok(fixture.values(&format!("{case}.{part}"))?.iter().map(|v| *v != 0.0).collect())
    };
    let (low, high) = truth.extremes();
    let range = match name {
        "psnr_range_from_gt_max" => high,
        _ if name.ends_with("R20") => 20.0,
        // clean images of the recipe span their data range
        _ => high - low,
    };
    let uniform = |size, sample| SsimSpec::new(Window::Uniform { size }, sample);
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
        "suvmax_bias" => global_bias(&pred, &truth).map(|bias| bias.max),
        "suvmean_bias" => global_bias(&pred, &truth).map(|bias| bias.mean),
        "suvstd_bias" => global_bias(&pred, &truth).map(|bias| bias.std),
        "roi_mean_rel_bias_pct" => relative_bias(&pred, &truth, &mask("roi_mask")?),
        "roi_crc" => contrast_recovery(&pred, &truth, &mask("roi_mask")?, &mask("bg_mask")?),
        "bg_cov" => coefficient_of_variation(&pred, &mask("bg_mask")?, 0),
        "cnr" => contrast_to_noise(&pred, &mask("roi_mask")?, &mask("bg_mask")?),
        _ => return Err(format!("the file has a metric that no function claims: `{name}`")),
    };
    result.map_err(|e| format!("{name}: {e}"))
}

/// Whole SSIM maps, and the gradient of their mean.
pub(super) fn ssim_maps(fixture: &Fixture) -> Result<Outcome, String> {
    let close = absolute(1e-10);
    let mut worst = Worst::default();
    let (pred, truth) = (Owned::load(fixture, "noisy")?, Owned::load(fixture, "clean")?);
    let (pred, truth) = (pred.view()?, truth.view()?);
    for (name, spec) in [("default", SsimSpec::SKIMAGE), ("wang", SsimSpec::WANG)] {
        let (map, mean) = (format!("map_{name}"), format!("mean_{name}"));
        let got = ssim_map(&pred, &truth, 1.0, &spec).map_err(text)?;
        worst.compare(&map, &got, &fixture.values(&map)?, close);
        let got = ssim(&pred, &truth, 1.0, &spec).map_err(text)?;
        worst.compare(&mean, &[got], &fixture.values(&mean)?, close);
    }
    let got = ssim_gradient(&pred, &truth, 1.0, &SsimSpec::SKIMAGE).map_err(text)?;
    worst.compare("grad_default", &got, &fixture.values("grad_default")?, close);
    worst.done()
}

/// MS-SSIM, FSIM and their like, and the meaning of a batch.
pub(super) fn perceptual(fixture: &Fixture) -> Result<Outcome, String> {
    let close = absolute(1e-4);
    let mut worst = Worst::default();
    let (pred, truth) = (Owned::load(fixture, "ms.noisy")?, Owned::load(fixture, "ms.clean")?);
    let (pred, truth) = (pred.view()?, truth.view()?);
    let multi = |odd| ms_ssim(&pred, &truth, 1.0, &SsimSpec::WANG, &MS_SSIM_WEIGHTS, odd);
    let single = || ssim(&pred, &truth, 1.0, &SsimSpec::WANG);
    let (pred3, truth3) =
        (Owned::load(fixture, "msssim3d.noisy")?, Owned::load(fixture, "msssim3d.clean")?);
    let (pred3, truth3) = (pred3.view()?, truth3.view()?);

    let size = fixture.shape("batch.clean")?.get(2..).unwrap_or_default().to_vec();
    let pixels = size.iter().product::<usize>().max(1);
    let (noisy, clean) = (fixture.values("batch.noisy")?, fixture.values("batch.clean")?);
    let (mut decibels, mut similarities, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (p, t) in noisy.chunks(pixels).zip(clean.chunks(pixels)) {
        let (p, t) = (Image::new(p, &size).map_err(text)?, Image::new(t, &size).map_err(text)?);
        decibels.push(psnr(&p, &t, 1.0).map_err(text)?);
        similarities.push(ssim(&p, &t, 1.0, &SsimSpec::WANG).map_err(text)?);
        errors.push(mse(&p, &t).map_err(text)?);
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    for (name, got) in
        [("batch.monai_psnr_per_sample", &decibels), ("batch.monai_ssim_per_sample", &similarities)]
    {
        worst.compare(name, got, &fixture.values(name)?, close);
    }

    for key in fixture.names() {
        let Some(name) = key.strip_prefix("value.") else { continue };
        let got = match name {
            // piq halves images of 512 pixels and more only
            "pytorch_msssim_ssim" | "piq_ssim_downsampleFalse" | "piq_ssim_downsampleTrue" => {
                single()
            }
            // a measure of one image that we have no use for
            "piq_tv_l2" => continue,
            "monai_msssim" => multi(OddExtent::Drop),
            "pytorch_msssim_msssim" => multi(OddExtent::ZeroBefore),
            "piq_msssim" => multi(OddExtent::RepeatFirst),
            "piq_gmsd" => gmsd(&pred, &truth, 1.0),
            "piq_haarpsi" => haarpsi(&pred, &truth, 1.0),
            "piq_vif_p" => vifp(&pred, &truth, 1.0),
            "piq_fsim" => fsim(&pred, &truth, 1.0),
            "piq_srsim" => sr_sim(&pred, &truth, 1.0),
            "monai_msssim3d_k5_w3" => {
                let spec = SsimSpec::new(Window::Gaussian { size: 5, sigma: 1.5 }, false);
                ms_ssim(&pred3, &truth3, 1.0, &spec, &VOLUME_WEIGHTS, OddExtent::Drop)
            }
            "batch_psnr_mean_of_samples" => Ok(mean(&decibels)),
            "batch_psnr_of_pooled_mse" => Ok(-10.0 * mean(&errors).log10()),
            _ => return Err(format!("the file has a metric that no function claims: `{name}`")),
        };
        worst.compare(key, &[got.map_err(text)?], &fixture.values(key)?, close);
    }
    worst.done()
}

/// The global and regional figures of PET evaluations.
pub(super) fn pet(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let (pred, truth) = (Owned::load(fixture, "pred")?, Owned::load(fixture, "gt")?);
    let (pred, truth) = (pred.view()?, truth.view()?);
    for key in fixture.names() {
        let Some(name) = key.strip_prefix("value.") else { continue };
        let got = match name {
            "nmae_l1" => nmae(&pred, &truth).map_err(text),
            "nmse" => nmse(&pred, &truth).map_err(text),
            "nrmse_minmax" => nrmse(&pred, &truth, Normaliser::MinMax).map_err(text),
            "psnr_gtmax" => psnr_truth_max(&pred, &truth).map_err(text),
            "ssim_udpet_legacy" => ssim_udpet_legacy(&pred, &truth).map_err(text),
            "ssim_gtmax_range1" => {
                ssim(&pred, &truth, truth.extremes().1, &SsimSpec::SKIMAGE).map_err(text)
            }
            _ => regional(fixture, &pred, &truth, name),
        }?;
        worst.compare(key, &[got], &fixture.values(key)?, relative(1e-9));
    }
    worst.done()
}

/// `roi<label>.<figure>`, or `roi<label>.<gt|pred>.<figure>`.
fn regional(
    fixture: &Fixture,
    pred: &Image<'_>,
    truth: &Image<'_>,
    name: &str,
) -> Result<f64, String> {
    let unknown = || format!("the file has a figure that no function claims: `{name}`");
    let parts: Vec<&str> = name.split('.').collect();
    let label = parts[0].strip_prefix("roi").and_then(|label| label.parse::<f64>().ok());
    let label = label.ok_or_else(unknown)?;
    let region: Vec<bool> = fixture.values("labels")?.iter().map(|l| *l == label).collect();
    let spacing: [f64; 3] =
        fixture.values("spacing_zyx")?.try_into().map_err(|_| "expected three spacings")?;
    let figures = |image| region_figures(image, &region, spacing).map_err(text);
    let error = |of: fn(&RegionFigures) -> f64| {
        Ok::<f64, String>(percent_error(of(&figures(pred)?), of(&figures(truth)?)))
    };
    match parts[1..] {
        ["local_psnr_gtmax"] => local_psnr(pred, truth, &region).map_err(text),
        ["suvmax_pct_err"] => error(|r| r.max),
        ["suvmean_pct_err"] => error(|r| r.mean),
        [which, figure] => {
            let r = figures(if which == "gt" { truth } else { pred })?;
            Ok(match figure {
                "suvmax" => r.max,
                "suvmean" => r.mean,
                "suvpeak_1ml_sphere_anywhere_center_in_roi" => r.peak,
                "median" => r.median,
                "p90" => r.p90,
                "rms" => r.rms,
                "cov_ddof1" => r.cov,
                "tlg_ml" => r.tlg_ml,
                _ => return Err(unknown()),
            })
        }
        _ => Err(unknown()),
    }
}

/// Standardised uptake values: weight, dose, half-life, delay, activity, and the two results.
pub(super) fn uptake(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for (i, row) in fixture.values("table")?.chunks_exact(7).enumerate() {
        let suv = |decay_reference| {
            let [weight_kg, dose_bq, half_life_s, delay_s] = [row[0], row[1], row[2], row[3]];
            let injection = Injection { weight_kg, dose_bq, half_life_s, delay_s, decay_reference };
            suv_factor(&injection).map(|factor| row[4] * factor).map_err(text)
        };
        let got = [suv(DecayReference::Start)?, suv(DecayReference::Admin)?];
        worst.compare(&format!("row {i}"), &got, &row[5..7], relative(1e-12));
    }
    worst.done()
}

/// Paired tests, agreement and corrections for many comparisons, as scipy.stats has them.
pub(super) fn statistics(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for (case, expected) in fixture.json::<BTreeMap<String, BTreeMap<String, Value>>>("values")? {
        for (name, expected) in expected {
            let what = format!("{case}.{name}");
            // one number, or two
            let expected: Vec<f64> = match expected {
                Value::Array(both) => both.iter().filter_map(Value::as_f64).collect(),
                one => one.as_f64().into_iter().collect(),
            };
            let got = statistic(fixture, &case, &name).map_err(|e| format!("{what}: {e}"))?;
            let tolerance = if name.starts_with("shapiro") { 1e-5 } else { 1e-6 };
            worst.compare(&what, &got, &expected, relative(tolerance));
        }
    }
    let p = fixture.values("pvals")?;
    let adjusted = [("holm", stats::holm(&p)), ("bh_fdr", stats::benjamini_hochberg(&p))];
    for (name, got) in adjusted {
        worst.compare(name, &got.map_err(text)?, &fixture.values(name)?, relative(1e-6));
    }
    worst.done()
}

/// The statistic called `name` of one case: of `ties.d`, or of a variant and its control.
fn statistic(fixture: &Fixture, case: &str, name: &str) -> Result<Vec<f64>, String> {
    use stats::{Alternative, Zeros};
    let both = |test: limpid_kernels::Result<stats::TestResult>| {
        test.map(|t| vec![t.statistic, t.p_value]).map_err(text)
    };
    let p = |test: limpid_kernels::Result<stats::TestResult>| Ok(vec![both(test)?[1]]);
    let statistic = |test: limpid_kernels::Result<stats::TestResult>| Ok(vec![both(test)?[0]]);
    let two_sided = |d: &[f64], zeros| stats::wilcoxon(d, Alternative::TwoSided, zeros);
    if case == "ties" {
        let d = fixture.values("ties.d")?;
        return match name {
            "wilcoxon_wilcox_two_sided" => both(two_sided(&d, Zeros::Drop)),
            "wilcoxon_pratt" => both(two_sided(&d, Zeros::Pratt)),
            _ => Err("no function of ours".into()),
        };
    }
    let (v, c) =
        (fixture.values(&format!("{case}.variant"))?, fixture.values(&format!("{case}.control"))?);
    let d: Vec<f64> = v.iter().zip(&c).map(|(v, c)| v - c).collect();
    let limits = |ddof| stats::bland_altman(&v, &c, ddof).map_err(text);
    match name {
        "wilcoxon_greater_p" => p(stats::superiority(&v, &c)),
        "wilcoxon_two_sided_stat" => statistic(two_sided(&d, Zeros::Drop)),
        "wilcoxon_two_sided_p" => p(two_sided(&d, Zeros::Drop)),
        "shapiro_W" => statistic(stats::shapiro_wilk(&d)),
        "shapiro_p" => p(stats::shapiro_wilk(&d)),
        "ttest_rel_t" => statistic(stats::paired_t_test(&v, &c)),
        "ttest_rel_p" => p(stats::paired_t_test(&v, &c)),
        "ttest_welch_p" => p(stats::welch_t_test(&v, &c)),
        "mannwhitney_p" => p(stats::mann_whitney(&v, &c, Alternative::TwoSided)),
        "bland_altman_bias" => Ok(vec![limits(0)?.bias]),
        "loa_lower_ddof0" => Ok(vec![limits(0)?.lower]),
        "loa_upper_ddof0" => Ok(vec![limits(0)?.upper]),
        "loa_upper_ddof1" => Ok(vec![limits(1)?.upper]),
        "cohen_dz" => stats::cohen_dz(&v, &c).map(|v| vec![v]).map_err(text),
        "mean_ci95_t" => {
            stats::mean_interval(&d, 0.95).map(|i| vec![i.lower, i.upper]).map_err(text)
        }
        "pearson_r" => stats::pearson(&v, &c).map(|v| vec![v]).map_err(text),
        "spearman_r" => stats::spearman(&v, &c).map(|v| vec![v]).map_err(text),
        _ => {
            let margin = name.strip_prefix("wilcoxon_noninf_margin_");
            let margin = margin.and_then(|rest| rest.strip_suffix("_p")?.parse().ok());
            p(stats::non_inferiority(&v, &c, margin.ok_or("no function of ours")?))
        }
    }
}
