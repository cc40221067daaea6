//! Projections and reconstructions, beside scikit-image and the definition of the EM algorithms.

use limpid_classical::{Osem, Projector, Radon, RampFilter, SystemMatrix};

use super::fixture::{Fixture, Outcome, Worst, absolute, relative, text};

const CLOSE: f64 = 1e-9;

/// Radon transform, filtered back-projection, MLEM and OSEM.
pub(super) fn reconstructions(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let shape: [usize; 2] = (fixture.shape("phantom")?.try_into())
        .map_err(|_| "`phantom` is not an image".to_string())?;
    let phantom = fixture.values("phantom")?;
    let expected = fixture.values("radon")?;
    // the transform of the disk within an image has as many detectors as the image is wide
    let detectors = fixture.shape("radon")?.first().copied();
    let circle = detectors == Some(shape[0]);
    let radon = Radon::new(shape, &fixture.values("theta_deg")?, circle).map_err(text)?;
    let sinogram = radon.project(&phantom).map_err(text)?;
    worst.require("radon: its shape", radon.sinogram_shape() == fixture.shape("radon")?);
    worst.compare("radon", &sinogram, &expected, absolute(CLOSE));

    let back = radon.back_project(&expected).map_err(text)?;
    let (there, here) = (dot(&sinogram, &expected), dot(&phantom, &back));
    worst.compare("adjoint", &[here], &[there], relative(1e-12));

    for name in fixture.names() {
        if let Some(filter) = name.strip_prefix("fbp_") {
            let filter = serde_json::from_value::<RampFilter>(filter.into());
            let filter = filter.map_err(|e| format!("{name}: {e}"))?;
            let got = radon.filtered_back_projection(&expected, filter).map_err(text)?;
            worst.compare(name, &got, &fixture.values(name)?, absolute(CLOSE));
        } else if name == "mlem.traj" {
            trajectory(fixture, name, 1, &mut worst)?;
        } else if let Some(subsets) =
            name.strip_prefix("osem").and_then(|n| n.strip_suffix(".traj"))
        {
            let subsets = subsets.parse().map_err(|_| format!("no number of subsets: `{name}`"))?;
            trajectory(fixture, name, subsets, &mut worst)?;
        }
    }
    worst.done()
}

/// The image after each iteration.
fn trajectory(
    fixture: &Fixture,
    name: &str,
    subsets: usize,
    worst: &mut Worst,
) -> Result<(), String> {
    let pixels = fixture.shape("mlem.A")?.last().copied().unwrap_or(0);
    let matrix = SystemMatrix::new(fixture.values("mlem.A")?, pixels).map_err(text)?;
    let (counts, background) = (fixture.values("mlem.y")?, fixture.values("mlem.background")?);
    let mut osem = Osem::new(&matrix, &counts, &background, subsets).map_err(text)?;
    let (mut images, mut likelihoods) = (Vec::new(), Vec::new());
    for _ in 0..fixture.shape(name)?.first().copied().unwrap_or(0) {
        likelihoods.push(osem.log_likelihood().map_err(text)?);
        osem.iterate().map_err(text)?;
        images.extend_from_slice(osem.image());
    }
    worst.compare(name, &images, &fixture.values(name)?, absolute(CLOSE));
    if subsets == 1 {
        let name = "mlem.loglik_before_iter";
        worst.compare(name, &likelihoods, &fixture.values(name)?, relative(CLOSE));
    }
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
