//! Images of a real scan: of its samples, and of those that kernels moved to a grid.

use limpid_mri::{Calibration, Complex, Trajectory};
use serde_json::Value;

use super::fixture::{Fixture, Outcome, Worst, absolute, text};
use super::mri::{dims, trajectory};
use super::mri_data::{Coils, Image, Steps, beside, distance, near, single, weights};
use super::mri_results::{IMAGE, bounded, by_closed_form, by_operators, number, results};

/// Of distances between images.
const APART: f64 = 2e-3;

/// A real scan and its calibration.
struct Scan {
    coils: Coils,
    trajectory: Trajectory,
    weights: Vec<f32>,
    samples: Image,
    region: Vec<usize>,
    kcal: Image,
}

impl Scan {
    fn of(fixture: &Fixture) -> Result<Self, String> {
        Ok(Self {
            coils: Coils::of(fixture, "mps_f16")?,
            trajectory: trajectory(fixture, "trj")?,
            weights: weights(fixture)?,
            samples: single(fixture, "ksp")?,
            region: dims(fixture, "kcal")?[1..].to_vec(),
            kcal: single(fixture, "kcal")?,
        })
    }

    /// The image that a key of the results describes: `grog_os…` or `igrog_closed_calibimg_os…_lam…`.
    fn image(&self, key: &str, steps: Steps) -> Result<Image, String> {
        let unknown = || format!("the results have an image that no function claims: `{key}`");
        let (coils, parts) = (self.coils.count, key.split('_').collect::<Vec<_>>());
        let os = |part: &str| number(part, "os").ok_or_else(unknown);
        let gridded = match parts[..] {
            ["grog", part] => {
                let calibration = (coils, &self.region[..], &self.kcal[..]);
                by_operators(&self.trajectory, calibration, &self.samples, os(part)?)?
            }
            ["igrog", "closed", "calibimg", part, lam] => {
                let lam = number(lam, "lam").ok_or_else(unknown)?;
                let images = Calibration::from_kspace(coils, &self.region, self.kcal.clone());
                let images = images.map_err(text)?;
                by_closed_form(&self.trajectory, &images, &self.samples, os(part)?, lam)?
            }
            _ => return Err(unknown()),
        };
        gridded.image(&self.coils, &self.weights, None, steps)
    }
}

/// The image in the file that a key of the results belongs to: `igrog_closed_calibimg_os2_lam0.001` is
/// `igrog_os2`. Of several for one image, it is the one that lies as far from `nufft` as that.
fn stored(
    fixture: &Fixture,
    key: &str,
    nufft: &[Complex<f32>],
    apart: f64,
) -> Result<Option<Image>, String> {
    let words = ["grog", "igrog"].into_iter().chain(key.split('_').filter(|p| p.starts_with("os")));
    let words: Vec<&str> = words.filter(|word| key.split('_').any(|part| part == *word)).collect();
    let name = words.join("_");
    if !fixture.tensors.contains_key(&name) {
        return Ok(None);
    }
    let image = single(fixture, &name)?;
    Ok(((distance(&image, nufft) - apart).abs() < 1e-5).then_some(image))
}

/// `<scan>_recon`, with the settings in JSON beside it.
pub(super) fn images(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let scan = Scan::of(&Fixture::load(&beside(&fixture.path, "")?)?)?;
    let results = results(&fixture.path)?;
    let is_own = |file: &&Value| {
        let keys = file.as_object().into_iter().flatten();
        keys.into_iter().any(|(key, _)| key.starts_with("nufft_cg"))
    };
    let own = results.iter().find(is_own).and_then(Value::as_object);
    let own = own.ok_or("no JSON file beside it has settings of `nufft`")?;
    let (key, entry) =
        own.iter().find(|(key, _)| key.starts_with("nufft_")).ok_or("no settings of `nufft`")?;
    let lmax = entry.get("lmax").and_then(Value::as_f64).ok_or("`lmax` is not said")?;
    let settings = || {
        let [_, cg, lam] = key.split('_').collect::<Vec<_>>()[..] else { return None };
        Some(Steps { iterations: number(cg, "cg")?, lam: number(lam, "lam")?, lmax: Some(lmax) })
    };
    let steps = settings().ok_or_else(|| format!("`{key}` does not say the settings"))?;

    let nufft = || scan.coils.nufft(&scan.trajectory, scan.weights.clone());
    let image = scan.coils.image(nufft()?, scan.samples.clone(), steps)?;
    let expected = single(fixture, "nufft")?;
    near(&mut worst, "nufft", &image, &expected, IMAGE);
    bounded(&mut worst, "nufft: lmax", &scan.coils.see(nufft()?)?, lmax)?;
    let mut compared = 1;
    for (key, entry) in own.iter().filter(|(other, _)| *other != key) {
        // operators on a grid have eigenvalues of their own
        let got = scan.image(key, Steps { lmax: None, ..steps })?;
        let Some(apart) = entry.get("nrmse_vs_nufft").and_then(Value::as_f64) else { continue };
        let what = format!("{key}: nrmse_vs_nufft");
        worst.compare(&what, &[distance(&got, &image)], &[apart], absolute(APART));
        if let Some(stored) = stored(fixture, key, &expected, apart)? {
            near(&mut worst, key, &got, &stored, IMAGE);
            compared += 1;
        }
    }
    worst.require("every image has its settings", compared == fixture.tensors.len());
    worst.done()
}
