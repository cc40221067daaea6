//! Golden parity, properties and refusals of the filters.

use crate::fixture::{Fixture, assert_close, load, load_from};
use crate::*;

/// The 2-D and the 3-D noisy image of the fixture.
fn noisy(fixture: &Fixture, three: bool) -> (&[f64], &[usize]) {
    let name = if three { "noisy3d" } else { "noisy" };
    (fixture.values(name), fixture.shape(name))
}

fn check(fixture: &Fixture, expected: &str, filter: FilterConfig, tolerance: f64) {
    let (image, shape) = noisy(fixture, expected.contains("3d"));
    let got = apply(&filter, image, shape).unwrap();
    assert_close(expected, &got, fixture.values(expected), tolerance);
}

#[test]
fn gaussian_median_and_uniform_equal_scipy() {
    let Some(f) = load("baselines") else { return };
    let borders = [
        ("reflect", Border::Reflect),
        ("nearest", Border::Nearest),
        ("mirror", Border::Mirror),
        ("wrap", Border::Wrap),
        ("constant", Border::Constant(0.0)),
    ];
    let sigma: f64 = f.metadata("sigma").parse().unwrap();
    for (name, border) in borders {
        let filter = Gaussian { sigma: sigma.into(), border };
        check(&f, &format!("gauss_{name}"), FilterConfig::Gaussian(filter), 1e-12);
    }
    let aniso = [1.0, 0.8, 1.5].map(|factor| sigma * factor).to_vec();
    let fwhm = [2.0, 2.0, 3.0].map(|spacing| sigma_from_fwhm(6.0, spacing)).to_vec();
    for (name, sigma) in [("gauss3d_aniso", aniso), ("gauss3d_fwhm6mm_spacing2x2x3", fwhm)] {
        let filter = Gaussian { sigma: PerAxis::Each(sigma), ..Gaussian::default() };
        check(&f, name, FilterConfig::Gaussian(filter), 1e-12);
    }
    for (name, size) in [("median3", 3), ("median5", 5), ("median3d_3", 3)] {
        let filter = Median { size: size.into(), ..Median::default() };
        check(&f, name, FilterConfig::Median(filter), 0.0);
    }
    let filter = Uniform { size: 5.into(), ..Uniform::default() };
    check(&f, "uniform5", FilterConfig::Uniform(filter), 1e-12);
}

#[test]
fn non_local_means_equals_skimage() {
    let Some(f) = load("baselines") else { return };
    let nlm = |patch_size, patch_distance, h, sigma, fast| {
        FilterConfig::NonLocalMeans(NonLocalMeans { patch_size, patch_distance, h, sigma, fast })
    };
    check(&f, "nlm_exact_p5_d6_h0.08", nlm(5, 6, 0.08, 0.0, false), 1e-9);
    check(&f, "nlm_exact_sigma", nlm(5, 5, 0.06, 0.1, false), 1e-9);
    check(&f, "nlm_slow_p5_d6_h0.08", nlm(5, 6, 0.08, 0.0, false), 1.5e-2);
    check(&f, "nlm3d_slow", nlm(3, 2, 0.07, 0.0, false), 1.5e-2);
    check(&f, "nlm_fast_p5_d6_h0.08", nlm(5, 6, 0.08, 0.0, true), 1.5e-2);
    check(&f, "nlm3d_fast", nlm(3, 3, 0.07, 0.0, true), 1.5e-2);
}

#[test]
fn total_variation_bilateral_and_wavelet_equal_skimage() {
    let Some(f) = load("baselines") else { return };
    let fixed = |weight, max_iterations| {
        let parameters = TotalVariation { weight, tolerance: 0.0, max_iterations };
        FilterConfig::TotalVariation(parameters)
    };
    check(&f, "tv_chambolle_w0.1_fixed50", fixed(0.1, 50), 1e-12);
    check(&f, "tv3d_w0.08_fixed30", fixed(0.08, 30), 1e-12);
    let stopping = TotalVariation { weight: 0.1, ..TotalVariation::default() };
    check(&f, "tv_chambolle_w0.1", FilterConfig::TotalVariation(stopping), 1e-12);
    let shrink = Wavelet { sigma: Some(0.1), ..Wavelet::default() };
    check(&f, "wavelet_bayes_db1_soft", FilterConfig::Wavelet(shrink), 1e-12);

    // scikit-image was given the image clipped to 0..1
    let (image, shape) = noisy(&f, false);
    let clipped: Vec<f64> = image.iter().map(|v| v.clamp(0.0, 1.0)).collect();
    let parameters = Bilateral {
        sigma_color: Some(0.1),
        sigma_spatial: 1.5,
        window: Some(7),
        border: Border::Constant(0.0),
        skewed: true,
    };
    let got = bilateral(&clipped, shape, &parameters).unwrap();
    assert_close("bilateral", &got, f.values("bilateral"), 1e-12);
}

fn psnr(image: &[f64], clean: &[f64]) -> f64 {
    let squares: f64 = image.iter().zip(clean).map(|(a, b)| (a - b) * (a - b)).sum();
    -10.0 * (squares / clean.len() as f64).log10()
}

#[test]
fn bm3d_restores_as_much_as_the_program_of_its_authors() {
    let Some(f) = load("bm3d_reference") else { return };
    for (reference, axes, sigma) in [("bm3d", "", 0.1), ("bm4d", "3d", 0.08)] {
        let (noisy, clean) = (format!("noisy{axes}"), f.values(&format!("clean{axes}")));
        let parameters = Bm3d { sigma: Some(sigma), ..Bm3d::default() };
        let got = bm3d(f.values(&noisy), f.shape(&noisy), &parameters).unwrap();
        let (got, expected) = (psnr(&got, clean), psnr(f.values(reference), clean));
        assert!(got > expected - 0.3, "{reference}: {got} dB instead of {expected}");
    }
}

#[test]
fn bm3d_knows_no_unit_and_no_missing_axis() {
    let shape = [21, 26];
    // no two blocks as far from a third: rounding must not decide which is the partner
    let noise = |i: usize| (12.9898 * i as f64).sin() * 43758.5453;
    let image: Vec<f64> =
        (0..546).map(|i| f64::from(i % 11 > 5) + 0.3 * noise(i).fract()).collect();
    for sigma in [None, Some(0.2)] {
        let got = bm3d(&image, &shape, &Bm3d { sigma, ..Bm3d::default() }).unwrap();
        let other: Vec<f64> = image.iter().map(|v| 64.0 * v + 100.0).collect();
        let sigma = sigma.map(|sigma| 64.0 * sigma);
        let parameters = Bm3d { sigma, ..Bm3d::default() };
        let back: Vec<f64> = bm3d(&other, &shape, &parameters).unwrap();
        let back: Vec<f64> = back.iter().map(|v| (v - 100.0) / 64.0).collect();
        assert_close("unit", &back, &got, 1e-9);
    }
    let parameters = Bm3d { sigma: Some(0.2), ..Bm3d::default() };
    let got = bm3d(&image, &shape, &parameters).unwrap();
    for shape in [[1, 21, 26], [21, 1, 26], [21, 26, 1]] {
        assert_eq!(bm3d(&image, &shape, &parameters).unwrap(), got);
    }
    let off = |v: &[f64]| v.iter().zip(&image).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off(&got) > 1e-3);
    let clean = Bm3d { sigma: Some(0.0), ..Bm3d::default() };
    assert_eq!(bm3d(&image, &shape, &clean).unwrap(), image);
}

#[test]
fn noise_measures_equal_their_references() {
    let Some(f) = load("baselines") else { return };
    let (image, shape) = noisy(&f, false);
    let got = estimate_sigma(image, shape).unwrap();
    assert_close("estimate_sigma", &[got], f.values("sigma_est_wavelet"), 1e-12);
    let (image, shape) = noisy(&f, true);
    let scaled: Vec<f64> = image.iter().map(|v| 10.0 * v).collect();
    let got = roughness(&scaled, shape, 50.0).unwrap();
    assert_close("roughness", &[got], f.values("nucli_pm_metric_kappa50"), 1e-9);
}

#[test]
fn resize_equals_skimage() {
    let Some(f) = load("resample") else { return };
    let (volume, shape) = (f.values("vol"), f.shape("vol"));
    for (name, order, smooth_first, tolerance) in [
        ("skresize_o0_aaFalse", Order::Nearest, false, 0.0),
        ("skresize_o1_aaFalse", Order::Linear, false, 1e-12),
        ("skresize_o3_aaFalse", Order::Cubic, false, 1e-6),
        ("skresize_o3_aaTrue", Order::Cubic, true, 1e-6),
    ] {
        let got = resize(volume, shape, f.shape(name), order, smooth_first).unwrap();
        assert_close(name, &got, f.values(name), tolerance);
    }
}

#[test]
fn zoom_equals_scipy() {
    let Some(f) = load_from("emdiffuse", "net_sr_unet3d") else { return };
    for name in ["in.upsampled.up4", "in.upsampled.up6"] {
        let got = zoom(f.values("in.x"), &f.shape("in.x")[2..], &f.shape(name)[2..]).unwrap();
        assert_close(name, &got, f.values(name), 1e-6);
    }
}

#[test]
fn zoom_keeps_corners_constants_and_what_it_makes_finer() {
    let line = [0.3, -1.0, 2.0, 0.7, 0.1];
    let fine = zoom(&line, &[5], &[13]).unwrap();
    // 12 steps for 4: every third sample is an old one
    let kept: Vec<f64> = fine.iter().step_by(3).copied().collect();
    assert_close("old samples", &kept, &line, 1e-12);
    for n in 1..4 {
        let flat = zoom(&vec![0.7; n * 2], &[n, 2], &[6, 5]).unwrap();
        assert_close("constant", &flat, &[0.7; 30], 1e-12);
    }
    assert_close("one sample", &zoom(&line, &[5], &[1]).unwrap(), &line[..1], 1e-12);
    assert!(zoom(&line, &[5], &[5, 1]).is_err() && zoom(&line, &[5], &[0]).is_err());
}

#[test]
fn affine_sampling_equals_torch() {
    let Some(f) = load("resample") else { return };
    let theta = f.values("theta");
    let matrix = [[theta[0], theta[1], theta[2]], [theta[3], theta[4], theta[5]]];
    let shape: [usize; 2] = f.shape("img").try_into().unwrap();
    for (name, interpolation, border, align_corners) in [
        ("grid_sample_bilinear_zeros", Interpolation::Linear, Border::Constant(0.0), false),
        ("grid_sample_bilinear_border_ac", Interpolation::Linear, Border::Nearest, true),
        ("grid_sample_bicubic_reflect", Interpolation::Cubic, Border::Reflect, false),
    ] {
        let affine = Affine { matrix, interpolation, border, align_corners };
        let got = affine_sample(f.values("img"), shape, shape, &affine).unwrap();
        assert_close(name, &got, f.values(name), 1e-5);
    }
}

#[test]
fn affine_sampling_turns_and_moves() {
    let image = pattern(&[5, 7]);
    for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
        for align_corners in [false, true] {
            let through = |matrix, out| {
                let affine = Affine { matrix, interpolation, border: Border::Wrap, align_corners };
                affine_sample(&image, [5, 7], out, &affine).unwrap()
            };
            let same = through([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [5, 7]);
            assert_close("same", &same, &image, 1e-12);
            let turned = through([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [7, 5]);
            let expected: Vec<f64> = (0..35).map(|i| image[i % 5 * 7 + i / 5]).collect();
            assert_close("turned", &turned, &expected, 1e-12);
        }
    }
    let affine = Affine {
        matrix: [[f64::NAN; 3]; 2],
        interpolation: Interpolation::Linear,
        border: Border::Wrap,
        align_corners: false,
    };
    let error = affine_sample(&image, [5, 7], [5, 7], &affine).unwrap_err().to_string();
    assert!(error.contains("`matrix`"), "{error}");
    let error = affine_sample(&image, [5, 7], [0, 7], &affine).unwrap_err().to_string();
    assert!(error.contains("none empty"), "{error}");
}

#[test]
fn resample_spacing_equals_nucli() {
    let Some(f) = load("resample_spacing") else { return };
    let cases: serde_json::Value = serde_json::from_str(f.metadata("cases")).unwrap();
    let shape: [usize; 3] = f.shape("vol").try_into().unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let spacing =
            |key: &str| -> [f64; 3] { serde_json::from_value(case[key].clone()).unwrap() };
        let (from, to) = (spacing("from"), spacing("to"));
        let (got, new) = resample_spacing(f.values("vol"), shape, from, to).unwrap();
        assert_eq!(new, f.shape(name), "{name}");
        assert_close(name, &got, f.values(name), 1e-6);
    }
}

#[test]
fn patch_centers_equal_nucli() {
    let Some(f) = load("patch_centers") else { return };
    let parameters = PatchCenters {
        threshold: f.metadata("thr").parse().unwrap(),
        patch: serde_json::from_str(f.metadata("patch")).unwrap(),
        min_fraction: f.metadata("min_frac").parse().unwrap(),
    };
    let shape: [usize; 3] = f.shape("volume").try_into().unwrap();
    let valid = valid_centers(f.values("volume"), shape, &parameters).unwrap();
    let expected: Vec<bool> = f.values("valid").iter().map(|v| *v != 0.0).collect();
    assert_eq!(valid, expected);
    let set = |name: &str| f.values(name).iter().map(|v| *v != 0.0).collect::<Vec<_>>();
    let clean = clean_mask(f.values("volume"), shape, parameters.threshold).unwrap();
    assert!(clean == set("mask_clean"), "clean");
    let body = body_mask(f.values("volume"), shape, parameters.threshold).unwrap();
    assert!(body == set("mask_dilated"), "body");

    let triples = |name: &str| -> Vec<[usize; 3]> {
        f.values(name).chunks(3).map(|c| [c[0] as usize, c[1] as usize, c[2] as usize]).collect()
    };
    let kept = prune_centers(&triples("coords_in_order"), parameters.patch, 0.25).unwrap();
    assert_eq!(kept, triples("selected_overlap0.25"));
}

/// A deterministic image with edges and something like noise.
fn pattern(shape: &[usize]) -> Vec<f64> {
    let n: usize = shape.iter().product();
    let noise = |i: usize| ((i * 7919 + 13) % 1009) as f64 / 1009.0 - 0.5;
    (0..n).map(|i| f64::from(i % 11 > 5) + 0.3 * noise(i)).collect()
}

fn defaults() -> Vec<FilterConfig> {
    vec![
        FilterConfig::Gaussian(Gaussian::default()),
        FilterConfig::Median(Median::default()),
        FilterConfig::Uniform(Uniform::default()),
        FilterConfig::NonLocalMeans(NonLocalMeans::default()),
        FilterConfig::NonLocalMeans(NonLocalMeans { fast: false, ..NonLocalMeans::default() }),
        FilterConfig::TotalVariation(TotalVariation::default()),
        FilterConfig::Bilateral(Bilateral::default()),
        FilterConfig::Wavelet(Wavelet::default()),
        FilterConfig::Wavelet(Wavelet { basis: WaveletBasis::Db4, ..Wavelet::default() }),
        FilterConfig::PeronaMalik(PeronaMalik::default()),
        FilterConfig::Bm3d(Bm3d::default()),
        FilterConfig::Bm3d(Bm3d { sigma: Some(0.3), ..Bm3d::default() }),
    ]
}

#[test]
fn every_filter_keeps_a_flat_image_and_takes_any_shape() {
    let shapes: [&[usize]; 6] = [&[1], &[7], &[1, 5], &[9, 4], &[3, 1, 6], &[5, 6, 7]];
    for shape in shapes {
        let flat = vec![2.5; shape.iter().product()];
        let image = pattern(shape);
        for filter in defaults() {
            let what = format!("{:?} on {shape:?}", filter.kind());
            assert_close(&what, &apply(&filter, &flat, shape).unwrap(), &flat, 1e-12);
            let out = apply(&filter, &image, shape).unwrap();
            assert!(out.len() == image.len() && out.iter().all(|v| v.is_finite()), "{what}");
        }
    }
}

#[test]
fn a_volume_of_one_slice_is_an_image() {
    let (image, shape) = (pattern(&[20, 24]), [20, 24]);
    for filter in [FilterConfig::Median(Median::default()), FilterConfig::default()] {
        let flat = apply(&filter, &image, &shape).unwrap();
        let volume = apply(&filter, &image, &[1, 20, 24]).unwrap();
        assert_close("one slice", &volume, &flat, 1e-12);
    }
}

#[test]
fn thread_count_changes_no_bit() {
    let shape = [19, 37, 41];
    let image = pattern(&shape);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let small = NonLocalMeans { patch_size: 3, patch_distance: 1, ..Default::default() };
            let filters = defaults().into_iter().map(|filter| match filter {
                FilterConfig::NonLocalMeans(NonLocalMeans { fast, .. }) => {
                    FilterConfig::NonLocalMeans(NonLocalMeans { fast, ..small.clone() })
                }
                FilterConfig::TotalVariation(_) => FilterConfig::TotalVariation(TotalVariation {
                    max_iterations: 5,
                    ..Default::default()
                }),
                other => other,
            });
            filters.map(|filter| apply(&filter, &image, &shape).unwrap()).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn fast_non_local_means_matches_its_definition_across_tiles() {
    // more rows than one box holds; checked against the definition, sample by sample
    let shape = [40, 23];
    let image = pattern(&shape);
    let parameters =
        NonLocalMeans { patch_size: 5, patch_distance: 3, h: 0.25, sigma: 0.05, fast: true };
    let got = non_local_means(&image, &shape, &parameters).unwrap();
    let at = |y: isize, x: isize| {
        let y = Border::Mirror.index(y, shape[0]).unwrap();
        image[y * shape[1] + Border::Mirror.index(x, shape[1]).unwrap()]
    };
    let expected: Vec<f64> = (0..image.len() as isize)
        .map(|i| {
            let (y, x) = (i / shape[1] as isize, i % shape[1] as isize);
            let (mut sum, mut norm) = (0.0, 0.0);
            for (ty, tx) in (-3..=3).flat_map(|ty| (-3..=3).map(move |tx| (ty, tx))) {
                let mut d = 0.0;
                for (dy, dx) in (-1..=2).flat_map(|dy| (-1..=2).map(move |dx| (dy, dx))) {
                    let difference = at(y + dy, x + dx) - at(y + dy + ty, x + dx + tx);
                    d += difference * difference - 2.0 * 0.05 * 0.05;
                }
                d /= 25.0 * 0.25 * 0.25;
                let w = if d > 5.0 { 0.0 } else { (-d.max(0.0)).exp() };
                sum += w * at(y + ty, x + tx);
                norm += w;
            }
            sum / norm
        })
        .collect();
    assert_close("fast", &got, &expected, 1e-12);
}

#[test]
fn wavelets_of_zero_threshold_give_the_image_back() {
    for basis in [WaveletBasis::Db1, WaveletBasis::Db2, WaveletBasis::Db4] {
        for shape in [vec![37], vec![21, 18], vec![9, 14, 11]] {
            let image = pattern(&shape);
            let parameters =
                Wavelet { basis, sigma: Some(0.0), levels: Some(3), ..Wavelet::default() };
            let got = wavelet(&image, &shape, &parameters).unwrap();
            assert_close(&format!("{basis:?} {shape:?}"), &got, &image, 1e-12);
        }
    }
}

#[test]
fn the_bilateral_filter_is_symmetric() {
    let shape = [9, 9];
    let mut image = pattern(&shape);
    let turned = |image: &[f64]| image.iter().rev().copied().collect::<Vec<_>>();
    let parameters = Bilateral { sigma_color: Some(0.5), ..Bilateral::default() };
    let got = bilateral(&image, &shape, &parameters).unwrap();
    let got_turned = bilateral(&turned(&image), &shape, &parameters).unwrap();
    assert_close("turned", &turned(&got_turned), &got, 1e-12);
    // without a range of values to tell apart it is a Gaussian; negative values are nothing special
    image.iter_mut().for_each(|v| *v -= 5.0);
    let smooth = Bilateral { sigma_color: Some(1e6), window: Some(9), ..parameters.clone() };
    let got = bilateral(&image, &shape, &smooth).unwrap();
    let expected = gaussian(&image, &shape, &Gaussian::default()).unwrap();
    assert_close("gaussian", &got, &expected, 1e-9);
}

#[test]
fn diffusion_keeps_the_mean() {
    let shape = [12, 13];
    let image = pattern(&shape);
    let got = perona_malik(&image, &shape, &PeronaMalik { kappa: 0.4, iterations: 20 }).unwrap();
    let sum = |v: &[f64]| v.iter().sum::<f64>();
    assert_close("mean", &[sum(&got)], &[sum(&image)], 1e-9);
    let rough = |v: &[f64]| roughness(v, &shape, 0.4).unwrap();
    assert!(rough(&got) < 0.5 * rough(&image), "{} of {}", rough(&got), rough(&image));
}

#[test]
fn resizing_to_the_same_shape_changes_nothing() {
    let shape = [6, 7, 8];
    let image = pattern(&shape);
    for order in [Order::Nearest, Order::Linear, Order::Cubic] {
        assert_eq!(resize(&image, &shape, &shape, order, true).unwrap(), image);
    }
}

#[test]
fn tuning_finds_the_strength_that_scores_best() {
    let shape = [32, 32];
    let clean: Vec<f64> = (0..1024).map(|i| f64::from(i % 32 > 15)).collect();
    let noise = pattern(&shape);
    let noisy: Vec<f64> =
        clean.iter().zip(&noise).map(|(c, n)| c + 0.4 * (n - n.round())).collect();
    let score =
        |image: &[f64]| -image.iter().zip(&clean).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    for kind in FilterKind::ALL {
        let tuned = tune(kind, &noisy, &shape, score).unwrap();
        assert_eq!(tuned.filter.kind(), kind);
        let best = tuned.tried.iter().map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(tuned.score, best, "{kind:?}");
        assert_eq!(tuned.score, score(&tuned.image), "{kind:?}");
    }
    let error = tune(FilterKind::Median, &noisy, &shape, |_| f64::NAN).unwrap_err();
    assert!(error.to_string().contains("score"), "{error}");
}

#[test]
fn configuration_names_its_filter() {
    let json = r#"{"kind": "gaussian", "sigma": [1.0, 2.0], "border": {"constant": 0.5}}"#;
    let filter: FilterConfig = serde_json::from_str(json).unwrap();
    let sigma = PerAxis::Each(vec![1.0, 2.0]);
    assert_eq!(filter, FilterConfig::Gaussian(Gaussian { sigma, border: Border::Constant(0.5) }));
    let unknown = serde_json::from_str::<FilterConfig>(r#"{"kind": "median", "sise": 3}"#);
    assert!(unknown.unwrap_err().to_string().contains("sise"));
    for kind in FilterKind::ALL {
        let named = serde_json::json!({"kind": kind.name()});
        let filter: FilterConfig = serde_json::from_value(named).unwrap();
        assert_eq!(filter.kind(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let image = [0.0; 6];
    let refused = |filter: FilterConfig, image: &[f64], shape: &[usize], words: &str| {
        let error = apply(&filter, image, shape).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    };
    for filter in defaults() {
        refused(filter.clone(), &image, &[2, 4], "6 values for shape [2, 4]");
        refused(filter.clone(), &image, &[], "one to three axes");
        refused(filter.clone(), &[], &[0, 3], "none empty");
        refused(filter.clone(), &image, &[1, 1, 2, 3], "one to three axes");
        refused(filter.clone(), &image, &[usize::MAX, 8], "6 values");
        refused(filter, &[0.0, f64::NAN, 0.0, 0.0], &[2, 2], "NaN at [0, 1]");
    }
    let nlm = |parameters| FilterConfig::NonLocalMeans(parameters);
    let four = NonLocalMeans { patch_size: 4, h: -1.0, ..Default::default() };
    refused(nlm(four.clone()), &image, &[2, 3], "`patch_size` must be odd");
    refused(nlm(four), &image, &[2, 3], "`h` must be above 0, got -1");
    let two = Gaussian { sigma: PerAxis::Each(vec![1.0; 3]), ..Default::default() };
    refused(FilterConfig::Gaussian(two), &image, &[2, 3], "3 values for 2 axes");
    let nan = Gaussian { sigma: f64::NAN.into(), ..Default::default() };
    refused(FilterConfig::Gaussian(nan), &image, &[2, 3], "`sigma`");
    let zero = Median { size: 0.into(), ..Default::default() };
    refused(FilterConfig::Median(zero), &image, &[2, 3], "`size`");
    let far = Bm3d { step: 9, reach: Some(0), sigma: Some(-1.0), ..Default::default() };
    refused(FilterConfig::Bm3d(far.clone()), &image, &[2, 3], "`step` must be between 1 and 4");
    refused(FilterConfig::Bm3d(far.clone()), &image, &[2, 3], "`reach`");
    refused(FilterConfig::Bm3d(far), &image, &[2, 3], "`sigma` must be at least 0, got -1");
    let none = TotalVariation { weight: 0.0, ..Default::default() };
    refused(FilterConfig::TotalVariation(none), &image, &[2, 3], "`weight`");
    let error = resample_spacing(&image, [1, 2, 3], [1.0, 0.0, 1.0], [1.0; 3]).unwrap_err();
    assert!(error.to_string().contains("`from`"), "{error}");
    let error = resample_spacing(&image, [1, 2, 3], [1.0; 3], [1e-9; 3]).unwrap_err();
    assert!(error.to_string().contains("`to`"), "{error}");
}
