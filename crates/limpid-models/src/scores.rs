//! What validation says of restored images, and shows.

use candle_core::{DType, Tensor};
use limpid_engine::{Batch, Error, Logs, Picture, Result, Score};
use limpid_losses::metrics::{Image, SsimSpec, psnr, ring_correlation, ssim};
use std::sync::Arc;

/// How validation measures: in which unit, against what.
#[derive(Clone)]
pub struct Measure {
    /// Span of valid intensities after `denormalise`, for PSNR and SSIM.
    pub data_range: f64,
    /// Turns normalised intensities back into those of the file, in place.
    pub denormalise: Arc<dyn Fn(&mut [f32]) + Send + Sync>,
    /// Whether validation batches hold the truth (`clean`, or `target` in the supervised case).
    /// Without it only the loss is known.
    pub truth: bool,
}

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measure")
            .field("data_range", &self.data_range)
            .field("truth", &self.truth)
            .finish_non_exhaustive()
    }
}

/// The scores of restored images.
#[derive(Clone, Debug)]
pub(crate) struct Scorer {
    pub(crate) measure: Measure,
    /// Also what tells restorations apart that are drawn: how far detail is that of the truth
    /// (`frc`, the mean Fourier ring correlation up to Nyquist), and how far brightness has drifted
    /// (`dc`, the difference of the means in the intensities of the file).
    pub(crate) drawn: bool,
}

impl Scorer {
    /// The scores, the first of which decides.
    pub(crate) fn list(&self) -> Vec<Score> {
        let names: &[&str] = if self.drawn {
            &["psnr", "ssim", "frc", "dc", "psnr_gain"]
        } else {
            &["psnr", "ssim", "psnr_gain"]
        };
        let score = |name: &&str| Score { name: (*name).into(), higher_is_better: *name != "dc" };
        names.iter().map(score).collect()
    }

    /// The truth of a validation batch, if it has one.
    pub(crate) fn truth<'b>(&self, batch: &'b Batch) -> Result<Option<&'b Tensor>> {
        if !self.measure.truth {
            return Ok(None);
        }
        batch.get("clean").or_else(|_| batch.get("target")).map(Some)
    }

    /// Scores of one sample, all `[C, s…]`; channels are averaged. The gain is left out where the
    /// input has another shape.
    pub(crate) fn scores(&self, input: &Tensor, y: &Tensor, truth: &Tensor) -> Result<Logs> {
        let dims = truth.dims();
        let (values, truth) = (self.physical(y)?, self.physical(truth)?);
        let range = self.measure.data_range;
        let psnr_of = |a: &Image, b: &Image| psnr(a, b, range).map_err(boxed);
        let psnr = means(&values, &truth, dims, psnr_of)?;
        // images smaller than a window have no SSIM, and those of less than 4 pixels no rings
        let ssim = means(&values, &truth, dims, |a, b| {
            Ok(ssim(a, b, range, &SsimSpec::SKIMAGE).unwrap_or(f64::NAN))
        })?;
        let mut logs = Logs::from([("psnr".to_owned(), psnr), ("ssim".to_owned(), ssim)]);
        if self.drawn {
            let rings = means(&values, &truth, dims, |a, b| Ok(mean_ring(a, b)))?;
            logs.insert("frc".to_owned(), rings);
            let shift = |a: &Image, b: &Image| Ok((mean(a) - mean(b)).abs());
            logs.insert("dc".to_owned(), means(&values, &truth, dims, shift)?);
        }
        if input.dims() == y.dims() {
            let before = means(&self.physical(input)?, &truth, dims, psnr_of)?;
            logs.insert("psnr_gain".to_owned(), psnr - before);
        }
        Ok(logs)
    }

    /// One sample in the intensities of the file.
    pub(crate) fn physical(&self, sample: &Tensor) -> Result<Vec<f32>> {
        let mut values = sample.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        (self.measure.denormalise)(&mut values);
        Ok(values)
    }

    /// The first sample of a batch: input, output, and the truth if there is one.
    pub(crate) fn pictures(
        &self,
        batch: &Batch,
        predict: &dyn Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Picture>> {
        let input = batch.get("input")?.narrow(0, 0, 1)?;
        let y = predict(&input)?;
        let mut panels = vec![("input", input), ("output", y)];
        let reference = batch.get("clean").or_else(|_| batch.get("target"));
        if let Ok(target) = reference {
            panels.push(("target", target.narrow(0, 0, 1)?));
        }
        let dims = panels[0].1.dims().to_vec();
        let size = [dims[dims.len() - 2], dims[dims.len() - 1]];
        let panels = panels
            .into_iter()
            .map(|(title, t)| {
                // the first channel; the middle slice of a volume
                let values = self.physical(&t.get(0)?)?;
                let plane = size[0] * size[1];
                let slices = t.dims()[2..t.rank() - 2].iter().product::<usize>();
                let middle = slices / 2 * plane;
                Ok((title.to_owned(), values[middle..middle + plane].to_vec()))
            })
            .collect::<Result<Vec<_>>>()?;
        let window = display_window(&panels[panels.len() - 1].1);
        let name = batch.ids.first().map_or_else(String::new, |id| stem(&id.file));
        Ok(vec![Picture { name, size, panels, window }])
    }
}

/// A score of two samples `[C, s…]`, averaged over the channels.
fn means(
    sample: &[f32],
    truth: &[f32],
    dims: &[usize],
    score: impl Fn(&Image, &Image) -> Result<f64>,
) -> Result<f64> {
    let voxels: usize = dims[1..].iter().product();
    let mut sum = 0.0;
    for (a, b) in sample.chunks(voxels).zip(truth.chunks(voxels)) {
        sum += score(&image(a, &dims[1..])?, &image(b, &dims[1..])?)?;
    }
    Ok(sum / dims[0] as f64)
}

/// The mean of the ring correlation from the lowest frequency up to Nyquist; the window keeps the
/// borders of a patch from correlating.
fn mean_ring(a: &Image, b: &Image) -> f64 {
    let Ok(rings) = ring_correlation(a, b, &vec![1.0; a.shape().len()], true) else {
        return f64::NAN;
    };
    let rings = &rings.correlation[1..];
    rings.iter().sum::<f64>() / rings.len() as f64
}

fn mean(image: &Image) -> f64 {
    (0..image.len()).map(|i| image.at(i)).sum::<f64>() / image.len() as f64
}

fn image<'a>(values: &'a [f32], shape: &'a [usize]) -> Result<Image<'a>> {
    Image::new(values, shape).map_err(boxed)
}

fn boxed(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Data(Box::new(e))
}

/// The 1st and 99.5th percentile: the intensities that a viewer would show black and white.
#[must_use]
pub fn display_window(values: &[f32]) -> [f32; 2] {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    if sorted.is_empty() {
        return [0.0, 1.0];
    }
    sorted.sort_by(f32::total_cmp);
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q) as usize];
    [at(0.01), at(0.995)]
}

fn stem(file: &str) -> String {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use limpid_kernels::rng::Stream;

    fn scorer(drawn: bool) -> Scorer {
        let denormalise: Arc<dyn Fn(&mut [f32]) + Send + Sync> =
            Arc::new(|values| values.iter_mut().for_each(|v| *v *= 10.0));
        Scorer { measure: Measure { data_range: 10.0, denormalise, truth: true }, drawn }
    }

    fn random(purpose: &str) -> Tensor {
        let mut values = vec![0f32; 2 * 32 * 32];
        Stream::new(1, purpose).fill_uniform(&mut values);
        Tensor::from_vec(values, (2, 32, 32), &Device::Cpu).unwrap()
    }

    #[test]
    fn drawn_images_are_judged_by_detail_and_brightness_too() {
        let truth = random("truth");
        let brighter = truth.affine(1.0, 0.05).unwrap();
        let scores = scorer(true).scores(&truth, &brighter, &truth).unwrap();
        // the same detail, half a unit of the file brighter: 20·log10(10/0.5) dB
        assert!((scores["frc"] - 1.0).abs() < 1e-6 && (scores["dc"] - 0.5).abs() < 1e-5);
        assert!((scores["psnr"] - 26.020_6).abs() < 1e-3, "{scores:?}");
        let other = scorer(true).scores(&brighter, &random("other"), &truth).unwrap();
        assert!(other["frc"].abs() < 0.1 && other["dc"] < 0.3, "{other:?}");
        assert!((other["psnr"] - scores["psnr"] - other["psnr_gain"]).abs() < 1e-9);
        let mut reported: Vec<String> = scorer(true).list().into_iter().map(|s| s.name).collect();
        reported.sort();
        assert!(reported.iter().eq(scores.keys()), "{reported:?}");
    }

    #[test]
    fn what_is_not_drawn_reports_what_it_did() {
        let truth = random("truth");
        let scores = scorer(false).scores(&truth, &random("other"), &truth).unwrap();
        let names: Vec<&str> = scores.keys().map(String::as_str).collect();
        assert_eq!(names, ["psnr", "psnr_gain", "ssim"]);
        assert!(scorer(false).list().iter().all(|s| s.higher_is_better));
        assert_eq!(scorer(false).list()[0].name, "psnr");
    }
}
