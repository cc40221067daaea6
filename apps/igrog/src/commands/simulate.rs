//! `simulate`: the scan of a phantom, to try and to measure with.

use super::{OutputArgs, failure, seconds};
use crate::output::{SAMPLES, check_place, complex, write_arrays};
use limpid_cli::{Failure, HELP, RequestArgs, print, report};
use limpid_config::{Check, Validate, load};
use limpid_io::arrays::{Array, Arrays, Values};
use limpid_mri::{
    Angles, Birdcage, Brain, Cartesian, Complex, Epi, FieldMap, FieldMethod, FieldOperator,
    FieldPhase, FieldSign, Koosh, Nufft, Pace, Radial, Readouts, Rosette, Scanner, Scene, Segments,
    Sense, SphereOrder, Spiral, Spoke, SpokeCentre, Stack, Trajectory, add_noise, phantom_image,
    shepp_logan, shepp_logan_3d, simulate_with,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;

/// Simulate the scan of a phantom, with its maps, field and image
#[derive(clap::Args)]
#[command(
    help_template = HELP,
    before_help = "Examples:
  igrog simulate spiral.npz --set trajectory.kind=spiral --set noise=0.004
  igrog simulate radial.npz --set trajectory.kind=radial --set trajectory.spokes=64 --set field=130
  igrog simulate volume.npz --set matrix=[64,64,64] --set trajectory.kind=koosh --set phantom=shepp_logan
  igrog simulate spiral.cfl",
    after_help = "Keys for --set and files: seed, matrix, phantom, coils, field, noise, trajectory.kind (spiral, radial, rosette, \
        epi, cartesian, koosh, stack_of_spirals) and those of its kind. The page `Configuration of igrog` of the \
        manual has them all."
)]
pub struct Args {
    /// What to write: `.npz`, or `.cfl` for pairs of BART named NAME_ksp, NAME_trj and so on
    out: PathBuf,
    /// File of keys
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is simulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimulateConfig {
    /// Seed of the phantom, the field and the noise.
    pub seed: u64,
    /// Sizes of the image; three for a volume, of Shepp and Logan.
    pub matrix: Vec<usize>,
    /// The object.
    pub phantom: Phantom,
    /// Number of coils.
    pub coils: usize,
    /// Largest field in hertz; 0: none.
    pub field: f64,
    /// Standard deviation of the complex noise of a sample, where the object is about one.
    pub noise: f64,
    /// Where samples are taken.
    pub trajectory: TrajectoryConfig,
}

impl Default for SimulateConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            matrix: vec![160, 160],
            phantom: Phantom::Brain,
            coils: 8,
            field: 0.0,
            noise: 0.004,
            trajectory: TrajectoryConfig::default(),
        }
    }
}

/// An object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phantom {
    /// A slice through a head.
    #[default]
    Brain,
    /// That of Shepp and Logan, in the plane or in space.
    SheppLogan,
}

/// Where samples are taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TrajectoryConfig {
    /// Interleaved spirals from the centre outwards.
    Spiral {
        /// Shots that are played.
        #[serde(default = "four")]
        interleaves: usize,
        /// Every how many-th of the shots that full sampling takes is played.
        #[serde(default = "two")]
        acceleration: f64,
        /// Power of the radius: above one the centre is sampled more densely.
        #[serde(default = "one")]
        density: f64,
        /// Seconds from sample to sample.
        #[serde(default = "dwell")]
        dwell: f64,
    },
    /// Spokes through the centre.
    Radial {
        /// Their number.
        #[serde(default = "spokes")]
        spokes: usize,
        /// Samples per cycle per field of view.
        #[serde(default = "twice")]
        oversampling: f64,
        /// Order of the golden angle; one is 111.246 degrees. 0: even angles.
        #[serde(default = "golden")]
        order: usize,
        /// Seconds from sample to sample.
        #[serde(default = "dwell_radial")]
        dwell: f64,
    },
    /// Petals that cross the centre.
    Rosette {
        /// Shots.
        #[serde(default = "shots")]
        shots: usize,
    },
    /// Echo-planar lines.
    Epi {
        /// Interleaved shots.
        #[serde(default = "single")]
        shots: usize,
        /// One in so many lines is measured.
        #[serde(default = "single")]
        acceleration: usize,
        /// Samples are also taken while the gradient rises and falls.
        #[serde(default)]
        ramp_sampling: bool,
    },
    /// Parallel lines.
    Cartesian {
        /// One in so many lines is measured, but for 24 in the middle.
        #[serde(default = "pair")]
        acceleration: usize,
    },
    /// Spokes through the centre of a sphere.
    Koosh {
        /// Their number.
        #[serde(default = "many_spokes")]
        spokes: usize,
    },
    /// Spirals in every partition of a volume.
    StackOfSpirals {
        /// Shots of a partition.
        #[serde(default = "four")]
        interleaves: usize,
        /// Every how many-th of the shots that full sampling takes is played.
        #[serde(default = "two")]
        acceleration: f64,
    },
}

fn single() -> usize {
    1
}

fn pair() -> usize {
    2
}

fn four() -> usize {
    4
}

fn two() -> f64 {
    2.0
}

fn one() -> f64 {
    1.0
}

fn golden() -> usize {
    1
}

fn twice() -> f64 {
    2.0
}

fn dwell() -> f64 {
    2e-6
}

fn dwell_radial() -> f64 {
    16e-6
}

fn spokes() -> usize {
    64
}

fn many_spokes() -> usize {
    2048
}

fn shots() -> usize {
    48
}

impl Default for TrajectoryConfig {
    fn default() -> Self {
        Self::Spiral { interleaves: 4, acceleration: 2.0, density: 1.0, dwell: 2e-6 }
    }
}

impl Validate for SimulateConfig {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.matrix.len()) || self.matrix.iter().any(|&n| n < 8) {
            let problem = format!("must be two or three sizes of 8 or more, got {:?}", self.matrix);
            at.problem("matrix", problem);
        }
        if self.coils == 0 {
            at.problem("coils", "must be at least 1");
        }
        for (key, value) in [("field", self.field), ("noise", self.noise)] {
            if !(value >= 0.0 && value.is_finite()) {
                at.problem(key, format!("must be 0 or more, got {value}"));
            }
        }
        if self.matrix.len() == 3 && self.phantom == Phantom::Brain {
            at.problem("phantom", "is a slice, but `matrix` has three sizes")
                .hint("set `phantom = \"shepp_logan\"`");
        }
        let volume = matches!(
            self.trajectory,
            TrajectoryConfig::Koosh { .. } | TrajectoryConfig::StackOfSpirals { .. }
        );
        let either = matches!(self.trajectory, TrajectoryConfig::Cartesian { .. });
        if !either && volume != (self.matrix.len() == 3) {
            let what = if volume { "a volume" } else { "a plane" };
            at.problem("trajectory.kind", format!("is of {what}, `matrix` is not"));
        }
    }
}

/// Simulates.
///
/// # Errors
/// If a number is out of range, or the file cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.output.apply()?;
    check_place(&args.out, SAMPLES).map_err(failure)?;
    let loaded = load::<SimulateConfig>(&args.request.request(args.config.clone()))?;
    let began = Instant::now();
    let (arrays, counts) = simulate(&loaded.value).map_err(failure)?;
    let files = write_arrays(&args.out, arrays).map_err(failure)?;
    let [coils, shots, samples] = counts;
    if args.output.json {
        let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
        let line = serde_json::json!({
            "coils": coils, "shots": shots, "samples": samples, "files": files,
        });
        return print(format!("{line}\n"));
    }
    if !args.output.quiet {
        let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
        report(format!(
            "{coils} coils, {shots} shots of {samples} samples in {} → {}",
            seconds(began.elapsed().as_secs_f64()),
            names.join(", ")
        ));
    }
    Ok(())
}

/// The arrays of a scan, and its numbers of coils, shots and samples.
fn simulate(config: &SimulateConfig) -> crate::Result<(Arrays, [usize; 3])> {
    let (matrix, readouts) = (&config.matrix, readouts(config)?);
    let image: Vec<Complex<f32>> = match (config.phantom, matrix[..].try_into()) {
        (Phantom::SheppLogan, Ok(volume)) => phantom_image(&shepp_logan_3d(), volume)?,
        (phantom, _) => {
            let plane = [matrix[0], matrix[1]];
            match phantom {
                Phantom::Brain => {
                    Brain { matrix: plane, seed: config.seed, ..Brain::default() }.image()?
                }
                Phantom::SheppLogan => phantom_image(&shepp_logan(), plane)?,
            }
        }
    };
    let birdcage = Birdcage { matrix: matrix.clone(), coils: config.coils, ..Birdcage::default() };
    let maps: Vec<Complex<f32>> = birdcage.maps()?;
    let field = FieldMap {
        matrix: matrix.clone(),
        seed: config.seed,
        peak: config.field,
        ..FieldMap::default()
    };
    let field = (config.field > 0.0).then(|| field.values()).transpose()?;
    let scene = Scene { matrix, image: &image, coils: Some(&maps), field: field.as_deref() };
    let mut samples = measure(&scene, &readouts, config.coils)?;
    add_noise(&mut samples, config.noise, config.seed)?;
    let trajectory = &readouts.trajectory;
    let counts = [config.coils, trajectory.shots(), trajectory.samples()];
    let [coils, shots, length] = counts;
    let real = |values: &[f64], dims: &[usize]| {
        Array::new(dims.to_vec(), Values::F32(values.iter().map(|&v| v as f32).collect()))
    };
    let mut arrays = Arrays::from([
        ("ksp".to_owned(), complex(&samples, &[coils, shots, length])?),
        ("trj".to_owned(), real(trajectory.points(), &[shots, length, trajectory.rank()])?),
        ("t".to_owned(), real(&readouts.times, &[length])?),
        ("mps".to_owned(), complex(&maps, &[&[coils], &matrix[..]].concat())?),
        ("img".to_owned(), complex(&image, matrix)?),
    ]);
    if let Some(field) = field {
        arrays.insert("b0_hz".to_owned(), real(&field, matrix)?);
    }
    Ok((arrays, counts))
}

/// Products above which the definition takes minutes.
const MOST_PRODUCTS: f64 = 3e10;
/// Terms that stand for the phase of a field where the definition would take too long.
const TERMS: usize = 40;

/// Samples by the definition, or for large scans by non-uniform transforms.
fn measure(
    scene: &Scene<'_, f32>,
    readouts: &Readouts,
    coils: usize,
) -> limpid_mri::Result<Vec<Complex<f32>>> {
    let products = scene.image.len() as f64 * readouts.trajectory.len() as f64 * coils as f64;
    if products <= MOST_PRODUCTS {
        return scene.simulate(readouts);
    }
    let nufft = Nufft::new(&readouts.trajectory, scene.matrix, 1e-6)?;
    let maps = scene.coils.map_or_else(Vec::new, <[_]>::to_vec);
    let Some(field) = scene.field else {
        return simulate_with(&Sense::new(nufft, coils, scene.matrix, maps)?, scene.image);
    };
    let phase = FieldPhase::off_resonance(field, &readouts.times, FieldSign::Negative)?;
    let segments = Segments::new(&phase, TERMS, FieldMethod::LeastSquares, 512)?;
    let operator = FieldOperator::new(nufft, segments)?;
    simulate_with(&Sense::new(operator, coils, scene.matrix, maps)?, scene.image)
}

/// Where and when samples are taken. Circles and spheres are stretched with the sizes of the image, as the object is.
fn readouts(config: &SimulateConfig) -> crate::Result<Readouts> {
    let stacked = matches!(config.trajectory, TrajectoryConfig::StackOfSpirals { .. });
    let round = &config.matrix[usize::from(stacked)..];
    let size = round.iter().copied().max().unwrap_or(0);
    let spiral = |interleaves: usize, acceleration: f64, density: f64, dwell: f64| Spiral {
        matrix: size,
        interleaves,
        undersampling: acceleration,
        density,
        extent: 0.98,
        pace: Pace::Fastest,
        scanner: Scanner { dwell, slew: 120.0, ..Scanner::default() },
    };
    let spoke = |oversampling: f64, dwell: f64| Spoke {
        matrix: size,
        oversampling,
        half: false,
        centre: SpokeCentre::OnSample,
        extent: 1.0,
        dwell,
    };
    let mut readouts = match config.trajectory {
        TrajectoryConfig::Spiral { interleaves, acceleration, density, dwell } => {
            spiral(interleaves, acceleration, density, dwell).readouts()?
        }
        TrajectoryConfig::Radial { spokes, oversampling, order, dwell } => Radial {
            spoke: spoke(oversampling, dwell),
            spokes,
            angles: if order == 0 { Angles::Uniform } else { Angles::Golden { order } },
            start: 0.0,
        }
        .readouts()?,
        TrajectoryConfig::Rosette { shots } => {
            Rosette { matrix: size, shots, ..Rosette::default() }.readouts()?
        }
        TrajectoryConfig::Epi { shots, acceleration, ramp_sampling } => Epi {
            matrix: [config.matrix[0], config.matrix[1]],
            shots,
            acceleration,
            ramp_sampling,
            partial_fourier: 1.0,
            ..Epi::default()
        }
        .readouts()?,
        TrajectoryConfig::Cartesian { acceleration } => Cartesian {
            matrix: config.matrix.clone(),
            acceleration: vec![acceleration; config.matrix.len() - 1],
            ..Cartesian::default()
        }
        .readouts()?,
        TrajectoryConfig::Koosh { spokes } => {
            Koosh { spoke: spoke(2.0, 2e-6), spokes, order: SphereOrder::GoldenMeans }.readouts()?
        }
        TrajectoryConfig::StackOfSpirals { interleaves, acceleration } => {
            let plane = spiral(interleaves, acceleration, 1.0, 4e-6).readouts()?;
            Stack { partitions: config.matrix[0], ..Stack::default() }.readouts(&plane)?
        }
    };
    let lines = matches!(
        config.trajectory,
        TrajectoryConfig::Epi { .. } | TrajectoryConfig::Cartesian { .. }
    );
    if !lines && round.iter().any(|&n| n != size) {
        let trajectory = &readouts.trajectory;
        let rank = config.matrix.len();
        let mut points = trajectory.points().to_vec();
        for point in points.chunks_exact_mut(rank) {
            for (k, &n) in point[rank - round.len()..].iter_mut().zip(round) {
                *k *= n as f64 / size as f64;
            }
        }
        readouts.trajectory =
            Trajectory::new(trajectory.shots(), trajectory.samples(), rank, points)?;
    }
    Ok(readouts)
}
