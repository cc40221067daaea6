//! Classical filters and resampling, beside scipy, scikit-image and nucli.

use std::collections::BTreeMap;

use limpid_classical::{
    Affine, Bilateral, Bm3d, Border, FilterConfig, Gaussian, Interpolation, Median, NonLocalMeans,
    Order, PatchCenters, PerAxis, TotalVariation, Uniform, Wavelet, affine_sample, apply, bm3d,
    body_mask, clean_mask, estimate_sigma, gaussian, prune_centers,
    resample_spacing as resample_to, resize, roughness, sigma_from_fwhm, valid_centers,
};
use limpid_kernels::Resize;
use serde::Deserialize;

use super::fixture::{Fixture, Outcome, Worst, absolute, text};

/// scikit-image's own non-local means has an approximate exponential: largest and mean difference.
const APPROXIMATE: (f64, f64) = (1.5e-2, 2e-3);
/// Standard deviation of the noise that the fixtures were made with.
const NOISE: f64 = 0.1;

/// The filters of `baselines`: the name of each result says which filter and, but for what its
/// recipe keeps fixed, with which parameters.
pub(super) fn baselines(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for name in fixture.names() {
        if ["clean", "noisy", "clean3d", "noisy3d"].contains(&name) {
            continue;
        }
        let input = if name.contains("3d") { "noisy3d" } else { "noisy" };
        let (image, shape) = (fixture.values(input)?, fixture.shape(input)?);
        let expected = fixture.values(name)?;
        if let Some(kappa) = name.strip_prefix("nucli_pm_metric_kappa") {
            // the scan of the recipe is the volume in units of a tenth
            let scan: Vec<f64> =
                fixture.values("noisy3d")?.iter().map(|value| 10.0 * value).collect();
            let score =
                roughness(&scan, fixture.shape("noisy3d")?, number(kappa)?).map_err(text)?;
            worst.compare(name, &[score], &expected, absolute(1e-9));
        } else if name == "sigma_est_wavelet" {
            let sigma = estimate_sigma(&image, shape).map_err(text)?;
            worst.compare(name, &[sigma], &expected, absolute(1e-9));
        } else if name == "bilateral" {
            let clipped: Vec<f64> = image.iter().map(|value| value.clamp(0.0, 1.0)).collect();
            let got = apply(&filter(fixture, name)?, &clipped, shape).map_err(text)?;
            worst.compare(name, &got, &expected, absolute(1e-9));
        } else {
            let got = apply(&filter(fixture, name)?, &image, shape).map_err(text)?;
            let approximate = name.contains("_slow") || name.contains("_fast");
            let tolerance = if approximate { APPROXIMATE.0 } else { 1e-9 };
            worst.compare(name, &got, &expected, absolute(tolerance));
            if approximate && got.len() == expected.len() {
                let sum: f64 = got.iter().zip(&expected).map(|(g, e)| (g - e).abs()).sum();
                let mean = sum / got.len() as f64;
                worst.compare(
                    &format!("{name} on average"),
                    &[mean],
                    &[0.0],
                    absolute(APPROXIMATE.1),
                );
            }
        }
    }
    worst.done()
}

/// The filter that made the result called `name`.
fn filter(fixture: &Fixture, name: &str) -> Result<FilterConfig, String> {
    let (kind, rest) = name.split_once('_').unwrap_or((name, ""));
    let parts: Vec<&str> = rest.split('_').collect();
    // the number that follows a letter in a part of its own, such as 0.08 in `h0.08`
    let after =
        |letter: &str| parts.iter().find_map(|part| part.strip_prefix(letter)?.parse().ok());
    Ok(match kind {
        "gauss" => {
            let border = match rest {
                "reflect" => Border::Reflect,
                "nearest" => Border::Nearest,
                "mirror" => Border::Mirror,
                "wrap" => Border::Wrap,
                "constant" => Border::Constant(0.0),
                other => return Err(format!("unknown border `{other}`")),
            };
            FilterConfig::Gaussian(Gaussian { sigma: PerAxis::All(fixture.meta("sigma")?), border })
        }
        "gauss3d" => {
            let sigma = match parts[..] {
                ["aniso"] => {
                    let sigma: f64 = fixture.meta("sigma")?;
                    [1.0, 0.8, 1.5].map(|factor| sigma * factor).to_vec()
                }
                [fwhm, spacing] => {
                    let width = number(fwhm.trim_start_matches("fwhm").trim_end_matches("mm"))?;
                    let axes = spacing.trim_start_matches("spacing").split('x');
                    axes.map(|s| Ok(sigma_from_fwhm(width, number(s)?)))
                        .collect::<Result<_, String>>()?
                }
                _ => return Err(format!("unknown Gaussian `{name}`")),
            };
            let border = Border::Reflect;
            FilterConfig::Gaussian(Gaussian { sigma: PerAxis::Each(sigma), border })
        }
        "nlm" | "nlm3d" => {
            let volume = kind == "nlm3d";
            let fast = parts[0] == "fast";
            let aware = parts.contains(&"sigma");
            // what the recipe keeps fixed where the name does not say
            let (size, distance, h) = match (volume, aware) {
                (true, _) => (3, if fast { 3 } else { 2 }, 0.07),
                (false, true) => (5, 5, 0.06),
                (false, false) => (5, 6, 0.08),
            };
            FilterConfig::NonLocalMeans(NonLocalMeans {
                patch_size: after("p").map_or(size, |p: f64| p as usize),
                patch_distance: after("d").map_or(distance, |d: f64| d as usize),
                h: after("h").unwrap_or(h),
                sigma: if aware { NOISE } else { 0.0 },
                fast,
            })
        }
        "tv" | "tv3d" => {
            let fixed: Option<f64> = after("fixed");
            let defaults = TotalVariation::default();
            FilterConfig::TotalVariation(TotalVariation {
                weight: after("w").ok_or("no weight in the name")?,
                tolerance: if fixed.is_some() { 0.0 } else { defaults.tolerance },
                max_iterations: fixed.map_or(defaults.max_iterations, |n| n as usize),
            })
        }
        "bilateral" => FilterConfig::Bilateral(Bilateral {
            sigma_color: Some(0.1),
            sigma_spatial: 1.5,
            window: Some(7),
            border: Border::Constant(0.0),
            skewed: true,
        }),
        "wavelet" => {
            let [threshold, basis, shrinkage] = parts[..] else {
                return Err(format!("unknown wavelet shrinkage `{name}`"));
            };
            let threshold = if threshold == "visu" { "universal" } else { threshold };
            let config = serde_json::json!({
                "basis": basis, "threshold": threshold, "shrinkage": shrinkage, "sigma": NOISE,
            });
            FilterConfig::Wavelet(serde_json::from_value::<Wavelet>(config).map_err(text)?)
        }
        kind => {
            let size = |prefix: &str| kind.strip_prefix(prefix)?.parse::<usize>().ok();
            let side = rest.parse::<usize>().ok().filter(|_| kind == "median3d");
            if let Some(size) = side.or_else(|| size("median")) {
                FilterConfig::Median(Median { size: PerAxis::All(size), ..Median::default() })
            } else if let Some(size) = size("uniform") {
                FilterConfig::Uniform(Uniform { size: PerAxis::All(size), ..Uniform::default() })
            } else {
                return Err(format!("the file has a result that no filter claims: `{name}`"));
            }
        }
    })
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("cannot read the number `{text}`"))
}

/// How far BM3D may stay behind the program of its authors, in decibels.
const BEHIND: f64 = 0.3;

/// BM3D and BM4D: what counts is how near they come to the clean image. The noise that they were
/// told of is not in the file; we take what there is.
pub(super) fn block_matching(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let told: BTreeMap<String, f64> = fixture.json("psnr")?;
    for (reference, axes) in [("bm3d", ""), ("bm4d", "3d")] {
        if !fixture.tensors.contains_key(reference) {
            continue;
        }
        let (noisy, clean) = (format!("noisy{axes}"), format!("clean{axes}"));
        let (image, shape) = (fixture.values(&noisy)?, fixture.shape(&noisy)?);
        let clean = fixture.values(&clean)?;
        let theirs = psnr(&fixture.values(reference)?, &clean);
        let sigma = Some(10f64.powf(-0.05 * psnr(&image, &clean)));
        let ours = bm3d(&image, shape, &Bm3d { sigma, ..Bm3d::default() }).map_err(text)?;
        let ours = psnr(&ours, &clean);
        worst.compare(reference, &[ours.min(theirs)], &[theirs], absolute(BEHIND));
        // the other results of which the file has the score alone
        for (name, score) in &told {
            let got = if *name == noisy {
                psnr(&image, &clean)
            } else if name == reference {
                theirs
            } else if let Some(sigma) = name.strip_prefix(&format!("gauss{axes}_s")) {
                let sigma = PerAxis::All(number(sigma)?);
                let smooth = Gaussian { sigma, border: Border::Reflect };
                psnr(&gaussian(&image, shape, &smooth).map_err(text)?, &clean)
            } else {
                continue;
            };
            worst.compare(&format!("PSNR of {name}"), &[got], &[*score], absolute(1e-6));
        }
    }
    worst.done()
}

/// Peak signal to noise ratio of an image with a range of 1, in decibels.
fn psnr(image: &[f64], clean: &[f64]) -> f64 {
    let squares: f64 = image.iter().zip(clean).map(|(a, b)| (a - b) * (a - b)).sum();
    -10.0 * (squares / clean.len() as f64).log10()
}

/// `skimage.transform.resize`, and the resampling of PyTorch.
pub(super) fn resample(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let (volume, shape) = (fixture.values("vol")?, fixture.shape("vol")?);
    for name in fixture.names() {
        if let Some(rest) = name.strip_prefix("torch_") {
            resample_tensor(fixture, name, rest, &mut worst)?;
            continue;
        }
        if let Some(rest) = name.strip_prefix("grid_sample_") {
            sample_grid(fixture, name, rest, &mut worst)?;
            continue;
        }
        let Some(rest) = name.strip_prefix("skresize_o") else { continue };
        let (order, tolerance) = match rest.split_once('_').map(|(order, _)| order) {
            Some("0") => (Order::Nearest, 1e-5),
            Some("1") => (Order::Linear, 1e-5),
            Some("3") => (Order::Cubic, 1e-6),
            _ => return Err(format!("unknown order of `{name}`")),
        };
        let smooth_first = rest.ends_with("aaTrue");
        let got =
            resize(&volume, shape, fixture.shape(name)?, order, smooth_first).map_err(text)?;
        worst.compare(name, &got, &fixture.values(name)?, absolute(tolerance));
    }
    worst.done()
}

/// `torch.nn.functional.interpolate` in the mode `mode`, of the image or volume with as many axes.
fn resample_tensor(
    fixture: &Fixture,
    name: &str,
    mode: &str,
    worst: &mut Worst,
) -> Result<(), String> {
    let expected = fixture.tensor(name)?;
    let size = expected.dims().get(2..).ok_or_else(|| format!("`{name}` has too few axes"))?;
    let input = fixture.tensor(if size.len() == 3 { "vol" } else { "img" })?;
    let input = input.unsqueeze(0).and_then(|t| t.unsqueeze(0)).map_err(text)?;
    let mode = match mode {
        "area" => {
            let got = limpid_kernels::adaptive_avg_pool(&input, size).map_err(text)?;
            return worst.tensor(name, &got, expected, absolute(1e-5));
        }
        "nearest" => Resize::Nearest,
        "bilinear_aa" => Resize::LinearSmoothed,
        "bicubic_aa" => Resize::CubicSmoothed,
        "bicubic" => Resize::Cubic { align_corners: false },
        "trilinear_acFalse" => Resize::Linear { align_corners: false },
        "trilinear_acTrue" => Resize::Linear { align_corners: true },
        _ => return Err(format!("the file has a result that nothing claims: `{name}`")),
    };
    let got = limpid_kernels::resize(&input, size, mode).map_err(text)?;
    worst.tensor(name, &got, expected, absolute(1e-5))
}

/// `torch.nn.functional.grid_sample` of the image, on the grid that `theta` makes.
fn sample_grid(fixture: &Fixture, name: &str, mode: &str, worst: &mut Worst) -> Result<(), String> {
    let theta = fixture.values("theta")?;
    let &[a, b, c, d, e, f] = theta.as_slice() else {
        return Err(format!("`theta` has {} values instead of 6", theta.len()));
    };
    let &[rows, columns] = fixture.shape("img")? else {
        return Err("`img` is not an image".into());
    };
    let &[.., out_rows, out_columns] = fixture.shape(name)? else {
        return Err(format!("`{name}` has too few axes"));
    };
    let (mode, align_corners) = match mode.strip_suffix("_ac") {
        Some(mode) => (mode, true),
        None => (mode, false),
    };
    let (interpolation, border) = match mode.split_once('_') {
        Some(("bilinear", border)) => (Interpolation::Linear, border),
        Some(("bicubic", border)) => (Interpolation::Cubic, border),
        _ => return Err(format!("the file has a result that nothing claims: `{name}`")),
    };
    let border = match border {
        "zeros" => Border::Constant(0.0),
        "border" => Border::Nearest,
        "reflect" if align_corners => Border::Mirror,
        "reflect" => Border::Reflect,
        _ => return Err(format!("unknown border of `{name}`")),
    };
    let matrix = [[a, b, c], [d, e, f]];
    let affine = Affine { matrix, interpolation, border, align_corners };
    let image = fixture.values("img")?;
    let got = affine_sample(&image, [rows, columns], [out_rows, out_columns], &affine);
    worst.compare(name, &got.map_err(text)?, &fixture.values(name)?, absolute(1e-5));
    Ok(())
}

/// nucli's change of voxel size.
pub(super) fn resample_spacing(fixture: &Fixture) -> Result<Outcome, String> {
    #[derive(Deserialize)]
    struct Case {
        from: [f64; 3],
        to: [f64; 3],
    }
    let mut worst = Worst::default();
    let shape = three(fixture.shape("vol")?)?;
    let volume = fixture.values("vol")?;
    for (name, case) in fixture.json::<BTreeMap<String, Case>>("cases")? {
        let (got, new) = resample_to(&volume, shape, case.from, case.to).map_err(text)?;
        worst.require(&format!("{name}: shape {new:?}"), new == fixture.shape(&name)?);
        worst.compare(&name, &got, &fixture.values(&name)?, absolute(1e-6));
    }
    worst.done()
}

/// nucli's choice of training patches.
pub(super) fn patch_centers(fixture: &Fixture) -> Result<Outcome, String> {
    let parameters = PatchCenters {
        threshold: fixture.meta("thr")?,
        patch: fixture.json("patch")?,
        min_fraction: fixture.meta("min_frac")?,
    };
    let mut worst = Worst::default();
    let shape = three(fixture.shape("volume")?)?;
    let valid = valid_centers(&fixture.values("volume")?, shape, &parameters).map_err(text)?;
    let valid: Vec<f64> = valid.iter().map(|set| f64::from(u8::from(*set))).collect();
    worst.compare("valid", &valid, &fixture.values("valid")?, absolute(0.0));

    let volume = fixture.values("volume")?;
    for (name, mask) in [
        ("mask_clean", clean_mask(&volume, shape, parameters.threshold)),
        ("mask_dilated", body_mask(&volume, shape, parameters.threshold)),
    ] {
        let mask: Vec<f64> =
            mask.map_err(text)?.iter().map(|set| f64::from(u8::from(*set))).collect();
        worst.compare(name, &mask, &fixture.values(name)?, absolute(0.0));
    }

    let coordinates = fixture.values("coords_in_order")?;
    // the order is one of the valid centres as they follow each other in the volume
    let found: Vec<usize> = (0..valid.len()).filter(|i| valid[*i] != 0.0).collect();
    let place = |i: &usize| [i / shape[2] / shape[1], i / shape[2] % shape[1], i % shape[2]];
    let ordered: Vec<f64> = fixture
        .values("order")?
        .iter()
        .filter_map(|i| found.get(*i as usize).map(place))
        .flatten()
        .map(|v| v as f64)
        .collect();
    worst.compare("coords_in_order", &ordered, &coordinates, absolute(0.0));
    let centers: Vec<[usize; 3]> =
        coordinates.chunks_exact(3).map(|c| [c[0], c[1], c[2]].map(|v| v as usize)).collect();
    for name in fixture.names() {
        let Some(overlap) = name.strip_prefix("selected_overlap") else { continue };
        let kept = prune_centers(&centers, parameters.patch, number(overlap)?).map_err(text)?;
        let kept: Vec<f64> = kept.into_iter().flatten().map(|v| v as f64).collect();
        worst.compare(name, &kept, &fixture.values(name)?, absolute(0.0));
    }
    worst.done()
}

fn three(shape: &[usize]) -> Result<[usize; 3], String> {
    shape.try_into().map_err(|_| format!("expected three axes, got {shape:?}"))
}
