//! How good a restored image is: the scores that reports show.

use limpid_cli::Failure;
use limpid_losses::metrics::{Image, Normaliser, SsimSpec, mae, nrmse, psnr, ssim};

/// Scores of an image against its reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores {
    /// PSNR in dB.
    pub(crate) psnr: f64,
    /// SSIM with a uniform window of 7 (scikit-image's default); NaN for images below 7 pixels.
    pub(crate) ssim: f64,
    /// Mean absolute error, in the unit of the file.
    pub(crate) mae: f64,
    /// Root mean squared error over the Euclidean norm of the reference.
    pub(crate) nrmse: f64,
}

impl Scores {
    /// Names as tables and files show them.
    pub(crate) const NAMES: [&str; 4] = ["psnr_db", "ssim_uniform7", "mae", "nrmse_euclidean"];

    pub(crate) fn of(
        image: &[f32],
        reference: &[f32],
        shape: &[usize],
        range: f64,
    ) -> Result<Self, Failure> {
        let bad = |e: limpid_kernels::Error| Failure::data(e);
        let (a, b) = (Image::new(image, shape).map_err(bad)?, Image::new(reference, shape).map_err(bad)?);
        Ok(Self {
            psnr: psnr(&a, &b, range).map_err(bad)?,
            ssim: ssim(&a, &b, range, &SsimSpec::SKIMAGE).unwrap_or(f64::NAN),
            mae: mae(&a, &b).map_err(bad)?,
            nrmse: nrmse(&a, &b, Normaliser::Euclidean).map_err(bad)?,
        })
    }

    pub(crate) fn values(&self) -> [f64; 4] {
        [self.psnr, self.ssim, self.mae, self.nrmse]
    }

    /// As a table shows them.
    pub(crate) fn cells(&self) -> [String; 4] {
        [
            format!("{:.2}", self.psnr),
            format!("{:.4}", self.ssim),
            format!("{:.3}", self.mae),
            format!("{:.4}", self.nrmse),
        ]
    }
}
