//! `simulate`: noisy images from clean ones, to measure with.

use crate::args::{ComputeArgs, SetArgs};
use crate::failure::Failure;
use crate::prediction::{apart, by_type, range, sample_type};
use crate::terminal::report;
use limpid_config::Request;
use limpid_datamodule::noise::{Grid, NoiseConfig, Realisation};
use limpid_datamodule::predict::{Input, Output, taken_info};
use limpid_engine::infer::{Slabs as _, Source as _};
use limpid_io::{Axes, DType, VolumeInfo, WriteOptions};
use limpid_kernels::rng::Stream;
use std::path::{Path, PathBuf};

/// The arguments of every `simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// Clean image or stack
    pub input: PathBuf,
    /// The noisy one to write
    pub output: PathBuf,
    /// Intensities of no signal and of full signal, to which noise is relative
    #[arg(long, value_names = ["LOW", "HIGH"], num_args = 2, required = true, allow_negative_numbers = true)]
    pub range: Vec<f64>,
    /// Only take every N-th slice, from the middle of the first N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// Sample type of the noisy image; noise beyond the range of an integer is clipped [default: that of
    /// the input]
    #[arg(long, value_name = "TYPE", value_parser = ["u8", "u16", "f32"])]
    pub dtype: Option<String>,
    /// Also write the clean slices that were taken
    #[arg(long, value_name = "PATH")]
    pub clean: Option<PathBuf>,
    /// Axes of the file in its order, slowest first, where it does not say: ZYX
    #[arg(long, value_name = "AXES")]
    pub axes: Option<Axes>,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Keys of the noise, as in `[data.dataset.noise]`; without any, that of an electron microscope at a
    /// dose of 10.
    #[command(flatten)]
    pub keys: SetArgs,
    /// Threads and colour.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

impl SimulateArgs {
    /// Writes the noisy image, slice by slice.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::Kind::Config) if the noise cannot be; [`Kind::Data`](crate::Kind::Data)
    /// if a file cannot be read or written.
    pub fn run(&self) -> Result<(), Failure> {
        self.compute.apply()?;
        // clap sees to it that there is one
        let (low, high) = range(&self.range)?.unwrap_or((0.0, 1.0));
        let results: Vec<&Path> =
            std::iter::once(&self.output).chain(&self.clean).map(PathBuf::as_path).collect();
        apart(&self.input, &results)?;
        // another kind has other keys
        let named = self.keys.sets.iter().any(|set| set.trim_start().starts_with("kind"));
        let request = Request {
            builtin: (!named).then_some(("the noise", "kind = \"em\"\ndose = 10.0\n")),
            sets: self.keys.sets.clone(),
            ..Request::default()
        };
        let noise = limpid_config::load::<NoiseConfig>(&request)?.value;
        if let NoiseConfig::Thinning { .. } = noise {
            return Err(Failure::config("thinning needs counts, not intensities in a range")
                .hint("take another kind: poisson, em, gaussian, rician"));
        }
        // values stay in the unit of the file
        let normalisers = by_type(&self.input, Some((0.0, 1.0)))?;
        let input = Input::open(&self.input, 2, self.axes.as_ref(), &normalisers);
        let input = input.map_err(Failure::data)?;
        let every = self.every as usize;
        let taken: Vec<usize> = (every / 2..input.frames()).step_by(every).collect();
        let info = match every {
            1 => input.info().clone(),
            _ => taken_info(input.info(), [every / 2, every, taken.len()])
                .map_err(|e| Failure::data(e).file(&self.input))?,
        };
        let [channels, height, width] = *input.shape() else {
            return Err(Failure::data("slices must be two-dimensional").file(&self.input));
        };
        let create = |path: &Path, dtype: DType| {
            let (same, info) = (input.restored_normalisation(&normalisers), info.clone());
            let info = VolumeInfo { dtype, ..info };
            Output::create_with(path, &info, 2, same, channels, &WriteOptions::default())
                .map_err(Failure::data)
        };
        let dtype = self.dtype.as_deref().and_then(sample_type).unwrap_or(info.dtype);
        let mut noisy = create(&self.output, dtype)?;
        let mut clean = self.clean.as_deref().map(|path| create(path, info.dtype)).transpose()?;
        let wrong = |e: limpid_engine::BoxError| Failure::data(e.to_string()).file(&self.input);
        let stream = Stream::new(self.seed, "simulate");
        for (number, frame) in taken.iter().enumerate() {
            let mut values = input.frame(*frame).read(&[0, 0], &[height, width]).map_err(wrong)?;
            if let Some(clean) = &mut clean {
                clean.frame(number).slab(0, height, &values).map_err(wrong)?;
            }
            let grid = Grid { image: &[height, width], start: &[0, 0], size: &[height, width] };
            noise.apply(
                &mut values,
                grid,
                [low, high],
                stream.op(*frame as u64),
                Realisation::First,
            );
            noisy.frame(number).slab(0, height, &values).map_err(wrong)?;
        }
        let clipped = noisy.finish().map_err(Failure::data)?;
        clean.map(Output::finish).transpose().map_err(Failure::data)?;
        report(format!(
            "{} → {}: {} of {} slices, {clipped} values beyond the range of {dtype} and clipped",
            self.input.display(),
            self.output.display(),
            taken.len(),
            input.frames()
        ));
        Ok(())
    }
}
