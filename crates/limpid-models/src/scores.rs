//! What validation says of restored images, and shows.

use candle_core::{DType, Tensor};
use limpid_engine::{Batch, Error, Logs, Picture, Result, Score};
use limpid_losses::metrics::{Image, SsimSpec, psnr, ssim};
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
}

impl Scorer {
    /// The scores, the first of which decides.
    pub(crate) fn list() -> Vec<Score> {
        let score = |name: &str| Score { name: name.into(), higher_is_better: true };
        vec![score("psnr"), score("ssim"), score("psnr_gain")]
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
        let truth = self.physical(truth)?;
        let [psnr, ssim] = self.pair(y, &truth, dims)?;
        let mut logs = Logs::from([("psnr".to_owned(), psnr), ("ssim".to_owned(), ssim)]);
        if input.dims() == y.dims() {
            let [before, _] = self.pair(input, &truth, dims)?;
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

    /// PSNR and SSIM.
    fn pair(&self, sample: &Tensor, truth: &[f32], dims: &[usize]) -> Result<[f64; 2]> {
        let values = self.physical(sample)?;
        let voxels: usize = dims[1..].iter().product();
        let mut sums = [0.0; 2];
        for (a, b) in values.chunks(voxels).zip(truth.chunks(voxels)) {
            let (a, b) = (image(a, &dims[1..])?, image(b, &dims[1..])?);
            sums[0] += psnr(&a, &b, self.measure.data_range).map_err(boxed)?;
            // images smaller than the window have no SSIM
            let range = self.measure.data_range;
            sums[1] += ssim(&a, &b, range, &SsimSpec::SKIMAGE).unwrap_or(f64::NAN);
        }
        Ok(sums.map(|s| s / dims[0] as f64))
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
