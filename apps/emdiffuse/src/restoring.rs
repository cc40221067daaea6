//! From file to file: an image or volume is restored region by region, what is finished is kept, and
//! every statistic of the samples becomes a file of its own.

mod head;

use crate::model::Trained;
use crate::task;
use limpid_cli::prediction::beside;
use limpid_cli::{Failure, failure, report};
use limpid_datamodule::normalise::{Normalisation, Normalisers, Transfer};
use limpid_datamodule::predict::{
    Enlarged, Input, Journal, LayerSlabs, Outer, Output, enlarged_info, layered_info,
};
use limpid_engine::infer::{Inferencer, Slabs, Source};
use limpid_engine::{BoxError, Error, Event, Sink};
use limpid_io::{Axes, DType, VolumeInfo, WriteOptions, atomic};
use limpid_losses::metrics::NeighbourCorrelation;
use limpid_models::diffusion::{
    ImageRestorer, LayerPlace, NetNeeds, RestoreConfig, RestorePlan, places,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// An image and what becomes of it.
pub struct Job<'a> {
    /// The image or volume; a folder of slices is a volume.
    pub input: &'a Path,
    /// The restored one.
    pub output: &'a Path,
}

/// How it is to be restored.
pub struct Wanted<'a> {
    /// Sampler, samples, windows.
    pub config: &'a RestoreConfig,
    /// Seed of the noise.
    pub seed: u64,
    /// Layers between two slices, if not as many as were trained.
    pub layers: Option<usize>,
    /// Write the deviation over the samples.
    pub deviation: bool,
    /// Sample type of the result, if not that of the input.
    pub dtype: Option<DType>,
    /// Axes of the file, where it does not say.
    pub axes: Option<&'a Axes>,
    /// Intensities that are 0 and 1, for models that do not say.
    pub range: Option<(f64, f64)>,
    /// Forget what an earlier prediction has finished.
    pub fresh: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Say nothing.
    pub quiet: bool,
}

/// Restores one image or volume.
///
/// # Errors
/// It cannot be read, does not fit the model, or the result cannot be written.
pub fn restore(
    job: &Job<'_>,
    trained: &Trained,
    wanted: &Wanted<'_>,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let normalisers = trained.normalisers_for(job.input, wanted.range)?;
    let image = Input::open(job.input, 2, wanted.axes, &normalisers).map_err(Failure::data)?;
    let work = Work::new(job, trained, wanted, image, &normalisers)?;
    if !wanted.quiet {
        report(format!("{} → {}: {}", job.input.display(), job.output.display(), work.described()));
    }
    if wanted.dry_run {
        return Ok(());
    }
    let assessment = work.run(sink, stop)?;
    work.assess(&assessment, begun.elapsed().as_secs_f64())
}

/// A prediction that is about to begin.
struct Work<'a> {
    job: &'a Job<'a>,
    trained: &'a Trained,
    wanted: &'a Wanted<'a>,
    image: Input,
    normalisation: Normalisation,
    /// Whether that is also the normalisation of the image.
    one_unit: bool,
    /// Of the result.
    info: VolumeInfo,
    places: Vec<LayerPlace>,
    restorer: ImageRestorer<'a>,
    plan: RestorePlan,
    /// Images or pairs of slices.
    units: usize,
}

/// Distance, in pixels, up to which what was removed is compared with itself.
const LAGS: usize = 8;

/// One file of the result.
struct File {
    path: PathBuf,
    normalisation: Normalisation,
    dtype: DType,
    outer: Outer,
    /// Which statistic of the samples.
    statistic: usize,
    /// What makes it the half-width of an interval.
    interval: Option<Interval>,
}

/// `deviation → factor·max(deviation, floor)`.
#[derive(Clone, Copy)]
struct Interval {
    factor: f32,
    floor: f32,
}

/// What the samples say of the whole result.
#[derive(Default)]
struct Assessment {
    squares: f64,
    count: u64,
    clipped: u64,
    /// What was removed from the image, in the unit of the network; of images that keep their size.
    removed: Option<NeighbourCorrelation>,
}

impl<'a> Work<'a> {
    fn new(
        job: &'a Job<'a>,
        trained: &'a Trained,
        wanted: &'a Wanted<'a>,
        image: Input,
        normalisers: &Normalisers,
    ) -> Result<Self, Failure> {
        let task = &trained.task;
        let [channels, height, width] = *image.shape() else {
            return Err(Failure::data("slices must be two-dimensional").file(job.input));
        };
        if channels != 1 {
            return Err(Failure::data(format!(
                "the image has {channels} channels (axes {}), electron micrographs have one",
                image.info().axes
            ))
            .hint("give a grey image, or its axes with `--axes`")
            .file(job.input));
        }
        let scale = task.scale.max(1);
        let (units, places, mut info) = match task.layers {
            Some(trained_layers) => {
                let layers = wanted.layers.unwrap_or(trained_layers);
                let given = task::distance(image.info());
                let gap = task.gap.zip(given).map(|(trained, given)| [trained, given]);
                let places = places(trained_layers, layers, gap).map_err(failure)?;
                let info = layered_info(image.info(), layers + 1).map_err(Failure::data)?;
                (image.pairs().map_err(Failure::data)?, places, info)
            }
            None => {
                let info = enlarged_info(image.info(), scale).map_err(Failure::data)?;
                (image.frames(), Vec::new(), info)
            }
        };
        info.dtype = wanted.dtype.unwrap_or(info.dtype);
        let network = &trained.card.network;
        let restorer = ImageRestorer {
            net: &trained.net,
            needs: NetNeeds::from(network),
            process: &task.process,
            config: wanted.config,
            seed: wanted.seed,
            device: trained.device.clone(),
        };
        let plan = restorer.plan([height * scale, width * scale], places.len()).map_err(failure)?;
        let normalisation = image.restored_normalisation(normalisers);
        let one_unit = normalisers.target.is_none();
        Ok(Self {
            job,
            trained,
            wanted,
            image,
            normalisation,
            one_unit,
            info,
            places,
            restorer,
            plan,
            units,
        })
    }

    /// What will be done.
    fn described(&self) -> String {
        let what = if self.places.is_empty() { "image" } else { "pair of slices" };
        let each = match self.units {
            1 => String::new(),
            n => format!(", {n} times, once for each {what}"),
        };
        format!("{:?} ({}), {}{each}", self.info.shape, self.info.axes, self.plan)
    }

    /// The files of the result: the mean first.
    fn files(&self) -> Result<Vec<File>, Failure> {
        let output = self.job.output;
        let config = self.wanted.config;
        let mut files = vec![File {
            path: output.to_owned(),
            normalisation: self.normalisation.clone(),
            dtype: self.info.dtype,
            outer: Outer::Slices,
            statistic: 0,
            interval: None,
        }];
        if config.samples < 2 {
            return Ok(files);
        }
        let spread = || {
            self.normalisation.of_differences().ok_or_else(|| {
                Failure::config("a deviation has no way back through the model's normalisation")
                    .hint("leave it out with `--no-std`")
            })
        };
        if self.wanted.deviation {
            let deviation = File {
                path: beside(output, "_std"),
                normalisation: spread()?,
                dtype: DType::F32,
                outer: Outer::Zero,
                statistic: 1,
                interval: None,
            };
            files.push(deviation);
            if let Some(calibration) = self.trained.task.calibration {
                let (factor, floor) = (calibration.factor as f32, calibration.floor as f32);
                files.push(File {
                    path: beside(output, "_interval"),
                    normalisation: spread()?,
                    dtype: DType::F32,
                    outer: Outer::Zero,
                    statistic: 1,
                    interval: Some(Interval { factor, floor }),
                });
            }
        }
        for (i, q) in config.quantiles.iter().enumerate() {
            files.push(File {
                path: beside(output, &format!("_q{:02.0}", 100.0 * q)),
                normalisation: self.normalisation.clone(),
                dtype: self.info.dtype,
                outer: Outer::Slices,
                statistic: 2 + i,
                interval: None,
            });
        }
        Ok(files)
    }

    /// What decides the values of the result.
    fn digest(&self) -> Result<String, Failure> {
        let input = self.job.input;
        let about = |path: &Path| -> String {
            let meta = path.metadata().ok();
            let time = meta.as_ref().and_then(|m| m.modified().ok());
            format!("{} {:?} {time:?}", path.display(), meta.map(|m| m.len()))
        };
        let slices = if input.is_dir() {
            limpid_io::list_images(input).map_err(Failure::data)?
        } else {
            vec![input.to_owned()]
        };
        let mut hash = Sha256::new();
        for path in &slices {
            hash.update(about(path).as_bytes());
        }
        for (name, tensor) in self.trained.params.tensors() {
            hash.update(name.as_bytes());
            let sum =
                tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(Failure::run)?;
            sum.iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        let settings = json!({
            "restore": self.wanted.config, "task": self.trained.task, "seed": self.wanted.seed,
            "places": self.places.iter().map(|p| [p.index, p.fraction]).collect::<Vec<_>>(),
            "normalisation": self.normalisation, "axes": self.wanted.axes.map(ToString::to_string),
            "precision": format!("{:?}", limpid_kernels::precision()),
            "gpu": self.trained.device.is_cuda(),
        });
        hash.update(settings.to_string().as_bytes());
        Ok(hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect())
    }

    fn run(&self, sink: &mut dyn Sink, stop: &dyn Fn() -> bool) -> Result<Assessment, Failure> {
        let files = self.files()?;
        let judging = self.windows()?;
        let digest = self.digest()?;
        if self.wanted.fresh {
            // of no prediction: what an earlier one has finished is removed
            Journal::open(self.job.output, "").map_err(Failure::data)?;
        }
        let journal = Journal::open(self.job.output, &digest).map_err(Failure::data)?;
        if journal.begun_anew() && !self.wanted.quiet && !self.wanted.fresh {
            report("an unfinished prediction with other settings was removed");
        }
        let options = WriteOptions::default();
        let create = |file: &File| {
            let info = VolumeInfo { dtype: file.dtype, ..self.info.clone() };
            Output::create_with(&file.path, &info, 2, file.normalisation.clone(), 1, &options)
                .map_err(Failure::data)
        };
        let mut outputs = files.iter().map(create).collect::<Result<Vec<_>, _>>()?;
        // input and result must be in one unit to be compared
        let same = self.places.is_empty() && self.trained.task.scale <= 1 && self.one_unit;
        let removed = same.then(|| NeighbourCorrelation::new(LAGS));
        let mut assessment = Assessment { removed, ..Assessment::default() };
        for index in 0..self.units {
            let done =
                self.unit(index, &journal, &files, &mut outputs, &mut assessment, sink, stop);
            if stop() {
                return Err(Failure::interrupted(format!(
                    "stopped; the same command goes on with {}",
                    self.job.output.display()
                )));
            }
            done?;
        }
        self.say_variance(judging, sink, stop)?;
        for output in outputs.into_iter().rev() {
            // the mean last: when it is there, all is
            assessment.clipped = output.finish().map_err(Failure::data)?;
        }
        journal.finish().map_err(Failure::data)?;
        Ok(assessment)
    }

    /// What is restored of an image or a pair of slices.
    fn source(&self, index: usize) -> Result<Box<dyn Source + '_>, Failure> {
        if !self.places.is_empty() {
            return Ok(Box::new(self.image.pair(index).map_err(Failure::data)?));
        }
        let frame = self.image.frame(index);
        Ok(match self.trained.task.scale {
            0 | 1 => Box::new(frame),
            scale => Box::new(Enlarged::new(frame, scale)),
        })
    }

    /// Where its restoration goes.
    fn sink<'o>(
        &'o self,
        index: usize,
        output: &'o mut Output,
        outer: Outer,
    ) -> Result<Box<dyn Slabs + 'o>, Failure> {
        if self.places.is_empty() {
            return Ok(Box::new(output.frame(index)));
        }
        let pair = self.image.pair(index).map_err(Failure::data)?;
        Ok(Box::new(LayerSlabs::new(output, pair, 1, self.places.len(), outer)))
    }

    /// Restores one image, or the layers between one pair of slices.
    #[allow(clippy::too_many_arguments)] // the state of one walk
    fn unit(
        &self,
        index: usize,
        journal: &Journal,
        files: &[File],
        outputs: &mut [Output],
        assessment: &mut Assessment,
        sink: &mut dyn Sink,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let source = self.source(index)?;
        let mut slabs: Vec<Box<dyn Slabs + '_>> = Vec::new();
        for (file, output) in files.iter().zip(outputs) {
            slabs.push(self.sink(index, output, file.outer)?);
        }
        let config = self.wanted.config;
        let statistics = if config.samples > 1 { 2 + config.quantiles.len() } else { 1 };
        let mut fan = Fan { files, slabs, statistics, assessment, source: &*source };
        let regions = &self.plan.regions;
        let (each, of) = (self.plan.evaluations, self.units as u64);
        let per_region = each / (regions.starts.len() as u64).max(1);
        let mut region = 0;
        let inferencer = Inferencer {
            plan: regions.clone(),
            deviation: false,
            device: self.trained.device.clone(),
        };
        let _no_grad = self.trained.params.no_grad();
        let predict = |x: &candle_core::Tensor, at: &[Vec<isize>]| {
            let number = (index * regions.starts.len() + region) as u64;
            let before = index as u64 * each + region as u64 * per_region;
            let mut tell = |done: u64, _: u64| {
                let task = "restoring".to_owned();
                sink.event(&Event::Progress { task, done: before + done, total: of * each });
                if stop() { Err(Error::Data("interrupted".into())) } else { Ok(()) }
            };
            region += 1;
            let at = [at[0][0] as i64, at[0][1] as i64];
            let slice = index as u64;
            let make = || -> Result<_, BoxError> {
                Ok(self.restorer.region(x, at, slice, &self.places, &mut tell)?)
            };
            journal.get_or(number, make).map_err(Error::Data)
        };
        inferencer.run_at(&*source, &mut fan, predict, |_, _| {}).map_err(failure)
    }

    /// Says and writes what the samples say of the result.
    fn assess(&self, assessment: &Assessment, seconds: f64) -> Result<(), Failure> {
        let config = self.wanted.config;
        if assessment.clipped > 0 && !self.wanted.quiet {
            let dtype = self.info.dtype;
            report(format!(
                "{} values were beyond the range of {dtype} and clipped",
                assessment.clipped
            ));
        }
        let variance = assessment.squares / assessment.count.max(1) as f64;
        let calibration = self.trained.task.calibration.filter(|_| config.samples > 1);
        let expected = calibration.map(|c| -10.0 * (c.variance_ratio * variance).log10());
        // how many units of the file one of the network is: what is white less what is black
        let range = match self.normalisation.channels.as_slice() {
            [Transfer::Linear { scale, .. }] => Some(*scale),
            _ => None,
        };
        let error = expected.zip(range).map(|(psnr, range)| range * 10f64.powf(-psnr / 20.0));
        if let (Some(psnr), Some(error), Some(range), false) =
            (expected, error, range, self.wanted.quiet)
        {
            report(format!(
                "self-assessment: about {error:.3} from the truth (root mean square), {psnr:.1} dB of \
                 a contrast of {range:.0}"
            ));
        }
        let removed = assessment.removed.as_ref().map(|removed| {
            let [x, y] = removed.correlations();
            if !self.wanted.quiet {
                report(format!(
                    "removed: correlation of neighbours {:.3} along x, {:.3} along y (noise: 0)",
                    x[0], y[0]
                ));
            }
            json!({ "deviation": removed.deviation(), "correlation_x": x, "correlation_y": y })
        });
        let text = json!({
            "input": self.job.input.display().to_string(),
            "output": self.job.output.display().to_string(),
            "model": self.trained.origin,
            "samples": config.samples,
            "evaluations": self.plan.evaluations * self.units as u64,
            "seed": self.wanted.seed,
            "restore": config,
            "edges": self.plan.edges(),
            "deviation": (config.samples > 1).then(|| variance.sqrt()),
            "expected_psnr_db": expected,
            "expected_error": error,
            "contrast": range,
            "calibration": calibration,
            "removed": removed,
            "seconds": seconds,
        });
        let text = serde_json::to_vec_pretty(&text).map_err(Failure::run)?;
        atomic::write_bytes(beside(self.job.output, "").with_extension("json"), &text)
            .map_err(Failure::data)
    }
}

/// Hands every statistic to its file, and sums up the deviation.
struct Fan<'a> {
    files: &'a [File],
    slabs: Vec<Box<dyn Slabs + 'a>>,
    /// Statistics of the samples, one after the other.
    statistics: usize,
    assessment: &'a mut Assessment,
    /// What is restored.
    source: &'a dyn Source,
}

impl Slabs for Fan<'_> {
    fn slab(&mut self, start: usize, size: usize, data: &[f32]) -> Result<(), BoxError> {
        let values = data.len() / self.statistics;
        let statistic = |i: usize| &data[i * values..(i + 1) * values];
        for (file, slabs) in self.files.iter().zip(&mut self.slabs) {
            let part = statistic(file.statistic);
            match file.interval {
                None => slabs.slab(start, size, part)?,
                Some(Interval { factor, floor }) => {
                    let part: Vec<f32> = part.iter().map(|v| factor * v.max(floor)).collect();
                    slabs.slab(start, size, &part)?;
                }
            }
        }
        if let Some(removed) = &mut self.assessment.removed {
            let width = self.source.shape()[2];
            let mut rest = self.source.read(&[start, 0], &[size, width])?;
            rest.iter_mut().zip(statistic(0)).for_each(|(x, restored)| *x -= restored);
            removed.add(&rest, width);
        }
        if self.statistics > 1 {
            let squares = statistic(1).iter().map(|v| f64::from(*v) * f64::from(*v));
            self.assessment.squares += squares.sum::<f64>();
            self.assessment.count += values as u64;
        }
        Ok(())
    }
}
