//! `predict` of both programs: restored images, or volumes with layers between their slices.

use crate::axial::{self, Axial};
use crate::model::Trained;
use crate::restoring::{Job, Wanted, restore};
use candle_core::Device;
use limpid_cli::prediction::{jobs, progress, range, sample_type};
use limpid_cli::{
    CommonArgs, Failure, PrecisionArgs, SetArgs, Verbosity, find_model, interrupt, report,
};
use limpid_io::Axes;
use limpid_models::diffusion::{GridConfig, NoiseSchedule, RestoreConfig};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// γ up to which the beginning of a schedule passes for noise alone.
const MOST_LEFT: f64 = 1e-3;

/// What both programs take.
#[derive(clap::Args)]
pub struct Args {
    /// Image and result; with `--out`, images and folders of images
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Run, model file, or name of runs [default: the model that comes with emdiffuse; for vemdiffuse
    /// the last run in runs/]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Weights that EMDiffuse published: a `.pth` file, or the beginning of the names
    /// `…_Network.pth` and `…_Network_ema.pth`, of which the averaged ones are taken
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub weights: Option<PathBuf>,
    /// Samples drawn of every image: their mean is the result
    #[arg(short = 'k', long, value_name = "K")]
    pub samples: Option<usize>,
    /// Steps of the sampler, each an evaluation of the network
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// How it is drawn: as the model was configured, or as EMDiffuse does (1000 steps unless
    /// `--steps` says otherwise, and not averaged weights)
    #[arg(long, value_name = "MODE", value_parser = ["own", "reference"], default_value = "own")]
    pub mode: String,
    /// Do not write the standard deviation over the samples, as NAME_std in f32
    #[arg(long)]
    pub no_std: bool,
    /// Also write these quantiles of the samples, as NAME_q05 and so on
    #[arg(long, value_name = "Q,Q…", value_delimiter = ',')]
    pub quantiles: Vec<f64>,
    /// Intensities that are 0 and 1 to the model [default: as it was trained; to published weights 0 and
    /// the largest of u8 or u16, f32 as it is]
    #[arg(long, value_names = ["LOW", "HIGH"], num_args = 2, allow_negative_numbers = true)]
    pub range: Vec<f64>,
    /// Sample type of the result [default: that of the input]
    #[arg(long, value_name = "TYPE", value_parser = ["input", "u8", "u16", "f32"], default_value = "input")]
    pub dtype: String,
    /// Axes of the files in their order, slowest first, where they do not say: ZYX
    #[arg(long, value_name = "AXES")]
    pub axes: Option<Axes>,
    /// Begin anew instead of going on where a stopped prediction was
    #[arg(long)]
    pub fresh: bool,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Keys of `[restore]`.
    #[command(flatten)]
    pub keys: SetArgs,
    /// To what numbers are rounded.
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// The rest.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `emdiffuse predict`.
///
/// # Errors
/// As [`run`].
pub fn images(args: &Args) -> Result<(), Failure> {
    args.common.apply()?;
    let device = args.common.open_device()?;
    args.precision.apply(&device);
    let trained = match &args.weights {
        Some(weights) => published(weights, &args.mode, None, &device)?,
        None => Trained::open_or_shipped(args.model.as_deref(), &device)?,
    };
    if trained.task.layers.is_some() {
        return Err(Failure::config("the model draws layers between slices")
            .hint("use it with `vemdiffuse predict`"));
    }
    run(args, None, &trained)
}

/// `vemdiffuse predict`; `z` is how many gaps a gap becomes, if not as many as were trained.
///
/// # Errors
/// As [`run`].
pub fn volumes(args: &Args, z: Option<usize>) -> Result<(), Failure> {
    args.common.apply()?;
    if z.is_some_and(|z| z < 2) {
        return Err(Failure::config("`--z` must be at least 2").hint("6 makes five layers"));
    }
    let layers = z.map(|z| z - 1);
    let device = args.common.open_device()?;
    args.precision.apply(&device);
    if args.weights.is_none()
        && let Some(model) =
            Axial::open(&find_model(args.model.as_deref(), "vemdiffuse")?, &device)?
    {
        return one_pass(args, layers, &model);
    }
    let trained = match &args.weights {
        Some(weights) => published(weights, &args.mode, layers, &device)?,
        None => Trained::open(args.model.as_deref(), "vemdiffuse", &device)?,
    };
    if trained.task.layers.is_none() {
        return Err(Failure::config("the model does not draw layers between slices").hint(
            "use it with `emdiffuse predict`, or say with `--z` for how many it was trained",
        ));
    }
    run(args, layers, &trained)
}

/// Restores with a network of one pass.
fn one_pass(args: &Args, layers: Option<usize>, model: &Axial) -> Result<(), Failure> {
    let drawing = args.samples.is_some()
        || args.steps.is_some()
        || !args.quantiles.is_empty()
        || !args.keys.sets.is_empty()
        || args.mode == "reference"
        || args.no_std
        || args.fresh
        || args.seed != 0;
    if drawing {
        return Err(Failure::config("the model fills in layers in one pass, it draws nothing")
            .hint(
                "leave out `--samples`, `--steps`, `--quantiles`, `--no-std`, `--seed`, `--fresh`, `--mode` and `--set`",
            ));
    }
    let common = &args.common;
    let jobs = jobs(&args.paths, common.out.as_deref(), common.dry_run)?;
    let quiet = common.verbosity() == Verbosity::Quiet;
    if !quiet {
        report(format!("model {}, {} parameters", model.origin, model.params.count()));
    }
    let wanted = axial::Wanted {
        layers,
        dtype: sample_type(&args.dtype),
        axes: args.axes.as_ref(),
        range: range(&args.range)?,
        dry_run: common.dry_run,
        quiet,
    };
    let stop = interrupt::install()?;
    let mut sink = progress(common);
    for (input, output) in &jobs {
        let stop = || stop.flag().load(Ordering::Relaxed);
        model.restore(input, output, &wanted, &mut *sink, &stop)?;
    }
    Ok(())
}

/// Published weights: a file, or the averaged ones of a prefix (in mode reference the others).
fn published(
    named: &Path,
    mode: &str,
    layers: Option<usize>,
    device: &Device,
) -> Result<Trained, Failure> {
    let mut endings = ["_Network_ema.pth", "_Network.pth"];
    if mode == "reference" {
        endings.reverse();
    }
    let of_prefix = endings.iter().find_map(|ending| {
        let mut name = named.as_os_str().to_owned();
        name.push(ending);
        Some(PathBuf::from(name)).filter(|path| path.is_file())
    });
    Trained::published(of_prefix.as_deref().unwrap_or(named), 1, layers, device)
}

/// Restores with a model.
///
/// # Errors
/// A file cannot be read or written, or does not fit the model.
pub fn run(args: &Args, layers: Option<usize>, trained: &Trained) -> Result<(), Failure> {
    let common = &args.common;
    let jobs = jobs(&args.paths, common.out.as_deref(), common.dry_run)?;
    let config = restoring(args, trained)?;
    let quiet = common.verbosity() == Verbosity::Quiet;
    if !quiet {
        report(format!("model {}, {} parameters", trained.origin, trained.params.count()));
    }
    if let GridConfig::Schedule(schedule) = &config.sampling.grid
        && !quiet
    {
        let left = NoiseSchedule::new(schedule).gammas.last().copied().unwrap_or_default();
        if left > MOST_LEFT {
            report(format!(
                "warning: {} steps of this schedule begin where {:.1} % of the power is image, though \
                 they start from noise alone; `--mode own` needs few steps",
                schedule.steps,
                100.0 * left
            ));
        }
    }
    let wanted = Wanted {
        config: &config,
        seed: args.seed,
        layers,
        deviation: !args.no_std,
        dtype: sample_type(&args.dtype),
        axes: args.axes.as_ref(),
        range: range(&args.range)?,
        fresh: args.fresh,
        dry_run: common.dry_run,
        quiet,
    };
    let stop = interrupt::install()?;
    let mut sink = progress(common);
    for (input, output) in &jobs {
        let job = Job { input, output };
        restore(&job, trained, &wanted, &mut *sink, &|| stop.flag().load(Ordering::Relaxed))?;
    }
    Ok(())
}

/// How it restores: as the model says, where the command line does not.
fn restoring(args: &Args, trained: &Trained) -> Result<RestoreConfig, Failure> {
    let reference = args.mode == "reference";
    let mut config = if reference {
        RestoreConfig::reference(args.steps.unwrap_or(1000))
    } else {
        trained.task.restore.clone()
    };
    if let Some(samples) = args.samples {
        config.samples = samples;
    }
    if !args.quantiles.is_empty() {
        config.quantiles.clone_from(&args.quantiles);
    }
    if let Some(n) = args.steps.filter(|_| !reference) {
        match &mut config.sampling.grid {
            GridConfig::Schedule(schedule) => schedule.steps = n,
            GridConfig::LogSnr { steps, .. }
            | GridConfig::Karras { steps, .. }
            | GridConfig::Time { steps, .. } => *steps = n,
        }
    }
    with_keys(&config, &args.keys)
}

/// A way to restore with keys of `[restore]` set on the command line.
///
/// # Errors
/// There is no such key, or its value cannot be used.
pub fn with_keys(config: &RestoreConfig, keys: &SetArgs) -> Result<RestoreConfig, Failure> {
    let text = toml::to_string(config).map_err(Failure::run)?;
    let sets = keys.sets.iter().map(|s| s.strip_prefix("restore.").unwrap_or(s).to_owned());
    let request = limpid_config::Request {
        builtin: Some(("the model's way to restore", &text)),
        sets: sets.collect(),
        ..limpid_config::Request::default()
    };
    Ok(limpid_config::load::<RestoreConfig>(&request)?.value)
}
