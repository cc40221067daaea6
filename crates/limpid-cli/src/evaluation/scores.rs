//! How good a restored image is: the scores that reports show.

use crate::Failure;
use limpid_io::{Axis, VolumeInfo};
use limpid_losses::metrics::{Image, Normaliser, SsimSpec, mae, nrmse, psnr, ssim};

/// Scores of an image against its reference.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// PSNR in dB.
    pub psnr: f64,
    /// SSIM with a uniform window of 7 (scikit-image's default); NaN for images below 7 pixels.
    pub ssim: f64,
    /// Mean absolute error, in the unit of the file.
    pub mae: f64,
    /// Root mean squared error over the Euclidean norm of the reference.
    pub nrmse: f64,
}

impl Scores {
    /// Names as tables and files show them.
    pub const NAMES: [&str; 4] = ["psnr_db", "ssim_uniform7", "mae", "nrmse_euclidean"];

    /// Scores of images of `shape`, as many as the values hold, one after the other: the channels
    /// and frames of a file. Averaged.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::Kind::Data) if the shape does not fit.
    pub fn of(
        values: &[f32],
        reference: &[f32],
        shape: &[usize],
        range: f64,
    ) -> Result<Self, Failure> {
        let samples = shape.iter().product::<usize>().max(1);
        let images = values.chunks(samples).zip(reference.chunks(samples));
        let all = images
            .map(|(image, reference)| Self::of_one(image, reference, shape, range))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Failure::data)?;
        Ok(Self::mean(&all))
    }

    fn of_one(
        image: &[f32],
        reference: &[f32],
        shape: &[usize],
        range: f64,
    ) -> limpid_kernels::Result<Self> {
        let (a, b) = (Image::new(image, shape)?, Image::new(reference, shape)?);
        let spec = SsimSpec::SKIMAGE;
        Ok(Self {
            psnr: psnr(&a, &b, range)?,
            // no window fits a smaller image
            ssim: if has_ssim(shape) { ssim(&a, &b, range, &spec)? } else { f64::NAN },
            mae: mae(&a, &b)?,
            nrmse: nrmse(&a, &b, Normaliser::Euclidean)?,
        })
    }

    /// The mean of each score.
    #[must_use]
    pub fn mean(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        Self {
            psnr: mean(|s| s.psnr),
            ssim: mean(|s| s.ssim),
            mae: mean(|s| s.mae),
            nrmse: mean(|s| s.nrmse),
        }
    }

    /// In the order of the names.
    #[must_use]
    pub fn values(&self) -> [f64; 4] {
        [self.psnr, self.ssim, self.mae, self.nrmse]
    }

    /// As a table shows them.
    #[must_use]
    pub fn cells(&self) -> [String; 4] {
        let cell = |value: f64, digits: usize| match value {
            v if v.is_nan() => "-".to_owned(),
            v => format!("{v:.digits$}"),
        };
        [cell(self.psnr, 2), cell(self.ssim, 4), cell(self.mae, 3), cell(self.nrmse, 4)]
    }
}

/// Whether the window of SSIM fits an image.
#[must_use]
pub fn has_ssim(shape: &[usize]) -> bool {
    shape.iter().all(|&n| n >= 7)
}

/// The part of an image that counts as space, its last two or three axes: Z is one if the file has
/// it, unless `dims` is 2. Along the other axes (time, channel) lie images of their own.
///
/// # Errors
/// [`Kind::Data`](crate::Kind::Data) for three dimensions of an image without Z.
pub fn space(info: &VolumeInfo, dims: Option<u8>) -> Result<&[usize], Failure> {
    let volume = info.axes.position(Axis::Z).is_some();
    if dims == Some(3) && !volume {
        return Err(Failure::data(format!("the image has the axes {} and no Z", info.axes))
            .hint("leave out `--dims 3`"));
    }
    // axes are always in the order T, C, Z, Y, X
    let rank = if volume && dims != Some(2) { 3 } else { 2 };
    Ok(&info.shape[info.shape.len() - rank..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_io::DType;

    fn info(axes: &str, shape: &[usize]) -> VolumeInfo {
        VolumeInfo::new(shape, axes.parse().unwrap(), DType::U8).unwrap()
    }

    #[test]
    fn channels_and_times_are_no_space() {
        for (axes, shape, dims, expected) in [
            ("YX", &[8, 9][..], None, &[8, 9][..]),
            ("CYX", &[3, 8, 9], None, &[8, 9]),
            ("TCZYX", &[2, 3, 5, 8, 9], None, &[5, 8, 9]),
            ("TCZYX", &[2, 3, 5, 8, 9], Some(2), &[8, 9]),
            ("ZYX", &[5, 8, 9], Some(3), &[5, 8, 9]),
        ] {
            assert_eq!(space(&info(axes, shape), dims).unwrap(), expected, "{axes} {dims:?}");
        }
        assert_eq!(space(&info("TYX", &[5, 8, 9]), Some(3)).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn scores_of_a_colour_image_are_the_means_of_its_channels() {
        let reference: Vec<f32> = (0..3 * 64).map(|i| (i * 37 % 101) as f32).collect();
        let noise = |i: usize| ((i * 53 % 17) as f32 - 8.0) * (1 + i / 64) as f32;
        let image: Vec<f32> = reference.iter().enumerate().map(|(i, v)| v + noise(i)).collect();
        let scores = |part: std::ops::Range<usize>| {
            Scores::of(&image[part.clone()], &reference[part], &[8, 8], 255.0).unwrap()
        };
        let channels = [scores(0..64), scores(64..128), scores(128..192)];
        let all = scores(0..192);
        assert!(all.ssim.is_finite());
        assert_eq!(all.values(), Scores::mean(&channels).values());
        assert!(channels[0].psnr > channels[2].psnr + 6.0, "{channels:?}");
    }
}
