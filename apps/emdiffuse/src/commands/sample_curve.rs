//! `emdiffuse sample-curve`: how good restorations are, for every sampler, against how often the
//! network is asked.

use super::eval::mean_ring;
use crate::model::Trained;
use limpid_cli::prediction::progress;
use limpid_cli::{Align, CommonArgs, Failure, SetArgs, failure, interrupt, print, table};
use limpid_datamodule::normalise::{Normalisation, Normalisers};
use limpid_datamodule::predict::Input;
use limpid_engine::infer::Source as _;
use limpid_engine::{Error, Event};
use limpid_io::atomic;
use limpid_losses::metrics::{Image, SsimSpec, psnr, ssim};
use limpid_models::diffusion::{
    GridConfig, ImageRestorer, NetNeeds, ProcessConfig, RestoreConfig, SamplerConfig,
    SamplingConfig, Start,
};
use limpid_track::report::Chart;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Compare samplers on images whose truth is known
#[derive(clap::Args)]
pub struct Args {
    /// Degraded image or stack
    input: PathBuf,
    /// The truth
    target: PathBuf,
    /// Span of valid intensities in the unit of the files
    #[arg(long, value_name = "RANGE")]
    data_range: f64,
    /// Run, model file, or name of runs [default: the model that comes with emdiffuse]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Samplers
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME,NAME…",
        default_value = "ancestral,ddim,dpm-2m,dpm-sde,unipc-2,unipc-3,heun"
    )]
    samplers: Vec<String>,
    /// Numbers of steps
    #[arg(long, value_delimiter = ',', value_name = "N,N…", default_value = "2,3,5,8,10,15,20,50")]
    steps: Vec<usize>,
    /// Numbers of steps of EMDiffuse's own sampler on its own schedule
    #[arg(long, value_delimiter = ',', value_name = "N,N…", default_value = "200,1000")]
    reference: Vec<usize>,
    /// Images of a stack that are drawn, evenly spread; 0: all
    #[arg(long, value_name = "N", default_value_t = 4)]
    limit: usize,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    keys: SetArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// One way to draw.
struct Way {
    sampler: String,
    start: &'static str,
    config: RestoreConfig,
}

/// What came of it, on average over the images.
#[derive(Clone, Copy, Default)]
struct Scores {
    psnr: f64,
    ssim: f64,
    /// Mean ring correlation up to Nyquist.
    frc: f64,
    /// Magnitude of the mean error, in the unit of the files.
    dc: f64,
    seconds: f64,
}

/// A degraded image and its truth.
struct Pair {
    condition: candle_core::Tensor,
    truth: Vec<f32>,
    shape: [usize; 2],
    normalisation: Normalisation,
}

/// Draws every way and writes `curve.csv`, `curve-*.svg` and a table.
///
/// # Errors
/// Images or model cannot be read, or do not fit.
pub fn run(args: &Args) -> Result<(), Failure> {
    let common = &args.common;
    common.apply()?;
    let device = common.open_device()?;
    let trained = Trained::open_or_shipped(args.model.as_deref(), &device)?;
    let pairs = pairs(args, &trained)?;
    let base = super::predict::with_keys(&trained.task.restore, &args.keys)?;
    let ways = ways(args, &base, &trained.task.process)?;
    let stop = interrupt::install()?;
    let mut sink = progress(common);
    let total: u64 = ways
        .iter()
        .map(|way| way.config.sampling.evaluations(&trained.task.process))
        .sum::<limpid_engine::Result<usize>>()
        .map_err(failure)? as u64
        * pairs.len() as u64;
    let mut done = 0;
    let mut rows = Vec::new();
    let _no_grad = trained.params.no_grad();
    for way in ways {
        let evaluations =
            way.config.sampling.evaluations(&trained.task.process).map_err(failure)?;
        let mut sum = Scores::default();
        for (number, pair) in pairs.iter().enumerate() {
            let restorer = ImageRestorer {
                net: &trained.net,
                needs: NetNeeds::from(&trained.card.network),
                process: &trained.task.process,
                config: &way.config,
                seed: args.seed,
                device: device.clone(),
            };
            let begun = Instant::now();
            let mut tell = |_: u64, _: u64| {
                if stop.flag().load(Ordering::Relaxed) {
                    return Err(Error::Data("interrupted".into()));
                }
                Ok(())
            };
            let y = restorer.region(&pair.condition, [0, 0], number as u64, &[], &mut tell);
            if stop.flag().load(Ordering::Relaxed) {
                return Err(Failure::interrupted("stopped; nothing was written"));
            }
            let y = y.map_err(failure)?;
            sum.add(&scores(pair, &y, args.data_range)?, begun.elapsed().as_secs_f64());
            done += evaluations as u64;
            sink.event(&Event::Progress { task: "drawing".into(), done, total });
        }
        rows.push((way.sampler, way.start, evaluations, sum.divided(pairs.len() as f64)));
    }
    report(args, &rows)
}

/// The samplers by the names that the command line knows.
fn sampler(name: &str) -> Result<SamplerConfig, Failure> {
    Ok(match name {
        "ancestral" => SamplerConfig::Ancestral {},
        "ddim" => SamplerConfig::Ddim { eta: 0.0 },
        "dpm-2m" => SamplerConfig::DpmSolver { order: 2, stochastic: false },
        "dpm-sde" => SamplerConfig::DpmSolver { order: 2, stochastic: true },
        "unipc-2" => SamplerConfig::UniPc { order: 2 },
        "unipc-3" => SamplerConfig::UniPc { order: 3 },
        "heun" => SamplerConfig::Heun {},
        "bridge" => SamplerConfig::Bridge {},
        other => {
            return Err(Failure::config(format!("there is no sampler `{other}`")).hint(
                "ancestral, ddim, dpm-2m, dpm-sde, unipc-2, unipc-3, heun, and for bridges bridge",
            ));
        }
    })
}

/// Everything that is to be drawn: each sampler from the noised condition and from noise alone, then
/// EMDiffuse's.
fn ways(args: &Args, base: &RestoreConfig, process: &ProcessConfig) -> Result<Vec<Way>, Failure> {
    let mut ways = Vec::new();
    let one = RestoreConfig { samples: 1, quantiles: Vec::new(), ..base.clone() };
    for name in &args.samplers {
        let sampler = sampler(name)?;
        for &steps in &args.steps {
            let grid = match one.sampling.grid.clone() {
                GridConfig::LogSnr { start, end, .. } => GridConfig::LogSnr { steps, start, end },
                GridConfig::Karras { start, end, rho, .. } => {
                    GridConfig::Karras { steps, start, end, rho }
                }
                GridConfig::Time { start, .. } => GridConfig::Time { steps, start },
                schedule => schedule,
            };
            let sampling = SamplingConfig { sampler, grid, ..one.sampling.clone() };
            let config = RestoreConfig { sampling, ..one.clone() };
            ways.push(Way { sampler: name.clone(), start: "condition", config });
            if let ProcessConfig::Diffusion { .. } = process {
                let [low, _] = process.range().map(|level| level.gamma());
                let end = match one.sampling.grid {
                    GridConfig::LogSnr { end, .. } | GridConfig::Karras { end, .. } => end,
                    _ => 0.999,
                };
                let sampling = SamplingConfig {
                    sampler,
                    grid: GridConfig::LogSnr { steps, start: low, end },
                    start: Start::Noise {},
                    ..one.sampling.clone()
                };
                let config = RestoreConfig { sampling, ..one.clone() };
                ways.push(Way { sampler: name.clone(), start: "noise", config });
            }
        }
    }
    if let ProcessConfig::Diffusion { .. } = process {
        for &steps in &args.reference {
            let config =
                RestoreConfig { joint: base.joint.clone(), ..RestoreConfig::reference(steps) };
            ways.push(Way { sampler: "reference".into(), start: "noise", config });
        }
    }
    Ok(ways)
}

/// The images, normalised for the network, with their truths.
fn pairs(args: &Args, trained: &Trained) -> Result<Vec<Pair>, Failure> {
    let normalisers = trained.normalisers_for(&args.input, None)?;
    let open = |path: &Path, normalisers: &Normalisers| {
        Input::open(path, 2, None, normalisers).map_err(Failure::data)
    };
    let (input, target) = (open(&args.input, &normalisers)?, open(&args.target, &normalisers)?);
    if input.shape() != target.shape() || input.frames() != target.frames() || input.shape()[0] != 1
    {
        return Err(Failure::data(format!(
            "input and truth must be alike and grey: {:?} in {} frames, {:?} in {}",
            input.shape(),
            input.frames(),
            target.shape(),
            target.frames()
        ))
        .file(&args.target));
    }
    let shape = [input.shape()[1], input.shape()[2]];
    let count = match args.limit {
        0 => input.frames(),
        limit => limit.min(input.frames()),
    };
    let normalisation = input.restored_normalisation(&normalisers);
    let of_target = target.restored_normalisation(&normalisers);
    (0..count)
        .map(|i| {
            let frame = i * input.frames() / count + input.frames() / (2 * count);
            let read = |image: &Input| {
                image.frame(frame).read(&[0, 0], &shape).map_err(|e| Failure::data(e.to_string()))
            };
            let mut truth = read(&target)?;
            of_target.invert(&mut truth);
            let device = candle_core::Device::Cpu;
            let condition =
                candle_core::Tensor::from_vec(read(&input)?, (1, 1, shape[0], shape[1]), &device)
                    .map_err(Failure::run)?;
            Ok(Pair { condition, truth, shape, normalisation: normalisation.clone() })
        })
        .collect()
}

fn scores(pair: &Pair, y: &candle_core::Tensor, range: f64) -> Result<Scores, Failure> {
    let mut y = y.flatten_all().and_then(|y| y.to_vec1::<f32>()).map_err(Failure::run)?;
    pair.normalisation.invert(&mut y);
    let a = Image::new(y.as_slice(), &pair.shape).map_err(Failure::data)?;
    let b = Image::new(pair.truth.as_slice(), &pair.shape).map_err(Failure::data)?;
    let errors: Vec<f64> =
        y.iter().zip(&pair.truth).map(|(y, t)| f64::from(*y) - f64::from(*t)).collect();
    Ok(Scores {
        psnr: psnr(&a, &b, range).map_err(Failure::data)?,
        ssim: ssim(&a, &b, range, &SsimSpec::SKIMAGE).map_err(Failure::data)?,
        frc: mean_ring(&y, &pair.truth, &pair.shape)?,
        dc: (errors.iter().sum::<f64>() / errors.len().max(1) as f64).abs(),
        seconds: 0.0,
    })
}

impl Scores {
    fn add(&mut self, other: &Self, seconds: f64) {
        self.psnr += other.psnr;
        self.ssim += other.ssim;
        self.frc += other.frc;
        self.dc += other.dc;
        self.seconds += seconds;
    }

    fn divided(self, n: f64) -> Self {
        Self {
            psnr: self.psnr / n,
            ssim: self.ssim / n,
            frc: self.frc / n,
            dc: self.dc / n,
            seconds: self.seconds / n,
        }
    }
}

type Row = (String, &'static str, usize, Scores);

/// What the scores are called, and how they are found in them.
const PLOTTED: [(&str, &str, fn(&Scores) -> f64); 4] = [
    ("psnr", "PSNR (dB)", |s| s.psnr),
    ("ssim", "SSIM", |s| s.ssim),
    ("frc", "mean Fourier ring correlation", |s| s.frc),
    ("dc", "brightness error (unit of the file)", |s| s.dc),
];

/// Writes table, CSV and charts.
fn report(args: &Args, rows: &[Row]) -> Result<(), Failure> {
    let dir = args.common.out.clone().unwrap_or_else(|| PathBuf::from("."));
    std::fs::create_dir_all(&dir)
        .map_err(|e| Failure::data(format!("cannot make the folder: {e}")).file(&dir))?;
    let mut csv = "sampler,start,evaluations,psnr_db,ssim,frc,dc,seconds\n".to_owned();
    let mut lines = Vec::new();
    for (sampler, start, n, s) in rows {
        let _ = writeln!(
            csv,
            "{sampler},{start},{n},{},{},{},{},{}",
            s.psnr, s.ssim, s.frc, s.dc, s.seconds
        );
        lines.push(vec![
            sampler.clone(),
            (*start).to_owned(),
            n.to_string(),
            format!("{:.2}", s.psnr),
            format!("{:.4}", s.ssim),
            format!("{:.4}", s.frc),
            format!("{:.2}", s.dc),
            format!("{:.2}", s.seconds),
        ]);
    }
    let write = |name: &str, text: &str| {
        atomic::write_bytes(dir.join(name), text.as_bytes()).map_err(Failure::data)
    };
    write("curve.csv", &csv)?;
    for (name, title, of) in PLOTTED {
        let chart = Chart {
            title: title.to_owned(),
            x_title: "network evaluations".to_owned(),
            y_title: title.to_owned(),
            x_log: true,
            y_log: false,
            series: series(rows, of),
            higher_is_better: None,
        };
        write(&format!("curve-{name}.svg"), &chart.svg())?;
    }
    let columns = [
        ("sampler", Align::Left),
        ("start", Align::Left),
        ("evaluations", Align::Right),
        ("psnr dB", Align::Right),
        ("ssim", Align::Right),
        ("frc", Align::Right),
        ("dc", Align::Right),
        ("s/image", Align::Right),
    ];
    print(table(&columns, &lines))?;
    print(format!("wrote {} and charts beside it\n", dir.join("curve.csv").display()))
}

/// A line for each sampler and start.
fn series(rows: &[Row], of: fn(&Scores) -> f64) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (sampler, start, n, scores) in rows {
        let name =
            if *start == "condition" { sampler.clone() } else { format!("{sampler}, from noise") };
        let point = (*n as f64, of(scores));
        match series.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => series.push((name, vec![point])),
        }
    }
    series
}
